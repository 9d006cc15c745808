//! The read-only memory map. One of the project's few places with `unsafe`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;

use memmap2::{Mmap, MmapMut};

/// A file mapped read-only, or a private copy of one. Mapped: zero copies, pages come in when first
/// touched and are shared between processes.
pub(crate) struct Map(Mmap);

impl Map {
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the map is read-only and private to this process's view. The bytes could only
        // change if another program wrote the file in place; `.nano` files are never written in
        // place (the writer renames a complete new file over the name, which leaves this inode
        // as it is), and the documentation tells users the same. A file truncated from outside
        // raises SIGBUS, which ends the process (the binary says why); it cannot return wrong bytes.
        unsafe { Mmap::map(file) }.map(Self)
    }

    /// The whole file in memory of this process: nothing that happens to the file later matters,
    /// at the price of reading it all and of sharing nothing.
    pub(crate) fn copy(file: &File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mut memory = MmapMut::map_anon(len)?; // page-aligned, as a map is
        let mut file = file;
        file.read_exact(&mut memory)?;
        memory.make_read_only().map(Self)
    }
}

impl Deref for Map {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
