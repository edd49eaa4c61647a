//! Training on a terminal: the progress bar, the lines that stay, and the picture of the loss.

use std::process::Output;
use std::thread::sleep;
use std::time::Duration;

use crate::program::tool;

/// What a terminal of 100 columns is sent while a command line of the program runs on it.
fn on_terminal(environment: &str, line: &str) -> Option<String> {
    on_terminal_of(100, environment, line)
}

fn on_terminal_of(columns: usize, environment: &str, line: &str) -> Option<String> {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: the options of `script` are those of Linux");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_microgpt");
    let command = format!(
        "stty rows 30 cols {columns}; env -u NO_COLOR -u LC_ALL -u LC_CTYPE -u LANG TERM=xterm {environment} \
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

#[test]
fn the_bar_is_one_line_with_the_cursor_at_its_beginning() {
    for columns in [40, 60, 100] {
        let Some(text) = on_terminal_of(columns, "LANG=C.UTF-8 NO_COLOR=1", TRAIN) else {
            return;
        };
        // Each drawing erases the one before.
        let drawings: Vec<&str> = text.split("\r\u{1b}[J").skip(1).collect();
        assert!(text.matches("\u{1b}[?7l").count() >= 10, "{text:?}");
        for drawing in drawings {
            let Some(drawing) = drawing.strip_prefix("\u{1b}[?7l") else {
                continue;
            };
            let (line, _) = drawing
                .split_once("\u{1b}[?7h\r")
                .expect("the cursor goes back");
            assert!(!line.contains('\n'), "{line:?}");
            assert!(line.chars().count() <= columns, "{columns}: {line:?}");
            assert_eq!(line.trim_end(), line, "nothing fills the line");
        }
        assert_eq!(text.contains('━'), columns > 60, "{text:?}");
    }
}

/// A terminal that breaks lines anew when it becomes narrower, as most do.
struct Tmux(tempfile::TempDir);

impl Tmux {
    fn run(&self, arguments: &[&str]) -> Option<Output> {
        let options = ["-u", "-S", "socket", "-f", "/dev/null"];
        tool("tmux", &[&options, arguments].concat(), self.0.path())
    }

    /// All that was shown and is still there.
    fn screen(&self) -> String {
        let output = self.run(&["capture-pane", "-p", "-S", "-"]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn wait_until(&self, is_there: impl Fn(&str) -> bool) {
        for _ in 0..6000 {
            if is_there(&self.screen()) {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("it did not come: {}", self.screen());
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
fn nothing_of_the_bar_stays_where_the_terminal_is_resized() {
    let tmux = Tmux(tempfile::tempdir().unwrap());
    let command = format!(
        "env -u NO_COLOR LC_ALL=C.UTF-8 {} train --steps 1000000 --threads 1; cat",
        env!("CARGO_BIN_EXE_microgpt")
    );
    let session = ["new-session", "-d", "-x", "100", "-y", "30", &command];
    let Some(started) = tmux.run(&session) else {
        return;
    };
    assert!(started.status.success(), "{started:?}");
    let has_bar = |screen: &str| screen.contains(['━', '╸', '─']);
    for columns in ["100", "82", "110", "85", "90"] {
        tmux.wait_until(has_bar);
        tmux.run(&["resize-window", "-x", columns, "-y", "30"]);
        let before = tmux.screen();
        tmux.wait_until(|screen| screen != before);
    }
    tmux.run(&["send-keys", "C-c"]);
    tmux.wait_until(|screen| screen.contains("go on with: "));
    let screen = tmux.screen();
    assert!(!has_bar(&screen), "{screen}");
}
