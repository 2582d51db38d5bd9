"""A program that tries, from inside a box, to get hold of the socket on which process 1 is spoken to.

Prints one line for each way that was open, and `tried N ways` at the end.
"""

from __future__ import annotations

from typing import Final

PROGRAM: Final = r"""
import ctypes, os, socket, stat

libc = ctypes.CDLL(None, use_errno=True)
PIDFD_OPEN, PIDFD_GETFD, PIDFD_THREAD = 434, 438, os.O_EXCL
ways = 0


def attempt(what, way):
    global ways
    ways += 1
    try:
        found = way()
    except OSError:
        return
    if found is not None:
        print("open:", what, found)


def inherited():
    held = [fd for fd in range(64) if os.path.exists(f"/proc/self/fd/{fd}") and stat.S_ISSOCK(os.fstat(fd).st_mode)]
    return held or None


def stolen(pid, flags, number):
    pidfd = libc.syscall(PIDFD_OPEN, pid, flags)
    if pidfd < 0:
        return None
    fd = libc.syscall(PIDFD_GETFD, pidfd, number, 0)
    os.close(pidfd)
    return fd if fd >= 0 else None


def called(address):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        sock.connect(address)
        sock.sendall(b"\x01\x0e\0\0\0" + b'{"op":"hello"}')
        answer = sock.recv(100)
        return answer if b"protocol" in answer else None


attempt("a socket that a command inherits", inherited)
tasks = []
try:
    tasks = [int(name) for name in os.listdir("/proc/1/task")]
except OSError:
    pass
for task in {1, *tasks}:
    attempt(f"the list of descriptors of task {task}", lambda: os.listdir(f"/proc/1/task/{task}/fd"))
    for number in range(32):
        place = f"/proc/1/task/{task}/fd/{number}"
        attempt(f"{place}, opened", lambda: os.open(place, os.O_RDWR))
        attempt(f"descriptor {number} of task {task}, taken", lambda: stolen(task, PIDFD_THREAD, number))
for number in range(32):
    attempt(f"descriptor {number} of process 1, taken", lambda: stolen(1, 0, number))
names = [line.split()[7] for line in open("/proc/net/unix") if len(line.split()) > 7]
for name in names:
    attempt(f"a socket by the name {name}", lambda: called("\0" + name[1:] if name[0] == "@" else name))
print("tasks", len(tasks))
print("tried", ways, "ways")
"""
