//! Slash commands.

use nanoinfer_engine::GenerateOptions;

use super::messages::{self, command};
use crate::random_seed;

/// A slash command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slash {
    Help,
    Clear,
    Regen,
    Undo,
    Edit,
    System,
    Set,
    Context,
    Save,
    Load,
    Export,
    Copy,
    Model,
    Telemetry,
    Exit,
    /// Panics, to test that the terminal is restored. Debug builds only.
    #[cfg(debug_assertions)]
    Panic,
}

impl Slash {
    /// The command's name, without the slash.
    pub(crate) fn name(self) -> &'static str {
        COMMANDS.iter().find(|(slash, ..)| *slash == self).map_or("", |(_, name, ..)| name)
    }
}

/// Command, name, argument and description.
pub(crate) const COMMANDS: &[(Slash, &str, &str, &str)] = &[
    (Slash::Help, "help", "", command::HELP),
    (Slash::Clear, "clear", "", command::CLEAR),
    (Slash::Regen, "regen", "", command::REGEN),
    (Slash::Undo, "undo", "", command::UNDO),
    (Slash::Edit, "edit", "", command::EDIT),
    (Slash::System, "system", "[TEXT]", command::SYSTEM),
    (Slash::Set, "set", "[NAME VALUE]", command::SET),
    (Slash::Context, "context", "", command::CONTEXT),
    (Slash::Save, "save", "FILE", command::SAVE),
    (Slash::Load, "load", "FILE", command::LOAD),
    (Slash::Export, "export", "FILE", command::EXPORT),
    (Slash::Copy, "copy", "", command::COPY),
    (Slash::Model, "model", "[NAME]", command::MODEL),
    (Slash::Telemetry, "telemetry", "", command::TELEMETRY),
    (Slash::Exit, "exit", "", command::EXIT),
    #[cfg(debug_assertions)]
    (Slash::Panic, "panic", "ui|worker", command::PANIC),
];

/// Splits a line into command and argument.
pub(crate) fn parse(line: &str) -> Result<(Slash, &str), String> {
    let line = line.strip_prefix('/').unwrap_or(line);
    let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let found = COMMANDS.iter().find(|(_, known, ..)| *known == name);
    match found {
        Some((slash, ..)) => Ok((*slash, argument.trim())),
        None => Err(messages::unknown_command(name)),
    }
}

/// Whether a message is a command: a single line whose first word is `/` and lower-case letters.
/// Paths like `/usr/bin` are not commands.
pub(crate) fn is_command(text: &str) -> bool {
    let word = text.strip_prefix('/').and_then(|t| t.split(char::is_whitespace).next());
    word.is_some_and(|w| !w.is_empty() && w.chars().all(|c| c.is_ascii_lowercase()))
        && !text.trim().contains('\n')
}

/// Names of the settings that `/set` changes.
pub(crate) const SETTINGS: &[&str] = &[
    "temp",
    "top-k",
    "top-p",
    "min-p",
    "repeat-penalty",
    "presence-penalty",
    "frequency-penalty",
    "seed",
    "max-tokens",
];

/// Tab completion: the longest unambiguous extension of the text, and the candidates.
pub(crate) fn complete(text: &str) -> Option<(String, Vec<&'static str>)> {
    if let Some(start) = text.strip_prefix("/set ") {
        let (text, choices) = extend(start, SETTINGS.iter().copied())?;
        return Some((format!("/set {text}"), choices));
    }
    let start = text.strip_prefix('/')?;
    let (text, choices) = extend(start, COMMANDS.iter().map(|(_, name, ..)| *name))?;
    Some((format!("/{text}"), choices))
}

/// A single candidate is followed by a space, ready for its argument.
fn extend(
    start: &str,
    names: impl Iterator<Item = &'static str>,
) -> Option<(String, Vec<&'static str>)> {
    let choices: Vec<&str> = names.filter(|name| name.starts_with(start)).collect();
    let first = *choices.first()?;
    let common = (start.len()..=first.len())
        .rev()
        .find(|end| choices.iter().all(|c| c.starts_with(&first[..*end])))?;
    match choices.len() {
        1 => Some((format!("{first} "), choices)),
        _ => Some((first[..common].to_owned(), choices)),
    }
}

