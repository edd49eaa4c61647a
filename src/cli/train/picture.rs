//! A small picture of the loss for the terminal, in braille or, where that can't be shown, in
//! plain characters.

use super::super::console;
use super::curve::{LossCurve, Point, range};

/// The size of the picture, in characters: on a terminal with room for it.
const COLUMNS: usize = 60;
const ROWS: usize = 8;

/// How wide what stands beside the picture is.
const MARGIN: usize = 8;

/// A picture narrower than this shows nothing.
const NARROWEST: usize = 20;

/// What the points are drawn with.
#[derive(Clone, Copy, PartialEq)]
pub enum Ink {
    /// Two by four dots a character.
    Braille,
    /// An asterisk a character.
    Ascii,
}

impl Ink {
    /// Dots across and down a character.
    fn dots(self) -> (usize, usize) {
        match self {
            Ink::Braille => (2, 4),
            Ink::Ascii => (1, 1),
        }
    }

    /// The character with these dots, by row and column.
    fn character(self, dots: impl Fn(usize, usize) -> bool) -> char {
        if self == Ink::Ascii {
            return if dots(0, 0) { '*' } else { ' ' };
        }
        // How Unicode numbers the dots of a braille character.
        const BITS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        let mut bits = 0;
        for (row, line) in BITS.iter().enumerate() {
            for (column, bit) in line.iter().enumerate() {
                if dots(row, column) {
                    bits |= bit;
                }
            }
        }
        char::from_u32(0x2800 + bits).unwrap_or(' ')
    }
}

/// The picture's lines, for a terminal of so many columns; none for a curve too short, or a terminal
/// too narrow, to show anything.
pub fn draw(curve: &LossCurve, ink: Ink, terminal: usize) -> Option<String> {
    let columns = COLUMNS.min(terminal.saturating_sub(MARGIN));
    if columns < NARROWEST {
        return None;
    }
    let (across, down) = ink.dots();
    let (width, height) = (columns * across, ROWS * down);
    let points = curve.training_in(width);
    let (low, high) = range(points.iter().map(|point| point.loss));
    let (first, last) = (points.first()?.step, points.last()?.step);
    if points.len() < 3 || high <= low {
        return None;
    }
    let place = |point: &Point| {
        let x = (point.step - first) / (last - first) * (width - 1) as f64;
        let y = (high - point.loss) / (high - low) * (height - 1) as f64;
        (x.round() as usize, y.round() as usize)
    };
    let mut dots = vec![false; width * height];
    let places: Vec<(usize, usize)> = points.iter().map(place).collect();
    for pair in places.windows(2) {
        line(pair[0], pair[1], |x, y| dots[y * width + x] = true);
    }
    let mut text = String::new();
    for row in 0..ROWS {
        let label = match row {
            0 => format!("{high:.3}"),
            _ if row + 1 == ROWS => format!("{low:.3}"),
            _ => String::new(),
        };
        let cell = |column: usize| {
            ink.character(|r, c| dots[(row * down + r) * width + column * across + c])
        };
        let cells: String = (0..columns).map(cell).collect();
        text += &format!("{label:>7} {}\n", cells.trim_end_matches([' ', '\u{2800}']));
    }
    let first = console::group_thousands(curve.steps.0);
    let last = console::group_thousands(curve.steps.1);
    text += &format!(
        "{:>8}{first}{last:>width$}",
        "step ",
        width = columns - first.len()
    );
    Some(text)
}

/// Visits the dots between two places, so that a steep curve has no gaps.
fn line(from: (usize, usize), to: (usize, usize), mut visit: impl FnMut(usize, usize)) {
    let steps = to.0.abs_diff(from.0).max(to.1.abs_diff(from.1)).max(1);
    let between = |a: usize, b: usize, i: usize| {
        let share = i as f64 / steps as f64;
        (a as f64 + (b as f64 - a as f64) * share).round() as usize
    };
    for i in 0..=steps {
        visit(between(from.0, to.0, i), between(from.1, to.1, i));
    }
}

#[cfg(test)]
mod tests {
    use super::super::curve::falling;
    use super::*;

    #[test]
    fn a_falling_curve_goes_from_the_upper_left_to_the_lower_right() {
        let picture = draw(&falling(1000), Ink::Ascii, 100).unwrap();
        let lines: Vec<&str> = picture.lines().collect();
        assert_eq!(lines.len(), ROWS + 1);
        let low = lines[7];
        assert!(lines[0].trim_start().ends_with(" *"), "{picture}");
        assert!(low.ends_with("*****") && low.chars().count() == 8 + COLUMNS);
        assert!(low.starts_with("  0.001 "), "{picture}");
        assert!(lines[8].starts_with("   step 1 ") && lines[8].ends_with(" 1,000"));
        assert!(lines.iter().all(|line| line.is_ascii()));
    }

    #[test]
    fn braille_shows_every_row() {
        let picture = draw(&falling(50), Ink::Braille, 100).unwrap();
        let is_braille = |c: char| ('\u{2801}'..='\u{28ff}').contains(&c);
        for line in picture.lines().take(ROWS) {
            assert!(line.contains(is_braille), "{picture}");
        }
    }

    #[test]
    fn a_narrow_terminal_gets_a_narrow_picture() {
        for columns in [28, 50, 68] {
            let picture = draw(&falling(1000), Ink::Ascii, columns).unwrap();
            let widest = picture.lines().map(|line| line.chars().count()).max();
            assert_eq!(widest, Some(columns), "{picture}");
        }
        assert!(draw(&falling(1000), Ink::Ascii, 27).is_none());
    }

    #[test]
    fn there_is_no_picture_of_nothing() {
        assert!(draw(&falling(2), Ink::Braille, 100).is_none());
        assert!(draw(&LossCurve::new(), Ink::Braille, 100).is_none());
    }
}
