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

/// Runs under `script`, which provides a terminal.
#[cfg(target_os = "linux")]
#[test]
fn terminal_has_prompt_history_and_line_editing() {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    let dir = chat_model_dir();
    let expected = replies(&dir, "--temperature 0", "hello\n").0;
    let program = format!(
        "{} chat -m model --temperature 0",
        env!("CARGO_BIN_EXE_microgpt")
    );
    let child = Command::new("script")
        .current_dir(dir.path())
        .env("TERM", "xterm")
        .args(["-qec", &program, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: script is not installed");
        return;
    };
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    // Backspace, an unknown command, /clear, and the first message from the history.
    let lines = [
        &b"hellx\x7fo\r"[..],
        b"/cler\r",
        b"/clear\r",
        b"\x10\x10\x10\r",
        b"/quit\r",
    ];
    for (prompts, line) in lines.iter().enumerate() {
        // Type each line only once its prompt is shown.
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
    assert_eq!(shown.matches(&expected[0]).count(), 2, "{shown}");
    assert!(shown.contains("unknown command /cler"), "{shown}");
}
