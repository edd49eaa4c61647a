//! Bit-exactness of inference: a token's logits depend neither on its batch nor on the machine.

use super::thread_group::group_size;
use super::*;
use crate::data::{CorpusKind, Tokenizer};
use crate::kernels::cpu::cores;
use crate::kernels::cpu::test_override::for_each_cpu;
use crate::model::{ModelConfig, ModelMeta, initial_weights};
use crate::store::{Precision, TensorFile, encode_tensors};

/// Sizes around and between the widths of vectors.
const CONFIGS: [ModelConfig; 5] = [
    config(16, 4, 1, 16),
    config(12, 3, 2, 21),
    config(6, 1, 1, 5),
    config(1, 1, 2, 9),
    config(40, 2, 1, 33),
];

const fn config(n_embd: usize, n_head: usize, n_layer: usize, block_size: usize) -> ModelConfig {
    ModelConfig {
        n_embd,
        n_head,
        n_layer,
        block_size,
    }
}

fn model(config: ModelConfig, precision: Precision) -> InferenceGpt {
    let tokenizer = Tokenizer::from_texts(["abcdefghij"].into_iter(), CorpusKind::Documents);
    let meta = ModelMeta { config, tokenizer };
    let mut weights = initial_weights(config, meta.tokenizer.vocab_size(), 3);
    for weight in weights.values_mut().flat_map(|tensor| &mut tensor.values) {
        // Large enough that attention is not even, and exact in half precision.
        *weight = half::f16::from_f32(*weight * 8.0).to_f32();
    }
    let file = encode_tensors(&weights, precision)
        .and_then(|bytes| TensorFile::new(bytes.into(), meta.tensors(), true));
    InferenceGpt::new(meta, file.unwrap())
}

/// Sequences of different lengths.
fn sequences(config: ModelConfig, count: usize) -> Vec<Vec<u32>> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut sequence = || {
        let length = rng.usize(1..=config.block_size);
        (0..length).map(|_| rng.u32(0..11)).collect()
    };
    (0..count).map(|_| sequence()).collect()
}

/// The bits of the logits after each token of a sequence that is alone in its passes, `chunk_size`
/// tokens at a time.
fn bits_alone(model: &InferenceGpt, sequence: &[u32], chunk_size: usize) -> Vec<Vec<u64>> {
    let (mut cache, mut workspace) = (model.new_cache(), Workspace::default());
    let mut all = Vec::new();
    for tokens in sequence.chunks(chunk_size) {
        model.forward(&mut workspace, &mut [chunk(&mut cache, tokens)]);
        all.extend((0..tokens.len()).map(|i| bits(workspace.logits(i))));
    }
    all
}

fn chunk<'a>(cache: &'a mut SequenceCache, tokens: &'a [u32]) -> Chunk<'a> {
    Chunk {
        cache,
        tokens,
        logits_from: 0,
    }
}

fn bits(logits: &[f64]) -> Vec<u64> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn logits_have_the_same_bits_for_any_chunk_size() {
    for config in CONFIGS {
        let model = model(config, Precision::F32);
        for sequence in sequences(config, 3) {
            let expected = bits_alone(&model, &sequence, 1);
            for chunk_size in [2, 3, 4, 7, 8, 9, 64] {
                assert_eq!(
                    bits_alone(&model, &sequence, chunk_size),
                    expected,
                    "{config:?}"
                );
            }
        }
    }
}

#[test]
fn logits_have_the_same_bits_whichever_are_asked_for() {
    for config in CONFIGS {
        let model = model(config, Precision::F32);
        let sequence = &sequences(config, 2)[1];
        let expected = bits_alone(&model, sequence, 1);
        for logits_from in 0..=sequence.len() {
            let mut caches = [(); 3].map(|()| model.new_cache());
            // Nothing is asked for of the last sequence.
            let asked = [logits_from, 0, sequence.len()];
            let chunks = caches
                .iter_mut()
                .zip(asked)
                .map(|(cache, logits_from)| Chunk {
                    logits_from,
                    ..chunk(cache, sequence)
                });
            let mut workspace = Workspace::default();
            model.forward(&mut workspace, &mut chunks.collect::<Vec<_>>());
            let found: Vec<_> = workspace.all_logits().map(|logits| bits(logits)).collect();
            assert_eq!(found, [&expected[logits_from..], &expected].concat());
            for cache in &mut caches {
                let mut next = model.new_cache();
                next.copy_from(cache);
                next.truncate(sequence.len() - 1);
                let last = &sequence[sequence.len() - 1..];
                model.forward(&mut workspace, &mut [chunk(&mut next, last)]);
                assert_eq!(bits(workspace.logits(0)), *expected.last().unwrap());
            }
        }
    }
}

#[test]
fn logits_have_the_same_bits_in_any_batch() {
    for config in CONFIGS {
        let model = model(config, Precision::F32);
        for count in [1, 2, 3, 4, 5, 8, 11, 17] {
            compare_batch_with_alone(&model, count);
        }
    }
}

