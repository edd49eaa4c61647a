//! What the server counts, in Prometheus' text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the duration histogram, in seconds.
const BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0,
];

/// The server's counters. All of them may be used from any thread.
#[derive(Default)]
pub struct Metrics {
    /// By endpoint and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    durations: Mutex<Histogram>,
    /// Tokens that were made, and tokens of prompts.
    pub generated_tokens: AtomicU64,
    pub prompt_tokens: AtomicU64,
    /// Requests that a worker is busy with, and those that wait for one.
    pub in_progress: AtomicI64,
    pub queued: AtomicI64,
}

#[derive(Default)]
struct Histogram {
    /// How many fell into each bucket, and above the last.
    counts: [u64; BUCKETS.len() + 1],
    sum: f64,
}

impl Metrics {
    /// Counts an answered request.
    pub fn count(&self, endpoint: &'static str, status: u16, duration: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(|e| e.into_inner());
        *requests.entry((endpoint, status)).or_default() += 1;
        drop(requests);
        let seconds = duration.as_secs_f64();
        let mut durations = self.durations.lock().unwrap_or_else(|e| e.into_inner());
        durations.counts[BUCKETS.partition_point(|&bound| bound < seconds)] += 1;
        durations.sum += seconds;
    }

    /// Counts a prompt that was read.
    pub fn count_prompt(&self, tokens: usize) {
        self.prompt_tokens
            .fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// The content of `/metrics`.
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &str| {
            // Writing to a string cannot fail.
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}"
            );
        };
        let mut samples = String::new();
        let requests = self.requests.lock().unwrap_or_else(|e| e.into_inner());
        for ((endpoint, status), count) in requests.iter() {
            let _ = writeln!(
                samples,
                "microgpt_requests_total{{endpoint=\"{endpoint}\",status=\"{status}\"}} {count}"
            );
        }
        drop(requests);
        let name = "microgpt_requests_total";
        family(name, "counter", "Answered requests.", &samples);
        let name = "microgpt_request_duration_seconds";
        let help = "How long requests took.";
        family(name, "histogram", help, &self.render_durations(name));
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        let level = |gauge: &AtomicI64| gauge.load(Ordering::Relaxed).to_string();
        let (generated, prompt) = (count(&self.generated_tokens), count(&self.prompt_tokens));
        let (in_progress, queued) = (level(&self.in_progress), level(&self.queued));
        for (name, kind, help, value) in [
            (
                "microgpt_generated_tokens_total",
                "counter",
                "Tokens that were made.",
                generated,
            ),
            (
                "microgpt_prompt_tokens_total",
                "counter",
                "Tokens of prompts.",
                prompt,
            ),
            (
                "microgpt_requests_in_progress",
                "gauge",
                "Requests being answered.",
                in_progress,
            ),
            (
                "microgpt_queue_length",
                "gauge",
                "Requests that wait for a worker.",
                queued,
            ),
        ] {
            family(name, kind, help, &format!("{name} {value}\n"));
        }
        text
    }

    fn render_durations(&self, name: &str) -> String {
        let durations = self.durations.lock().unwrap_or_else(|e| e.into_inner());
        let mut samples = String::new();
        let mut total = 0;
        let bounds = BUCKETS.iter().map(f64::to_string).chain(["+Inf".into()]);
        for (bound, count) in bounds.zip(durations.counts) {
            total += count;
            let _ = writeln!(samples, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let _ = writeln!(
            samples,
            "{name}_sum {}\n{name}_count {total}",
            durations.sum
        );
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_what_is_at_most_their_bound() {
        let metrics = Metrics::default();
        for milliseconds in [1, 2, 700, 60_000] {
            metrics.count("a", 200, Duration::from_millis(milliseconds));
        }
        let text = metrics.render();
        for line in [
            "microgpt_requests_total{endpoint=\"a\",status=\"200\"} 4",
            "microgpt_request_duration_seconds_bucket{le=\"0.0005\"} 0",
            "microgpt_request_duration_seconds_bucket{le=\"0.001\"} 1",
            "microgpt_request_duration_seconds_bucket{le=\"0.5\"} 2",
            "microgpt_request_duration_seconds_bucket{le=\"1\"} 3",
            "microgpt_request_duration_seconds_bucket{le=\"+Inf\"} 4",
            "microgpt_request_duration_seconds_count 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
