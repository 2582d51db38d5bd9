"""The script that starts Docker divides the group that it runs in, where there are controllers to give on."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.devboxes import docker
from corral.runtime.linux import syscalls

pytestmark = pytest.mark.root

#: Folders that the script writes to are not the host's; `dockerd` is one that ends at once.
_SCRIPT = """
set -e
echo $$ > {group}/cgroup.procs
exec unshare --cgroup --mount bash -c '
    for folder in /run /var/log /etc; do mount -t tmpfs none $folder; done
    mount -t cgroup2 none /sys/fs/cgroup
    sleep 60 & idle=$!
    PATH={bin}:$PATH bash {script} 0
    cd /sys/fs/cgroup
    echo "divided: $(cat cgroup.subtree_control)"
    echo "left: $(cat cgroup.procs)"
    echo "idle: $(cat /proc/$idle/cgroup | grep ^0)"
    kill $idle'
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """All control groups of version 2, whether or not the host has them mounted."""
    target = tmp_path / "groups"
    target.mkdir()
    syscalls.mount("cgroup", str(target), "cgroup2")
    yield target
    syscalls.umount2(str(target))


@pytest.fixture
def group(root: Path) -> Iterator[Path]:
    """A group with all controllers that the host has on version 2."""
    control = root / "cgroup.subtree_control"
    fresh = set((root / "cgroup.controllers").read_text().split()) - set(control.read_text().split())
    control.write_text(" ".join(f"+{name}" for name in fresh))
    made = root / f"corral-test-{os.getpid()}"
    made.mkdir()
    yield made
    for _ in range(100):
        if "populated 0" in (made / "cgroup.events").read_text():
            break
        time.sleep(0.05)
    for inner in [*(one for one in made.iterdir() if one.is_dir()), made]:
        inner.rmdir()
    control.write_text(" ".join(f"-{name}" for name in fresh))


def test_controllers_are_given_on_and_no_process_is_in_the_way(group: Path, tmp_path: Path) -> None:
    (tmp_path / "start-docker").write_bytes(docker.script())
    stub = tmp_path / "dockerd"
    stub.write_text("#!/bin/sh\nexit 3\n")
    stub.chmod(0o755)
    text = _SCRIPT.format(group=group, bin=tmp_path, script=tmp_path / "start-docker")
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False, timeout=30)
    assert "dockerd ended" in done.stderr, done
    controllers = (group / "cgroup.controllers").read_text().strip()
    inside = "0::/init" if controllers else "0::/"
    left = [line for line in done.stdout.splitlines() if line.startswith("left:")]
    assert f"divided: {controllers}" in done.stdout.splitlines(), done
    assert f"idle: {inside}" in done.stdout.splitlines(), done
    assert (left == ["left: "]) == bool(controllers), done
