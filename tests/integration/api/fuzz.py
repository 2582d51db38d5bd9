"""Requests made from the server's own OpenAPI document, and the checks that every answer has to pass.

Owns the choice of requests, and the things that some of them need to succeed. Must not know what a route answers: the
document says that.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import hypothesis
import schemathesis
from hypothesis import HealthCheck, strategies
from schemathesis import Case, GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks

Operation = APIOperation[Any, Any, Any, Any]

#: Seconds for which the server may send nothing.
ANSWER_S: Final = 20

#: Seconds that a request may ask the server to wait, so that time goes into requests.
_WAIT_S: Final = 0.05

#: Ends of paths whose requests wait for long when the body leaves this field out.
_WAITS: Final = {"/wait_for_status": "timeout_seconds", "/execute": "optimistic_timeout"}

#: A file that is there, and the field that names it in the routes that read one.
_FILE: Final = "fuzz.txt"
_READS: Final = {"/read_file_contents": "file_path", "/download_file": "path"}

#: Requests, at most, for one that succeeds.
_MORE: Final = 100

_STDIN: Final = "/executions/{execution_id}/send_std_in"
_SESSION: Final = "fuzz"

_CHECKS: Final[list[CheckFunction]] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


class Things:
    """What there is on a server for requests to succeed with: one devbox that stays, and what some requests use up."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=ANSWER_S)
        self.devbox_id: str = self._post("/v1/devboxes/create_and_await_running", {})["id"]
        self._box = f"/v1/devboxes/{self.devbox_id}"
        ended = self._post(f"{self._box}/execute", {"command": "echo out; echo err >&2"})
        self._execution_id: str = ended["execution_id"]
        self._reader_id = ""
        self._snapshot_id = self._snapshot()
        self._copy_id = self._copy()
        self._pulled_id = self._pulled()
        self._post(f"{self._box}/write_file_contents", {"file_path": _FILE, "contents": "text"})
        tunnel = self._post(f"{self._box}/create_pty_tunnel", {})
        self._tunnel = {
            "host": f"13-{tunnel['tunnel_key']}.tunnel.localhost",
            "x-runloop-tunnel-authorization": f"Bearer {tunnel['auth_token']}",
        }
        self._client.get(f"/pty/{_SESSION}", headers=self._tunnel).raise_for_status()

    def close(self) -> None:
        """Close the connection. What was made stays."""
        self._client.close()

    def use_in(self, case: Case[Any]) -> dict[str, str]:
        """Have the request name what is there; headers that it needs."""
        path = case.operation.path
        ids = {"devbox_id": self.devbox_id, "execution_id": self._execution_id, "session_name": _SESSION}
        if path.endswith("/shutdown"):
            ids["devbox_id"] = self._post("/v1/devboxes", {})["id"]
        ids["snapshot_id"] = self._snapshot() if path.endswith("{snapshot_id}/delete") else self._snapshot_id
        if "{copy_id}" in path:
            ids["copy_id"] = self._copy() if path.endswith("/delete") else self._copy_id
        if path.endswith("/restore"):
            ids["snapshot_id"] = self._pulled_id
        if "{blueprint_id}" in path:
            ids["blueprint_id"] = self._post("/v1/blueprints", {"name": "fuzz"})["id"]
        if "{object_id}" in path:
            ids["object_id"] = self._object(case)
        if path.endswith(_STDIN):
            ids["execution_id"] = self._reader()
        found = {name: value for name, value in ids.items() if "{" + name + "}" in path}
        case.path_parameters = {**(case.path_parameters or {}), **found}
        for end, name in _READS.items():
            if path.endswith(end) and isinstance(case.body, dict) and isinstance(case.body.get(name), str):
                case.body[name] = _FILE
        if path.endswith("/executions") and case.query and isinstance(case.query.get("starting_after"), str):
            case.query["starting_after"] = self._execution_id
        return self._tunnel if path.startswith("/pty/") else {}

    def _copy(self) -> str:
        """A remote copy that is there."""
        place = "/v1/devboxes/disk_snapshots"
        made = self._post(f"{place}/{self._snapshot()}/push", {})
        for _ in range(100):
            if self._client.get(f"{place}/remote/{made['id']}").raise_for_status().json()["status"] == "complete":
                break
            time.sleep(0.05)
        return str(made["id"])

    def _pulled(self) -> str:
        """A snapshot that was received from a remote copy."""
        place = "/v1/devboxes/disk_snapshots"
        made = self._post(f"{place}/remote/{self._copy_id}/pull", {})
        for _ in range(100):
            if self._client.get(f"{place}/{made['id']}/status").raise_for_status().json()["status"] == "complete":
                break
            time.sleep(0.05)
        return str(made["id"])

    def _object(self, case: Case[Any]) -> str:
        """An object for the request to end well with, and its token in the query where one is needed."""
        path, method = case.operation.path, case.operation.method.upper()
        made = self._post("/v1/objects", {"name": "fuzz", "content_type": "text"})
        url = str(made["upload_url"])
        if (path.endswith("/content") and method == "GET") or path.endswith(("/complete", "/download")):
            self._client.put(url, content=b"content").raise_for_status()
        if (path.endswith("/content") and method == "GET") or path.endswith("/download"):
            self._post(f"/v1/objects/{made['id']}/complete", {})
            url = self._client.get(f"/v1/objects/{made['id']}/download").raise_for_status().json()["download_url"]
        if path.endswith("/content"):
            case.query = {"token": url.split("token=")[1]}
        return str(made["id"])

    def _snapshot(self) -> str:
        return str(self._post(f"{self._box}/snapshot_disk", {})["id"])

    def _reader(self) -> str:
        """An execution that reads its standard input."""
        if self._reader_id:
            seen = self._client.get(f"{self._box}/executions/{self._reader_id}").raise_for_status().json()
            if seen["status"] != "completed":
                return self._reader_id
        wish = {"command": "exec cat > /dev/null", "attach_stdin": True}
        self._reader_id = self._post(f"{self._box}/execute_async", wish)["execution_id"]
        return self._reader_id

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.post(path, json=body).raise_for_status().json()
        return answer


