"""The Dockerfile of a blueprint: what callers send is data in it, whatever it holds."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from corral.images.blueprints import render
from corral.images.blueprints.model import CodeMount, ContainerService, FileMount, Recipe
from corral.images.builds.model import archive_name


def lines(recipe: Recipe) -> list[str]:
    return render.dockerfile(recipe).splitlines()


def test_nothing_is_the_default_image() -> None:
    assert render.dockerfile(Recipe()) == "FROM debian-12\n"


def test_a_dockerfile_alone_is_built_as_it_is() -> None:
    text = "# escape=`\nFROM debian-13\r\nRUN echo \\\n  hello"
    assert render.dockerfile(Recipe(dockerfile=text)) == text


def test_commands_run_as_the_user_in_the_home_one_step_each() -> None:
    text = lines(Recipe(commands=("sudo apt-get update", "echo $HOME 'a b'")))
    assert text[:2] == ["FROM debian-12", "USER root"]
    assert text[3:] == [
        "USER user",
        "WORKDIR /home/user",
        "RUN sudo apt-get update",
        "RUN echo $HOME 'a b'",
    ]


def test_a_base_is_one_certain_blueprint() -> None:
    name = render.base_name("bpt_123456789012345678901")
    assert render.blueprint_in(name) == "bpt_123456789012345678901"
    assert render.blueprint_in("debian:bookworm") is None
    assert render.blueprint_in("blueprint:latest") is None
    assert lines(Recipe(base=name))[0] == "FROM blueprint:bpt_123456789012345678901"


@pytest.mark.parametrize(
    "command",
    [
        "echo one\necho two",
        '["exec", "form"]',
        "--mount=type=bind true",
        "cat <<EOF",
        "<<EOF cat",
        "echo \\",
        "echo `",
        " leading",
        "# comment",
        "echo \r",
        "\tx",
    ],
)
def test_a_command_that_an_instruction_would_read_otherwise_reaches_the_shell_as_it_is(command: str) -> None:
    last = lines(Recipe(commands=(command,)))[-1]
    assert json.loads(last.removeprefix("RUN ")) == ["/bin/sh", "-c", command]


@pytest.mark.parametrize("command", ["x", "make test && echo '[ok]'", "echo \\n done", "a # b", "ls -l; echo --"])
def test_a_plain_command_stays_readable(command: str) -> None:
    assert lines(Recipe(commands=(command,)))[-1] == f"RUN {command}"


def test_a_text_is_a_heredoc_that_it_cannot_end() -> None:
    text = "one\nEOF\nRUN rm -rf /\n$HOME `x` \\\n"
    rendered = render.dockerfile(Recipe(files=(FileMount("/home/user/notes.txt", text),)))
    head, _, rest = rendered.partition("COPY --chown=1000:1000 <<'")
    delimiter, _, rest = rest.partition("'")
    assert head.endswith("WORKDIR /home/user\n")
    assert rest == f" /home/user/notes.txt\n{text}{delimiter}\n"
    assert delimiter not in text


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/home/user/no-end", "no end of line"),
        ("/home/user/several\nlines", "text\n"),
        ('/home/user/it\'s a $(name) \\ "x"', "text\n"),
        ("/opt/new/folder/bytes", "\0\r\n\x01" + "x" * 100_000),
        ("/opt/empty file", ""),
        ("/home/user/é", "é\u2028ü\n"),
    ],
)
def test_repairs_make_the_very_bytes(tmp_path: Path, path: str, text: str) -> None:
    """The shell commands of the Dockerfile, run here in a folder in the place of /."""
    recipe = Recipe(files=(FileMount(path, text),))
    rendered = render.dockerfile(recipe).replace("/tmp/.corral-files", f"{tmp_path}/waiting")
    body = rendered.split("COPY --chown=1000:1000 <<'")[1]
    delimiter = body.split("'")[0]
    heredoc, rest = body.partition("\n")[2].split(f"{delimiter}\n")
    (tmp_path / "waiting").mkdir()
    (tmp_path / "waiting" / "0").write_bytes(heredoc.encode())
    runs = [line.removeprefix("RUN ") for line in rest.splitlines() if line.startswith("RUN ")]
    commands = [json.loads(run)[2] if run.startswith("[") else run for run in runs]
    assert commands.pop() == f"rm -r {tmp_path}/waiting"
    target = tmp_path / "root" / path[1:]
    for command in commands:
        here = command.replace(shlex.quote(path), shlex.quote(str(target)))
        here = here.replace("mkdir -p /", f"mkdir -p {tmp_path}/root/").replace("chown 1000:1000", "true")
        subprocess.run(["/bin/sh", "-c", here], check=True)
    assert target.read_bytes() == text.encode()


def test_folders_in_the_home_are_the_users() -> None:
    recipe = Recipe(files=(FileMount("/home/user/.config/x/y", "a\n"), FileMount("/home/user/z", "b\n")))
    assert lines(recipe)[5] == "RUN mkdir -p /home/user/.config/x"


def test_code_is_cloned_and_installed() -> None:
    recipe = Recipe(code=(CodeMount("owner", "repo", "v1 $(x)", "npm ci || true"), CodeMount("o", "r")))
    assert lines(recipe)[5:] == [
        "RUN git clone --branch 'v1 $(x)' -- https://github.com/owner/repo.git /home/user/repo",
        "RUN cd /home/user/repo || exit 1; npm ci || true",
        "RUN git clone -- https://github.com/o/r.git /home/user/r",
    ]


def test_the_user_is_made_first_where_the_image_has_none() -> None:
    text = lines(Recipe(dockerfile="FROM python:3\n", commands=("true",)))
    assert text[:3] == ["FROM python:3", "", "USER root"]
    assert text[3].startswith("RUN if ! grep -q '^user:' /etc/passwd; then")
    assert "apt-get" not in text[3]
    assert "install -y --no-install-recommends sudo" in lines(Recipe(base="x", commands=("sudo id",)))[2]


def test_the_shell_of_the_step_that_makes_the_user_is_right(tmp_path: Path) -> None:
    for name in ("etc/skel", "etc/sudoers.d", "home"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("passwd", "group"):
        (tmp_path / "etc" / name).write_text("root:x:0:\n")
    (tmp_path / "etc/skel/.profile").write_text("x")
    script = lines(Recipe(base="x", commands=("true",), user="dev", uid=1234, home="/home/dev"))[2].removeprefix(
        "RUN "
    )
    for name in ("/etc/", "/home/"):
        script = script.replace(f" {name}", f" {tmp_path}{name}").replace(f'"{name}', f'"{tmp_path}{name}')
    for _ in range(2):
        subprocess.run(["/bin/sh", "-ec", script.replace("chown -R", "true")], check=True)
    entry = (tmp_path / "etc/passwd").read_text().splitlines()[1:]
    assert [line.split(":")[:6] for line in entry] == [["dev", "*", "1234", "1234", "", "/home/dev"]]
    assert entry[0].endswith(("/bash", "/bin/sh"))
    assert (tmp_path / "etc/group").read_text() == "root:x:0:\ndev:x:1234:\n"
    assert (tmp_path / "home/dev/.profile").exists()
    assert (tmp_path / "etc/sudoers.d/corral-dev").read_text() == "dev ALL=(ALL) NOPASSWD:ALL\n"


def test_root_needs_no_making() -> None:
    recipe = Recipe(dockerfile="FROM python:3", commands=("true",), user="root", uid=0, home="/root")
    assert lines(recipe) == ["FROM python:3", "", "USER root", "WORKDIR /root", "RUN true"]


@pytest.mark.parametrize(
    ("path", "absolute"),
    [("a", "/home/user/a"), ("~/a//b", "/home/user/a/b"), ("/etc/x", "/etc/x"), ("../x", "/home/x"), ("//x", "/x")],
)
def test_paths_are_in_the_home(path: str, absolute: str) -> None:
    assert render.path_in("/home/user", path) == absolute


def test_a_service_is_one_command_whatever_its_fields_hold() -> None:
    service = ContainerService("db", "postgres:16", {"P": "a b'$x"}, "--shm-size 1g --label 'a b'", ("5432:5432",))
    start, here, loaded, rest = render.service_command(service).split(" || ")
    assert start == "docker start db >/dev/null 2>&1"
    load, run = rest.removesuffix("; }").split("; ")
    archive = f"/var/lib/corral/images/{archive_name('postgres:16')}"
    assert (here, load) == (f"{{ [ ! -e {archive} ]", f"docker load --quiet --input {archive}")
    assert loaded == "docker image inspect postgres:16 >/dev/null 2>&1"
    assert shlex.split(run) == [
        *("docker", "run", "--detach", "--name", "db", "--restart", "unless-stopped", "--env", "P=a b'$x"),
        *("--publish", "5432:5432", "--shm-size", "1g", "--label", "a b", "postgres:16"),
    ]
