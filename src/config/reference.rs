//! `docs/SETTINGS.md`, from clap's own data.

use std::fmt::Write as _;

use super::command_line::command_line;

const START: &str = "# Settings

Generated from the command line by `make docs`; do not edit.

Each flag of the server is also an environment variable; the flag has priority. Times are written like `100ms`,
`75s`, `1h30m`; sizes like `16KiB`, `8MiB`, or in bytes. `sigmad --print-config` prints the settings in force as
an environment file. `sigmad demo` has the same settings.
";

fn document() -> String {
    let command = command_line();
    let mut text = START.to_owned();
    let mut last_heading = None;
    for arg in command.get_arguments().filter(|arg| arg.get_env().is_some()) {
        let heading = arg.get_help_heading().expect("each setting has a heading");
        if last_heading != Some(heading) {
            write!(text, "\n## {heading}\n\n| flag | variable | default | meaning |\n")
                .expect("grows");
            text.push_str("| --- | --- | --- | --- |\n");
            last_heading = Some(heading);
        }
        let variable = arg.get_env().and_then(|name| name.to_str()).expect("ASCII");
        row(&mut text, arg, &format!(" `{variable}` |"));
    }
    for name in ["load", "eval"] {
        let command = command.find_subcommand(name).expect("a command");
        write!(text, "\n## Flags of `sigmad {name}`\n\nThey have no variables.\n\n")
            .expect("grows");
        text.push_str("| flag | default | meaning |\n| --- | --- | --- |\n");
        for arg in command.get_arguments() {
            row(&mut text, arg, "");
        }
    }
    text
}

fn row(text: &mut String, arg: &clap::Arg, variable: &str) {
    let flag = arg.get_long().expect("every argument is a flag");
    let default = arg.get_default_values().first().and_then(|value| value.to_str());
    let default = default.map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
    let help = arg.get_long_help().or(arg.get_help()).expect("a doc comment").to_string();
    let meaning = sentence(help.split_once("\n\n").map_or(help.as_str(), |(_, long)| long));
    let names: Vec<_> =
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let names = if names.is_empty() || !arg.get_action().takes_values() {
        String::new()
    } else {
        format!(" Values: {}.", names.join(", "))
    };
    writeln!(text, "| `--{flag}` |{variable} {default} | {meaning}{names} |").expect("grows");
}

/// With a capital and a full stop, on one line of a table.
fn sentence(help: &str) -> String {
    let mut help = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    if let Some(first) = help.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if !help.ends_with('.') {
        help.push('.');
    }
    help
}

#[test]
fn settings_document_is_current() {
    crate::testing::check_document("docs/SETTINGS.md", &document());
}
