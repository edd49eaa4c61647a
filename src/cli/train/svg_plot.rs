//! `--plot`: the loss by step as an SVG file, in the browser's light or dark colours.

use std::fs::OpenOptions;
use std::path::Path;

use anyhow::{Context, Result};

use super::super::console;
use super::loss_curve::{LossCurve, Point, range};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// The distances of the axes from the edges: left, right, top, bottom.
const MARGINS: [f64; 4] = [56.0, 20.0, 44.0, 44.0];

const STYLE: &str = "\
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --faint: #d9dde2; --train: #2563eb; --valid: #c2410c; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181d; --ink: #e6e9ec; --faint: #343b43; --train: #7aa7ff; --valid: #ff9f5a; }
}
text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.title { font-size: 15px; font-weight: 600; }
.paper { fill: var(--paper); }
.grid { stroke: var(--faint); stroke-width: 1; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.train { stroke: var(--train); }
.each { stroke-width: 1; opacity: 0.3; }
.valid { stroke: var(--valid); }
circle { fill: var(--valid); }";

/// The ranges of steps and losses, and their mapping to coordinates.
struct Axes {
    steps: (f64, f64),
    losses: (f64, f64),
}

impl Axes {
    fn x(&self, step: f64) -> f64 {
        let fraction = (step - self.steps.0) / (self.steps.1 - self.steps.0).max(1.0);
        MARGINS[0] + fraction * (WIDTH - MARGINS[0] - MARGINS[1])
    }

    fn y(&self, loss: f64) -> f64 {
        let fraction = (self.losses.1 - loss) / (self.losses.1 - self.losses.0);
        MARGINS[2] + fraction * (HEIGHT - MARGINS[2] - MARGINS[3])
    }

    fn polyline(&self, class: &str, points: &[Point]) -> String {
        let position =
            |point: &Point| format!("{:.1},{:.1}", self.x(point.step), self.y(point.loss));
        let positions: Vec<String> = points.iter().map(position).collect();
        format!(
            "<polyline class=\"{class}\" points=\"{}\"/>\n",
            positions.join(" ")
        )
    }
}

/// Checks that the file can be written. Creates it if it is missing.
pub fn check_writable(path: &Path) -> Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map(drop)
        .with_context(|| format!("cannot write the plot {}", path.display()))
}

/// Writes the plot of a curve.
pub fn write(path: &Path, curve: &LossCurve) -> Result<()> {
    std::fs::write(path, svg(curve))
        .with_context(|| format!("cannot write the plot {}", path.display()))
}

/// Returns the SVG document.
fn svg(curve: &LossCurve) -> String {
    let training = curve.training();
    let all = || training.iter().chain(&curve.validation);
    let (first, last) = range(all().map(|point| point.step));
    let (low, high) = range(all().map(|point| point.loss));
    let interval = tick_interval(high - low);
    let axes = Axes {
        steps: (first, last),
        losses: (
            (low / interval).floor() * interval,
            (high / interval).ceil() * interval + interval * f64::from(u8::from(low == high)),
        ),
    };
    let mut body = grid(&axes, interval);
    body += &axes.polyline("train each", &training);
    body += &axes.polyline("train", &smooth(&training));
    if !curve.validation.is_empty() {
        body += &axes.polyline("valid", &curve.validation);
        for point in &curve.validation {
            body += &format!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>\n",
                axes.x(point.step),
                axes.y(point.loss)
            );
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
        width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"Loss by step\">\n\
        <style>\n{STYLE}\n</style>\n\
        <rect class=\"paper\" width=\"100%\" height=\"100%\" rx=\"8\"/>\n\
        <text class=\"title\" x=\"{}\" y=\"26\">Loss in nats per token</text>\n\
        {}{body}</svg>\n",
        MARGINS[0],
        legend(!curve.validation.is_empty()),
    )
}

