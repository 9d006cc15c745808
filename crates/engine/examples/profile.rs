//! Time per step of prefill and decode: `cargo run --release -p nanoinfer-engine --example profile
//! -- MODEL.nano [threads]`.

use nanoinfer_engine::{Engine, EngineOptions, Error, Model, PassStep, Step};
use std::time::Instant;

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().collect();
    let threads = args.get(2).and_then(|t| t.parse().ok());
    let options = EngineOptions { threads, ..EngineOptions::default() };
    let mut engine = Engine::new(Model::open(&args[1])?, &options)?;
    for (name, tokens, chunk) in
        [("pp512", 512, 256), ("tg64", 64, 1), ("pp512", 512, 256), ("tg64", 64, 1)]
    {
        let seq = engine.open()?;
        engine.set_profiling(true);
        let start = Instant::now();
        for at in (0..tokens).step_by(chunk) {
            let last = at + chunk == tokens;
            let steps: Vec<_> = (0..chunk as u32)
                .map(|i| Step {
                    seq,
                    token: (at as u32 + i) * 37 % 5000,
                    logits: chunk == 1 || (last && i as usize + 1 == chunk),
                })
                .collect();
            engine.forward(&steps)?;
        }
        let total = start.elapsed();
        print!("{name} {:7.1} t/s |", tokens as f64 / total.as_secs_f64());
        for step in PassStep::ALL {
            let share = engine.profile().time(step).as_secs_f64() / total.as_secs_f64();
            print!(" {} {:.1}%", step.name(), 100.0 * share);
        }
        println!();
        engine.close(seq);
    }
    Ok(())
}
