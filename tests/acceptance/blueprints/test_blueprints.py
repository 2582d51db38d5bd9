"""Blueprints as people use them: built by the command line, with real boxes, and devboxes that begin as them."""

from __future__ import annotations

import json

import pytest

from corral.images.service import Images
from tests.acceptance.blueprints.conftest import IMAGES
from tests.harness.caller import Caller
from tests.harness.cli import Cli
from tests.harness.server import Server

pytestmark = [pytest.mark.root, pytest.mark.image]

#: The stock image without the user and without sudo's rules for anybody.
STRANGE = """\
FROM debian-13-slim AS one
ARG WHO=nobody
RUN echo $WHO > /who
FROM one
COPY --from=one /who /copied
COPY app/ /opt/app/
ENV GREETING="hello there" PATH=/opt/app:$PATH
RUN sed -i '/^user:/d' /etc/passwd /etc/group && rm -rf /home/user && rm /etc/sudoers.d/* || true
RUN printf 'PATH=/bin\\nfor i in /etc/profile.d/*.sh; do . $i; done\\n' > /etc/profile
USER nobody
WORKDIR /opt/app
ENTRYPOINT ["sleep", "1"]
"""


def test_a_folder_becomes_an_image_and_a_devbox(cli: Cli) -> None:
    app = cli.folder / "web" / "app"
    app.mkdir(parents=True)
    (app / "run").write_text("#!/bin/sh\necho ran\n")
    (app / "run").chmod(0o755)
    (app / "secret.pem").write_text("x")
    (cli.folder / "web" / "Dockerfile").write_text(STRANGE)
    (cli.folder / "web" / ".dockerignore").write_text("**/*.pem\n")
    done = cli.run("blueprint", "create", "web", "--context", "web", "--arg", "WHO=me", "--watch")
    assert done.returncode == 0, done.stderr
    assert b"STEP 1/3: FROM debian-13-slim AS one" in done.stderr
    blueprint_id = done.stdout.decode().strip()
    again = cli.out("blueprint", "create", "web", "--context", "web", "--arg", "WHO=me", "--json")
    shown = json.loads(again)
    assert shown["status"] == "build_complete"
    assert shown["build_finish_time_ms"] - shown["create_time_ms"] < 2000

    box = cli.out("devbox", "create", "--blueprint", "web").strip()
    script = "id -un; pwd; echo $GREETING; run; cat /who /copied; ls /opt/app; test ! -d /etc/sudoers.d || sudo id -u"
    shown_lines = cli.out("devbox", "exec", box, "--", script).split("\n")
    assert shown_lines[:7] == ["user", "/home/user", "hello there", "ran", "me", "me", "run"]
    assert shown_lines[7:] in (["0", ""], [""])
    snapshot = cli.out("snapshot", "create", box).strip()
    refused = cli.run("blueprint", "delete", shown["id"])
    assert (refused.returncode, snapshot.encode() in refused.stderr) == (1, True)
    cli.out("snapshot", "delete", snapshot)
    cli.out("blueprint", "delete", shown["id"], blueprint_id)
    assert cli.out("devbox", "exec", box, "--", "cat /who") == "me\n"
    refused = cli.run("devbox", "create", "--blueprint", "web")
    assert b"there is no blueprint 'web' that is built" in refused.stderr
    cli.out("devbox", "shutdown", box)


