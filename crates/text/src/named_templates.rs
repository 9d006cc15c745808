//! Well-known chat formats, for models without a template: those of llama.cpp's `--chat-template`, under
//! the same names.

/// Name and template of each format, in alphabetical order.
const TEMPLATES: &[(&str, &str)] = &[
    ("bailing", include_str!("named_templates/bailing.jinja")),
    ("chatglm4", include_str!("named_templates/chatglm4.jinja")),
    ("chatml", include_str!("named_templates/chatml.jinja")),
    ("command-r", include_str!("named_templates/command-r.jinja")),
    ("deepseek", include_str!("named_templates/deepseek.jinja")),
    ("deepseek2", include_str!("named_templates/deepseek2.jinja")),
    ("deepseek3", include_str!("named_templates/deepseek3.jinja")),
    ("exaone3", include_str!("named_templates/exaone3.jinja")),
    ("exaone4", include_str!("named_templates/exaone4.jinja")),
    ("falcon3", include_str!("named_templates/falcon3.jinja")),
    ("gemma", include_str!("named_templates/gemma.jinja")),
    ("glmedge", include_str!("named_templates/glmedge.jinja")),
    ("granite", include_str!("named_templates/granite.jinja")),
    ("hunyuan-moe", include_str!("named_templates/hunyuan-moe.jinja")),
    ("kimi-k2", include_str!("named_templates/kimi-k2.jinja")),
    ("llama2", include_str!("named_templates/llama2.jinja")),
    ("llama2-sys", include_str!("named_templates/llama2-sys.jinja")),
    ("llama2-sys-bos", include_str!("named_templates/llama2-sys-bos.jinja")),
    ("llama2-sys-strip", include_str!("named_templates/llama2-sys-strip.jinja")),
    ("llama3", include_str!("named_templates/llama3.jinja")),
    ("llama4", include_str!("named_templates/llama4.jinja")),
    ("megrez", include_str!("named_templates/megrez.jinja")),
    ("mistral-v1", include_str!("named_templates/mistral-v1.jinja")),
    ("mistral-v3", include_str!("named_templates/mistral-v3.jinja")),
    ("mistral-v3-tekken", include_str!("named_templates/mistral-v3-tekken.jinja")),
    ("mistral-v7", include_str!("named_templates/mistral-v7.jinja")),
    ("mistral-v7-tekken", include_str!("named_templates/mistral-v7-tekken.jinja")),
    ("monarch", include_str!("named_templates/monarch.jinja")),
    ("openchat", include_str!("named_templates/openchat.jinja")),
    ("orion", include_str!("named_templates/orion.jinja")),
    ("phi3", include_str!("named_templates/phi3.jinja")),
    ("phi4", include_str!("named_templates/phi4.jinja")),
    ("vicuna", include_str!("named_templates/vicuna.jinja")),
    ("vicuna-orca", include_str!("named_templates/vicuna-orca.jinja")),
    ("zephyr", include_str!("named_templates/zephyr.jinja")),
];

/// The Jinja source of a well-known chat format, such as `chatml` or `llama3`; see [`template_names`].
///
/// Like llama.cpp, the format leaves the token at the beginning of a text to the tokenizer: the source
/// begins with `{{ bos_token }}`, so give [`ChatTemplate::new`](crate::ChatTemplate::new) an empty `bos`
/// for a tokenizer that adds none.
pub fn named_template(name: &str) -> Option<&'static str> {
    TEMPLATES.iter().find(|(known, _)| *known == name).map(|(_, source)| *source)
}

/// The names that [`named_template`] accepts, in alphabetical order.
pub fn template_names() -> impl Iterator<Item = &'static str> {
    TEMPLATES.iter().map(|(name, _)| *name)
}