@dataclass
class Fuzzer:
    """Sends requests to `url`; half of them name what is among `things`."""

    url: str
    key: str
    spec: dict[str, Any]
    things: Things
    sent: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    succeeded: set[str] = field(default_factory=set)  #: operations that have answered 200

    def operations(self) -> Iterator[Operation]:
        """All that this server offers and that ends by itself."""
        for found in schemathesis.openapi.from_dict(self.spec).get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()
            endless = operation.path.endswith(("/evictions/watch", "/logs/tail"))
            if "200" not in operation.definition.raw["responses"] or endless:
                continue
            yield operation

    def run(self, operation: Operation, examples: int, seed: int) -> None:
        """Send `examples` requests, of which some break the schema, and then others until one succeeds.

        Raises what a check finds, with the request.
        """
        valid, broken = (operation.as_strategy(generation_mode=mode) for mode in GenerationMode)
        self._run(strategies.one_of(valid, broken), strategies.booleans(), examples, seed)
        if label(operation) not in self.succeeded:
            self._run(valid, strategies.just(True), _MORE, seed, enough=label(operation))

    def _run(self, cases: Any, knowing: Any, examples: int, seed: int, enough: str = "") -> None:
        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck)
        )
        @hypothesis.given(case=cases, known=knowing)
        def send(case: Case[Any], known: bool) -> None:
            if enough in self.succeeded:
                return
            case.body = _harmless(case.body)
            headers = self.things.use_in(case) if known else {}
            for end, name in _WAITS.items():
                if case.operation.path.endswith(end) and isinstance(case.body, dict) and case.body.get(name) is None:
                    case.body[name] = _WAIT_S
            self._send(case, headers)

        send()

    def _send(self, case: Case[Any], more: dict[str, str]) -> None:
        headers = {"authorization": f"Bearer {self.key}", **more}
        answer = case.call(base_url=self.url, headers=headers, timeout=ANSWER_S)
        self.sent += 1
        self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
        if answer.status_code == 200:
            self.succeeded.add(label(case.operation))
        assert answer.status_code != 500, f"{case.as_curl_command()}: {answer.text}"
        # The schema of a stream is that of its text; tests of the streams read their events.
        events = answer.headers["content-type"][0].startswith("text/event-stream")
        case.validate_response(answer, checks=_CHECKS[:2] if events else _CHECKS)


def label(operation: Operation) -> str:
    """`GET /v1/devboxes`."""
    return f"{operation.method.upper()} {operation.path}"


def _harmless(body: Any) -> Any:
    """The body with commands that only print, and short waits: the fake runtime's commands run on this host."""
    if not isinstance(body, dict):
        return body
    found = {name: _harmless(value) for name, value in body.items()}
    for name in ("command", "entrypoint"):
        if isinstance(command := found.get(name), str) and command.strip():
            found[name] = f"printf %s {shlex.quote(command)}"
    if isinstance(commands := found.get("launch_commands"), list):
        found["launch_commands"] = [
            f"printf %s {shlex.quote(one)}" if isinstance(one, str) else one for one in commands
        ]
    for name in _WAITS.values():
        if isinstance(found.get(name), int | float) and found[name] > _WAIT_S:
            found[name] = _WAIT_S
    return found
