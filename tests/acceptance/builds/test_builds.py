"""Dockerfiles that become images, in devboxes that nobody sees; real boxes, real buildah."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.images.service import Images
from tests.acceptance.builds.conftest import BASE, IMAGES
from tests.harness.builds import MOST_LAYERS, BuildServer, described, eventually

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(180)]

MULTI_STAGE = f"""
# syntax=docker/dockerfile:1
ARG BASE=nothing
FROM ${{BASE}} AS made
ARG WHO=nobody
RUN <<EOF
set -e
echo "made by $WHO" > /made
EOF
COPY . /src
RUN mv /src/app/main /main && mkfifo /pipe && ln /made /twin

FROM {BASE}
ENV GREETING="hello there" EMPTY=
COPY --from=made /made /main /out/
COPY --from=made /src /src
COPY --from=corral-files motd /etc/motd
COPY <<-EOF /etc/heredoc
	from the Dockerfile
EOF
RUN useradd --create-home --uid 1234 app && chown app /out
USER app
WORKDIR /out/deep
EXPOSE 8080
ENTRYPOINT ["cat"]
CMD ["/out/made"]
"""

CONTEXT = {
    "app/main": "the program\n",
    "secret.txt": "not for images\n",
    "notes/a.md": "kept\n",
    ".dockerignore": "secret.txt\n",
}


def failed(server: BuildServer, dockerfile: str, **given: Any) -> dict[str, Any]:
    """The failure of a build that has one."""
    build = server.build(dockerfile, **given)
    assert build["status"] == "failed", build
    assert build["image"] is None
    failure: dict[str, Any] = build["failure"]
    return failure


@pytest.fixture(scope="module")
def built(server: BuildServer) -> dict[str, Any]:
    """A Dockerfile with all that is usual, built once."""
    context = server.pack("whole", CONTEXT)
    build = server.build(
        MULTI_STAGE, context=context, build_args={"BASE": BASE, "WHO": "me"}, files={"motd": "well met\n"}
    )
    assert build["status"] == "build_complete", (build, server.log(build["id"]))
    return build


def test_a_multi_stage_dockerfile_becomes_an_image_that_devboxes_run(
    server: BuildServer, built: dict[str, Any]
) -> None:
    seen = server.run(
        built["image"],
        'id -un; cat /out/made /out/main /etc/motd /etc/heredoc; stat -c %U /out; echo "$GREETING"; '
        "ls -A /src /src/notes",
    )
    assert seen.splitlines() == [
        *("app", "made by me", "the program", "well met", "from the Dockerfile", "app", "hello there"),
        *("/src:", ".dockerignore", "app", "notes", "", "/src/notes:", "a.md"),
    ]


def test_what_the_dockerfile_says_of_containers_is_told(built: dict[str, Any]) -> None:
    config = built["config"]
    assert config["env"]["GREETING"] == "hello there"
    assert (config["user"], config["workdir"]) == ("app", "/out/deep")
    assert (config["entrypoint"], config["cmd"]) == (["cat"], ["/out/made"])
    assert config["exposed_ports"] == ["8080/tcp"]


def test_the_log_has_every_step_with_times_that_go_forward(server: BuildServer, built: dict[str, Any]) -> None:
    lines = server.ask("logs", id=built["id"], after=0)
    assert [line["number"] for line in lines] == list(range(1, len(lines) + 1))
    times = [line["timestamp_ms"] for line in lines]
    assert times == sorted(times)
    assert built["started_at_ms"] <= times[0]
    assert times[-1] <= built["ended_at_ms"]
    steps = [line["message"] for line in lines if "STEP" in line["message"]]
    assert len(steps) == 5 + 12
    assert server.ask("logs", id=built["id"], after=len(lines) - 1) == lines[-1:]


def test_an_unchanged_build_is_the_same_one_at_once(server: BuildServer, built: dict[str, Any]) -> None:
    context = server.pack("again", CONTEXT)  # another object with the same files is another archive
    same = {"build_args": {"BASE": BASE, "WHO": "me"}, "files": {"motd": "well met\n"}}
    began = time.monotonic()
    again = server.ask(
        "request",
        plan={
            "dockerfile": MULTI_STAGE,
            "wanted_by": "other",
            "context": described(server.contexts / "whole.tar.gz"),
            **same,
        },
    )
    took = time.monotonic() - began
    assert again["id"] == built["id"]
    assert again["status"] == "build_complete"
    assert took < 0.1
    changed = server.build(MULTI_STAGE, context=context, **same)
    assert changed["id"] != built["id"]
    log = server.log(changed["id"])
    assert sum("Using cache" in line for line in log) >= 12, log


def test_a_changed_last_step_rebuilds_only_that_step(server: BuildServer) -> None:
    steps = f"FROM {BASE}\nRUN echo one > /one && head -c 3000000 /dev/urandom > /big\nRUN echo two > /two\n"
    first = server.build(steps + "RUN echo three > /three\n")
    began = time.monotonic()
    second = server.build(steps + "RUN echo four > /four\n")
    assert second["status"] == "build_complete", second
    assert time.monotonic() - began < 15
    log = "\n".join(server.log(second["id"]))
    assert "loading base image" not in log
    assert log.count("Using cache") == 2
    assert re.search(r"STEP 4/4: RUN echo four > /four\n(?!--> Using cache)", log)
    digests = [server.run(build["image"], "sha256sum < /big") for build in (first, second)]
    assert digests[0] == digests[1]


def test_bases_are_read_where_they_are_and_sent_only_if_they_cannot_be(server: BuildServer) -> None:
    """One of one layer, one with a removal, one with a folder that hides those below it, and one that goes."""
    images = Images(IMAGES)
    large = max({BASE, "debian-12"} & set(images.names()))
    began = time.monotonic()
    assert server.build(f"FROM {large}\nRUN test -x /usr/bin/python3 && echo a > /a\n")["status"] == "build_complete"
    assert time.monotonic() - began < 5
    steps = {"plain": "rm -rf /seen/a", "hiding": "rm -rf /seen && mkdir /seen && echo b > /seen/b"}
    names = {kind: f"corral-tests/{kind}-{server.port}" for kind in steps}
    for kind, step in steps.items():
        base = server.build(f"FROM {BASE}\nRUN mkdir /seen && touch /seen/a\nRUN {step}\n", wanted_by=kind)
        images.alias(names[kind], base["image"])
    try:
        for kind, seen in (("plain", ""), ("hiding", "b")):
            made = server.build(f"FROM {names[kind]}\nRUN echo $(ls /seen) > /told\n")
            assert made["status"] == "build_complete", (made, server.log(made["id"]))
            assert server.run(made["image"], "cat /told; ls /seen").split() == ([seen] * 2 if seen else [])
            log = "\n".join(server.log(made["id"]))
            assert ("loading base image" in log) == (kind == "hiding"), log
    finally:
        for name in names.values():
            images.remove(name)
    # The disk has layers on one that it cannot see any more.
    assert server.build(f"FROM {BASE}\nRUN echo without > /it\n")["status"] == "build_complete"


def test_an_image_that_is_another_one_again_is_found_by_each_of_its_names_and_no_longer(server: BuildServer) -> None:
    """A Dockerfile without a step makes the image that it begins with, whose id is on the disk then."""
    images, name = Images(IMAGES), f"corral-tests/same-{server.port}"
    same = server.build(f"FROM {BASE}\n", wanted_by="same")
    images.alias(name, same["image"])
    try:
        for step in ("", "RUN echo on > /on"):
            made = server.build(f"FROM {name}\n{step}\n")
            assert made["status"] == "build_complete", (made, server.log(made["id"]))
    finally:
        images.remove(name)
    assert f"there is no image {name}" in failed(server, f"FROM {name}\nRUN echo off > /off\n")["message"]


def test_identical_builds_at_the_same_time_run_once(server: BuildServer) -> None:
    dockerfile = f"FROM {BASE}\nRUN sleep 1 && cat /proc/sys/kernel/random/uuid > /once\n"
    ids = {server.request(dockerfile, wanted_by=f"twin{number}") for number in range(5)}
    assert len(ids) == 1
    (build_id,) = ids
    assert server.wait(build_id)["status"] == "build_complete"


def test_nothing_of_a_build_is_shown_to_its_account(server: BuildServer, built: dict[str, Any]) -> None:
    build_id = server.request(f"FROM {BASE}\nRUN sleep 3\n", wanted_by="hidden")
    eventually(lambda: server.ask("get", id=build_id)["status"] == "building")
    with httpx.Client(base_url=server.url, headers=server.headers) as client:
        assert client.get("/v1/devboxes").json()["devboxes"] == []
        assert client.get("/v1/devboxes/disk_snapshots").json()["snapshots"] == []
        (box,) = server.ask("boxes")[0]
        assert client.get(f"/v1/devboxes/{box}").status_code == 404
    server.ask("release", id=build_id, wanted_by="hidden")
    ended = server.wait(build_id)
    assert ended["failure"]["message"] == "the build was ended: nothing needs its image any more"
    eventually(lambda: server.ask("boxes")[0] == [])


def test_the_log_is_read_while_the_build_goes_on(server: BuildServer) -> None:
    build_id = server.request(f"FROM {BASE}\nRUN echo early; sleep 2; echo late\n", wanted_by="live")
    eventually(lambda: "early" in server.log(build_id))
    assert server.ask("get", id=build_id)["status"] == "building"
    assert "late" not in server.log(build_id)
    server.wait(build_id)
    assert "late" in server.log(build_id)


def test_a_real_program_is_built_in_two_stages_from_packages(server: BuildServer) -> None:
    """As many a public project does it: tools and packages in the first stage, the program alone in the second."""
    context = server.pack(
        "service",
        {
            "requirements.txt": "flask==3.1.2\n",
            "service.py": "import flask\n\napp = flask.Flask(__name__)\n\n\n@app.get('/')\n"
            "def hello() -> str:\n    return 'hello from flask'\n",
        },
    )
    dockerfile = f"""
