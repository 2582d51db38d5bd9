"""Files over HTTP: text, transfers of any size, and what goes wrong with them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.integration.api.stand import Stand

BOUNDARY = "x-boundary-x"
MIB = 1024 * 1024


def part(name: str, content: bytes, *, filename: str | None = None) -> bytes:
    extra = f'; filename="{filename}"' if filename else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + content + b"\r\n"


LAST = f"--{BOUNDARY}--\r\n".encode()


async def post_form(stand: Stand, devbox_id: str, body: bytes | AsyncIterator[bytes]) -> httpx.Response:
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    return await stand.client.post(f"/v1/devboxes/{devbox_id}/upload_file", content=body, headers=headers)


async def test_text_is_written_and_read(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    for route in ("write_file_contents", "write_file"):
        text = f"häl{route}\r\n\0€"
        body = {"file_path": "deep/er/a.txt", "contents": text}
        answer = await stand.client.post(f"/v1/devboxes/{devbox_id}/{route}", json=body)
        assert answer.json()["exit_status"] == 0
        read = await stand.client.post(
            f"/v1/devboxes/{devbox_id}/read_file_contents", json={"file_path": "~/deep/er/a.txt"}
        )
        assert (read.content, read.headers["content-type"]) == (text.encode(), "text/plain; charset=utf-8")


async def test_a_file_goes_up_and_comes_down_whole(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    content = os.urandom(5 * MIB) + b"\r\n--" + BOUNDARY.encode() + b"\r" + b"\r\n" * 5000
    path = f"/v1/devboxes/{devbox_id}/upload_file"
    answer = await stand.client.post(path, data={"path": "dir/b.bin"}, files={"file": ("b.bin", content)})
    assert (answer.status_code, answer.json()) == (200, {})
    down = await stand.client.post(f"/v1/devboxes/{devbox_id}/download_file", json={"path": "dir/b.bin"})
    assert down.content == content
    assert down.headers["content-length"] == str(len(content))
    assert down.headers["content-type"] == "application/octet-stream"
    assert down.headers["content-disposition"] == "attachment; filename*=UTF-8''b.bin"


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537])
async def test_files_of_any_size_arrive_in_any_pieces(stand: Stand, size: int) -> None:
    devbox_id = await stand.devbox()
    content = bytes(range(256)) * (size // 256) + b"\r\n--x-boundary"[: size % 256]
    form = part("path", b"f") + part("file", content, filename="f") + LAST

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(form), 7919):
            yield form[start : start + 7919]

    assert (await post_form(stand, devbox_id, pieces())).status_code == 200
    down = await stand.client.post(f"/v1/devboxes/{devbox_id}/download_file", json={"path": "f"})
    assert hashlib.sha256(down.content).digest() == hashlib.sha256(content).digest()


async def test_a_small_file_may_come_before_its_path_and_a_large_one_may_not(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    small = await post_form(stand, devbox_id, part("file", b"abc", filename="f") + part("path", b"g") + LAST)
    assert small.status_code == 200
    read = await stand.client.post(f"/v1/devboxes/{devbox_id}/read_file_contents", json={"file_path": "g"})
    assert read.text == "abc"
    large = await post_form(stand, devbox_id, part("file", bytes(3 * MIB), filename="f") + part("path", b"g") + LAST)
    assert large.status_code == 400
    assert "put the field path before the file" in large.json()["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (part("path", b"f") + LAST, "file: is missing"),
        (part("file", b"x", filename="f") + LAST, "path: is missing"),
        (part("path", b"f") + part("file", b"x", filename="f"), "breaks off"),
        (part("path", b"f") + part("path", b"g") + LAST, "path: is there twice"),
        (part("path", b"") + part("file", b"x", filename="f") + LAST, "path: must not be blank"),
        (part("path", b"\xff") + part("file", b"x", filename="f") + LAST, "path: is not UTF-8"),
        (part("mode", b"f") + LAST, "'mode' is not one of its fields: file, path"),
        (b"nonsense", "cannot read form"),
        (b"", "cannot read form"),
    ],
)
async def test_a_form_that_is_wrong_is_refused_with_the_reason(stand: Stand, body: bytes, message: str) -> None:
    devbox_id = await stand.devbox()
    answer = await post_form(stand, devbox_id, body)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["message"]
    assert (await stand.run(devbox_id, "ls"))["stdout"] == ""


async def test_fields_that_are_too_large_are_refused(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    answer = await post_form(stand, devbox_id, part("path", b"f" * 70_000) + part("file", b"x", filename="f") + LAST)
    assert answer.status_code == 413


async def test_an_upload_that_breaks_off_leaves_the_old_file(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    body = {"file_path": "f", "contents": "old"}
    await stand.client.post(f"/v1/devboxes/{devbox_id}/write_file_contents", json=body)
    form = part("path", b"f") + part("file", bytes(MIB), filename="f") + LAST
    head = (
        f"POST /v1/devboxes/{devbox_id}/upload_file HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stand.key}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(form)}\r\n\r\n"
    )
    host, port = stand.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + form[: MIB // 2])
    async with asyncio.timeout(10):  # when the server hears of the break is the kernel's and the listener's affair
        while stand.waits() or (await stand.run(devbox_id, "ls -A"))["stdout"] != "f\n":
            await asyncio.sleep(0.01)
    read = await stand.client.post(f"/v1/devboxes/{devbox_id}/read_file_contents", json={"file_path": "f"})
    assert read.text == "old"


@pytest.mark.parametrize(
    ("route", "body", "status"),
    [
        ("read_file_contents", {"file_path": "none"}, 404),
        ("read_file_contents", {"file_path": "."}, 400),
        ("read_file_contents", {"file_path": ""}, 400),
        ("read_file_contents", {"file_path": "a\0b"}, 400),
        ("read_file_contents", {"file_path": "x" * 5000}, 400),
        ("read_file_contents", {}, 400),
        ("write_file_contents", {"file_path": "a"}, 400),
        ("write_file_contents", {"file_path": "a", "contents": 1}, 400),
        ("download_file", {"path": "none"}, 404),
        ("download_file", {"path": "."}, 400),
        ("list_files", {"path": "none"}, 404),
    ],
)
async def test_bad_paths_and_missing_files_are_told(
    stand: Stand, route: str, body: dict[str, Any], status: int
) -> None:
    devbox_id = await stand.devbox()
    answer = await stand.client.post(f"/v1/devboxes/{devbox_id}/{route}", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == status


async def test_a_file_that_is_not_text_is_not_read_as_text(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    await stand.run(devbox_id, r"printf '\xff\xfe' > f")
    answer = await stand.client.post(f"/v1/devboxes/{devbox_id}/read_file_contents", json={"file_path": "f"})
    assert answer.status_code == 400
    assert "not UTF-8" in answer.json()["message"]


async def test_a_directory_is_listed_by_name(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    await stand.run(devbox_id, "mkdir -p d/sub; printf abc > d/f; chmod 600 d/f; ln -s f d/l")
    answer = await stand.client.post(f"/v1/devboxes/{devbox_id}/list_files", json={"path": "d"})
    files = answer.json()["files"]
    assert [(one["path"].rsplit("/", 1)[-1], one["kind"]) for one in files] == [
        ("f", "file"),
        ("l", "symlink"),
        ("sub", "directory"),
    ]
    assert (files[0]["size"], files[0]["mode"]) == (3, "0600")
