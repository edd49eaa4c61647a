//! Training on a terminal: the progress bar, the lines that stay, and the picture of the loss.

use crate::program::tool;

/// What a terminal of 100 columns is sent while a command line of the program runs on it.
fn on_terminal(environment: &str, line: &str) -> Option<String> {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: the options of `script` are those of Linux");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_microgpt");
    let command = format!(
        "stty cols 100; env -u NO_COLOR -u LC_ALL -u LC_CTYPE -u LANG TERM=xterm {environment} \
        {program} {line}"
    );
    let output = tool("script", &["-qec", &command, "/dev/null"], dir.path())?;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    Some(text)
}

const TRAIN: &str = "train --steps 600 --batch-size 8 --threads 1 --n-embd 32";

/// What moves the cursor, or colours.
const ESCAPE: char = '\u{1b}';

#[test]
fn a_bar_moves_above_lines_that_stay_and_a_picture_ends_it() {
    let Some(text) = on_terminal("LANG=C.UTF-8", TRAIN) else {
        return;
    };
    assert!(text.contains("\u{1b}[32m━"), "a green bar: {text:?}");
    for step in (60..=600).step_by(60) {
        let line = format!("step {step:>3}/600  loss ");
        assert!(text.contains(&line), "{line:?} in {text:?}");
    }
    let picture = text.rsplit("step 600/600").next().unwrap();
    assert!(
        picture
            .chars()
            .any(|c| ('\u{2801}'..='\u{28ff}').contains(&c))
    );
    assert!(picture.contains("saved   microgpt-model, after 600 steps"));
}

#[test]
fn a_plain_terminal_gets_plain_characters_and_no_colour() {
    let Some(text) = on_terminal("NO_COLOR=1", TRAIN) else {
        return;
    };
    assert!(text.is_ascii(), "{text:?}");
    assert!(text.contains("=>") && !text.contains("[32m"), "{text:?}");
    assert!(text.contains("       *"), "{text:?}");
    let Some(text) = on_terminal("TERM=dumb LANG=C.UTF-8", TRAIN) else {
        return;
    };
    assert!(
        !text.contains(ESCAPE) && text.contains("step 600/600"),
        "{text:?}"
    );
    let Some(text) = on_terminal("LANG=C.UTF-8", &format!("{TRAIN} --quiet")) else {
        return;
    };
    assert!(
        !text.contains(ESCAPE) && text.lines().count() == 20,
        "{text:?}"
    );
}
