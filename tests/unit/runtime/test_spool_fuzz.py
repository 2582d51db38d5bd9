"""The spool's reader against status files of any content."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from corral.runtime.spool import LOST, STATUS_LIMIT, Spool

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = ("exit_code", "signal", "stdout_cut", "stderr_cut", "stdout_bytes")
NEARLY = st.fixed_dictionaries({"exit_code": st.integers() | VALUES}, optional=dict.fromkeys(NAMES[1:], VALUES))
LINES = st.binary(max_size=200) | NEARLY.map(lambda fields: json.dumps(fields).encode())


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(line=LINES, rest=st.sampled_from([b"", b"\n", b"\nmore", b" " * 2 * STATUS_LIMIT]))
def test_any_status_file_gives_no_result_or_one_in_range(line: bytes, rest: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        with spool.open("box", "e") as fds:
            os.write(fds.status, line + rest)
        result = spool.result("box", "e")
    if result is None:
        assert b"\n" not in line + rest
        assert len(line + rest) < STATUS_LIMIT
    elif result.signal is None:
        assert 0 <= result.exit_code <= 255
        assert result == LOST or not result.lost
    else:
        assert 1 <= result.signal <= 64
        assert result.exit_code == 128 + result.signal
