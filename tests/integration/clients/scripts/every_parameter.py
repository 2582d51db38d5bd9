"""Every parameter of every method that this server offers, found by walking the types of the official Python client.

python every_parameter.py

Each is sent once as the client's types have it: the server takes it, or refuses it by name. Each is sent with a
value of another type and with blank and impossible ones: 400, by name.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import runloop_api_client
from every_method import BASE, SCENES, SCOPES, Scene, arguments_of, find, sample  # type: ignore[import-not-found]
from runloop_api_client import APIStatusError, Runloop
from typing_extensions import is_typeddict

#: Where a parameter has a meaning only beside others.
BESIDE: dict[str, dict[str, Any]] = {
    "pty.control": {"action": "resize", "cols": 80, "rows": 24},
    "devboxes.upload_file": {"file": b"bytes"},
    "devboxes.wait_for_command": {"timeout_seconds": 0},
    "restricted_keys.create": {"scopes": SCOPES},
    "blueprints.create": {"dockerfile": BASE},
    "blueprints.preview": {"dockerfile": BASE},
}

#: The same within a parameter.
WITHIN: dict[str, dict[str, Any]] = {"scopes[]": SCOPES[0], "services[]": {"name": "db", "image": "postgres:16"}}

#: Ids within parameters that must be of something that is there; filled in once it is.
THERE: dict[str, str] = {}

#: Names of parameters whose values must be there already.
KNOWN = {"file_path": "f", "path": "f"}

#: Parameters that name what the request is addressed to.
ADDRESS = {"id", "devbox_id", "execution_id", "session_name"}

#: Parameters, from their end, for which an empty or blank text has a meaning.
BLANK_IS_FINE = {
    "name": "no name",
    "commit_message": "no message",
    "metadata.KEY": "an empty value",
    "metadata_key": "an empty value",
    "metadata_key_in": "an empty value",
    "environment_variables.KEY": "an empty value",
    "build_args.KEY": "an empty value",
    "services[].env.KEY": "an empty value",
    "services[].options": "no options",
    "file_mounts.KEY": "an empty file",
    "mounts[].content": "an empty file",
    "contents": "an empty file",
    "text": "white space is input, and the empty text is checked by itself",
    "pty.control signal": "counts for the action signal only",
}

#: The client leaves parameters of the query out that have an empty text.
QUERY = {
    *("devboxes.list starting_after", "devboxes.list status", "devboxes.shutdown force", "last_n", "offset"),
    *("devboxes.list_disk_snapshots starting_after", "devboxes.disk_snapshots.list starting_after"),
    *("blueprints.list starting_after", "blueprints.list status"),
    *("blueprints.list_public starting_after", "blueprints.list_public status"),
    "source_blueprint_id",
    *("objects.list starting_after", "objects.list search", "objects.list state", "objects.list content_type"),
    *("objects.list_public starting_after", "objects.list_public search", "objects.list_public state"),
    "objects.list_public content_type",
}

#: Parameters that have another name on the wire.
ALIASES = {"metadata_key": "metadata[key]", "metadata_key_in": "metadata[key][in]"}

#: Numbers of any size: the dialect ignores a size out of range.
ANY_NUMBER = {"pty.connect cols", "pty.connect rows"}

#: Bytes, not a value that could be wrong; and what the client checks by itself.
SKIPPED = {"devboxes.upload_file file", "blueprints.create file_mounts"}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter inside of parameters: `launch_parameters.after_idle.on_idle`. `wrap` puts a value into its place."""

    path: str
    annotation: Any
    wrap: Callable[[Any], Any]

    @property
    def last(self) -> str:
        """The name that a refusal must have."""
        if self.path in ALIASES:
            return ALIASES[self.path]
        return self.path.replace("[]", "").replace(".KEY", "").split(".")[-1]


