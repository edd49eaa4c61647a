//! Files as other programs write them: byte order marks, line breaks, other encodings.

use std::fs;

use crate::program::{run_in, run_with_stdin, text_model_dir};

#[test]
fn byte_order_mark_and_line_breaks_do_not_change_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let weights = |name: &str| fs::read(path(name).join("weights.safetensors")).unwrap();
    let variants: [(&str, &[u8]); 4] = [
        ("plain", b"anna\nbob\ncarl\n"),
        ("mark", b"\xef\xbb\xbfanna\nbob\ncarl\n"),
        ("crlf", b"\xef\xbb\xbfanna\r\nbob\r\ncarl\r\n"),
        ("cr", b"anna\rbob\rcarl\r"),
    ];
    for (kind, unit) in [("", "3 documents"), ("--text", "14 characters")] {
        for (name, text) in variants {
            fs::write(path(&format!("{name}.txt")), text).unwrap();
            let line = format!("train --input {name}.txt --steps 3 --threads 1 --force {kind}");
            let output = run_in(dir.path(), &format!("{line} -o {name}")).ok();
            assert!(output.stderr.contains(unit), "{name}: {}", output.stderr);
            assert!(weights(name) == weights("plain"), "{name} {kind}");
            let score = |file: &str| run_in(dir.path(), &format!("score -m plain {file}.txt")).ok();
            assert_eq!(score(name).stdout, score("plain").stdout, "{name} {kind}");
        }
    }
}

#[test]
fn byte_order_mark_of_chat_input_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let conversation = "\u{feff}[{\"role\": \"user\", \"content\": \"a\"}]\r\n";
    let line = "train --chat --input - --steps 1 -o model";
    run_with_stdin(dir.path(), line, conversation.as_bytes()).ok();
    let output = run_with_stdin(dir.path(), "chat -m model", "\u{feff}a\r\n".as_bytes()).ok();
    assert_eq!(output.stderr, "");
}

#[test]
fn other_encodings_are_errors_with_the_iconv_command() {
    let dir = text_model_dir();
    for (bytes, expected) in [
        (&b"\xff\xfea\0b\0\n\0"[..], "iconv -f UTF-16 -t UTF-8"),
        (b"a\0b\0\n\0", "iconv -f UTF-16LE -t UTF-8"),
        (b"r\xe5n\n", "iconv -f LATIN1 -t UTF-8"),
    ] {
        fs::write(dir.path().join("names"), bytes).unwrap();
        let error = run_in(dir.path(), "train --input names -o new").error(1);
        assert!(
            error.contains("names: ") && error.contains(expected),
            "{error}"
        );
    }
    fs::write(dir.path().join("names"), b"\xff\xfea\0b\0\n\0").unwrap();
    let error = run_in(dir.path(), "score -m model names").error(1);
    assert!(error.contains("iconv -f UTF-16 -t UTF-8"), "{error}");
}

/// A conversation in each form that `--chat` reads.
fn forms(has_system: bool) -> [String; 3] {
    let message = |role: &str, content: &str, from: &str, keys: [&str; 2]| {
        let role = if keys[0] == "from" { from } else { role };
        format!(r#"{{"{}": "{role}", "{}": "{content}"}}"#, keys[0], keys[1])
    };
    let list = |keys| {
        let mut messages = vec![
            message("user", "hi", "human", keys),
            message("assistant", "yo", "gpt", keys),
        ];
        if has_system {
            messages.insert(0, message("system", "sh", "system", keys));
        }
        format!("[{}]", messages.join(", "))
    };
    let roles = list(["role", "content"]);
    let sharegpt = list(["from", "value"]);
    [
        format!("{roles}\n"),
        format!("{{\"id\": 1, \"messages\": {roles}}}\n"),
        format!("{{\"conversations\": {sharegpt}}}\n"),
    ]
}

#[test]
fn chat_formats_give_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let weights = |name: &str| fs::read(dir.path().join(name).join("weights.safetensors")).unwrap();
    for (has_system, special) in [(false, 3), (true, 4)] {
        for (i, form) in forms(has_system).iter().enumerate() {
            let line = "train --chat --input - --steps 3 --threads 1 --force -o";
            run_with_stdin(dir.path(), &format!("{line} {i}"), form.as_bytes()).ok();
            assert!(weights(&i.to_string()) == weights("0"), "{form}");
            let scored = run_with_stdin(dir.path(), "score -m 0", form.as_bytes()).ok();
            assert!(!scored.stdout.starts_with("inf"), "{}", scored.stdout);
        }
        let info = run_in(dir.path(), "info -m 0 --json").ok().stdout;
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let tokens = info["special_tokens"].as_array().unwrap();
        assert_eq!(tokens.len(), special);
        assert_eq!(tokens.contains(&"system".into()), has_system);
    }
}

#[test]
fn system_messages_are_generated_and_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let [with, ..] = forms(true);
    let [without, ..] = forms(false);
    let train = |more: &str, data: &str| {
        let line = format!("train --chat --input - --steps 60 --threads 1 {more}");
        run_with_stdin(dir.path(), &line, data.as_bytes())
    };
    train("-o system", &with).ok();
    train("-o plain", &without).ok();
    let samples = run_in(dir.path(), "generate -m system --json -n 3")
        .ok()
        .stdout;
    assert!(
        samples.contains(r#"{"role":"system","content":"sh"}"#),
        "{samples}"
    );
    train("--resume system", &with).ok();
    train("--resume system", &without).ok();
    let error = train("--resume plain", &with).error(1);
    assert!(error.contains("doesn't know: 's'"), "{error}");
    let error = train("--resume plain", &with.replace("sh", "hi")).error(1);
    assert!(
        error.contains("system messages, which the resumed model doesn't know"),
        "{error}"
    );
    run_with_stdin(dir.path(), "chat -m system", b"hi\n").ok();
}

#[test]
fn conversations_without_chat_option_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for form in forms(true).iter().chain(&forms(false)) {
        for kind in ["", "--text"] {
            let line = format!("train --input - --steps 1 {kind}");
            let error = run_with_stdin(dir.path(), &line, form.as_bytes()).error(1);
            assert!(error.contains("train on them with --chat"), "{error}");
        }
    }
}
