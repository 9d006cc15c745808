//! Stop strings in streamed text.

/// The result of pushing a piece of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopStep<'a> {
    /// No stop string so far; this text cannot be part of one.
    Text(&'a str),
    /// A stop string is complete.
    Stop {
        /// The last text before the stop string.
        before: &'a str,
        /// Its index in the list given to [`StopMatcher::new`].
        index: usize,
    },
}

/// Finds the first stop string in a stream, and holds back text that may be the start of one.
///
/// The stop string that is completed first wins; if several end together, the longest wins. The result
/// therefore does not depend on how the text is split. Nothing is allocated after [`StopMatcher::new`]
/// as long as pieces do not exceed `max_piece`.
#[derive(Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,    // text already returned, then text held back
    released: usize, // length of the former
}

impl StopMatcher {
    /// A matcher for these strings (empty ones never match) and pieces of up to `max_piece` bytes.
    pub fn new<S: AsRef<str>>(stops: &[S], max_piece: usize) -> Self {
        let stops: Vec<String> = stops.iter().map(|s| s.as_ref().to_owned()).collect();
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        Self { stops, held: String::with_capacity(longest + max_piece), released: 0 }
    }

    /// Adds the next text. After [`StopStep::Stop`], call [`Self::reset`] before the next stream.
    pub fn push(&mut self, text: &str) -> StopStep<'_> {
        self.held.drain(..self.released);
        self.held.push_str(text);
        let found = self.stops.iter().enumerate().filter(|(_, s)| !s.is_empty());
        let found = found.filter_map(|(index, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, index))
        });
        if let Some((_, start, index)) = found.min() {
            self.released = self.held.len();
            return StopStep::Stop { before: &self.held[..start], index };
        }
        let may_begin = |at: &usize| {
            let tail = &self.held.as_bytes()[*at..];
            self.stops.iter().any(|s| s.as_bytes().starts_with(tail))
        };
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        let hold = (from..self.held.len()).filter(|at| self.held.is_char_boundary(*at));
        self.released = hold.into_iter().find(may_begin).unwrap_or(self.held.len());
        StopStep::Text(&self.held[..self.released])
    }

    /// Ends the stream and returns the text held back, which turned out not to be a stop string.
    pub fn finish(&mut self) -> &str {
        self.held.drain(..self.released);
        self.released = self.held.len();
        &self.held
    }

    /// Adds the last text, ends the stream, and returns all remaining text up to a stop string.
    pub fn finish_with(&mut self, last: &str) -> &str {
        self.held.drain(..self.released);
        self.held.push_str(last);
        self.released = self.held.len();
        let stops = self.stops.iter().filter(|s| !s.is_empty());
        let end = stops.filter_map(|s| self.held.find(s.as_str())).min();
        &self.held[..end.unwrap_or(self.held.len())]
    }

    /// Starts a new stream.
    pub fn reset(&mut self) {
        self.held.clear();
        self.released = 0;
    }
}
