//! The command line: commands, and the flags of each.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use sigmad_load::LoadSettings;

use super::environment::variable;
use super::error::{CommandLineError, SettingsError};
use super::help::{EVAL_HELP_END, HELP_END, NOTIFY_TEST_HELP_END, help};
use super::parsers::RedisUrlParser;
use super::settings::ServerSettings;
use crate::store::url::Target;
use sigmad_demo as demo;
use sigmad_eval::EvalSettings;
use sigmad_notify::settings::NotifySettings;

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Serve with these settings.
    Serve(Box<ServerSettings>),
    /// Serve with these settings, and simulate a fleet.
    Demo(Box<ServerSettings>),
    /// Print these settings.
    PrintConfig(Box<ServerSettings>),
    /// Send a test notification to each target.
    NotifyTest(Box<ServerSettings>),
    /// Generate load.
    Load(Box<LoadSettings>),
    /// Evaluate the detectors.
    Eval(EvalSettings),
}

/// Reads the command line and the environment of this process.
///
/// # Errors
/// When a flag or a value is wrong, and when the command line asks for help.
pub fn parse() -> Result<Invocation, CommandLineError> {
    parse_from(std::env::args_os())
}

pub(crate) fn parse_from<T>(
    args: impl IntoIterator<Item = T>,
) -> Result<Invocation, CommandLineError>
where
    T: Into<OsString>,
{
    let args: Vec<OsString> = spelled_out(args.into_iter().map(Into::into).collect());
    let command = command_line();
    let usage = |error| CommandLineError::usage(error, &args, &command);
    let matches = command.clone().try_get_matches_from(&args).map_err(usage)?;
    let line = CommandLine::from_arg_matches(&matches).map_err(usage)?;
    let is_demo = matches!(line.command, Some(CommandName::Demo(_)));
    let is_notify_test = matches!(line.command, Some(CommandName::NotifyTest(_)));
    let ServeFlags { mut settings, print_config } = match line.command {
        Some(CommandName::Serve(serve)) => *serve,
        Some(CommandName::Demo(demo)) => demo.into_serve(&matches).map_err(usage)?,
        Some(CommandName::NotifyTest(flags)) => {
            ServeFlags { settings: flags.settings, print_config: false }
        }
        Some(CommandName::Load(load)) => {
            let load = load.checked().map_err(usage)?;
            return Ok(Invocation::Load(Box::new(load)));
        }
        Some(CommandName::Eval(eval)) => {
            return Ok(Invocation::Eval(eval.checked().map_err(usage)?));
        }
        None => line.serve,
    };
    let given = matches.subcommand().map_or(&matches, |(_, given)| given);
    if given.value_source("min_samples") == Some(ValueSource::DefaultValue) {
        // With a small window the default would stop the start.
        settings.min_samples = settings.min_samples.min(settings.window);
    }
    let contradiction = |error| CommandLineError::settings(&error, &args, &command);
    let settings = settings.checked().map_err(contradiction)?;
    if is_demo && settings.tls_cert.is_some() {
        return Err(contradiction(SettingsError::TlsWithDemo));
    }
    if is_demo && settings.listen.iter().all(|address| address.tcp().is_none()) {
        return Err(contradiction(SettingsError::DemoWithoutTcp));
    }
    if is_notify_test && settings.notify.targets().is_empty() {
        return Err(contradiction(SettingsError::NoTarget));
    }
    let settings = Box::new(settings);
    if is_notify_test {
        return Ok(Invocation::NotifyTest(settings));
    }
    Ok(match (print_config, is_demo) {
        (true, _) => Invocation::PrintConfig(settings),
        (false, true) => Invocation::Demo(settings),
        (false, false) => Invocation::Serve(settings),
    })
}

/// `sigmad help` and `sigmad version` as the flags that they are: the help is our own, not that of clap.
fn spelled_out(mut args: Vec<OsString>) -> Vec<OsString> {
    let flag = match args.get(1).and_then(|word| word.to_str()) {
        Some("help") => "--help",
        Some("version") => "--version",
        _ => return args,
    };
    args.remove(1);
    args.push(flag.into());
    args
}

/// Rolling statistics and anomaly detection for device metrics, over HTTP
#[derive(Parser)]
#[command(name = "sigmad", version, disable_help_subcommand = true)]
#[command(args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<CommandName>,
    #[command(flatten)]
    serve: ServeFlags,
}

