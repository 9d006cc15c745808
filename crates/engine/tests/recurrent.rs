//! Models with recurrent layers: whatever is rolled back, forked, shared or drafted, the bits are those of a
//! context computed from its beginning.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{data, model, tiny};
use nanoinfer_engine::{
    Batch, BatchOptions, BatchToken, Drafting, Engine, EngineOptions, Event, GenerateOptions,
    Model, PrefixStore, Request, Sampling, SeqId, Session,
};
use nanoinfer_format::Quant;

/// The reference models with recurrent layers.
fn names() -> Vec<String> {
    let recurrent = |name: &String| load(name).config().recurrent.is_some();
    let names: Vec<_> = tiny().into_iter().filter(recurrent).collect();
    assert!(!names.is_empty());
    names
}

fn load(name: &str) -> Model {
    model(&data("tiny").join(name), Quant::Q8)
}

fn engine(name: &str, sequences: usize) -> Engine {
    let options =
        EngineOptions { threads: Some(2), ctx: Some(320), sequences, ..EngineOptions::default() };
    Engine::new(load(name), &options).unwrap()
}

fn ids(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i * 7 + i * (13 + seed) + 5 + seed) % 192).collect()
}

/// Appends tokens in one pass and returns the bits of the logits after the last one.
fn feed(engine: &mut Engine, seq: SeqId, tokens: &[u32]) -> Vec<u32> {
    let last = tokens.len() - 1;
    let token = |(i, &token): (usize, &u32)| BatchToken { seq, token, logits: i == last };
    let batch: Vec<_> = tokens.iter().enumerate().map(token).collect();
    let pass = engine.forward(&batch).unwrap();
    engine.logits(pass, 0).unwrap().iter().map(|x| x.to_bits()).collect()
}

/// The bits after these tokens, in one pass of a sequence that holds nothing else.
fn alone(name: &str, tokens: &[u32]) -> Vec<u32> {
    let mut engine = engine(name, 1);
    let seq = engine.open().unwrap();
    feed(&mut engine, seq, tokens)
}

#[test]
fn a_rejected_draft_leaves_no_trace_and_nothing_is_computed_again() {
    for name in names() {
        let mut engine = engine(&name, 1);
        let seq = engine.open().unwrap();
        let mut tokens = ids(70, 0);
        feed(&mut engine, seq, &tokens);
        let mut computed = tokens.len();
        // Drafts of several lengths, of which some tokens are accepted, and single tokens in between.
        for (round, (draft, accepted)) in
            [(5, 2), (1, 1), (15, 0), (7, 7), (1, 1), (1, 1), (16, 9), (16, 16), (3, 1), (12, 11)]
                .into_iter()
                .enumerate()
        {
            let new: Vec<u32> = ids(draft, round as u32 + 3);
            feed(&mut engine, seq, &new);
            computed += draft;
            tokens.extend(&new[..accepted]);
            let left = engine.truncate(seq, tokens.len()).unwrap();
            assert_eq!(left, tokens.len(), "{name}: draft {draft}, accepted {accepted}");
        }
        tokens.push(7);
        assert_eq!(feed(&mut engine, seq, &[7]), alone(&name, &tokens), "{name}");
        assert_eq!(engine.processed(), computed as u64 + 1, "{name}");
    }
}

#[test]
fn any_rollback_continues_with_the_same_bits() {
    for name in names() {
        let (mut engine, all) = (engine(&name, 1), ids(300, 1));
        let seq = engine.open().unwrap();
        let mut reused = 0;
        for (from, to) in [(200, 150), (180, 128), (300, 65), (130, 129), (140, 0), (90, 64)] {
            let at = engine.len(seq).unwrap();
            for part in all[at..from].chunks(48) {
                feed(&mut engine, seq, part);
            }
            let left = engine.truncate(seq, to).unwrap();
            assert!(left <= to && left == engine.len(seq).unwrap(), "{name}");
            reused += left;
            let other = ids(9, 50);
            let tokens = [&all[..to], &other].concat();
            assert_eq!(feed(&mut engine, seq, &tokens[left..]), alone(&name, &tokens), "{name}");
            engine.truncate(seq, left).unwrap();
        }
        assert!(reused > 0, "{name}: there are no snapshots");
    }
}

