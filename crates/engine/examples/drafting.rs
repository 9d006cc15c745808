//! Measures the costs and gains of drafting and sliding; `docs/BENCHMARKS.md` has the figures.
//!
//! ```text
//! cargo run --release -p nanoinfer-engine --example drafting -- copy smollm2.nano
//! … -- prose smollm2.nano [scripted.nano]     paired 32-token segments, with and without drafts
//! … -- model target.nano draft.nano           a draft model with scripted acceptance
//! … -- slide smollm2.nano reference.nano      20,000 tokens in a context of 512
//! … -- sense smollm2.nano reference.nano      the quality of such text, compared with a control
//! ```
//!
//! `scripted.nano` is a model with random weights that a `Script` forces to generate the first model's
//! text: everything is computed, but the drawn tokens are replaced.

use std::error::Error;
use std::time::Instant;

use nanoinfer_engine::bench::{Script, set_script};
use nanoinfer_engine::{
    BatchToken, Drafting, Engine, EngineOptions, Event, GenerateOptions, Message, Model, Overflow,
    Sampling, SeqId, Session, Stats,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// About 300 tokens.
const TEXT: &str = "The lighthouse at the end of the pier was built in 1874 by a company of fishermen \
who had lost eleven boats in a single winter. They paid for the stone themselves, carried it across \
the bay on flat barges, and laid it in courses of granite without mortar, because the sea would have \
washed any mortar away before it could set. The keeper lived in two rooms below the lamp with his \
wife, three children and a grey cat named Admiral. Every evening he climbed ninety-six steps with a \
can of whale oil, trimmed the wick, wound the clockwork that turned the lens, and wrote the hour and \
the weather into a ledger. The ledgers survive. They record forty years of fog, gales, becalmed \
schooners and visiting inspectors, in a hand that grows smaller and shakier from volume to volume. On \
the last page the keeper notes that the oil has been replaced by a gas burner, that the clockwork has \
been sold to a museum, and that he will move to the village in spring to live with his eldest \
daughter. Below, in another hand, somebody added a single line: the lamp burns as well without him, \
but the stairs are lonely. The pier itself fell into the bay in the great storm of 1921, and since \
then the lighthouse has stood on a small island of its own stone, which gulls share with seals at low \
tide.";

const COPY: [&str; 3] = [
    "Repeat the following text word for word:\n\n",
    "Copy this text exactly, and change nothing but the name of the cat to General:\n\n",
    "Write out the text below again, correcting any spelling mistakes:\n\n",
];

const PROSE: [&str; 4] = [
    "Write a long story about a painter who moves to a small town by the sea.",
    "Explain in detail how bread is made, from the field to the table.",
    "Describe an unusual friendship between two old neighbours.",
    "Write an essay on why people travel.",
];

fn session(path: &str, ctx: usize, overflow: Overflow) -> Result<Session> {
    let options = EngineOptions { ctx: Some(ctx), overflow, ..EngineOptions::default() };
    Ok(Session::new(Engine::new(Model::open(path)?, &options)?)?)
}

/// Generates a whole answer; returns tokens, statistics and total seconds.
fn answer(
    session: &mut Session,
    prompt: &[u32],
    options: GenerateOptions,
) -> Result<(Vec<u32>, Stats, f64)> {
    session.prompt_tokens(prompt)?;
    let start = Instant::now();
    session.start(options)?;
    while session.next()?.is_some() {}
    Ok((session.generated().to_vec(), session.stats(), start.elapsed().as_secs_f64()))
}

fn median(x: &[f64]) -> f64 {
    let mut x = x.to_vec();
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Geometric mean of ratios and its 95 % confidence interval.
fn interval(ratios: &[f64]) -> (f64, f64, f64) {
    let n = ratios.len() as f64;
    let logs: Vec<f64> = ratios.iter().map(|r| r.ln()).collect();
    let mean = logs.iter().sum::<f64>() / n;
    let sd = (logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let half = 1.96 * sd / n.sqrt();
    (mean.exp(), (mean - half).exp(), (mean + half).exp())
}

fn chat(path: &str, text: &str) -> Result<Vec<u32>> {
    Ok(Model::open(path)?.encode_chat(&[Message::new("user", text)])?)
}

fn on() -> Drafting {
    Drafting::default()
}

/// Tokens per second with and without drafts, measured alternately.
fn copy(path: &str, scripted: Option<&str>) -> Result<()> {
    for prompt in COPY {
        let ids = chat(path, &format!("{prompt}{TEXT}"))?;
        let mut real = session(path, 1024, Overflow::Stop)?;
        let options = |drafting| GenerateOptions {
            max_tokens: Some(300),
            drafting,
            ignore_eos: scripted.is_some(),
            ..GenerateOptions::default()
        };
        let text = answer(&mut real, &ids, options(on()))?.0;
        let (mut session, ids) = match scripted {
            None => (real, ids),
            Some(path) => {
                let mut forced = session(path, 1024, Overflow::Stop)?;
                let vocab = forced.engine().model().config().vocab_size;
                let into = |ids: &[u32]| ids.iter().map(|id| id % vocab).collect::<Vec<_>>();
                set_script(&mut forced, Some(Script { tokens: into(&text), ..Script::default() }));
                (forced, into(&ids))
            }
        };
        let mut tps = [Vec::new(), Vec::new()];
        let mut stats = Stats::default();
        for round in 0..6 {
            for (i, drafting) in [Drafting::OFF, on()].into_iter().enumerate() {
                let (_, now, _) = answer(&mut session, &ids, options(drafting))?;
                stats = now;
                if round > 0 {
                    tps[i].push(now.decode_tps());
                }
            }
        }
        let ratios: Vec<f64> = tps[1].iter().zip(&tps[0]).map(|(a, b)| a / b).collect();
        let (d, n) = (stats.drafts, stats.generated);
        println!(
            "{:<50} {n} tokens: {:.1} tokens/s without drafts, {:.1} with, ratio {:.2} \
             ({:.2} tokens per pass, {} of {} drafts accepted)",
            prompt.trim(),
            median(&tps[0]),
            median(&tps[1]),
            median(&ratios),
            d.tokens_per_pass(),
            d.all().accepted,
            d.all().drafted
        );
    }
    Ok(())
}

/// Generates each segment twice, with and without drafts, in alternating order; the tokens are
/// identical.
fn prose(path: &str, scripted: Option<&str>) -> Result<()> {
    const SEGMENT: usize = 32;
    let mut ratios = Vec::new();
    let mut drafted = 0;
    let mut accepted = 0;
    let pairs = 12;
    let mut speaker = session(path, 1024, Overflow::Stop)?;
    let mut forced = scripted.map(|path| session(path, 1024, Overflow::Stop)).transpose()?;
    let options = |drafting, n, seed| GenerateOptions {
        max_tokens: Some(n),
        ignore_eos: true,
        drafting,
        sampling: Sampling { temperature: 0.8, top_p: 0.95, seed, ..Sampling::default() },
        ..GenerateOptions::default()
    };
    for (seed, prompt) in (0..).zip(PROSE) {
        let mut context = chat(path, prompt)?;
        let mut text = Vec::new();
        if let Some(forced) = &forced {
            let vocab = forced.engine().model().config().vocab_size;
            let all = options(Drafting::OFF, SEGMENT * (pairs + 1), seed);
            text = answer(&mut speaker, &context, all)?.0;
            text.iter_mut().chain(&mut context).for_each(|id| *id %= vocab);
        }
        for pair in 0..=pairs {
            let mut seconds = [0.0; 2];
            let mut generated = Vec::new();
            for turn in 0..2 {
                let with = (turn + pair) % 2;
                let session = forced.as_mut().unwrap_or(&mut speaker);
                let tokens = text.iter().skip(SEGMENT * pair).copied().collect();
                let script = Script { tokens, ..Script::default() };
                set_script(session, scripted.map(|_| script));
                let drafting = if with == 1 { on() } else { Drafting::OFF };
                let (ids, stats, time) =
                    answer(session, &context, options(drafting, SEGMENT, seed))?;
                (seconds[with], generated) = (time, ids);
                drafted += stats.drafts.all().drafted;
                accepted += stats.drafts.all().accepted;
            }
            context.extend(generated);
            if pair > 0 {
                ratios.push(seconds[0] / seconds[1]);
            }
        }
    }
    let (mean, low, high) = interval(&ratios);
    let n = ratios.len();
    println!("prose, {n} pairs: speedup with drafts {mean:.3} (95 % CI: {low:.3}–{high:.3})");
    println!("drafted {drafted}, accepted {accepted}");
    Ok(())
}

/// Median seconds per pass of `rows` tokens after a context of 256 tokens.
fn pass(engine: &mut Engine, seq: SeqId, rows: usize) -> Result<f64> {
    let mut times = Vec::new();
    for i in 0..9 {
        let item = |j| BatchToken { seq, token: 7 + i * 16 + j, logits: true };
        let batch: Vec<_> = (0..rows as u32).map(item).collect();
        let start = Instant::now();
        engine.forward(&batch)?;
        times.push(start.elapsed().as_secs_f64());
        engine.truncate(seq, 256)?;
    }
    Ok(median(&times))
}

/// Speedup of a draft model at a chosen acceptance rate, as predicted from pass costs and as measured.
fn model(target: &str, draft: &str) -> Result<()> {
    let engine = |path: &str| -> Result<(Engine, SeqId)> {
        let mut engine = Engine::new(Model::open(path)?, &EngineOptions::default())?;
        let seq = engine.open()?;
        let step = |i: u32| BatchToken { seq, token: i % 100 + 3, logits: false };
        engine.forward(&(0..256).map(step).collect::<Vec<_>>())?;
        Ok((engine, seq))
    };
    let (mut large, a) = engine(target)?;
    let (mut small, b) = engine(draft)?;
    let costs = (1..=9).map(|rows| pass(&mut large, a, rows)).collect::<Result<Vec<_>>>()?;
    let step = pass(&mut small, b, 1)?;
    let ms = |s: f64| format!("{:.2}", 1e3 * s);
    println!("ms per pass of 1 to 9 rows: {:?}", costs.iter().map(|c| ms(*c)).collect::<Vec<_>>());
    println!("ms per step of the draft model: {}", ms(step));
    drop((large, small));

    let mut session = session(target, 1024, Overflow::Stop)?;
    session.set_draft_model(Engine::new(
        Model::open(draft)?,
        &EngineOptions { ctx: Some(1024), ..EngineOptions::default() },
    )?)?;
    let prompt: Vec<u32> = (0..256).map(|i| i % 100 + 3).collect();
    for p in [0.6, 0.7, 0.8] {
        let gain = |n: usize| {
            let tokens = (1.0 - f64::powi(p, n as i32 + 1)) / (1.0 - p);
            tokens * costs[0] / (costs[n] + n as f64 * step)
        };
        let best = (1..=8).max_by(|a, b| gain(*a).total_cmp(&gain(*b))).unwrap_or(1);
        let tokens: Vec<u32> = (0..160u32).map(|i| (i * 7919 + 13) % 30_000).collect();
        let script = Script { tokens, acceptance: Some(p), ..Script::default() };
        set_script(&mut session, Some(script));
        let mut ratios = Vec::new();
        let mut stats = Stats::default();
        for round in 0..6 {
            let mut tps = [0.0; 2];
            let drafting = Drafting { lookup: false, ..on() };
            for (i, drafting) in [Drafting::OFF, drafting].into_iter().enumerate() {
                let options = GenerateOptions {
                    max_tokens: Some(160),
                    drafting,
                    ..GenerateOptions::default()
                };
                stats = answer(&mut session, &prompt, options)?.1;
                tps[i] = stats.decode_tps();
            }
            if round > 0 {
                ratios.push(tps[1] / tps[0]);
            }
        }
        let drafts = stats.drafts;
        println!(
            "acceptance {p}: speedup predicted {:.2} (drafts of {best}), measured {:.2} \
             ({:.2} tokens per pass, {:.2} accepted)",
            gain(best),
            median(&ratios),
            drafts.tokens_per_pass(),
            drafts.model.acceptance()
        );
    }
    Ok(())
}

fn rss() -> Result<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm.split_whitespace().nth(1).ok_or("no RSS")?.parse()?;
    Ok(pages * 4096.0 / 1e6)
}

/// Mean −log p of each thousand tokens without the first; each thousand is scored independently.
fn nll(reference: &str, tokens: &[u32]) -> Result<Vec<f64>> {
    let options = EngineOptions { ctx: Some(1024), logits_rows: 64, ..EngineOptions::default() };
    let mut engine = Engine::new(Model::open(reference)?, &options)?;
    let seq = engine.open()?;
    let mut mean_of = |tokens: &[u32]| {
        engine.truncate(seq, 0)?;
        let mut following = tokens[1..].iter();
        let mut sum = 0.0;
        for chunk in tokens.chunks(64) {
            let step = |&token| BatchToken { seq, token, logits: true };
            let pass = engine.forward(&chunk.iter().map(step).collect::<Vec<_>>())?;
            for (row, next) in (0..chunk.len()).zip(&mut following) {
                let logits = engine.logits(pass, row)?;
                let max = logits.iter().copied().fold(f32::MIN, f32::max);
                let total: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
                sum += total.ln() - f64::from(logits[*next as usize] - max);
            }
        }
        Ok(sum / (tokens.len() - 1) as f64)
    };
    tokens.chunks_exact(1000).map(&mut mean_of).collect()
}

fn endless(n: usize, seed: u64) -> GenerateOptions {
    GenerateOptions {
        max_tokens: Some(n),
        ignore_eos: true,
        sampling: Sampling { temperature: 0.8, seed, ..Sampling::default() },
        drafting: Drafting::OFF,
        ..GenerateOptions::default()
    }
}

/// Compares early and late text of a sliding session. Small models drift into repetition anyway, so a
/// control session sees the same amount of context, but recomputes it every 64 tokens.
fn sense(path: &str, reference: &str) -> Result<()> {
    const ALL: usize = 20_000;
    const SEGMENT: usize = 64;
    let prompt = chat(path, PROSE[0])?;
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    for seed in 1..=3 {
        let mut slides = session(path, 512, Overflow::Slide)?;
        let text = answer(&mut slides, &prompt, endless(ALL, seed))?.0;
        let mut fresh = session(path, 512, Overflow::Stop)?;
        let mut control = Vec::new();
        for part in 0..ALL.div_ceil(SEGMENT) as u64 {
            let pinned = prompt.len().next_multiple_of(SEGMENT);
            let all = [&prompt[..], &control].concat();
            let late = all.len().saturating_sub(512 - SEGMENT - pinned).max(pinned);
            let visible = if all.len() <= 512 - SEGMENT {
                all
            } else {
                [&all[..pinned], &all[late..]].concat()
            };
            control.extend(answer(&mut fresh, &visible, endless(SEGMENT, 1000 * seed + part))?.0);
        }
        for (name, text) in [("slides", text), ("recomputed", control)] {
            let nll = nll(reference, &text)?;
            let rounded: Vec<_> = nll.iter().map(|x| format!("{x:.2}")).collect();
            println!(
                "seed {seed}, {name}: NLL of first half {:.2}, of second half {:.2}; per 1,000 tokens {}",
                mean(&nll[..10]),
                mean(&nll[10..]),
                rounded.join(" ")
            );
        }
    }
    Ok(())
}

/// Endless generation: memory, time per token relative to a session that stays at one position, and
/// quality.
fn slide(path: &str, reference: &str) -> Result<()> {
    const ALL: usize = 20_000;
    const SEGMENT: usize = 32;
    let mut long = session(path, 512, Overflow::Slide)?;
    let mut stays = session(path, 512, Overflow::Slide)?;
    let options = |n| endless(n, 1);
    let prompt = chat(path, PROSE[0])?;
    let held = answer(&mut stays, &prompt, options(1500 - prompt.len()))?.0;
    let held = [&prompt[..], &held].concat();
    long.prompt_tokens(&prompt)?;
    long.start(options(ALL))?;
    let mut tokens = Vec::with_capacity(ALL);
    let mut ratios = Vec::new();
    let mut memory = Vec::new();
    let segment = |long: &mut Session, tokens: &mut Vec<u32>| -> Result<f64> {
        let (mut n, mut start) = (0, Instant::now());
        while n < SEGMENT {
            if let Some(Event::Token { id, .. }) = long.next()? {
                tokens.push(id);
                n += 1;
            }
            if n == 1 {
                start = Instant::now();
            }
        }
        Ok(start.elapsed().as_secs_f64())
    };
    while tokens.len() + SEGMENT <= ALL {
        let seconds = segment(&mut long, &mut tokens)?;
        let late = tokens.len() + 120 * SEGMENT > ALL;
        if late {
            let stats = answer(&mut stays, &held, options(SEGMENT))?.1;
            ratios.push(seconds / stats.decode.as_secs_f64());
        }
        if tokens.len() >= 1000 && !late {
            memory.push(rss()?);
        }
    }
    let least = memory.iter().copied().fold(f64::MAX, f64::min);
    let most = memory.iter().copied().fold(0.0, f64::max);
    println!("RSS after the first 1,000 tokens: {least:.2} to {most:.2} MB");
    let (mean, low, high) = interval(&ratios);
    let n = ratios.len();
    println!(
        "ms/token after 16,000–20,000 tokens relative to 1,500, {n} pairs: {mean:.4} ({low:.4}–{high:.4})"
    );
    let nll = nll(reference, &tokens)?;
    let (early, late) = (nll[1], nll[nll.len() - 1]);
    println!(
        "NLL of tokens 1,000–2,000 {early:.4}, of the last 1,000 {late:.4}, ratio {:.3}",
        late / early
    );
    println!("evicted {}", long.evicted());
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["copy", path] => copy(path, None),
        ["copy", path, scripted] => copy(path, Some(scripted)),
        ["prose", path] => prose(path, None),
        ["prose", path, scripted] => prose(path, Some(scripted)),
        ["model", target, draft] => model(target, draft),
        ["slide", path, reference] => slide(path, reference),
        ["sense", path, reference] => sense(path, reference),
        _ => {
            Err("copy|prose MODEL [SCRIPTED] · model TARGET DRAFT · slide|sense MODEL REFERENCE"
                .into())
        }
    }
}
