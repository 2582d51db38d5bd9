"""The guest against hosts that send anything: it lives, answers the next request, and keeps nothing of theirs."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import strategies as st

from tests.harness import fuzzing
from tests.integration.guest.box import Box, cpu_ticks
from tests.integration.guest.raw import connect, error_of, exchange, frame, frames_of, request

#: The guest answers, and is as before, so long after a conversation at most; for a machine with other work.
SETTLES_S: Final = 10.0
#: What an answering guest holds at most: 16 MiB of frames, twice while a buffer grows, and what a request becomes.
MEMORY_KIB: Final = 96 << 10
EXAMPLES: Final = 250

OPS: Final = (
    "hello",
    "claim",
    "park",
    "wake",
    "exec",
    "wait",
    "executions",
    "signal",
    "stdin",
    "resize",
    "attach",
    "read",
    "write",
)
OPS_TOO: Final = ("list", "stat", "connect", "later", "")
VALUES: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([1 << 31, 1 << 32, 1 << 63, 1 << 64, 1 << 70, -1]),
    st.floats(),
    st.text(max_size=10),
    st.sampled_from(["x" * 4095, "x" * 300_000, "a\0b", "/", "../" * 1000, "~", "~/" + "d/" * 1900, "0:0", "-1"]),
    st.lists(st.text(max_size=3), max_size=4),
    st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3),
)
#: Ids stand for executions of the present conversation.
IDS: Final = st.sampled_from(["@1", "@2"])
FIELDS: Final = ("id", "argv", "env", "cwd", "user", "stdin", "terminal", "limit", "path", "port", "signal", "eof")
FIELDS_TOO: Final = ("rows", "cols", "hosts", "offset", "mode", "group", "foreground", "later")
HONEST: Final = st.one_of(
    st.fixed_dictionaries(
        {
            "op": st.just("exec"),
            "id": IDS,
            "argv": st.sampled_from(
                [["cat"], ["sleep", "0.01"], ["missing"], ["sh", "-c", "echo x; exit 3"], ["yes"]]
            ),
            "limit": st.sampled_from([0, 1000]),
            "user": st.sampled_from([None, "user", "nobody-here"]),
        },
        optional={"stdin": st.just(True), "terminal": st.just({"rows": 2, "cols": 2}), "cwd": st.just("/tmp")},
    ),
    st.fixed_dictionaries({"op": st.sampled_from(["wait", "attach", "executions", "hello"]), "id": IDS}),
    st.fixed_dictionaries({"op": st.just("stdin"), "id": IDS, "eof": st.booleans()}),
    st.fixed_dictionaries(
        {"op": st.just("signal"), "id": IDS, "signal": st.sampled_from([2, 9, 15, 19]), "group": st.booleans()}
    ),
    st.fixed_dictionaries({"op": st.just("resize"), "id": IDS, "rows": st.just(1), "cols": st.just(65_535)}),
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["read", "stat", "list", "write"]),
            "path": st.sampled_from(
                ["/tmp/f", "/etc/passwd", "/usr/bin/python3", "/usr/lib", "/dev/null", "/proc/1/mem"]
            ),
            "user": st.sampled_from([None, "user"]),
        },
        # Nothing of the machine's own folders is the guest's to write here: they belong to ids that it does not have.
        optional={"offset": st.sampled_from([1, 1 << 63]), "limit": st.just(5), "mode": st.just(0o600)},
    ),
    st.fixed_dictionaries({"op": st.just("connect"), "port": st.sampled_from([1, 0, 65_535])}),
)
WRONG: Final = st.dictionaries(st.sampled_from([*FIELDS, *FIELDS_TOO]), VALUES, max_size=5)
BODIES: Final = st.one_of(
    HONEST,
    HONEST,
    st.builds(lambda body, wrong: body | wrong, HONEST, WRONG),
    st.builds(lambda op, wrong: wrong | {"op": op}, st.sampled_from([*OPS, *OPS_TOO]), WRONG),
)
ODD: Final = st.sampled_from(
    [
        frame(1, b"[" * 100_000),
        frame(1, b'{"op":"hello","x":' + b"[" * 100_000),
        frame(1, b'{"op":"hello","op":"claim"}'),
        frame(1, b'{"op":"exec","id":"e","limit":1,"argv":[' + b'"",' * 300_000 + b'""]}'),
        frame(1, b"x" * (4 << 20)),
        frame(1, b"", 4 << 20),
        frame(5, b"", 256 << 10),
        frame(1, b"", 0xFFFFFFFF),
        b"GET / HTTP/1.1\r\n\r\n",
    ]
)
DATA: Final = st.one_of(
    st.builds(frame, st.just(5), st.binary(min_size=1, max_size=30)),
    st.sampled_from([frame(5, b"x" * 200_000), frame(6, b""), frame(5, b"\x03"), frame(5, b"\x04")]),
    st.builds(frame, st.integers(0, 255), st.binary(max_size=20), st.sampled_from([None, 0, 7, 1 << 18, 1 << 22])),
    st.binary(min_size=1, max_size=60),
    ODD,
)


@dataclass
class Step:
    """What one connection does next: see the methods of Host for the verbs."""

    verb: str
    body: Any = field(default=b"")
    descriptors: int = 0


STEPS: Final = st.one_of(
    st.builds(Step, st.just("request"), BODIES, st.sampled_from([0, 0, 0, 3, 3, 1, 4, 200])),
    st.builds(Step, st.just("request"), BODIES, st.just(3)),
    st.builds(Step, st.just("data"), DATA, st.sampled_from([0, 0, 0, 0, 1, 3])),
    st.builds(Step, st.just("data"), DATA),
    st.builds(Step, st.just("drip"), BODIES, st.sampled_from([0, 3])),
    st.sampled_from([Step("read"), Step("read"), Step("shut"), Step("close"), Step("urgent"), Step("pause")]),
)
#: Up to six connections at once; the numbers say whose turn it is.
TURNS: Final = st.lists(st.tuples(st.integers(0, 5), STEPS), min_size=1, max_size=14)


class Host:
    """Holds conversations with one guest and looks at what each leaves behind."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._numbers = itertools.count()
        self._number = 0
        self._file = os.memfd_create("output")
        self._descriptors = box.descriptors()
        self.outcomes: set[str] = set()

    def check(self, turns: list[tuple[int, Step]]) -> None:
        self._number = next(self._numbers)
        with contextlib.ExitStack() as held:
            socks: dict[int, socket.socket] = {}
            for who, step in [*turns, *((who, Step("read")) for who, _ in turns)]:
                sock = socks.get(who) or held.enter_context(connect(self._box))
                socks[who] = sock
                sock.setblocking(False)
                # It is full, or the guest has closed it.
                with contextlib.suppress(OSError):
                    getattr(self, f"_{step.verb}")(sock, step)
        self._settle()

    def _settle(self) -> None:
        """The guest answers, has nothing of the conversation left, and has kept within its memory."""
        ends = time.monotonic() + SETTLES_S
        while True:
            kinds = frames_of(exchange(self._box, request(op="executions"), timeout_s=SETTLES_S))
            running = [row[0] for kind, body in kinds if kind == 4 for row in body["rows"] if row[2]]
            for name in running:
                exchange(self._box, request(op="signal", id=name, signal=9), timeout_s=SETTLES_S)
            if not running and self._box.descriptors() == self._descriptors and self._box.threads() == 1:
                break
            assert time.monotonic() < ends, (running, self._box.descriptors(), self._descriptors, self._box.threads())
            time.sleep(0.001)
        assert memory_kib(self._box, "RssAnon") < MEMORY_KIB

    def _encoded(self, body: dict[str, object]) -> bytes:
        name = body.get("id")
        if isinstance(name, str) and name.startswith("@"):
            body = body | {"id": f"e{self._number}.{name[1:]}"}
        return request(**body)

    def _put(self, sock: socket.socket, data: bytes, descriptors: int) -> None:
        if descriptors:
            data = data[socket.send_fds(sock, [data], [self._file] * descriptors) :]
        sock.setblocking(True)
        sock.settimeout(0.02)  # a guest that takes no more has said why
        sock.sendall(data)

    # -- verbs

    def _request(self, sock: socket.socket, step: Step) -> None:
        self._put(sock, self._encoded(step.body), step.descriptors)

    def _data(self, sock: socket.socket, step: Step) -> None:
        self._put(sock, step.body, step.descriptors)

    def _drip(self, sock: socket.socket, step: Step) -> None:
        data = self._encoded(step.body)
        for index in range(min(len(data), 200)):
            self._put(sock, data[index : index + 1], step.descriptors)
        self._put(sock, data[200:], 0)

    def _read(self, sock: socket.socket, _: Step) -> None:
        sock.settimeout(0.01)
        answer = sock.recv(65_536)
        if answer[:1] in {b"\2", b"\3"}:
            with contextlib.suppress(AssertionError, ValueError):  # cut short
                [(kind, body), *_rest] = frames_of(answer)
                self.outcomes.add(body["kind"] if kind == 3 else "reply")

    def _shut(self, sock: socket.socket, _: Step) -> None:
        sock.shutdown(socket.SHUT_WR)

    def _close(self, sock: socket.socket, _: Step) -> None:
        sock.shutdown(socket.SHUT_RDWR)

    def _urgent(self, sock: socket.socket, _: Step) -> None:
        sock.send(b"!", socket.MSG_OOB)

    def _pause(self, _: socket.socket, __: Step) -> None:
        time.sleep(0.003)

    def close(self) -> None:
        os.close(self._file)


