"""Which images Corral builds itself, as data: suite, packages, wheels, environment and user of each flavour.

Owns the recipe and its digest. Must not run anything: `build` carries recipes out.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from corral.core import errors
from corral.images import official, pins
from corral.images.pins import Wheel
from corral.runtime.contract import User

DEFAULT: Final = "debian-12"
#: For devboxes that ask for Docker, and for builds of images.
DOCKER: Final = "docker"
BUILDER: Final = "builder"

SKELETONS: Final = Path(__file__).with_name("skeletons")

#: The code that carries recipes out is part of each of them.
_CODE: Final = tuple(
    Path(__file__).with_name(name)
    for name in ("build.py", "assembly.py", "packages.py", "finish.py", "certificates.py")
)


@dataclass(frozen=True, slots=True)
class Flavour:
    """A recipe. `packages` are Debian's; `wheels` go to /usr/local, with Node.js unpacked rather than installed.

    With a `base` it is one layer on that flavour, of the same suite. `skeletons` are folders of files to lay over the
    tree, `links` symbolic links to make in it (path -> what it points at), `without` folders that its packages
    bring and nobody needs, `groups` those that the user joins.
    """

    name: str
    suite: str
    packages: tuple[str, ...]
    base: str | None = None
    wheels: tuple[Wheel, ...] = ()
    node: Wheel | None = None
    skeletons: tuple[str, ...] = ("base",)
    links: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    user: User = field(default_factory=User)

    def recipe(self) -> str:
        """Digest of all that decides what a build makes, apart from the day's state of the mirrors."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        if self.base is not None:
            digest.update(flavour(self.base).recipe().encode())
        for path in _CODE:
            # Without comments and layout, so that only a change of what is done builds images again.
            digest.update(ast.unparse(ast.parse(path.read_text())).encode())
        for path, name in self.skeleton_files():
            digest.update(f"{name}\0{path.stat().st_mode & 0o111:o}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def skeleton_files(self) -> Iterator[tuple[Path, Path]]:
        """Files that are laid over the tree, in a fixed order, each with its path below the root."""
        for skeleton in self.skeletons:
            folder = SKELETONS / skeleton
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    yield path, path.relative_to(folder)

    def pack(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> Flavour:
        """The flavour that `pack` made this from."""
        wheels = tuple(map(_unpack_wheel, packed["wheels"]))
        node = packed["node"] and _unpack_wheel(packed["node"])
        lists = {name: tuple(packed[name]) for name in ("packages", "skeletons", "without", "groups")}
        return cls(**{**packed, **lists, "wheels": wheels, "node": node, "user": User(**packed["user"])})


def _unpack_wheel(packed: Mapping[str, Any]) -> Wheel:
    return Wheel(packed["name"], packed["version"], tuple(packed["hashes"]))


# python3-venv brings the wheels from which `python3 -m venv` installs pip; pip itself comes as a wheel, for one that
# Debian's package manager owns cannot be upgraded by `pip install --upgrade pip`.
_PYTHON = ("python3", "python3-venv", "python-is-python3")
_TOOLS = (
    "bash", "bzip2", "ca-certificates", "curl", "file", "git", "gnupg", "gpgv", "iproute2", "iputils-ping", "jq",
    "less", "lsof", "nano", "netbase", "openssh-client", "openssh-sftp-server", "patch", "procps", "psmisc",
    "ripgrep", "rsync", "sudo", "tzdata", "unzip", "vim-tiny", "wget", "xz-utils", "zip", "zstd",
)  # fmt: skip
_COMPILERS = ("build-essential", "python3-dev")
# What agents and graders of tasks take for granted, and Corral itself: SFTP, certificates, sudo.
_SLIM = (
    "bash", "bzip2", "ca-certificates", "curl", "git", "netbase", "openssh-sftp-server", "patch", "procps", "sudo",
    "tzdata", "unzip", "xz-utils", "zstd",
)  # fmt: skip
# iptables and nft: dockerd and compose's networks use either; pigz: layers unpack on all cores.
_DOCKER = ("docker.io", "docker-cli", "docker-buildx", "docker-compose", "iptables", "nftables", "pigz")
# crun starts the steps. Without netavark buildah does not even load an image, though it makes no network. skopeo lays
# images out without compressing their layers; buildah cannot.
_BUILDER = ("buildah", "crun", "netavark", "skopeo")
# buildah's tests.
_BUILDER_WITHOUT = ("usr/libexec/buildah",)

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
    # An interpreter that uv would fetch comes from a site that many networks do not reach, after minutes of trying.
    "UV_PYTHON_DOWNLOADS": "never",
}
# What the packages leave out already, said again for whoever looks at the environment.
_PYTHON_ENV: Final = {**_ENV, "PIP_BREAK_SYSTEM_PACKAGES": "1", "UV_BREAK_SYSTEM_PACKAGES": "1"}
# Scripts of such images name the interpreter by its whole path.
_PYTHON_LINKS: Final = {"usr/local/bin/python": "/usr/bin/python3", "usr/local/bin/python3": "/usr/bin/python3"}


def _stock() -> Iterator[Flavour]:
    slim, full = (*_PYTHON, *_SLIM), (*_TOOLS, *_COMPILERS)
    yield Flavour(DEFAULT, "bookworm", (*_PYTHON, *full), wheels=pins.PYTHON, node=pins.NODE_24, env=_ENV)
    yield Flavour("debian-12-slim", "bookworm", slim, wheels=pins.PYTHON, env=_ENV)
    yield Flavour("debian-13-slim", "trixie", slim, wheels=pins.PYTHON, env=_ENV)
    layers = [
        _layer("debian-13", "debian-13-slim", full, node=pins.NODE_24),
        _layer(BUILDER, "debian-13-slim", _BUILDER, skeletons=("builder",), without=_BUILDER_WITHOUT, env=_ENV),
        _layer(DOCKER, "debian-13", _DOCKER, skeletons=("docker",), groups=("docker",)),
    ]
    for version, debian in (("3.11", "debian-12"), ("3.13", "debian-13")):
        python: dict[str, Any] = {"links": _PYTHON_LINKS, "env": _PYTHON_ENV}
        layers += [
            _layer(f"python-{version}-slim", f"{debian}-slim", ("python3-dev",), **python),
            _layer(f"python-{version}", debian, (), **python),
        ]
    for major, node in pins.NODES.items():
        layers += [
            _layer(f"node-{major}-slim", "debian-13-slim", (), node=node),
            _layer(f"node-{major}", f"node-{major}-slim", full),
        ]
    yield from layers


def _layer(name: str, base: str, packages: tuple[str, ...], **more: Any) -> Flavour:
    suite = "bookworm" if base.startswith("debian-12") else "trixie"
    return Flavour(name, suite, packages, base, **{"skeletons": (), "env": _ENV, **more})


FLAVOURS: Final[Mapping[str, Flavour]] = {flavour.name: flavour for flavour in _stock()}


def flavour(name: str) -> Flavour:
    """The recipe of this name. Raises NotFound with the names that exist."""
    try:
        return FLAVOURS[name]
    except KeyError:
        message = f"cannot build image {name}: there is no such recipe, there are {', '.join(sorted(FLAVOURS))}"
        raise errors.NotFound(message) from None


def flavour_of(reference: str) -> str | None:
    """The flavour that stands for an image of the registries, as `python:3.11-slim`; None when there is none.

    A name that was imported or pulled goes first.
    """
    found = official.flavour_of(reference)
    return found if found in FLAVOURS else None
