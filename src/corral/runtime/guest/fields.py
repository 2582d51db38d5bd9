"""Believing nothing: typed, bounded values out of JSON that a hostile guest may have written.

Owns the checks of every field. Must not turn a value into anything but a number, a flag or text.
"""

from __future__ import annotations

import json
import math

from corral.runtime.contract import BoxUnresponsive


class Fields:
    """One JSON object from a guest. Each getter returns a value of its type, or raises BoxUnresponsive."""

    def __init__(self, payload: bytes, doing: str) -> None:
        self._doing = doing
        try:
            value = json.loads(payload)
        except (ValueError, RecursionError):
            raise self.nonsense("not JSON") from None
        if not isinstance(value, dict):
            raise self.nonsense("not an object")
        self._values: dict[str, object] = value

    def nonsense(self, what: str) -> BoxUnresponsive:
        """Return the error for an answer that no guest of ours gives."""
        return BoxUnresponsive(f"cannot {self._doing}: the guest's answer is {what}")

    def has(self, name: str) -> bool:
        """Say whether the field is there and not null."""
        return self._values.get(name) is not None

    def integer(self, name: str, low: int, high: int) -> int:
        """Return a whole number, moved into low..high."""
        return self._integer(self._values.get(name), low, high)

    def flag(self, name: str) -> bool:
        """Return a boolean; absent is False."""
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            raise self.nonsense(f"without a truth value for {name}")
        return value

    def text(self, name: str, longest: int) -> str:
        """Return text of at most `longest` characters."""
        return self._text(self._values.get(name), longest)

    def number(self, name: str) -> float:
        """Return a finite number."""
        return self._number(self._values.get(name))

    def rows(self, name: str, width: int, most: int) -> list[Row]:
        """Return a list of at most `most` lists of `width` values each."""
        value = self._values.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise self.nonsense(f"without a list for {name}")
        rows = []
        for item in value:
            if not isinstance(item, list) or len(item) != width:
                raise self.nonsense(f"with an odd row in {name}")
            rows.append(Row(self, item))
        return rows

    def _integer(self, value: object, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.nonsense("without a whole number where one belongs")
        return max(low, min(high, value))

    def _text(self, value: object, longest: int) -> str:
        if not isinstance(value, str) or len(value) > longest:
            raise self.nonsense("without text where it belongs")
        if not value.isascii():
            # JSON's \ud800 gives a lone surrogate, which no later encoder of ours takes.
            value = value.encode("utf-8", "replace").decode("utf-8")
        return value

    def _number(self, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.nonsense("without a number where one belongs")
        try:
            number = float(value)
        except OverflowError:
            raise self.nonsense("a number beyond all bounds") from None
        if not math.isfinite(number):
            raise self.nonsense("not a finite number")
        return max(-1e12, min(1e12, number))


class Row:
    """A list of values inside an answer, by position; the same checks as Fields."""

    def __init__(self, fields: Fields, values: list[object]) -> None:
        self._fields = fields
        self._values = values

    def integer(self, index: int, low: int, high: int) -> int:
        """Return a whole number, moved into low..high."""
        return self._fields._integer(self._values[index], low, high)  # noqa: SLF001 - two halves of one check

    def text(self, index: int, longest: int) -> str:
        """Return text of at most `longest` characters."""
        return self._fields._text(self._values[index], longest)  # noqa: SLF001 - as above

    def number(self, index: int) -> float:
        """Return a finite number."""
        return self._fields._number(self._values[index])  # noqa: SLF001 - as above

    def flag(self, index: int) -> bool:
        """Return a boolean."""
        return self._values[index] is True

    def missing(self, index: int) -> bool:
        """Say whether the value is null."""
        return self._values[index] is None
