"""What a box leaves on its disk for boxes that begin as a copy of it, and for the host that makes the copy."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

from corral.runtime.contract import ExecSpec, Stream
from tests.security.yard import MARKS, Yard

pytestmark = MARKS

#: Where the host, or the next box's guest, would write: led to files of the host, as root of the host sees them.
RUIN = r"""
cd /; rm -rf /etc/hostname /etc/hosts /etc/resolv.conf /run/corral 2>/dev/null
for up in .. ../.. ../../../../../../..; do ln -sfn $up /up; done
ln -s ../../../../../../../../../../HOSTILE/mark /etc/hostname
ln -s /proc/1/root/HOSTILE/mark /etc/hosts
mkfifo /etc/resolv.conf
mv /home /house; ln -s /../../../../../../../HOSTILE /home
(cd /srv; mkdir -p work work/incompat upper); chmod 000 /srv
setfattr -n trusted.overlay.redirect -v /../../../etc /var 2>/dev/null
setfattr -n trusted.overlay.opaque -v y /usr 2>/dev/null
setfattr -n user.overlay.redirect -v /etc /var 2>/dev/null
mknod /dev/sda b 8 0 2>/dev/null; mknod /white c 0 0 2>/dev/null
ls -d /up /etc/hostname
"""


async def test_a_hostile_disk_leads_its_copies_and_the_host_nowhere(yard: Yard, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.write_text("the host's\n")
    inside = str(tmp_path).lstrip("/")
    async with yard.victim("ruined"):
        ran = await yard.run("ruined", "bash", "-c", RUIN.replace("HOSTILE", inside))
        assert ran.stdout.split() == ["/etc/hostname", "/up"], ran
        await yard.runtime.snapshot("ruined", "snp_ruined")
        try:
            spec = replace(yard.spec("heir"), origin="snp_ruined")
            await yard.runtime.create(spec)
            seen = await yard.run("heir", "bash", "-c", "hostname; ls -A /up; test -e /dev/sda || echo no device")
            assert seen.stdout.splitlines()[0] == "heir-host"
            assert seen.stdout.splitlines()[-1] == "no device"
            assert "HOSTILE" not in seen.stdout
            await yard.runtime.destroy("heir")
        finally:
            await yard.runtime.forget_snapshot("snp_ruined")
    assert mark.read_text() == "the host's\n"
    assert sorted(os.listdir(tmp_path)) == ["mark"]


async def test_a_copy_has_ids_addresses_and_processes_of_its_own(yard: Yard) -> None:
    async with yard.victim("first"):
        await yard.run("first", "bash", "-c", "echo secret > /root/file; chmod 600 /root/file; setsid sleep 600 &")
        await yard.runtime.snapshot("first", "snp_first")
        try:
            await yard.runtime.create(replace(yard.spec("second"), origin="snp_first"))
            seen = await yard.run("second", "bash", "-c", "stat -c %u:%a /root/file; pgrep -cx sleep; hostname -I")
            owner, sleepers, address = seen.stdout.split()
            assert (owner, sleepers) == ("0:600", "0")
            assert address == yard.address("second") != yard.address("first")
            assert abs(yard.id_base("first") - yard.id_base("second")) >= 65536
            read = await yard.run("second", "cat", "/root/file", user="user")
            assert read.code != 0
            await yard.runtime.destroy("second")
        finally:
            await yard.runtime.forget_snapshot("snp_first")


#: What goes on in the copy, and a connection that must not, which waits for somebody to take it.
KNOWING = """
import socket, time
secret = "known to the first"
server = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(server.getsockname())
print("ready", flush=True)
time.sleep(600)
"""
RIGHTS = "grep -E 'Cap|Seccomp|NoNewPrivs' /proc/$(pgrep -x python3)/status"


async def test_a_copy_with_memory_has_nothing_of_the_first_ones_but_what_it_knew(yard: Yard) -> None:
    async with yard.victim("first"):
        await yard.runtime.execute("first", ExecSpec("e1", ("python3", "-c", KNOWING), user="user"))
        while not yard.runtime.output_size("first", "e1", Stream.STDOUT):
            await asyncio.sleep(0.02)
        await yard.runtime.snapshot("first", "snp_first", memory=True)
        try:
            spec = replace(yard.spec("second"), origin="snp_first", memory=True, executions={"e1": "e2"})
            await yard.runtime.create(spec)
            assert yard.address("second") != yard.address("first")
            assert abs(yard.id_base("first") - yard.id_base("second")) >= 65536
            pid = yard.runtime._host.living["second"].record.pid
            held = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
            spool = yard.places.spool
            assert any(path.startswith(f"{spool}/second/") for path in held)
            assert not any(path.startswith(f"{spool}/first") for path in held)
            rights = [(await yard.run(box, "bash", "-c", RIGHTS)).stdout for box in ("first", "second")]
            assert rights[0] == rights[1] != ""
            inside = "hostname -I; ls /proc/1/fd /proc/1/cwd/ 2>&1 | grep -c denied; grep -c ' 01 ' /proc/net/tcp"
            seen = (await yard.run("second", "bash", "-c", inside)).stdout.split()
            assert seen == [yard.address("second"), "2", "0"]
            assert (await yard.run("second", "cat", "/proc/1/exe")).code != 0
            await yard.runtime.destroy("second")
        finally:
            await yard.runtime.forget_snapshot("snp_first")
