"""Progress of a build, and what is checked before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from corral.core import errors
from corral.images import build, packages
from corral.images.packages import Progress, Step

OUTPUT = """\
I: running apt-get update...
Get:1 http://mirror.test/debian bookworm InRelease [151 kB]
I: installing remaining packages inside the chroot...
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
Get:1 http://mirror.test/debian bookworm/main amd64 jq [64 kB]
Get:2 http://mirror.test/debian bookworm/main amd64 curl [315 kB]
Unpacking jq (1.6) ...
Unpacking curl (7.88) ...
Setting up jq (1.6) ...
Setting up curl (7.88) ...
"""


def test_progress_counts_each_package_three_times() -> None:
    steps: list[Step] = []
    progress = Progress(steps.append)
    for line in OUTPUT.splitlines():
        progress.feed(line)
    assert steps[0] == Step("reading package lists")
    assert Step("installing packages", 1, 6) in steps
    assert steps[-1] == Step("installing packages", 6, 6)
    assert progress.errors == []


def test_the_causes_of_a_failure_are_kept() -> None:
    progress = Progress(lambda step: None)
    progress.feed("E: Unable to locate package nonesuch")
    progress.feed("Err:1 http://mirror.test/debian bookworm InRelease")
    progress.feed("  Could not resolve 'mirror.test'")
    progress.feed("  Not about an error")
    assert progress.errors == [
        "Unable to locate package nonesuch",
        "http://mirror.test/debian bookworm InRelease: Could not resolve 'mirror.test'",
    ]


@pytest.mark.root
def test_a_host_without_mmdebstrap_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in ("unshare", "setpriv", "chroot"):
        (tmp_path / program).symlink_to(shutil.which(program) or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.Unavailable, match="no mmdebstrap in PATH; run make setup"):
        build.check_host(tmp_path)


def test_installed_packages_come_from_dpkgs_status(tmp_path: Path) -> None:
    folder = tmp_path / "var/lib/dpkg"
    folder.mkdir(parents=True)
    (folder / "status").write_text(
        "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\n\n"
        "Package: jq\nVersion: 1.6-2\nDescription: a\n b\n"
    )
    assert packages.installed(tmp_path) == {"bash": "5.2-1", "jq": "1.6-2"}
