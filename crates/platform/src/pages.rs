//! Sizes of memory pages. One of the project's few modules with `unsafe`: no library advises the system about
//! memory that it did not allocate itself in safe code.
#![allow(unsafe_code)]

/// Size of a large page in bytes.
pub const LARGE: usize = 2 << 20;

/// Asks for large pages for a buffer whose parts are accessed in no order, so that addresses are translated from
/// far fewer entries. Pages that are not touched still take no memory, but a touched one takes 2 MB. Affects
/// speed only; without effect if the system does not have such pages.
pub fn prefer_large<T: Copy>(buffer: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        let bytes = size_of_val(buffer);
        let start = buffer.as_mut_ptr().cast::<u8>();
        let skip = start.align_offset(LARGE);
        let len = bytes.saturating_sub(skip) / LARGE * LARGE;
        if len > 0 {
            let advice = rustix::mm::Advice::LinuxHugepage;
            // SAFETY: the range lies within the buffer, and the advice does not change its contents.
            // Ignored: without large pages, the buffer works as well.
            let _ = unsafe { rustix::mm::madvise(start.add(skip).cast(), len, advice) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = buffer;
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

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

    #[test]
    fn whole_large_pages_of_a_buffer_are_advised() {
        if !fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap() {
            return; // a kernel without them
        }
        let mut small = vec![1u8; 1000];
        prefer_large(&mut small);
        let mut buffer = vec![0f32; 3 * LARGE / size_of::<f32>()];
        prefer_large(&mut buffer);
        let middle = &buffer[buffer.len() / 2];
        assert!(advised(std::ptr::from_ref(middle).addr()));
        assert!(!advised(small.as_ptr().addr()));
        assert!(buffer.iter().all(|x| *x == 0.0));
    }
}