#[test]
fn forks_and_shared_prefixes_continue_with_the_same_bits() {
    for name in names() {
        let (mut engine, all) = (engine(&name, 4), ids(250, 2));
        let a = engine.open().unwrap();
        feed(&mut engine, a, &all[..140]);
        feed(&mut engine, a, &all[140..146]);
        engine.truncate(a, 143).unwrap();
        let b = engine.fork(a).unwrap();
        for (seq, seed) in [(a, 7), (b, 8)] {
            let tokens = [&all[..143], &ids(5, seed)].concat();
            assert_eq!(feed(&mut engine, seq, &tokens[143..]), alone(&name, &tokens), "{name}");
        }
        let mut reused = Vec::new();
        let mut share = |engine: &mut Engine, tokens: &[u32]| {
            let seq = engine.open().unwrap();
            let n = engine.share(seq, &tokens[..tokens.len() - 1]).unwrap();
            assert_eq!(feed(engine, seq, &tokens[n..]), alone(&name, tokens), "{name}: {n}");
            reused.push(n);
            engine.close(seq).unwrap();
        };
        let diverging = |at: usize| [&all[..at], &ids(20, 9)].concat();
        share(&mut engine, &all[..200]); // of an open sequence
        share(&mut engine, &diverging(141));
        engine.close(a).unwrap();
        engine.close(b).unwrap();
        share(&mut engine, &all[..220]); // of closed ones
        share(&mut engine, &diverging(100));
        share(&mut engine, &diverging(10));
        assert!(reused[..3].iter().all(|&n| n >= 128), "{name}: {reused:?}");
        assert_eq!(reused[4], 0, "{name}");
    }
}

/// Many sequences, so that snapshots are evicted.
#[test]
fn evicted_snapshots_are_not_used() {
    for name in names() {
        let mut engine = engine(&name, 1);
        for round in 0..24 {
            let tokens =
                [ids(64 + 32 * (round % 4), round as u32 % 5), ids(70, round as u32)].concat();
            let seq = engine.open().unwrap();
            let n = engine.share(seq, &tokens[..tokens.len() - 1]).unwrap();
            assert_eq!(feed(&mut engine, seq, &tokens[n..]), alone(&name, &tokens), "{name}: {n}");
            engine.close(seq).unwrap();
        }
    }
}

fn answer(session: &mut Session, prompt: &[u32], drafting: Drafting) -> Vec<u32> {
    session.prompt_tokens(prompt).unwrap();
    let sampling = Sampling { temperature: 0.8, seed: 3, ..Sampling::default() };
    let (max_tokens, ignore_eos) = (Some(60), true);
    let options =
        GenerateOptions { max_tokens, sampling, drafting, ignore_eos, ..Default::default() };
    session.start(options).unwrap();
    while session.next().unwrap().is_some() {}
    session.generated().to_vec()
}

#[test]
fn drafts_do_not_change_answers() {
    for name in names() {
        let new = || Session::new(engine(&name, 1)).unwrap();
        let (mut plain, mut drafting) = (new(), new());
        drafting.set_draft_model(engine(&name, 1)).unwrap();
        let prompt: Vec<u32> = (0..90).map(|i| 10 + i % 11).collect();
        let want = answer(&mut plain, &prompt, Drafting::OFF);
        for n in [1, 4, 15] {
            for lookup in [true, false] {
                let fixed = Drafting { fixed: Some(n), lookup, ..Drafting::default() };
                assert_eq!(answer(&mut drafting, &prompt, fixed), want, "{name}: {n} {lookup}");
            }
            // The draft model is the target itself, so its drafts are accepted: nothing was lost in rollbacks.
            let drafts = drafting.stats().drafts.model;
            assert!(drafts.accepted + n >= drafts.drafted, "{name}: {drafts:?}");
        }
        // A conversation that goes on, and one that changes.
        for prompt in [[&prompt[..], &want, &[5, 6, 7]].concat(), [&prompt[..70], &want].concat()] {
            let fresh = answer(&mut new(), &prompt, Drafting::OFF);
            assert_eq!(answer(&mut plain, &prompt, Drafting::OFF), fresh, "{name}");
        }
    }
}

