//! The command line, taken apart by the flags: first the words as they were typed, then values that
//! are ready to use.

use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use lexopt::Arg;

use super::flags::{COMMANDS, Command, Operands, Opt, Takes};
use super::{Failure, suggest};
use crate::kernels::cpu::cores;

/// What somebody asks of the program.
pub enum Request {
    /// The help of the program, in short.
    Overview,
    /// A command's help, in short.
    Summary(&'static Command),
    /// All there is to know about a command.
    Page(&'static Command),
    Version,
    Run(Words),
}

/// A command and its options as they were typed.
pub struct Words {
    pub command: &'static Command,
    given: Vec<(&'static Opt, Option<OsString>)>,
    operands: Vec<OsString>,
}

impl Request {
    pub fn parse(arguments: Vec<OsString>) -> Result<Self, Failure> {
        let mut parser = lexopt::Parser::from_args(arguments);
        let command = match parser.next().map_err(usage)? {
            None => {
                return Err(Failure::Usage(format!(
                    "no command given; there are {}; see `microgpt help`",
                    suggest::list(COMMANDS.iter().map(|command| command.name))
                )));
            }
            Some(Arg::Short('h')) => return Ok(Request::Overview),
            Some(Arg::Long("help")) => {
                return Ok(Request::Run(Words::new(find_command(OsStr::new("help"))?)));
            }
            Some(Arg::Short('V') | Arg::Long("version")) => return Ok(Request::Version),
            Some(Arg::Value(name)) => find_command(&name)?,
            Some(other) => {
                let hint = match other {
                    Arg::Long(name) => suggest::early_option(name),
                    _ => "see `microgpt help`".to_string(),
                };
                return Err(unexpected(other, &hint));
            }
        };
        let mut words = Words::new(command);
        while let Some(argument) = parser.next().map_err(usage)? {
            let option = match argument {
                Arg::Short('h') => return Ok(Request::Summary(command)),
                Arg::Long("help") => return Ok(Request::Page(command)),
                Arg::Long(name) => command
                    .option(name)
                    .ok_or_else(|| unexpected(argument, &suggest::option(command, name)))?,
                Arg::Short(short) => command
                    .options()
                    .find(|option| option.short == Some(short))
                    .ok_or_else(|| unexpected(argument, &suggest::short_option(command, short)))?,
                Arg::Value(value) => {
                    words.take_operand(value)?;
                    continue;
                }
            };
            let value = match option.takes.placeholder() {
                None => None,
                Some(what) => Some(parser.value().map_err(|_| {
                    Failure::Usage(format!(
                        "--{} needs a value, {what}; {}",
                        option.name,
                        suggest::see_help(command)
                    ))
                })?),
            };
            words.given.push((option, value));
        }
        words.check_operand()?;
        Ok(Request::Run(words))
    }
}

fn usage(error: lexopt::Error) -> Failure {
    Failure::Usage(match error {
        lexopt::Error::UnexpectedValue { option, value } => {
            format!("{option} takes no value, got {value:?}")
        }
        error => error.to_string(),
    })
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
    let found = COMMANDS.iter().find(|command| command.name == name);
    found.ok_or_else(|| {
        let hint = suggest::command(&name.to_string_lossy());
        Failure::Usage(format!("unknown command {name:?}; {hint}"))
    })
}

impl Words {
    fn new(command: &'static Command) -> Self {
        Self {
            command,
            given: Vec::new(),
            operands: Vec::new(),
        }
    }

    /// Takes a word that is no option, where the command has a place for it.
    fn take_operand(&mut self, value: OsString) -> Result<(), Failure> {
        let takes = self.command.operand.as_ref().map(|operand| &operand.takes);
        match takes {
            Some(Operands::OneOf(_)) if self.operands.is_empty() => {}
            Some(Operands::Files) => {}
            _ => {
                let hint = suggest::operand(self.command, &value.to_string_lossy());
                return Err(unexpected(Arg::Value(value), &hint));
            }
        }
        self.operands.push(value);
        Ok(())
    }

    /// Makes sure that the operand is there if it has to be, and one of its choices.
    fn check_operand(&self) -> Result<(), Failure> {
        let Some(operand) = &self.command.operand else {
            return Ok(());
        };
        let Some(choices) = operand.takes.choices() else {
            return Ok(());
        };
        match self.operand()? {
            Some(given) if !choices.contains(&given) => {
                let hint = suggest::choice(given, choices.iter().copied());
                let name = operand.name.to_lowercase();
                Err(Failure::Usage(format!("unknown {name} {given:?}; {hint}")))
            }
            None if operand.required => Err(Failure::Usage(format!(
                "{} needs a {}: {}",
                self.command.name,
                operand.name.to_lowercase(),
                suggest::alternatives(choices.iter().copied())
            ))),
            _ => Ok(()),
        }
    }

    /// The word that is no option.
    pub fn operand(&self) -> Result<Option<&str>, Failure> {
        let Some(value) = self.operands.first() else {
            return Ok(None);
        };
        match value.to_str() {
            Some(text) => Ok(Some(text)),
            None => Err(unexpected(
                Arg::Value(value.clone()),
                &suggest::see_help(self.command),
            )),
        }
    }

    /// The files that were named.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.operands.iter().map(PathBuf::from)
    }

    /// Errors where both of two options were given, and says why that can't be.
    pub fn not_together(&self, one: &str, other: &str, why: &str) -> Result<(), Failure> {
        if self.has(one) && self.has(other) {
            return Err(Failure::Usage(format!(
                "--{one} and --{other} don't go together: {why}"
            )));
        }
        Ok(())
    }

    /// The value of an option that was given; the last one, where it was given more than once.
    fn value(&self, name: &str) -> Option<&OsStr> {
        debug_assert!(
            self.command.option(name).is_some(),
            "--{name} is in the flags"
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

    /// An option's value as one of the names that the flags lists.
    pub fn choice<T: FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        match text.parse() {
            Ok(choice) => Ok(Some(choice)),
            Err(_) => {
                let takes = self.command.option(name).map(|option| option.takes);
                let Some(Takes::OneOf(choices)) = takes else {
                    unreachable!("the flags lists the choices of --{name}")
                };
                Err(Failure::Usage(format!(
                    "--{name} has to be {}, got {text:?}",
                    suggest::alternatives(choices.iter().copied())
                )))
            }
        }
    }

    /// An option's value as a whole number in a range.
    pub fn whole(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Failure> {
        let (least, most) = (range.start(), range.end());
        let given = self.text(name)?.unwrap_or_default();
        let is_beyond = given.parse::<u128>().is_ok_and(|n| n > u128::from(*most));
        // A limit that nobody comes near is of interest to those beyond it alone.
        let expected = if *most < isize::MAX as u64 || is_beyond {
            format!("a whole number from {least} to {most}")
        } else {
            format!("a whole number >= {least}")
        };
        self.number(name, |number| range.contains(number), &expected)
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
        let count = self.whole(name, 1..=isize::MAX as u64)?;
        Ok(count.map(|count| count as usize))
    }

    /// How many threads to use: `--threads`, or as many as there are cores.
    pub fn threads(&self) -> Result<usize, Failure> {
        self.threads_or(|cores| cores)
    }

    /// `--threads`, or a number that depends on the number of cores.
    pub fn threads_or(&self, default: impl FnOnce(usize) -> usize) -> Result<usize, Failure> {
        let given = self.whole("threads", 1..=MAX_THREADS)?;
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
        assert!(error("train --steps").starts_with("--steps needs a value, N; "));
        assert_eq!(
            error("generate --unique=yes"),
            "--unique takes no value, got \"yes\""
        );
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
