//! A batch with a store: contexts survive a restart, nothing waits for the disk but the request whose prompt
//! is read, and damaged files change nothing.

mod common;
#[path = "common/batch.rs"]
mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use harness::*;
use nanoinfer_engine::{
    Batch, Class, FinishReason, Message, Model, Overflow, PrefixStore, Request,
};

const LIMIT: u64 = 1 << 30;
/// More than is worth storing, in whole blocks and a part of one.
const LONG: usize = 580;

fn stored(model: &Arc<Model>, folder: &Path, limit: u64) -> Batch {
    let mut batch = batch(model, 4, 32);
    batch.set_store(Some(PrefixStore::open(folder, limit).unwrap()));
    batch
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    files
}

fn long(seed: u32) -> Request {
    let mut request = request(ids(LONG, seed), 20);
    request.options.sampling = sampled(u64::from(seed));
    request
}

/// Answers a request; returns its tokens and the number of reused tokens of its prompt.
fn answer(batch: &mut Batch, request: &Request) -> (Vec<Token>, usize) {
    let mut answers = Answers::default();
    let id = batch.submit(request.clone()).unwrap();
    answers.finish(batch);
    (answers.of(id).tokens.clone(), answers.of(id).stats.reused_tokens)
}

#[test]
fn contexts_survive_a_restart() {
    let (model, folder) = (llama(), tempfile::tempdir().unwrap());
    let mut alone = Alone::new(&model, Overflow::Stop);
    let want = alone.answer(&long(1)).0;
    let mut first = stored(&model, folder.path(), LIMIT);
    assert_eq!(answer(&mut first, &long(1)), (want.clone(), 0));
    assert_eq!(answer(&mut first, &request(ids(300, 2), 5)).1, 0);
    assert_eq!(files(folder.path()).len(), 1, "the other context is too short");
    let mut second = stored(&model, folder.path(), LIMIT);
    assert_eq!(answer(&mut second, &long(1)), (want, LONG / BLOCK * BLOCK));
    // Prompts that share only a part, at the same time; what one reads, the others need not.
    let others = [200, 330].map(|n| {
        let mut other = long(1);
        other.prompt.truncate(n);
        other.prompt.push(7);
        other
    });
    let mut third = stored(&model, folder.path(), LIMIT);
    let mut answers = Answers::default();
    let sent = others.clone().map(|other| third.submit(other).unwrap());
    answers.finish(&mut third);
    for (other, id) in others.iter().zip(sent) {
        assert_eq!(answers.of(id).tokens, alone.answer(other).0);
        let whole = (other.prompt.len() - 1) / BLOCK * BLOCK;
        assert!(answers.of(id).stats.reused_tokens >= whole);
    }
    assert_eq!(files(folder.path()).len(), 1, "nothing new is worth storing");
    let longer = Request { prompt: ids(LONG + 64, 1)[..LONG + 50].to_vec(), ..long(1) };
    assert_eq!(answer(&mut third, &longer).0, alone.answer(&longer).0);
    assert_eq!(files(folder.path()).len(), 1, "it replaces the context that it continues");
    for batch in [&mut first, &mut second, &mut third] {
        assert!(batch.take_notes().is_empty());
        assert_eq!(batch.engine().kv_blocks(), (32, 32));
    }
}

#[test]
fn streams_go_on_while_a_context_is_read() {
    let (model, folder) = (llama(), tempfile::tempdir().unwrap());
    answer(&mut stored(&model, folder.path(), LIMIT), &long(1));
    let mut batch = stored(&model, folder.path(), LIMIT);
    let mut answers = Answers::default();
    let mut stream = request(ids(3, 9), 600);
    stream.options.ignore_eos = true;
    let stream = batch.submit(stream).unwrap();
    answers.step(&mut batch);
    let other = batch.submit(long(1)).unwrap();
    while answers.of(stream).ended.is_none() && !answers.0.contains_key(&other) {
        assert!(answers.step(&mut batch).contains(&stream));
    }
    answers.finish(&mut batch);
    assert_eq!(answers.of(other).stats.reused_tokens, LONG / BLOCK * BLOCK);
    assert_eq!(answers.of(stream).tokens.len(), 600);
}

