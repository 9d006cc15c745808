//! `serve --config FILE`: options in a TOML file, by their long names.
//!
//! The values of the file become the defaults of the command line, so they are checked like it, and anything that
//! the command line or the environment sets comes first.

use std::collections::BTreeMap;
use std::path::Path;

use clap::error::{ContextKind, ContextValue};
use toml::de::{DeTable, DeValue};

/// The options of a file.
#[derive(Debug)]
pub(super) struct Config {
    /// The file, for messages.
    file: String,
    /// The values of an option, and the line of its key.
    options: BTreeMap<String, (Vec<String>, usize)>,
}

impl Config {
    /// Reads a file with options of a command.
    ///
    /// # Errors
    /// A message: the file cannot be read, is no TOML, or has something that is no option of the command.
    pub(super) fn read(path: &Path, command: &clap::Command) -> Result<Self, String> {
        let file = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|e| format!("{file}: cannot read: {e}"))?;
        Self::parse(file, &text, command)
    }

    fn parse(file: String, text: &str, command: &clap::Command) -> Result<Self, String> {
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        let table = DeTable::parse(text).map_err(|e| {
            let line = line(e.span().map_or(0, |span| span.start));
            let message: Vec<&str> = e.message().lines().collect();
            format!("{file}:{line}: {}; expected lines such as port = 8080", message.join(", "))
        })?;
        let mut options = BTreeMap::new();
        for (key, value) in table.get_ref() {
            let (line, name) = (line(key.span().start), key.get_ref());
            let option = command.get_arguments().find(|option| option.get_long() == Some(name));
            let Some(option) = option.filter(|_| name != "config" && name != "help") else {
                return Err(format!(
                    "{file}:{line}: unknown key {name:?}; remove it, or use the name of an option \
                     without --, such as port"
                ));
            };
            let many = matches!(option.get_action(), clap::ArgAction::Append);
            let values = values(value.get_ref()).filter(|values| many || values.len() == 1);
            let values = values.ok_or_else(|| {
                let expected = if many { "a value or a list of them" } else { "a single value" };
                format!("{file}:{line}: {name} is not {expected}; write it as in {name} = \"x\"")
            })?;
            options.insert(name.to_string(), (values, line));
        }
        Ok(Self { file, options })
    }

    /// The command, with the values of the file as defaults.
    pub(super) fn apply(&self, command: clap::Command) -> clap::Command {
        self.options.iter().fold(command, |command, (name, (values, _))| {
            let id = command.get_arguments().find(|option| option.get_long() == Some(name));
            let id = id.map(|option| option.get_id().clone());
            match id {
                Some(id) => command.mut_arg(id, |option| option.default_values(values.clone())),
                None => command,
            }
        })
    }

    /// An error about one of the file's values, with its place.
    pub(super) fn explain(&self, error: clap::Error) -> clap::Error {
        let option = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(option)) => option.strip_prefix("--").unwrap_or_default(),
            _ => "",
        };
        let name = option.split(' ').next().unwrap_or_default();
        let Some((_, line)) = self.options.get(name) else { return error };
        let message = error.to_string();
        let what = message.trim_start_matches("error: ");
        clap::Error::raw(error.kind(), format!("{}:{line}: {what}", self.file))
    }
}

/// A value as on the command line; `None` if it is of a kind that has no such form.
fn values(value: &DeValue<'_>) -> Option<Vec<String>> {
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(n) => {
            i64::from_str_radix(n.as_str(), n.radix()).ok().map(|n| n.to_string())
        }
        DeValue::Float(n) => Some(n.as_str().to_owned()),
        DeValue::Boolean(b) => Some(b.to_string()),
        _ => None,
    };
    match value {
        DeValue::Array(items) => items.iter().map(|item| one(item.get_ref())).collect(),
        value => one(value).map(|value| vec![value]),
    }
}
