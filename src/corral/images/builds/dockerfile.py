"""Which images a Dockerfile names, so that they can be laid beside it before it is built.

Owns a reading that need not be right: buildah is the judge of what a Dockerfile says. A name that is found here and
means nothing does no harm, and one that is missed is a base that buildah does not find, and says so.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Final

import dockerfile_parse
from dockerfile_parse.parser import image_from

#: Bytes of a Dockerfile, as of the builders that clients know.
MOST: Final = 1024 * 1024

#: Names that are looked up at most: a Dockerfile has as many stages as it likes.
MOST_NAMES: Final = 100

_NO_IMAGE: Final = frozenset({"scratch", "corral-files"})
#: `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+instead}`.
_VARIABLE: Final = re.compile(r"\$(?:(\w+)|\{(\w+)(?::([-+])([^{}]*))?\})", re.ASCII)
_COPY_FROM: Final = re.compile(r"(?:^|\s)--from=(\S+)")
_MOUNT_FROM: Final = re.compile(r"(?:^|\s)--mount=\S*?\bfrom=([^,\s]+)")


def images(text: str, build_args: Mapping[str, str]) -> tuple[str, ...]:
    """Names after FROM, COPY --from= and RUN --mount=from=, less those of stages; at most MOST_NAMES, in order."""
    parser = dockerfile_parse.DockerfileParser(
        fileobj=io.BytesIO(text.encode()), cache_content=True, env_replace=False
    )
    stages: set[str] = set()
    named: list[str] = []
    given: dict[str, str] = {}
    for step in parser.structure:
        value = step["value"] or ""
        if step["instruction"] == "ARG" and not named:
            name, _, default = value.strip().partition("=")
            given[name] = build_args.get(name, default.strip("\"'"))
        elif step["instruction"] == "FROM":
            image, stage = image_from(value)
            if image is not None:
                named.append(_filled(image.strip("\"'"), given))
            if stage is not None:
                stages.add(stage.lower())
        elif step["instruction"] in {"COPY", "ADD"}:
            named += _COPY_FROM.findall(value)
        elif step["instruction"] == "RUN":
            named += _MOUNT_FROM.findall(value)
    wanted = (name for name in named if name and name.lower() not in stages | _NO_IMAGE and not name.isdecimal())
    return tuple(dict.fromkeys(wanted))[:MOST_NAMES]


def _filled(text: str, given: Mapping[str, str]) -> str:
    """The text with its variables replaced, those of FROM being the arguments before the first one."""

    def value(found: re.Match[str]) -> str:
        known = given.get(found[1] or found[2], "")
        if found[3] == "+":
            return found[4] if known else ""
        return known or found[4] or ""

    return _VARIABLE.sub(value, text)
