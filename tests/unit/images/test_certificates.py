"""Which certificates of the host reach an image."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from corral.images import certificates


def pem(der: bytes, width: int = 64) -> str:
    body = base64.b64encode(der).decode()
    rows = [body[at : at + width] for at in range(0, len(body), width)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *rows, "-----END CERTIFICATE-----", ""])


COMMON, PRIVATE = b"c" * 200, b"p" * 200


def make_tree(root: Path) -> Path:
    shipped = root / "usr/share/ca-certificates/mozilla"
    shipped.mkdir(parents=True)
    (shipped / "Common.crt").write_text(pem(COMMON))
    return root


def test_a_certificate_is_known_by_its_content_however_it_is_wrapped() -> None:
    found = certificates.certificates([f"# a note\n{pem(COMMON, 76)}text between\n{pem(COMMON, 64)}"])
    assert found == {hashlib.sha256(COMMON).hexdigest(): pem(COMMON)}


def test_only_what_debian_lacks_is_added(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    assert certificates.install(tree, certificates.certificates([pem(COMMON) + pem(PRIVATE)])) == 1
    (added,) = (tree / "usr/local/share/ca-certificates").iterdir()
    assert added.read_text() == pem(PRIVATE)
    # update-ca-certificates reads no other ending.
    assert added.suffix == ".crt"


def test_a_host_that_trusts_nothing_more_changes_nothing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    assert certificates.install(tree, certificates.certificates([pem(COMMON)])) == 0
    assert list((tree / "usr/local/share/ca-certificates").iterdir()) == []
