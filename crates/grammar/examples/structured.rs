//! What structured output costs, and what forced text gains: `cargo run --release -p nanoinfer-grammar
//! --example structured [MODEL.nano] [ROUNDS]`. Alternates between the variants that it compares.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nanoinfer_engine::{
    Constraint, Drafting, Engine, EngineOptions, Event, GenerateOptions, Message, Model, Sampling,
    Session,
};
use nanoinfer_grammar::{Grammars, Source};
use nanoinfer_hub::{ModelRef, Pip, Store};

const TEXT: &str = r#"{"type": "object", "properties": {"story": {"type": "string", "minLength": 900}}, "required": ["story"], "additionalProperties": false}"#;
const KEYS: &str = r#"{"type": "array", "minItems": 4, "maxItems": 4, "items": {"type": "object", "properties": {
    "first_name": {"type": "string", "maxLength": 12}, "family_name": {"type": "string", "maxLength": 12},
    "age_in_years": {"type": "integer", "minimum": 1, "maximum": 99},
    "country_of_residence": {"enum": ["Austria", "Belgium", "Canada", "Denmark"]},
    "is_registered_customer": {"type": "boolean"}, "number_of_orders": {"type": "integer", "minimum": 0, "maximum": 50}},
    "required": ["first_name", "family_name", "age_in_years", "country_of_residence", "is_registered_customer", "number_of_orders"],
    "additionalProperties": false}}"#;

/// Measures the masks of a constraint.
#[derive(Debug)]
struct Timed(Box<dyn Constraint>, Arc<Mutex<Vec<f64>>>);

impl Constraint for Timed {
    fn allow(&mut self, allowed: &mut [u32]) {
        let start = Instant::now();
        self.0.allow(allowed);
        self.1.lock().expect("one thread").push(start.elapsed().as_secs_f64() * 1e6);
    }
    fn push(&mut self, id: u32) {
        self.0.push(id);
    }
    fn boxed(&self) -> Box<dyn Constraint> {
        Box::new(Self(self.0.boxed(), Arc::clone(&self.1)))
    }
    fn forced(&mut self, tokens: &mut Vec<u32>, room: usize) {
        self.0.forced(tokens, room);
    }
    fn follow(&mut self, draft: &[u32]) -> usize {
        self.0.follow(draft)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = match args.next() {
        Some(path) => path.into(),
        None => {
            let (store, model) = (Store::open()?, ModelRef::parse("smollm2")?);
            store.resolve(&model, nanoinfer_format::Quant::Q8, Some(&Pip), &mut |_| {})?
        }
    };
    let rounds: usize = args.next().map_or(Ok(5), |n| n.parse())?;
    let model = Model::open(path)?;
    let engine = Engine::new(model, &EngineOptions::default())?;
    let grammars = Grammars::new(Arc::clone(engine.model()));
    let mut session = Session::new(engine)?;

    let start = Instant::now();
    grammars.compile(&Source::JsonObject)?;
    println!("vocabulary and any object: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    for (name, schema) in [("text", TEXT), ("keys", KEYS)] {
        let start = Instant::now();
        grammars.compile(&Source::schema(schema)?)?;
        println!("schema {name:?}: {:.2} ms", start.elapsed().as_secs_f64() * 1e3);
    }
    let tools = tools();
    let start = Instant::now();
    grammars.compile(&tools)?;
    println!(
        "200 tools, {} kB: {:.1} ms",
        size(&tools) / 1000,
        start.elapsed().as_secs_f64() * 1e3
    );

    let start = Instant::now();
    let distinct = 1000;
    for i in 0..distinct {
        grammars.compile(&Source::schema(&KEYS.replace("first_name", &format!("name_{i}")))?)?;
    }
    let each = start.elapsed().as_secs_f64() * 1e3 / f64::from(distinct);
    let kept = grammars.cached_bytes() >> 10;
    println!("{distinct} schemas: {each:.2} ms each; kept: {kept} kB, as estimated");

    let masks = Arc::new(Mutex::new(Vec::new()));
    for (name, schema, drafting) in [
        ("text without drafts", TEXT, Drafting::OFF),
        ("keys without drafts", KEYS, Drafting::OFF),
        (
            "keys with drafts of forced text",
            KEYS,
            Drafting { lookup: false, ..Drafting::default() },
        ),
        ("keys with all drafts", KEYS, Drafting::default()),
    ] {
        let grammar = grammars.compile(&Source::schema(schema)?)?;
        let mut ratios = Vec::new();
        let mut speeds = Vec::new();
        for round in 0..rounds {
            let constraint = Timed(grammar.constraint(true), Arc::clone(&masks));
            let (with, text) = run(&mut session, round, drafting, Some(Box::new(constraint)))?;
            let (without, _) = run(&mut session, round, Drafting::OFF, None)?;
            ratios.push(with / without);
            speeds.push(with);
            if round == 0 {
                println!("  {}", text.chars().take(150).collect::<String>().replace('\n', " "));
            }
        }
        if rounds == 0 {
            continue;
        }
        let drafts = session.stats().drafts;
        println!(
            "{name}: {:.0} tokens/s, {:.3} of an answer without schema and drafts ({drafts:?})",
            median(&mut speeds),
            median(&mut ratios)
        );
    }
    if rounds == 0 {
        return Ok(());
    }
    let mut masks = masks.lock().expect("one thread").clone();
    let mean = masks.iter().sum::<f64>() / masks.len() as f64;
    let median = median(&mut masks);
    let p99 = masks[masks.len() * 99 / 100];
    println!("{} masks: median {median:.1} µs, mean {mean:.1}, 99 % {p99:.1}", masks.len());
    Ok(())
}

/// Tokens per second of an answer, and its text.
fn run(
    session: &mut Session,
    round: usize,
    drafting: Drafting,
    constraint: Option<Box<dyn Constraint>>,
) -> Result<(f64, String), Box<dyn Error>> {
    let what = ["customers", "travellers", "musicians", "sailors", "teachers"][round % 5];
    session.prompt_chat(&[Message::new("user", format!("Invent some {what}. Answer in JSON."))])?;
    let sampling = Sampling { temperature: 0.7, seed: round as u64, ..Sampling::default() };
    session.start(GenerateOptions {
        max_tokens: Some(200),
        sampling,
        ignore_eos: constraint.is_none(),
        drafting,
        ..GenerateOptions::default()
    })?;
    if let Some(constraint) = constraint {
        session.set_constraint(constraint);
    }
    let mut text = String::new();
    while let Some(event) = session.next()? {
        if let Event::Token { .. } | Event::Finished { .. } = event {
            text.push_str(event.text());
        }
    }
    Ok((session.stats().decode_tps(), text))
}

/// 200 tools as an agent describes them, one of which is to be called.
fn tools() -> Source {
    let filler =
        "What this parameter means, at some length, as in the descriptions of real tools. "
            .repeat(4);
    let tools = (0..200).map(|i| {
        serde_json::json!({
            "type": "object",
            "properties": {
                "name": {"const": format!("tool_{i}")},
                "arguments": {"type": "object", "properties": {
                    "path": {"type": "string", "description": filler},
                    "count": {"type": "integer", "description": filler},
                    "mode": {"enum": ["read", "write", format!("mode{i}")], "description": filler},
                }, "required": ["path"], "additionalProperties": false},
            },
            "required": ["name", "arguments"],
            "additionalProperties": false,
        })
    });
    Source::JsonSchema(serde_json::json!({"anyOf": tools.collect::<Vec<_>>()}))
}

fn size(source: &Source) -> usize {
    if let Source::JsonSchema(schema) = source { schema.to_string().len() } else { 0 }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
