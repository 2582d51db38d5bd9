//! A forwarded connection: raw bytes between the host and a TCP port on the box's loopback, with half-close.

use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::conn::{Output, Role};
use crate::guest::{Guest, Source, HANGUP_ONLY, READ, TURNS, WRITE};
use crate::proto::{self, json, Failure, Kind};
use crate::slots::Key;
use crate::sys::{self, again, Errno, Sys, Watched};

const GONE: u32 = (libc::EPOLLHUP | libc::EPOLLERR) as u32;

pub struct Relay {
    port: Watched,
    stage: Stage,
    to_port: Output,
    to_host: Output,
    host: Side,
    service: Side,
}

enum Stage {
    Connecting { number: u16, v6: bool },
    Open,
}

/// One end of a forwarded connection.
#[derive(Default)]
struct Side {
    /// It has sent end of file.
    ended: bool,
    /// It has been sent end of file.
    told: bool,
}

enum Fate {
    Live,
    Over,
}

impl Guest {
    pub fn connect(&mut self, key: Key, number: u16) -> Result<(), Failure> {
        let port = self.dial(key, number, false)?;
        if let Some(conn) = self.conns.get_mut(key) {
            conn.role = Role::Relay(Box::new(Relay {
                port,
                stage: Stage::Connecting { number, v6: false },
                to_port: Output::default(),
                to_host: Output::default(),
                host: Side::default(),
                service: Side::default(),
            }));
            conn.io.want(Some(HANGUP_ONLY)).map_err(|errno| Failure::own(errno, "epoll"))?;
        }
        self.limit_request(key);
        Ok(())
    }

    fn dial(&self, key: Key, number: u16, v6: bool) -> Result<Watched, Failure> {
        let fd = dial(number, v6).map_err(refusal)?;
        // Latency of small writes through a tunnel matters more than packets on a loopback.
        let _ = sys::setsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, &1i32);
        let token = Source::Port(key).token();
        self.epoll.watch(fd, token, Some(WRITE)).map_err(|errno| Failure::own(errno, "epoll"))
    }

    /// Something happened at the host's side (`host_side`) or at the port's.
    pub fn on_relay(&mut self, key: Key, host_side: bool, mask: u32) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Role::Relay(relay) = &mut conn.role else { return };
        if let Stage::Connecting { number, v6 } = relay.stage {
            if host_side {
                return self.close(key); // only a hang-up is reported so far
            }
            return self.on_dialled(key, number, v6);
        }
        let scratch = self.scratch.bytes();
        let host = &conn.io;
        let host_gone = host_side && mask & GONE != 0;
        let fate = relay.pump(host, host_gone, scratch).and_then(|fate| relay.listen(&mut conn.io).map(|()| fate));
        if !matches!(fate, Ok(Fate::Live)) {
            self.close(key);
        }
    }

    fn on_dialled(&mut self, key: Key, number: u16, v6: bool) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let Role::Relay(relay) = &mut conn.role else { return };
        match sys::socket_error(relay.port.raw()) {
            // Reset already: it was connected, and its end follows the reply.
            0 | libc::ECONNRESET => {
                relay.stage = Stage::Open;
                relay.to_host.push(&json(proto::REPLY, &proto::Nothing {}));
                conn.deadline = None;
                self.on_relay(key, false, WRITE);
            }
            // Servers that listen on `localhost` may have only its IPv6 address.
            _ if !v6 => match self.dial(key, number, true) {
                Ok(port) => {
                    if let Some(Role::Relay(relay)) = self.conns.get_mut(key).map(|conn| &mut conn.role) {
                        relay.port = port;
                        relay.stage = Stage::Connecting { number, v6: true };
                    }
                }
                Err(failure) => self.fail(key, &failure),
            },
            errno => self.fail(key, &refusal(Errno(errno))),
        }
    }
}

