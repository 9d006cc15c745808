//! How a conversation becomes text: `--chat-template` and `--think`.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nanoinfer_engine::Model;
use nanoinfer_text::{named_template, template_names};

use crate::args::Think;
use crate::input::TextSource;

/// What the options say about conversations.
#[derive(Default)]
pub(crate) struct Form {
    template: Option<Template>,
    think: Option<Think>,
}

impl Form {
    /// Finds the template that `--chat-template` names.
    pub(crate) fn find(template: Option<&Path>, think: Option<Think>) -> Result<Self> {
        Ok(Self { template: template.map(Template::find).transpose()?, think })
    }

    /// Applies this to a model.
    pub(crate) fn set(&self, model: &mut Model) -> Result<()> {
        self.template.as_ref().map_or(Ok(()), |template| template.set(model))?;
        let Some(think) = self.think else { return Ok(()) };
        let has_switch = model.set_reasoning(think != Think::Off)?;
        let format = model.answer_format();
        match think {
            Think::Off => ensure!(
                has_switch || !format.has_reasoning(),
                "--think off: the model's chat template cannot turn reasoning off; use --think N to limit it"
            ),
            Think::On => ensure!(
                has_switch || format.has_reasoning(),
                "--think on: the model's chat template has no reasoning; use a model that reasons"
            ),
            Think::Most(_) => ensure!(
                format.reasoning_tokens().is_some(),
                "--think N: the model has no tokens around its reasoning; use --think on or off"
            ),
        }
        Ok(())
    }
}

/// A chat template given by name or file.
struct Template {
    name: String,
    source: String,
    is_file: bool,
}

impl Template {
    /// The template that `--chat-template` names: a file if there is one or the name looks like a path,
    /// or else a well-known format.
    fn find(given: &Path) -> Result<Self> {
        let name = format!("--chat-template {}", given.display());
        let known = given.to_str().filter(|_| !given.is_file());
        if let Some(source) = known.and_then(named_template) {
            return Ok(Self { name, source: source.to_owned(), is_file: false });
        }
        match known.filter(|name| !name.contains(['/', '\\', '.'])) {
            Some(unknown) => {
                bail!("{name}: neither a file nor a known format; use {}", like(unknown))
            }
            None => {
                let file = TextSource::open(given).context("--chat-template")?;
                Ok(Self { name, source: file.read_prompt(true)?, is_file: true })
            }
        }
    }

    /// Makes it the model's template.
    fn set(&self, model: &mut Model) -> Result<()> {
        // Files have the form of a model's own template; the well-known formats leave the first token to
        // the tokenizer.
        model.set_template(&self.source, self.is_file).with_context(|| self.name.clone())
    }
}

/// The known formats that begin like `name`, or else all of them.
fn like(name: &str) -> String {
    let start: String = name.chars().take_while(char::is_ascii_alphabetic).collect();
    let list = |names: Vec<&str>| names.join(", ");
    let similar: Vec<&str> = template_names().filter(|n| n.starts_with(&start)).collect();
    if start.is_empty() || similar.is_empty() {
        list(template_names().collect())
    } else {
        list(similar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_formats_are_answered_with_similar_names() {
        assert!(like("mistral").starts_with("mistral-v1, "));
        assert!(!like("llama9").contains("chatml"));
        for name in ["frobnicate", ""] {
            assert!(like(name).contains("chatml") && like(name).contains("zephyr"), "{name}");
        }
    }
}
