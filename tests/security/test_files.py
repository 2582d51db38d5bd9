"""The file interface against a hostile tree, and what a box's files are on the host."""

from __future__ import annotations

import asyncio
import os
import stat
import struct
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.runtime.contract import FileProblem, FileProblemKind
from corral.runtime.linux import mounts
from tests.security.yard import HOSTILE, MARKS, NEIGHBOUR, Yard

pytestmark = MARKS

NOWHERE = {FileProblemKind.NOT_FOUND, FileProblemKind.DENIED, FileProblemKind.BAD_PATH, FileProblemKind.NOT_DIRECTORY}
CALL_S = 5.0


async def chunks(*parts: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(pause)


async def refusal(yard: Yard, path: str, *, user: str = "root", write: bool = False) -> FileProblemKind | None:
    """Why the file interface refuses the path; None when it does not."""
    try:
        async with asyncio.timeout(CALL_S):
            if write:
                await yard.runtime.write_file(HOSTILE, path, chunks(b"x"), user=user)
            else:
                reader = await yard.runtime.read_file(HOSTILE, path, user=user)
                try:
                    async for _ in reader:
                        pass
                finally:
                    await reader.close()
    except FileProblem as error:
        return error.kind
    return None


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("of the host")
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("user", ["root", "user"])
async def test_no_path_leads_to_a_file_of_the_host(yard: Yard, secret: Path, user: str) -> None:
    links = {"absolute": str(secret), "dots": "../" * 40 + str(secret)[1:], "proc": f"/proc/self/root{secret}"}
    home = "/root" if user == "root" else "/home/user"
    await yard.probe(f"[os.path.lexists(n) or os.symlink(t, n) for n, t in {links}.items()]; tell(1)"
                     .replace("[os", f"os.chdir({home!r}); [os", 1), user=user)  # fmt: skip
    paths = [
        *(f"~/{name}" for name in links),
        str(secret),
        "../" * 40 + str(secret)[1:],
        f"/proc/self/root{secret}",
        f"/proc/1/root{secret}",
        f"/proc/thread-self/root{secret}",
        f"/proc/1/cwd{secret}",
        f"/proc/{os.getpid()}/root{secret}",
        f"/proc/self/fd/../root{secret}",
    ]
    for path in paths:
        assert await refusal(yard, path, user=user) in NOWHERE, path
    for path in paths:
        # A write makes the missing folders in the box, so only the host's side can tell.
        await refusal(yard, path, user=user, write=True)
        assert secret.read_text() == "of the host"


@pytest.mark.parametrize("user", ["root", "user"])
async def test_shadow_is_the_boxes_own(yard: Yard, user: str) -> None:
    if user == "user":
        assert await refusal(yard, "/etc/shadow", user=user) is FileProblemKind.DENIED
        return
    reader = await yard.runtime.read_file(HOSTILE, "/etc/shadow", user=user)
    text = b"".join([part async for part in reader])
    await reader.close()
    assert text != Path("/etc/shadow").read_bytes()


@pytest.mark.parametrize("user", ["root", "user"])
@pytest.mark.parametrize(
    "path",
    [
        *(f"/proc/{whose}/{name}" for whose in ("self", "1", "thread-self") for name in ("mem", "environ", "exe")),
        *("/proc/self/pagemap", "/proc/1/root", "/proc/kcore", "/proc/kmsg", "/run/corral/guest"),
    ],
)
async def test_the_guest_does_not_give_itself_away(yard: Yard, path: str, user: str) -> None:
    assert await refusal(yard, path, user=user) in {*NOWHERE, FileProblemKind.OTHER, FileProblemKind.IS_DIRECTORY}


@pytest.mark.parametrize("user", ["root", "user"])
async def test_the_guests_descriptors_lead_to_no_spool(yard: Yard, user: str) -> None:
    await yard.hold("tell('kept'); time.sleep(3)")
    folder = yard.places.spool / HOSTILE
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    readable = []
    for number in range(48):
        for place in ("/proc/self/fd", "/proc/1/fd"):
            if await refusal(yard, f"{place}/{number}", user=user) is None:
                readable.append(number)
            # Taken as text, the link's target is a name in the box, where root may write.
            await refusal(yard, f"{place}/{number}", user=user, write=True)
    assert readable == []
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("write", [False, True])
async def test_what_is_no_regular_file_is_refused_at_once(yard: Yard, write: bool) -> None:
    await yard.probe("""
os.chdir("/srv")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
for name_, target in {"to-fifo": "fifo", "to-zero": "/dev/zero", "ring": "ring", "to-stdin": "/dev/stdin"}.items():
    os.symlink(target, name_)
tell(1)
""" if not write else "tell(1)")  # fmt: skip
    for path in (
        *("/srv/fifo", "/srv/socket", "/srv/to-fifo", "/srv/to-zero", "/srv/ring", "/srv/to-stdin"),
        *("/dev/zero", "/dev/full", "/dev/random", "/dev/tty", "/dev/null", "/dev/ptmx", "/srv", "/proc/1/fd/3"),
    ):
        began = time.monotonic()
        assert await refusal(yard, path, write=write) is not None, path
        assert time.monotonic() - began < 2, path


async def test_a_folder_that_becomes_a_link_during_a_write_takes_no_rights_along(yard: Yard) -> None:
    """Root swaps a folder for a link to /etc all the time; a write by the user must never land there."""
    await yard.hold("""
os.makedirs("/srv/swap/real", exist_ok=True)
os.chmod("/srv/swap", 0o777)
os.chmod("/srv/swap/real", 0o777)
os.symlink("/etc", "/srv/swap/link")
tell(1)
end = time.monotonic() + 4
while time.monotonic() < end:
    for target in ("real", "link"):
        os.symlink(target, "/srv/swap/next")
        os.rename("/srv/swap/next", "/srv/swap/door")
""")
    for turn in range(40):
        try:
            parts = chunks(b"a" * 1000, b"b" * 1000, pause=0.01)
            await yard.runtime.write_file(HOSTILE, f"/srv/swap/door/landed{turn}", parts, user="user")
        except FileProblem:
            continue
    found = await yard.probe("tell([name for name in os.listdir('/etc') if 'landed' in name or '.corral' in name])")
    assert found == []


async def test_root_of_a_box_is_nobody_of_the_host_and_its_files_no_programs_there(yard: Yard) -> None:
    await yard.probe("""
open("/srv/suid", "w").write("#!/bin/sh\\n")
os.chmod("/srv/suid", 0o6755)
attempt(os.setxattr, "/srv/suid", "security.capability", struct.pack("<IIIII", 0x02000001, 0xFFFFFFFF, 0, 0x1FF, 0))
open("/srv/users", "w").close()
os.chown("/srv/users", 1000, 1000)
tell(1)
""")
    base = yard.id_base(HOSTILE)
    # On the disk the ids are those of the inside, so that a copy is another box's disk: nobody can get there, and
    # nothing there is a program.
    home = yard.upper(HOSTILE).parents[1]
    disk = next(mount for mount in mounts.current() if Path(mount.target) == home)
    assert {"nosuid", "noexec", "nodev"} <= set(disk.options.split(","))
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    with pytest.raises(PermissionError):
        subprocess.run([yard.upper(HOSTILE) / "srv" / "suid"], timeout=5, check=False)
    folder = Path(f"/proc/{(await yard.runtime.inspect(HOSTILE)).pid}/root/srv")
    made = folder / "suid"
    assert (made.lstat().st_uid, made.lstat().st_gid) == (base, base)
    assert base >= 0x2000_0000
    assert (folder / "users").lstat().st_uid == base + 1000
    assert yard.id_base(NEIGHBOUR) - base not in range(-65535, 65536)
    try:
        capability = os.getxattr(made, "security.capability", follow_symlinks=False)
    except OSError:
        return
    # Revision 3 names the root for whom it counts: the box's, not the host's.
    magic, *_, root = struct.unpack("<IIIIII", capability)
    assert (magic & 0xFF00_0000, root) == (0x0300_0000, base)


async def test_an_id_outside_of_the_boxes_range_cannot_be_had(yard: Yard) -> None:
    found = await yard.probe("""
open("/srv/owner", "w").close()
tell([attempt(os.chown, "/srv/owner", 65536, 0), attempt(os.chown, "/srv/owner", 0x20000000, 0),
      attempt(os.setuid, 70000), attempt(os.setgroups, [70000])])
""")
    assert set(found) == {"EINVAL"}


async def test_layers_of_the_image_stay_as_they_are(yard: Yard) -> None:
    layer = yard.spec("x").layers[0].path
    before = {
        name: (layer / name).stat().st_mtime_ns for name in ("etc/passwd", "usr/bin/env") if (layer / name).exists()
    }
    assert before
    await yard.probe("""
for path in ("/etc/passwd", "/usr/bin/env"):
    os.utime(path, (1, 1))
    os.chmod(path, 0o755)
tell(1)
""")
    assert {name: (layer / name).stat().st_mtime_ns for name in before} == before
    assert "1970" not in (await yard.run(NEIGHBOUR, "stat", "-c", "%y", "/etc/passwd")).stdout


async def test_output_beyond_the_limit_is_dropped_and_said(yard: Yard) -> None:
    ran = await yard.run(HOSTILE, "bash", "-c", "head -c 40000000 /dev/zero; (sleep 0.3; head -c 4000000 /dev/zero) &",
                         limit=65536)  # fmt: skip
    assert ran.result.stdout_cut
    await asyncio.sleep(0.6)
    sizes = [path.stat().st_size for path in (yard.places.spool / HOSTILE).glob("*.stdout")]
    assert max(sizes) <= 1 << 20
    await yard.answers()
