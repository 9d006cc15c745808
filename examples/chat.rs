//! A conversation in a dozen lines: reads a line, streams the answer, remembers both.
//!
//!     cargo run --release --example chat [MODEL]

use std::io::{Write, stdin, stdout};

use nanoinfer::{GenerateOptions, Loader, Message, Sampling, fetch::Online};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or("smollm2".into());
    let mut session = Loader::new(name).fetch(&Online).session()?;
    let sampling = Sampling::of(session.engine().model().generation()); // the model's recommended settings
    let mut messages = Vec::new();
    for line in stdin().lines() {
        messages.push(Message::new("user", line?));
        session.prompt_chat(&messages)?; // computes only the new tokens
        session.start(GenerateOptions { sampling, ..GenerateOptions::default() })?;
        let mut answer = String::new();
        while let Some(event) = session.next()? {
            answer += event.text();
            print!("{}", event.text());
            stdout().flush()?;
        }
        println!();
        messages.push(Message::new("assistant", answer));
    }
    let stats = session.stats();
    eprintln!("last answer: {} tokens, {:.1} tokens/s", stats.generated, stats.decode_tps());
    Ok(())
}
