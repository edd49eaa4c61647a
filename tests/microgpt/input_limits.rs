//! Limits of inputs and models: sizes, extreme characters, non-finite losses, permissions.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::program::{run_in, run_with_stdin, text_model_dir, tool};

#[test]
fn large_file_that_is_not_text_is_rejected_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // A sparse file of 1 GiB.
    let file = File::create(dir.path().join("long")).unwrap();
    file.set_len(1 << 30).unwrap();
    for kind in ["", "--text", "--chat"] {
        let error = run_in(dir.path(), &format!("train {kind} --input long -o model")).error(1);
        assert!(error.contains("long: line 1 has a NUL byte"), "{error}");
    }
    assert!(!dir.path().join("model").exists());
}

#[test]
fn corpus_in_temporary_files_trains_like_one_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let start = text(5_000_000);
    let text = text(40_000_000);
    fs::write(dir.path().join("text"), &text).unwrap();
    let options = "--steps 2 --threads 1 --block-size 8 --n-embd 4 --tmp-dir";
    let train = |input: &str, stdin: &[u8], model: &str| {
        let line = format!("train --input {input} -o {model} {options} .");
        run_with_stdin(dir.path(), &line, stdin).ok().stdout
    };
    let file = train("text", b"", "file");
    assert_eq!(train("-", text.as_bytes(), "stdin"), file);
    let weights = |model: &str| fs::read(dir.path().join(model).join("weights.safetensors"));
    assert!(weights("file").unwrap() == weights("stdin").unwrap());
    // Neither named files nor those of the copy are left.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    // A small text takes no file, so that its directory need not exist.
    let line = format!("train --input - -o small {options} nowhere");
    run_with_stdin(dir.path(), &line, start.as_bytes()).ok();
    let line = format!("train --input - -o large {options} nowhere");
    let error = run_with_stdin(dir.path(), &line, text.as_bytes()).error(1);
    let expected = "cannot write a temporary file in nowhere; --tmp-dir sets another directory: ";
    assert!(error.contains(expected), "{error}");
}

/// A text of lines, of at least `size` bytes.
fn text(size: usize) -> String {
    let lines: String = (0..10_000).map(|i| format!("{i} line\n")).collect();
    lines.repeat(size.div_ceil(lines.len()))
}

#[test]
fn full_disk_while_preparing_is_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("text"), text(40_000_000)).unwrap();
    // The signal of the limit is ignored, so that a write beyond it fails.
    let script = "trap '' XFSZ; ulimit -f 1000; exec $0 train --input text -o model";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_microgpt")]);
    let output = shell.current_dir(dir.path()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    let expected = "cannot write a temporary file in .; --tmp-dir sets another directory: File too";
    assert!(stderr.contains(expected), "{stderr}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn ten_megabyte_line_is_truncated_to_the_context() {
    let dir = tempfile::tempdir().unwrap();
    let line = "ab".repeat(5_000_000);
    let options = "--steps 2 --threads 1 -o model";
    let output = run_with_stdin(
        dir.path(),
        &format!("train --input - {options}"),
        line.as_bytes(),
    )
    .ok();
    assert!(
        output.stderr.contains("1 of them truncated to the context"),
        "{}",
        output.stderr
    );
    let line = &line[..500_000];
    let output = run_with_stdin(dir.path(), "score -m model", line.as_bytes()).ok();
    assert_eq!(
        output.stdout.split_once('\t'),
        Some((&output.stdout[..8], &*(line.to_string() + "\n")))
    );
}

#[test]
fn extreme_unicode_characters_are_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let text = "\u{1}\u{7f}\u{10ffff}\u{200b}\u{fffd}\u{e000}x\n\u{10ffff}\u{10ffff}y\n";
    let options = "--steps 20 --threads 1 -o model";
    run_with_stdin(
        dir.path(),
        &format!("train --input - {options}"),
        text.as_bytes(),
    )
    .ok();
    run_in(dir.path(), "generate -m model -n 50").ok();
    run_in(dir.path(), "info -m model").ok();
}

#[test]
fn non_finite_loss_stops_the_run_and_keeps_the_saved_model() {
    let dir = text_model_dir();
    let files = || {
        let files = fs::read_dir(dir.path().join("model")).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
            .into_iter()
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect::<Vec<_>>()
    };
    let before = files();
    // Rates above f32::MAX make the weights infinite in the first step: neither the checkpoint after
    // it nor the end of the run may save them.
    for options in [
        "--steps 50 --lr 1e30",
        "--steps 50 --lr 1e39 --checkpoint-every 1",
        "--steps 1 --lr 1e42",
    ] {
        let line = format!("train --resume model -q {options}");
        let error = run_in(dir.path(), &line).error(1);
        assert!(
            error.contains("the loss became NaN at step "),
            "{options}: {error}"
        );
        let kept = "error: model holds the model of step 60: ";
        assert!(error.contains(kept), "{options}: {error}");
        assert!(error.contains("try a smaller one"), "{options}: {error}");
        assert!(files() == before, "{options}");
    }
    // Checkpoints before the loss becomes NaN are loadable.
    let line = "train --resume model --steps 50 -q --lr 1e30 --checkpoint-every 1";
    let error = run_in(dir.path(), line).error(1);
    assert!(error.contains("model holds the model of step 6"), "{error}");
    run_in(dir.path(), "generate -m model -n 1").ok();
    let error = run_in(dir.path(), "train --steps 50 --lr 1e30 -o new -q").error(1);
    assert!(error.contains("nothing was saved in new: "), "{error}");
    assert!(!dir.path().join("new").exists());
}

