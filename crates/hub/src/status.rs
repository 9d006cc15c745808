/// A report from a long operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status<'a> {
    /// A message for the user: a slow step is starting, or a decision was made.
    Message(&'a str),
    /// Progress of the most recently announced step.
    Bytes {
        /// Bytes downloaded or written so far.
        done: u64,
        /// Total number of bytes; 0 if unknown.
        total: u64,
    },
}

/// Receives [`Status`] reports: a progress bar, a log, or nothing.
pub type StatusFn<'f> = dyn FnMut(Status<'_>) + 'f;
