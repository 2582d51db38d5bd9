"""System calls that a box must not have, made directly, with the errno that each must give."""

from __future__ import annotations

import platform
import signal

import pytest

from tests.security.yard import BOTH, MARKS, Yard

pytestmark = MARKS

MACHINES = ("x86_64", "aarch64")
#: Name -> number on x86_64, on aarch64 (None: there is none). Arguments are zeros: allowed, they would do no harm.
REFUSED = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "unshare": (272, 97),
    "setns": (308, 268),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "acct": (163, 89),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "kcmp": (312, 272),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "iopl": (172, None),
    "ioperm": (173, None),
    "uselib": (134, None),
    "sysfs": (139, None),
    "ustat": (136, None),
}
#: Calls that libraries try and do without: for the box, no kernel has them.
UNKNOWN = {"clone3": (435, 435), "lsm_get_self_attr": (459, 459), "no such call": (9999, 9999)}
CLONE = (56, 220)
NAMESPACES = {
    "mount": 0x0002_0000,
    "cgroup": 0x0200_0000,
    "uts": 0x0400_0000,
    "ipc": 0x0800_0000,
    "user": 0x1000_0000,
    "pid": 0x2000_0000,
    "network": 0x4000_0000,
}
#: Families that a box may open: UNIX, INET, INET6, NETLINK, PACKET, and XDP, which needs CAP_NET_ADMIN to be bound.
FAMILIES = {1, 2, 10, 16, 17, 44}
VSOCK, ALG = 40, 38

#: int 0x80 in a 64-bit process: the 32-bit calls have numbers, and once had holes, of their own.
COMPAT = """
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
page = libc.mmap(None, 4096, 7, 0x22 | 0x40, -1, 0)
code = bytes.fromhex("5389f889f34189c889d14489c2cd805bc3")
ctypes.memmove(page, code, len(code))
raw = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_int] * 4)(page)
"""

compat = pytest.mark.skipif(platform.machine() != "x86_64", reason="32-bit calls of x86")


def number(pair: tuple[int, int | None]) -> int | None:
    return pair[MACHINES.index(platform.machine())]


@pytest.mark.parametrize("user", ["root", "user"])
async def test_a_refused_call_gives_eperm(yard: Yard, user: str) -> None:
    calls = {name: found for name, pair in REFUSED.items() if (found := number(pair)) is not None}
    found = await yard.probe(
        f"tell({{key: call(number, 0, 0, 0, 0, 0) for key, number in {calls}.items()}})", user=user
    )
    assert {name: code for name, code in found.items() if code != "EPERM"} == {}
    assert len(found) > 40


async def test_an_unknown_call_gives_enosys(yard: Yard) -> None:
    calls = {name: number(pair) for name, pair in UNKNOWN.items()}
    found = await yard.probe(f"tell({{key: call(number, 0, 0, 0, 0) for key, number in {calls}.items()}})")
    assert set(found.values()) == {"ENOSYS"}


@pytest.mark.parametrize("user", ["root", "user"])
async def test_no_new_namespace_of_any_kind_is_made(yard: Yard, user: str) -> None:
    found = await yard.probe(
        f"""
flags = {NAMESPACES}
found = {{}}
for kind, flag in flags.items():
    pid = libc.syscall(ctypes.c_long({number(CLONE)}), ctypes.c_long(flag | 17), *[ctypes.c_long(0)] * 4)
    if pid == 0:
        os._exit(0)
    found[kind] = [name(ctypes.get_errno()) if pid < 0 else "done", call({number(REFUSED["unshare"])}, flag)]
tell(found)
""",
        user=user,
    )
    assert found == {kind: ["ENOSYS", "EPERM"] for kind in NAMESPACES}


@BOTH
async def test_process_1_cannot_be_traced_or_read(yard: Yard) -> None:
    found = await yard.probe("""
libc.ptrace.argtypes = [ctypes.c_long] * 4
libc.ptrace.restype = ctypes.c_long
def trace(request):
    ctypes.set_errno(0)
    return name(ctypes.get_errno()) if libc.ptrace(request, 1, 0, 0) == -1 else "done"
room = ctypes.create_string_buffer(64)
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
here, there = Vector(ctypes.addressof(room), 64), Vector(0x400000, 64)
def reach(call):
    ctypes.set_errno(0)
    done = call(1, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    return name(ctypes.get_errno()) if done == -1 else "done"
handle = os.pidfd_open(1)
tell({"attach": trace(16), "seize": trace(0x4206), "read": reach(libc.process_vm_readv),
      "write": reach(libc.process_vm_writev)} | {f"fd {fd}": call(438, handle, fd, 0) for fd in range(8)})
""")
    assert set(found.values()) == {"EPERM"}, found


