//! Command-line and input errors: one line on stderr, the exit code, no files written.

use std::fs;

use crate::program::{microgpt, run_in, run_with_stdin, text_model_dir};

#[test]
fn command_line_errors_exit_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("", "no command"),
        ("trian", "did you mean train?"),
        ("TRAIN", "did you mean train?"),
        (
            "--steps 3",
            "unknown option --steps; it is an option of train, and comes after the command",
        ),
        ("--train", "did you mean the command train?"),
        ("--versoin", "did you mean --version?"),
        ("train --stesp 3", "did you mean --steps?"),
        ("train --learning_rate 1", "did you mean --lr?"),
        (
            "train --steps",
            "--steps needs a value, N; see `microgpt help train`",
        ),
        (
            "train --steps 0",
            "--steps must be a whole number >= 1, got \"0\"",
        ),
        ("train --steps 1e3", "got \"1e3\""),
        (
            "train --lr -1",
            "--lr must be auto or a number > 0, got \"-1\"",
        ),
        ("train --lr nan", "--lr"),
        (
            "train --schedule sine",
            "--schedule must be linear, cosine or constant, got \"sine\"",
        ),
        (
            "train --device cuda",
            "--device must be cpu or metal, got \"cuda\"",
        ),
        (
            "train --n-embd 30 --n-head 4",
            "--n-head must divide --n-embd, got 4 for 30; --n-embd 32 works",
        ),
        ("train --resume model --n-layer 2", "--n-layer and --resume"),
        (
            "train --resume a --init-from b",
            "--init-from and --resume cannot",
        ),
        (
            "train --n-embd 8 --init-from a",
            "--n-embd and --init-from cannot",
        ),
        ("train --extend", "--extend needs --resume"),
        (
            "train --loss-on assistant",
            "--loss-on assistant needs --chat",
        ),
        ("train --threads 0", "from 1 to 1024"),
        (
            "train --seed 18446744073709551616",
            "from 0 to 18446744073709551615, got \"18446744073709551616\"",
        ),
        ("train names.txt", "unexpected argument"),
        (
            "train /dev/null",
            "unexpected argument \"/dev/null\"; did you mean --input /dev/null?",
        ),
        (
            "score -n 3",
            "unknown option -n; it is an option of generate",
        ),
        ("train --log -", "--log must be a file"),
        (
            "train --chat --text",
            "--chat and --text cannot be combined",
        ),
        (
            "train --patience 3",
            "--patience needs --validation-fraction",
        ),
        (
            "train --eval-every 3",
            "--eval-every needs --validation-fraction",
        ),
        (
            "train --patience 3 --validation-fraction 0",
            "--patience needs --validation-fraction, more than 0",
        ),
        ("train --validation-fraction 1", ">= 0 and < 1, got 1"),
        ("train --beta1 1", "--beta1 must be >= 0 and < 1"),
        ("train --grad-clip 0", "--grad-clip must be > 0"),
        (
            "train --weight-decay -1",
            "--weight-decay must be >= 0, got -1",
        ),
        ("train --temperature 1", "it is an option of generate"),
        (
            "completions",
            "completions needs a shell: bash, zsh or fish",
        ),
        (
            "completions fsh",
            "unknown shell \"fsh\"; did you mean fish?",
        ),
        ("man train", "unexpected argument"),
        (
            "generate --temperature -0.5",
            "--temperature must be >= 0, got -0.5",
        ),
        ("generate --top-p 0", "--top-p must be > 0 and <= 1"),
        ("generate --top-k 0", "--top-k"),
        ("generate --min-p 2", "--min-p"),
        ("generate --unique=1", "--unique takes no value, got \"1\""),
        ("export", "--output PATH"),
        ("help nothing", "unknown command"),
    ];
    for (line, expected) in cases {
        let error = run_in(dir.path(), line).error(2);
        assert!(error.contains(expected), "{line}: {expected:?} in {error}");
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing was written"
    );
}

#[test]
fn input_errors_exit_with_1_and_write_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&str, &[u8], &str); 14] = [
        ("--input -", b"", "there is no text to train on"),
        ("--input -", b"a\n\0\0", "line 2 has a NUL byte"),
        (
            "--text --input -",
            b"\x7fELF\x02\x01\x01\0",
            "line 1 has a NUL byte",
        ),
        // A file that opens and whose read fails.
        ("--input /proc/self/mem", b"", "cannot read /proc/self/mem"),
        ("--input -", b"\n  \n\t\n", "there is no text to train on"),
        ("--input -", b"abc\n\xff\xfe\n", "line 2 is not UTF-8"),
        ("--input nowhere", b"", "cannot read nowhere"),
        ("--input .", b"", "cannot read ."),
        (
            "--chat --input -",
            b"[{\"role\": \"user\", \"content\": \"a\"}]\nhello\n",
            "line 2 is not a conversation",
        ),
        (
            "--chat --input -",
            b"[{\"role\": \"tool\", \"content\": \"a\"}]\n",
            "unknown variant `tool`, expected one of `system`, ",
        ),
        ("--chat --input -", b"\n", "there is no conversation"),
        (
            "--input -",
            b"[{\"role\": \"user\", \"content\": \"a\"}]\n",
            "the lines are conversations; train on them with --chat",
        ),
        (
            "--validation-fraction 0.5 --input -",
            b"abc\n",
            "leaves nothing to train on",
        ),
        (
            "--resume nowhere",
            b"",
            "there is no model in nowhere; create one with `microgpt train --output nowhere`",
        ),
    ];
    for (options, input, expected) in cases {
        let error =
            run_with_stdin(dir.path(), &format!("train --steps 1 {options}"), input).error(1);
        assert!(
            error.contains(expected),
            "{options}: {expected:?} in {error}"
        );
    }
    if !cfg!(feature = "metal") {
        let error = run_in(dir.path(), "train --device metal").error(1);
        assert!(
            error.contains("cargo build --release --features metal"),
            "{error}"
        );
    }
    let error = run_in(dir.path(), "train --n-embd 4611686018427387904").error(1);
    assert!(
        error.contains("more weights than fit the address space"),
        "{error}"
    );
    for size in [
        "--n-embd 40000000",
        "--n-embd 400000",
        "--n-layer 1000000000",
        "--block-size 100000000000",
    ] {
        let error = run_in(dir.path(), &format!("train {size}")).error(1);
        assert!(
            error.contains("of memory, more than the ") && error.contains(" MB of "),
            "{error}"
        );
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing was written"
    );
}

