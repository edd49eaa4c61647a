//! The command line, taken apart by the table: first the words as they were typed, then values that
//! are ready to use.

use std::ffi::{OsStr, OsString};
use std::ops::RangeBounds;
use std::path::PathBuf;
use std::str::FromStr;

use lexopt::Arg;

use super::table::Opt;
use super::{COMMANDS, Command, Failure};

/// What somebody asks of the program.
pub enum Request {
    /// The help of the program, or of one command.
    Help(Option<&'static Command>),
    Version,
    Run(Words),
}

/// A command and its options as they were typed.
pub struct Words {
    pub command: &'static Command,
    given: Vec<(&'static Opt, Option<OsString>)>,
}

impl Request {
    pub fn parse(arguments: Vec<OsString>) -> Result<Self, Failure> {
        let mut parser = lexopt::Parser::from_args(arguments);
        let command = match parser.next().map_err(usage)? {
            None => {
                return Err(Failure::Usage(format!(
                    "no command given; there are {}; see `microgpt help`",
                    names()
                )));
            }
            Some(Arg::Short('h') | Arg::Long("help")) => return Ok(Request::Help(None)),
            Some(Arg::Short('V') | Arg::Long("version")) => return Ok(Request::Version),
            Some(Arg::Value(name)) if name == "help" => return Self::parse_help(parser),
            Some(Arg::Value(name)) => find_command(&name)?,
            Some(other) => {
                return Err(unexpected(
                    other,
                    "it comes before the command; see `microgpt help`",
                ));
            }
        };
        let mut given = Vec::new();
        while let Some(argument) = parser.next().map_err(usage)? {
            let option = match argument {
                Arg::Long(name) => find_option(command, name)?,
                Arg::Short(short) => {
                    match command.options.iter().find(|o| o.short == Some(short)) {
                        Some(option) => option,
                        None => return Err(unexpected(argument, &see_help(command))),
                    }
                }
                Arg::Value(_) => return Err(unexpected(argument, &see_help(command))),
            };
            if option.name == "help" {
                return Ok(Request::Help(Some(command)));
            }
            let value = match option.value {
                Some(_) => Some(parser.value().map_err(usage)?),
                None => None,
            };
            given.push((option, value));
        }
        Ok(Request::Run(Words { command, given }))
    }

    fn parse_help(mut parser: lexopt::Parser) -> Result<Self, Failure> {
        match parser.next().map_err(usage)? {
            None => Ok(Request::Help(None)),
            Some(Arg::Value(name)) => Ok(Request::Help(Some(find_command(&name)?))),
            Some(other) => Err(unexpected(other, "help takes the name of a command")),
        }
    }
}

fn usage(error: lexopt::Error) -> Failure {
    Failure::Usage(error.to_string())
}

fn names() -> String {
    COMMANDS
        .iter()
        .map(|command| command.name)
        .collect::<Vec<_>>()
        .join(", ")
}

fn see_help(command: &Command) -> String {
    format!("see `microgpt help {}`", command.name)
}

fn unexpected(argument: Arg, hint: &str) -> Failure {
    let what = match argument {
        Arg::Long(name) => format!("unknown option --{name}"),
        Arg::Short(short) => format!("unknown option -{short}"),
        Arg::Value(value) => format!("unexpected argument {value:?}"),
    };
    Failure::Usage(format!("{what}; {hint}"))
}

fn find_command(name: &OsStr) -> Result<&'static Command, Failure> {
    COMMANDS
        .iter()
        .find(|command| command.name == name)
        .ok_or_else(|| {
            let known = COMMANDS.iter().map(|command| command.name).chain(["help"]);
            let hint = match nearest(&name.to_string_lossy(), known) {
                Some(nearest) => format!("did you mean {nearest}?"),
                None => format!("there are {}", names()),
            };
            Failure::Usage(format!("unknown command {name:?}; {hint}"))
        })
}

fn find_option(command: &'static Command, name: &str) -> Result<&'static Opt, Failure> {
    command
        .options
        .iter()
        .find(|option| option.name == name)
        .copied()
        .ok_or_else(|| {
            let hint = match nearest(name, command.options.iter().map(|option| option.name)) {
                Some(nearest) => format!("did you mean --{nearest}?"),
                None => see_help(command),
            };
            unexpected(Arg::Long(name), &hint)
        })
}

/// The known name that is most like a mistyped one, if any is like it at all.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |known: &str| {
        // A beginning of the right name, as in --temp, is like it however short it is.
        if name.len() > 1 && known.starts_with(name) {
            1.0
        } else {
            strsim::jaro_winkler(name, known)
        }
    };
    let best = known.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.75).then_some(best)
}

impl Words {
    /// The value of an option that was given; the last one, where it was given more than once.
    fn value(&self, name: &str) -> Option<&OsStr> {
        debug_assert!(
            self.command
                .options
                .iter()
                .any(|option| option.name == name),
            "--{name} is in the table"
        );
        let (_, value) = self
            .given
            .iter()
            .rev()
            .find(|(option, _)| option.name == name)?;
        Some(value.as_deref().unwrap_or_default())
    }

