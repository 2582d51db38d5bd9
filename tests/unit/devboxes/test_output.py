from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.devboxes import output


def tail(data: bytes, lines: int) -> tuple[str, bool]:
    return output.tail(lambda offset, limit: data[offset : offset + limit], len(data), lines)


@pytest.mark.parametrize(
    ("data", "lines", "expected"),
    [
        (b"", 3, ("", False)),
        (b"a\nb\nc\n", 3, ("a\nb\nc\n", False)),
        (b"a\nb\nc\n", 2, ("b\nc\n", True)),
        (b"a\nb\nc", 1, ("c", True)),
        (b"a\n\n\n", 2, ("\n\n", True)),
        (b"\n", 1, ("\n", False)),
        (b"a\n", 0, ("", True)),
        (b"a\xffb\n", 1, ("a\ufffdb\n", False)),
    ],
)
def test_the_last_lines_and_whether_there_was_more(data: bytes, lines: int, expected: tuple[str, bool]) -> None:
    assert tail(data, lines) == expected


def test_lines_longer_than_a_piece_are_found() -> None:
    data = b"x" * 200_000 + b"\n" + b"y" * 200_000 + b"\n"
    assert tail(data, 1) == ("y" * 200_000 + "\n", True)


def test_a_tail_is_bounded_and_begins_with_a_whole_character() -> None:
    data = "ä".encode() * output.TAIL_LIMIT + b"!"
    text, more = tail(data, 5)
    assert more
    assert len(text.encode()) <= output.TAIL_LIMIT
    assert set(text) == {"ä", "!"}


def test_a_tail_reads_no_more_than_its_bound() -> None:
    asked = 0

    def read(_offset: int, limit: int) -> bytes:
        nonlocal asked
        asked += limit
        return b"x" * limit

    output.tail(read, 1 << 40, 100)
    assert asked == output.TAIL_LIMIT


def test_output_that_was_removed_meanwhile_is_no_output() -> None:
    assert output.tail(lambda _offset, _limit: b"", 1000, 10) == ("", True)


@given(st.text(), st.integers(min_value=1, max_value=8))
def test_a_stream_cut_anywhere_at_whole_characters_is_the_text_again(text: str, size: int) -> None:
    data, parts, kept = text.encode(), [], b""
    for start in range(0, len(data), size):
        kept += data[start : start + size]
        whole = output.whole_characters(kept)
        parts.append(kept[:whole].decode())  # raises if a character is cut
        kept = kept[whole:]
    assert kept == b""
    assert "".join(parts) == text


@given(st.binary(max_size=64))
def test_at_most_three_bytes_are_held_back(data: bytes) -> None:
    assert 0 <= len(data) - output.whole_characters(data) <= 3


def test_bytes_that_cannot_become_a_character_are_not_held_back() -> None:
    assert output.whole_characters(b"a\x80\x80\x80\x80") == 5
