from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from corral.core import log


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Leave logging as other tests expect it."""
    yield
    structlog.reset_defaults()
    logging.basicConfig(force=True)


def test_a_line_is_key_value_pairs_with_its_part() -> None:
    stream = io.StringIO()
    log.configure(stream=stream)
    log.get("devboxes").info("devbox ended", devbox="dbx_1", code=3)
    line = stream.getvalue()
    assert 'level=info event="devbox ended" part=devboxes devbox=dbx_1 code=3\n' in line


def test_json_lines_carry_the_same_fields() -> None:
    stream = io.StringIO()
    log.configure(format="json", stream=stream)
    log.get("x").warning("y", number=1)
    found = json.loads(stream.getvalue())
    assert (found["event"], found["part"], found["number"], found["level"]) == ("y", "x", 1, "warning")


def test_secrets_are_never_written() -> None:
    stream = io.StringIO()
    log.configure(stream=stream)
    log.get("x").info("e", api_key="ak_AAAAAAAAAAAA", env={"A": "hush"}, text="key ak_BBBBBBBBBBBB used")
    line = stream.getvalue()
    assert "AAAA" not in line
    assert "hush" not in line
    assert "BBBB" not in line
    assert "ak_***" in line


def test_lines_below_the_level_are_dropped() -> None:
    stream = io.StringIO()
    log.configure(level="warning", stream=stream)
    log.get("x").info("quiet")
    assert stream.getvalue() == ""
