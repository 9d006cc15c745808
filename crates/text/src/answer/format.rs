//! Recognizes how a model writes reasoning and tool calls, from its chat template.

use crate::{ChatTemplate, Vocab};

/// How a model writes tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen 2.5 and 3, Granite 4 …
    Hermes,
    /// `{"name": …, "parameters": …}` as the whole answer, perhaps after `<|python_tag|>`: Llama 3.
    Llama,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}]`: Mistral's models of 2024.
    MistralList,
    /// `[TOOL_CALLS]name[ARGS]{…}`: later models of Mistral.
    Mistral,
    /// `<|tool_call|>[{"name": …, "arguments": …}]`: Granite 3.
    Granite,
    /// `<|tool_call|>[{"name": …, "arguments": …}]<|/tool_call|>`: Phi-4-mini.
    Phi,
    /// `call:name{key:value}` with delimiters of its own for strings: Gemma 4 and FunctionGemma.
    Gemma,
    /// A message in the commentary channel that is addressed to `functions.name`: gpt-oss.
    Harmony,
    /// `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`: Qwen3-Coder,
    /// Qwen 3.5, Nemotron 3.
    Elements,
}

/// What a marker means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Think,
    EndThink,
    Response,
    EndResponse,
    Call,
    EndCall,
    /// Before the id and before the arguments of a call.
    CallId,
    Arguments,
    /// Around a string.
    Quote,
    // The parts of a message of gpt-oss.
    Start,
    Channel,
    Constrain,
    Message,
    End,
}

/// A text, or a token, that structures an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    pub mark: Mark,
    pub text: &'static str,
    /// The token, if the vocabulary has one.
    pub id: Option<u32>,
    /// Whether that token has a text in the stream. Control tokens have none.
    pub is_text: bool,
}

/// How a model writes reasoning and tool calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnswerFormat {
    calls: Option<CallFormat>,
    /// What follows the marker that begins reasoning.
    label: &'static str,
    markers: Vec<Marker>,
}

const THINK: &[(Mark, &str)] = &[(Mark::Think, "<think>"), (Mark::EndThink, "</think>")];
const RESPONSE: &[(Mark, &str)] =
    &[(Mark::Response, "<response>"), (Mark::EndResponse, "</response>")];
const MISTRAL_THINK: &[(Mark, &str)] = &[(Mark::Think, "[THINK]"), (Mark::EndThink, "[/THINK]")];
const GEMMA_THINK: &[(Mark, &str)] = &[(Mark::Think, "<|channel>"), (Mark::EndThink, "<channel|>")];
const HERMES: &[(Mark, &str)] = &[(Mark::Call, "<tool_call>"), (Mark::EndCall, "</tool_call>")];
const LLAMA: &[(Mark, &str)] = &[(Mark::Call, "<|python_tag|>")];
const MISTRAL: &[(Mark, &str)] =
    &[(Mark::Call, "[TOOL_CALLS]"), (Mark::CallId, "[CALL_ID]"), (Mark::Arguments, "[ARGS]")];
const PHI: &[(Mark, &str)] =
    &[(Mark::Call, "<|tool_call|>"), (Mark::EndCall, "<|/tool_call|>"), (Mark::Call, "functools")];
const GEMMA: &[(Mark, &str)] =
    &[(Mark::Call, "<|tool_call>"), (Mark::EndCall, "<tool_call|>"), (Mark::Quote, "<|\"|>")];
const FUNCTION_GEMMA: &[(Mark, &str)] = &[
    (Mark::Call, "<start_function_call>"),
    (Mark::EndCall, "<end_function_call>"),
    (Mark::Quote, "<escape>"),
];
const HARMONY: &[(Mark, &str)] = &[
    (Mark::Start, "<|start|>"),
    (Mark::Channel, "<|channel|>"),
    (Mark::Constrain, "<|constrain|>"),
    (Mark::Message, "<|message|>"),
    (Mark::End, "<|end|>"),
    (Mark::End, "<|call|>"),
    (Mark::End, "<|return|>"),
];

impl AnswerFormat {
    /// The format in which a template renders reasoning and tool calls of earlier answers.
    pub(crate) fn recognize(source: &str) -> Self {
        let has = |text: &str| source.contains(text);
        let (calls, markers) = if has("<|tool_call>call:") {
            (CallFormat::Gemma, GEMMA)
        } else if has("<start_function_call>") {
            (CallFormat::Gemma, FUNCTION_GEMMA)
        } else if has("<|channel|>") && has("<|call|>") {
            (CallFormat::Harmony, HARMONY)
        } else if has("[TOOL_CALLS]") {
            let is_new = has("[ARGS]");
            (if is_new { CallFormat::Mistral } else { CallFormat::MistralList }, MISTRAL)
        } else if has("<tool_call>") && has("<function=") {
            (CallFormat::Elements, HERMES)
        } else if has("<tool_call>") && has_named_object(source) {
            (CallFormat::Hermes, HERMES)
        } else if has("<|tool|>") {
            (CallFormat::Phi, PHI)
        } else if has("<|tool_call|>") && has("<|start_of_role|>") {
            (CallFormat::Granite, &PHI[..1])
        } else if has("<|start_header_id|>") && has("\"parameters\": ") {
            (CallFormat::Llama, LLAMA)
        } else {
            return Self::with(None, "", &[source_reasoning(source)]);
        };
        let (label, reasoning) = match calls {
            CallFormat::Harmony => ("", &[][..]),
            CallFormat::Gemma if has("<|channel>thought") => ("thought", GEMMA_THINK),
            _ => ("", source_reasoning(source)),
        };
        let response = if has("<response>") && has("<think>") { RESPONSE } else { &[] };
        Self::with(Some(calls), label, &[markers, reasoning, response])
    }

    fn with(
        calls: Option<CallFormat>,
        label: &'static str,
        markers: &[&[(Mark, &'static str)]],
    ) -> Self {
        let marker = |&(mark, text)| Marker { mark, text, id: None, is_text: true };
        Self { calls, label, markers: markers.concat().iter().map(marker).collect() }
    }

    /// The same format for a vocabulary: where it has a token for a marker, only that token counts.
    #[must_use]
    pub fn with_vocab(mut self, vocab: &Vocab<'_>) -> Self {
        for id in (0..vocab.len()).filter_map(|id| u32::try_from(id).ok()) {
            let bytes = vocab.bytes(id);
            for marker in self.markers.iter_mut().filter(|m| m.text.as_bytes() == bytes) {
                // A word such as `functools` may be an ordinary token.
                if vocab.is_special(id) || !marker.text.bytes().all(|b| b.is_ascii_alphabetic()) {
                    marker.id = Some(id);
                    marker.is_text = !vocab.is_special(id);
                }
            }
        }
        self
    }

    /// How tool calls are written; `None` if the template has no tools, or in a format that is not known.
    pub const fn calls(&self) -> Option<CallFormat> {
        self.calls
    }

    /// Whether the model may write its reasoning before its answer.
    pub fn has_reasoning(&self) -> bool {
        let is_think = |m: &Marker| m.mark == Mark::Think;
        self.calls == Some(CallFormat::Harmony) || self.markers.iter().any(is_think)
    }

    pub(super) fn markers(&self) -> &[Marker] {
        &self.markers
    }

    pub(super) const fn label(&self) -> &'static str {
        self.label
    }

    /// The first marker with a meaning.
    pub(super) fn marker(&self, mark: Mark) -> Option<&Marker> {
        self.markers.iter().find(|m| m.mark == mark)
    }

    /// The tokens that begin and end reasoning; `None` if these are not single tokens.
    pub fn reasoning_tokens(&self) -> Option<(u32, u32)> {
        let id = |mark| self.marker(mark).and_then(|marker| marker.id);
        Some((id(Mark::Think)?, id(Mark::EndThink)?))
    }

    /// Whether a prompt ends after the reasoning of the answer, because the template leaves it out.
    pub fn begins_after_reasoning(&self, prompt: &str) -> bool {
        let end = self.marker(Mark::EndThink);
        end.is_some_and(|end| prompt.trim_end().ends_with(end.text))
    }

    /// Whether a prompt ends within the reasoning of the answer, because the template begins it.
    pub fn begins_in_reasoning(&self, prompt: &str) -> bool {
        let prompt = prompt.trim_end();
        let prompt = prompt.strip_suffix(self.label).unwrap_or(prompt);
        self.marker(Mark::Think).is_some_and(|think| prompt.ends_with(think.text))
    }
}

impl ChatTemplate {
    /// How the model writes reasoning and tool calls, as far as the template shows it.
    pub fn answer_format(&self) -> AnswerFormat {
        AnswerFormat::recognize(self.source())
    }
}

/// The markers of the reasoning that a template shows, or removes from earlier answers.
fn source_reasoning(source: &str) -> &'static [(Mark, &'static str)] {
    match () {
        () if source.contains("</think>") => THINK,
        () if source.contains("[/THINK]") => MISTRAL_THINK,
        () => &[],
    }
}

/// Whether a template has an object with a name, as a call or as an example of one.
fn has_named_object(source: &str) -> bool {
    source.contains("{\"name\"") || source.contains("{\\\"name\\\"")
}
