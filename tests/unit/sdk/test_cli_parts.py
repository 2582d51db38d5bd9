"""The parts of the command line that need no server."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from corral_sdk import errors
from corral_sdk.cli import common, devbox_cp, devbox_create, devbox_exec, devbox_logs, devbox_show, groups, output
from corral_sdk.models import DevboxInfo, ExecutionInfo, LogEntry
from tests.unit.sdk import scripted


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("first:a/b", devbox_cp.Place("first", "a/b")),
        ("dbx_1:/etc/os-release", devbox_cp.Place("dbx_1", "/etc/os-release")),
        ("first:~/x:y", devbox_cp.Place("first", "~/x:y")),
        ("first:", devbox_cp.Place("first", ".")),
        ("./a:b", devbox_cp.Place(None, "./a:b")),
        ("/a:b", devbox_cp.Place(None, "/a:b")),
        ("notes.txt", devbox_cp.Place(None, "notes.txt")),
        (":x", devbox_cp.Place(None, ":x")),
        ("-", devbox_cp.Place(None, "-")),
    ],
)
def test_a_side_of_a_copy_is_here_or_in_a_devbox(text: str, place: devbox_cp.Place) -> None:
    assert devbox_cp.parse(text) == place


def test_only_a_dash_of_this_side_is_standard_input() -> None:
    assert devbox_cp.parse("-").is_stdio
    assert not devbox_cp.parse("first:-").is_stdio


@pytest.mark.parametrize("words", [["echo", "a b", "$HOME", "'"], ["printf", "%s\n", "", "*"], ["true", "-x"]])
def test_several_words_reach_the_shell_as_they_are(words: list[str]) -> None:
    assert shlex.split(devbox_exec.command_line(words, {})) == words


def test_one_word_is_a_line_for_the_shell() -> None:
    assert devbox_exec.command_line(["cd /tmp && ls | wc -l"], {}) == "cd /tmp && ls | wc -l"


def test_variables_are_set_before_the_command() -> None:
    line = devbox_exec.command_line(["sh", "-c", 'printf %s "$A"'], {"A": "it's; $B"})
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "it's; $B"


@pytest.mark.parametrize("name", ["1A", "A-B", "A;rm"])
def test_a_variable_that_a_shell_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(typer.BadParameter):
        devbox_exec.command_line(["true"], {name: "x"})


def test_pairs_keep_later_equals_signs() -> None:
    assert common.pairs("--env", ["A=1=2", "B="]) == {"A": "1=2", "B": ""}
    for bad in ("A", "=1"):
        with pytest.raises(typer.BadParameter):
            common.pairs("--env", [bad])


def test_only_what_really_comes_in_is_sent_as_input(tmp_path: Path) -> None:
    read, write = os.pipe()
    file = os.open(tmp_path, os.O_RDONLY)
    null = os.open(os.devnull, os.O_RDONLY)
    main, side = os.openpty()
    assert devbox_exec.is_piped(read)
    assert not any(devbox_exec.is_piped(descriptor) for descriptor in (null, side, file))
    for descriptor in (read, write, file, null, main, side):
        os.close(descriptor)
    assert not devbox_exec.is_piped(read)


def test_files_for_a_new_devbox_are_text_with_a_place(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("ü\n")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert devbox_create.read_files([f"{text}:~/a:b"]) == {"~/a:b": "ü\n"}
    with pytest.raises(errors.Invalid, match="not UTF-8"):
        devbox_create.read_files([f"{binary}:x"])
    with pytest.raises(errors.Invalid, match="No such file"):
        devbox_create.read_files([f"{tmp_path}/none:x"])
    with pytest.raises(typer.BadParameter):
        devbox_create.read_files(["alone"])


def test_spans_are_told_in_their_largest_unit() -> None:
    spans = [output.span(seconds) for seconds in (-1, 0.4, 59, 60, 3599, 7200, 200_000)]
    assert spans == ["0s", "0s", "59s", "1m", "59m", "2h", "2d"]


def test_a_size_is_told_by_name_or_in_numbers() -> None:
    def size(**launch: object) -> str:
        return devbox_show.size_of(DevboxInfo.from_wire(scripted.devbox(launch_parameters=launch)))

    assert size(resource_size_request="LARGE") == "LARGE"
    assert size() == "SMALL"
    custom = {"custom_cpu_cores": 4, "custom_gb_memory": 8, "custom_disk_size": 16}
    assert size(resource_size_request="CUSTOM_SIZE", **custom) == "4 cpu 8G 16G disk"


def test_a_log_entry_is_one_line_with_what_matters() -> None:
    entry = LogEntry.from_wire(
        {"timestamp_ms": 0, "source": "exec", "level": "error", "cmd": "make", "exit_code": 2, "cmd_id": "e"}
    )
    assert devbox_logs.format_entry(entry).endswith(" exec ERROR: $ make (exit code 2)")


@pytest.mark.parametrize("cls", [DevboxInfo, ExecutionInfo, LogEntry])
@pytest.mark.parametrize("wire", [{}, {"id": 1}, [], "text", None])
def test_an_answer_of_another_shape_is_a_bad_answer(cls: type, wire: object) -> None:
    with pytest.raises(errors.BadAnswer):
        cls.from_wire(wire)  # type: ignore[attr-defined]


def test_help_keeps_examples_and_joins_paragraphs() -> None:
    text = groups.unwrapped("One\n    two.\n\n    \b\n    Examples:\n      a\n      b\n")
    assert text == "One two.\n\n\b\nExamples:\n  a\n  b"


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)


def test_a_verb_loads_its_own_modules_and_nothing_of_the_server() -> None:
    code = (
        "import sys, json\n"
        "from corral_sdk.cli import main\n"
        "main.main(['devbox', 'exec', 'dbx_1', '--', 'true'])\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    loaded = set(json.loads(python(code).stdout.splitlines()[-1]))
    assert "corral_sdk.cli.devbox_exec" in loaded
    unwanted = {"corral", "rich", "asyncio", "anyio", "websockets", "click", "corral_sdk.cli.devbox_cp"}
    assert loaded & unwanted == set()


def test_commands_that_cannot_be_loaded_are_named_and_break_no_other(tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[corral.commands]\nfrobnicate = no_such_module:run\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom corral_sdk.cli import main\n"
    assert "frobnicate" in python(code + "main.main(['--help'])").stdout
    done = python(code + "sys.exit(main.main(['frobnicate']))")
    assert done.returncode == 1
    assert done.stderr.startswith("corral: cannot load command 'frobnicate' from no_such_module:run: ")


def test_the_server_adds_its_commands() -> None:
    commands = groups.Commands({"version": "corral_sdk.cli.version:version"}, "corral.commands")
    assert {"version", "serve", "doctor", "conformance"} <= set(commands)
    assert "devbox" not in commands
