"""The frame of a multipart/form-data body around one file whose content is streamed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """`head`, then the bytes of the file, then `tail`; sent as `content_type`."""

    head: bytes
    tail: bytes
    content_type: str

    def length(self, size: int | None) -> int | None:
        """Length of the whole body around a file of `size` bytes; None when that is not known."""
        return None if size is None else len(self.head) + size + len(self.tail)


def frame(fields: dict[str, str], file_field: str, boundary: str | None = None) -> Frame:
    """Return the frame of a form with these text fields and one file."""
    mark = boundary or f"corral-{secrets.token_hex(16)}"
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f'--{mark}\r\nContent-Disposition: form-data; name="{file_field}"; filename="file"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return Frame("".join(parts).encode(), f"\r\n--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}")