impl Relay {
    /// Move what can be moved.
    fn pump(&mut self, host: &Watched, host_gone: bool, scratch: &mut [u8]) -> Sys<Fate> {
        copy(host.raw(), self.port.raw(), &mut self.to_port, &mut self.host.ended, scratch)?;
        if self.host.ended && self.to_port.is_empty() && !self.service.told {
            self.service.told = true;
            sys::shutdown(self.port.raw(), libc::SHUT_WR);
        }
        match copy(self.port.raw(), host.raw(), &mut self.to_host, &mut self.service.ended, scratch) {
            Ok(()) => {}
            // The host is gone, but what it had sent still goes to the port.
            Err(Errno(libc::EPIPE)) if !self.to_port.is_empty() => self.service.ended = true,
            Err(errno) => return Err(errno),
        }
        if self.service.ended && self.to_host.is_empty() && !self.host.told {
            self.host.told = true;
            sys::shutdown(host.raw(), libc::SHUT_WR);
        }
        let all_told = self.host.told && self.service.told;
        let nobody = host_gone && self.host.ended && self.to_port.is_empty();
        Ok(if all_told || nobody { Fate::Over } else { Fate::Live })
    }

    /// Ask epoll for what either side waits for.
    fn listen(&mut self, host: &mut Watched) -> Sys<()> {
        let mask = |reads: bool, writes: bool| if reads { READ } else { 0 } | if writes { WRITE } else { 0 };
        let host_mask = mask(self.to_port.is_empty() && !self.host.ended, !self.to_host.is_empty());
        // While bytes for the port wait, a hang-up of the host would be reported again and again.
        let deaf = host_mask == 0 && !self.to_port.is_empty();
        host.want(if deaf { None } else { Some(host_mask) })?;
        let port_mask = mask(self.to_host.is_empty() && !self.service.ended, !self.to_port.is_empty());
        self.port.want(Some(port_mask).filter(|mask| *mask != 0))
    }
}

/// Move bytes from one socket to the other until one of them has enough.
fn copy(from: i32, to: i32, pending: &mut Output, ended: &mut bool, scratch: &mut [u8]) -> Sys<()> {
    for _ in 0..TURNS {
        pending.flush(to)?;
        if !pending.is_empty() || *ended {
            return Ok(());
        }
        match sys::read(from, scratch) {
            Ok(0) => *ended = true,
            Ok(count) => {
                let sent = match sys::send(to, &scratch[..count]) {
                    Ok(sent) => sent,
                    Err(errno) if again(errno) => 0,
                    Err(errno) => return Err(errno),
                };
                pending.push(&scratch[sent..count]);
            }
            Err(errno) if again(errno) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn dial(number: u16, v6: bool) -> Sys<OwnedFd> {
    let result = if v6 {
        let fd = sys::socket(libc::AF_INET6)?;
        let address = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as u16,
            sin6_port: number.to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: Ipv6Addr::LOCALHOST.octets() },
            sin6_scope_id: 0,
        };
        (connect(&fd, &address), fd)
    } else {
        let fd = sys::socket(libc::AF_INET)?;
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: number.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(Ipv4Addr::LOCALHOST).to_be() },
            sin_zero: [0; 8],
        };
        (connect(&fd, &address), fd)
    };
    match result {
        (Ok(()) | Err(Errno(libc::EINPROGRESS)), fd) => Ok(fd),
        (Err(errno), _) => Err(errno),
    }
}

fn connect<T>(fd: &OwnedFd, address: &T) -> Sys<()> {
    let pointer = std::ptr::from_ref(address).cast();
    // SAFETY: the kernel reads `size_of::<T>()` bytes.
    sys::check(unsafe { libc::connect(fd.as_raw_fd(), pointer, size_of::<T>() as u32) }).map(drop)
}

fn refusal(errno: Errno) -> Failure {
    match errno.0 {
        libc::ECONNREFUSED
        | libc::ETIMEDOUT
        | libc::ENETUNREACH
        | libc::EHOSTUNREACH
        | libc::EADDRNOTAVAIL
        | libc::EAFNOSUPPORT
        | libc::EACCES => Kind::PortClosed.into(),
        _ => Failure::own(errno, "connect"),
    }
}
