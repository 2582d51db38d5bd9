"""Structured log set-up: one line an event, `key=value` for people or JSON for programs, on standard error.

Owns the format and what may not be written: values under names that hold secrets are masked here, whoever logs them.
Must not decide what is logged.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

#: Field names whose values never reach the log.
_SECRET_NAME: Final = re.compile(r"authorization|secret|token|password|api_?key|\benv\b", re.IGNORECASE)

#: Corral's own bearer secrets, wherever they are in a text.
_SECRET_TEXT: Final = re.compile(r"\b(ak|rk)_[0-9A-Za-z]{8,}")

MASK: Final = "***"


def mask_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace values of secret fields, and bearer keys inside other texts."""
    for name, value in event.items():
        if _SECRET_NAME.search(name):
            event[name] = MASK
        elif isinstance(value, str):
            event[name] = _SECRET_TEXT.sub(rf"\1_{MASK}", value)
    return event


def configure(*, format: str = "text", level: str = "info", stream: TextIO | None = None) -> None:  # noqa: A002
    """Set the log up for this process. `format` is `text` or `json`, `level` debug, info, warning or error."""
    output = stream if stream is not None else sys.stderr
    threshold = logging.getLevelNamesMapping()[level.upper()]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if format == "json"
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            mask_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=output),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=max(threshold, logging.WARNING),
        stream=output,
        format="level=%(levelname)s event=%(message)s",
        force=True,
    )


def get(part: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of one part, for example `devboxes.controller`; its lines carry `part=…`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(part=part)
    return logger
