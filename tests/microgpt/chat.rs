//! `microgpt chat` with piped input and on a terminal.

use crate::program::{chat_model_dir, run_in, run_with_stdin, text_model_dir};

fn replies(dir: &tempfile::TempDir, options: &str, input: &str) -> (Vec<String>, String) {
    let output = run_with_stdin(
        dir.path(),
        &format!("chat -m model {options}"),
        input.as_bytes(),
    )
    .ok();
    (
        output.stdout.lines().map(str::to_string).collect(),
        output.stderr,
    )
}

#[test]
fn each_line_gets_one_reply() {
    let dir = chat_model_dir();
    let (all, _) = replies(&dir, "--temperature 1", "hello\nhow are you?\nhello");
    assert_eq!(all.len(), 3);
    assert_eq!(
        replies(
            &dir,
            "--temperature 1",
            "hello\n\n  \nhow are you?\nhello\n"
        )
        .0,
        all,
        "blank lines say nothing"
    );
    assert_ne!(
        replies(
            &dir,
            "--temperature 1 --seed 1",
            "hello\nhow are you?\nhello"
        )
        .0,
        all
    );
    let (short, _) = replies(&dir, "--max-tokens 2", "hello\nhello\n");
    assert!(short.iter().all(|line| line.len() <= 2) && short.len() == 2);
    assert_eq!(replies(&dir, "", "").0, Vec::<String>::new());
}

#[test]
fn slash_commands_are_not_messages() {
    let dir = chat_model_dir();
    let greedy = "--temperature 0";
    let (once, _) = replies(&dir, greedy, "hello\n");
    let (cleared, _) = replies(
        &dir,
        greedy,
        "how are you?\n/clear\nhello\n/quit\nnever read\n",
    );
    assert_eq!(
        (cleared.len(), &cleared[1]),
        (2, &once[0]),
        "a conversation begins anew after /clear"
    );
    let (none, help) = replies(&dir, greedy, "/help\n");
    assert!(
        none.is_empty() && help.contains("/clear") && help.contains("/quit"),
        "{help}"
    );
}

#[test]
fn unknown_characters_and_full_context_are_reported() {
    let dir = chat_model_dir();
    let (_, stderr) = replies(&dir, "", "hello\n");
    assert_eq!(stderr, "");
    let (_, stderr) = replies(&dir, "", "hell\u{f6} \u{4f60}\n");
    assert!(
        stderr.contains("doesn't know '\u{f6}', '\u{4f60}'"),
        "{stderr}"
    );
    // Three quarters of the 48-token context hold the conversation.
    let (replies, stderr) = replies(
        &dir,
        "--max-tokens 5",
        "what is the colour of the sky?\nand of grass in spring?\n",
    );
    assert_eq!(replies.len(), 2);
    assert!(
        stderr.contains("the context is full: the model does not see the first"),
        "{stderr}"
    );
}

#[test]
fn chat_with_text_model_is_an_error() {
    let dir = text_model_dir();
    let error = run_in(dir.path(), "chat -m model").error(1);
    assert!(error.contains("train --chat"), "{error}");
}

