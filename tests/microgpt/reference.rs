//! Logits, losses and gradients against those of the original algorithm in float64
//! (`../shared/reference`), and consistency of the two models.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use microgpt::data::{Batch, Corpus, CorpusKind, Dataset, Tokenizer};
use microgpt::engine::{ScoreOptions, Scorer};
use microgpt::infer::{Chunk, InferenceGpt, Workspace};
use microgpt::model::{
    ModelConfig, ModelMeta, TensorGpt, initial_weights, to_named_tensor, unstack,
};
use microgpt::store::{NamedTensor, Tensors};
use microgpt::train::{Checkpoint, Hyperparameters, Schedule, TrainConfig, Trainer};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::program::shared;

/// The tensors of a reference file (f32 or f64) by name: shape and values.
fn numbers(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |view: &safetensors::tensor::TensorView| -> Vec<f64> {
        match view.dtype() {
            safetensors::Dtype::F64 => view
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|b| f64::from_le_bytes(*b))
                .collect(),
            safetensors::Dtype::F32 => view
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b).into())
                .collect(),
            other => panic!("{other:?}"),
        }
    };
    file.tensors()
        .iter()
        .map(|(name, view)| (name.clone(), (view.shape().to_vec(), values(view))))
        .collect()
}

fn weights(numbers: &BTreeMap<String, (Vec<usize>, Vec<f64>)>, prefix: &str) -> Tensors {
    let tensor = |(shape, values): &(Vec<usize>, Vec<f64>)| NamedTensor {
        shape: shape.clone(),
        values: values.iter().map(|v| *v as f32).collect(),
    };
    numbers
        .iter()
        .filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), tensor(t))))
        .collect()
}

fn config(json: &Value) -> ModelConfig {
    let size = |name: &str| json[name].as_u64().unwrap() as usize;
    ModelConfig {
        n_embd: size("n_embd"),
        n_head: size("n_head"),
        n_layer: size("n_layer"),
        block_size: size("block_size"),
    }
}

/// A tokenizer with `vocab_size` tokens of arbitrary characters.
fn tokenizer(vocab_size: usize) -> Tokenizer {
    Tokenizer::new(
        (0..vocab_size as u32 - 1)
            .map(|i| char::from_u32('A' as u32 + i).unwrap())
            .collect(),
        CorpusKind::Documents,
    )
    .unwrap()
}

/// The maximum absolute difference, relative to the maximum absolute expected value.
fn difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f64, |max, v| max.max(v.abs()));
    found
        .iter()
        .zip(expected)
        .fold(0f64, |max, (f, e)| max.max((f - e).abs()))
        / largest
}

fn tensor_logits(model: &TensorGpt, documents: &[&[u32]]) -> Vec<f64> {
    to_f64(&model.forward(&Batch::new(documents)).unwrap())
}

fn to_f64(tensor: &Tensor) -> Vec<f64> {
    let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f64::from).collect()
}

/// The logits after each token of a document, `[T, vocab_size]`.
fn inference_logits(model: &InferenceGpt, tokens: &[u32]) -> Vec<f64> {
    let (mut cache, mut workspace) = (model.new_cache(), Workspace::default());
    let chunk = Chunk {
        cache: &mut cache,
        tokens,
        logits_from: 0,
    };
    model.forward(&mut workspace, &mut [chunk]);
    (0..tokens.len())
        .flat_map(|index| workspace.logits(index).to_vec())
        .collect()
}

/// The gradients by the tensor names of a model directory.
fn by_name(model: &TensorGpt, gradients: &GradStore) -> BTreeMap<String, Vec<f64>> {
    let mut tensors = Tensors::new();
    for (name, var) in model.vars() {
        let gradient = to_named_tensor(gradients.get(&var).unwrap()).unwrap();
        unstack(&name, gradient, &mut tensors);
    }
    let wide = |tensor: NamedTensor| tensor.values.into_iter().map(f64::from).collect();
    tensors
        .into_iter()
        .map(|(name, t)| (name, wide(t)))
        .collect()
}

