//! Generation and scoring speed, alternating with the same model in PyTorch if installed.
//!
//! Prints tokens per second, medians over the rounds, of complete runs of `microgpt generate` and
//! `microgpt score` including process startup. Single sequences are too short for that and are
//! measured inside this process, as the PyTorch program does. Then follow the throughput and latency
//! of `microgpt serve`, the duration of the smallest run, and the peak memory of larger ones.
//! `cargo bench --bench generation -- --threads 1 --rounds 5`.

#[path = "../common/mod.rs"]
mod common;
mod serving;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use microgpt::data::{BUILT_IN_NAMES, Corpus};
use microgpt::engine::{GenerateOptions, Generator};
use microgpt::infer::{Chunk, InferenceGpt, Workspace};
use microgpt::model::{ModelConfig, ModelMeta, initial_weights};
use microgpt::store::{META, Precision, WEIGHTS, encode_tensors, save};

const SMALL: ModelConfig = shape([16, 4, 1, 16]);
const MIDDLE: ModelConfig = shape([128, 8, 4, 256]);
const LARGE: ModelConfig = shape([256, 8, 8, 512]);

const fn shape([n_embd, n_head, n_layer, block_size]: [usize; 4]) -> ModelConfig {
    ModelConfig {
        n_embd,
        n_head,
        n_layer,
        block_size,
    }
}

/// A measurement and the arguments of the PyTorch program for the same one.
struct Case {
    name: &'static str,
    tokens_per_second: fn(&Bench) -> f64,
    peer: &'static str,
}

const CASES: [Case; 6] = [
    Case {
        name: "16/4/1/16, many names",
        tokens_per_second: |bench| bench.many_names(),
        peer: "16 4 1 16 1024 20",
    },
    Case {
        name: "128/8/4/256, one stream",
        tokens_per_second: |bench| one_sequence(&bench.middle, bench.threads),
        peer: "128 8 4 256 1 1",
    },
    Case {
        name: "128/8/4/256, 64 streams",
        tokens_per_second: |bench| bench.sequences(64),
        peer: "128 8 4 256 64 1",
    },
    Case {
        name: "256/8/8/512, one stream",
        tokens_per_second: |bench| one_sequence(&bench.large, bench.threads),
        peer: "256 8 8 512 1 1",
    },
    Case {
        name: "128/8/4/256, prefill of 192",
        tokens_per_second: |bench| prefill(&bench.middle, bench.threads),
        peer: "",
    },
    Case {
        name: "16/4/1/16, score",
        tokens_per_second: |bench| bench.score(),
        peer: "",
    },
];

fn main() {
    let rounds = common::option("--rounds").unwrap_or(3);
    let bench = Bench::new(common::option("--threads").unwrap_or(2));
    let peer = common::find_peer();
    println!(
        "{} threads, {rounds} rounds; tokens per second\n",
        bench.threads
    );
    println!("                                  ours    PyTorch  ratio");
    for case in &CASES {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push((case.tokens_per_second)(&bench));
            if let (Some(peer), false) = (&peer, case.peer.is_empty()) {
                theirs.push(sample_peer(peer, case.peer, bench.threads));
            }
        }
        let ours = common::median(ours);
        print!("{:<28} {ours:>9.0}", case.name);
        if !theirs.is_empty() {
            let theirs = common::median(theirs);
            print!(" {theirs:>10.0} {:>6.1}", ours / theirs);
        }
        println!();
    }
    bench.print_served(rounds);
    bench.print_requests(rounds);
    bench.print_whole_runs();
}

/// The models, in directories and in memory.
struct Bench {
    dir: tempfile::TempDir,
    threads: usize,
    middle: Arc<InferenceGpt>,
    large: Arc<InferenceGpt>,
}

impl Bench {
    fn new(threads: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be created");
        let text = continuous_text();
        let texts = Corpus::continuous(&text).expect("the text is valid");
        let names = dir.path().join("names.txt");
        std::fs::write(&names, BUILT_IN_NAMES.repeat(30)).expect("the names are written");
        // Only a trained model generates names of realistic length.
        let train = ["train", "--quiet", "--steps", "1000", "-o"];
        run(Command::new(PROGRAM)
            .args(train)
            .arg(dir.path().join("small")));
        let model = |config, name: &str| {
            let meta = ModelMeta {
                config,
                tokenizer: texts.tokenizer(),
            };
            let weights = initial_weights(config, meta.tokenizer.vocab_size(), 42);
            save(
                &dir.path().join(name),
                &[WEIGHTS, META],
                |name| match name {
                    WEIGHTS => encode_tensors(&weights, Precision::F32),
                    _ => Ok(meta.to_json().to_string().into_bytes()),
                },
            )
            .expect("the model is saved");
            Arc::new(InferenceGpt::from_tensors(meta, &weights))
        };
        Self {
            middle: model(MIDDLE, "middle"),
            large: model(LARGE, "large"),
            threads,
            dir,
        }
    }

    fn command(&self, command: &str, model: &str) -> Command {
        let mut program = Command::new(PROGRAM);
        program.args([command, "--threads", &self.threads.to_string()]);
        program.arg("-m").arg(self.dir.path().join(model));
        program
    }

