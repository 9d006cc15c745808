//! The command line: commands, options, and their validation.

mod config;
mod following;
mod measuring;
mod packing;
mod prompting;
mod ranges;
mod running;
mod serving;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand};

use config::Config;
pub(crate) use following::FollowArgs;
pub(crate) use measuring::{Bench, Doctor, Eval, Format, Score};
pub(crate) use packing::{Convert, Inspect, Models, ModelsAction, Verify};
pub(crate) use prompting::{PromptArgs, Tokenize};
pub(crate) use ranges::{Seed, Think};
pub(crate) use running::{CacheArgs, Chat, DraftArgs, Generate, Logits, ModelArgs, SamplingArgs};
pub(crate) use serving::{NamedModel, Serve};

/// Run language models on this computer's CPU: exact, small, readable.
///
/// Without --model, `chat` and `generate` use smollm2 (SmolLM2-135M-Instruct), which is downloaded
/// and converted on first use.
#[derive(Parser)]
#[command(name = "nanoinfer", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  nanoinfer chat
  nanoinfer generate --prompt 'Once upon a time' -n 100
  nanoinfer generate --chat --prompt 'Why is the sky blue?' --json
  nanoinfer serve --port 8080
  nanoinfer convert --model HuggingFaceTB/SmolLM2-360M-Instruct --out big.nano

Exit codes: 0 success, 1 failure, 2 usage error, 130 interrupted by Ctrl-C.

Environment:
  NANOINFER_HOME  folder for converted models (default: the platform's cache folder)
  NANOINFER_ISA   force an instruction set (default: the fastest; `nanoinfer doctor` lists them)
  HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT
                  as in Hugging Face's own tools
  HTTPS_PROXY, ALL_PROXY, NO_PROXY  as usual
  NO_COLOR        disable colours";

#[derive(Subcommand)]
pub(crate) enum Command {
    Convert(Convert),
    Generate(Generate),
    Chat(Chat),
    Serve(Serve),
    Tokenize(Tokenize),
    Logits(Logits),
    Inspect(Inspect),
    Verify(Verify),
    Models(Models),
    Bench(Bench),
    Eval(Eval),
    Doctor(Doctor),
    Completions(Completions),
    Man(Man),
}

/// Print a shell completion script.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer completions bash > ~/.local/share/bash-completion/completions/nanoinfer
  nanoinfer completions zsh > \"${fpath[1]}/_nanoinfer\"
  nanoinfer completions fish > ~/.config/fish/completions/nanoinfer.fish")]
pub(crate) struct Completions {
    /// Shell to generate the script for
    pub(crate) shell: clap_complete::Shell,
}

/// Print or write the manual pages.
#[derive(Args)]
#[command(after_help = "\
Examples:
  nanoinfer man | man -l -
  nanoinfer man --dir ~/.local/share/man/man1 && man nanoinfer-bench")]
pub(crate) struct Man {
    /// Write the pages of all commands to this folder (default: print nanoinfer's page)
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
}

/// Parses the command line. `Err` is the exit code if help or an error has been printed.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, ExitCode> {
    command(args).map_err(|error| {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            let _ = error.print(); // fails only if the reader has closed the pipe
            return ExitCode::SUCCESS;
        }
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            let _ = error.print();
            return ExitCode::from(2);
        }
        let message = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(arg)) if arg == "--lora" && is_unknown(&error) => {
                MERGE_LORA.into()
            }
            _ if error.kind() == ErrorKind::InvalidUtf8 => usage_line(NOT_UTF8),
            _ => usage_line(&error.to_string()),
        };
        crate::status::say(&message);
        ExitCode::from(2)
    })
}

fn command<T>(args: impl IntoIterator<Item = T>) -> Result<Command, clap::Error>
where
    T: Into<OsString>,
{
    let mut definition = definition();
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let mut matches = definition.try_get_matches_from_mut(&args)?;
    if let Some(config) = config(&definition, &matches)? {
        // Anew, as arguments cannot be changed after parsing.
        definition = self::definition().mut_subcommand("serve", |serve| config.apply(serve));
        matches = definition.try_get_matches_from_mut(&args).map_err(|e| config.explain(e))?;
    }
    if let Some(message) = forgotten_text(&definition, &matches) {
        return Err(definition.error(ErrorKind::InvalidValue, message));
    }
    Cli::from_arg_matches(&matches).map(|cli| cli.command)
}

