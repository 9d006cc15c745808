/// A report from a long operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status<'a> {
    /// A sentence for the user: a slow step begins, or a decision was made.
    Message(&'a str),
    /// Progress of the step announced last.
    Bytes {
        /// Bytes downloaded or written so far.
        done: u64,
        /// Bytes in all; 0 if unknown.
        total: u64,
    },
}

/// Receives [`Status`] reports: a progress bar, a log, or nothing.
pub type StatusFn<'f> = dyn FnMut(Status<'_>) + 'f;
