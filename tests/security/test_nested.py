"""What root in a nested box, with mounts and namespaces at its command, still does not reach."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path

from corral.runtime.contract import STORES
from tests.security.test_calls import REFUSED, number
from tests.security.yard import IN_NESTED, LIMITS, MARKS, NEIGHBOUR, Yard

pytestmark = [*MARKS, IN_NESTED]

#: Calls with which containers are made.
ALLOWED = {
    *("mount", "umount2", "pivot_root", "unshare", "setns", "open_tree", "move_mount", "fsopen", "fsconfig"),
    *("fsmount", "fspick", "mount_setattr", "sethostname", "setdomainname"),
}
UNKNOWN = {"add_key", "keyctl", "request_key"}
#: Settings that the kernel keeps for each namespace: those of user, network, ipc, uts and pid namespaces.
OWN_FOLDERS = ("user/", "net/", "fs/mqueue/")
#: A switch that the kernel has once and every network namespace can turn on (SECURITY.md). Not tried: there is no
#: way back before the host boots again.
SHARED_SWITCH = "net/netfilter/nf_hooks_lwtunnel"
OWN_SETTINGS = {
    *("auto_msgmni", "msg_next_id", "msgmax", "msgmnb", "msgmni", "sem", "sem_next_id", "shm_next_id"),
    *("shm_rmid_forced", "shmall", "shmmax", "shmmni", "domainname", "hostname", "ns_last_pid", "pid_max"),
}
MOUNT = """
libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
def mount(source, target, kind, flags=0, data=None):
    ctypes.set_errno(0)
    wrapped = [None if a is None else a.encode() for a in (source, target, kind)]
    done = libc.mount(*wrapped, flags, None if data is None else data.encode())
    return name(ctypes.get_errno()) if done else "done"
def umount(target, flags=0):
    ctypes.set_errno(0)
    return name(ctypes.get_errno()) if libc.umount2(target.encode(), flags) else "done"
def write(path, text):
    with open(path, "w") as file:
        file.write(text)
def fresh(kind):
    os.makedirs(f"/mnt/{kind}", exist_ok=True)
    return f"/mnt/{kind}"
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, SHARED = 1, 2, 4, 8, 32, 4096, 16384, 1 << 20
if libc.unshare(0x00020000):
    raise OSError(ctypes.get_errno(), "unshare")
"""


async def test_a_refused_call_is_refused_to_a_nested_box_too(yard: Yard) -> None:
    calls = {key: found for key, pair in REFUSED.items() if key not in ALLOWED and (found := number(pair)) is not None}
    found = await yard.probe(f"tell({{key: call(number, 0, 0, 0, 0, 0) for key, number in {calls}.items()}})")
    wanted = {name: "ENOSYS" if name in UNKNOWN else "EPERM" for name in calls}
    assert found == wanted
    assert len(found) > 30


async def test_files_of_the_kernel_are_closed_without_covers(yard: Yard) -> None:
    """What a plain box has covers for, the ids of a nested one close: in the /proc it has, and in one it mounts."""
    files = ("kcore", "timer_list", "kmsg", "kpagecount", "kpageflags", "slabinfo", "vmallocinfo", "pagetypeinfo")
    found = await yard.probe(
        MOUNT
        + f"""
pid = os.fork()
if pid == 0:
    libc.unshare(0x20000000)
    if os.fork() == 0:
        told = {{"proc": mount("proc", fresh("proc"), "proc")}}
        for top in ("/proc", "/mnt/proc"):
            for file in {files}:
                told[f"{{top}}/{{file}}"] = attempt(content, f"{{top}}/{{file}}")
            told[f"{{top}}/sysrq"] = attempt(write, f"{{top}}/sysrq-trigger", "h")
            told[f"{{top}}/keys"] = len(content(f"{{top}}/keys")) if os.path.exists(f"{{top}}/keys") else 0
        tell(told)
        os._exit(0)
    os.wait()
    os._exit(0)
