//! Completions for bash: a function that looks at the command, at the option before the cursor, and
//! offers words or files.

use super::super::flags::{COMMANDS, Command, Opt, Takes};

pub fn script() -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    let cases: String = COMMANDS.iter().map(case).collect();
    format!(
        "# Completions of microgpt for bash.
_microgpt() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    COMPREPLY=()
    # What is offered: words, files (-f), or directories (-d).
    local offer kind=-W
    if [[ $COMP_CWORD -eq 1 ]]; then
        offer='{names} --help --version'
    else
        # --option=value comes as three words.
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

/// What a command offers: after an option, its values; otherwise its options and operands.
fn case(command: &Command) -> String {
    let values: String = command.options().filter_map(values).collect();
    let options: Vec<String> = command.options().flat_map(spellings).collect();
    let operand = command.operand.as_ref().map_or(String::new(), |operand| {
        let offer = match operand.takes.choices() {
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

/// What may follow an option; nothing for one without a value.
fn values(option: &'static Opt) -> Option<String> {
    let action = match option.takes {
        Takes::Nothing => return None,
        Takes::Value(_) => "return".to_string(),
        Takes::File => "kind=-f".to_string(),
        Takes::Dir => "kind=-d".to_string(),
        Takes::OneOf(choices) => format!("offer='{}'", choices.join(" ")),
    };
    let spellings: Vec<String> = spellings(option).collect();
    Some(format!(
        "            {}) {action} ;;\n",
        spellings.join(" | ")
    ))
}

/// `--output`, `-o`.
fn spellings(option: &'static Opt) -> impl Iterator<Item = String> {
    let long = std::iter::once(format!("--{}", option.name));
    long.chain(option.short.map(|short| format!("-{short}")))
}
