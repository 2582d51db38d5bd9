//! What a box is told when it is claimed: its name, environment, user, and a few files in /etc.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{chown, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::proto::{Claim, ClaimUser, Failure, Kind};
use crate::sys::Errno;
use crate::users;

/// The kernel's limit is 64.
const HOSTNAME_MAX: usize = 64;

#[derive(Default)]
pub struct Identity {
    pub claimed: bool,
    /// Base environment of commands.
    pub env: Vec<(String, String)>,
    /// The default user; None is root.
    pub user: Option<ClaimUser>,
}

impl Identity {
    /// Apply what is given, leave the rest. Everything is checked before anything is changed.
    pub fn claim(&mut self, claim: Claim) -> Result<(), Failure> {
        check_claim(&claim)?;
        // The name itself is the host's to set: no box may, and process 1 has no right that others could take from it.
        let hostname = claim.hostname.as_ref().map(|name| format!("{name}\n"));
        let files =
            [("/etc/hostname", &hostname), ("/etc/hosts", &claim.hosts), ("/etc/resolv.conf", &claim.resolv_conf)];
        for (path, text) in files {
            if let Some(text) = text {
                let written = put(Path::new(path), text);
                forgiven(claim.used, written, "cannot write a file in /etc")?;
            }
        }
        if let Some(user) = claim.user {
            forgiven(claim.used, add_user(&user), "cannot make the user")?;
            self.user = Some(user);
        }
        if let Some(env) = claim.env {
            if let Some(path) = env.get("PATH") {
                forgiven(claim.used, keep_path(path), "cannot keep the PATH of login shells")?;
            }
            self.env = env.into_iter().collect();
        }
        self.claimed = true;
        Ok(())
    }
}

/// A box must start on whatever tree its disk was left with: it is the box's own, and commands run without these.
fn forgiven(used: bool, result: io::Result<()>, message: &'static str) -> Result<(), Failure> {
    match result {
        Err(error) if !used => Err(Failure::own(error.into(), message)),
        _ => Ok(()),
    }
}

fn check_claim(claim: &Claim) -> Result<(), Failure> {
    if let Some(name) = &claim.hostname {
        let ok = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if name.is_empty() || name.len() > HOSTNAME_MAX || !name.bytes().all(ok) {
            return Err(Failure::bad("not a host name"));
        }
    }
    for (name, value) in claim.env.iter().flatten() {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(Kind::BadCommand.into());
        }
    }
    match &claim.user {
        Some(user) if !is_user(user) => Err(Failure::bad("not a user")),
        _ => Ok(()),
    }
}

/// Whether a line of /etc/passwd can hold it.
fn is_user(user: &ClaimUser) -> bool {
    let name_ok = !user.name.is_empty()
        && user.name.len() <= 32
        && !user.name.starts_with('-')
        && user.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    let home_ok = user.home.starts_with('/') && user.home.len() < 1024 && !user.home.contains([':', '\n', '\0']);
    name_ok && home_ok && user.uid != u32::MAX && user.gid != u32::MAX
}

/// Write a small file in place: it may be a bind mount, which cannot be renamed over. A symlink is replaced.
fn put(path: &Path, text: &str) -> io::Result<()> {
    let open = |create_new: bool| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).create_new(create_new).mode(0o644);
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
    };
    let mut file = match open(false) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            fs::remove_file(path)?;
            open(true)?
        }
        other => other?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

/// Commands run in login shells, and most images' /etc/profile puts a PATH of its own in the place of the one given.
fn keep_path(path: &str) -> io::Result<()> {
    let folder = Path::new("/etc/profile.d");
    let profile = users::text_of("/etc/profile");
    if profile.is_empty() || profile.contains("${PATH:=") || !fs::symlink_metadata(folder).is_ok_and(|f| f.is_dir()) {
        return Ok(());
    }
    let quoted = path.replace('\'', r"'\''");
    put(&folder.join("corral-path.sh"), &format!("PATH='{quoted}'\nexport PATH\n"))
}

fn add_user(user: &ClaimUser) -> io::Result<()> {
    fs::create_dir_all("/etc")?;
    if !users::has_group(user.gid) {
        append("/etc/group", &format!("{}:x:{}:\n", user.name, user.gid))?;
    }
    if !users::has_user(&user.name) {
        // `*`, not `x`: without a line in /etc/shadow, PAM refuses the account of an `x`.
        let (name, shell) = (&user.name, users::default_shell());
        append("/etc/passwd", &format!("{name}:*:{}:{}::{}:{shell}\n", user.uid, user.gid, user.home))?;
        allow_sudo(user)?;
    }
    make_home(user)
}

/// A user that the image does not have becomes root as that of the stock images does, where the image has sudo.
fn allow_sudo(user: &ClaimUser) -> io::Result<()> {
    let folder = Path::new("/etc/sudoers.d");
    // A name with a dot, or that a rule could read as something else, is none that sudo would read a file of.
    let plain = user.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if user.uid == 0 || !plain || !fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    let path = folder.join(format!("corral-{}", user.name));
    put(&path, &format!("{} ALL=(ALL) NOPASSWD:ALL\n", user.name))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o440))
}

fn append(path: &str, line: &str) -> io::Result<()> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file: File = OpenOptions::new().append(true).create(true).mode(0o644).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // A last line without its end would swallow ours.
    let text = users::text_of(path);
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    file.write_all(format!("{gap}{line}").as_bytes())
}

/// The home and the folders above that are missing; only the home is the user's.
fn make_home(user: &ClaimUser) -> io::Result<()> {
    let home = PathBuf::from(&user.home);
    if fs::symlink_metadata(&home).is_ok() {
        return Ok(());
    }
    fs::create_dir_all(&home)?;
    match chown(&home, Some(user.uid), Some(user.gid)).map_err(Errno::from) {
        // An id outside the box's map owns nothing anywhere; the home is then root's.
        Ok(()) | Err(Errno(libc::EINVAL)) => Ok(()),
        Err(Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(json: &str) -> Result<(), Failure> {
        check_claim(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn what_would_break_a_line_of_passwd_is_refused() {
        assert!(claim(r#"{"user":{"name":"user","uid":1000,"gid":1000,"home":"/home/user"}}"#).is_ok());
        for (name, home) in [("a:b", "/"), ("", "/"), ("-a", "/"), ("a", "home"), ("a", "/a:b"), ("a", "/a\\nb")] {
            let text = format!(r#"{{"user":{{"name":"{name}","uid":1,"gid":1,"home":"{home}"}}}}"#);
            assert!(claim(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn host_names_and_variables_are_checked() {
        assert!(claim(r#"{"hostname":"box-1.local","env":{"A":"b=c"}}"#).is_ok());
        assert!(claim(r#"{"hostname":"box_1"}"#).is_err());
        assert!(claim(r#"{"hostname":""}"#).is_err());
        assert!(claim(r#"{"env":{"A=B":"c"}}"#).is_err());
        assert!(claim(r#"{"env":{"":"c"}}"#).is_err());
    }

    #[test]
    fn a_symlink_is_replaced_and_a_file_written_in_place() {
        let folder = std::env::temp_dir().join(format!("corral-claim-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (path, target) = (folder.join("resolv.conf"), folder.join("elsewhere"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        put(&path, "first, and long").unwrap();
        put(&path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(fs::read_to_string(&target).unwrap(), "old");
        fs::remove_dir_all(folder).unwrap();
    }
}
