"""`corral serve` as a process: its start, its end, and what it says when it cannot."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from bench.leftovers import traces

from corral.runtime.oci import record
from corral.runtime.oci.settings import Places
from tests.harness.server import CORRAL, Server, free_port


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "data") as made:
        yield made


def serve(data: Path, *, listen: str | None = None, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code and error text of a server that cannot start."""
    command = [str(CORRAL), "serve", "--data", str(data), "--listen", listen or f"127.0.0.1:{free_port()}"]
    done = subprocess.run(
        command,
        env=os.environ | {"CORRAL_RUNTIME": "fake"} | dict(env or {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_the_first_key_is_shown_once_and_kept_for_the_owner_only(server: Server) -> None:
    path = server.data / "api-key"
    assert path.stat().st_mode & 0o777 == 0o600
    server.restart()
    assert server.log_path.read_text().count(server.key) == 1
    assert httpx.get(f"{server.url}/v1/devboxes", headers=server.headers).status_code == 200


def test_a_given_key_is_valid_and_no_file_is_written(tmp_path: Path) -> None:
    key = "ak_" + "g" * 43
    with Server(tmp_path / "data", env={"CORRAL_API_KEY": key}) as server:
        assert httpx.get(f"{server.url}/v1/devboxes", headers=server.headers).status_code == 200
        assert not (server.data / "api-key").exists()
        assert key not in server.log_path.read_text()


def test_sigterm_ends_the_server_while_requests_are_held(server: Server) -> None:
    created = httpx.post(f"{server.url}/v1/devboxes", headers=server.headers, json={}).json()
    answers: list[int] = []

    def hold() -> None:
        body = {"statuses": ["shutdown"], "timeout_seconds": 30}
        url = f"{server.url}/v1/devboxes/{created['id']}/wait_for_status"
        answers.append(httpx.post(url, headers=server.headers, json=body, timeout=60).status_code)

    holding = threading.Thread(target=hold)
    holding.start()
    time.sleep(0.5)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 5
    holding.join(10)
    assert answers == [408]
    server.start()


def test_a_second_server_on_the_folder_is_refused(server: Server) -> None:
    code, said = serve(server.data)
    assert code == 1
    assert f"process {server.pid} serves it; stop that server" in said


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = serve(tmp_path / "data", listen=f"127.0.0.1:{port}")
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in said


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"CORRAL_RUNTIME": "docker"}, "cannot read setting runtime: 'docker' is none of oci, fake"),
        ({"CORRAL_RESYNC_S": "0"}, "cannot read setting resync_s: 0.0 is not more than 0"),
        ({"CORRAL_API_KEY": "x"}, "cannot"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, env: dict[str, str], said: str) -> None:
    code, text = serve(tmp_path / "data", env=env)
    assert code == 1
    assert said in text


def test_a_data_folder_that_cannot_be_used_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, said = serve(tmp_path / "file" / "data")
    assert code == 1
    assert "cannot use data folder" in said
    assert "--data" in said


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "corral.db").write_bytes(b"this is no database" * 100)
    code, said = serve(tmp_path / "data")
    assert code == 1
    assert "cannot open the store: file is not a database" in said


def test_a_host_that_lacks_the_oci_runtime_is_told_what_to_do(tmp_path: Path) -> None:
    code, said = serve(tmp_path / "data", env={"CORRAL_RUNTIME": "oci", "CORRAL_OCI_RUNTIME": "/nowhere/crun"})
    assert code == 1
    assert said.startswith("corral: cannot run boxes on this host: ")
    if os.geteuid() == 0:
        assert "OCI runtime" in said
        assert "install crun" in said


