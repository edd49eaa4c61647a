//! A progress bar on the last line of a terminal, below the lines of output.
//!
//! Drawn here rather than by indicatif, whose targets leave remnants of the bar among the lines when
//! a narrower terminal wraps it: `resize_leaves_no_remnants_of_the_bar` fails with them. The cursor
//! stays at the start of the bar, so that everything from it on can be erased at any width.

use std::io::{self, Write};

use super::console;

/// The minimum width of a bar beside its message, in columns.
const MIN_WIDTH: usize = 10;

/// Erases from the start of the line to the end of the screen.
const ERASE: &str = "\r\u{1b}[J";

/// Turns line wrapping off and on. The width may be out of date by the time that a frame is drawn.
const NO_WRAP: &str = "\u{1b}[?7l";
const WRAP: &str = "\u{1b}[?7h";

const GREEN: &str = "\u{1b}[32m";
const GREY: &str = "\u{1b}[90m";
const RESET: &str = "\u{1b}[0m";

/// A message with a progress bar beside it.
#[derive(Default)]
pub struct ProgressBar {
    frame: String,
}

impl ProgressBar {
    /// Redraws the bar. `fraction` is 1 at the end.
    pub fn update(&mut self, fraction: f64, message: &str) {
        let line = line(fraction, message, console::width());
        self.frame = format!("{NO_WRAP}{line}{WRAP}\r");
        write(format_args!("{ERASE}{}", self.frame));
    }

    /// Prints a line above the bar.
    pub fn println(&self, line: &str) {
        write(format_args!("{ERASE}{line}\n{}", self.frame));
    }

    pub fn clear(&self) {
        write(format_args!("{ERASE}"));
    }
}

/// Writes to the terminal in one call. Errors are ignored, as in [`console::eprintln`].
fn write(text: std::fmt::Arguments) {
    let _ = io::stderr().write_all(text.to_string().as_bytes());
}

/// Lays out a message and the bar in `columns` columns; the message alone if there is no space for
/// more.
fn line(fraction: f64, message: &str, columns: usize) -> String {
    let width = columns.saturating_sub(message.chars().count() + 2);
    if width < MIN_WIDTH {
        return message.chars().take(columns).collect();
    }
    let [full, head, empty] = match console::can_show_unicode() {
        true => ['━', '╸', '─'],
        false => ['=', '>', '-'],
    };
    let position = ((fraction * width as f64) as usize).min(width);
    let mut done: String = std::iter::repeat_n(full, position).collect();
    if position < width {
        done.push(head);
    }
    let rest: String = std::iter::repeat_n(empty, width.saturating_sub(position + 1)).collect();
    match console::wants_colour() {
        true => format!("{message}  {GREEN}{done}{GREY}{rest}{RESET}"),
        false => format!("{message}  {done}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_fits_the_columns() {
        assert_eq!(line(0.5, "step 1", 5), "step ");
        let printable = |text: &str| {
            let text = text.replace(GREEN, "").replace(GREY, "").replace(RESET, "");
            text.chars().count()
        };
        for fraction in [0.0, 0.5, 0.999, 1.0] {
            assert_eq!(printable(&line(fraction, "step 1", 30)), 30);
        }
    }
}
