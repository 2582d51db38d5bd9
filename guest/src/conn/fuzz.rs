//! The parser of frames against frames in random pieces and against random bytes.

use std::io::Write;
use std::mem::size_of_val;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{Budget, Input, Step, DESCRIPTORS_MAX, HELD_MAX, SMALL};
use crate::proto;

fn pair() -> (UnixStream, UnixStream) {
    let (host, guest) = UnixStream::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    (host, guest)
}

/// Numbers that are the same for a seed: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % end
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

/// One round, and further ones for as long as FUZZ_SECONDS says; `make fuzz` sets it and FUZZ_SEED.
fn rounds(mut round: impl FnMut(&mut Random)) {
    let number = |name: &str, other| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(other);
    let (seed, ends) = (number("FUZZ_SEED", 1), Instant::now() + Duration::from_secs(number("FUZZ_SECONDS", 0)));
    let mut random = Random(seed);
    loop {
        round(&mut random);
        if Instant::now() >= ends {
            return;
        }
    }
}

fn a_frame(random: &mut Random) -> (u8, Vec<u8>) {
    let length = [1, 5, 100, SMALL, SMALL + 1, 70_000][random.below(6)];
    match random.below(5) {
        0 => (proto::END, Vec::new()),
        1 => (proto::REQUEST, random.bytes(length)),
        _ => (proto::DATA, random.bytes(length)),
    }
}

#[test]
fn frames_in_random_pieces_come_out_as_they_went_in() {
    rounds(|random| {
        for _ in 0..20 {
            let ((mut host, guest), mut scratch, budget) = (pair(), vec![0; 4096], Budget::new());
            let mut input = Input::new(budget.clone());
            let sent: Vec<_> = (0..random.below(6)).map(|_| a_frame(random)).collect();
            let bytes: Vec<u8> =
                sent.iter().flat_map(|(kind, body)| [&proto::header(*kind, body.len())[..], body].concat()).collect();
            let (mut rest, mut got) = (bytes.as_slice(), Vec::new());
            while !rest.is_empty() {
                let most = [1, 3, 5, 6, 1000, 40_000][random.below(6)];
                let (piece, after) = rest.split_at(most.min(rest.len()));
                host.write_all(piece).unwrap();
                rest = after;
                while let Step::Frame(kind, body, share) = input.step(guest.as_raw_fd(), &mut scratch) {
                    assert_eq!(share.map_or(0, |share| share.bytes), if body.len() > SMALL { body.len() } else { 0 });
                    got.push((kind, body));
                }
            }
            assert!(got == sent);
            assert_eq!(budget.0.get(), 0);
        }
    });
}

#[test]
fn random_bytes_take_no_more_than_the_budget_and_give_it_back() {
    rounds(|random| {
        let budget = Budget::new();
        let mut held = Vec::new();
        for _ in 0..300 {
            let ((mut host, guest), mut scratch) = (pair(), vec![0; 4096]);
            let mut input = Input::new(budget.clone());
            let count = random.below(40);
            let mut bytes = random.bytes(count);
            if random.below(3) > 0 {
                let length = [0, 1, SMALL + 1, proto::MAX_DATA, proto::MAX_REQUEST, usize::MAX][random.below(6)];
                let mut head = proto::header(random.below(8) as u8, length).to_vec();
                head.append(&mut bytes);
                bytes = head;
            }
            host.write_all(&bytes).unwrap();
            for _ in 0..bytes.len() {
                match input.step(guest.as_raw_fd(), &mut scratch) {
                    Step::Frame(..) => {}
                    _ => break,
                }
            }
            assert!(input.body.len() <= bytes.len());
            assert!(budget.0.get() <= HELD_MAX);
            held.push((host, guest, input));
        }
        held.clear();
        assert_eq!(budget.0.get(), 0);
    });
}

#[test]
fn descriptors_do_not_pile_up() {
    let ((host, guest), mut scratch) = (pair(), [0; 64]);
    let mut input = Input::new(Budget::new());
    let head = proto::header(proto::REQUEST, 100);
    let mut refused = false;
    for index in 0..100 {
        send_with_descriptors(&host, head.get(index).copied().unwrap_or(b'x'));
        refused |= matches!(input.step(guest.as_raw_fd(), &mut scratch), Step::Bad(_));
        assert!(input.fds.len() <= DESCRIPTORS_MAX + 4);
        if refused {
            return;
        }
    }
    panic!("300 descriptors were taken");
}

/// One byte and three descriptors.
fn send_with_descriptors(host: &UnixStream, byte: u8) {
    let fds = [host.as_raw_fd(); 3];
    let mut control = [0u64; 8];
    let mut part = libc::iovec { iov_base: std::ptr::from_ref(&byte).cast_mut().cast(), iov_len: 1 };
    // SAFETY: all zeroes is a valid msghdr; its pointers outlive the call; `control` has room for three.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of_val(&fds) as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of_val(&fds) as u32) as _;
        std::ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(header).cast(), fds.len());
        assert_eq!(libc::sendmsg(host.as_raw_fd(), &message, 0), 1);
    }
}
