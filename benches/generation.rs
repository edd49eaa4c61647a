//! How long a sample takes, one after another on one core: `cargo bench --bench generation`.
//!
//! The shapes are n_embd/n_head/n_layer/block_size, and the text is built in, so that it runs
//! anywhere. Throughput is in sampled tokens.

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use microgpt::data::{BUILT_IN_NAMES, Corpus};
use microgpt::model::{
    GenerateOptions, Generator, InferenceGpt, ModelConfig, ModelMeta, Sample, initial_weights,
};

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

criterion_group!(benches, generation);
criterion_main!(benches);
