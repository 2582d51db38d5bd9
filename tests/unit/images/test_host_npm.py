"""A host's npm settings reach boxes as far as they say where packages come from."""

from __future__ import annotations

from pathlib import Path

from corral.images import stock
from corral.runtime.oci import hostfiles

HOST = """\
registry=http://mirror.test/npm/
@team:registry = http://team.test/npm/
strict-ssl=true
cafile=/etc/ssl/certs/ca-certificates.crt
nodedir=/usr
yes=false
//mirror.test/npm/:_authToken=secret
proxy=http://me:secret@proxy.test:3128
"""


def npmrc(root: Path, text: str) -> bytes | None:
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/npmrc").write_text(text)
    return hostfiles.read(root, {}).files.get("etc/npmrc")


def test_the_registry_reaches_a_box_without_folders_habits_or_secrets(tmp_path: Path) -> None:
    found = npmrc(tmp_path, HOST)
    assert found is not None
    assert found.decode().splitlines() == [
        "registry=http://mirror.test/npm/",
        "@team:registry = http://team.test/npm/",
        "strict-ssl=true",
        "cafile=/etc/ssl/certs/ca-certificates.crt",
    ]


def test_a_host_that_says_nothing_about_registries_adds_no_file(tmp_path: Path) -> None:
    assert npmrc(tmp_path, "nodedir=/usr\nfund=false\n") is None


def test_npm_in_the_default_image_reads_that_file() -> None:
    assert stock.flavour(stock.DEFAULT).env["NPM_CONFIG_GLOBALCONFIG"] == "/etc/npmrc"