def leaves(annotation: Any, path: str, wrap: Callable[[Any], Any]) -> Iterator[Leaf]:
    """All parameters of simple types in a type."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in {typing.Union, types.UnionType}:
        members = [one for one in inner if one is not type(None) and getattr(one, "__name__", "") != "Omit"]
        for one in members:
            yield from leaves(one, path, wrap)
    elif is_typeddict(annotation):
        hints = typing.get_type_hints(annotation)
        needed = {**sample(annotation), **WITHIN.get(path, {})}
        needed |= {name: value for name, value in THERE.items() if name in needed}
        for name, hint in hints.items():
            yield from leaves(hint, f"{path}.{name}", partial(_with, wrap, needed, name))
    elif origin is dict:
        yield from leaves(inner[1], f"{path}.KEY", lambda value: wrap({"KEY": value}))
    elif origin is not None and origin is not typing.Literal and len(inner) == 1:
        yield from leaves(inner[0], f"{path}[]", lambda value: wrap([value]))
    else:
        yield Leaf(path, annotation, wrap)


def _with(wrap: Callable[[Any], Any], needed: dict[str, Any], name: str, value: Any) -> Any:
    return wrap({**needed, name: value})


def impossible(name: str, leaf: Leaf) -> Iterator[Any]:
    """Values that the parameter cannot have."""
    kind = leaf.annotation
    where = f"{name} {leaf.path}"
    yield {"no": "such"}
    empty = () if {where, leaf.path} & QUERY else ("",)
    if typing.get_origin(kind) is typing.Literal:
        yield from (*empty, "no such")
    elif kind is str and not any(where.endswith(end) for end in BLANK_IS_FINE):
        yield from (*empty, "   ")
    elif kind in {int, float} and where not in ANY_NUMBER:
        yield from (-1, 2**53 + 1)
    if leaf.path.endswith("[]"):
        yield None


def parameters(client: Runloop) -> Iterator[tuple[str, Leaf]]:
    """Method and parameter, for all methods of one request."""
    for name in SCENES:
        if find(client.with_raw_response, name) is None:
            continue
        method = find(client, name)
        scope = sys.modules[inspect.unwrap(method).__module__].__dict__
        for one in inspect.signature(method).parameters.values():
            own = not one.name.startswith("extra_") and one.name not in {"timeout", "idempotency_key", *ADDRESS}
            if own and f"{name} {one.name}" not in SKIPPED:
                annotation = eval(one.annotation, scope) if isinstance(one.annotation, str) else one.annotation
                for leaf in leaves(annotation, one.name, partial(_with, dict, {}, one.name)):
                    yield name, leaf


def ask(scene: Scene, client: Runloop, name: str, arguments: dict[str, Any]) -> tuple[int, str]:
    """Status and message of the answer."""
    method = find(client.with_raw_response, name)
    try:
        answer = method(**arguments)
    except APIStatusError as error:
        message = error.body.get("message", "") if isinstance(error.body, dict) else ""
        return error.status_code, message
    if name.startswith("devboxes.create") and name != "devboxes.create_pty_tunnel":
        scene.api.devboxes.shutdown(answer.parse().id)
    return 200, ""


def is_fair(leaf: Leaf, status: int, message: str) -> bool:
    """Whether the server has taken the parameter, or said that it does not."""
    if status == 501:
        return any(step.strip("[]") in message for step in leaf.path.split("."))
    return status in {200, 408} or is_refused(leaf, status, message)


def is_refused(leaf: Leaf, status: int, message: str) -> bool:
    """Whether the server has said what is wrong with the parameter, knowing it."""
    return status == 400 and leaf.last in message and "is not a field" not in message


def check() -> None:
    scene, wrong, sent, count = Scene(), [], 0, 0
    client = Runloop(max_retries=0)
    THERE["object_id"] = scene.whole_object()
    WITHIN["build_context"] = {"object_id": THERE["object_id"]}
    terminals = client.with_options(default_headers=scene.tunnel())
    for name, leaf in parameters(client):
        count += 1
        root = terminals if name.startswith("pty.") else client
        needed = {
            key: value
            for key, value in SCENES[name](scene).items()
            if key in arguments_of(find(root, name)) or key in ADDRESS
        }
        needed |= BESIDE.get(name, {})
        good = KNOWN.get(leaf.path, sample(leaf.annotation))
        for value in (good, *impossible(name, leaf)):
            status, message = ask(scene, root, name, {**needed, **leaf.wrap(value)})
            sent += 1
            if not (is_fair if value is good else is_refused)(leaf, status, message):
                wrong.append(f"{name} {leaf.path} = {value!r}: {status} {message}")
    scene.api.devboxes.shutdown(scene.box)
    print(f"{runloop_api_client.__version__}: {count} parameters, {sent} requests")
    assert not wrong, "\n".join(wrong)


if __name__ == "__main__":
    check()