#[test]
fn missing_model_error_suggests_train() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["generate", "chat", "info", "export -o out"] {
        let error = run_in(dir.path(), command).error(1);
        assert!(
            error.contains("no model in microgpt-model") && error.contains("microgpt train"),
            "{error}"
        );
    }
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(
        run_in(dir.path(), "generate -m file")
            .error(1)
            .contains("not a directory")
    );
    fs::create_dir(dir.path().join("empty")).unwrap();
    assert!(
        run_in(dir.path(), "generate -m empty")
            .error(1)
            .contains("meta.json is missing")
    );
}

#[test]
fn unwritable_output_fails_before_training() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "precious").unwrap();
    let error = run_in(dir.path(), "train --steps 1000000 -o file").error(1);
    assert!(error.contains("file is not a directory"), "{error}");
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"precious");
    let error = run_in(dir.path(), "train --steps 1000000 --log nowhere/log").error(1);
    assert!(
        error.contains("cannot write the log nowhere/log"),
        "{error}"
    );
}

#[test]
fn full_stdout_device_is_an_error() {
    let dir = text_model_dir();
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else {
        eprintln!("skipped: /dev/full does not exist");
        return;
    };
    let output = microgpt()
        .current_dir(dir.path())
        .args(["generate", "-m", "model"])
        .stdout(full)
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error.starts_with("microgpt: error: cannot write to standard output: "),
        "{error}"
    );
}

#[test]
fn log_write_failure_keeps_the_model() {
    let dir = tempfile::tempdir().unwrap();
    if !std::path::Path::new("/dev/full").exists() {
        eprintln!("skipped: /dev/full does not exist");
        return;
    }
    let error = run_in(dir.path(), "train --steps 3 --log /dev/full -o model").error(1);
    assert!(error.contains("cannot write the log /dev/full"), "{error}");
    run_in(dir.path(), "generate -m model -n 1").ok();
}

#[test]
fn checkpoint_write_failure_does_not_stop_the_run() {
    let dir = tempfile::tempdir().unwrap();
    run_in(dir.path(), "train --steps 3 -o model").ok();
    // A directory at the path of the file that each save writes first.
    let obstacle = dir.path().join("model/weights.safetensors.new");
    fs::create_dir_all(obstacle.join("full")).unwrap();
    let line = "train --steps 4 --checkpoint-every 2 --resume model";
    let output = run_in(dir.path(), line);
    assert_eq!(output.code, Some(1), "the last save failed too");
    assert!(
        output.stderr.contains("warning: no checkpoint at step 4: "),
        "{}",
        output.stderr
    );
    let info = run_in(dir.path(), "info -m model").ok().stdout;
    assert!(info.contains("3 steps done, can be resumed"), "{info}");
    fs::remove_dir_all(obstacle).unwrap();
    run_in(dir.path(), line).ok();
}

#[test]
fn counts_of_one_are_singular() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("one"), "a\n").unwrap();
    let line = "train --input one --steps 1 --batch-size 1 --threads 1 -o model";
    let output = run_in(dir.path(), line).ok();
    for expected in [
        "text    1 document from",
        "1 step of 1 document,",
        "after 1 step\n",
    ] {
        assert!(output.stderr.contains(expected), "{}", output.stderr);
    }
    let info = run_in(dir.path(), "info -m model").ok().stdout;
    assert!(info.contains("1 step done"), "{info}");
    let summary = run_in(dir.path(), "score -m model --summary one").ok();
    assert!(
        summary.stdout.ends_with("\t1 line, 2 tokens\n"),
        "{}",
        summary.stdout
    );
}

#[test]
fn empty_paths_are_command_line_errors() {
    let dir = tempfile::tempdir().unwrap();
    for option in ["output", "input", "resume", "log"] {
        let arguments = ["train".to_string(), format!("--{option}=")];
        let output = microgpt()
            .current_dir(dir.path())
            .args(arguments)
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(
            error.contains(&format!("--{option} must be a path, got \"\"")),
            "{error}"
        );
    }
}
