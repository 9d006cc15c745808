//! A batch answers each request as if it were alone: in any company, after preemptions, beside
//! cancellations.

mod common;
#[path = "common/batch.rs"]
mod harness;

use harness::*;
use nanoinfer_engine::{
    Batch, BatchOptions, Class, Difference, Drafting, Error, Event, FinishReason, Overflow,
    Request, Sampling,
};

#[test]
fn requests_of_different_lengths_get_the_answers_they_get_alone() {
    let model = llama();
    let (mut batch, mut answers) = (batch(&model, 8, 64), Answers::default());
    let mut alone = Alone::new(&model, Overflow::Stop);
    let requests: Vec<Request> = (0..24)
        .map(|i| {
            let mut request = request(ids(1 + 37 * i % 250, i as u32 % 5), 1 + 11 * i % 40);
            request.options.sampling =
                if i % 2 == 0 { sampled(i as u64) } else { Sampling::default() };
            request.constraint = (i % 3 == 0).then(|| Box::new(Rising(0)) as _);
            request
        })
        .collect();
    let blocks = batch.engine().kv_blocks();
    let mut sent = Vec::new();
    for request in &requests {
        sent.push(batch.submit(request.clone()).unwrap());
        answers.step(&mut batch); // they arrive while others run
    }
    answers.finish(&mut batch);
    for (request, id) in requests.iter().zip(sent) {
        let answer = answers.of(id);
        let (tokens, ended) = alone.answer(request);
        assert_eq!((&answer.tokens, answer.ended), (&tokens, Some(ended)));
        if request.constraint.is_some() {
            let ids = [0].into_iter().chain(tokens.iter().map(|t| t.0));
            let ids: Vec<u32> = ids.collect();
            assert!(ids.windows(2).all(|w| w[0] < w[1] || w[0].is_multiple_of(5)), "{ids:?}");
            let last = ids[ids.len() - 1];
            let complete = last == 319 || last.is_multiple_of(7) && ids.len() > 1;
            assert!((ended == FinishReason::Stop) <= complete);
        }
        assert_eq!(answer.stats.generated, tokens.len());
        assert_eq!(answer.stats.prompt_tokens, request.prompt.len());
    }
    assert_eq!(batch.engine().kv_blocks(), blocks, "all blocks are free");
}

/// 64 requests with a marker each in a cache for eight of them: the same text as alone means that no
/// marker crosses over.
#[test]
fn many_requests_in_a_small_cache_do_not_mix() {
    let model = llama();
    let (mut batch, mut answers) = (batch(&model, 64, 16), Answers::default());
    let mut alone = Alone::new(&model, Overflow::Stop);
    let marked = |i: u32| {
        let mut prompt = ids(90, 3);
        prompt.splice(70..74, [i, 319 - i, i, i]);
        let mut request = request(prompt, 60);
        request.options.sampling = sampled(7);
        request
    };
    let sent: Vec<_> = (0..64).map(|i| batch.submit(marked(i)).unwrap()).collect();
    answers.finish(&mut batch);
    for (i, id) in (0..).zip(sent) {
        assert_eq!(answers.of(id).tokens, alone.answer(&marked(i)).0, "request {i}");
    }
    assert_eq!(batch.engine().kv_blocks(), (16, 16));
}

#[test]
fn a_preempted_request_continues_with_the_same_tokens() {
    let model = llama();
    let (mut batch, mut answers) = (batch(&model, 4, 12), Answers::default());
    let mut alone = Alone::new(&model, Overflow::Stop);
    // Each is admitted for 5 blocks, but they grow to 10.
    let requests: Vec<Request> = (0..4)
        .map(|i| {
            let mut request = request(ids(10, i), 600);
            request.options.ignore_eos = true;
            request.options.sampling = sampled(u64::from(i));
            request
        })
        .collect();
    let background = Request { class: Class::Background, ..requests[3].clone() };
    let low = batch.submit(background).unwrap();
    (0..10).for_each(|_| drop(answers.step(&mut batch)));
    assert_eq!(batch.load().decoding, 1);
    let sent: Vec<_> = requests[..3].iter().map(|r| batch.submit(r.clone()).unwrap()).collect();
    answers.step(&mut batch);
    let load = batch.load();
    assert_eq!((load.preempted, load.waiting), (1, 1), "more urgent requests take its place");
    answers.finish(&mut batch);
    assert!(batch.load().preemptions > 2, "{:?}", batch.load());
    for (request, id) in requests.iter().zip(sent.into_iter().chain([low])) {
        assert_eq!(answers.of(id).tokens, alone.answer(request).0);
    }
}

