"""Named shells, with the bash of this host in the place of a box's."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from corral.devboxes import shells


@dataclass
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(shells, "_FOLDER", str(tmp_path / "state"))

    def run_command(command: str, name: str | None = "main", user: str | None = None) -> Ran:
        done = subprocess.run(
            shells.argv(command, name, user),
            capture_output=True,
            text=True,
            timeout=20,
            cwd=home,
            env={"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin", "GIVEN": "by the box"},
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run_command


def test_without_a_name_the_command_is_a_login_shells_own() -> None:
    assert shells.argv("echo hi", None, None) == ("bash", "-l", "-c", "echo hi")


def test_directory_and_exported_variables_last(run: Run) -> None:
    run("cd /usr; export A=1 B='two words\nand \"a line\" $HOME `x`'")
    assert run('echo "$PWD|$A|$B|$GIVEN"').out == '/usr|1|two words\nand "a line" $HOME `x`|by the box\n'


def test_names_and_users_do_not_share_anything(run: Run) -> None:
    run("cd /usr; export A=1", "one")
    assert run('echo "${A-none}"', "two").out == "none\n"
    assert run('echo "${A-none}"', "one", "root").out == "none\n"


def test_a_variable_that_was_unset_stays_unset(run: Run) -> None:
    run("unset GIVEN")
    assert run('echo "${GIVEN-none}"').out == "none\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("export A=1; exit 7", 7),
        ("export A=1; false", 1),
        ("export A=1; set -e; false; exit 0", 1),
        ("export A=1; f() { exit 9; }; f", 9),
        ("export A=1; set -u; echo $NOT_THERE", 127),
        ("export A=1; (exit 5)", 5),
        ("export A=1; no-such-program", 127),
        ("export A=1; set -o noclobber -o noglob; set -o posix", 0),
        ("export A=1; set -x; cd /usr", 0),
        ("export A=1; PATH=/nowhere", 0),
        ("export A=1\ncat <<X\nhere\nX", 0),
        ("export A=1; readonly B=2", 0),
        ("export A=1; trap 'exit 3' EXIT", 3),
        ("export A=1; trap 'true' EXIT; exit 4", 4),
        ("export A=1; trap -- 'true' EXIT INT; exit 4", 4),
        ("export A=1; trap 'true' EXIT; trap - EXIT; exit 6", 6),
        ("export A=1; kill -TERM $$", -15),
    ],
)
def test_however_the_command_ends_its_exit_code_and_state_are_kept(run: Run, command: str, code: int) -> None:
    assert run(command).code == code
    assert run("echo $A").out == "1\n"


def test_the_commands_own_exit_trap_runs_with_its_exit_code(run: Run) -> None:
    done = run("trap 'echo \"bye $?\"' EXIT; exit 4")
    assert (done.out, done.code) == ("bye 4\n", 4)


def test_traps_of_subshells_and_of_signals_are_left_alone(run: Run) -> None:
    assert run("(trap 'echo sub' EXIT; exit 3); echo $?").out == "sub\n3\n"
    assert run("trap 'echo term' TERM; kill -TERM $$; echo on").out == "term\non\n"


def test_the_command_sees_no_arguments_of_ours(run: Run) -> None:
    assert run('echo "$#$*"; echo $0').out == "0\nbash\n"


def test_a_syntax_error_is_told_and_leaves_the_state_as_it_was(run: Run) -> None:
    run("export A=1")
    done = run("export A=2; if")
    assert done.code == 2
    assert "syntax error" in done.err
    assert run("echo $A").out == "1\n"


def test_a_command_that_replaces_the_shell_leaves_the_state_as_it_was(run: Run) -> None:
    run("export A=1")
    assert run("export A=2; exec sh -c 'exit 3'").code == 3
    assert run("echo $A").out == "1\n"


def test_a_directory_that_is_gone_is_home_again(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    run(f"cd {tmp_path}/gone")
    (tmp_path / "gone").rmdir()
    done = run("pwd")
    assert (done.out, done.code, done.err) == (f"{tmp_path}/home\n", 0, "")