os.wait()
"""
    )
    assert found.pop("proc") == "done"
    keys = [found.pop(path) for path in ("/proc/keys", "/mnt/proc/keys")]
    assert set(found.values()) <= {"EACCES", "EPERM", "ENOENT"}, found
    assert keys == [0, 0]


async def test_no_sys_tells_of_the_disks_of_others(yard: Yard) -> None:
    data = str(yard.places.data)
    found = await yard.probe(
        MOUNT
        + """
told = [mount("sysfs", fresh("sysfs"), "sysfs")]
for top in ("/sys", "/mnt/sysfs"):
    for path, _, files in os.walk(top):
        for file in files:
            if file in ("backing_file", "referenced", "rsv_data", "exclusive"):
                try:
                    told.append([path, content(path + "/" + file).decode()])
                except OSError:
                    pass
tell(told)
"""
    )
    ours = {path.name for path in Path("/sys/fs/btrfs").iterdir() if path.stat().st_mode & 0o077 == 0}
    assert found[0] == "done"
    assert ours
    assert [one for one in found[1:] if data in one[1] or ours & set(one[0].split("/"))] == []


async def test_nothing_of_the_host_in_sys_can_be_written(yard: Yard) -> None:
    found = await yard.probe(
        MOUNT
        + """
tried, opened = 0, []
told = mount("sysfs", fresh("sysfs"), "sysfs")
for folder, _, files in os.walk("/mnt/sysfs"):
    for file in files:
        path = folder + "/" + file
        if os.path.islink(path):
            continue
        tried += 1
        if attempt(lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))) == "done":
            opened.append(path.removeprefix("/mnt/sysfs"))
tell([told, tried, opened])
"""
    )
    told, tried, opened = found
    assert told == "done"
    assert tried > 1000
    # Those of the links of its own network namespace.
    assert [path for path in opened if "/net/" not in path] == []


async def test_a_setting_that_can_be_written_is_the_boxes_own(yard: Yard) -> None:
    """Each one that opens for writing gets another value; on the host none of them changes."""

    def values() -> dict[str, str]:
        found = {}
        for path in (Path(folder, name) for folder, _, names in os.walk("/proc/sys") for name in names):
            with contextlib.suppress(OSError):  # links come and go meanwhile
                found[str(path)] = path.read_text(errors="replace")
        return found

    async with yard.victim("settings") as box:
        await yard.runtime.destroy(box)
        await yard.runtime.create(replace(yard.spec(box, LIMITS), nested=True))
        before = values()
        found = await yard.probe(
            f"""
shared = "/proc/sys/{SHARED_SWITCH}"
"""
            """
opened, tried = [], 0
for folder, _, files in os.walk("/proc/sys"):
    for file in files:
        path = folder + "/" + file
        tried += 1
        if path == shared or attempt(lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))) != "done":
            continue
        opened.append(path)
        try:
            old = content(path).decode().split()
            new = " ".join([str(int(old[0]) + 1 if int(old[0]) < 1 else int(old[0]) - 1), *old[1:]])
        except (OSError, ValueError, IndexError):
            new = "1"
        try:
            os.write(os.open(path, os.O_WRONLY | os.O_NONBLOCK), new.encode())
        except OSError:
            pass
tell([tried, opened])
""",
            box=box,
        )
        after = values()
    tried, opened = found
    assert tried > 500
    both = before.keys() & after.keys() & set(opened) - {"/proc/sys/kernel/ns_last_pid"}
    assert len(both) > 100
    assert {path: (before[path], after[path]) for path in both if before[path] != after[path]} == {}
    inside = {path.removeprefix("/proc/sys/") for path in opened}
    other = {path for path in inside if not path.startswith(OWN_FOLDERS)}
    assert other <= {f"kernel/{name}" for name in OWN_SETTINGS}


async def test_mounts_that_the_host_made_stay_as_they_are(yard: Yard) -> None:
    targets = ["/run/corral/guest", *STORES]
    found = await yard.probe(
        MOUNT
        + f"""
