//! `nanoinfer tokenize`: the tokens of a text.

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;
use nanoinfer_engine::Model;
use nanoinfer_text::TextStream;

use crate::args::Tokenize;
use crate::model;
use crate::output::print_json;
use crate::prompt::{Prompt, Source};
use crate::template::Form;

const NO_TEXT: &str = "no text; specify --text or --file, or pipe text to standard input";

pub(crate) fn run(args: Tokenize) -> Result<ExitCode> {
    let file = args.prompt_file.as_deref();
    let source = Source::new(args.prompt.as_deref(), file, &args.form, NO_TEXT)?;
    let form = Form::find(args.form.chat_template.as_deref(), args.form.think)?;
    let model = model::open(&args.model, args.quant, &form)?;
    let mut ids = Prompt::read(source, &args.form, &model)?.ids(&model)?;
    let generation = model.generation();
    if args.no_bos && generation.add_bos && ids.first() == generation.bos.as_ref() {
        ids.remove(0);
    }
    if args.json {
        let (decoded, pieces) = (decode(&model, &ids), pieces(&model, &ids));
        print_json(&serde_json::json!({ "ids": ids, "decoded": decoded, "pieces": pieces }))?;
    } else {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        writeln!(stdout(), "{}", ids.join(","))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The text of `ids`, including control tokens.
fn decode(model: &Model, ids: &[u32]) -> String {
    let Some(vocab) = model.vocab() else { return String::new() };
    let mut stream = TextStream::new(&vocab.table(), false);
    let mut text: String = ids.iter().map(|&id| stream.push(&vocab, id).to_owned()).collect();
    text.push_str(stream.finish());
    text
}

/// The text of each token; parts of characters become U+FFFD.
fn pieces(model: &Model, ids: &[u32]) -> Vec<String> {
    let Some(vocab) = model.vocab() else { return Vec::new() };
    ids.iter().map(|&id| String::from_utf8_lossy(vocab.bytes(id)).into_owned()).collect()
}
