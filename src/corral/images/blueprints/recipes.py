"""From what a caller sends to a recipe that can be built: every rule that needs more than a type.

Pure: no clock, no store. Each refusal names the field and states the rule; what this server does not offer is refused
as that, field by field, and never ignored.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Final

from corral.core import errors
from corral.devboxes.service import DOCKER_IMAGE, check_files, check_launch, check_variables
from corral.images.blueprints import render, wire
from corral.images.blueprints.model import CodeMount, ContainerService, FileMount, Recipe

_REPOSITORY: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")
_REF: Final = re.compile(r"(?!-)[^\x00-\x20\x7f~^:?*\[\\]{1,250}")
_PORTS: Final = 65_535


def recipe(body: wire.BlueprintBody, base: str | None, *, architecture: str) -> Recipe:
    """What the body asks for; `base` is what FROM has for the base blueprint that it names.

    Raises errors.Invalid with the field and the rule, errors.NotOffered with the field.
    """
    refuse_later(body)
    if body.dockerfile is not None and base is not None:
        given = "base_blueprint_id" if body.base_blueprint_id is not None else "base_blueprint_name"
        raise invalid(given, f"must not be given beside dockerfile: write FROM {base} in it")
    if body.build_context is not None and body.dockerfile is None:
        raise invalid("build_context", "is of no use without a dockerfile that copies from it")
    user = check_launch(body.launch_parameters, "create blueprint", architecture=architecture)
    check_variables(body.build_args or {}, "create blueprint", "build_args")
    known = [service.name for service in services(body)]
    for wanted in (body.launch_parameters.required_services if body.launch_parameters else None) or ():
        if wanted not in known:
            rule = f"there is no service {wanted[:100]!r} (there: {', '.join(known) or 'none'})"
            raise invalid("launch_parameters.required_services", rule)
    docker = body.services or (body.launch_parameters is not None and body.launch_parameters.docker_in_docker)
    return Recipe(
        dockerfile=body.dockerfile,
        base=DOCKER_IMAGE if docker and base is None and body.dockerfile is None else base,
        files=tuple(_files(body, user.home)),
        code=tuple(_code(body)),
        commands=tuple(body.system_setup_commands or ()),
        user=user.name,
        uid=user.uid,
        home=user.home,
    )


def refuse_later(body: wire.BlueprintBody | wire.FromInspectionBody) -> None:
    """Raise errors.NotOffered for the first field that asks for what this server does not offer."""
    for field in _later(body):
        raise errors.NotOffered(f"cannot create blueprint: {field}: this server does not offer it")


def _later(body: wire.BlueprintBody | wire.FromInspectionBody) -> Iterator[str]:
    if body.network_policy_id is not None:
        yield "network_policy_id"
    if body.secrets:
        yield "secrets"
    if isinstance(body, wire.BlueprintBody):
        yield from (f"code_mounts[{place}].token" for place, one in enumerate(body.code_mounts or ()) if one.token)
        yield from (
            f"services[{place}].credentials" for place, one in enumerate(body.services or ()) if one.credentials
        )


def services(body: wire.BlueprintBody) -> tuple[ContainerService, ...]:
    """The services of the body, in its order."""
    found: dict[str, ContainerService] = {}
    for place, sent in enumerate(body.services or ()):
        field = f"services[{place}]"
        if sent.name in found:
            raise invalid(f"{field}.name", f"{sent.name} is there twice")
        check_variables(sent.env or {}, "create blueprint", f"{field}.env")
        for number, mapping in enumerate(sent.port_mappings or ()):
            if not all(1 <= int(port) <= _PORTS for port in mapping.split(":")):
                raise invalid(f"{field}.port_mappings[{number}]", f"ports are 1 to {_PORTS}, not {mapping}")
        try:
            shlex.split(sent.options or "")
        except ValueError as problem:
            raise invalid(f"{field}.options", f"a shell could not read it: {problem}") from None
        found[sent.name] = as_service(sent.model_dump(exclude_none=True))
    return tuple(found.values())


def as_service(sent: Mapping[str, object]) -> ContainerService:
    """A service as it was sent, and checked then."""
    body = wire.ServiceBody.model_validate(sent)
    return ContainerService(body.name, body.image, body.env or {}, body.options or "", tuple(body.port_mappings or ()))


def _files(body: wire.BlueprintBody, home: str) -> Iterator[FileMount]:
    check_files(body.file_mounts or {}, "create blueprint")
    seen: set[str] = set()
    for path, text in (body.file_mounts or {}).items():
        absolute = render.path_in(home, path)
        if absolute in seen or absolute in {home, "/"}:
            rule = "is there twice" if absolute in seen else "is a directory: name a file"
            raise invalid("file_mounts", f"{path[:100]} {rule}")
        seen.add(absolute)
        yield FileMount(absolute, text)


def _code(body: wire.BlueprintBody) -> Iterator[CodeMount]:
    for place, sent in enumerate(body.code_mounts or ()):
        for name in ("repo_owner", "repo_name"):
            value = getattr(sent, name)
            if not _REPOSITORY.fullmatch(value) or value in {".", ".."}:
                raise invalid(f"code_mounts[{place}].{name}", "must be 1 to 100 of letters, digits, ., _ and -")
        if sent.git_ref is not None and not _REF.fullmatch(sent.git_ref):
            raise invalid(f"code_mounts[{place}].git_ref", "is not the name of a branch or tag")
        yield CodeMount(sent.repo_owner, sent.repo_name, sent.git_ref, sent.install_command)


def invalid(field: str, rule: str) -> errors.Invalid:
    """The refusal of a field of a blueprint."""
    return errors.Invalid(f"cannot create blueprint: {field}: {rule}")
