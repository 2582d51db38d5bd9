//! Reading a regular file.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use crate::files::list::{info, must_be_file};
use crate::files::path;
use crate::files::peer::Peer;
use crate::proto::{Failure, HEADER, MAX_DATA};
use crate::users::Account;

pub fn read(peer: &mut Peer, account: &Account, request: &crate::proto::Read) -> Result<(), Failure> {
    let fault = |error: std::io::Error| Failure::file(error.into());
    let full = path::resolve(&request.path, &account.home)?;
    must_be_file(&fs::metadata(&full).map_err(fault)?)?;
    // Non-blocking: it may have become a FIFO since, and files in /proc may wait for ever.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(&full).map_err(fault)?;
    let found = file.metadata().map_err(fault)?;
    must_be_file(&found)?;
    if request.offset > 0 {
        file.seek(SeekFrom::Start(request.offset)).map_err(fault)?;
    }
    peer.reply(&info(&full.to_string_lossy(), &found))?;
    let mut left = request.limit.unwrap_or(u64::MAX);
    let most = usize::try_from(found.len()).unwrap_or(MAX_DATA).clamp(4096, MAX_DATA);
    let mut frame = vec![0; HEADER + most];
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(most).min(most);
        match file.read(&mut frame[HEADER..HEADER + room]) {
            Ok(0) => break,
            Ok(count) => {
                left -= count as u64;
                peer.send_data(&mut frame, count)?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(fault(error)),
        }
    }
    peer.send_end()
}