fn check_gradients(name: &str) {
    let Some(json) = shared(&format!("reference/{name}.json")) else {
        return;
    };
    let json: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let reference = numbers(&shared(&format!("reference/{name}.safetensors")).unwrap());
    let config = config(&json["config"]);
    let weights = weights(&reference, "weight.");
    let documents: Vec<Vec<u32>> = serde_json::from_value(json["docs"].clone()).unwrap();
    let documents: Vec<&[u32]> = documents
        .iter()
        .map(|d| &d[..d.len().min(config.block_size + 1)])
        .collect();
    let model = TensorGpt::from_tensors(config, &weights, &Device::Cpu).unwrap();

    let batch = Batch::new(&documents);
    let loss = model.loss(&batch, batch.targets.len(), None).unwrap();
    let expected = json["loss"].as_f64().unwrap();
    let found = f64::from(loss.to_scalar::<f32>().unwrap());
    assert!(
        (found - expected).abs() / expected < 1e-6,
        "loss {found}, expected {expected}"
    );
    let gradients = loss.backward().unwrap();
    for (name, gradient) in by_name(&model, &gradients) {
        let error = difference(&gradient, &reference[&format!("grad.{name}")].1);
        assert!(error < 2e-5, "the gradient of {name} differs by {error}");
    }

    let logits0 = &reference["logits0"].1;
    let error = difference(&tensor_logits(&model, &documents[..1]), logits0);
    assert!(error < 5e-6, "TensorGpt's logits differ by {error}");

    let vocab_size = json["vocab_size"].as_u64().unwrap() as usize;
    let meta = ModelMeta {
        config,
        tokenizer: tokenizer(vocab_size),
    };
    let inference = InferenceGpt::from_tensors(meta, &weights);
    let error = difference(
        &inference_logits(&inference, &documents[0][..documents[0].len() - 1]),
        logits0,
    );
    assert!(error < 1e-9, "InferenceGpt's logits differ by {error}");

    let scores = Scorer::new(&inference, ScoreOptions::default()).score_tokens(&documents);
    let bits: f64 = scores.iter().map(|score| score.bits).sum();
    let tokens: usize = scores.iter().map(|score| score.tokens).sum();
    let found = bits / tokens as f64 * std::f64::consts::LN_2;
    assert!(
        (found / expected - 1.0).abs() < 1e-9,
        "the score is {found}, expected {expected}"
    );
}

#[test]
fn small_model_matches_reference_logits_loss_and_gradients() {
    check_gradients("grad-a");
}

#[test]
fn large_model_matches_reference_logits_loss_and_gradients() {
    check_gradients("grad-b");
}

/// The run of microgpt.py: 1,000 steps from its initial weights, one document per step.
#[test]
fn training_follows_the_reference_run_of_1000_steps() {
    let Some(json) = shared("reference/gist.json") else {
        return;
    };
    let json: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let documents: Vec<String> = serde_json::from_value(json["docs"].clone()).unwrap();
    let expected: Vec<f64> = serde_json::from_value(json["losses"].clone()).unwrap();
    let text = documents.join("\n");
    let corpus = Corpus::documents(&text).unwrap();
    let charset: Vec<char> = json["charset"].as_str().unwrap().chars().collect();
    let meta = ModelMeta {
        config: config(&json["config"]),
        tokenizer: Tokenizer::new(charset, CorpusKind::Documents).unwrap(),
    };
    assert_eq!(
        u64::from(meta.tokenizer.bos()),
        json["bos"].as_u64().unwrap()
    );
    let weights = weights(
        &numbers(&shared("reference/gist_init.safetensors").unwrap()),
        "",
    );
    let dataset = Dataset::new(&corpus, &meta.tokenizer, meta.config.block_size, 0).unwrap();
    let dataset = dataset.unshuffled();
    let config = TrainConfig {
        steps: 1000,
        threads: 1,
        hyperparameters: Hyperparameters {
            batch_size: 1,
            ..Default::default()
        },
    };
    let checkpoint = Checkpoint::untrained(meta, weights);
    let mut trainer = Trainer::new(config, checkpoint, dataset, &Device::Cpu).unwrap();

    let losses: Vec<f64> = expected
        .iter()
        .map(|_| trainer.step().unwrap().loss)
        .collect();
    for (step, (found, expected)) in losses.iter().zip(&expected).take(100).enumerate() {
        assert!(
            (found - expected).abs() < 1e-4,
            "step {step}: {found}, expected {expected}"
        );
    }
    let tail = |losses: &[f64]| losses[900..].iter().sum::<f64>() / 100.0;
    assert!(
        (tail(&losses) - tail(&expected)).abs() < 0.01,
        "{} and {}",
        tail(&losses),
        tail(&expected)
    );
    assert!((tail(&losses) - 2.2761).abs() < 0.01, "{}", tail(&losses));
}

fn random_model(config: ModelConfig, vocab_size: usize) -> (TensorGpt, Tensors) {
    let mut weights = initial_weights(config, vocab_size, 3);
    // Larger than usual initial weights, so that every layer affects the logits.
    weights
        .values_mut()
        .flat_map(|t| &mut t.values)
        .for_each(|w| *w *= 5.0);
    (
        TensorGpt::from_tensors(config, &weights, &Device::Cpu).unwrap(),
        weights,
    )
}

const ODD: ModelConfig = ModelConfig {
    n_embd: 15,
    n_head: 5,
    n_layer: 2,
    block_size: 9,
};

fn random_documents(count: usize, vocab_size: u32) -> Vec<Vec<u32>> {
    let mut rng = fastrand::Rng::with_seed(5);
    (0..count)
        .map(|_| {
            (0..rng.usize(2..=10))
                .map(|_| rng.u32(0..vocab_size))
                .collect()
        })
        .collect()
}

#[test]
fn packed_batch_matches_single_documents() {
    let (model, _) = random_model(ODD, 12);
    let documents = random_documents(20, 12);
    let documents: Vec<&[u32]> = documents.iter().map(Vec::as_slice).collect();
    let packed = tensor_logits(&model, &documents);
    let single: Vec<f64> = documents
        .iter()
        .flat_map(|document| tensor_logits(&model, &[document]))
        .collect();
    assert!(difference(&packed, &single) < 2e-6);
}