/// Changes a setting.
pub(crate) fn set(options: &mut GenerateOptions, argument: &str) -> Result<(), String> {
    let (name, value) = argument.split_once(char::is_whitespace).unwrap_or((argument, ""));
    let value = value.trim();
    let number = |from: f32, to: f32| match value.parse::<f32>() {
        Ok(x) if (from..=to).contains(&x) => Ok(x),
        _ => Err(messages::needs_number(name, from, to)),
    };
    let integer = || value.parse::<u64>().map_err(|_| messages::needs_integer(name));
    let unlimited = value == "-1";
    let s = &mut options.sampling;
    match name {
        "temp" => s.temperature = number(0.0, 100.0)?,
        "top-k" => s.top_k = if unlimited { 0 } else { integer()? as usize },
        "top-p" => s.top_p = number(0.0, 1.0)?,
        "min-p" => s.min_p = number(0.0, 1.0)?,
        "repeat-penalty" => s.repetition_penalty = number(0.01, 100.0)?,
        "presence-penalty" => s.presence_penalty = number(-100.0, 100.0)?,
        "frequency-penalty" => s.frequency_penalty = number(-100.0, 100.0)?,
        "seed" => s.seed = if unlimited { random_seed() } else { integer()? },
        "max-tokens" => {
            let max = if unlimited { 0 } else { integer()? as usize };
            options.max_tokens = Some(max).filter(|n| *n > 0);
        }
        _ => return Err(messages::unknown_setting(name, SETTINGS)),
    }
    Ok(())
}

/// The current settings, with the names that `/set` accepts.
pub(crate) fn settings(options: &GenerateOptions) -> String {
    let s = options.sampling;
    let max = options.max_tokens.map_or("unlimited".to_owned(), |n| n.to_string());
    format!(
        "temp {} · top-k {} · top-p {} · min-p {} · repeat-penalty {} · presence-penalty {} · \
         frequency-penalty {} · seed {} · max-tokens {max}",
        s.temperature,
        s.top_k,
        s.top_p,
        s.min_p,
        s.repetition_penalty,
        s.presence_penalty,
        s.frequency_penalty,
        s.seed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_distinguished_from_messages() {
        assert_eq!(parse("/system  Be brief. "), Ok((Slash::System, "Be brief.")));
        assert_eq!(parse("/copy"), Ok((Slash::Copy, "")));
        assert!(parse("/frobnicate x").unwrap_err().contains("/help"));
        for (text, expected) in [
            ("/help", true),
            ("/nonsense", true),
            ("/usr/bin is a folder", false),
            ("/ or", false),
            ("/", false),
            ("help", false),
            ("/set temp 1\nand more", false),
        ] {
            assert_eq!(is_command(text), expected, "{text}");
        }
    }

    #[test]
    fn tab_completes_while_unambiguous() {
        assert_eq!(complete("/tel"), Some(("/telemetry ".into(), vec!["telemetry"])));
        assert_eq!(complete("/ex"), Some(("/ex".into(), vec!["export", "exit"])));
        assert_eq!(complete("/co"), Some(("/co".into(), vec!["context", "copy"])));
        assert_eq!(
            complete("/set fre"),
            Some(("/set frequency-penalty ".into(), vec!["frequency-penalty"]))
        );
        assert_eq!(complete("/set top"), Some(("/set top-".into(), vec!["top-k", "top-p"])));
        assert_eq!(complete("/xyz"), None);
        assert_eq!(complete("hello"), None);
    }

    #[test]
    fn settings_are_checked() {
        let mut options = GenerateOptions::default();
        for name in SETTINGS {
            set(&mut options, &format!("{name} 1")).unwrap();
        }
        assert_eq!(options.max_tokens, Some(1));
        assert_eq!(options.sampling.temperature, 1.0);
        set(&mut options, "max-tokens 0").unwrap();
        assert_eq!(options.max_tokens, None);
        set(&mut options, "max-tokens 5").unwrap();
        for minus_one in ["max-tokens -1", "top-k -1", "seed -1"] {
            set(&mut options, minus_one).unwrap();
        }
        assert_eq!((options.max_tokens, options.sampling.top_k), (None, 0));
        for wrong in ["temp hot", "temp nan", "top-p 1.5", "top-k -2", "temp", "colour red"] {
            assert!(set(&mut options, wrong).is_err(), "{wrong}");
        }
        let shown = settings(&options);
        assert!(SETTINGS.iter().all(|name| shown.contains(name)), "{shown}");
    }
}
