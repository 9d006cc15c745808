//! Fields that would change the answer, but are not implemented: refused, rather than ignored.

use serde_json::Value;

use crate::problem::Problem;

/// Fields of any API that generates text, with values that change nothing besides null.
const FIELDS: &[(&str, &[&str])] = &[
    ("tools", &["[]"]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("chat_template", &[]),
    ("chat_template_kwargs", &["{}"]),
    ("documents", &["[]"]),
    ("modalities", &[r#"["text"]"#]),
    ("audio", &[]),
    ("web_search_options", &[]),
    ("use_beam_search", &["false"]),
    ("prompt_logprobs", &["false", "0"]),
    ("min_tokens", &["0"]),
    ("typical_p", &["1", "1.0"]),
    ("tfs_z", &["1", "1.0"]),
    ("mirostat", &["0"]),
    ("dynatemp_range", &["0", "0.0"]),
    ("dry_multiplier", &["0", "0.0"]),
    ("xtc_probability", &["0", "0.0"]),
    ("top_n_sigma", &["-1", "-1.0", "0", "0.0"]),
    ("lora", &["[]"]),
    ("image_data", &["[]"]),
    ("images", &["[]"]),
    ("raw", &["false"]),
    ("continue_final_message", &["false"]),
    ("add_generation_prompt", &["true"]),
];

/// Refuses requests with any of these fields.
pub(crate) fn refuse(body: &Value, names: &[&str]) -> Result<(), Problem> {
    match names.iter().find(|name| body.get(**name).is_some_and(|value| !value.is_null())) {
        Some(name) => Err(refused(name)),
        None => Ok(()),
    }
}

fn refused(name: &str) -> Problem {
    let problem = Problem::field(name, "is not supported by this server; leave it out");
    problem.code("unsupported_parameter")
}

/// Refuses requests with such a field. `except` are fields that the API itself reads.
pub(crate) fn check(body: &Value, except: &[&str]) -> Result<(), Problem> {
    for (name, neutral) in FIELDS.iter().filter(|(name, _)| !except.contains(name)) {
        let value = body.get(name).filter(|value| !value.is_null());
        if value.is_some_and(|value| !neutral.contains(&value.to_string().as_str())) {
            return Err(refused(name));
        }
    }
    Ok(())
}
