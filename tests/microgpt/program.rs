//! Helpers: running the binary and other tools, small models, shared files.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A command that runs the binary without the environment variables that it reads.
pub fn microgpt() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_microgpt"));
    for name in [
        "MODEL_DIR",
        "PORT",
        "NO_COLOR",
        "LC_ALL",
        "LC_CTYPE",
        "LANG",
        "TERM",
    ] {
        command.env_remove(name);
    }
    command
}

/// The exit code and output of a finished run.
pub struct RunOutput {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl RunOutput {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Asserts that the run succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Asserts that the run failed with `code`, an empty stdout and one error line, the last of stderr;
    /// returns that line.
    #[track_caller]
    pub fn error(self, code: i32) -> String {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        assert_eq!(self.stdout, "", "a failed run prints nothing to stdout");
        let errors: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("microgpt: error: "))
            .collect();
        assert_eq!(errors.len(), 1, "one error line: {}", self.stderr);
        assert_eq!(
            self.stderr.lines().last(),
            Some(errors[0]),
            "nothing follows the error line: {}",
            self.stderr
        );
        errors[0].to_string()
    }
}

/// Runs the binary in `dir` with the arguments of `line`, split at white space.
pub fn run_in(dir: &Path, line: &str) -> RunOutput {
    let output = microgpt()
        .current_dir(dir)
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .output();
    RunOutput::from(output.expect("the program runs"))
}

/// Like [`run_in`], with `input` on stdin.
pub fn run_with_stdin(dir: &Path, line: &str, input: &[u8]) -> RunOutput {
    let mut child = microgpt()
        .current_dir(dir)
        .args(line.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_vec();
    // The program may exit without reading all of its input.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("writing does not panic");
    RunOutput::from(output)
}

/// Sends a signal to a running process.
pub fn send_signal(signal: &str, child: &Child) {
    let mut kill = Command::new("kill");
    let sent = kill.args([signal, &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Runs a tool with an empty stdin. Returns `None` if it is not installed.
///
/// # Panics
///
/// Panics if it is not installed and `MICROGPT_REQUIRE_TOOLS` is set.
pub fn tool(name: &str, arguments: &[&str], dir: &Path) -> Option<Output> {
    let output = Command::new(name)
        .args(arguments)
        .current_dir(dir)
        .env("HOME", dir)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(
                std::env::var_os("MICROGPT_REQUIRE_TOOLS").is_none(),
                "{name}: {error}"
            );
            eprintln!("skipped: {name} is not installed");
            None
        }
    }
}

/// The path of a file in `../shared`, or `None` if it is missing.
///
/// # Panics
///
/// Panics if it is missing and `MICROGPT_REQUIRE_SHARED` is set.
pub fn shared(path: &str) -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared")
        .join(path);
    if file.exists() {
        return Some(file);
    }
    let message = format!("{} is missing", file.display());
    assert!(
        std::env::var_os("MICROGPT_REQUIRE_SHARED").is_none(),
        "{message}"
    );
    eprintln!("skipped: {message}");
    None
}

/// A temporary directory with a small text model in `model`, trained for 60 steps on the built-in
/// names.
pub fn text_model_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run_in(
        dir.path(),
        "train --steps 60 --batch-size 8 --threads 1 -o model",
    )
    .ok();
    dir
}

/// A temporary directory with a small chat model in `model`, trained for 60 steps on the built-in
/// conversations.
pub fn chat_model_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run_in(
        dir.path(),
        "train --chat --steps 60 --batch-size 4 --block-size 48 --threads 1 -o model",
    )
    .ok();
    dir
}
