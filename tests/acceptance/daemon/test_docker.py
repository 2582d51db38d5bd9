"""Docker in a devbox that asks for it: images are built, containers run, talk to each other and outlive a suspend.

All tests have one devbox of the stock image for Docker. PostgreSQL, which the image has not, is installed into it from
Debian's packages, and an image for containers made of the box's own programs: no registry is asked.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.core.settings import Settings
from corral.images.service import Images
from corral.runtime.cgroup.layout import Mode, read_layout
from corral.runtime.linux import mounts
from tests.harness.caller import Caller
from tests.harness.server import Server

IMAGES = Path(os.environ.get("CORRAL_IMAGES", Settings().images))

pytestmark = [
    pytest.mark.root,
    pytest.mark.image,
    pytest.mark.timeout(300),
    pytest.mark.skipif("docker" not in Images(IMAGES).names(), reason="no image docker: corral image build docker"),
]

SIZE = {"resource_size_request": "MEDIUM"}
#: The server's package is unpacked only: its compiler for queries is larger than all else, and not needed.
INSTALL = (
    "cd /tmp && sudo apt-get -qq update && apt-get -qq download postgresql-17 && "
    "sudo apt-get -qq install -y --no-install-recommends postgresql-client libicu76 libldap2 libxslt1.1 >/dev/null && "
    "sudo dpkg -x postgresql-17_*.deb / && sudo useradd postgres"
)
#: An image of the box's own programs, without what would only make it large: Docker compares whole layers.
_WITHOUT = (
    *("usr/lib/gcc", "usr/lib/llvm*", "usr/lib/file", "*/libLLVM*", "*/libz3*", "*/lib*san.so*", "*/bitcode", "*.a"),
    *("*/perl*", "*/python3*", "*/docker*", "*/containerd*", "*/ctr", "*/runc", "*/git*", "*/*-linux-gnu-*", "*/rg"),
)
IMPORT = (
    f"sudo tar -C / --one-file-system {shlex.join(f'--exclude={pattern}' for pattern in _WITHOUT)} "
    "-c --no-recursion . usr usr/share etc var var/lib --recursion bin lib lib64 sbin usr/bin usr/sbin "
    "usr/lib usr/lib64 usr/share/postgresql etc/passwd etc/group etc/ssl tmp | docker import - base:1"
)
DOCKERFILE = r"""
FROM base:1 AS words
RUN echo made > /words
FROM base:1
COPY --from=words /words /srv/words
COPY schema.sql /srv/
USER postgres
ENV PATH=/usr/lib/postgresql/17/bin:$PATH PGDATA=/tmp/data
RUN initdb -A trust --no-sync && echo 'host all all 0.0.0.0/0 trust' >> $PGDATA/pg_hba.conf
CMD ["postgres", "-c", "listen_addresses=*", "-c", "unix_socket_directories=/tmp"]
"""
#: A database, and beside it a service that asks it by its name, once it can answer.
COMPOSE = """
services:
  db:
    build: .
    healthcheck: {test: [CMD, pg_isready, -q, -h, 127.0.0.1], interval: 200ms, retries: 100}
    volumes: ["kept:/tmp"]
  client:
    image: base:1
    depends_on: {db: {condition: service_healthy}}
    command: /usr/lib/postgresql/17/bin/psql -t -A -U postgres -h db -c 'select 6 * 7' postgres
volumes:
  kept: {}