@BOTH
async def test_no_signal_ends_process_1(yard: Yard) -> None:
    await yard.probe("""
for signal_ in range(1, 65):
    attempt(os.kill, 1, signal_)
    attempt(signal.pidfd_send_signal, os.pidfd_open(1), signal_)
tell(1)
""")
    await yard.answers("hostile")


@BOTH
async def test_the_clock_is_not_adjusted(yard: Yard) -> None:
    found = await yard.probe("""
room = (ctypes.c_long * 32)()
room[0] = 1  # ADJ_OFFSET
results = []
for call_ in (lambda: libc.adjtimex(room), lambda: libc.clock_adjtime(0, room)):
    ctypes.set_errno(0)
    results.append(name(ctypes.get_errno()) if call_() == -1 else "done")
tell(results)
""")
    assert found == ["EPERM", "EPERM"]


@BOTH
async def test_limits_of_the_host_are_not_raised(yard: Yard) -> None:
    found = await yard.probe("""
import resource
def more(kind):
    soft, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY:
        return "EPERM"
    try:
        resource.setrlimit(kind, (soft, hard + 1))
    except (OSError, ValueError) as error:
        return "EPERM"
    return "done"
tell([more(resource.RLIMIT_NOFILE), more(resource.RLIMIT_CORE), more(resource.RLIMIT_MEMLOCK),
      attempt(os.setpriority, 0, 0, -5), attempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(5))])
""")
    assert set(found) <= {"EPERM", "EACCES"}


@BOTH
@pytest.mark.parametrize("user", ["root", "user"])
async def test_only_socket_families_of_the_boxes_own_network_can_be_opened(yard: Yard, user: str) -> None:
    found = await yard.probe(
        """
opened = []
for family in range(64):
    for kind in (1, 2, 3, 5):
        if attempt(lambda: socket.socket(family, kind, 0).close()) == "done":
            opened.append(family)
tell(sorted(set(opened)))
""",
        user=user,
    )
    assert set(found) <= FAMILIES
    assert VSOCK not in found
    assert ALG not in found


@BOTH
@compat
async def test_32_bit_calls_end_the_caller(yard: Yard) -> None:
    """Their sockets cannot be filtered by family, so there are none; 20 is getpid, 102 socketcall, 21 mount."""
    found = await yard.probe(
        COMPAT
        + """
ends = []
for number in (20, 102, 21, 310, 359):
    pid = os.fork()
    if pid == 0:
        raw(number, 40, 1, 0)
        os._exit(0)
    ends.append(os.waitpid(pid, 0)[1])
tell(ends)
"""
    )
    assert {status & 0x7F for status in found} == {signal.SIGSYS}


@BOTH
@compat
async def test_calls_of_the_x32_interface_do_not_exist(yard: Yard) -> None:
    found = await yard.probe("""
results = []
for number in (39, 165, 272):
    pid = os.fork()
    if pid == 0:
        os._exit(7 if call(number | 0x40000000, 0, 0, 0, 0, 0) == "done" else 0)
    results.append(os.waitpid(pid, 0)[1])
tell(results)
""")
    # An errno, or an end by SIGSYS.
    assert not [status for status in found if status >> 8 == 7]


@BOTH
async def test_a_file_capability_gives_no_more_than_the_box_has(yard: Yard) -> None:
    found = await yard.probe("""
import shutil
path = "/root/python"
shutil.copy(os.path.realpath(sys.executable), path)
every = 0xFFFFFFFF
value = struct.pack("<IIIII", 0x02000001, every, 0, 0x1FF, 0)
set_ = attempt(os.setxattr, path, "security.capability", value)
try:
    told = subprocess.check_output([path, "-c", "print(open('/proc/self/status').read())"], text=True)
except OSError as error:
    told = "CapEff:\\t0"
fields = dict(line.split(":\\t", 1) for line in told.splitlines() if ":\\t" in line)
os.remove(path)
tell([set_, fields["CapEff"]])
""")
    assert found[0] in {"done", "EPERM"}
    assert int(found[1], 16) & ~yard.capabilities == 0