/// Compares sequences of one batch, each of which starts two steps after the one before, with the same
/// ones alone.
fn compare_batch_with_alone(model: &InferenceGpt, count: usize) {
    let config = model.meta().config;
    let sequences = sequences(config, count);
    let expected: Vec<_> = sequences.iter().map(|s| bits_alone(model, s, 1)).collect();
    let mut caches: Vec<SequenceCache> = sequences.iter().map(|_| model.new_cache()).collect();
    let mut workspace = Workspace::default();
    for step in 0..config.block_size + 2 * count {
        let mut positions = Vec::new();
        let mut chunks = Vec::new();
        for (i, (sequence, cache)) in sequences.iter().zip(&mut caches).enumerate() {
            if let Some(position) = step.checked_sub(2 * i)
                && position < sequence.len()
            {
                positions.push((i, position));
                chunks.push(chunk(cache, &sequence[position..=position]));
            }
        }
        model.forward(&mut workspace, &mut chunks);
        assert_eq!(workspace.all_logits().count(), positions.len());
        for (logits, (i, position)) in positions.into_iter().enumerate() {
            assert_eq!(bits(workspace.logits(logits)), expected[i][position]);
        }
    }
}

#[test]
fn logits_have_the_same_bits_on_every_cpu() {
    for config in CONFIGS {
        let model = model(config, Precision::F32);
        for sequence in sequences(config, 3) {
            for chunk_size in [1, 3, 8, 13] {
                let expected = bits_alone(&model, &sequence, chunk_size);
                for_each_cpu(|width| {
                    let found = bits_alone(&model, &sequence, chunk_size);
                    assert!(found == expected, "{width:?}: {config:?}");
                });
            }
        }
    }
}

#[test]
fn f16_weights_of_the_same_values_give_the_same_bits() {
    for config in CONFIGS {
        let (full, half) = (model(config, Precision::F32), model(config, Precision::F16));
        for sequence in sequences(config, 2) {
            for chunk_size in [1, 8] {
                let expected = bits_alone(&full, &sequence, chunk_size);
                assert_eq!(bits_alone(&half, &sequence, chunk_size), expected);
            }
        }
    }
}

#[test]
fn copied_cache_gives_the_same_bits_as_the_original() {
    let config = CONFIGS[1];
    let model = model(config, Precision::F32);
    let sequence = &sequences(config, 1)[0];
    let (mut first, mut workspace) = (model.new_cache(), Workspace::default());
    let mut second = model.new_cache();
    // The copy replaces these.
    model.forward(&mut workspace, &mut [chunk(&mut second, &[1, 2, 3])]);
    for (i, &token) in sequence.iter().enumerate() {
        second.copy_from(&first);
        model.forward(&mut workspace, &mut [chunk(&mut second, &[token])]);
        let copied = bits(workspace.logits(0));
        model.forward(&mut workspace, &mut [chunk(&mut first, &[token])]);
        assert_eq!(bits(workspace.logits(0)), copied, "after {i} tokens");
    }
}

#[test]
fn logits_have_the_same_bits_for_any_number_of_ranks() {
    // Also more ranks than there are heads, or rows.
    for ranks in [2, 3, 7] {
        let group = ThreadGroup::start(ranks).unwrap();
        for config in CONFIGS {
            for precision in [Precision::F32, Precision::F16] {
                let model = model(config, precision);
                for sequence in sequences(config, 2) {
                    let expected = bits_alone(&model, &sequence, 1);
                    for chunk_size in [1, 2, 7, 64] {
                        let found = group.run(|| bits_alone(&model, &sequence, chunk_size));
                        assert!(found == expected, "{ranks} ranks, {config:?}");
                    }
                }
                group.run(|| compare_batch_with_alone(&model, 3));
            }
        }
    }
}

#[test]
fn workspace_serves_groups_of_different_sizes() {
    let config = config(12, 3, 2, 21);
    let model = model(config, Precision::F32);
    let sequence = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    let expected = bits_alone(&model, &sequence, 1);
    let groups = [3, 1, 2].map(|ranks| ThreadGroup::start(ranks).unwrap());
    let (mut cache, mut workspace) = (model.new_cache(), Workspace::default());
    for (i, (token, expected)) in sequence.iter().zip(expected).enumerate() {
        let chunks = &mut [chunk(&mut cache, std::slice::from_ref(token))];
        groups[i % 3].run(|| model.forward(&mut workspace, chunks));
        assert_eq!(bits(workspace.logits(0)), expected);
    }
}

#[test]
fn small_models_get_a_single_thread() {
    let size = |config, threads| {
        let group = model(config, Precision::F32).thread_group(threads).unwrap();
        group.run(group_size)
    };
    assert_eq!(size(config(16, 4, 1, 16), 2), 1);
    assert_eq!(size(config(128, 4, 1, 16), 1), 1);
    assert_eq!(size(config(128, 4, 1, 16), 2), cores().min(2));
    assert_eq!(size(config(128, 4, 1, 16), 64), cores().min(2));
}
