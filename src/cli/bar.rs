//! The bar of a run on a terminal: one line that is drawn again and again, beneath the lines that
//! stay.

use std::io::{self, Write};
use std::mem::take;
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use super::console;

/// A bar narrower than this says nothing.
const NARROWEST: usize = 10;

/// Some words, and beside them, where there is room, how far the run is.
pub struct Bar {
    bar: ProgressBar,
    with_bar: ProgressStyle,
    words_alone: ProgressStyle,
}

impl Bar {
    pub fn new(steps: u64) -> Self {
        let target = ProgressDrawTarget::term_like(Box::new(Line::default()));
        let colour = if console::wants_colour() {
            ":.green/8"
        } else {
            ""
        };
        let characters = if console::can_show_unicode() {
            "━╸─"
        } else {
            "=>-"
        };
        let style =
            |template: &str| ProgressStyle::with_template(template).expect("the template is right");
        let words_alone = style("{wide_msg}");
        Self {
            bar: ProgressBar::with_draw_target(Some(steps), target).with_style(words_alone.clone()),
            with_bar: style(&format!("{{msg}}  {{wide_bar{colour}}}")).progress_chars(characters),
            words_alone,
        }
    }

    /// Shows where the run is.
    pub fn show(&self, step: u64, words: String) {
        let has_room = words.chars().count() + 2 + NARROWEST <= console::width();
        let style = if has_room {
            &self.with_bar
        } else {
            &self.words_alone
        };
        self.bar.set_style(style.clone());
        self.bar.set_message(words);
        self.bar.update(|state| state.set_pos(step));
    }

    /// Does something that writes lines, which come to stand above the bar.
    pub fn above(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// The terminal's last line, with the cursor at its beginning.
///
/// A terminal that gets narrower breaks a line that has become too long into several, and keeps the
/// cursor at its character. So all from the cursor on is the bar's, however wide the terminal is
/// now, and can be erased without leaving a piece of it among the lines that stay.
#[derive(Debug, Default)]
struct Line {
    /// What is to be drawn.
    next: Mutex<String>,
}

/// Goes to the line's beginning, and erases from there on.
const ERASE: &str = "\r\u{1b}[J";

/// Whether what is too long is broken into several lines: not while the bar is drawn, whose width may
/// be that of a moment ago.
const NO_WRAP: &str = "\u{1b}[?7l";
const WRAP: &str = "\u{1b}[?7h";

impl TermLike for Line {
    fn width(&self) -> u16 {
        console::width().try_into().unwrap_or(u16::MAX)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.next
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_str(text);
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    /// Draws the line in place of the one before, without the spaces that would fill it.
    fn flush(&self) -> io::Result<()> {
        let next = take(&mut *self.next.lock().unwrap_or_else(PoisonError::into_inner));
        let frame = match next.trim() {
            "" => ERASE.to_string(),
            line => format!("{ERASE}{NO_WRAP}{line}{WRAP}\r"),
        };
        io::stderr().write_all(frame.as_bytes())
    }

    // There is one line, which `flush` erases.

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
}
