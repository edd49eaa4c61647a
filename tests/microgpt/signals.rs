//! Signals: saves and stops of a training run, and the end of every command as process 1.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use crate::program::{chat_model_dir, microgpt, run_in, send_signal};

/// Reads lines until `pattern` has been printed, and returns them.
fn read_until(reader: &mut impl BufRead, pattern: &str) -> String {
    let mut output = String::new();
    while !output.contains(pattern) {
        assert_ne!(reader.read_line(&mut output).unwrap(), 0, "{output}");
    }
    output
}

/// Starts a long run, sends it the signal after its first checkpoint, and returns its exit code and
/// stderr.
fn interrupt(dir: &std::path::Path, signal: &str, more: &str) -> (Option<i32>, String) {
    let line = format!(
        "train --steps 100000000 --batch-size 2 --threads 1 --schedule constant -o model \
        --checkpoint-every 50 {more}"
    );
    let mut child = microgpt()
        .current_dir(dir)
        .args(line.split_whitespace())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    let mut stderr = read_until(&mut reader, "on      cpu");
    // The first checkpoint shows that training has started.
    while !dir.join("model/train_state.json").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    send_signal(signal, &child);
    reader.read_to_string(&mut stderr).unwrap();
    (child.wait().unwrap().code(), stderr)
}

#[test]
fn signal_finishes_the_step_saves_and_prints_resume_command() {
    let chat = "--chat --block-size 32";
    for (signal, code, kind) in [
        ("-INT", 130, ""),
        ("-TERM", 143, ""),
        ("-INT", 130, "--text"),
        ("-TERM", 143, chat),
        ("-HUP", 129, ""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (exit, stderr) = interrupt(dir.path(), signal, kind);
        assert_eq!(exit, Some(code), "{stderr}");
        let last = stderr.lines().last().unwrap();
        let (_, after) = last.split_once("stopped after step ").expect(last);
        let (step, rest) = after.split_once(',').unwrap();
        let step: u64 = step.parse().unwrap();
        let left = 100_000_000 - step;
        assert!(
            rest.ends_with(&format!("microgpt train --resume model --steps {left}")),
            "{last}"
        );

        // Resumed, it matches an uninterrupted run.
        run_in(dir.path(), "train --resume model --steps 20 --threads 1").ok();
        let options = format!("--batch-size 2 --threads 1 --schedule constant {kind}");
        let whole = format!("train --steps {} {options} -o whole", step + 20);
        run_in(dir.path(), &whole).ok();
        let weights = |model: &str| {
            std::fs::read(dir.path().join(model).join("weights.safetensors")).unwrap()
        };
        assert!(weights("model") == weights("whole"), "{signal} {kind}");
    }
}

#[test]
fn second_signal_exits_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // Steps of about one second, far longer than the delay between the signals.
    let size = "--text --block-size 256 --n-embd 128 --n-layer 4 --batch-size 64 --threads 1";
    let mut child = microgpt()
        .current_dir(dir.path())
        .args(format!("train --steps 1000 --checkpoint-every 1 -o model -q {size}").split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !dir.path().join("model/train_state.json").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    send_signal("-INT", &child);
    std::thread::sleep(std::time::Duration::from_millis(20));
    send_signal("-INT", &child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    run_in(dir.path(), "train --resume model --steps 1 --batch-size 1").ok();
}

#[test]
fn signal_during_final_samples_exits_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // The pipe is full and nothing reads it: without a signal, printing samples would block.
    let (reader, writer) = std::io::pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    std::thread::spawn(move || while filler.write_all(&[0; 4096]).is_ok() {});
    let mut child = microgpt()
        .current_dir(dir.path())
        .args("train --steps 1 -o model".split(' '))
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    read_until(&mut stderr, "saved   model");
    // The signal may arrive before the first sample or during one.
    std::thread::sleep(std::time::Duration::from_millis(100));
    send_signal("-INT", &child);
    // If the signal is ignored, closing the pipe ends the program with exit code 0.
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(30));
        drop(reader);
    });
    assert_eq!(child.wait().unwrap().code(), Some(130));
    run_in(dir.path(), "info -m model").ok();
}

