//! Directory entries and what a path is.

use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde::Serialize;

use crate::files::path;
use crate::files::peer::Peer;
use crate::proto::{self, Failure, Folder, Info, Look, Rows, MAX_ENTRIES, ROWS_BYTES};
use crate::sys::Errno;
use crate::users::Account;

/// One entry: name, kind, size, mode, mtime, uid, gid.
#[derive(Serialize)]
struct Entry(String, &'static str, u64, u32, f64, u32, u32);

pub fn list(peer: &mut Peer, account: &Account, request: &Look) -> Result<(), Failure> {
    let folder = path::resolve(&request.path, &account.home)?;
    let names = first_names(&folder).map_err(|error| Failure::file(error.into()))?;
    peer.reply(&Folder { path: &folder.to_string_lossy() })?;
    let mut rows = Vec::new();
    let mut bytes = 0;
    for name in names {
        // It may have been removed since.
        let Ok(found) = fs::symlink_metadata(folder.join(&name)) else { continue };
        let name = name.to_string_lossy().into_owned();
        // A control character takes six bytes in JSON.
        bytes += name.len() * 6 + 100;
        rows.push(entry(name, &found));
        if bytes >= ROWS_BYTES {
            peer.send(proto::EVENT, &Rows { rows: std::mem::take(&mut rows) })?;
            bytes = 0;
        }
    }
    if !rows.is_empty() {
        peer.send(proto::EVENT, &Rows { rows })?;
    }
    peer.send_end()
}

pub fn stat(peer: &mut Peer, account: &Account, request: &Look) -> Result<(), Failure> {
    let full = path::resolve(&request.path, &account.home)?;
    let found = fs::metadata(&full).map_err(|error| Failure::file(error.into()))?;
    peer.reply(&info(&full.to_string_lossy(), &found))
}

/// The first names of a directory in order, without holding more of them than that.
fn first_names(folder: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names = BinaryHeap::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name());
        if names.len() > MAX_ENTRIES {
            names.pop();
        }
    }
    Ok(names.into_sorted_vec())
}

fn entry(name: String, found: &Metadata) -> Entry {
    Entry(name, kind(found), found.size(), found.mode() & 0o7777, mtime(found), found.uid(), found.gid())
}

pub fn info<'a>(path: &'a str, found: &Metadata) -> Info<'a> {
    Info {
        path,
        kind: kind(found),
        size: found.size(),
        mode: found.mode() & 0o7777,
        mtime: mtime(found),
        uid: found.uid(),
        gid: found.gid(),
    }
}

fn kind(found: &Metadata) -> &'static str {
    let kind = found.file_type();
    if kind.is_file() {
        "file"
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "symlink"
    } else {
        "other"
    }
}

fn mtime(found: &Metadata) -> f64 {
    found.mtime() as f64 + found.mtime_nsec() as f64 / 1e9
}

/// Refuse what is no regular file, before it is opened: opening a device or a FIFO can have effects.
pub fn must_be_file(found: &Metadata) -> Result<(), Failure> {
    let kind = found.file_type();
    if kind.is_file() {
        Ok(())
    } else if kind.is_dir() {
        Err(Failure::file(Errno(libc::EISDIR)))
    } else {
        debug_assert!(kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket());
        Err(proto::Kind::BadPath.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_order() {
        let folder = std::env::temp_dir().join(format!("corral-list-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for name in ["b", "a", "c"] {
            fs::write(folder.join(name), "").unwrap();
        }
        assert_eq!(first_names(&folder).unwrap(), ["a", "b", "c"]);
        fs::remove_dir_all(folder).unwrap();
    }
}
