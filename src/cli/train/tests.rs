//! Crash safety of checkpoints, from training to generation.

use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;

use crate::data::{Corpus, Dataset};
use crate::engine::{GenerateOptions, Generator, Sample};
use crate::infer::InferenceGpt;
use crate::model::{ModelConfig, ModelMeta};
use crate::store::Snapshot;
use crate::store::faults::{self, Fault};
use crate::train::{Checkpoint, Hyperparameters, Schedule, TrainConfig, Trainer};

const TEXT: &str = "abc\ncab\nbb\ncabba\naa";

fn initial() -> Checkpoint {
    let config = ModelConfig {
        n_embd: 4,
        n_head: 2,
        n_layer: 1,
        block_size: 8,
    };
    let tokenizer = Corpus::documents(TEXT).unwrap().tokenizer();
    Checkpoint::initial(ModelMeta { config, tokenizer }, 1)
}

/// Trains `steps` more steps.
fn train(checkpoint: Checkpoint, steps: u64) -> Checkpoint {
    let hyperparameters = Hyperparameters {
        batch_size: 2,
        schedule: Schedule::Constant,
        ..Default::default()
    };
    let corpus = Corpus::documents(TEXT).unwrap();
    let dataset = Dataset::new(&corpus, &checkpoint.meta.tokenizer, 8, 1).unwrap();
    let config = TrainConfig {
        steps,
        hyperparameters,
        threads: 1,
    };
    let mut trainer = Trainer::new(config, checkpoint, dataset, &Device::Cpu).unwrap();
    while !trainer.is_done() {
        trainer.step().unwrap();
    }
    trainer.checked_checkpoint(None, None).unwrap()
}

/// Generates samples from a model directory.
fn generate(dir: &Path) -> Vec<Sample> {
    let (meta, weights) = ModelMeta::load(&Snapshot::open(dir).unwrap()).unwrap();
    let model = Arc::new(InferenceGpt::new(meta, weights));
    let generator = Generator::new(model, GenerateOptions::default()).unwrap();
    (0..5).map(|index| generator.sample(index)).collect()
}

/// An interrupted save leaves a directory that loads, generates and resumes as the old or the new
/// checkpoint does.
#[test]
fn save_interrupted_at_every_step_leaves_a_resumable_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let old = train(initial(), 2);
    let new = train(old.clone(), 1);
    let end = train(new.clone(), 2);
    let samples = [&old, &new].map(|checkpoint| {
        let dir = root.path().join(checkpoint.state.step.to_string());
        checkpoint.save(&dir).unwrap();
        generate(&dir)
    });
    for fault in [Fault::Full, Fault::Fails, Fault::Killed] {
        let mut found = [0, 0];
        for at in 0.. {
            let dir = root.path().join(format!("{fault:?}-{at}"));
            old.save(&dir).unwrap();
            faults::inject(fault, at);
            let _ = catch_unwind(|| new.save(&dir));
            let steps = faults::steps();
            faults::clear();

            let checkpoint = Checkpoint::load(&Snapshot::open(&dir).unwrap()).unwrap();
            let which = usize::from(checkpoint.state == new.state);
            assert!(checkpoint == *[&old, &new][which], "{fault:?} at {at}");
            assert_eq!(generate(&dir), samples[which], "{fault:?} at {at}");
            let left = end.state.step - checkpoint.state.step;
            assert!(train(checkpoint, left) == end, "{fault:?} at {at}");
            found[which] += 1;
            if steps <= at {
                break;
            }
        }
        // The rename of the commit file decides. Six files are written before it.
        assert!(found[0] > 6 * 3 && found[1] > 5, "{fault:?}: {found:?}");
    }
}
