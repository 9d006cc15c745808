//! An open model file: weights bound, tokenizer and vocabulary ready.

mod infill;
pub(crate) mod weights;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use nanoinfer_format::{Config, Generation, NanoFile, SectionKind};
use nanoinfer_text::{
    AnswerFormat, ChatInput, ChatTemplate, ChatText, Message, Specials, Tokenizer, Vocab,
    VocabTable,
};

use crate::Error;
use crate::memory::Prefix;
use weights::Weights;

/// An open model. Opening maps the file and checks its tables, but reads no weights.
pub struct Model {
    file: NanoFile,
    weights: Weights,
    text: Option<Text>,
    /// What error messages call the model.
    name: PathBuf,
    /// Replaces the file's chat template.
    template: Option<Template>,
    /// A variable of the chat template, and its value.
    reasoning: Option<(&'static str, &'static str)>,
}

/// A chat template from elsewhere than the model's file.
struct Template {
    source: String,
    /// Whether `bos_token` is the model's token even if the tokenizer adds none.
    always_bos: bool,
}

/// The tokenizer, and the shape of the vocabulary table in the file.
struct Text {
    tokenizer: Tokenizer,
    vocab: VocabTable,
}

impl Model {
    /// Opens a `.nano` file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::from_file(NanoFile::open(path)?)
    }

    /// Reads a whole `.nano` file into memory instead of mapping it, see [`NanoFile::open_copy`].
    pub fn open_copy(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::from_file(NanoFile::open_copy(path)?)
    }

    fn from_file(file: NanoFile) -> Result<Self, Error> {
        let weights = Weights::bind(&file)
            .map_err(|what| Error::Model { path: file.path().to_path_buf(), what })?;
        let text = Text::load(&file)
            .map_err(|source| Error::Text { path: file.path().to_path_buf(), source })?;
        if let Some(text) = &text {
            text.check_size(file.config().vocab_size)
                .map_err(|what| Error::Model { path: file.path().to_path_buf(), what })?;
        }
        let name = file.path().to_path_buf();
        Ok(Self { file, weights, text, name, template: None, reasoning: None })
    }

    /// Sets what error messages call the model: by default the file's path, which the user may not know.
    pub fn named(self, name: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// What error messages call the model.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The mapped file.
    pub fn file(&self) -> &NanoFile {
        &self.file
    }

    /// The architecture.
    pub fn config(&self) -> &Config {
        self.file.config()
    }

    /// Defaults for text generation.
    pub fn generation(&self) -> &Generation {
        self.file.generation()
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        let missing = || Error::NoTokenizer { path: self.name.clone() };
        self.text.as_ref().map(|t| &t.tokenizer).ok_or_else(missing)
    }

    /// Token bytes, borrowed from the file; `None` for a model without a tokenizer.
    pub fn vocab(&self) -> Option<Vocab<'_>> {
        let (_, section) = self.file.section(SectionKind::Vocabulary)?;
        self.text.as_ref().map(|t| t.vocab.view(section))
    }

    /// The shape of the vocabulary table.
    pub(crate) fn vocab_table(&self) -> Option<&VocabTable> {
        self.text.as_ref().map(|t| &t.vocab)
    }

    /// Maximum length in bytes of the text of a token; 0 without a tokenizer.
    pub(crate) fn longest_text(&self) -> usize {
        self.vocab_table().map_or(0, VocabTable::longest_text)
    }

    /// Whether the model has a chat template.
    pub fn can_chat(&self) -> bool {
        self.text.is_some() && self.template_source().is_some()
    }

    /// Replaces the chat template with this Jinja source.
    ///
    /// With `always_bos`, `bos_token` is the model's token, as in the templates of models; without, it is
    /// empty if the model's tokenizer adds none, as [`nanoinfer_text::named_template`] requires.
    ///
    /// # Errors
    /// The template has a syntax error. The previous template then remains.
    pub fn set_template(&mut self, source: &str, always_bos: bool) -> Result<(), Error> {
        let new = Some(Template { source: source.to_owned(), always_bos });
        let previous = std::mem::replace(&mut self.template, new);
        let compiled = self.template();
        if compiled.is_err() {
            self.template = previous;
        }
        compiled.map(drop)
    }

    /// Turns the reasoning before answers on or off, if the chat template has a variable for it. Returns whether it
    /// has one. Inputs of [`Self::render_chat`] have variables of their own.
    ///
    /// # Errors
    /// The model has no chat template.
    pub fn set_reasoning(&mut self, on: bool) -> Result<bool, Error> {
        self.reasoning = self.template()?.reasoning_switch(on);
        Ok(self.reasoning.is_some())
    }

    fn template_source(&self) -> Option<Cow<'_, str>> {
        match &self.template {
            Some(template) => Some(template.source.as_str().into()),
            None => {
                let (_, source) = self.file.section(SectionKind::ChatTemplate)?;
                Some(String::from_utf8_lossy(source))
            }
        }
    }

    /// The chat template.
    pub fn template(&self) -> Result<ChatTemplate, Error> {
        let missing = || Error::NoChatTemplate { path: self.name.clone() };
        let source = self.template_source().ok_or_else(missing)?;
        let name = |id: Option<u32>| {
            let bytes = id.and_then(|id| Some(self.vocab()?.bytes(id))).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let g = self.generation();
        let with_bos = g.add_bos || self.template.as_ref().is_none_or(|t| t.always_bos);
        let bos = g.bos_token.clone().unwrap_or_else(|| name(g.bos));
        let bos = if with_bos { bos } else { String::new() };
        let eos = g.eos_token.clone().unwrap_or_else(|| name(g.eos.first().copied()));
        let template = ChatTemplate::new(&source, &bos, &eos).map_err(|e| self.text_error(e))?;
        Ok(template.with_pad_token(g.pad_token.as_deref()))
    }

    /// Tokenizes plain text, which never yields control tokens. The result starts with the
    /// beginning-of-sequence token if the model's tokenizer adds one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.encode_with(text, Specials::Plain)
    }

    /// Tokenizes text, with the names of control tokens as [`Specials`] says. The result starts with the
    /// beginning-of-sequence token if the model's tokenizer adds one and the text does not name it.
    pub fn encode_with(&self, text: &str, specials: Specials) -> Result<Vec<u32>, Error> {
        let ids = self.tokenizer()?.encode(text, specials);
        let named = |bos: &u32| specials == Specials::Parse && ids.first() == Some(bos);
        let bos = self.added_bos().filter(|bos| !named(bos));
        Ok(bos.into_iter().chain(ids).collect())
    }

    /// The token that begins every raw prompt, if any.
    fn added_bos(&self) -> Option<u32> {
        let g = self.generation();
        g.bos.filter(|_| g.add_bos)
    }

    /// A conversation rendered by the template, up to the beginning of the model's answer.
    pub(crate) fn chat_text(&self, messages: &[Message]) -> Result<ChatText, Error> {
        let input = ChatInput::from_messages(messages, true);
        let input = match self.reasoning {
            Some((name, value)) => input.with_variable(name, value),
            None => Ok(input),
        };
        self.render_chat(&input.map_err(|e| self.text_error(e))?)
    }

    /// A conversation, which may have tools, rendered by the template.
    ///
    /// # Errors
    /// The model has no chat template, or it rejects the conversation.
    pub fn render_chat(&self, input: &ChatInput) -> Result<ChatText, Error> {
        ChatText::render_input(self.tokenizer()?, &self.template()?, input)
            .map_err(|e| self.text_error(e))
    }

    /// How the model writes reasoning and tool calls, as far as its chat template shows it.
    pub fn answer_format(&self) -> AnswerFormat {
        let Ok(template) = self.template() else { return AnswerFormat::default() };
        let format = template.answer_format();
        match self.vocab() {
            Some(vocab) => format.with_vocab(&vocab),
            None => format,
        }
    }

    /// Tokenizes a conversation, up to the beginning of the model's answer.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, Error> {
        Ok(self.chat_text(messages)?.encode_from(self.tokenizer()?, 0))
    }

    /// The common prefix of all conversations that begin with these messages, whatever the user says
    /// next.
    pub(crate) fn before_conversation(&self, system: &[Message]) -> Result<Vec<u32>, Error> {
        let with = |text: &str| self.encode_chat(&[system, &[Message::new("user", text)]].concat());
        let (mut ids, other) = (with("0")?, with("x")?);
        ids.truncate(ids.iter().zip(&other).take_while(|(a, b)| a == b).count());
        Ok(ids)
    }

    /// The system prompt baked into the file, if any.
    pub fn baked_prompt(&self) -> Option<String> {
        self.baked().map(|(prefix, _)| prefix.text).filter(|text| !text.is_empty())
    }

    /// The baked prompt's header, and its blocks of keys and values.
    pub(crate) fn baked(&self) -> Option<(Prefix, &[u8])> {
        let (_, mut bytes) = self.file.section(SectionKind::BakedPrompt)?;
        Some((Prefix::read(&mut bytes).ok()?, bytes))
    }

    fn text_error(&self, source: nanoinfer_text::Error) -> Error {
        Error::Text { path: self.name.clone(), source }
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("path", &self.file.path()).finish_non_exhaustive()
    }
}

impl Text {
    fn load(file: &NanoFile) -> Result<Option<Self>, nanoinfer_text::Error> {
        let section = |kind| file.section(kind);
        let (Some((row, json)), Some((_, vocab))) =
            (section(SectionKind::Tokenizer), section(SectionKind::Vocabulary))
        else {
            return Ok(None);
        };
        let native = section(SectionKind::NativeTokenizer).map(|(_, bytes)| bytes);
        let tokenizer = Tokenizer::load(json, &row.hash, native)?;
        Ok(Some(Self { tokenizer, vocab: VocabTable::parse(vocab)? }))
    }

    /// Checks that every id of the tokenizer has an embedding, and that every row of logits has an entry
    /// in the vocabulary table.
    fn check_size(&self, vocab_size: u32) -> Result<(), String> {
        let max = self.tokenizer.max_id();
        if max >= vocab_size {
            return Err(format!(
                "the tokenizer has id {max}, but the model has {vocab_size} tokens"
            ));
        }
        let entries = self.vocab.len();
        if entries != vocab_size as usize {
            return Err(format!(
                "the vocabulary table has {entries} tokens, but the model has {vocab_size}"
            ));
        }
        Ok(())
    }
}
