//! Turning reasoning on and off, through the variables of a template.

use crate::ChatTemplate;

impl ChatTemplate {
    /// The variable of the template that turns reasoning on or off, and its value as JSON for
    /// [`ChatInput::with_variable`](crate::ChatInput::with_variable); `None` without such a variable. A model that
    /// always reasons gets the least effort instead of none.
    pub fn reasoning_switch(&self, on: bool) -> Option<(&'static str, &'static str)> {
        let name = self.switch()?;
        let has_none = || ["\"none\"", "'none'"].iter().any(|none| self.source().contains(none));
        Some((
            name,
            match (name, on) {
                ("reasoning_effort", true) => "\"high\"",
                ("reasoning_effort", false) if has_none() => "\"none\"",
                ("reasoning_effort", false) => "\"low\"",
                ("thinking_budget", true) => "-1",
                ("thinking_budget", false) => "0",
                (_, true) => "true",
                (_, false) => "false",
            },
        ))
    }
}
