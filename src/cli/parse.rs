//! The command line: raw arguments first, then typed ones.

use std::ffi::{OsStr, OsString};

use lexopt::Arg;

use super::failure::Failure;
use super::flags::{COMMANDS, Command, Flag, ParsedCommand, RawArgs, find_command, join};
use super::suggest;

/// Parses the arguments after the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<ParsedCommand, Failure> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let command = match parser.next().map_err(invalid)? {
        None => {
            let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
            return Err(Failure::Usage(format!(
                "no command given; the commands are {}; see `microgpt help`",
                join(&names, "and")
            )));
        }
        Some(Arg::Short('h')) => return Ok(ParsedCommand::Summary(None)),
        Some(Arg::Long("help")) => return Ok(ParsedCommand::Help(None)),
        Some(Arg::Short('V') | Arg::Long("version")) => return Ok(ParsedCommand::Version),
        Some(Arg::Value(name)) => find_command(&name).ok_or_else(|| {
            let hint = suggest::command(&name.to_string_lossy());
            Failure::Usage(format!("unknown command {name:?}; {hint}"))
        })?,
        Some(other) => {
            let hint = match other {
                Arg::Long(name) => suggest::early_option(name),
                _ => "see `microgpt help`".to_string(),
            };
            return Err(unexpected(other, &hint));
        }
    };
    parse_command(command, parser)
}

/// Parses the options and operands of a command.
fn parse_command(
    command: &'static Command,
    mut parser: lexopt::Parser,
) -> Result<ParsedCommand, Failure> {
    let flags: Vec<&Flag> = command.flags().collect();
    let mut raw = RawArgs::default();
    while let Some(argument) = parser.next().map_err(invalid)? {
        let flag = match argument {
            Arg::Short('h') => return Ok(ParsedCommand::Summary(Some(command))),
            Arg::Long("help") => return Ok(ParsedCommand::Help(Some(command))),
            Arg::Long(name) => match flags.iter().find(|flag| flag.name == name) {
                Some(flag) => flag,
                None => return Err(unexpected(argument, &suggest::option(command, name))),
            },
            Arg::Short(short) => match flags.iter().find(|flag| flag.short == Some(short)) {
                Some(flag) => flag,
                None => return Err(unexpected(argument, &suggest::short_option(command, short))),
            },
            Arg::Value(value) => {
                check_operand(command, &value, raw.operands.len() + 1)?;
                raw.operands.push(value);
                continue;
            }
        };
        raw.push(flag, parse_value(command, flag, &mut parser)?);
    }
    if let Some(operand) = &command.operand
        && operand.is_required
        && raw.operands.is_empty()
    {
        return Err(Failure::Usage(format!(
            "{} needs a {}: {}",
            command.name,
            operand.name.to_lowercase(),
            join(&command.choices().unwrap_or_default(), "or")
        )));
    }
    command.parse(raw)
}

/// Returns the value of an option, empty for an option without one.
fn parse_value(
    command: &Command,
    flag: &Flag,
    parser: &mut lexopt::Parser,
) -> Result<OsString, Failure> {
    let Some(placeholder) = flag.placeholder() else {
        return Ok(OsString::new());
    };
    parser.value().map_err(|_| {
        let hint = suggest::see_help(command);
        Failure::Usage(format!(
            "--{} needs a value, {placeholder}; {hint}",
            flag.name
        ))
    })
}

/// Errors if the command does not accept the operand, the `count`th one.
fn check_operand(command: &Command, value: &OsStr, count: usize) -> Result<(), Failure> {
    let text = value.to_string_lossy();
    let Some(operand) = command
        .operand
        .as_ref()
        .filter(|o| count == 1 || o.choices.is_none())
    else {
        let hint = suggest::operand(command, &text);
        return Err(unexpected(Arg::Value(value.into()), &hint));
    };
    match command.choices() {
        Some(choices) if !choices.contains(&&*text) => {
            let name = operand.name.to_lowercase();
            let hint = suggest::choice(&text, &choices);
            Err(Failure::Usage(format!("unknown {name} {text:?}; {hint}")))
        }
        _ => Ok(()),
    }
}

fn invalid(error: lexopt::Error) -> Failure {
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

#[cfg(test)]
pub mod tests {
    use super::super::flags::{
        ChatArgs, ExportArgs, GenerateArgs, InfoArgs, ScoreArgs, ServeArgs, TrainArgs,
    };
    use super::*;

    pub fn parse_line(line: &str) -> Result<ParsedCommand, Failure> {
        parse(line.split_whitespace().map(OsString::from))
    }

    /// The error of an invalid command line.
    #[track_caller]
    pub fn error(line: &str) -> String {
        match parse_line(line) {
            Err(Failure::Usage(message)) => message,
            Err(other) => panic!("{line}: {other:?}"),
            Ok(_) => panic!("{line} is valid"),
        }
    }

    /// The typed arguments of a valid command line.
    #[track_caller]
    pub fn args<A: TryFrom<ParsedCommand, Error = ()>>(line: &str) -> A {
        let Ok(args) = A::try_from(parse_line(line).unwrap()) else {
            panic!("{line} is of another command");
        };
        args
    }

    macro_rules! try_from_parsed_command {
        ($($variant:ident($args:ident)),*) => {$(
            impl TryFrom<ParsedCommand> for $args {
                type Error = ();

                fn try_from(command: ParsedCommand) -> Result<Self, ()> {
                    match command {
                        ParsedCommand::$variant(args, ..) => Ok(args),
                        _ => Err(()),
                    }
                }
            }
        )*};
    }

    try_from_parsed_command!(
        Train(TrainArgs),
        Generate(GenerateArgs),
        Chat(ChatArgs),
        Score(ScoreArgs),
        Info(InfoArgs),
        Export(ExportArgs),
        Serve(ServeArgs)
    );

    #[test]
    fn options_are_accepted_in_every_usual_form() {
        let line = "generate -n3 --prompt=ab --unique --top-k 4 -m dir --top-k=5";
        let given: GenerateArgs = args(line);
        assert_eq!((given.count(), &*given.options.prompt), (3, "ab"));
        assert_eq!(given.options.sampling.top_k, Some(5));
        assert!(given.unique && !given.json);
        assert_eq!(given.model_dir, Some("dir".into()));
    }

    #[test]
    fn help_precedes_errors_in_values() {
        let line = "train --steps x -h";
        assert!(matches!(
            parse_line(line),
            Ok(ParsedCommand::Summary(Some(_)))
        ));
        let line = "train --steps x --help";
        assert!(matches!(parse_line(line), Ok(ParsedCommand::Help(Some(_)))));
    }

    #[test]
    fn errors_suggest_the_nearest_name() {
        for (line, expected) in [
            ("trian", "unknown command \"trian\"; did you mean train?"),
            (
                "train --batchsize 3",
                "unknown option --batchsize; did you mean --batch-size?",
            ),
            (
                "generate --temp 3",
                "unknown option --temp; did you mean --temperature?",
            ),
            (
                "info --zzz",
                "unknown option --zzz; see `microgpt help info`",
            ),
            (
                "help nothing",
                "unknown command \"nothing\"; the choices are train, ",
            ),
            ("train -x", "unknown option -x"),
            ("train file.txt", "unexpected argument \"file.txt\""),
            ("train --steps", "--steps needs a value, N; "),
            (
                "generate --unique=yes",
                "--unique takes no value, got \"yes\"",
            ),
            ("completions zsh fish", "unexpected argument \"fish\""),
            ("", "no command given"),
        ] {
            let error = error(line);
            assert!(error.starts_with(expected), "{line}: {error}");
        }
    }
}
