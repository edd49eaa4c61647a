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

#[test]
fn conversations_without_chat_option_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let conversation = b"\n [ {\"role\": \"user\", \"content\": \"a\"}]\n";
    for kind in ["", "--text"] {
        let line = format!("train --input - --steps 1 {kind}");
        let error = run_with_stdin(dir.path(), &line, conversation).error(1);
        assert!(error.contains("train on them with --chat"), "{error}");
    }
}
