//! What sequences run on: an engine, and what saves it work.

use std::fmt;

use crate::prefix::use_baked;
use crate::speculate::check_draft;
use crate::{Engine, Error, PrefixStore, SeqId};

/// An engine, and optionally the engine of a draft model and a store of prompts. These change the speed
/// of a sequence, never a token: where the draft model's engine fails, the answer goes on without it,
/// and a note says so.
pub struct Engines {
    /// The engine whose model answers.
    pub target: Engine,
    draft: Option<Engine>,
    /// Where prompts are looked for, and kept by [`crate::Sequence::remember`].
    pub store: Option<PrefixStore>,
}

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engines")
            .field("target", &self.target)
            .field("draft", &self.draft)
            .field("store", &self.store)
            .finish()
    }
}

impl From<Engine> for Engines {
    fn from(target: Engine) -> Self {
        Self { target, draft: None, store: None }
    }
}

impl Engines {
    /// Lets a small model draft, with the same vocabulary and room for as many positions; or none.
    /// A sequence drafts with it from its next answer on, if the draft model's engine has a sequence
    /// free for it.
    ///
    /// # Errors
    /// What does not fit.
    pub fn set_draft(&mut self, draft: Option<Engine>) -> Result<(), Error> {
        if let Some(draft) = &draft {
            check_draft(draft, &self.target)?;
        }
        self.draft = draft;
        Ok(())
    }

    /// The engine of the model that drafts.
    pub fn draft(&self) -> Option<&Engine> {
        self.draft.as_ref()
    }

    pub(crate) fn draft_mut(&mut self) -> Option<&mut Engine> {
        self.draft.as_mut()
    }

    /// Lets a sequence, which holds a beginning of `ids`, hold as much of them as was computed before:
    /// by other sequences, when the model was packed, or by earlier processes. Appends notes on what
    /// could not be used.
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

    /// Keeps what a sequence holds, which is `ids`, in the store, if there is one and it does not
    /// hold it yet. The error says why it could not be kept.
    pub(crate) fn keep(&mut self, seq: SeqId, ids: &[u32]) -> Result<(), String> {
        match &self.store {
            Some(store) => store.save(&mut self.target, seq, ids),
            None => Ok(()),
        }
    }
}
