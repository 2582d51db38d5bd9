"""Base of every request and response schema."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

#: The largest whole number that every JSON reader holds exactly; databases and files take it, too.
MAX_INTEGER: Final = 2**53 - 1


def _encodable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be text that UTF-8 can hold: it has a lone surrogate") from None
    return value


Text = Annotated[str, AfterValidator(_encodable)]


class Body(BaseModel):
    """A request body: unknown fields and wrong types are refused, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class View(BaseModel):
    """A response body. Fields that are None are left out."""

    model_config = ConfigDict(frozen=True)


class Nothing(Body):
    """A body for routes that take none: absent or `{}`."""


class ErrorView(View):
    """Every answer of 400 and above."""

    code: Annotated[int, Field(description="The HTTP status.")]
    message: Annotated[str, Field(description="`cannot <verb> <object>: <cause>`, for people.")]
    kind: Annotated[str, Field(description="One of a closed list, for programs.")]


NAME_CHARS: Final = 256
METADATA_ENTRIES: Final = 256
METADATA_VALUE_CHARS: Final = 4096

#: What callers write on their things, to find them by.
Metadata = Annotated[
    dict[
        Annotated[Text, Field(min_length=1, max_length=NAME_CHARS)],
        Annotated[Text, Field(max_length=METADATA_VALUE_CHARS)],
    ],
    Field(max_length=METADATA_ENTRIES),
]
