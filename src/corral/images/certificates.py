"""Certificates that this host trusts and a plain Debian does not: those of a company's proxy, for example.

Owns reading the host's bundles. Must not decide what a box trusts beyond what its host does.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")

#: Where distributions keep the bundle, Debian's first.
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)
_LOCAL: Final = Path("/usr/local/share/ca-certificates")


def certificates(texts: Iterable[str]) -> dict[str, str]:
    """Every certificate in the texts: SHA-256 of its DER -> PEM."""
    bodies = ("".join(body.split()) for text in texts for body in _PEM.findall(text))
    return {hashlib.sha256(base64.b64decode(body)).hexdigest(): _pem(body) for body in bodies}


def of_host() -> dict[str, str]:
    """All that the host trusts: its bundle, its local certificates, and the bundle that SSL_CERT_FILE names."""
    named = [Path(name) for name in (*_BUNDLES, os.environ.get("SSL_CERT_FILE", "")) if name]
    paths = [path for path in (*named, *sorted(_LOCAL.rglob("*.crt"))) if path.is_file()]
    return certificates(path.read_text(errors="replace") for path in paths)


def install(rootfs: Path, trusted: dict[str, str]) -> int:
    """Put those of `trusted` that the tree's own Debian lacks into it; return how many.

    The caller runs update-ca-certificates in the tree afterwards.
    """
    shipped = sorted((rootfs / "usr/share/ca-certificates").rglob("*.crt"))
    known = certificates(path.read_text(errors="replace") for path in shipped)
    extra = {digest: pem for digest, pem in trusted.items() if digest not in known}
    folder = rootfs / "usr/local/share/ca-certificates"
    folder.mkdir(parents=True, exist_ok=True)
    for digest, pem in extra.items():
        (folder / f"host-{digest[:16]}.crt").write_text(pem)
    return len(extra)


def _pem(body: str) -> str:
    rows = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *rows, "-----END CERTIFICATE-----", ""])
