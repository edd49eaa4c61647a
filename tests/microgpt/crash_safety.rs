//! Model directories under faults: SIGKILL, full disks, concurrent runs, exhausted descriptors.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{microgpt, run_in};
use crate::serve::Server;

const OPTIONS: &str = "--schedule constant --threads 1 --batch-size 2";

/// Starts a run of a billion steps that saves after each.
fn start(dir: &Path, options: &str) -> Child {
    let line = format!("train --steps 1000000000 --checkpoint-every 1 --quiet {options}");
    let mut command = microgpt();
    command.current_dir(dir).args(line.split_whitespace());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// The step count of a model, which must be complete and resumable.
fn step(dir: &Path, model: &str) -> u64 {
    let output = run_in(dir, &format!("info -m {model} --json")).ok();
    let info: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(info["can_resume"], true, "{info}");
    info["step"].as_u64().unwrap()
}

fn weights(dir: &Path, model: &str) -> Vec<u8> {
    std::fs::read(dir.join(model).join("weights.safetensors")).unwrap()
}

#[test]
fn sigkill_at_random_moments_never_loses_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run_in(dir, &format!("train --steps 1 -o model {OPTIONS}")).ok();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut last = 1;
    // Scaled to the time of ten steps, so that kills hit both startup and later saves at any machine
    // speed.
    let ten_steps = Instant::now();
    run_in(
        dir,
        &format!("train --steps 10 --checkpoint-every 1 -o other {OPTIONS}"),
    )
    .ok();
    let max_delay = 2 * ten_steps.elapsed().as_micros() as u64;
    for kill in 0..200 {
        let mut child = start(dir, "--resume model --threads 1");
        std::thread::sleep(Duration::from_micros(rng.u64(..max_delay)));
        child.kill().unwrap();
        child.wait().unwrap();
        let current = step(dir, "model");
        assert!(
            current >= last,
            "after kill {kill}: step {current}, before it {last}"
        );
        last = current;
        run_in(dir, "generate -m model -n 2").ok();
    }
    assert!(last > 50, "no kill came between saves: step {last}");
    run_in(dir, "train --resume model --steps 3 --threads 1").ok();
    let whole = format!("train --steps {} -o whole {OPTIONS}", last + 3);
    run_in(dir, &whole).ok();
    assert!(weights(dir, "model") == weights(dir, "whole"));
}

#[test]
fn concurrent_readers_see_a_complete_model_during_saves() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run_in(dir, &format!("train --steps 1 -o model {OPTIONS}")).ok();
    let mut child = start(dir, "--resume model --threads 1");
    for _ in 0..40 {
        run_in(dir, "generate -m model -n 1").ok();
        step(dir, "model");
    }
    for _ in 0..10 {
        let server = Server::start(dir, "--quiet");
        let response = server.post("/microgpt/v1/generate", &json!({}));
        assert_eq!(response.status, 200, "{}", response.body);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn second_run_on_a_locked_directory_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run_in(dir, &format!("train --steps 1 -o model {OPTIONS}")).ok();
    let mut first = start(dir, "--resume model");
    let lock = dir.join("model/train.lock");
    while std::fs::read(&lock).unwrap_or_default() != first.id().to_string().as_bytes() {
        std::thread::sleep(Duration::from_millis(5));
    }
    run_in(dir, "train --steps 1 -o other").ok();
    let commands = [
        "train --steps 1 -o model",
        "train --resume model --steps 1",
        "train --resume other -o model --steps 1",
    ];
    for command in commands {
        let error = run_in(dir, command).error(1);
        let process = format!("another training run (process {})", first.id());
        assert!(error.contains(&process), "{command}: {error}");
    }
    // Reading the locked directory is allowed.
    run_in(dir, "train --resume model -o third --steps 1").ok();
    first.kill().unwrap();
    first.wait().unwrap();
    run_in(dir, "train --resume model --steps 1").ok();
    assert!(!lock.exists(), "a run that ends leaves no lock");
}

/// Runs shell commands with a 400 kB tmpfs mounted at `small`. Returns false if mounting is not
/// permitted.
fn run_on_small_disk(dir: &Path, commands: &str) -> bool {
    let script = format!(
        "set -e; mkdir small; mount -t tmpfs -o size=400k tmpfs small || exit 77; {commands}"
    );
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &script])
        .current_dir(dir)
        .env("MICROGPT", env!("CARGO_BIN_EXE_microgpt"))
        .output();
    let output = match output {
        Ok(output) if output.status.code() != Some(77) => output,
        _ => {
            eprintln!("skipped: mounting a file system is not permitted");
            return false;
        }
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    let refused = stderr.contains("unshare failed") || stderr.contains("Operation not permitted");
    if refused {
        eprintln!("skipped: mounting a file system is not permitted");
        return false;
    }
    assert!(output.status.success(), "{stderr}");
    true
}

#[test]
fn full_disk_keeps_the_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    // The model directory is the mount point, so it can't be renamed. A save needs 60 kB; the filler
    // file leaves `free` kB.
    let output = run_on_small_disk(
        dir.path(),
        &format!(
            "$MICROGPT train --steps 5 -o small {OPTIONS} -q
            cp small/weights.safetensors before
            for free in 48 32 16 8 0; do
                head -c 1000000 /dev/zero > small/filler 2>/dev/null || true
                truncate -s -${{free}}k small/filler
                if $MICROGPT train --resume small --steps 5 -q 2>error; then exit 3; fi
                if [ $free = 0 ]; then holds=; else holds='small holds the model of step 5: '; fi
                grep -q \"^microgpt: error: ${{holds}}cannot \" error
                grep -q -i 'no space left' error
                test $(grep -c . error) = 1
                cmp before small/weights.safetensors
                $MICROGPT generate -m small -n 1
                $MICROGPT info -m small | grep -q '5 steps done, can be resumed'
                test $(ls small | wc -l) = 6
            done
            rm small/filler
            $MICROGPT train --resume small --steps 5 --threads 1 -q
            $MICROGPT info -m small | grep -q '10 steps done, can be resumed'
            mount -o remount,ro small
            if $MICROGPT train --resume small --steps 5 -q 2>error; then exit 4; fi
            grep -q -i 'read-only' error
            $MICROGPT generate -m small -n 1"
        ),
    );
    assert!(
        output
            || std::env::var_os("MICROGPT_REQUIRE_TOOLS").is_none()
            || cfg!(not(target_os = "linux")),
        "mounting has to be possible where nothing may be skipped"
    );
}

#[test]
fn file_descriptor_exhaustion_keeps_the_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run_in(dir, &format!("train --steps 2 -o model {OPTIONS}")).ok();
    for limit in 4..16 {
        let script = format!(
            "ulimit -n {limit}; exec {} train --resume model --steps 1 --threads 1 -q",
            env!("CARGO_BIN_EXE_microgpt")
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(dir);
        let before = step(dir, "model");
        let output = command.stdin(Stdio::null()).output().unwrap();
        let expected = before + u64::from(output.status.success());
        assert_eq!(step(dir, "model"), expected, "with {limit}: {output:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked"), "with {limit}: {stderr}");
    }
}
