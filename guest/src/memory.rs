//! Keeping the idle guest small: there are thousands of it on a machine.

use crate::sys::{check, Errno, Sys};

/// Bytes moved at once between pipes, files and sockets.
pub const SCRATCH: usize = 64 << 10;

/// One arena, since threads of the guest are few and short; give memory back above 64 KiB.
pub fn tune() {
    // SAFETY: called before any thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
        libc::mallopt(libc::M_TOP_PAD, 16 << 10);
    }
}

/// Return what the heap does not use to the kernel.
pub fn trim() {
    // SAFETY: no memory in use is touched.
    unsafe { libc::malloc_trim(0) };
}

/// A buffer whose pages can be given back between uses.
pub struct Scratch(&'static mut [u8]);

impl Scratch {
    pub fn new() -> Sys<Scratch> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping of SCRATCH zero bytes, never unmapped.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), SCRATCH, protection, flags, -1, 0);
            if start == libc::MAP_FAILED {
                return Err(Errno::last());
            }
            Ok(Scratch(std::slice::from_raw_parts_mut(start.cast(), SCRATCH)))
        }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        self.0
    }

    /// Give the pages back; they read as zeroes afterwards.
    pub fn release(&mut self) {
        // SAFETY: the range is exactly the mapping.
        let result = check(unsafe { libc::madvise(self.0.as_mut_ptr().cast(), SCRATCH, libc::MADV_DONTNEED) });
        debug_assert!(result.is_ok());
    }
}
