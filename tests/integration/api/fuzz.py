"""Requests made from the server's own OpenAPI document, and the checks that every answer has to pass.

Owns the choice of requests. Must not know what a route answers: the document says that.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

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

_CHECKS: Final[list[CheckFunction]] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@dataclass
class Fuzzer:
    """Sends requests to `url`. `ids` are path parameters that exist; half the requests name them."""

    url: str
    key: str
    spec: dict[str, Any]
    ids: Mapping[str, str]
    sent: int = 0
    statuses: dict[int, int] = field(default_factory=dict)

    def operations(self) -> Iterator[Operation]:
        """All that this server offers and that ends by itself."""
        for found in schemathesis.openapi.from_dict(self.spec).get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()
            if "200" not in operation.definition.raw["responses"] or operation.path.endswith("/evictions/watch"):
                continue
            yield operation

    def run(self, operation: Operation, examples: int, seed: int) -> None:
        """Send `examples` requests, of which some break the schema. Raises what a check finds, with the request."""
        valid, broken = (operation.as_strategy(generation_mode=mode) for mode in GenerationMode)

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck)
        )
        @hypothesis.given(case=strategies.one_of(valid, broken), known=strategies.booleans())
        def send(case: Case[Any], known: bool) -> None:
            if known:
                case.path_parameters = {**(case.path_parameters or {}), **self._ids_of(operation)}
            case.body = _harmless(case.body)
            for end, name in _WAITS.items():
                if operation.path.endswith(end) and isinstance(case.body, dict) and case.body.get(name) is None:
                    case.body[name] = _WAIT_S
            self._send(case)

        send()

    def _ids_of(self, operation: Operation) -> dict[str, str]:
        # A box that was shut down would answer all requests after it alike.
        ids = {} if operation.path.endswith("/shutdown") else self.ids
        return {name: value for name, value in ids.items() if "{" + name + "}" in operation.path}

    def _send(self, case: Case[Any]) -> None:
        headers = {"authorization": f"Bearer {self.key}"}
        answer = case.call(base_url=self.url, headers=headers, timeout=ANSWER_S)
        self.sent += 1
        self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
        assert answer.status_code != 500, f"{case.as_curl_command()}: {answer.text}"
        # The schema of a stream is that of its text; tests of the streams read their events.
        events = answer.headers["content-type"][0].startswith("text/event-stream")
        case.validate_response(answer, checks=_CHECKS[:2] if events else _CHECKS)


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
