//! Users and groups of the box, from its own /etc/passwd and /etc/group.
//!
//! Not by libc's lookups: a static binary must not load the image's NSS modules. The files are the box's to write:
//! they are opened so that a FIFO in their place does not block, and read up to a limit.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use crate::proto::{ClaimUser, Failure, Kind};
use crate::sys;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
const FILE_MAX: u64 = 1 << 20;
/// The kernel takes 65,536; nobody has more than a few.
const GROUPS_MAX: usize = 256;

/// Whom a command or file call runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
    pub shell: String,
}

/// The text of a file of the box; empty when it is missing, no regular file, or cannot be read.
pub fn text_of(path: &str) -> String {
    let mut text = Vec::new();
    if let Ok(file) = open_regular(path) {
        if file.take(FILE_MAX).read_to_end(&mut text).is_err() {
            text.clear();
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn open_regular(path: &str) -> std::io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(std::io::ErrorKind::InvalidInput.into())
    }
}

/// Find `wanted`: a name, a uid, or `uid:gid`; None is the default user, root before any claim.
pub fn find(wanted: Option<&str>, default: Option<&ClaimUser>) -> Result<Account, Failure> {
    let passwd = text_of(PASSWD);
    let group = text_of(GROUP);
    let name = wanted.or(default.map(|user| user.name.as_str())).unwrap_or("root");
    let mut account = lookup(&passwd, name, default).ok_or(Kind::NoSuchUser)?;
    account.groups = groups_of(&group, &account.name, account.gid);
    if account.shell.is_empty() {
        account.shell = default_shell().to_owned();
    }
    Ok(account)
}

/// The shell of users that have none in /etc/passwd.
pub fn default_shell() -> &'static str {
    if sys::exists("/bin/bash") {
        "/bin/bash"
    } else {
        "/bin/sh"
    }
}

/// Whether /etc/passwd has an entry of this name.
pub fn has_user(name: &str) -> bool {
    entries(&text_of(PASSWD)).any(|account| account.name == name)
}

/// Whether /etc/group has an entry of this gid.
pub fn has_group(gid: u32) -> bool {
    text_of(GROUP).lines().any(|line| line.split(':').nth(2).and_then(|text| text.parse().ok()) == Some(gid))
}

fn lookup(passwd: &str, name: &str, default: Option<&ClaimUser>) -> Option<Account> {
    if let Some(account) = entries(passwd).find(|account| account.name == name) {
        return Some(account);
    }
    if let Some(user) = default.filter(|user| user.name == name) {
        return Some(bare(&user.name, user.uid, user.gid, &user.home));
    }
    // Without /etc/passwd (an image from scratch, a box that removed it) root is still root.
    if name == "root" {
        return Some(bare("root", 0, 0, "/root"));
    }
    let (uid, gid) = match name.split_once(':') {
        Some((uid, gid)) => (uid.parse().ok()?, Some(gid.parse().ok()?)),
        None => (name.parse().ok()?, None),
    };
    // -1 is no id: the kernel takes it as "leave as it is".
    if uid == u32::MAX || gid == Some(u32::MAX) {
        return None;
    }
    let mut account = entries(passwd).find(|account| account.uid == uid).unwrap_or_else(|| bare(name, uid, uid, "/"));
    account.gid = gid.unwrap_or(account.gid);
    Some(account)
}

fn bare(name: &str, uid: u32, gid: u32, home: &str) -> Account {
    Account { name: name.to_owned(), uid, gid, groups: Vec::new(), home: home.to_owned(), shell: String::new() }
}

fn entries(passwd: &str) -> impl Iterator<Item = Account> + '_ {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.contains('\0'))?;
        let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid != u32::MAX)?;
        let gid = fields.next()?.parse().ok().filter(|gid| *gid != u32::MAX)?;
        let home = fields.nth(1).filter(|home| home.starts_with('/') && !home.contains('\0')).unwrap_or("/");
        let shell = fields.next().filter(|shell| shell.starts_with('/') && !shell.contains('\0')).unwrap_or("");
        Some(Account { shell: shell.to_owned(), ..bare(name, uid, gid, home) })
    })
}

fn groups_of(group: &str, name: &str, primary: u32) -> Vec<u32> {
    let mut found = vec![primary];
    for line in group.lines() {
        let mut fields = line.split(':');
        let (Some(gid), Some(members)) = (fields.nth(2), fields.next()) else { continue };
        let Ok(gid) = gid.parse() else { continue };
        if gid != u32::MAX
            && found.len() < GROUPS_MAX
            && !found.contains(&gid)
            && members.split(',').any(|m| m == name)
        {
            found.push(gid);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "root:x:0:0:root:/root:/bin/bash\n# a comment\nbad:x:no:0::/:\nuser:x:1000:1000:,,,:/home/user:/bin/zsh\n";

    fn claimed() -> ClaimUser {
        ClaimUser { name: "agent".into(), uid: 1007, gid: 1008, home: "/home/agent".into() }
    }

    #[test]
    fn a_user_is_found_by_name_uid_and_pair() {
        let by_name = lookup(TEXT, "user", None).unwrap();
        assert_eq!((by_name.uid, by_name.gid, by_name.home.as_str()), (1000, 1000, "/home/user"));
        assert_eq!(by_name.shell, "/bin/zsh");
        assert_eq!(lookup(TEXT, "1000", None).unwrap().name, "user");
        assert_eq!(lookup(TEXT, "1000:7", None).unwrap().gid, 7);
        assert_eq!(lookup(TEXT, "4242", None).unwrap().gid, 4242);
        assert!(lookup(TEXT, "nobody-here", None).is_none());
        assert!(lookup(TEXT, "4294967295", None).is_none());
        assert!(lookup(TEXT, "bad", None).is_none());
    }

    #[test]
    fn the_claimed_user_and_root_need_no_passwd() {
        assert_eq!(lookup("", "agent", Some(&claimed())).unwrap().uid, 1007);
        assert_eq!(lookup("", "root", None).unwrap().uid, 0);
    }

    #[test]
    fn the_passwd_entry_wins_over_the_claim() {
        let text = "agent:x:5:6::/srv:/bin/sh\n";
        assert_eq!(lookup(text, "agent", Some(&claimed())).unwrap().uid, 5);
    }

    #[test]
    fn supplementary_groups_begin_with_the_primary_and_have_no_doubles() {
        let text =
            "root:x:0:\nsudo:x:27:user,other\nuser:x:1000:user\ndocker:x:999:other\nodd\nvideo:x:44:other,user\n";
        assert_eq!(groups_of(text, "user", 1000), [1000, 27, 44]);
    }
}
