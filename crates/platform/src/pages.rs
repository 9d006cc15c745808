//! Sizes of memory pages. One of the project's few modules with `unsafe`: no library advises the system about
//! memory that it did not allocate itself in safe code.
#![allow(unsafe_code)]

use std::ops::Range;

/// Size of a large page in bytes.
pub const LARGE: usize = 2 << 20;

/// Asks for large pages for a buffer whose parts are accessed in no order, so that addresses are translated from
/// far fewer entries. Affects speed and memory only; without effect if the system does not have such pages.
///
/// Those with the elements `used`, of which some have been accessed, become large now; the others when they are
/// accessed, and until then they take no memory.
pub fn make_large<T: Copy>(buffer: &mut [T], used: Range<usize>) {
    let start = buffer.as_mut_ptr().cast::<u8>();
    let skip = start.align_offset(LARGE);
    let whole = size_of_val(buffer).saturating_sub(skip) / LARGE;
    let first = (used.start * size_of::<T>()).saturating_sub(skip) / LARGE;
    let end = (used.end * size_of::<T>()).saturating_sub(skip).div_ceil(LARGE);
    for (pages, advice) in [(0..whole, HUGE_PAGE), (first..end.min(whole), COLLAPSE)] {
        if !pages.is_empty() {
            // SAFETY: these pages lie within the buffer.
            unsafe { advise(start.add(skip + LARGE * pages.start), LARGE * pages.len(), advice) };
        }
    }
}

/// Asks for large pages for a mapping that was not accessed yet, of a file or of no file. What is in memory already
/// keeps its pages; what is read from the disk from now on has large ones if the file system supports them. Affects
/// speed and memory only.
pub fn map_large(mapping: &[u8]) {
    // SAFETY: these pages are borrowed.
    unsafe { advise(mapping.as_ptr().cast_mut(), mapping.len(), HUGE_PAGE) };
}

/// The numbers that Linux has for these, the second since 6.1; not every C library names them.
const HUGE_PAGE: i32 = 14;
const COLLAPSE: i32 = 25;

/// # Safety
/// The memory must belong to the caller.
unsafe fn advise(start: *mut u8, len: usize, advice: i32) {
    #[cfg(target_os = "linux")]
    // SAFETY: neither advice changes the contents. Errors are ignored: memory works with any size of pages.
    unsafe {
        libc::madvise(start.cast(), len, advice)
    };
    #[cfg(not(target_os = "linux"))]
    let _ = (start, len, advice);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    /// Whether the mapping that contains an address has the flag for large pages.
    fn advised(address: usize) -> bool {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split_whitespace().next().and_then(|word| word.split_once('-'));
            let number = |text| usize::from_str_radix(text, 16);
            if let Some((Ok(from), Ok(to))) = range.map(|(from, to)| (number(from), number(to))) {
                inside = (from..to).contains(&address);
            } else if inside && line.starts_with("VmFlags:") {
                return line.split_whitespace().any(|flag| flag == "hg");
            }
        }
        false
    }

    /// Whether the kernel has large pages.
    fn are_known() -> bool {
        fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap()
    }

    #[test]
    fn mappings_are_advised_and_keep_their_contents() {
        if !are_known() {
            return;
        }
        let bytes: Vec<u8> = (0..3 * LARGE + 100).map(|i| (i / 1000) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        // SAFETY: nobody else knows the file.
        let mapping = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        assert!(!advised(mapping.as_ptr().addr()));
        map_large(&mapping);
        assert!(advised(mapping.as_ptr().addr()));
        assert!(mapping[..] == bytes);
        map_large(&[]);
    }

    #[test]
    fn whole_large_pages_of_a_buffer_are_advised() {
        if !are_known() {
            return;
        }
        let mut small = vec![1u8; 1000];
        make_large(&mut small, 0..1000);
        assert!(!advised(small.as_ptr().addr()));
        let mut buffer = vec![0f32; 4 * LARGE / size_of::<f32>()];
        (buffer[0], buffer[1_000_000]) = (1.0, 2.0);
        for used in [0..0, 0..1, 5..700_000, 0..buffer.len()] {
            make_large(&mut buffer, used);
            assert!(advised(std::ptr::from_ref(&buffer[buffer.len() / 2]).addr()));
            assert_eq!((buffer[0], buffer[1_000_000]), (1.0, 2.0));
        }
        assert_eq!(buffer.iter().sum::<f32>(), 3.0);
    }
}
