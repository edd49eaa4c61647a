//! A plot of the loss for the terminal, in braille or ASCII characters.

use super::super::console;
use super::loss_curve::{LossCurve, Point, range};

/// The size of the plot in characters; narrower on a narrow terminal.
const COLUMNS: usize = 60;
const ROWS: usize = 8;

/// The width of the labels.
const MARGIN: usize = 8;

/// The minimum width of a plot.
const MIN_COLUMNS: usize = 20;

/// The characters of a plot.
#[derive(Clone, Copy, PartialEq)]
pub enum Charset {
    /// 2 × 4 dots per character.
    Braille,
    /// One asterisk per character.
    Ascii,
}

impl Charset {
    /// Returns the columns and rows of dots per character.
    fn dots(self) -> (usize, usize) {
        match self {
            Charset::Braille => (2, 4),
            Charset::Ascii => (1, 1),
        }
    }

    /// Returns the character with the given dots, by row and column.
    fn character(self, dots: impl Fn(usize, usize) -> bool) -> char {
        if self == Charset::Ascii {
            return if dots(0, 0) { '*' } else { ' ' };
        }
        // The bits of the dots in Unicode's braille block.
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

/// Plots a curve on a terminal of `terminal_columns` columns. Returns `None` if the terminal is too
/// narrow, or the curve has fewer than 3 points or only one loss.
pub fn plot(curve: &LossCurve, charset: Charset, terminal_columns: usize) -> Option<String> {
    let columns = COLUMNS.min(terminal_columns.saturating_sub(MARGIN));
    if columns < MIN_COLUMNS {
        return None;
    }
    let (across, down) = charset.dots();
    let (width, height) = (columns * across, ROWS * down);
    let points = curve.training_in(width);
    let (low, high) = range(points.iter().map(|point| point.loss));
    let (first, last) = (points.first()?.step, points.last()?.step);
    if points.len() < 3 || high <= low {
        return None;
    }
    let position = |point: &Point| {
        let x = (point.step - first) / (last - first) * (width - 1) as f64;
        let y = (high - point.loss) / (high - low) * (height - 1) as f64;
        (x.round() as usize, y.round() as usize)
    };
    let mut dots = vec![false; width * height];
    let positions: Vec<(usize, usize)> = points.iter().map(position).collect();
    for pair in positions.windows(2) {
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
            charset.character(|r, c| dots[(row * down + r) * width + column * across + c])
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

/// Visits the dots of a line segment.
fn line(from: (usize, usize), to: (usize, usize), mut visit: impl FnMut(usize, usize)) {
    let steps = to.0.abs_diff(from.0).max(to.1.abs_diff(from.1)).max(1);
    let between = |a: usize, b: usize, i: usize| {
        let fraction = i as f64 / steps as f64;
        (a as f64 + (b as f64 - a as f64) * fraction).round() as usize
    };
    for i in 0..=steps {
        visit(between(from.0, to.0, i), between(from.1, to.1, i));
    }
}

#[cfg(test)]
mod tests {
    use super::super::loss_curve::harmonic;
    use super::*;

    #[test]
    fn falling_curve_runs_from_top_left_to_bottom_right() {
        let text = plot(&harmonic(1000), Charset::Ascii, 100).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), ROWS + 1);
        let low = lines[7];
        assert!(lines[0].trim_start().ends_with(" *"), "{text}");
        assert!(low.ends_with("*****") && low.chars().count() == 8 + COLUMNS);
        assert!(low.starts_with("  0.001 "), "{text}");
        assert!(lines[8].starts_with("   step 1 ") && lines[8].ends_with(" 1,000"));
        assert!(lines.iter().all(|line| line.is_ascii()));
    }

    #[test]
    fn braille_curve_covers_every_row() {
        let text = plot(&harmonic(50), Charset::Braille, 100).unwrap();
        let is_braille = |c: char| ('\u{2801}'..='\u{28ff}').contains(&c);
        for line in text.lines().take(ROWS) {
            assert!(line.contains(is_braille), "{text}");
        }
    }

    #[test]
    fn plot_fits_a_narrow_terminal() {
        for columns in [28, 50, 68] {
            let text = plot(&harmonic(1000), Charset::Ascii, columns).unwrap();
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert_eq!(widest, Some(columns), "{text}");
        }
        assert!(plot(&harmonic(1000), Charset::Ascii, 27).is_none());
    }

    #[test]
    fn short_curves_have_no_plot() {
        assert!(plot(&harmonic(2), Charset::Braille, 100).is_none());
        assert!(plot(&LossCurve::new(), Charset::Braille, 100).is_none());
    }
}
