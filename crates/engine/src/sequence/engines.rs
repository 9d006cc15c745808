//! An engine with its optional accelerators: a draft model and a prefix store.

use std::fmt;

use crate::prefix::use_baked;
use crate::speculate::check_draft;
use crate::{Engine, Error, PrefixStore, SeqId};

/// An engine, with an optional draft model's engine and an optional prefix store. These two affect the
/// speed of a sequence, never its tokens: if the draft model's engine fails, the answer continues without
/// it, and a note is recorded (see [`crate::Sequence::take_notes`]).
pub struct Engines {
    /// The engine of the answering model.
    pub target: Engine,
    draft: Option<Engine>,
    /// The store in which prompts are looked up, and saved by [`crate::Sequence::remember`].
    pub store: Option<PrefixStore>,
}

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engines")
            .field("target", &self.target)
            .field("draft", &self.draft)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl From<Engine> for Engines {
    fn from(target: Engine) -> Self {
        Self { target, draft: None, store: None }
    }
}

impl Engines {
    /// Sets or removes the draft model: a small model with the same vocabulary and a context of at least
    /// the same size. A sequence uses it starting with its next answer, if the draft engine has a free
    /// sequence. A batch uses it for a request that runs alone: in company, every drafted token of every
    /// request would take a pass of the draft model, in which the others wait.
    ///
    /// # Errors
    /// The models do not match.
    pub fn set_draft(&mut self, draft: Option<Engine>) -> Result<(), Error> {
        if let Some(draft) = &draft {
            check_draft(draft, &self.target)?;
        }
        self.draft = draft;
        Ok(())
    }

    /// The draft model's engine.
    pub fn draft(&self) -> Option<&Engine> {
        self.draft.as_ref()
    }

    /// Bytes of the models and their engines, see [`Engine::memory`].
    pub fn memory(&self) -> u64 {
        let draft = self.draft.as_ref().map_or(0, Engine::memory);
        self.target.memory().saturating_add(draft)
    }

    pub(crate) fn draft_mut(&mut self) -> Option<&mut Engine> {
        self.draft.as_mut()
    }

    /// Extends a sequence that holds a prefix of `ids` with results computed earlier: by other sequences,
    /// during packing, or by previous processes. Appends a note for each unusable source.
    pub(crate) fn recall(
        &mut self,
        seq: SeqId,
        ids: &[u32],
        notes: &mut Vec<String>,
    ) -> Result<(), Error> {
        self.target.share(seq, ids)?;
        let baked = use_baked(&mut self.target, seq, ids);
        notes.extend(baked.err().filter(|note| !notes.contains(note)));
        if let Some(store) = &self.store {
            notes.extend(store.load(&mut self.target, seq, ids)?);
        }
        Ok(())
    }

    /// Saves the content of a sequence, `ids`, if a store is set and does not contain it yet. The error
    /// states the reason for the failure.
    pub(crate) fn keep(&mut self, seq: SeqId, ids: &[u32]) -> Result<(), String> {
        match &self.store {
            Some(store) => store.save(&mut self.target, seq, ids),
            None => Ok(()),
        }
    }
}
