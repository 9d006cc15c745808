//! Kinds of tests and their names.

use crate::args::Bench;

/// The timed work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `tokens` tokens of one sequence, in passes of the engine's maximum size.
    Prefill,
    /// `tokens` tokens in each of `batch` sequences, one pass per token.
    Decode,
    /// An answer that repeats a prompt of `tokens` tokens, with drafts from the prompt.
    Copy,
}

/// One test, a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) kind: Kind,
    pub(super) tokens: usize,
    /// Number of tokens already in the context.
    pub(super) depth: usize,
    /// Number of sequences at once.
    pub(super) batch: usize,
}

impl Test {
    /// `pp512`, `tg128@d2048`, `tg32x4@d2000`.
    pub(super) fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Prefill => "pp",
            Kind::Decode => "tg",
            Kind::Copy => "cp",
        };
        let batch = if self.batch == 1 { String::new() } else { format!("x{}", self.batch) };
        let depth = if self.depth == 0 { String::new() } else { format!("@d{}", self.depth) };
        format!("{kind}{}{batch}{depth}", self.tokens)
    }

    /// Tokens processed in one run.
    pub(super) fn total(&self) -> usize {
        self.tokens * self.batch
    }

    /// Every combination of the options, prefill first; zero disables a kind.
    pub(super) fn all(args: &Bench) -> Vec<Self> {
        let mut tests = Vec::new();
        for depth in args.depth.iter().map(|&d| d as usize) {
            let prompts = args.n_prompt.iter().filter(|&&n| n > 0);
            tests.extend(prompts.map(|&n| Self {
                kind: Kind::Prefill,
                tokens: n as usize,
                depth,
                batch: 1,
            }));
            for &n in args.n_gen.iter().filter(|&&n| n > 0) {
                tests.extend(args.batch.iter().map(|&batch| Self {
                    kind: Kind::Decode,
                    tokens: n as usize,
                    depth,
                    batch: batch as usize,
                }));
            }
        }
        tests.extend(args.n_copy.iter().map(|&n| Self {
            kind: Kind::Copy,
            tokens: n as usize,
            depth: 0,
            batch: 1,
        }));
        tests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_llama_bench() {
        let name = |kind, tokens, depth, batch| Test { kind, tokens, depth, batch }.name();
        assert_eq!(name(Kind::Prefill, 512, 0, 1), "pp512");
        assert_eq!(name(Kind::Prefill, 512, 64, 1), "pp512@d64");
        assert_eq!(name(Kind::Decode, 128, 2048, 1), "tg128@d2048");
        assert_eq!(name(Kind::Decode, 128, 0, 4), "tg128x4");
        assert_eq!(name(Kind::Decode, 32, 2000, 4), "tg32x4@d2000");
        assert_eq!(name(Kind::Copy, 300, 0, 1), "cp300");
    }
}
