//! `nanoinfer tokenize`: text to token ids and back.

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;
use nanoinfer_engine::Model;
use nanoinfer_text::{Specials, TextStream};

use crate::args::Tokenize;
use crate::model::nano_file;
use crate::output::print_json;

pub(crate) fn run(args: Tokenize) -> Result<ExitCode> {
    let model = Model::open(nano_file(&args.model)?)?;
    let tokenizer = model.tokenizer()?;
    let specials = if args.plain { Specials::Plain } else { Specials::Parse };
    let ids = tokenizer.encode(&args.text, specials);
    let decoded = decode(&model, &ids);
    if args.json {
        print_json(&serde_json::json!({ "ids": ids, "decoded": decoded }))?;
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
