"""The load under which blows fall: each client makes devboxes, runs commands, keeps files and shuts down, by its lots.

Owns what is asked and how an answer is awaited through the death of a server. What must follow is `ledger.py`'s.
"""

from __future__ import annotations

import random
import time
import traceback
import uuid
from typing import Any, Final

import httpx

from tests.crash.chaos.ledger import OVER, SHUT, Box, Broken, Ledger

SLOTS: Final = 2  #: devboxes of a client at a time
SIZE: Final = {"resource_size_request": "X_SMALL"}
ACTS: Final = ("run", "run", "async", "async", "write", "write", "read", "read", "replace", "keep_alive")
#: The longest that a request is repeated, through outages of the server.
PATIENCE_S: Final = 120.0
STOPPING: Final = 503


class Refused(Exception):
    """An answer that is not 200."""

    def __init__(self, asked: str, answer: httpx.Response) -> None:
        super().__init__(f"{asked} was answered {answer.status_code} {answer.text}")
        self.status = answer.status_code


class Caller:
    """One connection to whichever server serves; a request that got no answer is repeated with the same id."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._http = httpx.Client(base_url=ledger.server.url, headers=ledger.server.headers, timeout=60)

    def call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """The answer. Raises Refused, and Broken when there is none for PATIENCE_S."""
        headers = {"x-request-id": str(uuid.uuid4())}
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            outages = self.ledger.outages
            try:
                answer = self._http.request(method, path, json=body if method == "POST" else None, headers=headers)
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if answer.status_code == STOPPING and (self.ledger.ending.is_set() or self.ledger.outages != outages):
                time.sleep(0.1)
                continue
            if answer.status_code != 200:
                raise Refused(f"{method} {path}", answer)
            if "json" not in answer.headers["content-type"]:
                return {"text": answer.text}
            view: dict[str, Any] = answer.json()
            return view
        raise Broken(f"{method} {path} got no answer for {PATIENCE_S} s")

    def views(self) -> dict[str, dict[str, Any]]:
        """All devboxes by id."""
        found: dict[str, dict[str, Any]] = {}
        query = "limit=1000"
        while True:
            page = self.call("GET", f"/v1/devboxes?{query}")
            found |= {view["id"]: view for view in page["devboxes"]}
            if not page["has_more"]:
                return found
            query = f"limit=1000&starting_after={page['devboxes'][-1]['id']}"

    def execute(self, box: Box, command: str, stdout: str, code: int, hold_s: int = 0) -> str:
        """A command that is promised; its execution's id."""
        body = {"command": command, "command_id": str(uuid.uuid4()), "optimistic_timeout": hold_s}
        view = self.call("POST", f"/v1/devboxes/{box.id}/execute", **body)
        self.ledger.promised(view, box, stdout, code)
        return str(view["execution_id"])

    def completed(self, execution_id: str) -> dict[str, Any]:
        """The execution once it has ended, judged. Raises Broken when it does not end for PATIENCE_S."""
        promise = self.ledger.promises[execution_id]
        path = f"/v1/devboxes/{promise.box.id}/executions/{execution_id}/wait_for_status"
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                view = self.call("POST", path, statuses=["completed"], timeout_seconds=20)
            except Refused as refused:
                if refused.status != 408:
                    raise
            else:
                self.ledger.judge(execution_id, promise, view)
                return view
        raise Broken(f"{execution_id} in {promise.box} did not end for {PATIENCE_S} s")

    def close(self) -> None:
        """Drop the connection."""
        self._http.close()


class Client:
    """`run` until the ledger says stop. `slots` are its devboxes, which blows choose from."""

    def __init__(self, ledger: Ledger, seed: str) -> None:
        self.ledger = ledger
        self.slots: list[Box | None] = [None] * SLOTS
        self._lot = random.Random(seed)
        self._caller = Caller(ledger)

    def run(self) -> None:
        """Whatever breaks is told to the ledger."""
        try:
            while not self.ledger.stop.is_set() and not self.ledger.broken:
                self._act()
        except (Broken, Refused) as problem:
            self.ledger.broken.append(str(problem))
        except Exception:  # noqa: BLE001 - a thread's end must not go unseen
            self.ledger.broken.append(traceback.format_exc())
        finally:
            self._caller.close()

    def _act(self) -> None:
        """One act on one slot. As many lots are drawn whatever the state, so that timing cannot change the next."""
        slot, act, number = self._lot.randrange(SLOTS), self._lot.choice(ACTS), self._lot.randrange(1 << 30)
        box = self.slots[slot]
        if box is None or box.ends:
            self.slots[slot] = self._create()
            return
        try:
            if act == "replace":
                self._shut_down(box)
                self.slots[slot] = self._create()
            elif act == "keep_alive":
                self._create(seconds=2)
            else:
                self._use(box, act, number)
        except Refused as refused:
            self._excuse(box, act, refused)

    def _use(self, box: Box, act: str, number: int) -> None:
        if act == "run":
            self._caller.execute(box, f"echo {number}; exit {number % 100}", f"{number}\n", number % 100, hold_s=20)
        elif act == "async":
            command = f"for n in 1 2 3 4 5; do echo $n of {number}; sleep 0.3; done; exit 7"
            self._caller.execute(box, command, "".join(f"{n} of {number}\n" for n in range(1, 6)), 7)
        elif act == "write":
            path, text = f"kept/{self.ledger.number()}", f"{number} " * (number % 5000)
            body = {"file_path": path, "contents": text}
            self._caller.call("POST", f"/v1/devboxes/{box.id}/write_file_contents", **body)
            box.files[path] = text
        elif box.files:
            path = sorted(box.files)[number % len(box.files)]
            self.check_file(self._caller, box, path)

    @staticmethod
    def check_file(caller: Caller, box: Box, path: str) -> None:
        """A file that was acknowledged is there as it was written."""
        found = caller.call("POST", f"/v1/devboxes/{box.id}/read_file_contents", file_path=path)["text"]
        if found != box.files[path]:
            raise Broken(f"{path} in {box.id} is {found[:80]!r}, and was {box.files[path][:80]!r}")

    def _excuse(self, box: Box, act: str, refused: Refused) -> None:
        """Raise again unless a blow explains the refusal."""
        if box.ends or (act == "write" and box.full) or box.purged:
            return
        raise Broken(f"unharmed {box}: {refused}")

    def _create(self, seconds: int | None = None) -> Box | None:
        """A devbox that runs; with `seconds` to live nobody waits for it."""
        parameters = SIZE if seconds is None else SIZE | {"keep_alive_time_seconds": seconds}
        view = self._caller.call("POST", "/v1/devboxes", launch_parameters=parameters)
        box = Box(view["id"])
        if seconds is not None:
            box.must_end(OVER)
        self.ledger.boxes[box.id] = box
        deadline = time.monotonic() + PATIENCE_S
        while seconds is None and view["status"] not in {"running", "failure", "shutdown"}:
            if time.monotonic() > deadline:
                raise Broken(f"{box.id} is still {view['status']}")
            time.sleep(0.05)
            view = self._caller.call("GET", f"/v1/devboxes/{box.id}")
        if seconds is None and view["status"] != "running":
            raise Broken(f"a devbox did not start: {view}")
        return box

    def _shut_down(self, box: Box) -> None:
        box.must_end(SHUT)
        for _ in range(2):  # the second has no effect, and is not refused
            view = self._caller.call("POST", f"/v1/devboxes/{box.id}/shutdown")
            if view["status"] not in {"shutdown", "failure"}:
                raise Broken(f"{box.id} was shut down and is {view['status']}")