/// Returns the legend of the lines.
fn legend(validation: bool) -> String {
    let entry = |class: &str, name: &str, x: f64| {
        format!(
            "<polyline class=\"{class}\" points=\"{x},22 {},22\"/>\n\
            <text x=\"{}\" y=\"26\">{name}</text>\n",
            x + 22.0,
            x + 28.0
        )
    };
    let right = WIDTH - MARGINS[1];
    match validation {
        true => {
            entry("train", "training", right - 190.0) + &entry("valid", "validation", right - 84.0)
        }
        false => entry("train", "training", right - 76.0),
    }
}

/// Returns horizontal lines at round losses, and the labels of both axes.
fn grid(axes: &Axes, interval: f64) -> String {
    let mut grid = String::new();
    let (low, high) = axes.losses;
    let decimals = (-interval.log10().floor()).clamp(0.0, 6.0) as usize;
    for i in 0..=((high - low) / interval).round() as u32 {
        let loss = low + f64::from(i) * interval;
        let y = axes.y(loss);
        grid += &format!(
            "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\n\
            <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.decimals$}</text>\n",
            MARGINS[0],
            WIDTH - MARGINS[1],
            MARGINS[0] - 8.0,
            y + 4.0
        );
    }
    let (first, last) = axes.steps;
    let interval = tick_interval(last - first).max(1.0);
    let mut step = (first / interval).ceil() * interval;
    while step <= last {
        grid += &format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
            axes.x(step),
            HEIGHT - MARGINS[3] + 20.0,
            console::group_thousands(step as u64)
        );
        step += interval;
    }
    grid + &format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">step</text>\n",
        WIDTH - MARGINS[1],
        HEIGHT - 8.0
    )
}

/// Returns a round number, 1, 2 or 5 times a power of 10, that divides a range into 2 to 6 intervals.
fn tick_interval(range: f64) -> f64 {
    if range <= 0.0 || !range.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf((range / 5.0).log10().floor());
    let multiples = [1.0, 2.0, 5.0, 10.0].map(|multiple| multiple * power);
    let interval = multiples
        .into_iter()
        .find(|interval| range / interval <= 6.0);
    interval.unwrap_or(10.0 * power)
}

/// Returns the moving mean over 2% of the points to either side.
fn smooth(points: &[Point]) -> Vec<Point> {
    let radius = points.len() / 50;
    let mean = |i: usize| {
        let radius = radius.min(i).min(points.len() - 1 - i);
        let window = &points[i - radius..=i + radius];
        let loss = window.iter().map(|p| p.loss).sum::<f64>() / window.len() as f64;
        Point { loss, ..points[i] }
    };
    (0..points.len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::super::loss_curve::harmonic;
    use super::*;

    #[test]
    fn points_are_within_the_axes() {
        let mut curve = harmonic(500);
        curve.validation = vec![
            Point {
                step: 250.0,
                loss: 1.3,
            },
            Point {
                step: 500.0,
                loss: 0.2,
            },
        ];
        let svg = svg(&curve);
        let polylines = svg.matches("<polyline").count();
        assert_eq!((polylines, svg.matches("<circle").count()), (5, 2));
        for points in svg.split("points=\"").skip(1) {
            for position in points.split('"').next().unwrap().split(' ') {
                let (x, y) = position.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((MARGINS[0]..=WIDTH - MARGINS[1]).contains(&x), "{position}");
                assert!((20.0..=HEIGHT - MARGINS[3]).contains(&y), "{position}");
            }
        }
        assert!(svg.contains("validation") && svg.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn ticks_number_2_to_6() {
        for range in [0.001, 0.3, 1.0, 2.7, 9.0, 99.0, 12_345.0] {
            let ticks = range / tick_interval(range);
            assert!((2.0..=6.0).contains(&ticks), "{range}: {ticks}");
        }
        assert!(
            [0.0, f64::NAN]
                .iter()
                .all(|&range| tick_interval(range) == 1.0)
        );
    }

    #[test]
    fn single_point_has_finite_coordinates() {
        assert!(!svg(&harmonic(1)).contains("NaN"));
    }
}
