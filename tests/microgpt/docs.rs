//! The man page, help and completions, checked against the program and against the tools
//! that read them.
//!
//! With `MICROGPT_WRITE_DOCS` set (`make docs`), the man page is written instead of compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use crate::program::{microgpt, run_in, tool};

fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares a generated file with its expected contents, or writes it.
#[track_caller]
fn check_file(path: &str, expected: &str) {
    let file = in_project(path);
    if std::env::var_os("MICROGPT_WRITE_DOCS").is_some() {
        fs::write(file, expected).unwrap();
        return;
    }
    let found = fs::read_to_string(file).unwrap();
    assert!(found == expected, "{path} is out of date; run `make docs`");
}

fn stdout(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn man_page_is_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    check_file("man/microgpt.1", &run_in(dir.path(), "man").ok().stdout);
}

#[test]
fn formula_and_changelog_name_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let formula = fs::read_to_string(in_project("Formula/microgpt.rb"));
    let changes = fs::read_to_string(in_project("CHANGELOG.md")).unwrap();
    // Published packages do not contain the formula.
    if let Ok(formula) = formula {
        assert!(formula.contains(&format!("version \"{version}\"")));
    }
    assert!(changes.contains(&format!("\n## {version}")));
}

#[test]
fn man_page_passes_man_and_mandoc_lint() {
    let dir = tempfile::tempdir().unwrap();
    let page = in_project("man/microgpt.1");
    let page = page.to_str().unwrap();
    for (name, arguments) in [
        ("groff", &["-ww", "-man", "-Tutf8", page][..]),
        ("mandoc", &["-T", "lint", page]),
        ("man", &["--warnings", "--local-file", page]),
    ] {
        let Some(output) = tool(name, arguments, dir.path()) else {
            continue;
        };
        assert!(output.status.success(), "{name}: {output:?}");
        assert!(output.stderr.is_empty(), "{name}: {output:?}");
        let text = stdout(output);
        if name == "mandoc" {
            assert_eq!(text, "");
        } else if name == "man" {
            for heading in [
                "SYNOPSIS",
                "EXAMPLES",
                "FILES",
                "ENVIRONMENT",
                "EXIT STATUS",
            ] {
                assert!(text.contains(heading), "{name}: {heading}");
            }
        }
    }
}

/// A temporary directory with the completion script of a shell and files to complete.
fn with_completions(shell: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let script = run_in(dir.path(), &format!("completions {shell}")).ok();
    fs::write(dir.path().join("script"), script.stdout).unwrap();
    fs::create_dir(dir.path().join("model")).unwrap();
    fs::write(dir.path().join("model.txt"), "").unwrap();
    dir
}

/// Command lines and all completions of their last word.
const COMPLETIONS: &[(&str, &[&str])] = &[
    ("microgpt tr", &["train"]),
    ("microgpt --v", &["--version"]),
    ("microgpt train --sch", &["--schedule"]),
    ("microgpt train --schedule l", &["linear"]),
    ("microgpt train --device ", &["cpu", "metal"]),
    ("microgpt train --input mod", &["model", "model.txt"]),
    ("microgpt generate --model-dir mod", &["model"]),
    ("microgpt generate -m mod", &["model"]),
    ("microgpt generate --prompt mod", &[]),
    ("microgpt generate --ste", &[]),
    ("microgpt help ex", &["export"]),
    ("microgpt score mod", &["model", "model.txt"]),
    ("microgpt completions ", &["bash", "zsh", "fish"]),
];

#[test]
fn bash_completions() {
    let dir = with_completions("bash");
    for (line, expected) in COMPLETIONS {
        let words: Vec<&str> = line.split(' ').collect();
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let script = format!(
            "compopt() {{ :; }}; source ./script || exit 1; COMP_WORDS=({}); COMP_CWORD={}; \
            _microgpt; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            quoted.join(" "),
            words.len() - 1
        );
        let Some(output) = tool("bash", &["--norc", "-c", &script], dir.path()) else {
            return;
        };
        assert!(output.stderr.is_empty(), "{line}: {output:?}");
        check_completions(line, &stdout(output), expected);
    }
}

