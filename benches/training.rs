//! Training speed of `microgpt train`, alternating with the same model in PyTorch if installed.
//!
//! Prints per size the time per step and tokens per second (medians over the rounds, without
//! warm-up), the arithmetic throughput relative to a large matrix multiplication, and the peak
//! memory. `cargo bench --bench training -- --threads 1 --rounds 5`; `MICROGPT_TORCH_PEER` names the
//! PyTorch program, by default `../shared/peers/torch_peer.py`.

mod common;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

/// A model size, a batch size and the number of timed steps.
struct Shape {
    n_embd: usize,
    n_head: usize,
    n_layer: usize,
    block_size: usize,
    batch_size: usize,
    steps: usize,
    /// Steps of the slower PyTorch program.
    peer_steps: usize,
}

const fn shape(sizes: [usize; 4], batch_size: usize, steps: usize, peer_steps: usize) -> Shape {
    let [n_embd, n_head, n_layer, block_size] = sizes;
    Shape {
        n_embd,
        n_head,
        n_layer,
        block_size,
        batch_size,
        steps,
        peer_steps,
    }
}

const SHAPES: [Shape; 5] = [
    shape([16, 4, 1, 16], 16, 8000, 500),
    shape([64, 4, 1, 16], 16, 2000, 300),
    shape([128, 4, 4, 64], 12, 100, 40),
    shape([128, 8, 4, 256], 8, 30, 10),
    shape([256, 8, 8, 512], 4, 8, 4),
];

/// Distinct characters of the random text, as many as the PyTorch program has tokens.
const VOCABULARY: usize = 95;

/// The results of one run.
#[derive(Clone, Copy)]
struct Measured {
    seconds_per_step: f64,
    tokens_per_second: f64,
    peak_megabytes: f64,
}

fn main() {
    let threads = common::option("--threads").unwrap_or(2);
    let rounds = common::option("--rounds").unwrap_or(3);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let peer = common::find_peer();
    let limit = gemm_limit(threads);
    println!("{threads} threads, {rounds} rounds; large matmul: {limit:.0} GFLOP/s\n");
    println!(
        "size, batch            µs/step  tokens/s  of limit  memory     PyTorch µs/step  ratio"
    );
    for shape in &SHAPES {
        let text = text(shape, dir.path());
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..rounds {
            ours.push(train(shape, &text, threads, dir.path()));
            if let Some(peer) = &peer {
                theirs.push(train_peer(peer, shape, &text, threads));
            }
        }
        report(shape, limit, &ours, &theirs);
    }
}

fn report(shape: &Shape, limit: f64, ours: &[Measured], theirs: &[Measured]) {
    let median_of = |runs: &[Measured], value: fn(&Measured) -> f64| {
        common::median(runs.iter().map(value).collect())
    };
    let speed = median_of(ours, |run| run.tokens_per_second);
    let mut line = format!(
        "{:<20} {:>9.0} {speed:>9.0} {:>8.0}% {:>6.0} MB",
        format!(
            "{}/{}/{}/{} x {}",
            shape.n_embd, shape.n_head, shape.n_layer, shape.block_size, shape.batch_size
        ),
        median_of(ours, |run| run.seconds_per_step * 1e6),
        100.0 * speed * flop_per_token(shape) / 1e9 / limit,
        median_of(ours, |run| run.peak_megabytes),
    );
    if !theirs.is_empty() {
        let peer = median_of(theirs, |run| run.tokens_per_second);
        let micros = median_of(theirs, |run| run.seconds_per_step * 1e6);
        let _ = write!(line, " {micros:>19.0} {:>6.2}", speed / peer);
    }
    println!("{line}");
}

/// FLOP per token of a step: per matrix weight two forward and four backward, plus attention over
/// half of the context on average.
fn flop_per_token(shape: &Shape) -> f64 {
    let Shape {
        n_embd, n_layer, ..
    } = *shape;
    let weights = 12 * n_layer * n_embd * n_embd + vocab_size(shape) * n_embd;
    let context = mean_context(shape);
    6.0 * weights as f64 + 12.0 * (n_layer * n_embd) as f64 * context / 2.0
}

/// The mean document length in tokens: names average 6 characters plus the end token.
fn mean_context(shape: &Shape) -> f64 {
    if shape.block_size == 16 {
        7.0
    } else {
        shape.block_size as f64
    }
}

fn vocab_size(shape: &Shape) -> usize {
    if shape.block_size == 16 {
        27
    } else {
        VOCABULARY + 1
    }
}

