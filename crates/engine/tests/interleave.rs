//! Sequences that share, fork, roll back and slide have the same logits as a sequence that does none of
//! these.

mod common;

use common::{data, model};
use nanoinfer_engine::{
    BatchToken, Engine, EngineOptions, GenerateOptions, KvType, Overflow, SeqId, Session,
};
use nanoinfer_format::Quant;
use proptest::prelude::*;

const MODELS: [&str; 2] = ["tiny/llama-gqa", "tiny/mistral-swa"];

fn options(overflow: Overflow, ctx: usize, kv: KvType, sequences: usize) -> EngineOptions {
    EngineOptions {
        threads: Some(1),
        ctx: Some(ctx),
        kv: Some(kv),
        overflow,
        sequences,
        chunk: 70,
        ..EngineOptions::default()
    }
}

/// Appends tokens in passes of at most `chunk`; returns the bits of the logits after the last token.
fn extend(engine: &mut Engine, seq: SeqId, tokens: &[u32], chunk: usize) -> Vec<u32> {
    let mut pass = None;
    for (i, part) in tokens.chunks(chunk).enumerate() {
        let last = (i + 1) * chunk >= tokens.len();
        let item = |(j, &token)| BatchToken { seq, token, logits: last && j + 1 == part.len() };
        let batch: Vec<_> = part.iter().enumerate().map(item).collect();
        pass = Some(engine.forward(&batch).unwrap());
    }
    engine.logits(pass.unwrap(), 0).unwrap().iter().map(|x| x.to_bits()).collect()
}

/// An operation on one of several sequences; numbers are reduced to the valid range.
#[derive(Clone, Debug)]
enum Op {
    Extend {
        n: usize,
        chunk: usize,
        seed: u32,
    },
    /// Rejected drafts: written, then rolled back.
    Reject {
        n: usize,
    },
    Rollback {
        n: usize,
    },
    Fork,
    Drop,
    /// Closes a conversation and resumes it from the cache.
    Resume,
    /// Opens a sequence with a prefix of another sequence.
    Share {
        n: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (1..150usize, 1..=70usize, any::<u32>())
            .prop_map(|(n, chunk, seed)| Op::Extend { n, chunk, seed }),
        2 => (1..16usize).prop_map(|n| Op::Reject { n }),
        2 => (0..100usize).prop_map(|n| Op::Rollback { n }),
        1 => Just(Op::Fork),
        1 => Just(Op::Drop),
        1 => Just(Op::Resume),
        1 => any::<usize>().prop_map(|n| Op::Share { n }),
    ]
}

struct Sequences {
    engine: Engine,
    fresh: Engine,
    pinned: usize,
    open: Vec<(SeqId, Vec<u32>)>,
}