told = {{f"umount {{path}}": umount(path, flag) for path in {targets} for flag in (0, 1, 2)}}
for path in {targets}:
    told[f"move {{path}}"] = mount(path, fresh("moved"), None, 8192)
    told[f"dev {{path}}"] = mount(None, path, None, REMOUNT | BIND)
told["dev /"] = mount(None, "/", None, REMOUNT | BIND)
told["write guest"] = mount(None, "/run/corral/guest", None, REMOUNT | BIND | NOSUID | NODEV)
told["super"] = mount(None, "/", None, REMOUNT | NODEV, "redirect_dir=on")
# A bind without what is mounted on it would show what is below.
told["bare bind"] = mount("/run", fresh("bare"), None, BIND)
told["read"] = attempt(content, "/run/corral/guest")
tell(told)
"""
    )
    assert found.pop("read") in {"EACCES", "EPERM"}
    assert "done" not in found.values(), {key: value for key, value in found.items() if value == "done"}


async def test_what_the_box_mounts_is_seen_by_nobody_else(yard: Yard) -> None:
    def everywhere() -> set[str]:
        found = set()
        for pid in (name for name in os.listdir("/proc") if name.isdigit()):
            try:
                if Path(f"/proc/{pid}/cgroup").read_text().find(f"/{yard.hostile}\n") < 0:
                    found |= set(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
            except OSError:
                continue
        return {line for line in found if "corral-mark" in line}

    found = await yard.hold(
        MOUNT.split("if libc.unshare", maxsplit=1)[0]
        + """
told = [mount(None, "/", None, REC | SHARED)]
told.append(mount("corral-mark", fresh("mark"), "tmpfs"))
told.append(mount("corral-mark", "/var/lib/docker", "tmpfs"))
tell(told)
time.sleep(2)
"""
    )
    assert found == ["done"] * 3
    seen = everywhere()
    await yard.probe(
        MOUNT.split("if libc.unshare", maxsplit=1)[0]
        + """
tell([umount("/var/lib/docker"), umount("/mnt/mark"), mount(None, "/", None, REC | 1 << 18)])
"""
    )
    assert seen == set()


async def test_disks_and_filesystems_of_the_host_are_not_mounted(yard: Yard) -> None:
    kinds = ("ext4", "btrfs", "xfs", "squashfs", "erofs", "vfat", "iso9660")
    hosts = ("devtmpfs", "debugfs", "tracefs", "securityfs", "pstore", "configfs", "hugetlbfs", "efivarfs", "fusectl")
    found = await yard.probe(
        MOUNT
        + f"""
told = {{}}
write("/root/image", "x" * 65536)
for kind in {kinds}:
    for source in ("/root/image", "/dev/loop0", "/dev/vda", "/dev/sda"):
        told[f"{{kind}} {{source}}"] = mount(source, fresh("disk"), kind)
told |= {{kind: mount(kind, fresh("host"), kind) for kind in {hosts}}}
tell(told)
"""
    )
    assert "done" not in found.values(), {key: value for key, value in found.items() if value == "done"}


async def test_a_device_that_the_box_makes_or_finds_opens_nothing(yard: Yard) -> None:
    """Nodes cannot be made on any filesystem that it can mount, nor owners of others' be mapped to its own."""
    disk = os.stat("/").st_dev
    found = await yard.probe(
        MOUNT
        + f"""
told = {{}}
mount("tmpfs", fresh("tmpfs"), "tmpfs")
for folder in ("/mnt/tmpfs", "/var/lib/docker", "/dev"):
    for kind in (stat.S_IFBLK, stat.S_IFCHR):
        told[f"{{folder}} {{kind}}"] = attempt(os.mknod, folder + "/node", kind | 0o666, {disk})
# Whiteouts of overlays are nodes of device 0:0, behind which there is nothing.
os.mknod("/mnt/tmpfs/whiteout", stat.S_IFCHR, 0)
told["whiteout"] = attempt(os.open, "/mnt/tmpfs/whiteout", os.O_RDONLY)
tell(told)
"""
    )
    assert set(found.values()) <= {"EPERM", "EACCES", "ENXIO"}, found