def test_health_says_when_the_database_cannot_be_written(server: Server) -> None:
    other = sqlite3.connect(server.data / "corral.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = httpx.get(f"{server.url}/healthz", timeout=30)
    other.execute("ROLLBACK")
    other.close()
    assert answer.status_code == 503
    assert answer.json()["reasons"]
    server.wait_healthy(10)


@pytest.mark.root
@pytest.mark.image
def test_doctor_finds_this_host_fit_and_changes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = subprocess.run(
        [str(CORRAL), "doctor", "--data", str(data), "--json"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert '"verdict": "fail"' not in done.stdout
    assert not data.exists()


@pytest.mark.root
def test_doctor_names_the_command_that_builds_a_missing_image(tmp_path: Path) -> None:
    env = {**os.environ, "CORRAL_IMAGES": str(tmp_path / "images")}
    done = subprocess.run(
        [str(CORRAL), "doctor", "--data", str(tmp_path / "data"), "--json"],
        capture_output=True, text=True, timeout=60, env=env,
    )  # fmt: skip
    assert done.returncode == 1
    lacking = {fact["remedy"]: fact["verdict"] for fact in json.loads(done.stdout) if "image build" in fact["remedy"]}
    assert lacking == {
        "corral image build debian-12": "fail",
        "corral image build docker": "warn",
        "corral image build builder": "warn",
    }


def test_conformance_tells_each_check_and_its_verdict() -> None:
    done = subprocess.run(
        [str(CORRAL), "conformance", "--runtime", "fake", "no-such-check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "there is none called no-such-check" in done.stderr


@pytest.mark.root
@pytest.mark.image
def test_what_was_shut_down_is_gone_once_the_server_has_stopped(tmp_path: Path) -> None:
    with (
        Server(tmp_path / "data", runtime="oci") as server,
        httpx.Client(headers=server.headers, timeout=60) as client,
    ):
        made = [client.post(f"{server.url}/v1/devboxes/create_and_await_running", json={}).json() for _ in range(6)]
        assert {view["status"] for view in made} == {"running"}
        for view in made[1:]:
            client.post(f"{server.url}/v1/devboxes/{view['id']}/shutdown", json={}).raise_for_status()
        assert server.stop() == 0, server.log_tail()
        assert [path.name for path in (server.data / "boxes").iterdir()] == [made[0]["id"]]
        server.start()


@pytest.mark.root
@pytest.mark.image
def test_a_prepared_box_becomes_a_devbox_and_none_is_left(tmp_path: Path) -> None:
    with (
        Server(tmp_path / "data", runtime="oci", env={"CORRAL_WARM_BOXES": "2"}) as server,
        httpx.Client(headers=server.headers, timeout=60) as client,
    ):
        places = Places(server.data.resolve(), Path("/run/corral"))
        waiting = _prepared(places)
        made = client.post(f"{server.url}/v1/devboxes/create_and_await_running", json={}).json()
        found = record.read(places.box(made["id"]))
        assert found is not None
        assert found.handle in waiting
        url = f"{server.url}/v1/devboxes/{made['id']}"
        ran = client.post(f"{url}/execute_sync", json={"command": "hostname; echo $HOME"}).json()
        assert ran["stdout"] == f"{made['id'].replace('_', '-').lower()}\n/home/user\n"
        client.post(f"{url}/shutdown", json={}).raise_for_status()
        assert server.stop() == 0, server.log_tail()
        assert traces(places) == []
        assert not places.memory.exists()


def _prepared(places: Places) -> set[str]:
    """Handles of two boxes that wait for a claim."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = (record.read(folder) for folder in places.prepared.iterdir())
        if len(waiting := {each.handle for each in found if each is not None and each.pid}) == 2:
            time.sleep(0.1)  # the newest one's guest is being greeted
            return waiting
        time.sleep(0.02)
    raise AssertionError("no box was prepared")


@pytest.mark.root
@pytest.mark.image
def test_a_box_has_its_processes_whatever_soft_limit_the_server_was_started_with(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    server = Server(tmp_path / "data", runtime="oci")
    resource.setrlimit(resource.RLIMIT_NPROC, (64, hard))  # the server inherits it; root itself is not bound by it
    with contextlib.ExitStack() as undo:
        undo.callback(resource.setrlimit, resource.RLIMIT_NPROC, (soft, hard))
        undo.enter_context(server)
        client = undo.enter_context(httpx.Client(base_url=server.url, headers=server.headers, timeout=60))
        devbox = client.post("/v1/devboxes/create_and_await_running", json={}).json()["id"]
        command = "for n in $(seq 200); do sleep 20 & done; jobs -r | wc -l"
        done = client.post(f"/v1/devboxes/{devbox}/execute", json={"command": command}).json()
        assert (done["stdout"].strip(), done["stderr"]) == ("200", "")
        client.post(f"/v1/devboxes/{devbox}/shutdown")