#[test]
fn an_answer_that_outgrows_the_whole_cache_ends_with_context() {
    let model = llama();
    let (mut batch, mut answers) = (batch(&model, 2, 2), Answers::default());
    let mut long = request(ids(100, 1), 200);
    long.options.ignore_eos = true;
    let id = batch.submit(long).unwrap();
    answers.finish(&mut batch);
    let answer = answers.of(id);
    assert_eq!((answer.ended, answer.tokens.len()), (Some(FinishReason::Context), 29));
    let error = batch.submit(request(ids(129, 1), 1)).unwrap_err();
    assert!(matches!(error, Error::Prompt { tokens: 129, ctx: 128, .. }), "{error}");
}

/// A request that waits does not make what it could reuse more recent: that is kept or evicted as if the
/// request were not there.
#[test]
fn waiting_for_room_leaves_the_cache_as_it_is() {
    let model = llama();
    let (mut batch, mut answers) = (batch(&model, 4, 12), Answers::default());
    let (older, newer) = (ids(130, 1), ids(130, 2));
    for prompt in [&older, &newer] {
        batch.submit(request(prompt.clone(), 1)).unwrap();
        answers.finish(&mut batch);
    }
    let mut long = request(ids(5, 3), 600);
    long.options.ignore_eos = true;
    let long = batch.submit(long).unwrap();
    answers.step(&mut batch);
    let large = batch.submit(request([&older[..128], &ids(300, 4)].concat(), 300)).unwrap();
    while answers.of(long).ended.is_none() {
        answers.step(&mut batch);
        assert!(!answers.0.contains_key(&large), "it does not fit");
    }
    batch.cancel(large);
    let again = [newer, older].map(|prompt| {
        let id = batch.submit(request(prompt, 1)).unwrap();
        answers.finish(&mut batch);
        answers.of(id).stats.reused_tokens
    });
    assert_eq!(again, [128, 0]);
}

#[test]
fn a_paused_request_waits_and_makes_room() {
    let model = llama();
    let (mut batch, mut answers) = (batch(&model, 4, 8), Answers::default());
    let mut alone = Alone::new(&model, Overflow::Stop);
    let requests = [1, 2].map(|seed| request(ids(200, seed), 100));
    let slow = batch.submit(requests[0].clone()).unwrap();
    (0..5).for_each(|_| drop(answers.step(&mut batch)));
    batch.pause(slow, true);
    let had = answers.of(slow).tokens.len();
    let other = batch.submit(requests[1].clone()).unwrap();
    while answers.0.get(&other).is_none_or(|a| a.ended.is_none()) {
        answers.step(&mut batch);
    }
    assert_eq!(answers.of(slow).tokens.len(), had);
    assert_eq!(batch.load().preempted, 1, "both do not fit");
    assert!(answers.step(&mut batch).is_empty() && !batch.is_idle());
    batch.pause(slow, false);
    answers.finish(&mut batch);
    for (request, id) in requests.iter().zip([slow, other]) {
        assert_eq!(answers.of(id).tokens, alone.answer(request).0);
    }
}

#[test]
fn requests_that_can_never_run_are_rejected() {
    let model = llama();
    let mut batch = Batch::new(
        engine(&model, 1, 8, Overflow::Stop),
        BatchOptions { queue: 2, ..BatchOptions::default() },
    );
    assert!(matches!(batch.submit(request(vec![], 1)), Err(Error::EmptyPrompt)));
    assert!(matches!(batch.submit(request(vec![320], 1)), Err(Error::Token { token: 320, .. })));
    assert!(matches!(batch.submit(request(ids(513, 1), 1)), Err(Error::Prompt { .. })));
    let sent = [1, 2].map(|n| batch.submit(request(ids(n, 1), 3)).unwrap());
    assert!(matches!(batch.submit(request(ids(3, 1), 1)), Err(Error::QueueFull { waiting: 2 })));
    let mut answers = Answers::default();
    answers.step(&mut batch);
    batch.submit(request(ids(3, 1), 0)).unwrap();
    answers.finish(&mut batch);
    assert!(sent.iter().all(|id| answers.of(*id).tokens.len() == 3));
    assert_eq!(answers.0.len(), 3);
}

/// A key with too many requests is rejected; another one is not. Requests that could run at once do not
/// count.
#[test]
fn the_queue_of_a_key_is_limited() {
    let model = llama();
    let options = BatchOptions { queue_per_key: 2, queue: 6, ..BatchOptions::default() };
    let mut batch = Batch::new(engine(&model, 2, 16, Overflow::Stop), options);
    let submit = |batch: &mut Batch, key, n| -> Result<(), Error> {
        (0..n).try_for_each(|i| batch.submit(Request { key, ..request(ids(5, i), 20) }).map(|_| ()))
    };
    submit(&mut batch, 1, 4).unwrap();
    let error = submit(&mut batch, 1, 1).unwrap_err();
    assert!(matches!(error, Error::KeyQueueFull { waiting: 4 }), "{error}");
    batch.step().unwrap();
    let error = submit(&mut batch, 1, 1).unwrap_err();
    assert!(matches!(error, Error::KeyQueueFull { waiting: 2 }), "two run, two wait: {error}");
    submit(&mut batch, 2, 2).unwrap();
    submit(&mut batch, 3, 2).unwrap();
    assert!(matches!(submit(&mut batch, 4, 1), Err(Error::QueueFull { waiting: 6 })));
    let mut answers = Answers::default();
    answers.finish(&mut batch);
    assert_eq!(answers.0.len(), 8, "those that were rejected did not run");
}

