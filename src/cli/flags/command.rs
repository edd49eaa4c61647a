//! The definition of a command.

use super::args::{
    Args, ChatArgs, ExportArgs, GenerateArgs, InfoArgs, ScoreArgs, ServeArgs, Shell, TrainArgs,
};
use super::flag::{Field, Flag, RawArgs};
use super::shared::HELP;
use crate::cli::failure::Failure;

/// A command line, ready to run.
pub enum ParsedCommand {
    /// The raw arguments are applied again, on the hyperparameters of a resumed run.
    Train(TrainArgs, RawArgs),
    Generate(GenerateArgs),
    Chat(ChatArgs),
    Score(ScoreArgs),
    Info(InfoArgs),
    Export(ExportArgs),
    Serve(ServeArgs),
    /// The full help of a command, or of the program.
    Help(Option<&'static Command>),
    Man,
    Completions(Shell),
    /// `-h`: the summary of a command, or of the program.
    Summary(Option<&'static Command>),
    Version,
}

pub struct Command {
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    pub details: &'static str,
    pub operand: Option<Operand>,
    /// Headings and the options under them, without `--help`.
    pub groups: &'static [(&'static str, &'static [Flag])],
    /// Command lines and what each does.
    pub examples: &'static [(&'static str, &'static str)],
    /// Checks the arguments as a whole.
    pub finish: fn(Args, RawArgs) -> Result<ParsedCommand, Failure>,
}

/// An argument that is not an option.
pub struct Operand {
    /// The placeholder in help.
    pub name: &'static str,
    pub is_required: bool,
    /// The accepted names; `None` for any number of files.
    pub choices: Option<fn() -> Vec<&'static str>>,
    pub field: Field,
}

impl Command {
    /// Returns the headings and the options under them, in the order of help.
    pub fn groups(&self) -> Vec<(&'static str, Vec<&'static Flag>)> {
        let groups = self.groups.iter();
        let mut groups: Vec<(&str, Vec<&Flag>)> = groups
            .map(|(heading, flags)| (*heading, flags.iter().collect()))
            .collect();
        match groups.last_mut() {
            Some((_, flags)) => flags.push(&HELP),
            None => groups.push(("", vec![&HELP])),
        }
        groups
    }

    /// Returns all options, in the order of help.
    pub fn flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.groups().into_iter().flat_map(|(_, flags)| flags)
    }

    /// Returns the names that the operand accepts.
    pub fn choices(&self) -> Option<Vec<&'static str>> {
        let choices = self.operand.as_ref()?.choices?;
        Some(choices())
    }

    /// Returns the form of a command line: `microgpt help [options] [COMMAND]`.
    pub fn synopsis(&self) -> String {
        let operand = self.operand.as_ref().map_or(String::new(), |operand| {
            match (operand.choices, operand.is_required) {
                (None, _) => format!(" [{} ...]", operand.name),
                (_, true) => format!(" {}", operand.name),
                (_, false) => format!(" [{}]", operand.name),
            }
        });
        format!("microgpt {} [options]{operand}", self.name)
    }

    /// Converts raw arguments into typed ones.
    pub fn parse(&self, mut raw: RawArgs) -> Result<ParsedCommand, Failure> {
        let mut args = Args::default();
        raw.add_env(self.flags());
        raw.apply(&mut args)?;
        if let Some(operand) = &self.operand {
            for value in &raw.operands {
                (operand.field)(&mut args).set(value).map_err(|expected| {
                    let name = operand.name;
                    Failure::Usage(format!("{name} must be {expected}, got {value:?}"))
                })?;
            }
        }
        (self.finish)(args, raw)
    }
}
