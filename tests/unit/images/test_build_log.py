"""The log of a build is what a hostile program wrote: bounded lines come of it, and the step that was reached."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.images.builds import log
from corral.images.builds.inside import __main__ as inside
from corral.images.builds.model import BuildLogLevel


def spool(*entries: object) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def step(number: int, command: str) -> dict[str, object]:
    return {"t": 5, "l": "info", "m": f"STEP {number}/9: {command}", "s": [1, 2, number, 9], "c": command}


def test_lines_have_numbers_levels_and_times() -> None:
    found = log.lines(spool({"t": 20, "l": "info", "m": "a"}, {"t": 30, "l": "error", "m": "b"}), 10, 40)
    assert [(line.number, line.level, line.timestamp_ms, line.message) for line in found] == [
        (1, BuildLogLevel.INFO, 20, "a"),
        (2, BuildLogLevel.ERROR, 30, "b"),
    ]
    assert log.unpack(log.pack(found)) == found


@pytest.mark.parametrize("told", [-1, 0, 10**30, "soon", None, True, 1.5])
def test_times_stay_within_the_build_whatever_is_told(told: object) -> None:
    entries = [{"t": 15, "m": "a"}, {"t": told, "m": "b"}, {"t": 12, "m": "c"}]
    times = [line.timestamp_ms for line in log.lines(spool(*entries), 10, 20)]
    assert times == sorted(times)
    assert all(10 <= time <= 20 for time in times)


def test_the_step_that_was_reached_is_told_with_what_it_wrote() -> None:
    written = [step(1, "FROM a"), {"m": "early"}, step(2, "RUN b"), {"m": "x"}, {"m": "y"}]
    found = log.reached(spool(*written, {"l": "error", "m": "Error: …"}))
    assert (found.stage, found.stages, found.step, found.steps) == (1, 2, 2, 9)
    assert (found.command, found.output) == ("RUN b", "x\ny")
    assert str(found) == "step 2 of 9, stage 1 of 2"


@pytest.mark.parametrize(
    "line", ["", "x" * 300, "\x1b", "é", "STEP 1/2: RUN x"], ids=["empty", "long", "escape", "wide", "step"]
)
def test_a_log_of_whatever_lines_fits_into_its_spool_with_its_end(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written = inside.Log(50_000, 200)
    written.feed("STEP 7/9: RUN b")
    for _ in range(20_000):
        written.feed(line)
    written.feed("the last words")
    written.finish()
    found = capsys.readouterr().out.encode()
    assert 50_000 < len(found) < log.spool_limit(50_000)
    assert log.reached(found).output.endswith("\nthe last words")
    assert any("the log is cut here" in one.message for one in log.lines(found, 0, 1))


def test_a_log_that_is_short_enough_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    written = inside.Log(50_000, 200)
    said = ["STEP 1/2: FROM a", "", "x", "progress 1\rprogress 2"]
    for line in said:
        written.feed(line)
    written.finish()
    found = log.lines(capsys.readouterr().out.encode(), 0, 1)
    assert [line.message for line in found] == ["STEP 1/2: FROM a", "", "x", "progress 2"]


@pytest.mark.parametrize("numbers", [[1, 2], ["1", 2, 3, 4], {"a": 1}, [1, 2, 3, True], 7, None])
def test_a_step_without_numbers_is_none(numbers: object) -> None:
    assert log.reached(spool({"m": "STEP", "s": numbers, "c": "RUN"})).step == 0


def test_a_line_that_is_still_written_is_no_line_yet() -> None:
    assert [line.message for line in log.lines(spool({"m": "a"}) + b'{"m": "b', 0, 1)] == ["a"]


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30), lambda inner: st.lists(inner, max_size=3)
)


@given(
    st.lists(
        st.binary(max_size=60)
        | st.dictionaries(st.sampled_from("tlmsc"), _ANY).map(lambda entry: json.dumps(entry).encode())
    )
)
def test_whatever_is_in_the_spool_becomes_bounded_lines(raw: list[bytes]) -> None:
    found = log.lines(b"\n".join(raw) + b"\n", 100, 200)
    assert log.unpack(log.pack(found)) == found
    for line in found:
        assert 100 <= line.timestamp_ms <= 200
        assert len(line.message) <= log.LINE_LENGTH + 100
        line.message.encode()
        assert "\0" not in line.message
    assert len(log.reached(b"\n".join(raw)).output.splitlines()) <= log.SHOWN * 61


def test_a_long_line_and_a_deep_one_are_lines() -> None:
    found = log.lines(spool({"m": "x" * 1_000_000}) + b"[" * 100_000 + b"\n", 0, 1)
    assert [len(line.message) <= log.LINE_LENGTH + 100 for line in found] == [True, True]