/// Types lines into a chat under `script`, which provides a terminal, each once its prompt is shown.
/// Returns what the terminal showed; none if `script` is not installed.
#[cfg(target_os = "linux")]
fn chat_on_terminal(dir: &tempfile::TempDir, options: &str, lines: &[&[u8]]) -> Option<String> {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    let program = env!("CARGO_BIN_EXE_microgpt");
    let child = Command::new("script")
        .current_dir(dir.path())
        .env("TERM", "xterm")
        .env("XDG_STATE_HOME", dir.path().join("state"))
        .args([
            "-qec",
            &format!("{program} chat -m model --temperature 0 {options}"),
            "/dev/null",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: script is not installed");
        return None;
    };
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    for (prompts, line) in lines.iter().enumerate() {
        let mut byte = [0; 256];
        while shown.matches("\x1b[?2004h").count() <= prompts || !shown.ends_with("\x1b[?2026l") {
            let count = screen.read(&mut byte).unwrap();
            assert!(count > 0, "{shown}");
            shown += &String::from_utf8_lossy(&byte[..count]);
        }
        shown += "\n";
        keys.write_all(line).unwrap();
    }
    let mut rest = Vec::new();
    screen.read_to_end(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    Some(shown)
}

#[cfg(target_os = "linux")]
#[test]
fn terminal_has_prompt_history_and_line_editing() {
    let dir = chat_model_dir();
    let expected = replies(&dir, "--temperature 0", "hello\n").0;
    // Backspace, an unknown command, /clear, and the first message from the history.
    let lines = [
        &b"hellx\x7fo\r"[..],
        b"/cler\r",
        b"/clear\r",
        b"\x10\x10\x10\r",
        b"/quit\r",
    ];
    let Some(shown) = chat_on_terminal(&dir, "", &lines) else {
        return;
    };
    assert_eq!(shown.matches(&expected[0]).count(), 2, "{shown}");
    assert!(shown.contains("unknown command /cler"), "{shown}");
}

#[cfg(target_os = "linux")]
#[test]
fn terminal_history_is_kept_between_chats() {
    let dir = chat_model_dir();
    let expected = replies(&dir, "--temperature 0", "hello\n").0;
    let secret = [&b"goodbye\r"[..], b"/quit\r"];
    let typed = [&b"hello\r"[..], b"/quit\r"];
    // The second line from the end of the chat before.
    let recalled = [&b"\x10\x10\r"[..], b"/quit\r"];
    if chat_on_terminal(&dir, "", &typed).is_none() {
        return;
    }
    chat_on_terminal(&dir, "--no-history", &secret).unwrap();
    let shown = chat_on_terminal(&dir, "", &recalled).unwrap();
    assert!(shown.contains(&expected[0]), "{shown}");
    let history = std::fs::read_to_string(dir.path().join("state/microgpt/history")).unwrap();
    assert!(
        history.contains("hello") && !history.contains("goodbye"),
        "{history}"
    );
}

#[test]
fn prompt_file_is_read_like_standard_input() {
    let dir = chat_model_dir();
    let input = "hello\nhow are you?\n";
    std::fs::write(dir.path().join("messages"), input).unwrap();
    let expected = replies(&dir, "", input).0;
    let run = run_in(dir.path(), "chat -m model --prompt-file messages").ok();
    assert_eq!(run.stdout.lines().collect::<Vec<_>>(), expected);
    std::fs::write(dir.path().join("latin"), b"hi\n\xff\n").unwrap();
    let run = run_in(dir.path(), "chat -m model --prompt-file latin");
    assert!(run.stderr.contains("latin, line 2: "), "{}", run.stderr);
}

#[test]
fn system_message_comes_before_the_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let turn = |system: &str, reply: &str| {
        let messages = serde_json::json!([{ "role": "system", "content": system },
            { "role": "user", "content": "go" }, { "role": "assistant", "content": reply }]);
        format!("{messages}\n")
    };
    let data = (turn("a", "left") + &turn("b", "right")).repeat(20);
    std::fs::write(dir.path().join("data"), data).unwrap();
    let train = "train --chat --input data --steps 300 --batch-size 8 --block-size 32 --threads 1";
    run_in(dir.path(), &format!("{train} -o model")).ok();
    for (system, expected) in [("a", "left"), ("b", "right")] {
        let options = format!("--temperature 0 --system {system}");
        let (found, _) = replies(&dir, &options, "go\n/clear\ngo\n");
        assert_eq!(found, [expected, expected]);
    }
    let dir = chat_model_dir();
    let error = run_in(dir.path(), "chat -m model --system a").error(1);
    assert!(error.contains("--system needs a model trained on conversations with system messages"));
}
