//! One question, one answer.

use nanoinfer::{Error, GenerateOptions, Loader, Message, fetch::Online};

fn main() -> Result<(), Error> {
    let mut session = Loader::new("smollm2").fetch(&Online).session()?;
    session.prompt_chat(&[Message::new("user", "What is the capital of France?")])?;
    session.start(GenerateOptions::default())?;
    while let Some(event) = session.next()? {
        print!("{}", event.text());
    }
    println!();
    Ok(())
}
