"""The Dockerfile of a blueprint: one text out of everything that it is made of.

Pure. What is returned is what is built, byte for byte. Whatever is mounted or run comes from a caller: nothing of it
may end its own line, heredoc or quotes and be read as an instruction.
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator
from typing import Final

from corral.images.blueprints.model import CodeMount, ContainerService, FileMount, Recipe
from corral.images.builds.model import CARRIED, archive_name
from corral.images.stock import DEFAULT

#: Paths that mean the same in an instruction, in a shell and in JSON.
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9_./+@=,:%-]*")

#: Parsers of Dockerfiles read lines into a buffer; longer ones go in as base64.
_MOST_IN_LINE: Final = 16 * 1024

#: A command that a shell-form RUN hands to the shell as it is: one line, neither JSON nor an option of RUN, without
#: the beginning of a heredoc, and without an escape at its end that would go on with the next line.
_PLAIN_COMMAND: Final = re.compile(r"(?!\[|--|#|.*<<)\S(?:[^\n\r\0]*(?<![\\`\s]))?")

#: Where contents wait for the step that puts them in their place.
_WAITING: Final = "/tmp/.corral-files"  # noqa: S108 - a path in an image under construction


def dockerfile(recipe: Recipe) -> str:
    """The whole text. A Dockerfile without anything beside it is returned as it is."""
    steps = list(_steps(recipe))
    if recipe.dockerfile is None:
        return _joined([f"FROM {recipe.base or DEFAULT}", *steps])
    return _joined([recipe.dockerfile.rstrip("\n"), "", *steps]) if steps else recipe.dockerfile


def base_name(blueprint_id: str) -> str:
    """A blueprint as FROM names it: always this one, whatever is built under its name later."""
    return f"blueprint:{blueprint_id}"


def blueprint_in(name: str) -> str | None:
    """The id of a blueprint, where `base_name` made the name that FROM has."""
    repository, _, tag = name.partition(":")
    return tag if repository == "blueprint" and tag.startswith("bpt_") else None


def service_command(service: ContainerService) -> str:
    """The shell command that starts the service in a devbox, or starts it again where the disk has it already.

    Docker takes its image from the archive that the blueprint carries, if it was to be had when that was built.
    """
    words = ["docker", "run", "--detach", "--name", service.name, "--restart", "unless-stopped"]
    words += [word for name, value in service.env.items() for word in ("--env", f"{name}={value}")]
    words += [word for mapping in service.port_mappings for word in ("--publish", mapping)]
    words += [*shlex.split(service.options), service.image]
    name = shlex.quote(service.name)
    archive, image = f"{CARRIED}/{archive_name(service.image)}", shlex.quote(service.image)
    load = (
        f"[ ! -e {archive} ] || docker image inspect {image} >/dev/null 2>&1 || docker load --quiet --input {archive}"
    )
    return f"docker start {name} >/dev/null 2>&1 || {{ {load}; {shlex.join(words)}; }}"


def _joined(parts: Iterable[str]) -> str:
    return "\n".join(parts) + "\n"


def _steps(recipe: Recipe) -> Iterator[str]:
    if not (recipe.files or recipe.code or recipe.commands):
        return
    if recipe.uid != 0:
        yield "USER root"
        yield f"RUN {_make_user(recipe)}"
    yield f"USER {recipe.user}"
    yield f"WORKDIR {recipe.home}"
    yield from _files(recipe)
    for mount in recipe.code:
        yield from _code(mount, recipe)
    for command in recipe.commands:
        yield _run(command)


def _make_user(recipe: Recipe) -> str:
    """A line of shell that needs nothing but what every image with a shell has."""
    name, uid, home = recipe.user, recipe.uid, recipe.home
    lines = [
        f"if ! grep -q '^{name}:' /etc/passwd; then",
        f"grep -q '^[^:]*:[^:]*:{uid}:' /etc/group || echo '{name}:x:{uid}:' >> /etc/group;",
        f"""echo "{name}:*:{uid}:{uid}::{home}:$(command -v bash || echo /bin/sh)" >> /etc/passwd;""",
        f"mkdir -p {home}; if [ -d /etc/skel ]; then cp -R /etc/skel/. {home}; fi;",
        f"chown -R {uid}:{uid} {home};",
        "fi;",
    ]
    if any(re.search(r"\bsudo\b", command) for command in recipe.commands):
        lines += [
            "if ! command -v sudo > /dev/null && command -v apt-get > /dev/null; then",
            "apt-get update && apt-get install -y --no-install-recommends sudo || exit 1; fi;",
        ]
    rights = f"/etc/sudoers.d/corral-{name}"
    lines += [
        "if [ -d /etc/sudoers.d ]; then",
        f"echo '{name} ALL=(ALL) NOPASSWD:ALL' > {rights}; chmod 0440 {rights}; fi",
    ]
    return " ".join(lines)


# ---------------------------------------------------------------- files


def _files(recipe: Recipe) -> Iterator[str]:
    """Texts as heredocs where that keeps every byte; what it would change is put right by a step after them."""
    mounts, home, owner = recipe.files, recipe.home, f"{recipe.uid}:{recipe.uid}"
    folders = {posixpath.dirname(mount.path) for mount in mounts if _below(mount.path, home)} - {home}
    if folders:
        yield _run(f"mkdir -p {shlex.join(sorted(folders))}")
    repairs: list[str] = []
    for number, mount in enumerate(mounts):
        text, repair = _as_heredoc(mount, f"{_WAITING}/{number}", owner)
        repairs += repair
        target = f"{_WAITING}/{number}" if repair else mount.path
        yield f"COPY --chown={owner} <<'{_delimiter(text)}' {target}\n{text}{_delimiter(text)}"
    if repairs:
        yield "USER root"
        yield from (_run(repair) for repair in repairs)
        yield _run(f"rm -r {_WAITING}")
        yield f"USER {recipe.user}"


def _below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


def _as_heredoc(mount: FileMount, waiting: str, owner: str) -> tuple[str, list[str]]:
    """The body, whose last line ends, and the command that makes the file of it when it lies at `waiting`, if any."""
    text, target = mount.text, shlex.quote(mount.path)
    place = f"mkdir -p {shlex.quote(posixpath.dirname(mount.path))} && mv {waiting} {target}"
    if set(text) & set("\r\0") or any(len(line) > _MOST_IN_LINE for line in text.split("\n")):
        body, made = base64.encodebytes(text.encode()).decode(), f"base64 -d {waiting}"
    elif not text.endswith("\n"):  # buildah makes one line of a heredoc that has none
        body, made = f"{text}\n", f'printf %s "$(cat {waiting})"'
    else:
        return text, [] if _PLAIN_PATH.fullmatch(mount.path) else [place]
    return body, [f"{made} > {waiting}.made && chown {owner} {waiting}.made && mv {waiting}.made {waiting} && {place}"]


def _delimiter(text: str) -> str:
    """A word that is no line of the text: no caller can write a text that holds the digest of itself."""
    return f"CORRAL_{hashlib.sha256(text.encode()).hexdigest()[:24]}"


# ---------------------------------------------------------------- commands


def _code(mount: CodeMount, recipe: Recipe) -> Iterator[str]:
    target = shlex.quote(f"{recipe.home}/{mount.name}")
    branch = f" --branch {shlex.quote(mount.ref)}" if mount.ref else ""
    yield _run(f"git clone{branch} -- https://github.com/{mount.owner}/{mount.name}.git {target}")
    if mount.install:
        yield _run(f"cd {target} || exit 1; {mount.install}")


def _run(command: str) -> str:
    if _PLAIN_COMMAND.fullmatch(command):
        return f"RUN {command}"
    return f"RUN {json.dumps(['/bin/sh', '-c', command])}"


def path_in(home: str, path: str) -> str:
    """A path as mounts have it, absolute: `~/…` and relative ones are in the home."""
    return posixpath.normpath(posixpath.join(home, path.removeprefix("~/"))).replace("//", "/")
