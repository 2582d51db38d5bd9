"""The parts that send nothing: retries, ids, addresses and keys, event streams, forms."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_multipart.multipart import MultipartParser

from corral_sdk import _config, _ids, _multipart, _retry, _sse, errors
from corral_sdk.models import SshKey


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pauses(failure: errors.CorralError, headers: dict[str, str] | None = None, *, reached: bool = True) -> list[float]:
    """All pauses of a call that always fails in this way, on a clock that moves by nothing but them."""
    clock = Clock()
    attempts = _retry.Attempts(reached=reached, clock=clock)
    found = []
    while (pause := attempts.pause(failure, headers)) is not None:
        found.append(pause)
        clock.now += pause
    return found


def test_a_lost_connection_is_tried_for_as_long_as_a_server_restarts() -> None:
    total = sum(pauses(errors.Unreachable("x")))
    assert 10 < total <= _retry.PATIENCE_S


def test_a_server_that_never_answered_is_given_up_at_once() -> None:
    assert sum(pauses(errors.Unreachable("x"), reached=False)) <= _retry.FIRST_CONTACT_S


@pytest.mark.parametrize("cls", [errors.Exhausted, errors.Unavailable])
def test_an_answer_that_may_pass_is_asked_again_a_few_times(cls: type[errors.CorralError]) -> None:
    assert len(pauses(cls("x"))) == _retry.ANSWERED_TRIES
    assert pauses(cls("x"), {"x-should-retry": "false"}) == []


@pytest.mark.parametrize("cls", [errors.Invalid, errors.NotFound, errors.Conflict, errors.Internal, errors.TimedOut])
def test_an_answer_that_will_not_change_is_final(cls: type[errors.CorralError]) -> None:
    assert pauses(cls("x")) == []


def test_a_wait_is_asked_again_by_its_own_loop_and_not_here() -> None:
    assert pauses(errors.TimedOut("x"), {"x-should-retry": "true"}) == []


@pytest.mark.parametrize("headers", [{"retry-after": "2"}, {"retry-after-ms": "2000"}])
def test_the_server_says_when_to_come_back(headers: dict[str, str]) -> None:
    assert pauses(errors.Exhausted("x"), headers)[0] == pytest.approx(2)


def test_a_pause_longer_than_the_patience_is_not_made() -> None:
    assert pauses(errors.Exhausted("x"), {"retry-after": "3600"}) == []


def test_command_ids_are_version_7_and_in_order_of_time() -> None:
    first = uuid.UUID(_ids.command_id())
    time.sleep(0.002)
    second = uuid.UUID(_ids.command_id())
    assert (first.version, first.variant) == (7, uuid.RFC_4122)
    assert abs((first.int >> 80) - time.time() * 1000) < 1000
    assert first < second


def test_request_ids_differ() -> None:
    assert len({_ids.request_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize("address", ["127.0.0.1:8700", "ftp://host", "http://", "unix:/run/x"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(errors.Invalid, match="cannot use server address"):
        _config.server_url(address)


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _config.server_url(None) == "http://127.0.0.1:8700"
    monkeypatch.setenv("CORRAL_URL", "https://corral.example/prefix/")
    assert _config.server_url(None) == "https://corral.example/prefix"
    assert _config.server_url("http://other:1") == "http://other:1"


def test_the_key_is_found_in_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CORRAL_DATA", str(tmp_path))
    with pytest.raises(errors.Unauthenticated, match="there is no"):
        _config.api_key(None)
    (tmp_path / "api-key").write_text("")
    with pytest.raises(errors.Unauthenticated, match="it is empty"):
        _config.api_key(None)
    (tmp_path / "api-key").write_text("ak_file\n")
    assert _config.api_key(None) == "ak_file"
    monkeypatch.setenv("CORRAL_API_KEY", "ak_env")
    assert _config.api_key(None) == "ak_env"
    assert _config.api_key("ak_given") == "ak_given"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_key_that_may_not_be_read_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "api-key").mkdir()  # for root no file is unreadable, but a folder is no file
    monkeypatch.setenv("CORRAL_DATA", str(tmp_path))
    with pytest.raises(errors.Unauthenticated, match="cannot read API key"):
        _config.api_key(None)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [("http://127.0.0.1:1", True), ("http://localhost", True), ("http://[::1]:5", True), ("http://10.0.0.1", False)],
)
def test_no_proxy_stands_before_this_machine(url: str, loopback: bool) -> None:
    assert _config.is_loopback(url) is loopback


STREAM = (
    b": keep-alive\n\n"
    b'data: {"output": "a"}\n\n'
    b"event: error\r\ndata: one\r\ndata: two\r\n\r\n"
    b"id: 7\nretry: 5\n\n"
    b"data:\xc2\x85\xe2\x80\xa8 tight\n\n"
)
EVENTS = [
    _sse.Event("message", '{"output": "a"}'),
    _sse.Event("error", "one\ntwo"),
    _sse.Event("message", "\x85\u2028 tight"),
]


@given(st.lists(st.integers(min_value=0, max_value=len(STREAM)), max_size=20))
def test_events_are_the_same_however_the_bytes_arrive(cuts: list[int]) -> None:
    decoder = _sse.Decoder()
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in itertools.pairwise(edges)]
    assert [event for piece in pieces for event in decoder.feed(piece)] == EVENTS


def test_a_stream_without_line_ends_is_not_kept_for_ever() -> None:
    decoder = _sse.Decoder()
    for _ in range(16):
        assert list(decoder.feed(b"x" * 1024 * 1024)) == []
    with pytest.raises(errors.BadAnswer, match="longer than"):
        list(decoder.feed(b"x" * 1024 * 1024))


def test_a_stream_that_is_no_text_is_refused() -> None:
    with pytest.raises(errors.BadAnswer, match="not UTF-8"):
        list(_sse.Decoder().feed(b"data: \xff\n"))


def test_a_form_is_read_back_by_a_parser() -> None:
    frame = _multipart.frame({"path": "~/a ü.txt"}, "file", boundary="mark")
    content = b"\r\n--mark-but-not\x00" * 10
    body = frame.head + content + frame.tail
    assert frame.length(len(content)) == len(body)
    parts: list[bytearray] = []
    parser = MultipartParser(
        b"mark",
        {
            "on_part_begin": lambda: parts.append(bytearray()),
            "on_part_data": lambda data, start, end: parts[-1].extend(data[start:end]),
        },
    )
    parser.write(body)
    parser.finalize()
    assert [bytes(part) for part in parts] == ["~/a ü.txt".encode(), content]


def test_the_boundary_is_new_for_each_form() -> None:
    assert _multipart.frame({}, "file").content_type != _multipart.frame({}, "file").content_type


SSH_KEY = {
    "id": "dbx_1",
    "url": "dbx-1.ssh.example.org",
    "ssh_user": "user",
    "ssh_private_key": "-----BEGIN PRIVATE KEY-----",
    "ssh_port": 22,
    "ssh_host_key": "ssh-ed25519 AAAA",
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", "-oProxyCommand=id"),
        ("url", "a;id"),
        ("url", "a\nProxyCommand id"),
        ("ssh_user", "user\n  ProxyCommand id"),
        ("ssh_user", "-l"),
        ("ssh_host_key", "ssh-ed25519 AAAA\n* ssh-ed25519 BBBB"),
        ("ssh_port", "x"),
        ("ssh_private_key", None),
    ],
)
def test_an_ssh_key_gives_ssh_nothing_that_it_would_obey(name: str, value: str | None) -> None:
    assert SshKey.from_wire(SSH_KEY, host="here").user == "user"
    wire = {key: told for key, told in (SSH_KEY | {name: value}).items() if told is not None}
    with pytest.raises(errors.BadAnswer):
        SshKey.from_wire(wire, host="here")
