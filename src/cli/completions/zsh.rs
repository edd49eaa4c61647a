//! Completions for zsh: a function with a call of `_arguments` per command.

use super::super::flags::{COMMANDS, Command, Flag, Takes};
use super::quote::quote;

/// The completion script.
pub fn script() -> String {
    let commands: String = COMMANDS
        .iter()
        .map(|command| {
            let Command { name, summary, .. } = command;
            let description = quote(&format!("{name}:{}", summary.replace(':', "\\:")));
            format!("        {description}\n")
        })
        .collect();
    let cases: String = COMMANDS.iter().map(case).collect();
    format!(
        "#compdef microgpt
# Completions of microgpt for zsh.
_microgpt() {{
    local -a commands
    commands=(
{commands}    )
    if (( CURRENT == 2 )); then
        if [[ $words[CURRENT] == -* ]]; then
            _arguments '(- *)'{{-h,--help}}'[Show help]' '(- *)'{{-V,--version}}'[Show the version]'
        else
            _describe command commands
        fi
        return
    fi
    local command=$words[2]
    (( CURRENT-- ))
    shift words
    case $command in
{cases}    esac
}}
if [[ $funcstack[1] == _microgpt ]]; then
    _microgpt \"$@\"
else
    compdef _microgpt microgpt
fi
"
    )
}

/// The case of a command.
fn case(command: &Command) -> String {
    let options = command.flags().map(specification);
    let operand = command
        .operand
        .as_ref()
        .map(|operand| match command.choices() {
            Some(choices) => quote(&format!(":{}:({})", operand.name, choices.join(" "))),
            None => quote(&format!("*:{}:_files", operand.name)),
        });
    let specifications: String = options
        .chain(operand)
        .map(|specification| format!(" \\\n            {specification}"))
        .collect();
    format!(
        "    {})\n        _arguments -s{specifications}\n        ;;\n",
        command.name
    )
}

/// The argument of `_arguments` for an option: `{-o,--output=}'[Model directory]:DIR:_files -/'`.
fn specification(flag: &Flag) -> String {
    let value = match flag.takes {
        Takes::Nothing => String::new(),
        Takes::Value(name) => format!(":{name}: "),
        Takes::File => ":FILE:_files".to_string(),
        Takes::Path => ":PATH:_files".to_string(),
        Takes::Dir => ":DIR:_files -/".to_string(),
        Takes::OneOf(choices) => format!(":{}:({})", flag.name, choices().join(" ")),
    };
    let equals = if value.is_empty() { "" } else { "=" };
    let help = flag.help.replace('[', "\\[").replace(']', "\\]");
    let help = quote(&format!("[{}]{value}", help.replace(':', "\\:")));
    match flag.short {
        Some(short) => format!("{{-{short},--{}{equals}}}{help}", flag.name),
        None => format!("--{}{equals}{help}", flag.name),
    }
}