#[derive(Subcommand)]
enum CommandName {
    /// run the server (default)
    Serve(Box<ServeFlags>),
    /// run the server with a simulated fleet, to try it out
    Demo(Box<DemoFlags>),
    /// send a test notification to each target
    NotifyTest(Box<NotifyTestFlags>),
    /// generate load and report latency and throughput
    Load(Box<LoadSettings>),
    /// measure the detectors on labelled data
    Eval(EvalSettings),
}

#[derive(Args)]
struct ServeFlags {
    #[command(flatten)]
    settings: ServerSettings,
    /// print the settings in force and exit
    #[arg(help_heading = "Other", long)]
    print_config: bool,
}

/// All settings of a server: what its environment sets is valid here too.
#[derive(Args)]
struct NotifyTestFlags {
    #[command(flatten)]
    settings: ServerSettings,
}

#[derive(Args)]
struct DemoFlags {
    #[command(flatten)]
    serve: ServeFlags,
    /// Redis that gets the simulated samples; --redis-url is not used
    #[arg(help_heading = "Other", long, value_parser = RedisUrlParser)]
    demo_redis_url: Option<Target>,
}

impl DemoFlags {
    /// Simulated samples go to no Redis that an environment names for a real server.
    fn into_serve(self, matches: &ArgMatches) -> Result<ServeFlags, clap::Error> {
        let Self { mut serve, demo_redis_url } = self;
        let given = matches.subcommand().map_or(matches, |(_, given)| given);
        if given.value_source("redis_url") == Some(ValueSource::CommandLine) {
            let message = "--redis-url is for real samples: 'sigmad demo' takes --demo-redis-url\n";
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, message));
        }
        serve.settings.redis_url = demo_redis_url;
        Ok(serve)
    }
}

/// Without a variable: the first is a request, not a setting; a variable may be set for the sake of another process.
const WITHOUT_VARIABLE: [&str; 2] = ["print-config", "demo-redis-url"];

/// All commands with their flags, variables, defaults and help.
pub fn command_line() -> clap::Command {
    // mut_subcommand moves a command to the end: all are changed, in the order of the help.
    // Variables are set here and not at each setting, so that no setting can be without its variable.
    // `--threshold -1` is a bad value, and not another flag.
    let with_negative = |arg: clap::Arg| {
        let takes_values = arg.get_action().takes_values();
        arg.allow_negative_numbers(takes_values)
    };
    let with_variable = |arg: clap::Arg| match arg.get_long() {
        Some(flag) if !WITHOUT_VARIABLE.contains(&flag) => {
            let variable = variable(flag);
            with_negative(arg).env(variable)
        }
        _ => arg,
    };
    let with_help = |command: clap::Command, usage: &str, end: &str| {
        let help = help(&command, usage, end);
        command.override_help(help)
    };
    let demo_min_samples = demo::MIN_SAMPLES.to_string();
    let command = CommandLine::command()
        .mut_args(with_variable)
        .mut_subcommand("serve", |serve| {
            with_help(serve.mut_args(with_variable), "sigmad serve [FLAGS]", HELP_END)
        })
        .mut_subcommand("demo", |demo| {
            let demo = demo
                .mut_args(with_variable)
                .mut_arg("min_samples", |arg| arg.default_value(demo_min_samples))
                .mut_arg("incident_interval", |arg| arg.default_value(demo::INCIDENT_INTERVAL));
            with_help(demo, "sigmad demo [FLAGS]", HELP_END)
        })
        .mut_subcommand("notify-test", |notify_test| {
            // The help has only those settings that matter here.
            let about = notify_test.get_about().expect("a doc comment").clone();
            let shown =
                NotifySettings::augment_args(clap::Command::new("notify-test")).about(about);
            let help = help(&shown, "sigmad notify-test [FLAGS]", NOTIFY_TEST_HELP_END);
            notify_test.mut_args(with_variable).override_help(help)
        })
        .mut_subcommand("load", |load| {
            with_help(load.mut_args(with_negative), "sigmad load [FLAGS]", sigmad_load::HELP_END)
        })
        .mut_subcommand("eval", |eval| {
            with_help(eval.mut_args(with_negative), "sigmad eval [FLAGS]", EVAL_HELP_END)
        });
    with_help(command, "sigmad [COMMAND] [FLAGS]", HELP_END)
}
