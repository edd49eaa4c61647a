//! How long a training step and a sample take: `cargo bench`, or `cargo bench -- train` for one
//! half of it.
//!
//! The shapes are n_embd/n_head/n_layer/block_size, and the text is built in, so that it runs
//! anywhere. Throughput is in tokens: predicted ones while training, sampled ones while generating.

use std::sync::Arc;

use candle_core::Device;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use microgpt::data::{BUILT_IN_NAMES, Corpus, Dataset};
use microgpt::model::{
    GenerateOptions, Generator, InferenceGpt, ModelConfig, ModelMeta, Sample, initial_weights,
};
use microgpt::train::{Recipe, Schedule, TrainConfig, TrainState, Trainer};

const fn shape(n_embd: usize, n_head: usize, n_layer: usize, block_size: usize) -> ModelConfig {
    ModelConfig {
        n_embd,
        n_head,
        n_layer,
        block_size,
    }
}

fn name(config: ModelConfig) -> String {
    let ModelConfig {
        n_embd,
        n_head,
        n_layer,
        block_size,
    } = config;
    format!("{n_embd}/{n_head}/{n_layer}/{block_size}")
}

/// Names for the small models; for the others lines that fill the context, of names one after
/// another.
fn text(config: ModelConfig) -> String {
    if config.block_size <= 16 {
        return BUILT_IN_NAMES.to_string();
    }
    let names: Vec<char> = BUILT_IN_NAMES.replace('\n', " ").chars().collect();
    let lines = names.chunks_exact(config.block_size);
    lines
        .flat_map(|line| {
            line.iter()
                .map(|c| if *c == ' ' { '.' } else { *c })
                .chain(['\n'])
        })
        .collect()
}

fn training_step(c: &mut Criterion) {
    let shapes = [
        (shape(16, 4, 1, 16), 16),
        (shape(64, 4, 1, 16), 16),
        (shape(128, 4, 4, 64), 12),
        (shape(128, 8, 4, 256), 8),
    ];
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut group = c.benchmark_group("train");
    group.sample_size(20);
    for (config, batch_size) in shapes {
        let text = text(config);
        let corpus = Corpus::documents(&text).expect("there is text");
        let meta = ModelMeta {
            config,
            tokenizer: corpus.tokenizer(),
        };
        let dataset = Dataset::new(&corpus, &meta.tokenizer, config.block_size, 42)
            .expect("it is a text model");
        let tokens: usize = dataset
            .batch(0, 1000, 1)
            .iter()
            .map(|batch| batch.targets.len())
            .sum();
        // Long enough that the learning rate never reaches the end, small enough that the loss
        // stays a number.
        let train = TrainConfig {
            steps: u32::MAX.into(),
            threads,
            recipe: Recipe {
                batch_size,
                lr: 1e-4,
                schedule: Schedule::Constant,
                ..Default::default()
            },
        };
        let mut trainer = Trainer::new(train, TrainState::fresh(meta, 42), dataset, &Device::Cpu)
            .expect("it can be trained");
        group.throughput(Throughput::Elements((tokens * batch_size / 1000) as u64));
        group.bench_function(format!("{} x {batch_size}", name(config)), |b| {
            b.iter(|| trainer.step().expect("a step"));
        });
    }
    group.finish();
}

fn generation(c: &mut Criterion) {
    let mut group = c.benchmark_group("generate one stream");
    group.sample_size(20);
    for config in [
        shape(16, 4, 1, 16),
        shape(128, 8, 4, 256),
        shape(256, 8, 8, 512),
    ] {
        let corpus = Corpus::documents(BUILT_IN_NAMES).expect("there is text");
        let meta = ModelMeta {
            config,
            tokenizer: corpus.tokenizer(),
        };
        let weights = initial_weights(config, meta.tokenizer.vocab_size(), 42);
        let model = Arc::new(InferenceGpt::new(meta, weights));
        let generator =
            Generator::new(model, GenerateOptions::default()).expect("the options are fine");
        // Every token that is not shown is the closing one.
        let tokens = |sample: Sample| match sample {
            Sample::Text(text) | Sample::Passage(text) => {
                (text.len() + 1).min(config.block_size) as u64
            }
            Sample::Conversation(_) => 0,
        };
        const SAMPLES: u64 = 8;
        let total = (0..SAMPLES)
            .map(|index| tokens(generator.sample(index)))
            .sum();
        group.throughput(Throughput::Elements(total));
        group.bench_function(name(config), |b| {
            b.iter(|| {
                (0..SAMPLES)
                    .map(|index| tokens(generator.sample(index)))
                    .sum::<u64>()
            });
        });
    }
    group.finish();
}

fn main_groups() -> Criterion {
    // As in the program: candle's own threads would be in the way of ours.
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    Criterion::default()
}

criterion_group!(name = benches; config = main_groups(); targets = training_step, generation);
criterion_main!(benches);
