//! Metrics in Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The upper bounds of the duration histogram, in seconds.
const BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0,
];

/// The counters of answered requests.
#[derive(Default)]
pub struct Metrics(Mutex<Counters>);

#[derive(Default)]
struct Counters {
    /// By endpoint and status.
    requests: BTreeMap<(&'static str, u16), u64>,
    /// Durations by bucket, and above the last bound.
    durations: [u64; BUCKETS.len() + 1],
    /// The sum of all durations, in seconds.
    total_duration: f64,
    prompt_tokens: usize,
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.0.lock().unwrap_or_else(|error| error.into_inner())
    }

    pub fn count_request(&self, endpoint: &'static str, status: u16, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let mut counters = self.lock();
        *counters.requests.entry((endpoint, status)).or_default() += 1;
        counters.durations[BUCKETS.partition_point(|&bound| bound < seconds)] += 1;
        counters.total_duration += seconds;
    }

    pub fn count_prompt(&self, tokens: usize) {
        self.lock().prompt_tokens += tokens;
    }

    /// The body of `/metrics`. `active` and `waiting` are numbers of requests.
    pub fn render(&self, generated_tokens: u64, active: u64, waiting: u64) -> String {
        let counters = self.lock();
        let prompt_tokens = counters.prompt_tokens as u64;
        let mut text = String::new();
        counters.render_requests(&mut text);
        counters.render_durations(&mut text);
        for (name, kind, help, value) in [
            (
                "generated_tokens_total",
                "counter",
                "Generated tokens.",
                generated_tokens,
            ),
            (
                "prompt_tokens_total",
                "counter",
                "Tokens of prompts.",
                prompt_tokens,
            ),
            (
                "requests_in_progress",
                "gauge",
                "Requests being answered.",
                active,
            ),
            (
                "queue_length",
                "gauge",
                "Requests waiting for a lane.",
                waiting,
            ),
        ] {
            render_header(&mut text, name, kind, help);
            let _ = writeln!(text, "microgpt_{name} {value}");
        }
        text
    }
}

impl Counters {
    fn render_requests(&self, text: &mut String) {
        render_header(text, "requests_total", "counter", "Answered requests.");
        for ((endpoint, status), count) in &self.requests {
            let labels = format!("endpoint=\"{endpoint}\",status=\"{status}\"");
            let _ = writeln!(text, "microgpt_requests_total{{{labels}}} {count}");
        }
    }

    fn render_durations(&self, text: &mut String) {
        let name = "request_duration_seconds";
        render_header(text, name, "histogram", "Durations of requests.");
        let bounds = BUCKETS.iter().map(f64::to_string).chain(["+Inf".into()]);
        let mut count = 0;
        for (bound, in_bucket) in bounds.zip(self.durations) {
            count += in_bucket;
            let _ = writeln!(text, "microgpt_{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(text, "microgpt_{name}_sum {}", self.total_duration);
        let _ = writeln!(text, "microgpt_{name}_count {count}");
    }
}

/// Writes the first lines of a metric. Writing to a string cannot fail.
fn render_header(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP microgpt_{name} {help}");
    let _ = writeln!(text, "# TYPE microgpt_{name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_with_inclusive_upper_bounds() {
        let metrics = Metrics::default();
        for milliseconds in [1, 2, 700, 60_000] {
            metrics.count_request("a", 200, Duration::from_millis(milliseconds));
        }
        let text = metrics.render(3, 2, 1);
        for line in [
            "microgpt_requests_total{endpoint=\"a\",status=\"200\"} 4",
            "microgpt_request_duration_seconds_bucket{le=\"0.0005\"} 0",
            "microgpt_request_duration_seconds_bucket{le=\"0.001\"} 1",
            "microgpt_request_duration_seconds_bucket{le=\"0.5\"} 2",
            "microgpt_request_duration_seconds_bucket{le=\"1\"} 3",
            "microgpt_request_duration_seconds_bucket{le=\"+Inf\"} 4",
            "microgpt_request_duration_seconds_count 4",
            "microgpt_generated_tokens_total 3",
            "microgpt_requests_in_progress 2",
            "microgpt_queue_length 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
