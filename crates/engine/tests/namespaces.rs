//! Namespaces: what is computed in one is not found from another, in memory, on disk or while it runs, and the
//! tokens are the same.

mod common;
#[path = "common/batch.rs"]
mod harness;

use std::sync::Arc;

use harness::*;
use nanoinfer_engine::{
    Batch, Engine, EngineOptions, Model, Namespace, Overflow, PrefixStore, Request, Stats,
};
use nanoinfer_format::Quant;
use nanoinfer_hub::{ConvertOptions, ModelRef, Pip, Store};

const ANN: Namespace = Namespace(1);
const BOB: Namespace = Namespace(2);
/// Worth storing; in whole blocks and a part of one.
const LONG: usize = 580;
const WHOLE: usize = LONG / BLOCK * BLOCK;

fn prompt(namespace: Namespace) -> Request {
    Request { namespace, ..request(ids(LONG, 1), 8) }
}

/// Answers requests at the same time.
fn answer(batch: &mut Batch, requests: &[Request]) -> Vec<(Vec<Token>, Stats)> {
    let mut answers = Answers::default();
    let ids: Vec<_> = requests.iter().map(|r| batch.submit(r.clone()).unwrap()).collect();
    answers.finish(batch);
    let answer = |id| (answers.of(id).tokens.clone(), answers.of(id).stats);
    ids.into_iter().map(answer).collect()
}

/// Answers one request; returns the number of reused tokens.
fn reused(batch: &mut Batch, request: &Request, want: &[Token]) -> usize {
    let (tokens, stats) = answer(batch, std::slice::from_ref(request)).remove(0);
    assert_eq!(tokens, want);
    stats.reused_tokens
}

#[test]
fn a_prompt_is_reused_only_in_its_namespace() {
    for model in [llama(), hybrid()] {
        let want = Alone::new(&model, Overflow::Stop).answer(&prompt(ANN)).0;
        let mut batch = batch(&model, 4, 64);
        let mut reused = |namespace| reused(&mut batch, &prompt(namespace), &want);
        assert_eq!([ANN, BOB].map(&mut reused), [0, 0]);
        assert_eq!([ANN, BOB].map(&mut reused), [WHOLE, WHOLE]);
        assert_eq!(reused(Namespace::COMMON), 0);
        assert_eq!(reused(Namespace(3)), WHOLE, "what is common is everybody's");
    }
}

#[test]
fn differences_to_contexts_of_other_namespaces_are_not_reported() {
    let mut batch = batch(&llama(), 4, 64);
    answer(&mut batch, &[prompt(ANN)]);
    let mut differs = |namespace| {
        let mut request = prompt(namespace);
        request.prompt[100] = (request.prompt[100] + 1) % 320;
        answer(&mut batch, &[request]).remove(0).1.differs.map(|difference| difference.at)
    };
    assert_eq!(differs(BOB), None);
    assert_eq!(differs(ANN), Some(100));
}

#[test]
fn equal_prompts_follow_each_other_only_in_their_namespace() {
    let model = llama();
    let want = Alone::new(&model, Overflow::Stop).answer(&prompt(ANN)).0;
    for (namespaces, common) in [([ANN, ANN], LONG - 1), ([ANN, BOB], 0)] {
        let mut batch = batch(&model, 4, 64);
        let answers = answer(&mut batch, &namespaces.map(prompt));
        assert!(answers.iter().all(|(tokens, _)| *tokens == want));
        let reused: Vec<_> = answers.iter().map(|(_, stats)| stats.reused_tokens).collect();
        assert_eq!(reused, [0, common], "{namespaces:?}");
    }
}

