//! Writing a file whole: into a temporary file beside it, which takes its place when everything has come.
//!
//! Where that cannot be (the folder is not the user's to write, the file is a mount point, or the file is somebody
//! else's and would change hands) the content waits in a file without a name and is copied in at the end.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{fchown, DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::files::list::must_be_file;
use crate::files::path;
use crate::files::peer::{Peer, Sent};
use crate::proto::{self, Bytes, Failure, MAX_DATA};
use crate::sys::Errno;
use crate::users::Account;

/// Of new files; the umask of the guest is 022 already.
const NEW_MODE: u32 = 0o644;
/// Names tried for the temporary file.
const TRIES: u32 = 16;
/// Folders for a file without a name.
const ASIDE: [&str; 2] = ["/var/tmp", "/tmp"];

static TURN: AtomicU32 = AtomicU32::new(0);

pub fn write(peer: &mut Peer, account: &Account, request: &proto::Write) -> Result<(), Failure> {
    let fault = |error: io::Error| Failure::file(error.into());
    let asked = path::resolve(&request.path, &account.home)?;
    if request.path.ends_with('/') {
        return Err(Failure::file(Errno(libc::EISDIR)));
    }
    let target = path::follow(asked).map_err(fault)?;
    let existing = match fs::symlink_metadata(&target) {
        Ok(found) => {
            must_be_file(&found)?;
            may_write(&target).map_err(fault)?;
            Some(found)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(fault(error)),
    };
    let mut draft = Draft::open(&target, existing.as_ref(), account).map_err(fault)?;
    let mut room = vec![0; MAX_DATA];
    let mut bytes = 0;
    while let Sent::Data(data) = peer.receive(&mut room)? {
        draft.file.write_all(data).map_err(fault)?;
        bytes += data.len() as u64;
    }
    let mode = request.mode.map(|mode| mode & 0o7777);
    draft.commit(&target, existing.as_ref(), mode).map_err(fault)?;
    peer.reply(&Bytes { bytes })
}

fn may_write(target: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(target.as_os_str().as_bytes())?;
    // All ids of this thread are the user's, so the real ones that access() looks at are right. Not by opening: a
    // program that runs cannot be opened for writing, but can be replaced.
    // SAFETY: `path` is a C string.
    match unsafe { libc::access(path.as_ptr(), libc::W_OK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Content on its way. Dropped without a commit, it leaves nothing.
struct Draft {
    file: File,
    /// Its name, beside the target; None for a file without one.
    temporary: Option<PathBuf>,
}

impl Draft {
    fn open(target: &Path, existing: Option<&Metadata>, account: &Account) -> io::Result<Draft> {
        // Only root can give a file to another user: renaming over it would make it the writer's.
        if existing.is_some_and(|found| account.uid != 0 && found.uid() != account.uid) {
            return Draft::aside();
        }
        match Draft::beside(target) {
            Err(error) if existing.is_some() && refused(&error) => Draft::aside(),
            other => other,
        }
    }

    fn beside(target: &Path) -> io::Result<Draft> {
        let folder = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
        make_folders(folder)?;
        for _ in 0..TRIES {
            let turn = TURN.fetch_add(1, Ordering::Relaxed);
            let name = folder.join(format!(".corral-{}-{turn}.tmp", nanoseconds()));
            let mut options = OpenOptions::new();
            options.write(true).read(true).create_new(true).mode(0o600);
            match options.open(&name) {
                Ok(file) => return Ok(Draft { file, temporary: Some(name) }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn aside() -> io::Result<Draft> {
        let mut last = io::Error::from_raw_os_error(libc::EACCES);
        for folder in ASIDE {
            let mut options = OpenOptions::new();
            match options.write(true).read(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder) {
                Ok(file) => return Ok(Draft { file, temporary: None }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn commit(mut self, target: &Path, existing: Option<&Metadata>, mode: Option<u32>) -> io::Result<()> {
        let Some(temporary) = self.temporary.clone() else {
            return self.copy_in(target, mode);
        };
        let kept = existing.map(|found| found.mode() & 0o7777);
        if let Some(found) = existing {
            let now = self.file.metadata()?;
            if (now.uid(), now.gid()) != (found.uid(), found.gid()) {
                // A group that the user is not in is lost, as with every editor; the owner is the same here.
                let owned = fchown(&self.file, Some(found.uid()), Some(found.gid()));
                owned.or_else(|error| if refused(&error) { Ok(()) } else { Err(error) })?;
            }
        }
        // After the owner, which takes set-user-id bits away.
        self.file.set_permissions(Permissions::from_mode(mode.or(kept).unwrap_or(NEW_MODE)))?;
        match fs::rename(&temporary, target) {
            Ok(()) => {
                self.temporary = None;
                Ok(())
            }
            // A mount point, as /etc/hosts is in many boxes.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => self.copy_in(target, mode),
            Err(error) => Err(error),
        }
    }

    fn copy_in(&mut self, target: &Path, mode: Option<u32>) -> io::Result<()> {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
        let mut place = OpenOptions::new().write(true).custom_flags(flags).open(target)?;
        if !place.metadata()?.is_file() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        self.file.seek(SeekFrom::Start(0))?;
        place.set_len(0)?;
        io::copy(&mut self.file, &mut place)?;
        match mode {
            Some(mode) => place.set_permissions(Permissions::from_mode(mode)),
            None => Ok(()),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // It may have been removed in the box, which is as good.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}

fn make_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(|error| {
        // A file in the middle of the path: the builder says that it exists.
        if error.kind() == io::ErrorKind::AlreadyExists {
            io::Error::from_raw_os_error(libc::ENOTDIR)
        } else {
            error
        }
    })
}

/// Not secret: only unlikely to be taken.
fn nanoseconds() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos())
}
