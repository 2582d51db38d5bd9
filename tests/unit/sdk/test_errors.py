"""Errors of the server become errors of the client by their kind, and by nothing else."""

from __future__ import annotations

import pytest

from corral.core import errors as server_errors
from corral_sdk import errors


def server_kinds() -> dict[str, str]:
    found: dict[str, str] = {}
    waiting = [server_errors.CorralError]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if cls is not server_errors.CorralError:
            found[cls.kind] = cls.__name__
    return found


def test_every_kind_of_the_server_has_a_class_of_the_same_name() -> None:
    assert {kind: cls.__name__ for kind, cls in errors.BY_KIND.items()} == server_kinds()


@pytest.mark.parametrize("kind", sorted(errors.BY_KIND))
def test_an_error_is_rebuilt_from_its_kind_and_message(kind: str) -> None:
    rebuilt = errors.from_wire(418, {"code": 418, "kind": kind, "message": "cannot do it: because"})
    assert type(rebuilt) is errors.BY_KIND[kind]
    assert str(rebuilt) == "cannot do it: because"


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        {"kind": "subprocess.Popen", "message": "x"},
        {"kind": "ended", "message": "only the client makes this"},
        {"kind": ["not-found"], "message": "x"},
        {"kind": "not-found", "message": 5},
        {"message": "no kind"},
        {"class_path": "os.system", "kind": None},
    ],
)
def test_an_answer_that_is_no_error_of_corral_is_a_bad_answer(body: object) -> None:
    assert type(errors.from_wire(502, body)) is errors.BadAnswer


def test_kinds_are_unique_and_every_class_is_in_the_tree_of_the_docstring() -> None:
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.CorralError)]
    kinds = [cls.kind for cls in classes if cls is not errors.CorralError]
    assert len(set(kinds)) == len(kinds)
    assert all(cls.__name__ in (errors.__doc__ or "") for cls in classes)