/// The configuration file that the command line names.
fn config(definition: &clap::Command, matches: &ArgMatches) -> Result<Option<Config>, clap::Error> {
    let Some(("serve", serve)) = matches.subcommand() else { return Ok(None) };
    let (Some(path), Some(command)) =
        (serve.get_one::<PathBuf>("config"), definition.find_subcommand("serve"))
    else {
        return Ok(None);
    };
    let config = Config::read(path, command);
    config.map(Some).map_err(|message| clap::Error::raw(ErrorKind::Io, message))
}

/// A message about an option where a text was expected: texts may begin with a hyphen, but the name of
/// an option means that the text was forgotten.
fn forgotten_text(definition: &clap::Command, matches: &ArgMatches) -> Option<String> {
    let (name, matches) = matches.subcommand()?;
    let command = definition.find_subcommand(name)?;
    let is_option = |value: &OsStr| {
        let name = value.to_str().and_then(|value| value.strip_prefix("--"));
        let mut options = definition.get_subcommands().flat_map(clap::Command::get_arguments);
        name.is_some_and(|name| name == "help" || options.any(|o| o.get_long() == Some(name)))
    };
    command.get_arguments().filter(|arg| arg.is_allow_hyphen_values_set()).find_map(|arg| {
        let mut values = matches.get_raw(arg.get_id().as_str())?;
        let value = values.find(|value| is_option(value))?.display();
        Some(format!(
            "invalid value '{value}' for '{arg}': expected a text, found an option; a file can \
             contain such a text"
        ))
    })
}

/// The command-line definition, for completions and manual pages.
pub(crate) fn definition() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// For users of engines that load adapters at run time.
const MERGE_LORA: &str = "error: adapters are merged at conversion; run \
`nanoinfer convert --model MODEL --lora FOLDER --out merged.nano`, then use --model merged.nano";

const NOT_UTF8: &str = "error: an argument is not valid UTF-8; only paths may contain other bytes";

fn is_unknown(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::UnknownArgument
}

/// Clap's message on one line, without the usage text.
fn usage_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).filter(|l| !l.is_empty());
    let lines =
        lines.filter(|l| !l.starts_with("Usage:") && !l.starts_with("For more information"));
    let lines: Vec<&str> = lines.collect();
    let first = std::env::args_os().nth(1);
    let command =
        first.and_then(|name| Some(definition().find_subcommand(name)?.get_name().to_owned()));
    let command = command.map_or("nanoinfer".to_owned(), |name| format!("nanoinfer {name}"));
    format!("{}; see `{command} --help`", lines.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn every_option_of_the_server_is_also_an_environment_variable() {
        let definition = definition();
        let serve = definition.find_subcommand("serve").expect("a command");
        for option in serve.get_arguments().filter(|option| option.get_id() != "help") {
            let name = option.get_long().expect("a name").replace('-', "_").to_uppercase();
            let expected = format!("NANOINFER_{name}");
            assert_eq!(option.get_env(), Some(OsStr::new(&expected)), "--{name}");
        }
    }

    #[test]
    fn usage_errors_fit_on_one_line() {
        let error = |args: &[&str]| match command(args) {
            Ok(_) => panic!("{args:?} was accepted"),
            Err(e) => usage_line(&e.to_string()),
        };
        for (args, part) in [
            (&["nanoinfer", "convert", "--model", "x"][..], "--out"),
            (&["nanoinfer", "generate", "--tmep", "1"], "--temp"),
            (&["nanoinfer", "generate", "--temp", "nan"], "0 to 100"),
            (&["nanoinfer", "generate", "--top-p", "1.5"], "0 to 1"),
            (&["nanoinfer", "generate", "--threads", "0"], "1..=1024"),
            (&["nanoinfer", "generate", "--system", "x"], "--chat"),
            (&["nanoinfer", "generate", "--think", "on"], "--chat"),
            (&["nanoinfer", "chat", "--think", "maybe"], "on, off or a number"),
            (&["nanoinfer", "generate", "--prompt", "--json"], "found an option"),
            (&["nanoinfer", "generate", "--seed", "-2"], "-1 for a random seed"),
            (&["nanoinfer", "generate", "--prompt", "x", "--prompt-file", "y"], "--prompt-file"),
            (&["nanoinfer", "logits", "--tokens", "1,x", "--out", "y"], "invalid digit"),
            (&["nanoinfer", "serve", "--port", "x"], "--port"),
            (&["nanoinfer", "frobnicate"], "frobnicate"),
        ] {
            let line = error(args);
            assert!(line.contains(part) && !line.contains('\n'), "{args:?}: {line}");
            assert!(line.starts_with("error: "), "{line}");
        }
    }
}