/// A client leaves: what it had is free after a step, what it computed is found again,
/// and a request that waited never runs.
#[test]
fn cancelling_frees_the_cache_and_keeps_what_was_computed() {
    let model = llama();
    let (mut batch, mut answers) = (batch(&model, 2, 16), Answers::default());
    let stream = batch.submit(request(ids(5, 9), 250)).unwrap();
    (0..3).for_each(|_| drop(answers.step(&mut batch)));
    let unused = batch.engine().kv_blocks().1;
    let long = request(ids(300, 2), 10);
    let (first, queued) =
        (batch.submit(long.clone()).unwrap(), batch.submit(request(ids(20, 4), 5)).unwrap());
    let mut done = 0;
    while done < 150 {
        for event in batch.step().unwrap() {
            if let (true, Ok(Event::Prefill { done: now, .. })) = (event.id == first, event.event) {
                done = now;
            }
        }
    }
    let processed = batch.engine().processed();
    batch.cancel(first);
    batch.canceller(queued).unwrap().cancel();
    answers.step(&mut batch);
    assert_eq!(batch.engine().processed(), processed + 1, "only the stream goes on");
    assert_eq!(batch.engine().kv_blocks().1, unused);
    for id in [first, queued] {
        assert_eq!(answers.of(id).ended, Some(FinishReason::Cancelled));
        assert!(batch.canceller(id).is_none());
    }
    let again = batch.submit(long).unwrap();
    answers.finish(&mut batch);
    assert!(answers.of(again).stats.reused_tokens >= done / BLOCK * BLOCK);
    assert_eq!(answers.of(stream).stats.generated, 250);
}

#[test]
fn the_reply_says_where_a_prompt_differs_from_a_cached_one() {
    let model = llama();
    let (mut batch, mut answers) = (batch(&model, 2, 32), Answers::default());
    let prompt = ids(200, 1);
    let mut answer = |prompt: &[u32]| {
        let id = batch.submit(request(prompt.to_vec(), 2)).unwrap();
        answers.finish(&mut batch);
        answers.of(id).stats
    };
    assert_eq!(answer(&prompt).differs, None);
    let mut changed = prompt.clone();
    changed[150] = (prompt[150] + 1) % 320;
    let stats = answer(&changed);
    let difference = Difference { at: 150, cached: prompt[150], token: changed[150] };
    assert_eq!((stats.differs, stats.reused_tokens), (Some(difference), 128));
    assert_eq!(answer(&[&prompt[..], &[7; 30]].concat()).differs, None, "it only goes on");
}

#[test]
fn the_second_of_two_equal_prompts_follows_the_first() {
    let model = llama();
    let mut alone = Alone::new(&model, Overflow::Stop);
    for cancel in [false, true] {
        let (mut batch, mut answers) = (batch(&model, 4, 32), Answers::default());
        let stream = batch.submit(request(ids(3, 9), 100)).unwrap();
        answers.step(&mut batch);
        let requests = [300, 280].map(|n| request(ids(n, 2), 5));
        let sent = requests.clone().map(|request| batch.submit(request).unwrap());
        answers.step(&mut batch);
        answers.step(&mut batch);
        if cancel {
            batch.cancel(sent[0]);
        }
        answers.finish(&mut batch);
        for (request, id) in requests.iter().zip(sent).skip(usize::from(cancel)) {
            assert_eq!(answers.of(id).tokens, alone.answer(request).0);
        }
        // All prompts once, and the answers but for the last token of each.
        let answered = answers.0.values().map(|a| a.tokens.len().max(1) - 1).sum::<usize>();
        let again = if cancel { BLOCK } else { 0 };
        let most = 3 + 300 + 1 + again + answered;
        assert!(batch.engine().processed() <= most as u64, "{}", batch.engine().processed());
        assert_eq!(answers.of(stream).tokens.len(), 100);
    }
}

