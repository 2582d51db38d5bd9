"""What users of the official clients do, done with those clients as they were published."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.harness.server import Server
from tests.integration.clients import install

SCRIPTS = Path(__file__).parent / "scripts"
PYTHON_CHECKS = re.findall(r"^def (\w+)\(\) -> None:", (SCRIPTS / "python_client.py").read_text(), re.MULTILINE)
TYPESCRIPT_CHECKS = re.findall(r"^  async (\w+)\(\) {", (SCRIPTS / "typescript_client.mjs").read_text(), re.MULTILINE)

LIMIT_S = 120

VERSIONS = ("3.0.0", "1.32.0")

#: Named shells are gone from the client 3.
PYTHON_CASES = [
    (version, check) for version in VERSIONS for check in PYTHON_CHECKS if (version, check) != ("3.0.0", "named_shell")
]


def run(server: Server, runtime: str, *command: str, cwd: Path | None = None) -> None:
    """Run a check in its client's environment; fail with what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RUNLOOP_")}
    env |= {"RUNLOOP_BASE_URL": server.url, "RUNLOOP_API_KEY": server.key, "CHECK_RUNTIME": runtime}
    env["CHECK_SSH"] = server.ssh_listen
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(LIMIT_S + install.INSTALL_LIMIT_S)
@pytest.mark.parametrize(("version", "check"), PYTHON_CASES)
def test_the_python_client_works_unchanged(server: Server, runtime: str, version: str, check: str) -> None:
    run(server, runtime, str(install.python(version)), str(SCRIPTS / "python_client.py"), check)


@pytest.mark.timeout(LIMIT_S + install.INSTALL_LIMIT_S)
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_method_and_field_of_the_python_client_is_answered_or_refused(
    server: Server, runtime: str, version: str, kind: str
) -> None:
    run(server, runtime, str(install.python(version)), str(SCRIPTS / "every_method.py"), kind)


@pytest.mark.timeout(LIMIT_S + install.INSTALL_LIMIT_S)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_parameter_of_the_python_client_is_taken_or_refused_by_name(
    server: Server, runtime: str, version: str
) -> None:
    run(server, runtime, str(install.python(version)), str(SCRIPTS / "every_parameter.py"))


@pytest.mark.timeout(LIMIT_S + install.INSTALL_LIMIT_S)
@pytest.mark.parametrize("check", TYPESCRIPT_CHECKS)
def test_the_typescript_client_works_unchanged_over_http_2(server: Server, runtime: str, check: str) -> None:
    run(server, runtime, "node", str(SCRIPTS / "typescript_client.mjs"), check, cwd=install.typescript("1.32.0"))


@pytest.mark.timeout(LIMIT_S + install.INSTALL_LIMIT_S)
def test_every_method_of_the_typescript_client_is_answered_or_refused(server: Server, runtime: str) -> None:
    run(server, runtime, "node", str(SCRIPTS / "every_method.mjs"), cwd=install.typescript("1.32.0"))
