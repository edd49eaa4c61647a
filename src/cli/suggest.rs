//! What was probably meant by a word that the flags does not know.

use super::flags::{COMMANDS, Command, Opt};

/// A question about a mistyped command.
pub fn command(name: &str) -> String {
    let known = COMMANDS.iter().map(|command| command.name);
    choice(name, known)
}

/// A question about a mistyped choice, or what there is to choose from.
pub fn choice<'a>(given: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(given, known.clone()) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("there are {}", list(known)),
    }
}

/// A question about a mistyped option of a command, or where to look it up.
pub fn option(command: &Command, name: &str) -> String {
    let as_elsewhere = |option: &&Opt| option.elsewhere.contains(&normal(name).as_str());
    let nearest = match command.options().find(as_elsewhere) {
        Some(option) => Some(option.name),
        None => nearest(name, command.options().map(|option| option.name)),
    };
    match nearest {
        Some(nearest) => format!("did you mean --{nearest}?"),
        None => owners(|option| option.name == name).unwrap_or_else(|| see_help(command)),
    }
}

/// Where an option belongs that is short and not this command's.
pub fn short_option(command: &Command, short: char) -> String {
    owners(|option| option.short == Some(short)).unwrap_or_else(|| see_help(command))
}

/// What may be meant by an option that stands before the command.
pub fn early_option(name: &str) -> String {
    if let Some(nearest) = nearest(name, ["help", "version"].into_iter()) {
        return format!("did you mean --{nearest}?");
    }
    if let Some(command) = COMMANDS.iter().find(|command| command.name == name) {
        return format!("did you mean the command {}?", command.name);
    }
    match owners(|option| option.name == name) {
        Some(owners) => format!("{owners}, and comes after the command"),
        None => "see `microgpt help`".to_string(),
    }
}

/// The option that a word without one may be for: what is there to be read or to be opened.
pub fn operand(command: &Command, value: &str) -> String {
    let takes_it = |name: &&str| command.option(name).is_some();
    let option = ["input", "model-dir"].into_iter().find(takes_it);
    match option {
        Some(option) if std::path::Path::new(value).exists() => {
            format!("did you mean --{option} {value}?")
        }
        _ => see_help(command),
    }
}

pub fn see_help(command: &Command) -> String {
    format!("see `microgpt help {}`", command.name)
}

/// Words as a list: `a, b and c`.
pub fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    join(words, "and")
}

/// Words to choose from: `a, b or c`.
pub fn alternatives<'a>(words: impl Iterator<Item = &'a str>) -> String {
    join(words, "or")
}

fn join<'a>(words: impl Iterator<Item = &'a str>, conjunction: &str) -> String {
    let words: Vec<&str> = words.collect();
    match words.split_last() {
        Some((last, before)) if !before.is_empty() => {
            format!("{} {conjunction} {last}", before.join(", "))
        }
        _ => words.concat(),
    }
}

/// The commands that have such an option.
fn owners(is_it: impl Fn(&Opt) -> bool) -> Option<String> {
    let commands = COMMANDS
        .iter()
        .filter(|command| command.options().any(&is_it));
    let commands = list(commands.map(|command| command.name));
    (!commands.is_empty()).then(|| format!("it is an option of {commands}"))
}

/// A name as the flags would spell it.
fn normal(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

/// The known name that is most like a mistyped one, if any is like it at all.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = normal(name);
    let likeness = |known: &str| {
        // A beginning of the right name, as in --temp, is like it however short it is.
        if name.len() > 1 && known.starts_with(&name) {
            1.0
        } else {
            strsim::jaro_winkler(&name, known)
        }
    };
    let best = known.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.75).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> &'static Command {
        COMMANDS
            .iter()
            .find(|command| command.name == name)
            .unwrap()
    }

    #[test]
    fn names_that_other_programs_use_lead_to_ours() {
        let train = named("train");
        for (theirs, ours) in [
            ("learning-rate", "lr"),
            ("learning_rate", "lr"),
            ("max-iters", "steps"),
            ("dataset", "input"),
            ("n_embd", "n-embd"),
            ("STEPS", "steps"),
        ] {
            assert_eq!(option(train, theirs), format!("did you mean --{ours}?"));
        }
        let generate = named("generate");
        assert_eq!(option(generate, "count"), "did you mean --num-samples?");
    }

    #[test]
    fn no_option_bears_the_name_that_another_has_elsewhere() {
        for command in COMMANDS {
            for option in command.options() {
                for name in option.elsewhere {
                    assert!(command.option(name).is_none(), "{}: {name}", command.name);
                    let same = command.options().filter(|o| o.elsewhere.contains(name));
                    assert_eq!(same.count(), 1, "{}: {name}", command.name);
                    assert_eq!(normal(name), *name);
                }
            }
        }
    }

    #[test]
    fn options_of_other_commands_are_said_to_be_theirs() {
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
    fn an_option_before_the_command_is_told_where_it_belongs() {
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
    fn a_file_without_an_option_is_probably_the_input() {
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
