//! Completions for zsh: a function that gives `_arguments` what it needs to know.

use super::super::flags::{COMMANDS, Command, Opt, Takes};
use super::quote;

pub fn script() -> String {
    let commands: String = COMMANDS
        .iter()
        .map(|c| {
            format!(
                "        {}\n",
                quote(&format!("{}:{}", c.name, c.summary.replace(':', "\\:")))
            )
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

fn case(command: &Command) -> String {
    let options = command.options().map(specification);
    let operand = command
        .operand
        .as_ref()
        .map(|operand| match operand.takes.choices() {
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

/// An option as `_arguments` takes it: `{-o,--output=}'[Where to keep the model]:DIR:_files -/'`.
fn specification(option: &Opt) -> String {
    let value = match option.takes {
        Takes::Nothing => String::new(),
        Takes::Value(name) => format!(":{name}: "),
        Takes::File => ":FILE:_files".to_string(),
        Takes::Dir => ":DIR:_files -/".to_string(),
        Takes::OneOf(choices) => format!(":{}:({})", option.name, choices.join(" ")),
    };
    let equals = if value.is_empty() { "" } else { "=" };
    let help = option.help.replace('[', "\\[").replace(']', "\\]");
    let help = quote(&format!("[{}]{value}", help.replace(':', "\\:")));
    match option.short {
        Some(short) => format!("{{-{short},--{}{equals}}}{help}", option.name),
        None => format!("--{}{equals}{help}", option.name),
    }
}
