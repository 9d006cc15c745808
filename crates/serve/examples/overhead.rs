//! Measures what HTTP adds to an answer: the same requests go to a `Batch` directly and to a server, in turns.
//!
//! ```text
//! cargo run --release -p nanoinfer-serve --example overhead -- MODEL.nano [ROUNDS [THREADS]]
//! ```
//!
//! Prints medians: of the time to the first of 64 tokens after a prompt of 12, of the time per further token, and
//! of what a request through the server takes longer.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use nanoinfer_engine::{
    Batch, BatchOptions, Drafting, Engine, EngineOptions, Engines, Event, GenerateOptions, Model,
    Request, Sampling,
};
use nanoinfer_serve::{Listen, Options, Served, Server};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PROMPT: usize = 12;
const TOKENS: usize = 64;

/// Microseconds to the first token, and for each further one.
#[derive(Clone, Copy)]
struct Times {
    first: f64,
    each: f64,
}

impl Times {
    fn new(start: Instant, first: Instant, last: Instant, tokens: usize) -> Self {
        let us = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e6;
        Self { first: us(start, first), each: us(first, last) / (tokens - 1) as f64 }
    }
}

fn engine(model: &Arc<Model>, threads: Option<usize>) -> Result<Engine> {
    let options =
        EngineOptions { threads, ctx: Some(512), sequences: 4, ..EngineOptions::default() };
    Ok(Engine::new(Arc::clone(model), &options)?)
}

/// The prompt of a round.
fn prompt(round: u32, vocabulary: u32) -> Vec<u32> {
    let mut state = round.wrapping_mul(0x9e37_79b9) | 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % vocabulary
    };
    (0..PROMPT).map(next).collect()
}

fn direct(batch: &mut Batch, prompt: &[u32], round: u32) -> Result<Times> {
    let defaults = Sampling::of(batch.engine().model().generation()); // the server uses these too
    let sampling = Sampling { temperature: 1.0, seed: round.into(), ..defaults };
    let options = GenerateOptions {
        max_tokens: Some(TOKENS),
        sampling,
        ignore_eos: true,
        drafting: Drafting::default(),
        ..GenerateOptions::default()
    };
    let start = Instant::now();
    batch.submit(Request { prompt: prompt.to_vec(), options, ..Request::default() })?;
    let (mut first, mut last, mut tokens) = (None, start, 0);
    while !batch.is_idle() {
        for event in batch.step()? {
            if matches!(event.event.map_err(|e| e.to_string())?, Event::Token { .. }) {
                last = Instant::now();
                first.get_or_insert(last);
                tokens += 1;
            }
        }
    }
    Ok(Times::new(start, first.ok_or("no token")?, last, tokens))
}

/// A connection to the server.
struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    host: String,
}

impl Client {
    fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let reader = BufReader::new(stream.try_clone()?);
        Ok(Self { stream, reader, host: address.to_owned() })
    }

    fn stream(&mut self, prompt: &[u32], round: u32) -> Result<Times> {
        let body = format!(
            r#"{{"prompt":{prompt:?},"max_tokens":{TOKENS},"temperature":1,"seed":{round},"ignore_eos":true,"stream":true}}"#
        );
        let text = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        let start = Instant::now();
        self.stream.write_all(text.as_bytes())?;
        let (mut first, mut last, mut at) = (None, (start, 0), 0);
        let mut line = String::new();
        // The last chunk of the body is an empty one.
        while line.trim_end() != "0" {
            line.clear();
            if self.reader.read_line(&mut line)? == 0 {
                return Err("the server closed the connection".into());
            }
            if let Some(id) = line.strip_prefix("id: ") {
                at = id.trim().parse()?;
            }
            // The id of an event is the number of tokens so far.
            if line.starts_with("data: {") && at > last.1 {
                last = (Instant::now(), at);
                first.get_or_insert(last);
            }
        }
        self.reader.read_line(&mut line)?;
        let first = first.ok_or("no event with an id")?;
        Ok(Times::new(start, first.0, last.0, last.1 - first.1 + 1))
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let model =
        Arc::new(Model::open(args.next().ok_or("expected MODEL.nano [ROUNDS [THREADS]]")?)?);
    let rounds = args.next().map_or(Ok(40), |n| n.parse())?;
    let threads = args.next().map(|n| n.parse()).transpose()?;
    let vocabulary = model.config().vocab_size;
    let mut batch = Batch::new(engine(&model, threads)?, BatchOptions::default());
    let served = Served {
        name: "model".into(),
        engines: Engines::from(engine(&model, threads)?),
        load: None,
        batch: BatchOptions::default(),
    };
    let options = Options::new(Listen::Tcp("127.0.0.1:0".parse()?));
    let server = Server::bind(vec![served], options)?;
    let (address, handle) = (server.address().to_owned(), server.handle());
    let running = std::thread::spawn(move || server.run());
    let mut client = Client::connect(&address)?;
    let mut times = Vec::new();
    for round in 0..rounds + 3 {
        let prompt = prompt(round, vocabulary);
        let mut alone = |_| direct(&mut batch, &prompt, round);
        let mut through = |_| client.stream(&prompt, round);
        // Whoever is second has a warmer machine.
        let both = if round % 2 == 0 {
            let alone = alone(())?;
            (alone, through(())?)
        } else {
            let through = through(())?;
            (alone(())?, through)
        };
        times.push(both);
    }
    let times = &times[3..]; // the first ones warm up
    let print = |what, of: fn(&Times) -> f64| {
        println!(
            "{what}: {:.0} us directly, {:.0} us over HTTP, {:+.0} us within a round",
            median(times.iter().map(|(direct, _)| of(direct))),
            median(times.iter().map(|(_, http)| of(http))),
            median(times.iter().map(|(direct, http)| of(http) - of(direct))),
        );
    };
    print("first token", |t| t.first);
    print("each further token", |t| t.each);
    handle.drain();
    running.join().map_err(|_| "the server panicked")??;
    Ok(())
}
