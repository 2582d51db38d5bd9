"""The Python clients' own live tests, as their source distributions have them, against this server.

Owns the list of those that cannot pass here, each with what the server says instead. Their other tests ask a stand-in
made from a schema, with a key and ids that no server knows: `every_method.py` makes those calls of a live one. The
TypeScript client is published without its tests: `typescript_client.mjs` does what they do.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from corral.core.settings import Settings
from corral.images.service import Images
from tests.harness.server import CORRAL, Server, free_port
from tests.integration.clients import install

LIMIT_S: Final = 540
IMAGES: Final = Path(os.environ.get("CORRAL_IMAGES", Settings().images))

#: Test, without its folder -> what the server must have said, of several one. Everything else has to pass.
NOT_OFFERED: Final = {
    "*axon.Test*": "cannot use axons",
    "*agent.Test*": "cannot use agents",
    "*gateway_config.Test*": "cannot use gateways",
    "*mcp_config.Test*": "cannot use gateways",
    "*network_policy.Test*": "cannot use network policies",
    "*secret.Test*": "cannot use secrets",
    "*scenario.Test*": "cannot use scenarios",
    "*scenario.*_with_blueprint": "cannot use scenarios",
    "*scenario.*_with_snapshot": "cannot use scenarios",
    "*scorer.Test*": "cannot use scenarios",
    "*benchmark.Test*": "cannot use benchmarks",
    "*benchmark.Test*Run*": "cannot use scenarios",
    "test_blueprints.*blueprint_with_secret*": "secrets: this server does not offer it",
    "test_scenarios_benchmarks.test_create_scenario*": "cannot use scenarios",
    "*devbox.*.test_enable_tunnel": "cannot enable tunnel",
    "*devbox.*.test_create_with_tunnel_param": "tunnel: this server does not offer it",
}

#: Tests that use what an earlier one of these could not make.
FOLLOWERS: Final = (
    "test_scenarios_benchmarks.test_start_scenario_run*",
    "test_scenarios_benchmarks.test_score_*",
    "test_scenarios_benchmarks.test_create_benchmark_*",
)

#: What their Dockerfiles are built on, and what stands for it where no registry is reached.
BASE: Final = ("ubuntu:22.04", "debian-13-slim")

#: Only run when asked for with a variable of their own, against the public service.
SKIPPED: Final = ("examples.test_examples.*",)

#: Tests of devboxes and executions that passed at least: a suite that does not run must not look like one that does.
PASS_AT_LEAST: Final = 80


@dataclass(frozen=True)
class Outcome:
    """`state` is passed, skipped or failed; `said` the message of a failure."""

    name: str
    state: str
    said: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"CORRAL_SSH_LISTEN": f"127.0.0.1:{free_port()}"}
    images = Images(IMAGES)
    if missing := " ".join({"builder", BASE[1]} - set(images.names())):
        pytest.skip(f"no image {missing}: corral image build {missing}")
    subprocess.run([CORRAL, "image", "alias", *BASE], check=True)
    with Server(tmp_path_factory.mktemp("suites") / "data", runtime="oci", env=env) as one:
        yield one
    subprocess.run([CORRAL, "image", "remove", BASE[0]], check=True)


@pytest.mark.root
@pytest.mark.image
@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + install.INSTALL_LIMIT_S)
@pytest.mark.parametrize("version", ["3.0.0", "1.32.0"])
def test_the_clients_own_live_tests_pass_but_for_what_is_not_offered(
    server: Server, tmp_path: Path, version: str
) -> None:
    outcomes = run(server, install.suite(version), tmp_path / "report.xml")
    wrong = [outcome for outcome in outcomes if not expected(outcome)]
    told = "\n".join(f"{one.name} {one.state}: {one.said[:300]}" for one in wrong)
    assert not told, told
    assert sum(one.state == "passed" for one in outcomes) >= PASS_AT_LEAST


def run(server: Server, suite: install.Suite, report: Path) -> list[Outcome]:
    """Run the suite with the settings that it has itself, but with fewer workers; every test with its outcome."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RUNLOOP_", "PYTEST_"))}
    env |= {"RUNLOOP_BASE_URL": server.url, "RUNLOOP_API_KEY": server.key, "RUN_SMOKETESTS": "1"}
    command = [str(suite.python), "-m", "pytest", "tests/smoketests", "-m", "smoketest", "-n", "6"]
    command += ["--show-capture=no", "-p", "no:cacheprovider", f"--junitxml={report}"]
    done = subprocess.run(command, cwd=suite.tree, env=env, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode in {0, 1}, done.stdout[-3000:] + done.stderr[-3000:]
    return [_outcome(case) for case in ET.parse(report).iter("testcase")]


def _outcome(case: ET.Element) -> Outcome:
    name = f"{case.get('classname', '').removeprefix('tests.smoketests.').removeprefix('sdk.')}.{case.get('name')}"
    for tag, state in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        if (found := case.find(tag)) is not None:
            return Outcome(name, state, found.get("message", "") + (found.text or ""))
    return Outcome(name, "passed", "")


def expected(outcome: Outcome) -> bool:
    """Whether the test had to end like this."""
    if outcome.state == "skipped":
        return _is_one_of(outcome.name, SKIPPED)
    said = [words for pattern, words in NOT_OFFERED.items() if fnmatch.fnmatch(outcome.name, pattern)]
    if not (said or _is_one_of(outcome.name, FOLLOWERS)):
        return outcome.state == "passed"
    if outcome.state == "passed":
        return False
    return not said or any(words in outcome.said for words in said)


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
