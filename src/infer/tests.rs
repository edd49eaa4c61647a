//! Bit-exactness of inference: a token's logits depend neither on its batch nor on the machine.

use super::*;
use crate::data::{CorpusKind, Tokenizer};
use crate::kernels::cpu::test_override::for_each_cpu;
use crate::model::{ModelConfig, initial_weights};

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

/// Texts of different lengths.
fn texts(config: ModelConfig, count: usize) -> Vec<Vec<u32>> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut text = || {
        let length = rng.usize(1..=config.block_size);
        (0..length).map(|_| rng.u32(0..11)).collect()
    };
    (0..count).map(|_| text()).collect()
}

/// The logits' bits after each token of a text that goes through the model in pieces.
fn bits_alone(model: &InferenceGpt, text: &[u32], piece: usize) -> Vec<Vec<u64>> {
    let (mut stream, mut room) = (model.new_cache(), Workspace::default());
    let mut all = Vec::new();
    for tokens in text.chunks(piece) {
        model.forward(&mut room, &mut [run(&mut stream, tokens)]);
        all.extend((0..tokens.len()).map(|i| bits(room.logits(i))));
    }
    all
}

fn run<'a>(stream: &'a mut SequenceCache, tokens: &'a [u32]) -> Chunk<'a> {
    Chunk {
        stream,
        tokens,
        logits_from: 0,
    }
}

fn bits(logits: &[f64]) -> Vec<u64> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn a_text_in_any_pieces_is_the_same_to_the_bit() {
    for config in CONFIGS {
        let model = model(config, Precision::F32);
        for text in texts(config, 3) {
            let expected = bits_alone(&model, &text, 1);
            for piece in [2, 3, 4, 7, 8, 9, 64] {
                assert_eq!(bits_alone(&model, &text, piece), expected, "{config:?}");
            }
        }
    }
}

#[test]
fn a_text_among_others_is_the_same_to_the_bit() {
    for config in CONFIGS {
        let model = model(config, Precision::F32);
        for count in [1, 2, 3, 4, 5, 8, 11, 17] {
            among_others(&model, count);
        }
    }
}

/// Compares some texts, each of which begins when the others are somewhere else, with the same ones
/// alone.
fn among_others(model: &InferenceGpt, count: usize) {
    let config = model.meta().config;
    let texts = texts(config, count);
    let expected: Vec<_> = texts.iter().map(|t| bits_alone(model, t, 1)).collect();
    let mut streams: Vec<SequenceCache> = texts.iter().map(|_| model.new_cache()).collect();
    let mut room = Workspace::default();
    for step in 0..config.block_size + 2 * count {
        let mut places = Vec::new();
        let mut runs = Vec::new();
        for (i, (text, stream)) in texts.iter().zip(&mut streams).enumerate() {
            if let Some(token) = step.checked_sub(2 * i)
                && token < text.len()
            {
                places.push((i, token));
                runs.push(run(stream, &text[token..=token]));
            }
        }
        model.forward(&mut room, &mut runs);
        assert_eq!(room.all_logits().count(), places.len());
        for (logits, (text, token)) in places.into_iter().enumerate() {
            assert_eq!(bits(room.logits(logits)), expected[text][token]);
        }
    }
}

#[test]
fn every_width_of_vectors_gives_the_same_bits() {
    for config in CONFIGS {
        let model = model(config, Precision::F32);
        for text in texts(config, 3) {
            for piece in [1, 3, 8, 13] {
                let expected = bits_alone(&model, &text, piece);
                for_each_cpu(|width| {
                    let found = bits_alone(&model, &text, piece);
                    assert!(found == expected, "{width:?}: {config:?}");
                });
            }
        }
    }
}

#[test]
fn half_precision_weights_that_are_the_same_numbers_give_the_same_bits() {
    for config in CONFIGS {
        let (full, half) = (model(config, Precision::F32), model(config, Precision::F16));
        for text in texts(config, 2) {
            for piece in [1, 8] {
                let expected = bits_alone(&full, &text, piece);
                assert_eq!(bits_alone(&half, &text, piece), expected);
            }
        }
    }
}

#[test]
fn a_copy_of_a_stream_goes_on_as_the_original_does() {
    let config = CONFIGS[1];
    let model = model(config, Precision::F32);
    let text = &texts(config, 1)[0];
    let (mut first, mut room) = (model.new_cache(), Workspace::default());
    let mut second = model.new_cache();
    // What was there before is forgotten.
    model.forward(&mut room, &mut [run(&mut second, &[1, 2, 3])]);
    for (i, &token) in text.iter().enumerate() {
        second.copy_from(&first);
        model.forward(&mut room, &mut [run(&mut second, &[token])]);
        let copied = bits(room.logits(0));
        model.forward(&mut room, &mut [run(&mut first, &[token])]);
        assert_eq!(bits(room.logits(0)), copied, "after {i} tokens");
    }
}

#[test]
fn texts_that_a_team_makes_are_the_same_to_the_bit() {
    // Also teams of more members than there are heads, or rows.
    for members in [2, 3, 7] {
        let team = ThreadGroup::start(members).unwrap();
        for config in CONFIGS {
            for precision in [Precision::F32, Precision::F16] {
                let model = model(config, precision);
                for text in texts(config, 2) {
                    let expected = bits_alone(&model, &text, 1);
                    for piece in [1, 2, 7, 64] {
                        let found = team.run(|| bits_alone(&model, &text, piece));
                        assert!(found == expected, "{members} members, {config:?}");
                    }
                }
                team.run(|| among_others(&model, 3));
            }
        }
    }
}

#[test]
fn a_room_may_change_between_teams() {
    let config = config(12, 3, 2, 21);
    let model = model(config, Precision::F32);
    let text = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    let expected = bits_alone(&model, &text, 1);
    let teams = [3, 1, 2].map(|members| ThreadGroup::start(members).unwrap());
    let (mut stream, mut room) = (model.new_cache(), Workspace::default());
    for (i, (token, expected)) in text.iter().zip(expected).enumerate() {
        let runs = &mut [run(&mut stream, std::slice::from_ref(token))];
        teams[i % 3].run(|| model.forward(&mut room, runs));
        assert_eq!(bits(room.logits(0)), expected);
    }
}

#[test]
fn threads_come_for_large_models_alone() {
    let size = |config, threads| {
        let team = model(config, Precision::F32).thread_group(threads).unwrap();
        team.run(thread_group::group_size)
    };
    assert_eq!(size(config(16, 4, 1, 16), 2), 1);
    assert_eq!(size(config(128, 4, 1, 16), 1), 1);
    assert_eq!(size(config(128, 4, 1, 16), 2), cores().min(2));
    assert_eq!(size(config(128, 4, 1, 16), 64), cores().min(2));
}
