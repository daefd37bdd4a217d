//! `--help`: one flag a line with its default, from clap's own data. clap's layout takes two screens.

use std::fmt::Write as _;

/// Columns of flag and default; a longer pair has a line of its own.
const FLAG_COLUMNS: usize = 31;
/// The columns that a terminal of 80 leaves for the meaning.
const MEANING_COLUMNS: usize = 48;

/// The end of the help of `serve` and `demo`.
pub(super) const HELP_END: &str = "
Help:
  help, version, -h, --help, -V, --version

Each flag has a variable: SIGMAD_MAX_BODY sets --max-body. The flag wins.
Times are written like 100ms, 75s, 1h30m; sizes like 16KiB, 8MiB, or in bytes.
";

/// The end of the help of `notify-test`.
pub(super) const NOTIFY_TEST_HELP_END: &str = "
Prints what each target answers; exit code 1 when one of them failed.
Variables and other flags are those of 'sigmad serve'.

Example:
  sigmad notify-test --webhook https://hooks.slack.com/... --webhook-format slack
";

/// The end of the help of `eval`.
pub(super) const EVAL_HELP_END: &str = "
Example:
  sigmad eval --synthetic --detector pager,zscore
";

/// The help of a command: what it is for, its commands, its flags under their headings, `end`.
pub(super) fn help(command: &clap::Command, usage: &str, end: &str) -> String {
    let mut help = format!("{}\n\nUsage: {usage}\n", about(command));
    if let Some(first) = help.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if command.has_subcommands() {
        help.push_str("\nCommands:\n");
    }
    for subcommand in command.get_subcommands() {
        let name = subcommand.get_name();
        writeln!(help, "  {name:<12} {}", about(subcommand)).expect("a string grows");
    }
    let mut last_heading = None;
    for arg in command.get_arguments() {
        let heading = arg.get_help_heading().unwrap_or("Flags");
        if last_heading != Some(heading) {
            writeln!(help, "\n{heading}:").expect("a string grows");
            last_heading = Some(heading);
        }
        let flag = arg.get_long().expect("every argument is a flag");
        let default = arg.get_default_values().first().and_then(|value| value.to_str());
        // A long list is for the reference.
        let default = default.filter(|text| text.len() <= FLAG_COLUMNS);
        let column = format!("--{flag:<15}  {:<12}", default.unwrap_or(""));
        line(&mut help, &column, &meaning(arg));
    }
    help + end
}

/// The help of a flag, with the values that it does not name itself.
fn meaning(arg: &clap::Arg) -> String {
    let meaning = arg.get_help().expect("a doc comment").to_string().replace('`', "");
    let values = arg.get_possible_values();
    let is_named = |value: &clap::builder::PossibleValue| meaning.contains(value.get_name());
    if !arg.get_action().takes_values() || values.iter().all(is_named) {
        return meaning;
    }
    let names: Vec<_> = values.iter().map(|value| value.get_name()).collect();
    format!("{meaning} ({})", names.join(", "))
}

fn about(command: &clap::Command) -> String {
    command.get_about().expect("a doc comment").to_string()
}

/// Adds a line, broken where the meaning is too long.
fn line(help: &mut String, column: &str, meaning: &str) {
    let mut column = column;
    let mut write = |column: &str, text: &str| {
        let line = format!("  {column:<FLAG_COLUMNS$}{text}");
        writeln!(help, "{}", line.trim_end()).expect("a string grows");
    };
    if column.chars().count() > FLAG_COLUMNS {
        write(column, "");
        column = "";
    }
    let mut text = String::new();
    for word in meaning.split_whitespace() {
        if text.chars().count() + 1 + word.chars().count() > MEANING_COLUMNS - 1 {
            write(column, &text);
            column = "";
            text.clear();
        }
        text.push(' ');
        text.push_str(word);
    }
    write(column, &text);
}