impl Sequences {
    /// Applies an operation to the sequence `which`.
    fn apply(&mut self, which: usize, op: &Op) {
        let most = 4;
        if self.open.is_empty() {
            let seq = self.engine.open().unwrap();
            self.engine.pin(seq, self.pinned).unwrap();
            self.open.push((seq, Vec::new()));
        }
        let i = which % self.open.len();
        let seq = self.open[i].0;
        let len = self.open[i].1.len();
        match *op {
            Op::Extend { n, chunk, seed } => {
                let room = match self.engine.overflow() {
                    Overflow::Stop => self.engine.ctx() - len,
                    Overflow::Slide => n,
                };
                let token = |i| (seed.wrapping_mul(i) >> 7) % 320;
                let tokens: Vec<u32> = (1..=n.min(room) as u32).map(token).collect();
                if tokens.is_empty() {
                    return;
                }
                let logits = extend(&mut self.engine, seq, &tokens, chunk);
                self.open[i].1.extend(tokens);
                let again = self.fresh.open().unwrap();
                self.fresh.pin(again, self.pinned).unwrap();
                let want = extend(&mut self.fresh, again, &self.open[i].1, 61);
                self.fresh.close(again).unwrap();
                assert_eq!(logits, want, "{} tokens", self.open[i].1.len());
            }
            Op::Reject { n } => {
                let room = match self.engine.overflow() {
                    Overflow::Stop => self.engine.ctx() - len,
                    Overflow::Slide => n,
                };
                if n.min(room) > 0 {
                    extend(&mut self.engine, seq, &vec![7; n.min(room)], 70);
                    let kept = self.engine.truncate(seq, len).unwrap();
                    assert_eq!(kept, len, "a draft can be rolled back");
                }
            }
            Op::Rollback { n } => {
                let kept = self.engine.truncate(seq, len.saturating_sub(n)).unwrap();
                assert!(kept <= len.saturating_sub(n));
                self.open[i].1.truncate(kept);
            }
            Op::Fork if self.open.len() < most => {
                let fork = self.engine.fork(seq).unwrap();
                let tokens = self.open[i].1.clone();
                self.open.push((fork, tokens));
            }
            Op::Drop => {
                self.engine.close(seq).unwrap();
                self.open.swap_remove(i);
            }
            Op::Resume => {
                self.engine.close(seq).unwrap();
                let again = self.engine.open().unwrap();
                self.engine.pin(again, self.pinned).unwrap();
                let kept = self.engine.share(again, &self.open[i].1).unwrap();
                self.open[i].0 = again;
                self.open[i].1.truncate(kept);
            }
            Op::Share { n } if self.open.len() < most => {
                let prompt = &self.open[i].1[..n % (len + 1)];
                let shared = self.engine.open().unwrap();
                self.engine.pin(shared, self.pinned).unwrap();
                let kept = self.engine.share(shared, prompt).unwrap();
                if self.engine.overflow() == Overflow::Stop {
                    assert_eq!(kept, prompt.len(), "the whole match, exact to the token");
                }
                let prompt = prompt[..kept].to_vec();
                self.open.push((shared, prompt));
            }
            Op::Fork | Op::Share { .. } => {}
        }
        let (seq, tokens) = self.open.get(i).cloned().unzip();
        assert_eq!(seq.map(|seq| self.engine.len(seq).unwrap()), tokens.map(|t| t.len()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_matches_a_replay(
        ops in proptest::collection::vec((any::<usize>(), op()), 1..40),
        name in proptest::sample::select(&MODELS[..]),
        (ctx, pinned) in proptest::sample::select(&[(128, 1), (200, 64), (320, 128), (640, 300)][..]),
        overflow in proptest::sample::select(&[Overflow::Stop, Overflow::Slide, Overflow::Slide][..]),
        kv in proptest::sample::select(&KvType::ALL[..]),
    ) {
        let engine = |sequences| {
            let options = options(overflow, ctx, kv, sequences);
            Engine::new(model(&data(name), Quant::Q8), &options).unwrap()
        };
        let mut all = Sequences { engine: engine(4), fresh: engine(1), pinned, open: Vec::new() };
        for (which, op) in &ops {
            all.apply(*which, op);
        }
    }
}

#[test]
fn a_context_that_has_not_slid_matches_one_that_cannot() {
    let tokens: Vec<u32> = (0..256).map(|i| i * 37 % 320).collect();
    let engine = |overflow| {
        let options = options(overflow, 256, KvType::Q8, 1);
        Engine::new(model(&data(MODELS[0]), Quant::Q8), &options).unwrap()
    };
    let (mut stop, mut slide) = (engine(Overflow::Stop), engine(Overflow::Slide));
    let (a, b) = (stop.open().unwrap(), slide.open().unwrap());
    let logits = extend(&mut stop, a, &tokens, 70);
    assert_eq!(logits, extend(&mut slide, b, &tokens, 33));
    assert_eq!(slide.evicted(b).unwrap(), 0);
    assert!(stop.forward(&[BatchToken { seq: a, token: 1, logits: true }]).is_err());
    extend(&mut slide, b, &[1], 1);
    assert_eq!(slide.evicted(b).unwrap(), 64);
}

/// Compares a slid context with one that never contained the evicted blocks: pinned keys must come
/// directly before recent keys.
#[test]
fn pinned_positions_are_adjacent_to_recent_ones_after_a_slide() {
    // In a model with one layer, keys and values depend only on token and position. As RoPE is relative,
    // a slid context must then equal one without the evicted tokens, up to rounding.
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("one.nano");
    let all = model(&data(MODELS[0]), Quant::F32);
    common::first_layers(all.file(), &path, 1);
    let engine = |overflow, ctx| {
        let options = options(overflow, ctx, KvType::F32, 1);
        Engine::new(nanoinfer_engine::Model::open(&path).unwrap(), &options).unwrap()
    };
    let tokens: Vec<u32> = (0..300).map(|i| (i * i + 11 * i) % 320).collect();
    let mut slide = engine(Overflow::Slide, 192);
    let seq = slide.open().unwrap();
    let slid = extend(&mut slide, seq, &tokens, 70);
    let evicted = slide.evicted(seq).unwrap();
    assert_eq!(evicted, 128);
    let mut stop = engine(Overflow::Stop, 192);
    let seq = stop.open().unwrap();
    let visible = [&tokens[..64], &tokens[64 + evicted..]].concat();
    let want = extend(&mut stop, seq, &visible, 70);
    let diff = slid.iter().zip(&want).map(|(a, b)| f32::from_bits(*a) - f32::from_bits(*b));
    let most = diff.map(f32::abs).fold(0.0, f32::max);
    assert!(most < 1e-4, "{most}");
    assert_ne!(slid, want, "different angles round differently: the second rotation was used");
}

#[test]
fn a_session_forks_one_prompt_into_several_answers() {
    let options = options(Overflow::Stop, 300, KvType::Q8, 3);
    let engine = Engine::new(model(&data(MODELS[0]), Quant::Q8), &options).unwrap();
    let mut session = Session::new(engine).unwrap();
    let prompt: Vec<u32> = (0..100).map(|i| i * 7 % 320).collect();
    let generate = |session: &mut Session, more: &[u32]| {
        let prompt = [session.tokens(), more].concat();
        session.prompt_tokens(&prompt).unwrap();
        let options = GenerateOptions { max_tokens: Some(20), ..GenerateOptions::default() };
        session.start(options).unwrap();
        while session.next().unwrap().is_some() {}
        (session.generated().to_vec(), session.stats().reused_tokens)
    };
    session.prompt_tokens(&prompt).unwrap();
    let (first, reused) = generate(&mut session, &[1]);
    assert_eq!(reused, 0);
    let mut aside = session.fork().unwrap();
    let (second, reused) = generate(&mut session, &[2]);
    assert_eq!(reused, 101 + 19);
    session.switch(&mut aside);
    assert_eq!(session.tokens(), [&prompt[..], &[1], &first].concat());
    let (third, reused) = generate(&mut session, &[3]);
    assert_eq!(
        reused, 121,
        "the last token of the first answer is reused from the other continuation"
    );
    session.switch(&mut aside);
    assert_eq!(session.tokens(), [&prompt[..], &[1], &first, &[2], &second].concat());
    session.drop_branch(aside).unwrap();

    // A new prompt reuses the sequence with the longest match.
    let branch = session.fork().unwrap();
    session.prompt_tokens(&[5, 6, 7]).unwrap();
    let (_, reused) = generate(&mut session, &[]);
    assert_eq!(reused, 0);
    session.prompt_tokens(&[&prompt[..], &[1], &first[..10], &[9]].concat()).unwrap();
    assert_eq!(generate(&mut session, &[]).1, 111);
    session.drop_branch(branch).unwrap();

    let mut alone =
        Session::new(Engine::new(model(&data(MODELS[0]), Quant::Q8), &options).unwrap()).unwrap();
    alone.prompt_tokens(&[&prompt[..], &[1], &first].concat()).unwrap();
    assert_eq!(generate(&mut alone, &[3]).0, third);
}