/// A client leaves while its prompt is read; another one leaves after most of its prompt was computed.
#[test]
fn what_a_cancelled_request_has_computed_is_stored() {
    let (model, folder) = (llama(), tempfile::tempdir().unwrap());
    let mut batch = stored(&model, folder.path(), LIMIT);
    let mut answers = Answers::default();
    let id = batch.submit(long(1)).unwrap();
    while answers.0.get(&id).is_none_or(|answer| answer.tokens.is_empty()) {
        answers.step(&mut batch);
    }
    batch.cancel(id);
    answers.finish(&mut batch);
    assert_eq!(files(folder.path()).len(), 1);
    let mut batch = stored(&model, folder.path(), LIMIT);
    let id = batch.submit(long(1)).unwrap();
    answers = Answers::default();
    answers.step(&mut batch);
    batch.cancel(id);
    answers.finish(&mut batch);
    let (tokens, reused) = answer(&mut batch, &long(1));
    assert_eq!(tokens, Alone::new(&model, Overflow::Stop).answer(&long(1)).0);
    assert_eq!(reused, LONG / BLOCK * BLOCK);
}

/// Clients in a small cache, above a store whose files are damaged in many ways.
#[test]
fn damaged_files_change_no_answer() {
    let (model, folder) = (llama(), tempfile::tempdir().unwrap());
    let requests = [1, 2, 3].map(long);
    let mut alone = Alone::new(&model, Overflow::Stop);
    let want = requests.clone().map(|request| alone.answer(&request).0);
    let mut batch = stored(&model, folder.path(), LIMIT);
    requests.iter().for_each(|request| drop(answer(&mut batch, request)));
    let names = files(folder.path());
    assert_eq!(names.len(), 3);
    let good: Vec<_> = names.iter().map(|name| fs::read(name).unwrap()).collect();
    let (len, header) = (good[0].len(), 96 + 4 * 576);
    // The offset of a changed byte, or the length of what is left.
    let changed = [0, 12, 20, 48, 66, 72, 76, 90, 100, header + 5].into_iter();
    let changed = changed.chain((1..10).map(|i| header + (len - header) / 10 * i));
    let cut = [0, 50, 500, len / 2, len - 1].into_iter();
    let damages = changed.map(|at| (at, false)).chain(cut.map(|at| (at, true)));
    let mut noted = 0;
    for (at, cut) in damages {
        // Damage that is there at the start, or happens later.
        for later in [false, true] {
            names.iter().zip(&good).for_each(|(name, good)| fs::write(name, good).unwrap());
            let early = stored(&model, folder.path(), LIMIT);
            for (name, good) in names.iter().zip(&good) {
                let mut bad = good.clone();
                if cut {
                    bad.truncate(at);
                } else {
                    bad[at] ^= 0x10;
                }
                fs::write(name, bad).unwrap();
            }
            let mut batch = if later { early } else { stored(&model, folder.path(), LIMIT) };
            let mut answers = Answers::default();
            let sent = requests.clone().map(|request| batch.submit(request).unwrap());
            answers.finish(&mut batch);
            for (id, want) in sent.iter().zip(&want) {
                assert_eq!(answers.of(*id).tokens, *want);
            }
            let notes = batch.take_notes();
            assert!(notes.iter().all(|note| note.contains("the file is ignored")), "{notes:?}");
            noted += notes.len();
        }
    }
    assert!(noted > 60, "{noted}");
    // Exchanged, they are intact, but not what their names say; removed, they are just gone.
    for removed in [false, true] {
        names.iter().zip(&good).for_each(|(name, good)| fs::write(name, good).unwrap());
        let mut batch = stored(&model, folder.path(), LIMIT);
        for (i, name) in names.iter().enumerate() {
            match removed {
                true => fs::remove_file(name).unwrap(),
                false => fs::write(name, &good[(i + 1) % 3]).unwrap(),
            }
        }
        for (request, want) in requests.iter().zip(&want) {
            assert_eq!(answer(&mut batch, request), (want.clone(), 0));
        }
        assert!(batch.take_notes().is_empty());
    }
}

