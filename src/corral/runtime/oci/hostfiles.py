"""What of the host's way to the network boxes need as well: resolvers, certificate authorities, proxies, mirrors.

Written once into a small layer that lies on top of a box's image, so that it costs nothing per box. Never copies a
credential: a file or address that holds one is left out.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.core import wholefile
from corral.runtime.contract import Layer
from corral.runtime.oci.config import GUEST_TARGET

BUNDLE: Final = "etc/ssl/certs/ca-certificates.crt"
AUTHORITIES: Final = "usr/local/share/ca-certificates"
STUB: Final = Path("run/systemd/resolve/resolv.conf")

#: Variables that carry a way out. One that names a file counts when that is the certificate bundle, which boxes have.
ADDRESSES: Final = frozenset(
    [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "PIP_TRUSTED_HOST",
        "UV_INDEX_URL",
        "UV_DEFAULT_INDEX",
        "NPM_CONFIG_REGISTRY",
        "npm_config_registry",
        "GOPROXY",
        "GONOSUMDB",
    ]
)
BUNDLES: Final = frozenset(
    [
        "SSL_CERT_FILE",
        "PIP_CERT",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "GIT_SSL_CAINFO",
        "AWS_CA_BUNDLE",
        "HTTPLIB2_CA_CERTS",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
        "NIX_SSL_CERT_FILE",
    ]
)
_SECRET: Final = re.compile(r"://[^/\s@]+@|_auth|_password|password\s*=|token", re.IGNORECASE)
#: Which registry npm uses and how it gets there. The rest of a host's npmrc names its folders, or its owner's habits:
#: `nodedir` breaks compiling in a box, `yes=false` makes npx refuse.
_NPM: Final = re.compile(
    rb"^[ \t]*((?:@[\w.-]+:)?(?:registry|proxy|https-proxy|noproxy|cafile|strict-ssl)[ \t]*=(?!.*@).*?)[ \t]*$",
    re.MULTILINE,
)
_NAMESERVER: Final = re.compile(r"^\s*nameserver\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class HostFiles:
    """`files` maps a path below the box's root to its content; `env` is added to every box; `resolvers` are IPv4."""

    files: Mapping[str, bytes]
    env: Mapping[str, str]
    resolvers: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Names the layer: the same files, the same name."""
        whole = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            whole.update(json.dumps([path, len(content)]).encode() + content)
        return whole.hexdigest()[:32]


def read(root: Path, environ: Mapping[str, str]) -> HostFiles:
    """What the host below `root` (normally /) has."""
    text = resolver_file(root)
    files: dict[str, bytes] = {"etc/resolv.conf": text.encode(), GUEST_TARGET.lstrip("/"): b""}
    for name in (BUNDLE, *_names(root, AUTHORITIES, ".crt")):
        _add(files, root, name, check=False)
    _add(files, root, "etc/pip.conf")
    if registry := b"\n".join(_NPM.findall(_content(root, "etc/npmrc"))):
        files["etc/npmrc"] = registry + b"\n"
    for name in _names(root, "etc/apt/apt.conf.d", ""):
        # Proxies and what a mirror needs; not the hooks, which name programs of the host.
        if re.search(rb"^\s*Acquire::", _content(root, name), re.MULTILINE) and b"docker" not in _content(root, name):
            _add(files, root, name)
    return HostFiles(files, environment(environ), resolvers(text))


def hosts(hostname: str) -> str:
    """/etc/hosts of a box."""
    return f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {hostname}\n"


def resolver_file(root: Path) -> str:
    """The text of a resolv.conf that works outside of the host: a resolver on the host's loopback is not reachable."""
    text = _text(root / "etc/resolv.conf")
    if not resolvers(text):
        behind = _text(root / STUB)
        text = behind if resolvers(behind) else text
    kept = [line for line in text.splitlines() if not _loopback_line(line)]
    return "\n".join(kept) + "\n"


def resolvers(text: str) -> tuple[str, ...]:
    """The IPv4 resolvers of a resolv.conf that are not on a loopback address."""
    found = []
    for name in _NAMESERVER.findall(text):
        try:
            address = ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            continue
        if address.version == 4 and not address.is_loopback:
            found.append(str(address))
    return tuple(dict.fromkeys(found))


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a box gets from the server's environment."""
    return {
        name: value
        for name, value in environ.items()
        if (name in ADDRESSES and not _SECRET.search(value)) or (name in BUNDLES and value == f"/{BUNDLE}")
    }


def write_layer(found: HostFiles, folder: Path) -> Layer:
    """The layer with these files below `folder`, made if it is not there."""
    path = folder / found.digest
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = folder / f"{found.digest}.new-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        for name, content in found.files.items():
            _make_parents(partial, Path(name).parent)
            wholefile.write(partial / name, content, 0o644)
        try:
            partial.rename(path)
        except OSError:
            # Another server of the same data folder cannot be; the same files from a crash before can.
            shutil.rmtree(partial)
            if not path.exists():
                raise
    return Layer(f"host-{found.digest}", path)


def _make_parents(root: Path, folder: Path) -> None:
    for path in (root, *(root / parent for parent in reversed(folder.parents)), root / folder):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def _add(files: dict[str, bytes], root: Path, name: str, *, check: bool = True) -> None:
    content = _content(root, name)
    if content and not (check and _SECRET.search(content.decode(errors="replace"))):
        files[name] = content


def _content(root: Path, name: str) -> bytes:
    try:
        return (root / name).read_bytes()
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        return b""


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _names(root: Path, folder: str, suffix: str) -> Iterable[str]:
    try:
        return sorted(f"{folder}/{path.name}" for path in (root / folder).iterdir() if path.name.endswith(suffix))
    except FileNotFoundError:
        return ()


def _loopback_line(line: str) -> bool:
    match = _NAMESERVER.match(line)
    return match is not None and not resolvers(line)