    /// A million names, including their end tokens.
    fn many_names(&self) -> f64 {
        let mut generate = self.command("generate", "small");
        let (seconds, output) = run(generate.args(["-n", "1000000"]));
        let lines = output
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty());
        let tokens: usize = lines
            .map(|line| (line.len() + 1).min(SMALL.block_size))
            .sum();
        tokens as f64 / seconds
    }

    /// Sequences that fill the context, decoded concurrently.
    fn sequences(&self, count: usize) -> f64 {
        let mut generate = self.command("generate", "middle");
        let context = MIDDLE.block_size.to_string();
        generate.args(["-n", &count.to_string(), "--max-tokens", &context]);
        let (seconds, _) = run(&mut generate);
        (count * MIDDLE.block_size) as f64 / seconds
    }

    /// Throughput and latency of 64 server clients, relative to `generate` with 64 samples.
    fn print_served(&self, rounds: usize) {
        const CLIENTS: usize = 64;
        let (mut shares, mut speeds, mut means, mut ratios) = (vec![], vec![], vec![], vec![]);
        for _ in 0..rounds {
            // The default `--threads` admits all clients at once.
            let mut server = Command::new(PROGRAM);
            let model = self.dir.path().join("middle");
            server.arg("serve").arg("-m").arg(model);
            let served = serving::serve(server, CLIENTS, MIDDLE.block_size);
            shares.push(100.0 * served.tokens_per_second / self.sequences(CLIENTS));
            speeds.push(served.tokens_per_second);
            let mean = served.mean_first_token();
            means.push(1000.0 * mean);
            ratios.push(served.last_first_token() / mean);
        }
        let [share, speed, mean, ratio] = [shares, speeds, means, ratios].map(common::median);
        println!(
            "\n128/8/4/256, {CLIENTS} clients of a server: {speed:.0} tokens per second, {share:.0}% of \
             generate's;\nthe first token after {mean:.0} ms on average, after {ratio:.1} times that at \
             most"
        );
    }

    /// One-sample requests per second over 64 kept-alive connections.
    fn print_requests(&self, rounds: usize) {
        const CLIENTS: usize = 64;
        let measure = |_| {
            let mut server = Command::new(PROGRAM);
            let model = self.dir.path().join("small");
            server.arg("serve").arg("-m").arg(model);
            serving::requests_per_second(server, CLIENTS)
        };
        let speed = common::median((0..rounds).map(measure).collect());
        println!("16/4/1/16, {CLIENTS} clients: {speed:.0} requests of one sample per second");
    }

    /// Duration and peak memory of complete processes.
    fn print_whole_runs(&self) {
        let one = || 1000.0 * run(self.command("generate", "small").args(["-n", "1"])).0;
        let milliseconds = common::median((0..51).map(|_| one()).collect());
        println!("16/4/1/16, generate -n 1: {milliseconds:.1} ms");
        for count in ["1", "64"] {
            let mut generate = self.command("generate", "middle");
            generate.args(["-n", count, "--max-tokens", "256"]);
            let child = generate.stdout(Stdio::null()).spawn();
            let megabytes = common::peak_memory(&mut child.expect("the program starts"));
            println!("128/8/4/256, generate -n {count}: {megabytes:.0} MB");
        }
    }

    fn score(&self) -> f64 {
        let mut score = self.command("score", "small");
        score.args(["--summary", "--json"]);
        let (seconds, output) = run(score.arg(self.dir.path().join("names.txt")));
        let summary: serde_json::Value =
            serde_json::from_slice(&output).expect("the summary is JSON");
        summary["tokens"].as_f64().expect("tokens are counted") / seconds
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_microgpt");

/// 95 distinct characters, as many as the PyTorch program has tokens.
fn continuous_text() -> String {
    let printable = (b' '..=b'~').map(char::from);
    printable.chain(['\n']).collect()
}

/// Runs a program and returns its duration in seconds and its stdout.
fn run(command: &mut Command) -> (f64, Vec<u8>) {
    let start = Instant::now();
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{command:?} failed");
    (start.elapsed().as_secs_f64(), output.stdout)
}

/// Decodes one sequence that fills the context.
fn one_sequence(model: &Arc<InferenceGpt>, threads: usize) -> f64 {
    let context = model.meta().config.block_size;
    let options = GenerateOptions {
        max_tokens: Some(context),
        ..Default::default()
    };
    let generator = Generator::new(Arc::clone(model), options).expect("the options are valid");
    let group = model.thread_group(threads).expect("threads can be started");
    group.run(|| {
        generator.sample(0);
        let start = Instant::now();
        generator.sample(1);
        context as f64 / start.elapsed().as_secs_f64()
    })
}

/// Prefill of a prompt of 192 tokens.
fn prefill(model: &InferenceGpt, threads: usize) -> f64 {
    const TIMES: usize = 20;
    let prompt: Vec<u32> = (0..192).map(|i| i % 90).collect();
    let (mut cache, mut workspace) = (model.new_cache(), Workspace::default());
    let mut prefill_once = || {
        cache.truncate(0);
        let chunk = Chunk {
            cache: &mut cache,
            tokens: &prompt,
            logits_from: prompt.len() - 1,
        };
        model.forward(&mut workspace, &mut [chunk]);
    };
    let group = model.thread_group(threads).expect("threads can be started");
    group.run(|| {
        prefill_once();
        let start = Instant::now();
        (0..TIMES).for_each(|_| prefill_once());
        (TIMES * prompt.len()) as f64 / start.elapsed().as_secs_f64()
    })
}

fn sample_peer(peer: &Path, arguments: &str, threads: usize) -> f64 {
    let mut command = Command::new("python3");
    command.arg(PathBuf::from(peer)).arg("sample");
    command.args(arguments.split_whitespace());
    command.env("OMP_NUM_THREADS", threads.to_string());
    let (_, output) = run(&mut command);
    common::number(&String::from_utf8_lossy(&output), "tok/s=")
}