#[test]
fn fish_completions() {
    let dir = with_completions("fish");
    for (line, expected) in COMPLETIONS {
        let script = format!("source ./script; complete -C '{line}'");
        let Some(output) = tool("fish", &["--no-config", "-c", &script], dir.path()) else {
            return;
        };
        assert!(output.stderr.is_empty(), "{line}: {output:?}");
        // Each candidate ends with a tab and its description; directories with a slash.
        let words: String = stdout(output)
            .lines()
            .map(|line| {
                line.split('\t')
                    .next()
                    .unwrap()
                    .trim_end_matches('/')
                    .to_string()
                    + "\n"
            })
            .collect();
        check_completions(line, &words, expected);
    }
}

#[track_caller]
fn check_completions(line: &str, found: &str, expected: &[&str]) {
    let mut found: Vec<&str> = found.lines().filter(|word| !word.is_empty()).collect();
    found.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected, "{line}");
}

/// Types command lines into an interactive zsh, with a tab after each word, and reads the commands
/// that it runs.
#[test]
fn zsh_completions() {
    let dir = with_completions("zsh");
    let lines = [
        ("microgpt tr\t--sch\tl\t", "train --schedule=linear"),
        ("microgpt train --output mode\t", "train --output model"),
        (
            "microgpt gener\t--uni\t-m mode\t",
            "generate --unique -m model",
        ),
        ("microgpt help ex\t", "help export"),
        ("microgpt completions z\t", "completions zsh"),
        ("microgpt --ver\t", "--version"),
    ];
    let typed: String = lines
        .iter()
        .map(|(line, _)| format!("expect 'at:'\ntype $'{}\\r'\n", line.replace('\t', "\\t")))
        .collect();
    // The markers are split in two so that the echoed command does not match them.
    let script = r#"
zmodload zsh/zpty || exit 1
zpty shell zsh -f -i
expect() {
    local line all= tries=0
    while (( ++tries < 1000 )); do
        if zpty -r -t shell line; then all+=$line; else sleep 0.02; fi
        [[ $all == *$1* ]] && return
    done
    print -ru2 -- "no $1 in: ${(V)all}"
    exit 1
}
type() { zpty -w -n shell "$1" }
zpty -w shell 'autoload -Uz compinit; compinit -u -D; source ./script'
zpty -w shell 'microgpt() { print -r -- "$*" >> output }'
zpty -w shell 'unsetopt prompt_sp; PS2= RPS1= PS1="a""t:"'
"#
    .to_string()
        + &typed
        + "expect 'at:'\n";
    let Some(output) = tool("zsh", &["-f", "-c", &script], dir.path()) else {
        return;
    };
    assert!(output.status.success(), "{output:?}");
    let output = fs::read_to_string(dir.path().join("output")).unwrap();
    let expected: Vec<&str> = lines.iter().map(|(_, expected)| *expected).collect();
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn short_help_fits_a_screen_and_long_help_adds_detail() {
    let dir = tempfile::tempdir().unwrap();
    let commands = [
        "train",
        "generate",
        "chat",
        "score",
        "info",
        "export",
        "serve",
        "help",
        "man",
        "completions",
    ];
    let overview = run_in(dir.path(), "--help").ok().stdout;
    for command in commands {
        assert!(overview.contains(&format!("  {command} ")), "{command}");
        let short = run_in(dir.path(), &format!("{command} -h")).ok().stdout;
        assert!(short.lines().count() <= 24, "{short}");
        assert!(
            short.lines().all(|line| line.chars().count() <= 80),
            "{short}"
        );
        let long = run_in(dir.path(), &format!("{command} --help")).ok().stdout;
        assert!(long.len() > short.len() / 2 && long.contains("Usage: microgpt "));
        let help = run_in(dir.path(), &format!("help {command}")).ok().stdout;
        assert_eq!(help, long);
    }
    assert_eq!(run_in(dir.path(), "help").ok().stdout, overview);
    let short = run_in(dir.path(), "-h").ok().stdout;
    assert!(short.lines().count() < 24 && overview.starts_with(&short));
    assert!(overview.contains("MODEL_DIR") && overview.contains("Exit status:"));
    let version = format!("microgpt {}\n", env!("CARGO_PKG_VERSION"));
    for line in ["-V", "--version"] {
        assert_eq!(run_in(dir.path(), line).ok().stdout, version);
    }
    // A closed pipe is not an error.
    let mut child = microgpt()
        .arg("man")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