#[test]
fn tensor_gpt_and_inference_gpt_logits_agree() {
    let (model, weights) = random_model(ODD, 12);
    let meta = ModelMeta {
        config: ODD,
        tokenizer: tokenizer(12),
    };
    let inference = InferenceGpt::from_tensors(meta, &weights);
    assert_eq!(inference.to_tensors(), weights);
    assert_eq!(model.to_tensors().unwrap(), weights);
    for document in random_documents(20, 12) {
        let logits = tensor_logits(&model, &[&document]);
        let exact = inference_logits(&inference, &document[..document.len() - 1]);
        assert!(difference(&logits, &exact) < 5e-6);
    }
}

/// Compares four entries of each gradient with central differences of the f64 loss.
#[test]
fn gradients_match_finite_differences() {
    let (model, weights) = random_model(ODD, 7);
    let documents = random_documents(4, 7);
    let documents: Vec<&[u32]> = documents.iter().map(Vec::as_slice).collect();
    let batch = Batch::new(&documents);
    let count = batch.targets.len();
    let gradients = model.loss(&batch, count, None).unwrap().backward().unwrap();
    let meta = ModelMeta {
        config: ODD,
        tokenizer: tokenizer(7),
    };
    let loss = |weights: &Tensors| {
        let model = InferenceGpt::from_tensors(meta.clone(), weights);
        let document_loss = |document: &&[u32]| -> f64 {
            let logits = inference_logits(&model, &document[..document.len() - 1]);
            let logits = logits.chunks_exact(7).zip(&document[1..]);
            logits
                .map(|(logits, &next)| {
                    let max = logits.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = logits.iter().map(|l| (l - max).exp()).sum();
                    max + sum.ln() - logits[next as usize]
                })
                .sum()
        };
        documents.iter().map(document_loss).sum::<f64>() / count as f64
    };
    let mut rng = fastrand::Rng::with_seed(8);
    for (name, gradient) in by_name(&model, &gradients) {
        for _ in 0..4 {
            let at = rng.usize(0..gradient.len());
            let mut moved = weights.clone();
            // The difference of the rounded f32 weights, not the nominal step.
            let mut loss_at = |by: f32| {
                let start = weights[&name].values[at];
                moved.get_mut(&name).unwrap().values[at] = start + by;
                (loss(&moved), f64::from(start + by))
            };
            let ((up, above), (down, below)) = (loss_at(1e-3), loss_at(-1e-3));
            let slope = (up - down) / (above - below);
            let found = gradient[at];
            assert!(
                (found - slope).abs() < 1e-5 + 1e-3 * slope.abs(),
                "{name}[{at}]: {found}, the slope is {slope}"
            );
        }
    }
}

fn names_trainer(threads: usize, batch_size: usize) -> Trainer {
    let corpus = Corpus::documents(microgpt::data::BUILT_IN_NAMES).unwrap();
    let meta = ModelMeta {
        config: ModelConfig::default(),
        tokenizer: corpus.tokenizer(),
    };
    let dataset = Dataset::new(&corpus, &meta.tokenizer, meta.config.block_size, 1).unwrap();
    let config = TrainConfig {
        steps: 20,
        threads,
        hyperparameters: Hyperparameters {
            batch_size,
            schedule: Schedule::Constant,
            ..Default::default()
        },
    };
    Trainer::new(config, Checkpoint::initial(meta, 1), dataset, &Device::Cpu).unwrap()
}

#[test]
fn thread_count_changes_losses_only_by_rounding() {
    let run = |threads| {
        let mut trainer = names_trainer(threads, 13);
        let losses: Vec<f64> = (0..20).map(|_| trainer.step().unwrap().loss).collect();
        (losses, trainer.checkpoint(None, None).unwrap().weights)
    };
    let (one, _) = run(1);
    let (three, weights) = run(3);
    assert!(difference(&three, &one) < 1e-4);
    let (again, same_weights) = run(3);
    assert_eq!(three, again);
    assert_eq!(weights, same_weights);
    // More threads than documents.
    assert!(difference(&run(64).0, &one) < 1e-4);
}

#[test]
fn nan_loss_stops_before_the_weight_update() {
    let mut trainer = names_trainer(1, 4);
    let mut checkpoint = trainer.checkpoint(None, None).unwrap();
    checkpoint.weights.get_mut("lm_head").unwrap().values[0] = f32::INFINITY;
    let corpus = Corpus::documents("ab").unwrap();
    let dataset = Dataset::new(&corpus, &checkpoint.meta.tokenizer, 16, 1).unwrap();
    let config = TrainConfig {
        steps: 1,
        threads: 1,
        hyperparameters: Hyperparameters {
            batch_size: 1,
            lr: 0.5,
            ..Default::default()
        },
    };
    let before = checkpoint.weights.clone();
    trainer = Trainer::new(config, checkpoint, dataset, &Device::Cpu).unwrap();
    let error = trainer.step().unwrap_err().to_string();
    assert!(error.contains("--lr 0.5"), "{error}");
    assert_eq!(trainer.checkpoint(None, None).unwrap().weights, before);
}
