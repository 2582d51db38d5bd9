"""guest/PROTOCOL.md, the client and the contract say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from corral.runtime.contract import (
    BadCommand,
    BoxExhausted,
    BoxUnresponsive,
    ExecutionEnded,
    FileProblem,
    FileProblemKind,
    NoSuchExecution,
    PortClosed,
)
from corral.runtime.guest import faults, protocol

DOCUMENT = (Path(__file__).parents[4] / "guest" / "PROTOCOL.md").read_text()
KINDS = re.findall(r"^\| `([a-z-]+)` \|", DOCUMENT, re.MULTILINE)

EXPECTED = {
    "bad-request": BoxUnresponsive,
    "unknown-op": BoxUnresponsive,
    "failed": BoxUnresponsive,
    "busy": BoxExhausted,
    "no-such-execution": NoSuchExecution,
    "port-closed": PortClosed,
    **dict.fromkeys(faults.COMMAND, BadCommand),
    **dict.fromkeys(faults.EXECUTION, ExecutionEnded),
    **dict.fromkeys(faults.FILE, FileProblem),
}


def test_every_documented_kind_has_its_exception_and_no_other() -> None:
    assert sorted(KINDS) == sorted(EXPECTED)
    assert set(faults.FILE) == {kind.value for kind in FileProblemKind}


@pytest.mark.parametrize("kind", sorted(EXPECTED))
def test_a_kind_becomes_its_exception(kind: str) -> None:
    error = faults.from_error(json.dumps({"kind": kind}).encode(), "do 'x'")
    assert type(error) is EXPECTED[kind]
    assert error.message.startswith("cannot do 'x': ")
    if isinstance(error, FileProblem):
        assert error.kind.value == kind


def test_another_errno_is_told_in_the_words_of_the_host() -> None:
    error = faults.from_error(b'{"kind":"other","errno":5,"message":"lies"}', "read 'x'")
    assert error.message == "cannot read 'x': input/output error"
    assert "unknown" not in faults.from_error(b'{"kind":"other","errno":99999}', "read 'x'").message


def test_frames_and_limits_are_those_of_the_document() -> None:
    names = re.findall(r"^\| (\d) \| (\w+) \|", DOCUMENT, re.MULTILINE)
    assert {name: int(number) for number, name in names} == {
        name.lower(): getattr(protocol, name) for name in ("REQUEST", "REPLY", "ERROR", "EVENT", "DATA", "END")
    }
    assert f"protocol, version {protocol.VERSION}" in DOCUMENT
    assert "at most 4 MiB" in DOCUMENT
    assert protocol.MAX_REQUEST == 4 << 20
    assert "1 to 256 KiB of raw bytes" in DOCUMENT
    assert protocol.MAX_DATA == protocol.MAX_ANSWER == 256 << 10
    assert f"1 to {protocol.MAX_ID} printable" in DOCUMENT
    assert f"a path | {protocol.MAX_PATH - 1:,} bytes" in DOCUMENT
    assert f"The first {protocol.MAX_ENTRIES:,} names" in DOCUMENT
    assert f"at least one in {protocol.HEARTBEAT_S:.0f} s" in DOCUMENT