/// Runs the program without superuser rights, as `nobody` if the test runs as root.
fn run_unprivileged(dir: &Path, line: &str) -> (Option<i32>, String) {
    let mut command = Command::new(dir.join("microgpt"));
    command.current_dir(dir).args(line.split_whitespace());
    if fs::metadata(dir).unwrap().uid() == 0 {
        command.uid(65534).gid(65534);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), stderr)
}

#[test]
fn permission_errors_name_the_path() {
    let dir = text_model_dir();
    let dir = dir.path();
    let allow = |name: &str, mode| {
        fs::set_permissions(dir.join(name), Permissions::from_mode(mode)).unwrap();
    };
    fs::copy(env!("CARGO_BIN_EXE_microgpt"), dir.join("microgpt")).unwrap();
    fs::write(dir.join("secret"), "secret").unwrap();
    fs::create_dir(dir.join("closed")).unwrap();
    allow("secret", 0o000);
    allow("closed", 0o000);
    for name in ["model", "."] {
        allow(name, 0o555);
    }
    assert_eq!(run_unprivileged(dir, "generate -m model").0, Some(0));
    for (line, expected) in [
        ("train --input secret", "cannot read secret: "),
        ("train --input closed/names", "cannot read closed/names: "),
        ("train --steps 1", "cannot create microgpt-model: "),
        ("train --steps 1 -o closed", "cannot lock closed: "),
        ("train --resume model --steps 1", "cannot lock model: "),
        ("export -m model -o out", "cannot create out: "),
        ("score -m model secret", "cannot read secret: "),
        ("generate -m closed", "cannot read closed/"),
    ] {
        let (code, stderr) = run_unprivileged(dir, line);
        assert_eq!(code, Some(1), "{line}: {stderr}");
        let expected = format!("microgpt: error: {expected}");
        let error = stderr.lines().last().unwrap();
        assert!(error.starts_with(&expected), "{line}: {stderr}");
        assert!(error.contains("Permission denied"), "{line}: {stderr}");
    }
    allow("model/weights.safetensors", 0o000);
    let (code, stderr) = run_unprivileged(dir, "generate -m model");
    let expected = "microgpt: error: cannot open model/weights.safetensors: Permission denied";
    assert!(code == Some(1) && stderr.starts_with(expected), "{stderr}");
    // Allows the temporary directory to be removed.
    for name in [".", "model", "closed"] {
        allow(name, 0o755);
    }
}

#[test]
fn unaligned_weights_load_the_same() {
    let dir = text_model_dir();
    let path = dir.path().join("model/weights.safetensors");
    let expected = run_in(dir.path(), "generate -m model").ok().stdout;
    let bytes = fs::read(&path).unwrap();
    let (length, rest) = bytes.split_first_chunk::<8>().unwrap();
    let length = u64::from_le_bytes(*length);
    for blanks in 1..8 {
        // Trailing blanks in the header shift the data.
        let (header, data) = rest.split_at(length as usize);
        let mut moved = (length + blanks).to_le_bytes().to_vec();
        moved.extend_from_slice(header);
        moved.extend(std::iter::repeat_n(b' ', blanks as usize));
        moved.extend_from_slice(data);
        fs::write(&path, moved).unwrap();
        assert_eq!(
            run_in(dir.path(), "generate -m model").ok().stdout,
            expected
        );
    }
}

#[test]
fn safetensors_header_beyond_file_size_is_rejected() {
    let dir = text_model_dir();
    let path = dir.path().join("model/weights.safetensors");
    let with_header = |header: &str| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        fs::write(&path, bytes).unwrap();
        run_in(dir.path(), "generate -m model").error(1)
    };
    let tera = "{\"wte\":{\"dtype\":\"F32\",\"shape\":[27,16],\"data_offsets\":[0,9000000000000]}}";
    let product =
        "{\"wte\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967297],\"data_offsets\":[0,0]}}";
    let backwards = "{\"wte\":{\"dtype\":\"F32\",\"shape\":[27,16],\"data_offsets\":[1728,0]}}";
    for header in [tera, product, backwards, "{}", "[]", "{\"wte\":1}", "\u{0}"] {
        let error = with_header(header);
        assert!(error.contains("model/weights.safetensors: "), "{error}");
    }
}

#[test]
fn memory_limit_of_the_shell_is_respected() {
    let dir = tempfile::tempdir().unwrap();
    if !Path::new("/proc/self/limits").exists() {
        eprintln!("skipped: not on Linux");
        return;
    }
    let script = "ulimit -v 800000; exec $0 train --n-embd 4096 --n-layer 8";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_microgpt")]);
    let output = shell.current_dir(dir.path()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let expected = "needs 32,217 MB of memory, more than the 819 MB of `ulimit -v`";
    assert!(stderr.contains(expected), "{stderr}");
}

#[test]
fn default_thread_count_is_that_of_the_affinity() {
    let dir = tempfile::tempdir().unwrap();
    let Ok(status) = fs::read_to_string("/proc/self/status") else {
        eprintln!("skipped: not on Linux");
        return;
    };
    let allowed = status.split("Cpus_allowed_list:").nth(1).unwrap().trim();
    let first = allowed.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    let program = env!("CARGO_BIN_EXE_microgpt");
    let arguments = ["--cpu-list", first, program, "train", "--steps", "1"];
    if let Some(output) = tool("taskset", &arguments, dir.path()) {
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("on      cpu, 1 thread\n"), "{stderr}");
    }
}
