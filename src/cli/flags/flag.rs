//! The definition of an option, and the update of typed arguments from raw ones.

use std::ffi::OsString;

use super::args::Args;
use super::value::{Choice, Value, names};
use crate::cli::failure::Failure;

/// The field that an option or operand sets.
pub type Field = fn(&mut Args) -> &mut dyn Value;

/// An option of one or more commands.
#[derive(Clone, Copy)]
pub struct Flag {
    /// The long name, without the dashes.
    pub name: &'static str,
    pub short: Option<char>,
    /// The names in other programs, which lead to a suggestion of this one.
    pub aliases: &'static [&'static str],
    pub takes: Takes,
    /// `None` for `--help`, which the parser handles.
    field: Option<Field>,
    /// The environment variable with the default.
    pub env: Option<&'static str>,
    /// Describes a default that depends on something else.
    computed_default: Option<&'static str>,
    /// The names of options that cannot be combined with this one, and the reasons.
    pub excludes: [Option<(&'static str, &'static str)>; 2],
    /// One line, without a full stop.
    pub help: &'static str,
    pub details: &'static str,
    /// The summary lists only the name.
    pub is_rare: bool,
    /// Each occurrence adds a value.
    is_repeatable: bool,
}

/// The kind of an option's value.
#[derive(Clone, Copy)]
pub enum Takes {
    Nothing,
    /// A number or text, with its placeholder.
    Value(&'static str),
    File,
    Dir,
    /// A file or a directory.
    Path,
    OneOf(fn() -> Vec<&'static str>),
}

impl Flag {
    pub const fn new(name: &'static str, takes: Takes, help: &'static str) -> Self {
        Self {
            name,
            short: None,
            aliases: &[],
            takes,
            field: None,
            env: None,
            computed_default: None,
            excludes: [None; 2],
            help,
            details: "",
            is_rare: false,
            is_repeatable: false,
        }
    }

    pub const fn switch(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::Nothing, help)
    }

    pub const fn integer(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::Value("N"), help)
    }

    pub const fn number(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::Value("X"), help)
    }

    pub const fn value(name: &'static str, placeholder: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::Value(placeholder), help)
    }

    pub const fn file(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::File, help)
    }

    pub const fn dir(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::Dir, help)
    }

    pub const fn path(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::Path, help)
    }

    pub const fn choice<T: Choice>(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Takes::OneOf(names::<T>), help)
    }

    pub const fn short(self, short: char) -> Self {
        let short = Some(short);
        Self { short, ..self }
    }

    pub const fn aliases(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    pub const fn env(self, variable: &'static str) -> Self {
        let env = Some(variable);
        Self { env, ..self }
    }

    pub const fn computed_default(self, description: &'static str) -> Self {
        let computed_default = Some(description);
        Self {
            computed_default,
            ..self
        }
    }

    pub const fn excludes(self, other: &'static str, reason: &'static str) -> Self {
        let excludes = match self.excludes {
            [None, _] => [Some((other, reason)), None],
            [first, _] => [first, Some((other, reason))],
        };
        Self { excludes, ..self }
    }

    pub const fn details(self, details: &'static str) -> Self {
        Self { details, ..self }
    }

    pub const fn rare(self) -> Self {
        let is_rare = true;
        Self { is_rare, ..self }
    }

    pub const fn repeatable(self) -> Self {
        let is_repeatable = true;
        Self {
            is_repeatable,
            ..self
        }
    }

    pub const fn sets(self, field: Field) -> Self {
        let field = Some(field);
        Self { field, ..self }
    }

    /// Returns the placeholder of the value in help; `None` for an option without a value.
    pub fn placeholder(&self) -> Option<String> {
        match self.takes {
            Takes::Nothing => None,
            Takes::Value(name) => Some(name.to_string()),
            Takes::File => Some("FILE".to_string()),
            Takes::Dir => Some("DIR".to_string()),
            Takes::Path => Some("PATH".to_string()),
            Takes::OneOf(choices) => Some(choices().join("|")),
        }
    }

    /// Returns the default as help shows it.
    pub fn default(&self) -> Option<String> {
        let default = match self.computed_default {
            Some(description) => description.to_string(),
            None => (self.field?)(&mut Args::default()).show()?,
        };
        Some(match self.env {
            Some(variable) => format!("${variable}, or {default}"),
            None => default,
        })
    }
}

/// The options and operands of a command line as typed.
#[derive(Default)]
pub struct RawArgs {
    flags: Vec<RawFlag>,
    pub operands: Vec<OsString>,
}

/// An option or environment variable with its argument, empty for an option without one.
struct RawFlag {
    flag: &'static Flag,
    /// The option or variable in messages.
    source: String,
    argument: OsString,
}

impl RawArgs {
    /// Adds an option. Of a repeated one, the last counts, unless it is repeatable.
    pub fn push(&mut self, flag: &'static Flag, argument: OsString) {
        self.flags
            .retain(|raw| flag.is_repeatable || raw.flag.name != flag.name);
        self.flags.push(RawFlag {
            flag,
            source: format!("--{}", flag.name),
            argument,
        });
    }

    /// Adds the environment variables of the options that are not given. Empty ones do not count.
    pub fn add_env(&mut self, flags: impl Iterator<Item = &'static Flag>) {
        for flag in flags
            .filter(|flag| !self.has(flag.name))
            .collect::<Vec<_>>()
        {
            if let Some(variable) = flag.env
                && let Some(argument) = std::env::var_os(variable)
                && !argument.is_empty()
            {
                self.flags.push(RawFlag {
                    flag,
                    source: variable.to_string(),
                    argument,
                });
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|raw| raw.flag.name == name)
    }

    /// Sets the fields of the options. Errors name the option, the expected value and the argument.
    pub fn apply(&self, args: &mut Args) -> Result<(), Failure> {
        for raw in &self.flags {
            let mut excluded = raw.flag.excludes.into_iter().flatten();
            if let Some((other, reason)) = excluded.find(|(other, _)| self.has(other)) {
                return Err(Failure::Usage(format!(
                    "{} and --{other} cannot be combined: {reason}",
                    raw.source
                )));
            }
            if let Some(field) = raw.flag.field {
                field(args).set(&raw.argument).map_err(|expected| {
                    let (source, argument) = (&raw.source, &raw.argument);
                    Failure::Usage(format!("{source} must be {expected}, got {argument:?}"))
                })?;
            }
        }
        Ok(())
    }
}
