"""A multipart form with one file, read as it arrives: the file is handed on in chunks and never held as a whole.

Owns the parsing and its limits. Must not touch a disk. Fields have to come before the file, as the official clients
send them; a file of at most EARLY bytes may come first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from corral.core import errors

#: Bytes of a file that are kept while a field after it is still missing.
EARLY: Final = 1024 * 1024

#: Seconds for which a client may send nothing.
SILENCE_S: Final = 120.0

#: Bytes of all fields and part headers together.
FIELDS: Final = 64 * 1024


class FileForm:
    """The form of one request. Call `open` first; then `fields` are complete and `chunks` gives the file."""

    def __init__(self, request: Request, *, file: str, fields: frozenset[str]) -> None:
        self._request = request
        self._file_name = file
        self._wanted = fields
        self.fields: dict[str, str] = {}
        self._parser = self._make_parser(request)
        self._pending: deque[bytes] = deque()
        self.held = 0
        self._small = 0
        self._header = (bytearray(), bytearray())
        self._part: str | None = None
        self._text = bytearray()
        self._disposition = b""
        self._file_seen = self._file_done = self._complete = False

    async def open(self) -> None:
        """Read until every field is there and the file has begun. Raises errors.Invalid, errors.TooLarge."""
        while not (self._file_seen and self._wanted <= self.fields.keys()):
            if self._complete:
                missing = sorted(self._wanted - self.fields.keys()) or [self._file_name]
                raise errors.Invalid(f"cannot read form: {missing[0]}: is missing")
            if self.held > EARLY:
                late = ", ".join(sorted(self._wanted - self.fields.keys()))
                raise errors.Invalid(
                    f"cannot read form: put the field {late} before the file, which is over {EARLY} bytes"
                )
            await self._feed()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file's bytes. Raises errors.Invalid when the form breaks off, ClientDisconnect when the client does."""
        while True:
            while self._pending:
                chunk = self._pending.popleft()
                self.held -= len(chunk)
                yield chunk
            if self._complete:
                return
            await self._feed()

    async def _feed(self) -> None:
        try:
            async with asyncio.timeout(SILENCE_S):
                message = await self._request.receive()
        except TimeoutError:
            raise errors.TimedOut(f"cannot read form: nothing came for {SILENCE_S:g} s") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body: bytes = message.get("body", b"")
        try:
            self._parser.write(body)
            if not message.get("more_body", False):
                self._finish()
        except MultipartParseError as error:
            raise errors.Invalid(f"cannot read form: {str(error)[:200]}") from error

    def _finish(self) -> None:
        if not self._complete:
            raise errors.Invalid("cannot read form: it breaks off before its last boundary")

    def _make_parser(self, request: Request) -> MultipartParser:
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise errors.Invalid("cannot read form: content-type must be multipart/form-data with a boundary")
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": lambda data, start, stop: self._on_header(0, data[start:stop]),
                "on_header_value": lambda data, start, stop: self._on_header(1, data[start:stop]),
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    # -- what the parser calls

    def _on_part_begin(self) -> None:
        self._part, self._disposition = None, b""
        self._text.clear()

    def _on_header(self, index: int, data: bytes) -> None:
        self._count(len(data))
        self._header[index].extend(data)

    def _on_header_end(self) -> None:
        name, value = (bytes(part) for part in self._header)
        if name.lower() == b"content-disposition":
            self._disposition = value
        for part in self._header:
            part.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode(errors="replace")
        if name != self._file_name and name not in self._wanted:
            known = ", ".join(sorted({self._file_name, *self._wanted}))
            raise errors.Invalid(f"cannot read form: {name[:100]!r} is not one of its fields: {known}")
        if name in self.fields or (name == self._file_name and self._file_seen):
            raise errors.Invalid(f"cannot read form: {name}: is there twice")
        self._part = name
        self._file_seen = self._file_seen or name == self._file_name

    def _on_part_data(self, data: bytes, start: int, stop: int) -> None:
        if self._part == self._file_name:
            self._pending.append(data[start:stop])
            self.held += stop - start
            return
        self._count(stop - start)
        self._text += data[start:stop]

    def _on_part_end(self) -> None:
        if self._part == self._file_name or self._part is None:
            return
        try:
            self.fields[self._part] = self._text.decode()
        except UnicodeDecodeError as error:
            raise errors.Invalid(f"cannot read form: {self._part}: is not UTF-8") from error

    def _on_end(self) -> None:
        self._complete = True

    def _count(self, size: int) -> None:
        self._small += size
        if self._small > FIELDS:
            raise errors.TooLarge(f"cannot read form: its fields are over {FIELDS} bytes")
