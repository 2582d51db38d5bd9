"""What root in a box sees and may change of the machine: its own processes and files, and nothing of the host's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.security.yard import BOTH, HOSTILE, MARKS, NEIGHBOUR, Yard

pytestmark = MARKS

NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
DEVICES = {
    *("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue"),
    *("fd", "stdin", "stdout", "stderr", "core"),
}

STATUS = """
fields = dict(line.split(":\\t", 1) for line in open("/proc/{pid}/status").read().splitlines() if ":\\t" in line)
tell({{key: fields[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp", "Uid")}})
"""


@BOTH
async def test_every_namespace_is_the_boxes_own(yard: Yard) -> None:
    program = f"tell({{kind: os.readlink('/proc/self/ns/' + kind) for kind in {NAMESPACES}}})"
    mine = await yard.probe(program)
    others = await yard.probe(program, box=NEIGHBOUR)
    for kind in NAMESPACES:
        assert len({mine[kind], others[kind], os.readlink(f"/proc/self/ns/{kind}")}) == 3, kind


@BOTH
async def test_process_1_has_exactly_the_capabilities_of_the_list_and_a_filter(yard: Yard) -> None:
    found = await yard.probe(STATUS.format(pid=1))
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(found[kind], 16) == yard.capabilities, kind
    assert int(found["CapAmb"], 16) == int(found["CapInh"], 16) == 0
    assert found["Seccomp"] == "2"


@BOTH
async def test_sudo_gives_the_boxes_root_and_no_more(yard: Yard) -> None:
    program = "import os; print(open('/proc/self/status').read())"
    ran = await yard.run(yard.hostile, "sudo", "-n", "python3", "-c", program, user="user")
    fields = dict(line.split(":\t", 1) for line in ran.stdout.splitlines() if ":\t" in line)
    assert {int(fields[kind], 16) for kind in ("CapPrm", "CapEff", "CapBnd")} == {yard.capabilities}
    assert int(fields["CapAmb"], 16) == int(fields["CapInh"], 16) == 0
    assert fields["Seccomp"] == "2"


@BOTH
async def test_a_command_of_the_user_has_no_capability(yard: Yard) -> None:
    found = await yard.probe(STATUS.format(pid="self"), user="user")
    assert {int(found[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert (int(found["CapBnd"], 16), found["Seccomp"], found["Uid"].split()) == (yard.capabilities, "2", ["1000"] * 4)


@BOTH
async def test_no_process_of_the_host_or_of_a_neighbour_is_seen(yard: Yard) -> None:
    await yard.hold("tell(os.getpid()); time.sleep(5)", box=NEIGHBOUR)
    found = await yard.probe("""
names = [name for name in os.listdir("/proc") if name.isdigit()]
tell([content(f"/proc/{pid}/cmdline").decode() for pid in names if os.path.exists(f"/proc/{pid}/cmdline")])
""")
    assert 2 <= len(found) < 10
    assert not any("time.sleep(5)" in line and "listdir" not in line for line in found)


@BOTH
@pytest.mark.parametrize(
    "path",
    [
        *(
            f"/proc/1/{name}"
            for name in ("environ", "mem", "maps", "auxv", "pagemap", "stack", "syscall", "io", "exe")
        ),
        *(f"/proc/1/{name}" for name in ("root/etc/passwd", "cwd/etc/passwd", "task/1/mem", "task/1/environ")),
        *(f"/proc/1/fd/{number}" for number in range(4)),
        *("/proc/kmsg", "/proc/kpagecount", "/proc/kpageflags", "/proc/slabinfo", "/proc/vmallocinfo"),
        *("/proc/pagetypeinfo", "/run/corral/guest", "/sys/kernel/debug/x", "/sys/kernel/tracing/x"),
    ],
)
@pytest.mark.parametrize("user", ["root", "user"])
async def test_a_secret_of_process_1_or_the_kernel_cannot_be_read(yard: Yard, path: str, user: str) -> None:
    found = await yard.probe(f"tell(attempt(content, {path!r}))", user=user)
    assert found in {"EACCES", "EPERM", "ENOENT"}


@BOTH
async def test_process_1_cannot_be_listed(yard: Yard) -> None:
    found = await yard.probe("""
tell({name: attempt(os.listdir, f"/proc/1/{name}") for name in ("fd", "fdinfo", "map_files", "root")}
     | {name: attempt(os.readlink, f"/proc/1/{name}") for name in ("exe", "cwd", "ns/mnt", "ns/user")})
""")
    assert set(found.values()) <= {"EACCES", "EPERM"}, found


async def test_masked_files_are_empty(yard: Yard) -> None:
    files = ("kcore", "keys", "timer_list", "timer_stats", "sched_debug", "latency_stats", "interrupts")
    folders = (
        *("/proc/acpi", "/proc/scsi", "/proc/asound", "/sys/firmware", "/sys/fs/btrfs"),
        *("/sys/devices/virtual/powercap", "/sys/devices/virtual/block"),
    )
    found = await yard.probe(f"""
tell([content("/proc/" + name).decode() for name in {files} if os.path.exists("/proc/" + name)]
     + [os.listdir(folder) for folder in {folders} if os.path.exists(folder)])
""")
    assert found
    assert not any(found), found


async def test_the_disks_of_others_have_no_name_here(yard: Yard) -> None:
    found = await yard.probe("""
tell([path for path, _, files in os.walk("/sys") for file in files if file in ("backing_file", "referenced")])
""")
    assert found == []


@BOTH
async def test_kernel_addresses_are_hidden(yard: Yard) -> None:
    found = await yard.probe("tell(attempt(content, '/proc/kallsyms')); tell(content('/proc/kallsyms').decode()[:16])")
    assert int(found, 16) == 0


async def test_nothing_in_sys_or_proc_can_be_opened_for_writing(yard: Yard) -> None:
    found = await yard.probe("""
opened, tried = [], 0
for top in ("/sys", "/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/driver", "/proc/tty"):
    for folder, _, files in os.walk(top):
        for file in files:
            path = folder + "/" + file
            if os.path.islink(path):
                continue
            tried += 1
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                opened.append(path)
            except OSError:
                pass
for file in os.listdir("/proc"):
    path = "/proc/" + file
    if os.path.isfile(path) and not os.path.islink(path) and attempt(os.open, path, os.O_WRONLY) == "done":
        opened.append(path)
tell([tried, opened])
""")
    assert found[0] > 1000
    assert found[1] == []


@pytest.mark.parametrize(
    "path",
    ["kernel/core_pattern", "kernel/modprobe", "kernel/hostname", "kernel/ns_last_pid", "vm/drop_caches",
     "vm/overcommit_memory", "net/ipv4/ip_forward", "net/ipv6/conf/all/disable_ipv6", "fs/file-max"],
)  # fmt: skip
async def test_a_setting_of_the_kernel_is_not_written(yard: Yard, path: str) -> None:
    # The current content, so that a success would do no harm.
    found = await yard.probe(f"""
path = "/proc/sys/{path}"
before = content(path) if os.path.exists(path) and os.access(path, os.R_OK) else b"0"
tell(attempt(lambda: os.write(os.open(path, os.O_WRONLY), before)))
""")
    assert found in {"EROFS", "EACCES", "EPERM", "ENOENT"}


@BOTH
async def test_the_oom_score_cannot_be_lowered(yard: Yard) -> None:
    found = await yard.probe("""
def lower(pid):
    with open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write("-1000")
tell([attempt(lower, "self"), attempt(lower, 1)])
""")
    assert set(found) <= {"EACCES", "EPERM"}


@BOTH
async def test_there_are_only_harmless_devices(yard: Yard) -> None:
    found = await yard.probe("""
nodes = subprocess.run(["find", "/", "-path", "/proc", "-prune", "-o", "(", "-type", "b", "-o", "-type", "c", ")",
                        "-print"], capture_output=True, text=True).stdout.split()
tell([os.listdir("/dev"), nodes])
""")
    names, nodes = found
    assert set(names) <= DEVICES
    allowed = {f"/dev/{name}" for name in DEVICES}
    assert {node for node in nodes if not node.startswith("/dev/pts/")} <= allowed


@BOTH
@pytest.mark.parametrize("kind", ["S_IFBLK", "S_IFCHR"])
async def test_a_device_node_cannot_be_made(yard: Yard, kind: str) -> None:
    disk = os.stat("/").st_dev
    places = ("/tmp/node", "/dev/node", "/dev/shm/node", "/root/node")
    found = await yard.probe(f"""
tell([attempt(os.mknod, path, stat.{kind} | 0o666, {disk}) for path in {places}])
""")
    assert set(found) == {"EPERM"}


@BOTH
async def test_the_hosts_null_device_stays_the_hosts(yard: Yard) -> None:
    def state() -> list[tuple[int, int, int, int]]:
        found = [os.stat(f"/dev/{name}") for name in ("null", "zero", "full", "random", "urandom", "tty")]
        return [(one.st_uid, one.st_gid, one.st_mode, one.st_rdev) for one in found]

    before = state()
    found = await yard.probe("""
tell([attempt(os.chmod, "/dev/null", 0o600), attempt(os.chown, "/dev/null", 0, 0), attempt(os.remove, "/dev/null"),
      attempt(os.setxattr, "/dev/null", "user.x", b"1"), attempt(os.utime, "/dev/null", (1, 1))])
""")
    assert "done" not in found
    assert state() == before


async def test_control_groups_cannot_be_changed(yard: Yard) -> None:
    found = await yard.probe("""
writable = [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if attempt(os.mkdir, folder + "/x") == "done"]
tell(writable)
""")
    assert found == []


@BOTH
async def test_no_descriptor_or_socket_of_the_host_is_in_the_box(yard: Yard) -> None:
    data, boxes = str(yard.places.data), str(yard.places.boxes)
    found = await yard.probe(f"""
links = []
for pid in [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]:
    try:
        links += [os.readlink(f"/proc/{{pid}}/fd/{{fd}}") for fd in os.listdir(f"/proc/{{pid}}/fd")]
    except OSError:
        pass
sockets = subprocess.run(["find", "/", "-path", "/proc", "-prune", "-o", "-type", "s", "-print"],
                         capture_output=True, text=True).stdout.split()
tell([links, sockets, open("/proc/net/unix").read(), os.path.exists({boxes!r}), os.path.exists("/run/corral/blocks")])
""")
    links, sockets, unix, *seen = found
    assert not [link for link in links if data in link]
    # What the boxes of this tier make themselves is in /srv.
    assert [path for path in sockets if not path.startswith("/srv/")] == []
    # The guest listens in the box's network, so that its memory can be kept with it: a name without a folder.
    named = [fields[7] for line in unix.splitlines()[1:] if len(fields := line.split()) > 7]
    assert [name for name in named if name != "guest.sock" and not name.startswith("/srv/")] == []
    assert seen == [False, False]


async def test_the_data_folder_is_closed_to_every_other_user_of_the_host(yard: Yard) -> None:
    data = yard.places.data
    for path in (data, data / "boxes", data / "spool", data / "run", data / "pool"):
        if path.exists():
            assert path.stat().st_mode & 0o077 == 0, path
    socket = yard.places.socket(yard.hostile)
    assert (socket.stat().st_uid, socket.stat().st_mode & 0o777) == (0, 0o600)
    assert Path(data / "spool" / HOSTILE).stat().st_mode & 0o077 == 0