/// Blocks of other namespaces take room until they are evicted.
#[test]
fn namespaces_share_a_small_cache() {
    let model = llama();
    let mut alone = Alone::new(&model, Overflow::Stop);
    let requests: Vec<Request> = (0..12)
        .map(|i| Request {
            namespace: Namespace(i % 3),
            ..request(ids(100 + 40 * i as usize, (i % 2) as u32), 60)
        })
        .collect();
    let mut batch = batch(&model, 4, 16);
    for _ in 0..2 {
        let mut evicted = false;
        for (request, (tokens, stats)) in requests.iter().zip(answer(&mut batch, &requests)) {
            assert_eq!(tokens, alone.answer(request).0);
            evicted |= stats.reused_tokens + 1 < request.prompt.len();
        }
        assert!(evicted, "too much room: this proves nothing");
    }
    assert_eq!(batch.engine().kv_blocks(), (16, 16));
}

#[test]
fn stored_contexts_are_read_only_in_their_namespace() {
    for model in [llama(), hybrid()] {
        let folder = tempfile::tempdir().unwrap();
        let want = Alone::new(&model, Overflow::Stop).answer(&prompt(ANN)).0;
        let start = || {
            let mut batch = batch(&model, 4, 64);
            batch.set_store(Some(PrefixStore::open(folder.path(), 1 << 30).unwrap()));
            batch
        };
        let in_turn = |namespaces: &[Namespace]| {
            let mut batch = start();
            let all = namespaces.iter().map(|&ns| reused(&mut batch, &prompt(ns), &want)).collect();
            assert!(batch.take_notes().is_empty());
            all
        };
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        let first: Vec<usize> = in_turn(&[Namespace::COMMON]);
        assert_eq!((first, files()), (vec![0], 1));
        // Those of a server without keys are nobody's once there are keys.
        assert_eq!((in_turn(&[ANN]), files()), (vec![0], 2));
        assert_eq!((in_turn(&[ANN, BOB]), files()), (vec![WHOLE, 0], 3));
        assert_eq!((in_turn(&[BOB, ANN, BOB]), files()), (vec![WHOLE; 3], 3));
        assert_eq!((in_turn(&[Namespace::COMMON]), files()), (vec![WHOLE], 3));
    }
}

#[test]
fn a_baked_prompt_is_in_the_cache_once_for_all_namespaces() {
    let (folder, text) = (tempfile::tempdir().unwrap(), "You are a terse assistant. ".repeat(24));
    let out = folder.path().join("baked.nano");
    let mut options = ConvertOptions::new(Quant::Q8);
    options.prompt = Some(text.trim().to_owned());
    let (store, target) = (Store::open().unwrap(), ModelRef::parse("smollm2").unwrap());
    store.convert(&target, &out, &options, Some(&Pip), &mut |_| {}).unwrap();
    let model = Arc::new(Model::open(&out).unwrap());
    let options = EngineOptions {
        threads: Some(2),
        ctx: Some(CTX),
        sequences: 2,
        logits_rows: 16,
        ..EngineOptions::default()
    };
    let mut batch = batch_of(Engine::new(Arc::clone(&model), &options).unwrap());
    let messages = [("system", text.trim()), ("user", "Hi")]
        .map(|(role, text)| nanoinfer_engine::Message::new(role, text));
    let requests = [ANN, BOB].map(|namespace| Request {
        namespace,
        ..request(model.encode_chat(&messages).unwrap(), 40)
    });
    let ids = requests.map(|request| batch.submit(request).unwrap());
    let mut answers = Answers::default();
    while batch.load().decoding < 2 {
        answers.step(&mut batch);
    }
    let (blocks, free) = batch.engine().kv_blocks();
    answers.finish(&mut batch);
    let stats = ids.map(|id| answers.of(id).stats);
    let shared = stats[0].reused_tokens / BLOCK;
    assert!(shared > 1, "{stats:?}");
    assert_eq!(stats.map(|s| s.reused_tokens), [stats[0].reused_tokens; 2]);
    let both = 2 * (stats[0].prompt_tokens + 1).div_ceil(BLOCK);
    assert!(blocks - free <= both - shared, "{blocks} {free}: not shared");
    assert_eq!(answers.of(ids[0]).tokens, answers.of(ids[1]).tokens);
}
