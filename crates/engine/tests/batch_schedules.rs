//! Any schedule of arrivals, forks, cancellations and preemptions yields the answers of single runs.

mod common;
#[path = "common/batch.rs"]
mod harness;

use harness::*;
use nanoinfer_engine::{Class, FinishReason, Overflow, Request, RequestId, Sampling};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Submit {
        n: usize,
        family: u32,
        max_tokens: usize,
        sampling: Option<u64>,
        class: Class,
        key: u64,
    },
    /// Continues a request from what it has by now, in a sequence of its own: in the same way if there is
    /// no other `sampling`.
    Fork {
        which: usize,
        sampling: Option<u64>,
    },
    Cancel {
        which: usize,
    },
    Steps {
        n: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let class = prop_oneof![
        1 => Just(Class::Interactive),
        2 => Just(Class::Normal),
        1 => Just(Class::Background),
    ];
    let submit = (1..250usize, 0..4u32, 0..90usize, any::<Option<u64>>(), class, 0..3u64);
    prop_oneof![
        4 => submit.prop_map(|(n, family, max_tokens, sampling, class, key)| {
            Op::Submit { n, family, max_tokens, sampling, class, key }
        }),
        2 => any::<(usize, Option<u64>)>()
            .prop_map(|(which, sampling)| Op::Fork { which, sampling }),
        1 => any::<usize>().prop_map(|which| Op::Cancel { which }),
        4 => (1..12usize).prop_map(|n| Op::Steps { n }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_yields_the_answers_of_single_runs(
        ops in proptest::collection::vec(op(), 1..40),
        sequences in 1..7usize,
        blocks in 5..16usize,
        overflow in proptest::sample::select(&[Overflow::Stop, Overflow::Stop, Overflow::Slide][..]),
        recurrent in proptest::bool::weighted(0.3),
    ) {
        let model = if recurrent { hybrid() } else { llama() };
        // A sliding sequence needs room for a pass beside its context.
        let blocks = if overflow == Overflow::Slide { blocks.max(7) } else { blocks };
        let mut batch = batch_of(engine(&model, sequences, blocks, overflow));
        let (mut alone, mut answers) = (Alone::new(&model, overflow), Answers::default());
        let mut sent: Vec<(RequestId, Request, bool)> = Vec::new();
        for op in ops {
            match op {
                Op::Submit { n, family, max_tokens, sampling, class, key } => {
                    let mut request = Request { class, key, ..request(ids(n, family), max_tokens) };
                    request.options.sampling = sampling.map_or(Sampling::default(), sampled);
                    if let Ok(id) = batch.submit(request.clone()) {
                        sent.push((id, request, false));
                    }
                }
                Op::Fork { which, sampling } if !sent.is_empty() => {
                    let (id, from, _) = &sent[which % sent.len()];
                    let answer = answers.0.get(id).cloned().unwrap_or_default();
                    let (mut fork, so_far) = (from.clone(), answer.tokens.len());
                    fork.prompt.extend(answer.tokens.iter().map(|(id, _)| id));
                    fork.options.max_tokens = from.options.max_tokens.map(|max| max - so_far);
                    match sampling {
                        Some(seed) => fork.options.sampling = sampled(seed),
                        None if answer.ended.is_none() => {
                            let (whole, rest) = (alone.answer(from), alone.answer(&fork));
                            prop_assert_eq!((&whole.0[so_far..], whole.1), (&rest.0[..], rest.1));
                        }
                        None => {}
                    }
                    if let Ok(id) = batch.submit(fork.clone()) {
                        sent.push((id, fork, false));
                    }
                }
                Op::Cancel { which } if !sent.is_empty() => {
                    let at = which % sent.len();
                    batch.cancel(sent[at].0);
                    sent[at].2 = true;
                }
                Op::Fork { .. } | Op::Cancel { .. } => {}
                Op::Steps { n } => (0..n).for_each(|_| drop(answers.step(&mut batch))),
            }
        }
        answers.finish(&mut batch);
        for (id, request, cancelled) in &sent {
            let (answer, (tokens, ended)) = (answers.of(*id), alone.answer(request));
            if *cancelled && answer.ended == Some(FinishReason::Cancelled) {
                prop_assert!(tokens.starts_with(&answer.tokens), "{:?}", id);
            } else if answer.ended == Some(FinishReason::Context) {
                prop_assert!(tokens.starts_with(&answer.tokens), "{:?}", id);
            } else {
                prop_assert_eq!((&answer.tokens, answer.ended), (&tokens, Some(ended)));
            }
        }
        let (all, unused) = batch.engine().kv_blocks();
        prop_assert_eq!(all, unused);
    }
}