/// The training text: names for short contexts, otherwise random lines that fill the context.
fn text(shape: &Shape, dir: &Path) -> PathBuf {
    if shape.block_size == 16 {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/names.txt");
        if shared.exists() {
            return shared;
        }
        let names = dir.join("names.txt");
        std::fs::write(&names, microgpt::data::BUILT_IN_NAMES).expect("the names are written");
        return names;
    }
    let path = dir.join(format!("lines-{}.txt", shape.block_size));
    let mut rng = fastrand::Rng::with_seed(1);
    let mut lines = String::new();
    for _ in 0..400 {
        // From `!` on: lines are trimmed, so they must not start or end with blanks.
        lines.extend((0..shape.block_size).map(|_| char::from(rng.u8(b'!'..=b'~'))));
        lines.push('\n');
    }
    std::fs::write(&path, lines).expect("the text is written");
    path
}

/// Runs `microgpt train` and reads its log.
fn train(shape: &Shape, text: &Path, threads: usize, dir: &Path) -> Measured {
    let warm_up = shape.steps / 10 + 1;
    let log = dir.join("log");
    let sizes = [
        ("--n-embd", shape.n_embd),
        ("--n-head", shape.n_head),
        ("--n-layer", shape.n_layer),
        ("--block-size", shape.block_size),
        ("--batch-size", shape.batch_size),
        ("--steps", shape.steps + warm_up),
        ("--threads", threads),
    ];
    let mut command = Command::new("/usr/bin/env");
    command.arg(env!("CARGO_BIN_EXE_microgpt"));
    command.args(["train", "--quiet", "--force", "--lr", "0.001"]);
    for (name, value) in sizes {
        command.args([name, &value.to_string()]);
    }
    command.arg("--input").arg(text).arg("--log").arg(&log);
    command.arg("--output").arg(dir.join("model"));
    let mut child = command
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let peak_megabytes = common::peak_memory(&mut child);
    let log = std::fs::read_to_string(log).expect("the log exists");
    let number = |line: usize, key: &str| {
        let line = log
            .lines()
            .nth(line)
            .expect("the log has one line per step");
        let line: Value = serde_json::from_str(line).expect("the line is JSON");
        line[key].as_f64().expect("the key exists")
    };
    let last = shape.steps + warm_up - 1;
    let seconds = number(last, "seconds") - number(warm_up - 1, "seconds");
    let tokens = number(last, "tokens") - number(warm_up - 1, "tokens");
    Measured {
        seconds_per_step: seconds / shape.steps as f64,
        tokens_per_second: tokens / seconds,
        peak_megabytes,
    }
}

fn train_peer(peer: &Path, shape: &Shape, text: &Path, threads: usize) -> Measured {
    let mut command = Command::new("python3");
    command.arg(peer).arg("train");
    let sizes = [
        shape.n_embd,
        shape.n_head,
        shape.n_layer,
        shape.block_size,
        shape.batch_size,
        shape.peer_steps,
    ];
    command.args(sizes.map(|size| size.to_string()));
    if shape.block_size == 16 {
        command.arg("--data").arg(text);
    }
    command.env("OMP_NUM_THREADS", threads.to_string());
    let output = command.output().expect("the PyTorch program runs");
    let output = String::from_utf8_lossy(&output.stdout);
    let number = |key| common::number(&output, key);
    Measured {
        seconds_per_step: number("us/step=") / 1e6,
        tokens_per_second: number("real_tok/s="),
        peak_megabytes: 0.0,
    }
}

/// The throughput of large f32 matrix multiplications, one per thread, in GFLOP/s.
fn gemm_limit(threads: usize) -> f64 {
    const SIZE: usize = 512;
    const ROUNDS: usize = 40;
    let run = || {
        let (a, b) = (vec![0.5f32; SIZE * SIZE], vec![0.25f32; SIZE * SIZE]);
        let mut c = vec![0f32; SIZE * SIZE];
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            // SAFETY: each matrix has SIZE x SIZE elements, row-major.
            unsafe {
                gemm::gemm(
                    SIZE,
                    SIZE,
                    SIZE,
                    c.as_mut_ptr(),
                    1,
                    SIZE as isize,
                    false,
                    a.as_ptr(),
                    1,
                    SIZE as isize,
                    b.as_ptr(),
                    1,
                    SIZE as isize,
                    0f32,
                    1f32,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        2.0 * (SIZE * SIZE * SIZE) as f64 / best / 1e9
    };
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let speeds = runs.into_iter().map(|run| run.join().expect("no panic"));
        speeds.sum()
    })
}
