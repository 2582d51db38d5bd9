"""Which flavour is meant by the name of an official image of the registries: `debian`, `python`, `node`.

Owns the reading of their tags. What is asked for first decides: the version of the interpreter over the release of
Debian below it, since a flavour has one of each. Must not know what a flavour holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from corral.core import errors
from corral.images import names

_SUITES: Final = {
    "bookworm": "12", "12": "12", "oldstable": "12",
    "trixie": "13", "13": "13", "stable": "13", "latest": "13",
}  # fmt: skip
_PYTHONS: Final = {"3.11": "3.11", "3.13": "3.13", "3": "3.13", "latest": "3.13"}
#: Those of a release of Debian, for names that say no more than that.
_PYTHON_OF: Final = {"12": "3.11", "13": "3.13"}
_NODES: Final = {
    "24": "24", "krypton": "24", "lts": "24", "latest": "24", "current": "24",
    "22": "22", "jod": "22",
    "20": "20", "iron": "20",
}  # fmt: skip

_SLIM: Final = "slim"
_DATE: Final = re.compile(r"20\d{6}(\.\d+)?")
_RELEASES: Final = ("bookworm", "trixie")


def flavour_of(reference: str) -> str | None:
    """The name of the flavour; None for names of others, and for versions and systems of which there is no flavour.

    A reference by digest asks for those very bytes, which no flavour has.
    """
    try:
        name, _, tag = names.normal(reference).partition(":")
    except errors.Invalid:
        return None
    reader = _READERS.get(name)
    if reader is None or "@" in tag:
        return None
    parts = (tag or "latest").split("-")
    slim = _SLIM in parts
    found = reader([part for part in parts if part != _SLIM] or ["latest"])
    return f"{found}-{_SLIM}" if found and slim else found


def _debian(parts: list[str]) -> str | None:
    suite, *rest = parts
    if len(rest) > 1 or not all(map(_DATE.fullmatch, rest)):
        return None
    release = _SUITES.get(_shortened(suite, 1))
    return release and f"debian-{release}"


def _python(parts: list[str]) -> str | None:
    version, releases = _split(parts)
    if any(release not in _RELEASES for release in releases):
        return None
    if version in {"3", "latest"} and releases:
        return f"python-{_PYTHON_OF[_SUITES[releases[0]]]}"
    found = _PYTHONS.get(_shortened(version, 2))
    return found and f"python-{found}"


def _node(parts: list[str]) -> str | None:
    version, releases = _split(parts)
    if any(release not in _RELEASES for release in releases):
        return None
    found = _NODES.get(_shortened(version, 1))
    return found and f"node-{found}"


def _split(parts: list[str]) -> tuple[str, list[str]]:
    """The version, and what else is said: `bookworm` alone means the latest version on it."""
    return ("latest", parts) if parts[0] in _RELEASES else (parts[0], parts[1:])


def _shortened(version: str, numbers: int) -> str:
    """Without the numbers of lesser versions."""
    given = version.split(".")
    return ".".join(given[:numbers]) if len(given) <= 3 and all(map(str.isdecimal, given)) else version


_READERS: Final[dict[str, Callable[[list[str]], str | None]]] = {
    "debian": _debian,
    "buildpack-deps": _debian,
    "python": _python,
    "node": _node,
}
