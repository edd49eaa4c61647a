//! Validation: held-out data, the best model, patience; hyperparameters of a resumed run.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::program::run_in;

fn json_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

fn state(dir: &Path, model: &str) -> Value {
    let bytes = fs::read(dir.join(model).join("train_state.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn best_model_by_validation_loss_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    // The model overfits 20 names, so the validation loss rises again.
    let names: Vec<&str> = microgpt::data::BUILT_IN_NAMES.lines().take(25).collect();
    fs::write(dir.path().join("names"), names.join("\n")).unwrap();
    let options = "--input names --n-embd 32 --validation-fraction 0.2 --eval-every 20";
    let line =
        format!("train {options} --steps 400 --log log --threads 1 -o model --plot loss.svg");
    let output = run_in(dir.path(), &line).ok();
    assert!(
        output.stderr.contains("5 of them held out"),
        "{}",
        output.stderr
    );

    let tests: Vec<Value> = json_lines(&dir.path().join("log"))
        .into_iter()
        .filter(|line| line.get("validation_loss").is_some())
        .collect();
    assert_eq!(tests.len(), 20);
    let loss = |test: &Value| test["validation_loss"].as_f64().unwrap();
    let best = tests
        .iter()
        .min_by(|a, b| loss(a).total_cmp(&loss(b)))
        .unwrap();
    let state = state(dir.path(), "model");
    assert!(best["step"].as_u64().unwrap() < 400, "it is not the last");
    for key in ["step", "validation_loss", "validation_bits"] {
        assert_eq!(state[key], best[key], "{key}");
    }
    let bits = best["validation_bits"].as_f64().unwrap();
    assert!((bits - loss(best) / 2f64.ln()).abs() < 1e-12);
    let saved = format!("the best model by validation: step {}, ", best["step"]);
    assert!(output.stderr.contains(&saved), "{}", output.stderr);
    assert!(!dir.path().join("model/best").exists());
    run_in(dir.path(), "generate -m model -n 1").ok();

    let svg = fs::read_to_string(dir.path().join("loss.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<circle").count(), 20);

    // --patience stops the same run earlier, with the same model.
    let line = format!("train {options} --steps 400 --patience 3 --threads 1 -o patient");
    let output = run_in(dir.path(), &line).ok();
    assert!(
        output
            .stderr
            .contains("3 evaluations in a row brought no better"),
        "{}",
        output.stderr
    );
    let patient = self::state(dir.path(), "patient");
    assert!(patient["step"].as_u64() <= best["step"].as_u64());
    assert!(loss(&patient) >= loss(best));
}

#[test]
fn resumed_run_keeps_the_validation_set_and_best_loss() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<&str> = microgpt::data::BUILT_IN_NAMES.lines().take(25).collect();
    fs::write(dir.path().join("names"), names.join("\n")).unwrap();
    let options = "--input names --n-embd 32 --validation-fraction 0.2 --threads 1";
    run_in(
        dir.path(),
        &format!("train {options} --steps 100 --eval-every 10 -o model"),
    )
    .ok();
    let before = state(dir.path(), "model");
    // The resumed run only gets worse, so the saved best model stays.
    let output = run_in(
        dir.path(),
        "train --resume model --steps 200 --lr 0.5 --threads 1",
    )
    .ok();
    assert!(
        output.stderr.contains("5 of them held out"),
        "{}",
        output.stderr
    );
    let after = state(dir.path(), "model");
    assert_eq!(after["step"], before["step"]);
    let loss = |state: &Value| state["validation_loss"].as_f64().unwrap();
    assert!((loss(&after) - loss(&before)).abs() < 1e-9);
    // --patience without validation data is an error.
    let line = "train --resume model --validation-fraction 0 --patience 3 --threads 1";
    let error = run_in(dir.path(), line).error(2);
    assert!(
        error.contains("--patience needs --validation-fraction"),
        "{error}"
    );
}

#[test]
fn validation_loss_is_computed_on_held_out_text() {
    let dir = tempfile::tempdir().unwrap();
    // The last tenth differs from the rest, so a model of the rest has a high loss there.
    let text = "ab".repeat(450) + &"ba\n".repeat(33);
    fs::write(dir.path().join("text"), text).unwrap();
    let line =
        "train --text --input text --steps 60 --validation-fraction 0.1 --log log --threads 1";
    run_in(dir.path(), line).ok();
    let log = json_lines(&dir.path().join("log"));
    let (last, training) = (&log[59], log[59]["loss"].as_f64().unwrap());
    let validation = last["validation_loss"].as_f64().unwrap();
    assert!(
        training < 0.3 && validation > 1.0,
        "{training} {validation}"
    );
}

#[test]
fn hyperparameters_are_applied_and_restored_on_resume() {
    let dir = tempfile::tempdir().unwrap();
    let options = "--batch-size 4 --threads 1 --steps 20 --schedule constant";
    let shapes = "--warmup-steps 4 --weight-decay 0.5 --grad-clip 0.1 --beta1 0.9 --beta2 0.95";
    let line = format!("train {options} {shapes} --log log -o whole");
    let output = run_in(dir.path(), &line).ok();
    let plan = "learning rate 0.01 constant after 4 steps of warm-up, seed 42";
    assert!(output.stderr.contains(plan), "{}", output.stderr);
    let rates: Vec<f64> = json_lines(&dir.path().join("log"))
        .iter()
        .map(|line| line["lr"].as_f64().unwrap())
        .collect();
    assert_eq!(rates[..5], [0.0025, 0.005, 0.0075, 0.01, 0.01]);
    let options = options.replace("--steps 20", "--steps 8");
    run_in(dir.path(), &format!("train {options} {shapes} -o part")).ok();
    run_in(dir.path(), "train --resume part --steps 12 --threads 1").ok();
    let weights = |name: &str| fs::read(dir.path().join(name).join("weights.safetensors")).unwrap();
    assert!(weights("whole") == weights("part"));
    // Each option changes the result.
    for shape in shapes.split(" --") {
        let without = shapes.replace(shape.trim_start_matches("--"), "");
        let without: Vec<&str> = without
            .split_whitespace()
            .filter(|word| *word != "--")
            .collect();
        let line = format!("train {options} {} -o other --force", without.join(" "));
        run_in(dir.path(), &line).ok();
        run_in(dir.path(), "train --resume other --steps 12 --threads 1").ok();
        assert!(weights("other") != weights("whole"), "{shape}");
    }
}