/// While another prompt is read, a stream gets a token from every pass, and every pass fits into its time.
/// Alone, a prompt gets full passes.
#[test]
fn a_stream_does_not_wait_for_the_prompt_of_another() {
    let model = llama();
    let (mut batch, mut answers) = (batch(&model, 4, 32), Answers::default());
    let stream = batch.submit(request(ids(270, 1), 40)).unwrap();
    answers.step(&mut batch);
    assert_eq!(batch.load().rows, 256);
    (0..5).for_each(|_| drop(answers.step(&mut batch)));
    let other = batch.submit(request(ids(310, 2), 2)).unwrap();
    let (mut passes, mut rows) = (0, 0);
    while answers.0.get(&other).is_none_or(|a| a.tokens.is_empty()) {
        assert!(answers.step(&mut batch).contains(&stream));
        let load = batch.load().rows;
        assert!(COSTS.pass + COSTS.row * load as f64 <= BatchOptions::default().pass_ms);
        (passes, rows) = (passes + 1, rows + load);
    }
    assert_eq!(rows, 310 + passes);
    assert!(passes <= 7, "{passes} passes of {rows} rows: the time is used");
}

/// A key with 200 requests does not delay the only request of another.
#[test]
fn keys_share_the_time() {
    let model = llama();
    let (mut batch, mut answers) = (batch(&model, 8, 24), Answers::default());
    for i in 0..200 {
        batch.submit(Request { key: 1, ..request(ids(100, i), 100) }).unwrap();
    }
    (0..60).for_each(|_| drop(answers.step(&mut batch)));
    let single = batch.submit(Request { key: 2, ..request(ids(100, 300), 5) }).unwrap();
    let passes = (0..).take_while(|_| !answers.step(&mut batch).contains(&single)).count();
    // Two passes, and twice its own prompt in parts that leave room for eight answers.
    assert!(passes <= 2 + 2 * 3, "{passes} passes");
    answers.finish(&mut batch);
    assert_eq!(answers.0.values().filter(|a| a.ended.is_some()).count(), 201);
}

#[test]
fn background_requests_run_in_what_is_left_but_do_run() {
    let model = llama();
    let (mut batch, mut answers) = (batch(&model, 1, 8), Answers::default());
    let background = Request { class: Class::Background, ..request(ids(10, 1), 3) };
    let urgent = |seed| Request { class: Class::Interactive, ..request(ids(10, seed), 3) };
    let first = batch.submit(background).unwrap();
    let mut steps = 0;
    while !answers.0.contains_key(&first) {
        if batch.load().waiting < 2 {
            batch.submit(urgent(steps)).unwrap();
        }
        answers.step(&mut batch);
        steps += 1;
    }
    // Two classes of aging, at 33 ms a pass.
    assert!((500..800).contains(&steps), "{steps}");
    answers.finish(&mut batch);
}

/// Texts that are easy to predict: later requests draft more from the beginning, so they need fewer passes.
#[test]
fn a_new_answer_knows_how_drafts_went_before() {
    let model = llama();
    let (mut batch, mut alone) = (batch(&model, 4, 40), Alone::new(&model, Overflow::Stop));
    let mut wave = |token: u32| -> (usize, usize) {
        let (mut answers, mut passes) = (Answers::default(), 0);
        let requests: Vec<Request> = (0..4)
            .map(|i| {
                let mut request = request(ids(10 + i, token + i as u32), 10);
                request.options.logit_bias = vec![(token, 1000.0)];
                request.options.drafting = Drafting::default();
                request
            })
            .collect();
        let sent: Vec<_> = requests.iter().map(|r| batch.submit(r.clone()).unwrap()).collect();
        while !batch.is_idle() {
            answers.step(&mut batch);
            passes += 1;
        }
        for (request, id) in requests.iter().zip(&sent) {
            assert_eq!(answers.of(*id).tokens, alone.answer(request).0);
        }
        let drafted = sent.iter().map(|id| answers.of(*id).stats.drafts.lookup.drafted);
        (drafted.sum(), passes)
    };
    let (first, second) = (wave(100), wave(200));
    assert!(second.0 > first.0 && second.1 < first.1, "{first:?} {second:?}");
}

#[test]
fn answers_in_company_are_drafted_from_their_context() {
    let model = llama();
    let mut alone = Alone::new(&model, Overflow::Stop);
    for n in [2, 8] {
        let (mut batch, mut answers) = (batch(&model, 8, 80), Answers::default());
        let requests: Vec<Request> = (0..n)
            .map(|i| {
                let mut request = request(ids(16, i).repeat(4), 200);
                request.options.drafting = Drafting::default();
                request
            })
            .collect();
        let sent: Vec<_> = requests.iter().map(|r| batch.submit(r.clone()).unwrap()).collect();
        let mut passes = 0;
        while !batch.is_idle() {
            answers.step(&mut batch);
            passes += 1;
        }
        let mut accepted = 0;
        for (request, id) in requests.iter().zip(sent) {
            assert_eq!(answers.of(id).tokens, alone.answer(request).0);
            accepted += answers.of(id).stats.drafts.lookup.accepted;
        }
        assert!(accepted > 0 && passes < 200, "{accepted} accepted in {passes} passes");
    }
}