async def test_ids_of_the_disk_are_not_mapped_anew(yard: Yard) -> None:
    """mount_setattr with an id map needs rights over the filesystem, which the pool's are not a box's to have."""
    found = await yard.probe(
        MOUNT
        + """
here, there = os.pipe()
pid = os.fork()
if pid == 0:
    libc.unshare(0x10000000)
    os.write(there, b"x")
    time.sleep(5)
    os._exit(0)
os.read(here, 1)
write(f"/proc/{pid}/uid_map", "0 1000 1")
userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
told = {}
for path in ("/", "/var/lib/docker", "/run/corral/guest"):
    tree = libc.syscall(ctypes.c_long(428), -100, path.encode(), 1)
    told[path + " copied"] = "done" if tree >= 0 else name(ctypes.get_errno())
    attr = (ctypes.c_uint64 * 4)(0x00100000, 0, 0, userns)
    told[path] = call(442, tree, b"", 0x1000, ctypes.addressof(attr), 32) if tree >= 0 else "EPERM"
os.kill(pid, 9)
tell(told)
"""
    )
    mapped = [found[path] for path in ("/", "/var/lib/docker", "/run/corral/guest")]
    assert set(mapped) <= {"EPERM", "EINVAL"}, found


async def test_no_subvolume_is_made_beside_the_limit(yard: Yard) -> None:
    found = await yard.probe("""
import fcntl
folder = os.open("/var/lib/docker", os.O_RDONLY)
args = bytearray(struct.pack("=q4088s", 0, b"x"))
told = {hex(number): attempt(fcntl.ioctl, folder, number, args)
        for number in (0x5000940E, 0x50009418, 0x50009401, 0x50009417, 0x4010942A, 0x8030942B, 0xC0109428, 0xD0009411)}
write = os.open("/var/lib/docker/a", os.O_RDWR | os.O_CREAT)
os.write(write, b"x" * 4096)
copy = os.open("/var/lib/docker/b", os.O_RDWR | os.O_CREAT)
told["clone"] = attempt(fcntl.ioctl, copy, 0x40049409, write)
tell(told)
""")
    assert found.pop("clone") in {"done", "EOPNOTSUPP"}
    assert set(found.values()) == {"ENOSYS"}


async def test_control_groups_of_version_1_cannot_be_changed(yard: Yard) -> None:
    """No release agent either: a program that the host would run as root when a group becomes empty."""
    found = await yard.probe(
        MOUNT
        + """
told, writable = {}, []
kinds = [line.split()[0] for line in open("/proc/cgroups") if not line.startswith("#")] + ["none,name=systemd"]
for kind in kinds:
    target = fresh("v1-" + kind.replace(",", "-"))
    told[kind] = mount("cgroup", target, "cgroup", 0, kind)
    told[kind + " agent"] = mount("cgroup", target, "cgroup", 0, kind + ",release_agent=/tmp/x")
    told[kind + " remount"] = mount("cgroup", target, "cgroup", REMOUNT, kind + ",release_agent=/tmp/x")
    for folder, _, files in os.walk(target) if told[kind] == "done" else ():
        if attempt(os.mkdir, folder + "/x") == "done":
            writable.append(folder)
        writable += [folder + "/" + file for file in files
                     if attempt(lambda: os.close(os.open(folder + "/" + file, os.O_WRONLY))) == "done"]
        told[kind + " has agent"] = "done" if "release_agent" in files else "ENOENT"
told["new"] = mount("cgroup", fresh("new"), "cgroup", 0, "none,name=mine")
tell([told, writable])
"""
    )
    told, writable = found
    assert writable == []
    agents = {key: value for key, value in told.items() if key.endswith(("agent", "remount"))}
    assert "done" not in agents.values(), agents
    assert told["new"] != "done"