FROM {BASE} AS packages
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
COPY requirements.txt .
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --requirement requirements.txt
FROM {BASE}
RUN useradd --create-home service
COPY --from=packages /opt/venv /opt/venv
COPY --chown=service service.py /srv/
ENV PATH=/opt/venv/bin:$PATH
USER service
WORKDIR /srv
CMD ["flask", "--app", "service", "run"]
"""
    build = server.build(dockerfile, context=context)
    assert build["status"] == "build_complete", (build, server.log(build["id"])[-30:])
    ask = "cd /srv && /opt/venv/bin/python -c 'import service; print(service.app.test_client().get(\"/\").text)'"
    assert server.run(build["image"], ask) == "hello from flask\n"


# ---------------------------------------------------------------- failures


def test_a_failing_step_is_shown_with_its_command_output_and_exit_code(server: BuildServer) -> None:
    failure = failed(server, f"FROM {BASE}\nRUN true\nRUN echo to out; echo to err >&2; exit 7\nRUN true\n")
    assert (failure["reason"], failure["step"], failure["exit_code"]) == ("build_failed", 3, 7)
    assert failure["command"] == "RUN echo to out; echo to err >&2; exit 7"
    # Two pipes: which of them is read first is nobody's promise.
    assert sorted(failure["output"].splitlines()) == ["to err", "to out"]
    assert "step 3 of 4" in failure["message"]
    assert "exited with code 7" in failure["message"]


def test_a_missing_base_is_named_with_what_to_do(server: BuildServer) -> None:
    failure = failed(server, "FROM nosuch/thing:1\nRUN true\n")
    assert failure["reason"] == "build_failed"
    assert "there is no image nosuch/thing:1 on this host" in failure["message"]
    assert "corral image import" in failure["message"]
    assert "corral image alias nosuch/thing:1" in failure["message"]


@pytest.mark.parametrize(
    ("dockerfile", "said"),
    [
        (f"FROM {BASE}\nRUUN true\n", "RUUN"),
        (f"FROM {BASE}\nCOPY nosuch /x\n", "nosuch"),
        (f"FROM {BASE}\nRUN cat <<EOF\nabc\n", "heredoc"),
        ("RUN true\n", "FROM"),
    ],
    ids=["unknown", "copy", "heredoc", "no-from"],
)
def test_a_dockerfile_with_an_error_says_which(server: BuildServer, dockerfile: str, said: str) -> None:
    failure = failed(server, dockerfile)
    assert failure["reason"] == "build_failed"
    assert said.lower() in failure["message"].lower()


def test_a_build_without_end_is_ended(server: BuildServer) -> None:
    began = time.monotonic()
    failure = failed(server, f"FROM {BASE}\nRUN setsid sleep 1000 & sleep 1001\n", timeout_s=3)
    assert time.monotonic() - began < 20
    assert failure["reason"] == "build_failed"
    assert "took longer than 3 s" in failure["message"]
    assert failure["command"] == "RUN setsid sleep 1000 & sleep 1001"


def test_a_log_without_end_is_cut_and_the_end_is_kept(server: BuildServer) -> None:
    build_id = server.request(f"FROM {BASE}\nRUN timeout 1 yes endless; echo the last words; exit 9\n")
    failure = server.wait(build_id)["failure"]
    assert failure["exit_code"] == 9
    assert failure["output"].endswith("the last words")
    log = server.log(build_id)
    assert 10_000 < sum(map(len, log)) < 150_000
    assert "the log is cut here: only the steps that follow and the end of the output are shown" in log


def test_of_a_step_that_goes_well_the_last_words_are_shown_too(server: BuildServer) -> None:
    build = server.build(f"FROM {BASE}\nRUN timeout 1 yes endless | cat; echo the last words\nRUN true\n")
    assert build["status"] == "build_complete", build
    assert "the last words" in server.log(build["id"])


def test_nothing_of_a_step_outlives_it(server: BuildServer) -> None:
    began = time.monotonic()
    look = "! grep --text --quiet '432[1]' /proc/[0-9]*/cmdline"
    build = server.build(f"FROM {BASE}\nRUN setsid sleep 4321 &\nRUN {look}\n")
    assert build["status"] == "build_complete", build
    assert time.monotonic() - began < 30


def test_a_step_can_have_mounts_and_no_network(server: BuildServer) -> None:
    dockerfile = f"""
