"""The form parser against forms cut at every place, and against nonsense."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from corral.core import errors
from corral.http import multipart

BOUNDARY = b"--B"
PATH = BOUNDARY + b'\r\nContent-Disposition: form-data; name="path"\r\n\r\nf\r\n'
FILE = BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
LAST = b"\r\n" + BOUNDARY + b"--\r\n"


def form(
    pieces: list[bytes], *, disconnect: bool = False, kind: str = "multipart/form-data; boundary=B"
) -> multipart.FileForm:
    """A form whose body arrives in these pieces."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append(
        {"type": "http.disconnect"} if disconnect else {"type": "http.request", "body": b"", "more_body": False}
    )
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(waiting)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
    return multipart.FileForm(Request(scope, receive), file="file", fields=frozenset({"path"}))


async def read(one: multipart.FileForm) -> bytes:
    await one.open()
    return b"".join([chunk async for chunk in one.chunks()])


@settings(deadline=None, max_examples=150)
@given(
    content=st.binary(max_size=300).map(lambda data: data + b"\r\n--B\r\n--"[: len(data) % 10]),
    cuts=st.lists(st.integers(min_value=0, max_value=500), max_size=8),
)
def test_a_form_is_the_same_wherever_it_is_cut(content: bytes, cuts: list[int]) -> None:
    whole = PATH + FILE + content.replace(b"\r\n--B", b"\r\n--C") + LAST
    edges = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    pieces = [whole[start:stop] for start, stop in itertools.pairwise(edges)]
    one = form(pieces)
    assert asyncio.run(read(one)) == content.replace(b"\r\n--B", b"\r\n--C")
    assert one.fields == {"path": "f"}


@settings(deadline=None, max_examples=200)
@given(body=st.binary(max_size=400), lead=st.sampled_from([b"", PATH, PATH + FILE, FILE]))
def test_nonsense_is_refused_and_never_another_error(body: bytes, lead: bytes) -> None:
    try:
        asyncio.run(read(form([lead + body])))
    except (errors.Invalid, errors.TooLarge):
        return


async def test_a_client_that_leaves_ends_the_file_with_an_error() -> None:
    one = form([PATH + FILE + b"half"], disconnect=True)
    await one.open()
    with pytest.raises(ClientDisconnect):
        [chunk async for chunk in one.chunks()]


async def test_nothing_is_kept_of_a_file_while_it_passes() -> None:
    one = form([PATH + FILE, *[bytes(100_000)] * 100, LAST])
    await one.open()
    async for _ in one.chunks():
        assert one.held <= 200_000


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "", "multipart/mixed; boundary=B"])
def test_another_content_type_is_refused(kind: str) -> None:
    with pytest.raises(errors.Invalid, match="content-type must be multipart/form-data with a boundary"):
        form([], kind=kind)