/// Requests that share beginnings come, leave and preempt each other, in a small cache above a small store,
/// with restarts.
#[test]
fn random_requests_across_restarts_get_the_answers_they_get_alone() {
    let (model, folder) = (llama(), tempfile::tempdir().unwrap());
    answer(&mut stored(&model, folder.path(), LIMIT), &long(1));
    let one = fs::metadata(&files(folder.path())[0]).unwrap().len();
    let (mut alone, mut random) = (Alone::new(&model, Overflow::Stop), Random(11));
    let mut reused = 0;
    for _ in 0..4 {
        let mut batch = stored(&model, folder.path(), 3 * one);
        let (mut answers, mut sent) = (Answers::default(), Vec::new());
        for i in 0..16 {
            let seed = random.below(5) as u32;
            let mut request = request(ids(100 + random.below(500), seed), 6);
            request.class = [Class::Interactive, Class::Background][random.below(2)];
            let id = batch.submit(request.clone()).unwrap();
            (0..random.below(8)).for_each(|_| drop(answers.step(&mut batch)));
            if i % 5 == 0 {
                batch.cancel(id);
            }
            sent.push((id, request));
        }
        answers.finish(&mut batch);
        for (id, request) in &sent {
            let (got, want) = (answers.of(*id), alone.answer(request).0);
            if got.ended == Some(FinishReason::Cancelled) {
                assert!(want.starts_with(&got.tokens));
            } else {
                assert_eq!(got.tokens, want);
            }
            reused += got.stats.reused_tokens;
        }
        assert!(batch.take_notes().is_empty());
        assert_eq!(batch.engine().kv_blocks(), (32, 32));
    }
    assert!(reused > 0);
}

#[test]
fn the_folder_stays_below_its_limit() {
    let (model, folder) = (llama(), tempfile::tempdir().unwrap());
    answer(&mut stored(&model, folder.path(), LIMIT), &long(1));
    let one = fs::metadata(&files(folder.path())[0]).unwrap().len();
    let mut batch = stored(&model, folder.path(), 2 * one + one / 2);
    for seed in 2..6 {
        answer(&mut batch, &long(seed));
        assert!(files(folder.path()).len() <= 2);
    }
    let mut batch = stored(&model, folder.path(), one / 2);
    assert_eq!(answer(&mut batch, &long(5)).1, LONG / BLOCK * BLOCK, "the latest one is kept");
    answer(&mut batch, &long(6));
    assert_eq!(files(folder.path()).len(), 2, "too large to store");
    assert!(batch.take_notes().is_empty());
}

/// Even a short conversation is stored, since its next turn begins with it.
#[test]
fn a_conversation_continues_after_a_restart() {
    let (model, folder) = (smollm2(), tempfile::tempdir().unwrap());
    let mut conversation =
        vec![Message::new("user", "Count from one to twenty in words. ".repeat(8))];
    let mut turn = |text: Option<String>| {
        if let Some(text) = text {
            conversation.push(Message::new("assistant", text));
            conversation.push(Message::new("user", "Go on."));
        }
        let mut batch = stored(&model, folder.path(), LIMIT);
        let mut answers = Answers::default();
        let mut next = batch.seams().request(&model, &conversation).unwrap();
        next.options = request(Vec::new(), 12).options;
        let id = batch.submit(next).unwrap();
        answers.finish(&mut batch);
        assert!(batch.take_notes().is_empty());
        (answers.of(id).text.clone(), answers.of(id).stats)
    };
    let (text, first) = turn(None);
    let (_, second) = turn(Some(text));
    assert!(
        first.prompt_tokens > BLOCK && second.reused_tokens >= first.prompt_tokens / BLOCK * BLOCK
    );
}
