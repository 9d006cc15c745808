//! The read-only memory map. One of the project's few modules with `unsafe`.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;

use memmap2::{Mmap, MmapMut};
use nanoinfer_platform::pages;

/// A read-only mapping of a file, or a private copy. Mapped pages are loaded on first access and shared
/// between processes. Both ask for large pages: without them, translating addresses takes a third of the memory's
/// bandwidth (measured in docs/BENCHMARKS.md).
pub(crate) struct Map(Mmap);

impl Map {
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the map is read-only. Its bytes could only change if another program modified the
        // file in place. As documented, `.nano` files are never written in place: the writer renames a
        // complete new file to the old name, which leaves this inode untouched.
        // Truncating the file raises SIGBUS, which ends the process (with a message from the binary);
        // it cannot yield incorrect bytes.
        let map = unsafe { Mmap::map(file) }?;
        pages::map_large(&map);
        Ok(Self(map))
    }

    /// Reads the whole file into private memory: immune to later changes to the file, but nothing is
    /// loaded lazily or shared.
    pub(crate) fn copy(file: &File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mut memory = MmapMut::map_anon(len)?; // page-aligned, like a file mapping
        pages::map_large(&memory);
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