    /// Whether an option was given.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// An option's value as a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    /// An option's value as text.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Failure> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match value.to_str() {
            Some(text) => Ok(Some(text)),
            None => Err(Failure::Usage(format!(
                "--{name} has to be UTF-8 text, got {value:?}"
            ))),
        }
    }

    /// An option's value as one of several names.
    pub fn choice<T: FromStr>(&self, name: &str, choices: &[&str]) -> Result<Option<T>, Failure> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(choice) => Ok(Some(choice)),
            Err(_) => Err(Failure::Usage(format!(
                "--{name} has to be {}, got {text:?}",
                choices.join(" or ")
            ))),
        }
    }

    /// An option's value as a whole number in a range, of which `expected` speaks in the error.
    pub fn whole(
        &self,
        name: &str,
        range: impl RangeBounds<u64>,
        expected: &str,
    ) -> Result<Option<u64>, Failure> {
        self.number(
            name,
            |number: &u64| range.contains(number),
            &format!("a whole number {expected}"),
        )
    }

    /// An option's value as a finite number, for which `fits` has to hold, as `expected` says.
    pub fn real(
        &self,
        name: &str,
        fits: impl Fn(f64) -> bool,
        expected: &str,
    ) -> Result<Option<f64>, Failure> {
        self.number(
            name,
            |number: &f64| number.is_finite() && fits(*number),
            &format!("a number {expected}"),
        )
    }

    fn number<T: FromStr>(
        &self,
        name: &str,
        fits: impl Fn(&T) -> bool,
        expected: &str,
    ) -> Result<Option<T>, Failure> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match text.trim().parse().ok().filter(fits) {
            Some(number) => Ok(Some(number)),
            None => Err(Failure::Usage(format!(
                "--{name} has to be {expected}, got {text:?}"
            ))),
        }
    }

    /// A count: a whole number, at least 1.
    pub fn count(&self, name: &str) -> Result<Option<usize>, Failure> {
        let count = self.whole(name, 1..=isize::MAX as u64, ">= 1")?;
        Ok(count.map(|count| count as usize))
    }

    /// How many threads to use: `--threads`, or as many as there are cores.
    pub fn threads(&self) -> Result<usize, Failure> {
        self.threads_or(|cores| cores)
    }

    /// `--threads`, or a number that depends on the number of cores.
    pub fn threads_or(&self, default: impl FnOnce(usize) -> usize) -> Result<usize, Failure> {
        let expected = format!("from 1 to {MAX_THREADS}");
        let given = self.whole("threads", 1..=MAX_THREADS, &expected)?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(given.map_or_else(|| default(cores()), |threads| threads as usize))
    }
}

/// More threads than any machine has cores are a mistake.
const MAX_THREADS: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Words, String> {
        match Request::parse(line.split_whitespace().map(OsString::from).collect()) {
            Ok(Request::Run(words)) => Ok(words),
            Ok(_) => panic!("{line} asks for help"),
            Err(Failure::Usage(message)) => Err(message),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_come_in_every_usual_form() {
        let words = parse("generate -n 3 --prompt=ab --unique --top-k 4 -m dir --top-k=5").unwrap();
        assert_eq!(words.count("num-samples").unwrap(), Some(3));
        assert_eq!(words.text("prompt").unwrap(), Some("ab"));
        assert!(words.has("unique") && !words.has("json"));
        assert_eq!(words.path("model-dir"), Some(PathBuf::from("dir")));
        assert_eq!(
            words.count("top-k").unwrap(),
            Some(5),
            "the last one counts"
        );
    }

    #[test]
    fn mistakes_name_the_nearest() {
        let error = |line: &str| parse(line).err().unwrap();
        assert_eq!(
            error("trian"),
            "unknown command \"trian\"; did you mean train?"
        );
        assert!(error("xyz").contains("there are train, generate"));
        assert_eq!(
            error("train --batchsize 3"),
            "unknown option --batchsize; did you mean --batch-size?"
        );
        assert_eq!(
            error("generate --temp 3"),
            "unknown option --temp; did you mean --temperature?"
        );
        assert_eq!(
            error("info --zzz"),
            "unknown option --zzz; see `microgpt help info`"
        );
        assert!(error("train -x").starts_with("unknown option -x"));
        assert!(error("train file.txt").starts_with("unexpected argument \"file.txt\""));
        assert!(error("train --steps").contains("--steps"));
        assert!(error("generate --unique=yes").contains("--unique"));
        assert!(error("").contains("no command"));
    }

    #[test]
    fn values_out_of_range_name_the_option_the_value_and_the_range() {
        let words = parse("generate -n 0 --top-p 1.5 --threads x").unwrap();
        let error = |result: Result<String, Failure>| match result {
            Err(Failure::Usage(message)) => message,
            other => panic!("{other:?}"),
        };
        let count = words.count("num-samples").map(|n| format!("{n:?}"));
        assert_eq!(
            error(count),
            "--num-samples has to be a whole number >= 1, got \"0\""
        );
        let p = words
            .real("top-p", |p| p <= 1.0, "<= 1")
            .map(|p| format!("{p:?}"));
        assert_eq!(error(p), "--top-p has to be a number <= 1, got \"1.5\"");
        assert!(
            error(words.threads().map(|n| n.to_string())).contains("from 1 to 1024, got \"x\"")
        );
    }
}
