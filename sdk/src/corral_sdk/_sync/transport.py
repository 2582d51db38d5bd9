# Made from _async/transport.py by sdk/tools/generate_sync.py: change that and run it again.
"""One connection pool to one server: sends calls, sends them again when that is safe, turns failures into errors."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from corral_sdk import _config, _ids, _retry, errors
from corral_sdk._sync import concurrency
from corral_sdk._version import __version__

#: Seconds without a byte before an ordinary call is given up. Waiting calls say how long they hold.
TIMEOUT_S = 30.0
CONNECT_S = 5.0
#: Seconds for calls that move files, and longer ones of the server.
TRANSFER_S = 600.0

Body = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `body` makes its content anew for each try; `repeatable` says that it can."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    body: Body | None = None
    timeout_s: float = TIMEOUT_S
    repeatable: bool = True


class Transport:
    """Owned by the client object; `close` ends its connections.

    Every call but a GET carries an `x-request-id` that stays the same over its tries, so that the server does it once.
    """

    def __init__(self, base_url: str, api_key: str, *, patience_s: float = _retry.PATIENCE_S) -> None:
        self.base_url = base_url
        self.api_key = api_key
        self._patience_s = patience_s
        self._reached = False
        self._client = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {api_key}", "User-Agent": f"corral-sdk/{__version__}"},
            # Loading the CA bundle takes 20 ms, and plain http has no use for it.
            verify=base_url.startswith("https://"),
            trust_env=not _config.is_loopback(base_url),
        )

    def close(self) -> None:
        """End all connections."""
        self._client.close()

    def call(self, call: Call) -> httpx.Response:
        """Send a call and return its whole answer. Raises what the server raised, Unreachable, BadAnswer."""
        return self._send(call, stream=False)

    def json(self, call: Call) -> dict[str, Any]:
        """Send a call whose answer is a JSON object."""
        response = self._send(call, stream=False)
        body = _json_of(response)
        if not isinstance(body, dict):
            raise errors.BadAnswer(f"cannot understand answer to {call.method} {call.path}: not a JSON object")
        return body

    def pages(self, call: Call, plural: str, key: str = "id") -> Iterator[dict[str, Any]]:
        """Yield every item of a list, page after page; `key` is the field of an item that is its cursor."""
        params = dict(call.params)
        while True:
            page = self.json(replace(call, params=params))
            items = page.get(plural)
            if not isinstance(items, list):
                raise errors.BadAnswer(f"cannot understand answer to {call.method} {call.path}: no list of {plural}")
            for item in items:
                yield item
            if not items or not page.get("has_more"):
                return
            params["starting_after"] = str(items[-1][key])

    @contextmanager
    def stream(self, call: Call) -> Iterator[httpx.Response]:
        """Send a call and give its answer with the body unread. A connection lost meanwhile raises Unreachable."""
        response = self._send(call, stream=True)
        try:
            yield response
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        finally:
            response.close()

    @contextmanager
    def outside(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: Body | None = None
    ) -> Iterator[httpx.Response]:
        """Send or fetch content at an address that the server gave, which is its own right: without the key, once.

        Gives the answer with its body unread. Raises what is answered, Unreachable.
        """
        limit = httpx.Timeout(TRANSFER_S, connect=CONNECT_S)
        # The address may be of another machine: it gets neither the key nor a header of ours.
        with httpx.Client(
            verify=url.startswith("https://"), trust_env=not _config.is_loopback(url), timeout=limit
        ) as client:
            try:
                request = client.build_request(
                    method, url, headers=dict(headers or {}), content=body() if body is not None else None
                )
                response = client.send(request, stream=True)
                try:
                    if not response.is_success:
                        response.read()
                        raise errors.from_wire(response.status_code, _json_of(response))
                    yield response
                finally:
                    response.close()
            except (httpx.TransportError, httpx.InvalidURL) as error:
                place = url.partition("?")[0]  # what follows is a secret
                raise errors.Unreachable(f"cannot reach {place}: {_cause(error)}") from error

    def _send(self, call: Call, *, stream: bool) -> httpx.Response:
        attempts = _retry.Attempts(reached=self._reached, patience_s=self._patience_s)
        headers = dict(call.headers)
        if call.method != "GET":
            headers["x-request-id"] = _ids.request_id()
        while True:
            answered: Mapping[str, str] = {}
            try:
                response = self._client.send(self._request(call, headers), stream=True)
                self._reached = True
                if response.is_success and stream:
                    return response
                try:
                    response.read()
                finally:
                    response.close()
                if response.is_success:
                    return response
                failure = errors.from_wire(response.status_code, _json_of(response))
                answered = response.headers
            except (httpx.TransportError, httpx.InvalidURL) as error:
                failure = self._unreachable(error)
            pause = attempts.pause(failure, answered) if call.repeatable else None
            if pause is None:
                raise failure
            concurrency.sleep(pause)

    def _request(self, call: Call, headers: dict[str, str]) -> httpx.Request:
        return self._client.build_request(
            call.method,
            call.path,
            params=dict(call.params) or None,
            headers=headers,
            json=call.json,
            content=call.body() if call.body is not None else None,
            timeout=httpx.Timeout(call.timeout_s, connect=CONNECT_S),
        )

    def _unreachable(self, error: Exception) -> errors.Unreachable:
        return errors.Unreachable(f"cannot reach server {self.base_url}: {_cause(error)}")


def _cause(error: Exception) -> str:
    match error:
        case httpx.ConnectTimeout():
            return f"no connection within {CONNECT_S:.0f} s"
        case httpx.TimeoutException():
            return "no answer in time"
        case httpx.ConnectError() if "refused" in str(error) or "All connection attempts failed" in str(error):
            return "connection refused; is `corral serve` running there?"
        case httpx.RemoteProtocolError() | httpx.ReadError() | httpx.WriteError():
            return "the connection was lost"
        case _:
            return str(error) or type(error).__name__


def _json_of(response: httpx.Response) -> object:
    try:
        return jsonlib.loads(response.content)
    except ValueError:
        if response.is_success:
            raise errors.BadAnswer(f"cannot understand answer of {response.request.url}: not JSON") from None
        return None
