//! Running the program, and finding what it is tested against.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The program, with nothing in its environment that would change what it does.
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

/// What a run of the program left behind.
pub struct RunOutput {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl RunOutput {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// The output of a run that has to have gone well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// The one line of error of a run that has to have failed with this code.
    #[track_caller]
    pub fn error(self, code: i32) -> String {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        assert_eq!(self.stdout, "", "an error leaves no result");
        let errors: Vec<&str> = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("microgpt: error: "))
            .collect();
        assert_eq!(errors.len(), 1, "one line of error: {}", self.stderr);
        assert_eq!(
            self.stderr.lines().last(),
            Some(errors[0]),
            "and nothing after it: {}",
            self.stderr
        );
        errors[0].to_string()
    }
}

/// Runs the program in a directory, with the words of a line as its arguments.
pub fn run_in(dir: &Path, line: &str) -> RunOutput {
    let output = microgpt()
        .current_dir(dir)
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .output();
    RunOutput::from(output.expect("the program runs"))
}

/// The same, with something on its standard input.
pub fn run_with_stdin(dir: &Path, line: &str, input: &[u8]) -> RunOutput {
    let mut child = microgpt()
        .current_dir(dir)
        .args(line.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdin = child.stdin.take().expect("it has a standard input");
    let input = input.to_vec();
    // A program that stops early closes its end, which is none of our concern.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("writing does not panic");
    RunOutput::from(output)
}

/// Sends a signal to a program under way.
pub fn send_signal(signal: &str, child: &Child) {
    let mut kill = Command::new("kill");
    let sent = kill.args([signal, &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Runs a tool with nothing on its standard input; none where it is missing, which
/// `MICROGPT_REQUIRE_TOOLS` makes a failure.
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

/// A file of `../shared`, or none where it is not there.
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

/// A directory with a small text model in `model`, trained for a moment on the built-in names.
pub fn text_model_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run_in(
        dir.path(),
        "train --steps 60 --batch-size 8 --threads 1 -o model",
    )
    .ok();
    dir
}

/// A directory with a small chat model in `model`, trained for a moment on the built-in
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
