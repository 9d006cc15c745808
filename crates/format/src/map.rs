//! The read-only memory map. One of the project's few places with `unsafe`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;

use memmap2::Mmap;

/// A file mapped read-only: zero copies, pages come in when first touched and are shared between
/// processes.
pub(crate) struct Map(Mmap);

impl Map {
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the map is read-only and private to this process's view. The bytes could only
        // change if another program wrote the file in place; `.nano` files are never written in
        // place (the writer renames a complete new file over the name, which leaves this inode
        // as it is), and the documentation tells users the same. A file truncated from outside
        // raises SIGBUS, which ends the process; it cannot return wrong bytes.
        unsafe { Mmap::map(file) }.map(Self)
    }
}

impl Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
