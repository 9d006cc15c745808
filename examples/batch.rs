//! Several prompts in one engine: each pass reads the weights once and computes one token for every
//! unfinished answer. Every answer has the same tokens as if it had been generated alone.
//!
//!     cargo run --release --example batch

use nanoinfer::{Batch, BatchOptions, EngineOptions, Error, Loader, Message, fetch::Online};

const PROMPTS: [&str; 3] =
    ["What is the capital of France?", "What is 2 + 2?", "Name three colours of the rainbow."];

fn main() -> Result<(), Error> {
    let options = EngineOptions { sequences: PROMPTS.len(), ..EngineOptions::default() };
    let engine = Loader::new("smollm2").fetch(&Online).engine_options(options).engine()?;
    let mut batch = Batch::new(engine, BatchOptions::default());
    let mut answers = Vec::new();
    for prompt in PROMPTS {
        let message = Message::new("user", prompt);
        let mut request = batch.seams().request(batch.engine().model(), &[message])?;
        request.options.max_tokens = Some(40);
        answers.push((batch.submit(request)?, String::new()));
    }
    while !batch.is_idle() {
        for event in batch.step()? {
            let answer = answers.iter_mut().find(|(id, _)| *id == event.id);
            if let (Some((_, answer)), Ok(event)) = (answer, event.event) {
                answer.push_str(event.text());
            }
        }
    }
    for (prompt, (_, answer)) in PROMPTS.iter().zip(answers) {
        println!("{prompt}\n  {}\n", answer.trim());
    }
    Ok(())
}
