"""Corral's client library.

    from corral_sdk import Corral

    with Corral() as corral:
        devbox = corral.devboxes.create(name="first")
        print(devbox.exec("python3 --version").stdout)
        devbox.shutdown()

`AsyncCorral` is the same for asyncio. Errors are in `corral_sdk.errors`, values in `corral_sdk.models`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from corral_sdk._version import __version__

if TYPE_CHECKING:
    from corral_sdk._async.client import AsyncCorral
    from corral_sdk._async.devbox import AsyncDevbox
    from corral_sdk._async.execution import AsyncExecution
    from corral_sdk._sync.client import Corral
    from corral_sdk._sync.devbox import Devbox
    from corral_sdk._sync.execution import Execution

__all__ = ["AsyncCorral", "AsyncDevbox", "AsyncExecution", "Corral", "Devbox", "Execution", "__version__"]

_HOMES = {
    "AsyncCorral": "corral_sdk._async.client",
    "AsyncDevbox": "corral_sdk._async.devbox",
    "AsyncExecution": "corral_sdk._async.execution",
    "Corral": "corral_sdk._sync.client",
    "Devbox": "corral_sdk._sync.devbox",
    "Execution": "corral_sdk._sync.execution",
}


def __getattr__(name: str) -> object:
    """Load a client when it is first named: each one brings an HTTP library, of which a program wants one half."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
