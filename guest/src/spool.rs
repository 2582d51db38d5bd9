//! One stream of an execution's output: counted, bounded, written to a file that the host has opened.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys::{self, again, Sys};

/// A stream's file. Beyond `limit` bytes, or once the file takes no more, output is dropped and `cut` is set.
pub struct Spool {
    file: OwnedFd,
    limit: u64,
    pub written: u64,
    pub cut: bool,
}

impl Spool {
    pub fn new(file: OwnedFd, limit: u64) -> Spool {
        Spool { file, limit, written: 0, cut: false }
    }

    /// Take output. Returns whether the file has grown.
    pub fn take(&mut self, data: &[u8]) -> bool {
        let room = usize::try_from(self.limit - self.written).unwrap_or(usize::MAX);
        let mut left = &data[..data.len().min(room)];
        let before = self.written;
        while !left.is_empty() && !self.cut {
            match sys::write(self.file.as_raw_fd(), left) {
                Ok(count) if count > 0 => {
                    self.written += count as u64;
                    left = &left[count..];
                }
                Err(errno) if again(errno) => {}
                // The host's disk is full or broken: the command must not suffer for it.
                _ => self.cut = true,
            }
        }
        self.cut |= data.len() > room;
        self.written > before
    }
}

/// Write all of `line` to a status file.
pub fn write_status(file: &OwnedFd, line: &[u8]) -> Sys<()> {
    let mut left = line;
    while !left.is_empty() {
        match sys::write(file.as_raw_fd(), left) {
            Ok(count) => left = &left[count..],
            Err(errno) if again(errno) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    fn file(name: &str) -> (std::path::PathBuf, OwnedFd) {
        let path = std::env::temp_dir().join(format!("corral-guest-{}-{name}", std::process::id()));
        let file = File::create(&path).unwrap();
        (path, file.into())
    }

    #[test]
    fn output_is_cut_at_the_limit_and_says_so() {
        let (path, fd) = file("cut");
        let mut spool = Spool::new(fd, 5);
        assert!(spool.take(b"abc"));
        assert!(!spool.cut);
        assert!(spool.take(b"defg"));
        assert!(spool.cut);
        assert!(!spool.take(b"h"));
        assert_eq!((spool.written, fs::read(&path).unwrap().as_slice()), (5, b"abcde".as_slice()));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn output_of_exactly_the_limit_is_whole() {
        let (path, fd) = file("whole");
        let mut spool = Spool::new(fd, 3);
        assert!(spool.take(b"abc"));
        assert!(!spool.cut);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_full_disk_cuts_instead_of_failing() {
        let full: OwnedFd = File::options().write(true).open("/dev/full").unwrap().into();
        let mut spool = Spool::new(full, 100);
        assert!(!spool.take(b"abc"));
        assert!(spool.cut);
    }
}