FROM {BASE} AS made
RUN echo from a stage > /made
FROM {BASE}
RUN --mount=type=cache,target=/kept echo from an earlier step > /kept/word
RUN --mount=type=cache,target=/kept --mount=type=bind,from=made,source=/made,target=/lent \\
    --mount=type=tmpfs,target=/gone cp /lent /kept/word /srv && touch /gone/x
RUN --network=none test "$(ls /sys/class/net)" = lo
RUN test "$(ls /sys/class/net)" != lo && ! test -e /lent && ! test -e /kept/word && ! test -e /gone/x
"""
    build = server.build(dockerfile)
    assert build["status"] == "build_complete", build
    assert server.run(build["image"], "cat /srv/lent /srv/word") == "from a stage\nfrom an earlier step\n"


def test_a_long_line_is_cut(server: BuildServer) -> None:
    build = server.build(f"FROM {BASE}\nRUN head -c 50000 /dev/zero | tr '\\0' x; echo; echo done\n")
    log = server.log(build["id"])
    assert max(map(len, log)) < 4100
    assert "done" in log


def test_a_full_disk_is_named(server: BuildServer) -> None:
    failure = failed(server, f"FROM {BASE}\nRUN head -c 5G /dev/zero > /filler\n")
    assert failure["reason"] == "out_of_disk"
    assert failure["step"] == 2
    assert "its disk of 1536 MiB is full" in failure["message"]


def test_too_little_memory_is_named(server: BuildServer) -> None:
    failure = failed(server, f"FROM {BASE}\nRUN head -c 2G /dev/zero | tail\n")
    assert failure["reason"] == "out_of_memory"
    assert "more than its 512 MiB" in failure["message"]
    assert failure["step"] == 2


def test_a_build_goes_well_after_all_that(server: BuildServer) -> None:
    build = server.build(f"FROM {BASE}\nRUN echo fine > /fine\n")
    assert build["status"] == "build_complete", build
    assert server.run(build["image"], "cat /fine") == "fine\n"


def test_a_context_over_the_limit_is_refused(server: BuildServer) -> None:
    context = server.contexts / "large"
    context.write_bytes(b"x" * (5 << 20))
    with pytest.raises(AssertionError, match="its context has 5 MiB, over the limit of 4 MiB"):
        server.request(f"FROM {BASE}\nCOPY . /\n", context=context)


def test_a_context_that_is_no_archive_is_a_failure(server: BuildServer) -> None:
    context = server.contexts / "broken"
    context.write_bytes(b"\x1f\x8b no gzip, though it begins so")
    failure = failed(server, f"FROM {BASE}\nCOPY . /\n", context=context)
    assert "cannot unpack the build context" in failure["message"]
    assert failure["step"] == 0


def test_an_image_of_more_layers_than_boxes_can_have_gets_fewer(server: BuildServer) -> None:
    steps = "".join(f"COPY <<EOF /f{number}\n{number}\nEOF\n" for number in range(MOST_LAYERS + 1))
    build = server.build(f"FROM scratch\n{steps}")
    assert build["status"] == "build_complete", build
    (layer,) = server.ask("layers", name=build["image"])
    assert [(Path(layer) / f"f{number}").read_text() for number in range(MOST_LAYERS + 1)] == [
        f"{number}\n" for number in range(MOST_LAYERS + 1)
    ]
    assert f"the image has {MOST_LAYERS + 1} layers" in "\n".join(server.log(build["id"]))


def test_the_image_goes_when_nothing_wants_it(server: BuildServer) -> None:
    build = server.build(f"FROM {BASE}\nRUN echo gone > /gone\n", wanted_by="last")
    server.ask("release", id=build["id"], wanted_by="last")
    eventually(lambda: not server.ask("is_here", name=build["image"]))
    assert server.request(f"FROM {BASE}\nRUN echo gone > /gone\n") != build["id"]


def test_a_builder_without_crun_is_told_of_with_what_to_do(tmp_path: Path) -> None:
    with BuildServer(tmp_path / "data", IMAGES, CORRAL_BUILDER=BASE) as bare:
        failure = failed(bare, f"FROM {BASE}\nRUN true\n")
    assert "no crun: make a new one with `corral image build builder`" in failure["message"]
