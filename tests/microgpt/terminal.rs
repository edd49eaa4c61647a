//! Training on a terminal: the progress bar, the lines above it, and the loss plot.

use std::process::Output;
use std::thread::sleep;
use std::time::Duration;

use crate::program::tool;

/// Runs a command line on a terminal of 100 columns. Returns the bytes sent to it.
fn on_terminal(environment: &str, line: &str) -> Option<String> {
    on_terminal_of(100, environment, line)
}

fn on_terminal_of(columns: usize, environment: &str, line: &str) -> Option<String> {
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: `script` has other options than on Linux");
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

/// The start of cursor movements and colours.
const ESCAPE: char = '\u{1b}';

#[test]
fn terminal_shows_a_bar_lines_and_a_plot() {
    let Some(text) = on_terminal("LANG=C.UTF-8", TRAIN) else {
        return;
    };
    assert!(text.contains("\u{1b}[32m━"), "a green bar: {text:?}");
    for step in (60..=600).step_by(60) {
        let line = format!("step {step:>3}/600  loss ");
        assert!(text.contains(&line), "{line:?} in {text:?}");
    }
    let plot = text.rsplit("step 600/600").next().unwrap();
    assert!(plot.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)));
    assert!(plot.contains("saved   microgpt-model, after 600 steps"));
}

#[test]
fn score_shades_odd_characters_on_a_terminal() {
    let program = env!("CARGO_BIN_EXE_microgpt");
    for (environment, is_shaded) in [
        ("TERM=xterm", true),
        ("TERM=dumb", false),
        ("NO_COLOR=1", false),
    ] {
        let line = format!(
            "train --quiet --steps 5 --threads 1 > samples; \
            printf 'a\\360\\237\\231\\202b\\n' | env -u NO_COLOR TERM=xterm {environment} {program} score"
        );
        let Some(text) = on_terminal("", &line) else {
            return;
        };
        assert_eq!(
            text.contains("\u{1b}[30;41m🙂\u{1b}[0m"),
            is_shaded,
            "{text:?}"
        );
        assert_eq!(text.contains(ESCAPE), is_shaded, "{text:?}");
    }
}

#[test]
fn plain_terminal_gets_ascii_without_colour() {
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
fn bar_is_one_line_with_the_cursor_at_its_start() {
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
                .expect("the cursor returns to the start");
            assert!(!line.contains('\n'), "{line:?}");
            assert!(line.chars().count() <= columns, "{columns}: {line:?}");
            assert_eq!(line.trim_end(), line, "no trailing spaces");
        }
        assert_eq!(text.contains('━'), columns > 60, "{text:?}");
    }
}

/// A terminal that rewraps lines when it becomes narrower, as most do.
struct Tmux(tempfile::TempDir);

impl Tmux {
    fn run(&self, arguments: &[&str]) -> Option<Output> {
        let options = ["-u", "-S", "socket", "-f", "/dev/null"];
        tool("tmux", &[&options, arguments].concat(), self.0.path())
    }

    /// The screen and its scrollback.
    fn screen(&self) -> String {
        let output = self.run(&["capture-pane", "-p", "-S", "-"]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn wait_until(&self, condition: impl Fn(&str) -> bool) {
        for _ in 0..6000 {
            if condition(&self.screen()) {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        panic!("timed out: {}", self.screen());
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
fn resize_leaves_no_remnants_of_the_bar() {
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
    tmux.wait_until(|screen| screen.contains("resume with: "));
    let screen = tmux.screen();
    assert!(!has_bar(&screen), "{screen}");
}
