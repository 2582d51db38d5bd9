"""Request and response schemas of objects: the dialect's fields, and Corral's own beside them.

Must not decide anything.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from corral.http.model import MAX_INTEGER, NAME_CHARS, Body, Metadata, Text, View
from corral.storage import model

OBJECT_ID: Final = r"^obj_[0-9A-Za-z]{21}$"

Kind = Literal["unspecified", "text", "binary", "gzip", "tar", "tgz"]
State = Literal["UPLOADING", "READ_ONLY", "DELETED", "ERROR"]


def _name(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    if any(ord(letter) < 32 or letter == "\x7f" for letter in value):
        raise ValueError("must not hold control characters")
    return value


class ObjectBody(Body):
    """What an object is called, and what its content will be."""

    name: Annotated[Text, Field(max_length=NAME_CHARS), AfterValidator(_name)]
    content_type: Kind
    metadata: Metadata | None = None
    ttl_ms: Annotated[int, Field(ge=1, le=MAX_INTEGER // 2)] | None = None


class ObjectView(View):
    """An object. `error_message` is Corral's own."""

    id: str
    name: str
    content_type: Kind
    state: State
    create_time_ms: int
    delete_after_time_ms: int | None = None
    metadata: dict[str, str]
    size_bytes: int | None = None
    upload_url: str | None = None
    upload_headers: dict[str, str] | None = None
    error_message: str | None = None


class ObjectListView(View):
    """One page, newest first."""

    objects: list[ObjectView]
    has_more: bool
    total_count: int | None = None


class ObjectDownloadView(View):
    """Where the content is to be fetched, without a key."""

    download_url: str


class ObjectKeysView(View):
    """Keys, in order; at most 1,000."""

    keys: list[str]


class ObjectValuesView(View):
    """Values of a key, in order; at most 1,000."""

    key: str
    values: list[str]


def wish(body: ObjectBody) -> model.ObjectWish:
    """What the body asks for."""
    return model.ObjectWish(body.name, model.ContentType(body.content_type), body.metadata or {}, body.ttl_ms)


def object_view(found: model.StoredObject, upload_url: str | None = None) -> ObjectView:
    """The object as clients see it."""
    return ObjectView(
        id=found.id,
        name=found.name,
        content_type=found.content_type.value,
        state=found.state.value,
        create_time_ms=found.created_at_ms,
        delete_after_time_ms=found.delete_after_ms,
        metadata=dict(found.metadata),
        size_bytes=found.size,
        upload_url=upload_url,
        upload_headers=None if upload_url is None else {},
        error_message=found.message or None,
    )