/// More requests than the cache has room for, so that some are preempted and computed again.
#[test]
fn a_batch_answers_like_single_sessions() {
    for name in names() {
        let (max_tokens, ignore_eos, drafting) = (Some(60), true, Drafting::OFF);
        let prompt = |i: usize| [ids(100, 0), ids(10 + 9 * i, i as u32)].concat();
        let sampling = Sampling { temperature: 0.8, seed: 3, ..Sampling::default() };
        let options = EngineOptions {
            threads: Some(2),
            ctx: Some(320),
            sequences: 4,
            kv_bytes: Some(9 * 64 * engine(&name, 1).kv_bytes_per_position()),
            ..EngineOptions::default()
        };
        let engine_of = Engine::new(load(&name), &options).unwrap();
        let mut batch = Batch::new(engine_of, BatchOptions::default());
        let mut got = std::collections::BTreeMap::new();
        for i in 0..6 {
            let options = GenerateOptions {
                max_tokens,
                sampling,
                drafting,
                ignore_eos,
                ..Default::default()
            };
            let request = Request { prompt: prompt(i), options, ..Request::default() };
            got.insert(batch.submit(request).unwrap(), (i, Vec::new()));
        }
        while !batch.is_idle() {
            for event in batch.step().unwrap() {
                if let Ok(Event::Token { id, .. }) = event.event {
                    got.get_mut(&event.id).unwrap().1.push(id);
                }
            }
        }
        for (i, tokens) in got.into_values() {
            let mut session = Session::new(engine(&name, 1)).unwrap();
            assert_eq!(tokens, answer(&mut session, &prompt(i), Drafting::OFF), "{name}: {i}");
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect()
}

/// Answers with a store, and returns the number of reused tokens of the prompt too.
fn stored(name: &str, folder: &Path, prompt: &[u32]) -> (Vec<u32>, usize, Vec<String>) {
    let mut session = Session::new(engine(name, 1)).unwrap();
    session.set_store(Some(PrefixStore::open(folder, 1 << 30).unwrap()));
    let tokens = answer(&mut session, prompt, Drafting::OFF);
    session.remember();
    (tokens, session.stats().reused_tokens, session.take_notes())
}

#[test]
fn stored_states_continue_with_the_same_bits() {
    for name in names() {
        let folder = tempfile::tempdir().unwrap();
        let all = ids(250, 4);
        let fresh = |prompt: &[u32]| {
            answer(&mut Session::new(engine(&name, 1)).unwrap(), prompt, Drafting::OFF)
        };
        let (first, reused, notes) = stored(&name, folder.path(), &all[..150]);
        assert_eq!((reused, notes), (0, vec![]), "{name}");
        assert_eq!(first, fresh(&all[..150]), "{name}");
        // Prompts that share a part.
        for at in [130, 100, 20] {
            let prompt = [&all[..at], &all[200..]].concat();
            let (tokens, reused, notes) = stored(&name, folder.path(), &prompt);
            assert_eq!(tokens, fresh(&prompt), "{name}: {at}");
            let state = if at < 128 { 0 } else { 128 }; // the only one of the prompt that is kept
            assert_eq!(reused, state, "{name}: {at}");
            assert!(notes.is_empty(), "{name}: {notes:?}");
        }
        // A conversation that goes on, with all of its state.
        let longer = [&all[..150], &first, &all[150..180]].concat();
        let (_, reused, notes) = stored(&name, folder.path(), &longer);
        assert!(reused >= 150 + first.len() - 1, "{name}: {reused}");
        assert!(notes.is_empty(), "{name}: {notes:?}");
    }
}

#[test]
fn a_damaged_state_is_reported_and_never_used() {
    let name = &names()[0];
    let folder = tempfile::tempdir().unwrap();
    let prompt = ids(150, 5);
    let (first, _, _) = stored(name, folder.path(), &prompt);
    let longer = [&prompt[..], &first, &[7]].concat();
    let want = answer(&mut Session::new(engine(name, 1)).unwrap(), &longer, Drafting::OFF);
    let [file] = &files(folder.path())[..] else { panic!("one entry") };
    let good = fs::read(file).unwrap();
    // The bytes of a state in the header, and the last value of the last state.
    for at in [88, 95, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join(file.file_name().unwrap()), &bad).unwrap();
        let (tokens, reused, notes) = stored(name, elsewhere.path(), &longer);
        assert_eq!((tokens, reused), (want.clone(), 0), "byte {at}");
        assert!(matches!(&notes[..], [note] if note.contains("ignored")), "byte {at}: {notes:?}");
    }
}

#[test]
fn a_batch_stores_contexts_with_their_states() {
    let (max_tokens, ignore_eos, drafting) = (Some(20), true, Drafting::OFF);
    for name in names() {
        let folder = tempfile::tempdir().unwrap();
        let options = EngineOptions {
            threads: Some(2),
            ctx: Some(832),
            sequences: 2,
            ..EngineOptions::default()
        };
        // The tokens of an answer in a new batch, and the number of reused tokens of its prompt.
        let answer = |prompt: &[u32], folder: &Path| {
            let engine = Engine::new(load(&name), &options).unwrap();
            let mut batch = Batch::new(engine, BatchOptions::default());
            batch.set_store(Some(PrefixStore::open(folder, 1 << 30).unwrap()));
            let options =
                GenerateOptions { max_tokens, ignore_eos, drafting, ..Default::default() };
            batch
                .submit(Request { prompt: prompt.to_vec(), options, ..Request::default() })
                .unwrap();
            let (mut tokens, mut reused) = (Vec::new(), 0);
            while !batch.is_idle() {
                for event in batch.step().unwrap() {
                    reused = event.stats.reused_tokens;
                    if let Event::Token { id, .. } = event.event.unwrap() {
                        tokens.push(id);
                    }
                }
            }
            (tokens, reused)
        };
        let (prompt, elsewhere) = (ids(700, 6), tempfile::tempdir().unwrap());
        let first = answer(&prompt, folder.path());
        assert_eq!((first.1, files(folder.path()).len()), (0, 1), "{name}");
        let (tokens, reused) = answer(&prompt, folder.path());
        assert_eq!((tokens, reused), (first.0.clone(), 640), "{name}");
        let longer = [&prompt[..], &first.0, &ids(30, 7)].concat();
        let (tokens, reused) = answer(&longer, folder.path());
        assert_eq!((tokens, reused), (answer(&longer, elsewhere.path()).0, 704), "{name}");
    }
}