def test_what_is_previewed_is_built_and_every_byte_is_there(cli: Cli) -> None:
    files = {
        "plain": "one\n$HOME `x` \\\n",
        "no end": "x",
        "bytes": "\r\n" + "é" * 20_000,
        "empty": "",
        "blank": "\n\nx\n\n",
    }
    options = ["--setup", "echo made > by-setup; id -un", "--setup", "cat <<EOF > two\n$(pwd)\nEOF"]
    for number, (name, text) in enumerate(files.items()):
        (cli.folder / str(number)).write_bytes(text.encode())
        options += ["--file", f"{number}:in/{name}"]
    (cli.folder / "Dockerfile").write_text("FROM debian-13-slim\n")
    options += ["--dockerfile", "Dockerfile"]
    preview = cli.out("blueprint", "preview", "files", *options)
    cli.out("blueprint", "create", "files", *options)
    log = cli.out("blueprint", "logs", "files", "--follow")
    steps = [line for line in preview.splitlines() if line.startswith(("RUN ", "COPY ", "USER ", "WORKDIR "))]
    assert log.count(" STEP ") == 1 + len(steps)
    box = cli.out("devbox", "create", "--blueprint", "files").strip()
    for name, text in files.items():
        done = cli.run("devbox", "exec", box, "--", f"cat 'in/{name}'; stat -c %U 'in/{name}'")
        assert done.stdout == text.encode() + b"user\n"
    assert cli.out("devbox", "exec", box, "--", "cat by-setup two") == "made\n/home/user\n"
    cli.out("devbox", "shutdown", box)

    cli.out("blueprint", "create", "above", "--base", "files", "--setup", "cat by-setup > copied")
    (cli.folder / "Dockerfile").write_text("FROM above\nRUN cat copied > again\n")
    cli.out("blueprint", "create", "top", "--dockerfile", "Dockerfile")
    box = cli.out("devbox", "create", "--blueprint", "top").strip()
    assert cli.out("devbox", "exec", box, "--", "cat again") == "made\n"
    cli.out("devbox", "shutdown", box)


def test_a_step_that_fails_is_shown_with_its_command_output_and_exit_code(cli: Cli) -> None:
    (cli.folder / "Dockerfile").write_text("FROM debian-13-slim\nRUN echo before\nRUN echo oops >&2; exit 7\n")
    done = cli.run("blueprint", "create", "bad", "--dockerfile", "Dockerfile")
    said = done.stderr.decode()
    assert done.returncode == 1
    assert "step 3 exited with code 7: RUN echo oops >&2; exit 7\noops" in said
    assert "cannot build blueprint bad: " in said
    assert "step 3 exited with code 7" in cli.out("blueprint", "show", "bad")
    assert "failed" in cli.out("blueprint", "list", "--status", "failed")
    (cli.folder / "Dockerfile").write_text("FROM nowhere.invalid/no:thing\n")
    done = cli.run("blueprint", "create", "baseless", "--dockerfile", "Dockerfile", "--watch")
    assert (done.returncode, b"nowhere.invalid/no:thing" in done.stderr) == (1, True)


#: A container of nothing but a program that waits: no registry has it, so whatever runs it got it from the blueprint.
WAITS = """\
FROM debian-13-slim AS made
RUN mkdir /out && cp --parents /bin/sleep $(ldd /bin/sleep | grep -o '/[^ ]*') /out
FROM scratch
COPY --from=made /out /
CMD ["/bin/sleep", "infinity"]
"""


@pytest.mark.timeout(180)
@pytest.mark.skipif("docker" not in Images(IMAGES).names(), reason="no image docker: corral image build docker")
def test_images_of_services_come_with_the_blueprint(cli: Cli, server: Server) -> None:
    (cli.folder / "Dockerfile").write_text(WAITS)
    image = f"blueprint:{cli.out('blueprint', 'create', 'waits', '--dockerfile', 'Dockerfile', '--watch').strip()}"
    caller = Caller(server)
    with caller.http:
        services = [{"name": "waits", "image": image}, {"name": "lost", "image": "nowhere.invalid/no:thing"}]
        launch = {
            "required_services": ["waits"],
            "launch_commands": ["docker inspect -f '{{.Config.Image}}' waits > ran"],
        }
        wish = {"name": "with-service", "services": services, "launch_parameters": launch}
        made = caller.http.post("/v1/blueprints", json=wish).raise_for_status().json()
        log = cli.out("blueprint", "logs", "with-service", "--follow")
        assert f"pulling image {image} of a service" in log
        assert "cannot pull image nowhere.invalid/no:thing of a service, devboxes pull it themselves" in log
        devbox = caller.create(blueprint_id=made["id"])
        assert caller.run(devbox, "cat ran; docker ps --format '{{.Names}}'") == f"{image}\nwaits\n"
        caller.post(f"/{devbox}/shutdown")