#[test]
fn interrupted_run_keeps_the_best_model() {
    let dir = tempfile::tempdir().unwrap();
    let more = "--validation-fraction 0.1 --eval-every 25";
    let (exit, stderr) = interrupt(dir.path(), "-INT", more);
    assert_eq!(exit, Some(130), "{stderr}");
    assert!(
        stderr.contains("the best model so far, of step ") && stderr.contains(" is in model/best"),
        "{stderr}"
    );
    run_in(dir.path(), "generate -m model/best -n 1").ok();
    let loss = |model: &str| {
        let state = std::fs::read(dir.path().join(model).join("train_state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        state["validation_loss"].as_f64().unwrap()
    };
    let best = loss("model/best");
    // Ten steps at a rate that ruins the model: the best model remains.
    run_in(dir.path(), "train --resume model --steps 10 --lr 0.5").ok();
    assert!(loss("model") <= best && !dir.path().join("model/best").exists());
}

/// Starts a long run in `model` and reads its stderr until training has begun.
fn start_long_run(mut command: Command) -> (Child, BufReader<std::process::ChildStderr>) {
    let line = "train --steps 100000000 --batch-size 2 --threads 1 -o model";
    let mut child = command
        .args(line.split(' '))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    read_until(&mut stderr, "on      cpu");
    (child, stderr)
}

#[test]
fn sigusr1_saves_and_continues() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = microgpt();
    command.current_dir(dir.path());
    let (mut child, mut stderr) = start_long_run(command);
    let mut last = 0;
    for _ in 0..2 {
        send_signal("-USR1", &child);
        read_until(&mut stderr, "because of SIGUSR1");
        let info = run_in(dir.path(), "info -m model --json").ok().stdout;
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let step = info["step"].as_u64().unwrap();
        assert!(step > last, "{step} after {last}");
        last = step;
    }
    send_signal("-TERM", &child);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn sighup_ignored_by_nohup_does_not_stop_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("nohup");
    command
        .arg(env!("CARGO_BIN_EXE_microgpt"))
        .current_dir(dir.path());
    let (mut child, mut stderr) = start_long_run(command);
    send_signal("-HUP", &child);
    // The run continues: it answers the next signal.
    send_signal("-USR1", &child);
    read_until(&mut stderr, "because of SIGUSR1");
    send_signal("-TERM", &child);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

/// Returns the only child of a process.
fn child_of(id: u32) -> Option<u32> {
    let path = format!("/proc/{id}/task/{id}/children");
    let children = std::fs::read_to_string(path).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[test]
fn signals_end_every_command_as_process_1() {
    let unshare = [
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--kill-child",
    ];
    let can_unshare = Command::new("unshare").args(unshare).arg("true").output();
    if !can_unshare.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: unshare cannot create a PID namespace");
        return;
    }
    let dir = chat_model_dir();
    for (line, signal, code) in [
        ("generate -m model -n 1000000000", "-INT", 130),
        ("generate -m model -n 1000000000", "-TERM", 143),
        ("score -m model", "-INT", 130),
        ("chat -m model", "-TERM", 143),
        ("serve -m model --port 0", "-HUP", 129),
        ("serve -m model --port 0", "-TERM", 0),
        ("train --input -", "-INT", 130),
        ("train --steps 100000000 -o new", "-TERM", 143),
    ] {
        let mut parent = Command::new("unshare")
            .args(unshare)
            .arg(env!("CARGO_BIN_EXE_microgpt"))
            .args(line.split(' '))
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Until the handlers are installed, the kernel discards the signals.
        let status = loop {
            if let Some(child) = child_of(parent.id()) {
                let sent = Command::new("kill")
                    .args([signal, &child.to_string()])
                    .output();
                assert!(sent.is_ok());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
            if let Some(status) = parent.try_wait().unwrap() {
                break status;
            }
        };
        assert_eq!(status.code(), Some(code), "{line} {signal}");
    }
}
