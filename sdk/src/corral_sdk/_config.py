"""Where the server is and which key to send: from arguments, the environment, or the server's own data folder."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

from corral_sdk import errors

DEFAULT_URL = "http://127.0.0.1:8700"
DEFAULT_DATA = "/var/lib/corral"


def server_url(given: str | None) -> str:
    """Return `given`, or CORRAL_URL, or the address that `corral serve` listens on; no slash at the end.

    Raises Invalid when it is not an http or https address.
    """
    url = (given or os.environ.get("CORRAL_URL") or DEFAULT_URL).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise errors.Invalid(f"cannot use server address {url!r}: expected http://HOST:PORT or https://HOST")
    return url


def api_key(given: str | None) -> str:
    """Return `given`, or CORRAL_API_KEY, or what the server on this machine wrote to `<data>/api-key`.

    Raises Unauthenticated when there is none or it cannot be read.
    """
    if key := (given or os.environ.get("CORRAL_API_KEY", "")).strip():
        return key
    path = Path(os.environ.get("CORRAL_DATA") or DEFAULT_DATA) / "api-key"
    try:
        key = path.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        raise errors.Unauthenticated(
            f"cannot find an API key: CORRAL_API_KEY is not set and there is no {path}"
        ) from None
    except OSError as error:
        raise errors.Unauthenticated(f"cannot read API key {path}: {error.strerror}; set CORRAL_API_KEY") from error
    if not key:
        raise errors.Unauthenticated(f"cannot read API key {path}: it is empty")
    return key


def is_loopback(url: str) -> bool:
    """Whether the address is this machine, where no proxy can reach it."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
