//! Several prompts in one engine: each pass reads the weights once and computes one token for every
//! unfinished answer. Every answer has the same tokens as if it had been generated alone.
//!
//!     cargo run --release --example batch

use nanoinfer::{
    EngineOptions, Engines, Error, Event, GenerateOptions, Loader, Message, Sequence, fetch::Online,
};

const PROMPTS: [&str; 3] =
    ["What is the capital of France?", "What is 2 + 2?", "Name three colours of the rainbow."];

fn main() -> Result<(), Error> {
    let options = EngineOptions { sequences: PROMPTS.len(), ..EngineOptions::default() };
    let engine = Loader::new("smollm2").fetch(&Online).engine_options(options).engine()?;
    let mut engines = Engines::from(engine);
    let mut sequences = Vec::new();
    for prompt in PROMPTS {
        let mut sequence = Sequence::open(&mut engines)?;
        sequence.prompt_chat(&mut engines, &[Message::new("user", prompt)])?;
        sequence
            .start(&mut engines, GenerateOptions { max_tokens: Some(40), ..Default::default() })?;
        sequences.push(sequence);
    }
    let mut answers = vec![String::new(); PROMPTS.len()];
    let mut running = PROMPTS.len();
    while running > 0 {
        engines.advance(&mut sequences)?; // one pass for all of them
        for (sequence, answer) in sequences.iter_mut().zip(&mut answers) {
            while let Some(event) = sequence.event()? {
                answer.push_str(event.text());
                running -= usize::from(matches!(event, Event::Finished { .. }));
            }
        }
    }
    for (prompt, answer) in PROMPTS.iter().zip(answers) {
        println!("{prompt}\n  {}\n", answer.trim());
    }
    Ok(())
}
