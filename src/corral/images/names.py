"""Names of images as people and Dockerfiles write them: `debian-12`, `python:3.12-slim`, `HOST/team/tool:1`.

Owns their grammar, the short form under which they are kept, and the file names of that. Must not know which exist.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import Final

from corral.core import errors

#: The registry that a name without a host means, under both of its names; clients write either, or none.
_DEFAULT_HOSTS: Final = frozenset(f"{host}.io" for host in ("docker", "index.docker", "registry-1.docker"))
_LATEST: Final = "latest"
_LONGEST: Final = 200

#: The reference grammar of Docker and OCI: host, path, tag, digest.
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.?)+(?::[0-9]{1,5})?"
_REFERENCE: Final = re.compile(
    rf"(?P<path>(?:{_HOST}/)?{_PART}(?:/{_PART})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?",
    re.ASCII,
)


def normal(text: str) -> str:
    """The form under which a name is kept: as written, without the default registry's own prefixes.

    Raises errors.Invalid on what is no reference.
    """
    if len(text) > _LONGEST or not (found := _REFERENCE.fullmatch(text)):
        shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
        raise errors.Invalid(
            f"cannot read image name {shown!r}: names are like debian-12, python:3.12-slim, HOST/tool:1"
        )
    path = found["path"]
    host, _, rest = path.partition("/")
    if host in _DEFAULT_HOSTS and rest:
        path = rest.removeprefix("library/")
    elif host == "library" and rest:
        path = rest
    return path + text[found.end("path") :]


def candidates(text: str) -> tuple[str, ...]:
    """The kept names that `text` may mean, the likeliest first: a name without a tag also means its `:latest`.

    Raises errors.Invalid.
    """
    name = normal(text)
    return (name,) if has_tag(name) else (name, f"{name}:{_LATEST}")


def tagged(text: str) -> str:
    """The normal form with a tag or digest: what a registry knows. Raises errors.Invalid."""
    return candidates(text)[-1]


def has_tag(name: str) -> bool:
    """Whether the name says which version it means."""
    return ":" in name.rpartition("/")[2]


def file_name(name: str) -> str:
    """A name of one file for a name in normal form."""
    return urllib.parse.quote(name, safe="")


def of_file(file: str) -> str:
    """The name that `file_name` made this of."""
    return urllib.parse.unquote(file)
