"""What a stored object is, apart from how it is stored or shown."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class ObjectState(enum.StrEnum):
    """The dialect's names."""

    UPLOADING = "UPLOADING"  #: its content is awaited
    READ_ONLY = "READ_ONLY"  #: its content is whole, and stays as it is
    DELETED = "DELETED"  #: its content is removed, or about to be
    ERROR = "ERROR"  #: it has no content, and will have none; `message` says why


class ContentType(enum.StrEnum):
    """What the uploader says that the content is; the dialect's names."""

    UNSPECIFIED = "unspecified"
    TEXT = "text"
    BINARY = "binary"
    GZIP = "gzip"
    TAR = "tar"
    TGZ = "tgz"


#: What a mount unpacks into a directory.
ARCHIVES = frozenset({ContentType.GZIP, ContentType.TAR, ContentType.TGZ})


@dataclass(frozen=True, slots=True)
class ObjectWish:
    """What a caller says of an object when it is created. `ttl_ms` is how long it lives, in milliseconds."""

    name: str
    content_type: ContentType = ContentType.UNSPECIFIED
    metadata: Mapping[str, str] = field(default_factory=dict)
    ttl_ms: int | None = None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object, as its row says. `size` in bytes, None until it is whole; times in Unix milliseconds."""

    id: str
    account_id: str
    name: str
    content_type: ContentType
    metadata: Mapping[str, str]
    state: ObjectState
    message: str
    size: int | None
    created_at_ms: int
    delete_after_ms: int | None


@dataclass(frozen=True, slots=True)
class ObjectPage:
    """One page of a list, newest first."""

    items: tuple[StoredObject, ...]
    has_more: bool
    total: int | None


@dataclass(frozen=True, slots=True)
class ObjectFilter:
    """What a list is of. `name` is a part of the name; `search` the id, or a part of the name."""

    name: str | None = None
    search: str | None = None
    content_type: ContentType | None = None
    state: ObjectState | None = None
