//! Paths as requests give them: absolute, `~`, `~/…`, or relative to the user's home.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::proto::{Failure, Kind, MAX_PATH};

/// As many symlinks as the kernel follows.
const LINKS_MAX: usize = 40;

/// The absolute path that `path` means for a user with this home.
pub fn resolve(path: &str, home: &str) -> Result<PathBuf, Failure> {
    if path.is_empty() || path.len() >= MAX_PATH || path.contains('\0') {
        return Err(Kind::BadPath.into());
    }
    let full = match path.strip_prefix('~') {
        Some("") => PathBuf::from(home),
        Some(rest) if rest.starts_with('/') => Path::new(home).join(rest.trim_start_matches('/')),
        _ => Path::new(home).join(path),
    };
    if full.as_os_str().len() >= MAX_PATH {
        return Err(Kind::BadPath.into());
    }
    Ok(full)
}

/// Follow symlinks at the end of `path`, so that a write goes to what they point at, be it there or not.
pub fn follow(path: PathBuf) -> io::Result<PathBuf> {
    let mut path = path;
    for _ in 0..LINKS_MAX {
        match fs::symlink_metadata(&path) {
            Ok(found) if found.file_type().is_symlink() => {
                let target = fs::read_link(&path)?;
                path = path.parent().unwrap_or(Path::new("/")).join(target);
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(path),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_from_the_home() {
        let at = |path| resolve(path, "/home/user").unwrap().to_str().unwrap().to_owned();
        assert_eq!(at("/etc/hosts"), "/etc/hosts");
        assert_eq!(at("~"), "/home/user");
        assert_eq!(at("~/a/b"), "/home/user/a/b");
        assert_eq!(at("~//a"), "/home/user/a");
        assert_eq!(at("a"), "/home/user/a");
        assert_eq!(at("~other/a"), "/home/user/~other/a");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in ["", "a\0b", &"x".repeat(MAX_PATH)] {
            assert_eq!(resolve(path, "/").unwrap_err().kind, Kind::BadPath);
        }
    }

    #[test]
    fn a_symlink_is_followed_to_what_is_not_there_and_a_ring_is_not_followed_for_ever() {
        let folder = std::env::temp_dir().join(format!("corral-follow-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let make = |name: &str, target: &str| std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
        make("one", "two");
        make("two", "missing");
        make("ring", "ring");
        assert_eq!(follow(folder.join("one")).unwrap(), folder.join("missing"));
        assert_eq!(follow(folder.join("ring")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        fs::remove_dir_all(folder).unwrap();
    }
}
