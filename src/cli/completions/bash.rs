//! Completions for bash: a function that offers words or files for the command and for the option
//! before the cursor.

use super::super::flags::{COMMANDS, Command, Flag, Takes};

/// The completion script.
pub fn script() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    let cases: String = COMMANDS.iter().map(case).collect();
    format!(
        "# Completions of microgpt for bash.
_microgpt() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    COMPREPLY=()
    # The candidates: words (-W), files (-f), or directories (-d).
    local offer kind=-W
    if [[ $COMP_CWORD -eq 1 ]]; then
        offer='{names} --help --version'
    else
        # --option=value is split into three words.
        if [[ $word == = ]]; then
            word=
        elif [[ $before == = ]]; then
            before=${{COMP_WORDS[COMP_CWORD-2]}}
        fi
        case ${{COMP_WORDS[1]}} in
{cases}        *) return ;;
        esac
    fi
    # The bash of macOS has neither mapfile nor compopt.
    local found
    if [[ $kind == -W ]]; then
        found=$(compgen -W \"$offer\" -- \"$word\")
    else
        compopt -o filenames 2>/dev/null
        found=$(compgen \"$kind\" -- \"$word\")
    fi
    while IFS= read -r word; do
        [[ -z $word ]] || COMPREPLY+=(\"$word\")
    done <<< \"$found\"
}}
complete -F _microgpt microgpt
",
        names = names.join(" ")
    )
}

/// The candidates of a command: after an option its values, otherwise the options and operands.
fn case(command: &Command) -> String {
    let flags: Vec<&Flag> = command.flags().collect();
    let values: String = flags.iter().filter_map(|flag| values(flag)).collect();
    let options: Vec<String> = flags.iter().flat_map(|flag| names(flag)).collect();
    let operand = command.operand.as_ref().map_or(String::new(), |_| {
        let offer = match command.choices() {
            Some(choices) => format!("offer='{}'", choices.join(" ")),
            None => "kind=-f".to_string(),
        };
        format!("            [[ $word == -* || $offer != '-'* ]] || {offer}\n")
    });
    format!(
        "        {})
            case $before in
{values}            *) offer='{}' ;;
            esac
{operand}            ;;
",
        command.name,
        options.join(" ")
    )
}

/// The case of an option with a value.
fn values(flag: &Flag) -> Option<String> {
    let action = match flag.takes {
        Takes::Nothing => return None,
        Takes::Value(_) => "return".to_string(),
        Takes::File | Takes::Path => "kind=-f".to_string(),
        Takes::Dir => "kind=-d".to_string(),
        Takes::OneOf(choices) => format!("offer='{}'", choices().join(" ")),
    };
    let names = names(flag).join(" | ");
    Some(format!("            {names}) {action} ;;\n"))
}

/// `--output`, `-o`.
fn names(flag: &Flag) -> Vec<String> {
    let long = std::iter::once(format!("--{}", flag.name));
    long.chain(flag.short.map(|short| format!("-{short}")))
        .collect()
}