"""
APP = (
    "mkdir -p app && cd app && echo 'create table t as select 42 as n' > schema.sql\n"
    f"cat > Dockerfile <<'DOCKERFILE'\n{DOCKERFILE}\nDOCKERFILE\n"
    f"cat > compose.yaml <<'COMPOSE'\n{COMPOSE}\nCOMPOSE\n"
)
WAIT = "for _ in $(seq 200); do {} && break; sleep 0.1; done"


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    with Server(tmp_path_factory.mktemp("docker") / "data", runtime="oci") as server:
        made = Caller(server)
        with made.http:
            yield made


@pytest.fixture(scope="module")
def devbox(caller: Caller) -> str:
    """A devbox with Docker, the image base:1, and the folder app."""
    wish = {**SIZE, "docker_in_docker": True, "launch_commands": ["docker version > launched"]}
    made = caller.create(launch_parameters=wish)
    for command in (INSTALL, IMPORT, APP):
        caller.run(made, command)
    return made


def test_docker_runs_when_the_devbox_does(caller: Caller, devbox: str) -> None:
    view = caller.http.get(f"/v1/devboxes/{devbox}").json()
    assert view["capabilities"] == ["docker_in_docker"]
    assert view["launch_parameters"]["docker_in_docker"] is True
    assert "Server:" in caller.run(devbox, "cat launched")
    assert caller.run(devbox, "docker info --format '{{.Driver}}'") == "overlay2\n"
    # The user, and nobody else without root's rights.
    refused = caller.post(f"/{devbox}/execute_sync", command="sudo -u nobody docker info 2>&1")
    assert "permission denied" in refused["stdout"]


def test_an_image_is_built_and_postgresql_serves_another_container(caller: Caller, devbox: str) -> None:
    caller.run(devbox, "cd app && docker build -q -t db .")
    started = time.monotonic()
    caller.run(devbox, "cd app && docker build -q -t db .")
    assert time.monotonic() - started < 2
    caller.run(devbox, "docker network create app && docker run -d --name db --network app -p 5432:5432 db")
    caller.run(devbox, WAIT.format("docker exec db pg_isready -q -h 127.0.0.1"))
    caller.run(devbox, "docker exec db psql -q -h 127.0.0.1 -f /srv/schema.sql postgres")
    ask = "psql -t -A -U postgres -c 'select n from t' postgres"
    assert caller.run(devbox, f"docker run --rm --network app db {ask} -h db") == "42\n"
    assert caller.run(devbox, f"{ask} -h 127.0.0.1") == "42\n"
    assert caller.run(devbox, "docker run --rm db cat /srv/words") == "made\n"
    caller.run(devbox, "docker rm -f db")


def test_compose_brings_up_postgresql_and_a_service_that_asks_it(caller: Caller, devbox: str) -> None:
    up = caller.run(
        devbox, "cd app && docker compose up -d --build db 2>&1 && docker compose ps --format '{{.Service}}'"
    )
    assert up.endswith("\ndb\n"), up
    assert caller.run(devbox, "cd app && docker compose run --rm client 2>/dev/null") == "42\n"
    # By its name it is known on the network of the project, and on no other.
    lost = caller.post(f"/{devbox}/execute_sync", command="docker run --rm base:1 getent hosts db")
    assert (lost["exit_status"], lost["stdout"]) == (2, "")
    caller.run(devbox, "cd app && docker compose down -t 1 --volumes")
    assert "app_" not in caller.run(devbox, "docker network ls --format '{{.Name}}'; docker volume ls -q")


def test_a_container_has_limits_of_its_own_where_version_2_is_alone(caller: Caller, devbox: str) -> None:
    look = "cat /sys/fs/cgroup/memory.max 2>/dev/null || echo none"
    said = caller.run(devbox, f"docker run --rm --memory 64m base:1 sh -c '{look}' 2>&1")
    if read_layout(mounts.current()).mode is Mode.V2:
        assert said == f"{64 << 20}\n"
    else:
        assert "does not support memory limit" in said
        assert said.endswith("\nnone\n")


def test_what_docker_keeps_outlives_a_suspend_and_is_in_a_fork(caller: Caller, devbox: str) -> None:
    caller.run(devbox, "docker run -d --restart always --name always base:1 sleep infinity")
    caller.run(devbox, "docker run --rm -v notes:/notes base:1 sh -c 'echo kept > /notes/a'")
    (child,) = caller.post(f"/{devbox}/fork", count=1)["devboxes"]
    caller.post(f"/{devbox}/suspend")
    caller.post(f"/{devbox}/wait_for_status", statuses=["suspended"])
    caller.post(f"/{devbox}/resume")
    for one in (devbox, child["id"]):
        view = caller.post(f"/{one}/wait_for_status", statuses=["running", "failure"])
        assert view["status"] == "running", view
        caller.run(one, WAIT.format("docker exec always true 2>/dev/null"))
        assert caller.run(one, "docker ps --format '{{.Names}}'") == "always\n"
        assert caller.run(one, "docker run --rm -v notes:/notes base:1 cat /notes/a") == "kept\n"


def test_a_devbox_without_the_word_has_no_containers(caller: Caller) -> None:
    plain = caller.create(launch_parameters=SIZE)
    assert caller.http.get(f"/v1/devboxes/{plain}").json()["capabilities"] == []
    done = caller.post(f"/{plain}/execute_sync", command="sudo unshare --mount true")
    assert done["exit_status"] != 0
    assert "Operation not permitted" in done["stderr"]


def test_a_docker_that_does_not_start_fails_the_devbox_with_its_words(caller: Caller, devbox: str) -> None:
    configured = "sudo mkdir -p /etc/docker && echo '{\"no-such-setting\": 1}' | sudo tee /etc/docker/daemon.json"
    caller.run(devbox, configured)
    copy = caller.snapshot(devbox)["id"]
    caller.run(devbox, "sudo rm /etc/docker/daemon.json")
    view = caller.post(
        "/create_and_await_running", snapshot_id=copy, launch_parameters={**SIZE, "docker_in_docker": True}
    )
    assert (view["status"], view["reason"]) == ("failure", "launch_failed")
    assert "start of Docker exited with code 1: dockerd ended" in view["reason_message"]
    assert "no-such-setting" in view["reason_message"]
