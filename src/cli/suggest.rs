//! Suggestions for unknown commands, options and operands.

use std::path::Path;

use super::flags::{COMMANDS, Command, Flag, Takes, join};

/// Returns the hint for an unknown command.
pub fn command(name: &str) -> String {
    choice(name, &command_names(|_| true))
}

/// Returns the hint for an unknown name: the nearest known one, or all of them.
pub fn choice(given: &str, known: &[&str]) -> String {
    match nearest(given, known) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("the choices are {}", join(known, "and")),
    }
}

/// Returns the hint for an unknown option of a command.
pub fn option(command: &Command, name: &str) -> String {
    let flags: Vec<&Flag> = command.flags().collect();
    let names: Vec<&str> = flags.iter().map(|flag| flag.name).collect();
    let by_alias = flags
        .iter()
        .find(|flag| flag.aliases.contains(&&*normalize(name)));
    match by_alias.map(|flag| flag.name).or(nearest(name, &names)) {
        Some(nearest) => format!("did you mean --{nearest}?"),
        None => owners(|flag| flag.name == name).unwrap_or_else(|| see_help(command)),
    }
}

/// Returns the hint for an unknown short option of a command.
pub fn short_option(command: &Command, short: char) -> String {
    owners(|flag| flag.short == Some(short)).unwrap_or_else(|| see_help(command))
}

/// Returns the hint for an option before the command.
pub fn early_option(name: &str) -> String {
    if let Some(nearest) = nearest(name, &["help", "version"]) {
        return format!("did you mean --{nearest}?");
    }
    if command_names(|_| true).contains(&name) {
        return format!("did you mean the command {name}?");
    }
    match owners(|flag| flag.name == name) {
        Some(owners) => format!("{owners}, and comes after the command"),
        None => "see `microgpt help`".to_string(),
    }
}

/// Returns the hint for an unexpected operand. An existing path probably belongs to the command's
/// first option that takes one.
pub fn operand(command: &Command, value: &str) -> String {
    let mut flags = command.flags();
    match flags.find(|flag| matches!(flag.takes, Takes::File | Takes::Dir | Takes::Path)) {
        Some(flag) if Path::new(value).exists() => {
            format!("did you mean --{} {value}?", flag.name)
        }
        _ => see_help(command),
    }
}

pub fn see_help(command: &Command) -> String {
    format!("see `microgpt help {}`", command.name)
}

/// Returns which commands have an option that matches, if any.
fn owners(matches: impl Fn(&Flag) -> bool) -> Option<String> {
    let commands = command_names(|command| command.flags().any(&matches));
    (!commands.is_empty()).then(|| format!("it is an option of {}", join(&commands, "and")))
}

fn command_names(matches: impl Fn(&Command) -> bool) -> Vec<&'static str> {
    let commands = COMMANDS.iter().filter(|command| matches(command));
    commands.map(|command| command.name).collect()
}

/// Returns the name in the spelling of the definitions.
fn normalize(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

/// Returns the most similar of the known names, if one is similar at all.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = normalize(name);
    let similarity = |known: &str| {
        // A prefix, as in --temp, is similar however short it is.
        if name.len() > 1 && known.starts_with(&name) {
            1.0
        } else {
            strsim::jaro_winkler(&name, known)
        }
    };
    let best = known
        .iter()
        .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(best) > 0.75).then_some(*best)
}

#[cfg(test)]
mod tests {
    use super::super::flags::find_command;
    use super::*;

    fn named(name: &str) -> &'static Command {
        find_command(name.as_ref()).unwrap()
    }

    #[test]
    fn aliases_of_other_programs_lead_to_the_option() {
        let train = named("train");
        for (alias, name) in [
            ("learning-rate", "lr"),
            ("learning_rate", "lr"),
            ("max-iters", "steps"),
            ("dataset", "input"),
            ("n_embd", "n-embd"),
            ("STEPS", "steps"),
        ] {
            assert_eq!(option(train, alias), format!("did you mean --{name}?"));
        }
        let generate = named("generate");
        assert_eq!(option(generate, "count"), "did you mean --num-samples?");
    }

    #[test]
    fn options_of_other_commands_name_these() {
        let train = named("train");
        assert_eq!(option(train, "unique"), "it is an option of generate");
        assert_eq!(
            option(train, "json"),
            "it is an option of generate, score and info"
        );
        assert_eq!(short_option(train, 'n'), "it is an option of generate");
        assert_eq!(short_option(train, 'x'), "see `microgpt help train`");
    }

    #[test]
    fn option_before_the_command() {
        for (name, expected) in [
            ("hlep", "did you mean --help?"),
            ("versoin", "did you mean --version?"),
            ("train", "did you mean the command train?"),
            (
                "steps",
                "it is an option of train, and comes after the command",
            ),
            ("zzz", "see `microgpt help`"),
        ] {
            assert_eq!(early_option(name), expected);
        }
    }

    #[test]
    fn existing_path_suggests_its_option() {
        assert_eq!(
            operand(named("train"), "Cargo.toml"),
            "did you mean --input Cargo.toml?"
        );
        assert_eq!(
            operand(named("info"), "src"),
            "did you mean --model-dir src?"
        );
        assert_eq!(
            operand(named("info"), "nowhere"),
            "see `microgpt help info`"
        );
        assert_eq!(operand(named("man"), "src"), "see `microgpt help man`");
    }
}
