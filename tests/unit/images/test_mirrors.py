"""Which of the host's apt sources an image is built from."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.core import errors
from corral.images import mirrors

HOST = """\
Debian|bookworm|http://mirror.test/debian/|bookworm|main
Debian|bookworm|http://mirror.test/debian/|bookworm|contrib
Debian|bookworm-updates|http://mirror.test/debian/|stable-updates|main
Debian|bookworm-security|http://mirror.test/debian-security/|bookworm-security|main
Debian|bookworm-backports|http://mirror.test/debian/|bookworm-backports|main
HashiCorp|bookworm|https://third.test/|bookworm|main
. nodistro|nodistro|https://node.test/|nodistro|main
"""


def test_only_debians_own_lists_are_used() -> None:
    assert mirrors.lines(mirrors.parse(HOST), "bookworm") == [
        "deb http://mirror.test/debian/ bookworm main",
        "deb http://mirror.test/debian-security/ bookworm-security main",
        "deb http://mirror.test/debian/ bookworm-updates main",
    ]


def test_a_newer_host_lends_its_mirrors_to_an_older_suite() -> None:
    text = (
        "Debian|trixie|http://m.test/debian/|trixie|main\nDebian|trixie-security|http://s.test/|trixie-security|main\n"
    )
    assert mirrors.lines(mirrors.parse(text), "bookworm") == [
        "deb http://m.test/debian/ bookworm main",
        "deb http://s.test/ bookworm-security main",
    ]


def test_a_host_without_a_mirror_of_debian_gives_no_lines() -> None:
    assert mirrors.lines(mirrors.parse("Ubuntu|noble|http://m.test/ubuntu/|noble|main\n"), "bookworm") == []


def test_a_list_that_was_never_fetched_is_known_by_its_suite() -> None:
    (source,) = mirrors.parse("$(ORIGIN)|$(CODENAME)|http://m.test/debian/|bookworm|main\n")
    assert source == mirrors.Source("", "bookworm", "http://m.test/debian/", "bookworm", "main")
    assert mirrors.lines([source], "bookworm") == ["deb http://m.test/debian/ bookworm main"]


def test_a_mirror_list_of_a_cloud_image_gives_its_first_entry(tmp_path: Path) -> None:
    listed = tmp_path / "debian.list"
    listed.write_text("# the cloud's own\n\nhttps://cdn.test/debian\tpriority:1\nhttps://other.test/debian\n")
    assert mirrors.reachable(f"mirror+file:{listed}/") == "https://cdn.test/debian"


@pytest.mark.parametrize("uri", ["cdrom:[Debian 12]/", "file:/srv/mirror/", "copy:/srv/mirror/"])
def test_media_of_the_host_are_no_mirror_for_a_box(uri: str) -> None:
    assert mirrors.reachable(uri) is None


def test_a_mirror_that_is_given_comes_before_the_hosts() -> None:
    assert mirrors.of_host("bookworm", "http://m.test/debian http://s.test/debian-security") == [
        "deb http://m.test/debian bookworm main",
        "deb http://m.test/debian bookworm-updates main",
        "deb http://s.test/debian-security bookworm-security main",
    ]


def test_a_host_without_apt_is_told_which_hosts_can_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.Unavailable, match=r"no apt-get in PATH.*Debian"):
        mirrors.of_host("bookworm")
