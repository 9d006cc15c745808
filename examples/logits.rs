//! The forward pass: token ids in, a score for every token of the vocabulary out.
//!
//!     cargo run --release --example logits

use nanoinfer::{BatchToken, Error, Loader, fetch::Online};

fn main() -> Result<(), Error> {
    let mut engine = Loader::new("smollm2").fetch(&Online).engine()?;
    let ids = engine.model().encode("The capital of France is")?;
    let seq = engine.open()?;
    let last = ids.len() - 1;
    let batch: Vec<_> = ids
        .iter()
        .enumerate()
        .map(|(i, &token)| BatchToken { seq, token, logits: i == last })
        .collect();
    let pass = engine.forward(&batch)?;
    let logits = engine.logits(pass, 0)?.to_vec(); // [vocab_size]

    let mut best: Vec<usize> = (0..logits.len()).collect();
    best.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let vocab = engine.model().vocab().expect("smollm2 has a tokenizer");
    for id in best.into_iter().take(5) {
        let text = String::from_utf8_lossy(vocab.bytes(id as u32)).into_owned();
        println!("{:8.3}  {id:>6}  {text:?}", logits[id]);
    }
    Ok(())
}