async def test_control_groups_of_version_2_are_divided_and_not_widened(yard: Yard) -> None:
    found = await yard.probe("""
def write(path, text):
    with open(path, "w") as file:
        file.write(text)
top = "/sys/fs/cgroup"
told = {name: attempt(write, f"{top}/{name}", "max") for name in os.listdir(top)
        if name.endswith((".max", ".descendants", ".depth", ".high", ".freeze", ".kill", ".weight"))}
told["above"] = content("/proc/self/cgroup").decode().splitlines()[-1].split("::")[1].strip()
made = 0
while made < 5000 and attempt(os.mkdir, f"{top}/g{made}") == "done":
    made += 1
os.mkdir("/tmp/own") if not os.path.exists("/tmp/own") else None
inside = attempt(write, f"{top}/g0/cgroup.procs", str(os.getpid()))
back = attempt(write, f"{top}/cgroup.procs", str(os.getpid()))
for number in range(made):
    os.rmdir(f"{top}/g{number}")
tell([told, made, inside, back, open("/proc/self/mountinfo").read()])
""")
    told, made, inside, back, mountinfo = found
    assert told.pop("above") == "/"
    assert "done" not in told.values()
    assert 0 < made <= 256
    assert (inside, back) == ("done", "done")
    (line,) = (line for line in mountinfo.splitlines() if " - cgroup2 " in line)
    assert line.split()[3] == "/"


async def test_namespaces_are_bounded_for_all_users_of_the_box_together(yard: Yard) -> None:
    found = await yard.probe("""
here, there = os.pipe()
made, children = 0, []
for number in range(40):
    pid = os.fork()
    if pid == 0:
        os.setuid(2000 + number) if number % 2 else None
        libc.unshare(0x10000000)
        count = 0
        # A namespace lives as long as a descriptor of it.
        held = []
        while count < 50 and libc.unshare(0x04000000) == 0:
            held.append(os.open("/proc/self/ns/uts", os.O_RDONLY))
            count += 1
        os.write(there, struct.pack("i", count))
        time.sleep(20)
        os._exit(0)
    children.append(pid)
for _ in children:
    made += struct.unpack("i", os.read(here, 4))[0]
for pid in children:
    os.kill(pid, 9)
tell(made)
""")
    assert 0 < found <= 256


async def test_an_address_that_the_box_gives_itself_reaches_nobody(yard: Yard) -> None:
    """NET_ADMIN is over its own links: what it says of itself there, the host's filter does not believe."""
    theirs = yard.address(NEIGHBOUR)
    found = await yard.run(
        yard.hostile,
        "bash",
        "-c",
        f"ip addr add {theirs}/32 dev eth0 && ip link set eth0 arp on && "
        "ip link add v0 type veth peer name v1 && ip link add b0 type bridge && ip link set v0 master b0 && "
        f"echo made; ping -c1 -W1 -I {theirs} {yard.gateway} >/dev/null 2>&1 && echo answered; "
        f"ip link del b0; ip link del v0; ip link set eth0 arp off; ip addr del {theirs}/32 dev eth0",
    )
    assert found.stdout == "made\n", found
    await yard.answers()


async def test_the_host_has_no_trace_of_the_boxes_links_and_filters(yard: Yard) -> None:
    before = set(os.listdir("/sys/class/net"))
    ran = await yard.run(
        yard.hostile,
        "bash",
        "-c",
        "ip link add spy0 type veth peer name spy1 && ip link set spy1 netns 1; ip link set eth0 netns 1; "
        "ip link add link eth0 name mv0 type macvlan; ls /sys/class/net",
    )
    await yard.run(yard.hostile, "bash", "-c", "ip link del spy0; ip link del mv0")
    assert "eth0" in ran.stdout
    assert not {"spy0", "spy1", "mv0"} & set(os.listdir("/sys/class/net"))
    assert before