def memory_kib(box: Box, name: str) -> int:
    """A line of the guest's status."""
    status = Path(f"/proc/{box.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))


@pytest.mark.slow
@pytest.mark.timeout(240 + fuzzing.SECONDS)
def test_random_conversations_leave_the_guest_as_it_was(box: Box) -> None:
    host = Host(box)
    with contextlib.closing(host):
        for seed in fuzzing.rounds():
            fuzzing.run(host.check, seed, EXAMPLES, turns=TURNS)
    # Requests got past the checks as well as being refused by them.
    assert {"reply", "bad-request"} <= host.outcomes, host.outcomes
    # A quiet guest does nothing.
    before = cpu_ticks(box.pid)
    time.sleep(0.5)
    assert cpu_ticks(box.pid) - before <= 2


# ---- what it found, or could not have found


def test_descriptors_do_not_pile_up_with_a_connection(box: Box) -> None:
    null = os.memfd_create("many")
    before = box.descriptors()
    long = frame(1, b"", 1000)
    with contextlib.closing(connect(box)) as sock, contextlib.suppress(OSError):
        for index in range(300):
            socket.send_fds(sock, [long[index : index + 1] or b" "], [null] * 3)
            assert box.descriptors() <= before + 12
    spools = (null,) * 3
    with contextlib.closing(connect(box)) as running:
        socket.send_fds(running, [request(op="exec", id="cat", argv=["cat"], stdin=True, limit=1)], spools)
        assert running.recv(100)[0] == 2
        before = box.descriptors()
        with contextlib.closing(connect(box)) as sock, contextlib.suppress(OSError):
            sock.sendall(request(op="stdin", id="cat"))
            for _ in range(100):
                socket.send_fds(sock, [frame(5, b"x")], [null])
                assert box.descriptors() <= before + 8
        assert frames_of(exchange(box, request(op="signal", id="cat", signal=9))) == [(2, {})]
    os.close(null)


@pytest.mark.parametrize(
    ("name", "path", "kind"),
    [
        ("x" * 1_000_000, ":" * 1_000_000, "too-long"),
        ("x", ":" * 4_000_000, "too-long"),
        ("x" * 255, ":" * 130_000, "no-such-program"),
        ("x" * 100_000, ":" * 130_000, "no-such-program"),
        ("x" * 100_000, "", "no-such-program"),
        ("x", "/" + "d" * 100_000 + ":/" + "d" * 4090, "no-such-program"),
    ],
)
def test_a_program_that_is_looked_for_everywhere_takes_no_memory(box: Box, name: str, path: str, kind: str) -> None:
    file = os.memfd_create("output")
    body = request(op="exec", id="x", argv=[name], env={"PATH": path}, limit=1)
    assert error_of(exchange(box, body, (file,) * 3, timeout_s=20)) == kind
    os.close(file)
    # The request itself, its fields, and their copies for the kernel.
    assert memory_kib(box, "VmHWM") < 32 << 10


def test_more_arguments_than_a_kernel_takes_are_not_copied(box: Box) -> None:
    file = os.memfd_create("output")
    body = request(op="exec", id="x", argv=["true", *[""] * 1_000_000], limit=1)
    assert error_of(exchange(box, body, (file,) * 3, timeout_s=20)) == "too-long"
    os.close(file)
    assert memory_kib(box, "VmHWM") < 64 << 10


def test_input_that_nobody_reads_is_bounded_over_all_writers(box: Box) -> None:
    file = os.memfd_create("output")
    with contextlib.ExitStack() as held:
        sock = held.enter_context(connect(box))
        deaf = request(op="exec", id="deaf", argv=["sleep", "60"], stdin=True, limit=1)
        socket.send_fds(sock, [deaf], [file] * 3)
        assert sock.recv(100)[0] == 2
        for _ in range(200):
            sock = held.enter_context(connect(box))
            sock.settimeout(0.2)
            with contextlib.suppress(OSError):
                sock.sendall(request(op="stdin", id="deaf") + frame(5, b"x" * (256 << 10)))
        assert error_of(sock.recv(1000)) == "busy"
        assert memory_kib(box, "VmHWM") < 40 << 10
        # What is small is taken all the same.
        assert frames_of(exchange(box, request(op="hello")))[0][0] == 2
        assert frames_of(exchange(box, request(op="signal", id="deaf", signal=9))) == [(2, {})]
    os.close(file)


def test_many_requests_leave_no_memory_behind(box: Box) -> None:
    hello = request(op="hello")
    for _ in range(20_000):
        exchange(box, hello)
    # Memory is given back a second after the last work.
    ends = time.monotonic() + 5
    while memory_kib(box, "RssAnon") > 320:
        assert time.monotonic() < ends, memory_kib(box, "RssAnon")
        time.sleep(0.1)


def test_a_path_of_two_thousand_folders_is_made_and_does_not_end_the_guest(box: Box) -> None:
    path = "/tmp/" + "d/" * 2000 + "f"
    assert frames_of(exchange(box, request(op="write", path=path, user="root") + frame(6, b""))) == [(2, {"bytes": 0})]
    assert frames_of(exchange(box, request(op="stat", path=path, user="root")))[0][0] == 2
