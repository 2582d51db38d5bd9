"""What each stock image promises, in a real box: those that set-up builds for tests, and what else this host has."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from corral.images import stock
from corral.images.service import Images
from corral.images.stock import Flavour
from tests.integration.oci.conftest import IMAGES, Bench

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120)]

BUILT_FOR_TESTS = {"debian-12", "debian-13-slim", "debian-13", "docker", "builder"}
HERE = [flavour for name, flavour in stock.FLAVOURS.items() if name in BUILT_FOR_TESTS | set(Images(IMAGES).names())]

#: What Harbor's calls, agents' installers and graders of tasks take for granted.
EVERYWHERE = ("bash", "su", "sudo", "getent", "find", "tar", "git", "curl", "python3", "python", "pip", "uv", "uvx")

COMMON = f"""
for name in {" ".join(EVERYWHERE)}; do command -v $name > /dev/null || echo "no $name"; done
test "$(id -un) $(id -u) $HOME" = "user 1000 /home/user" || id
test "$(sudo -n id -u)" = 0 || echo "no sudo"
test "$(sudo -n su user -s /bin/bash -c 'id -un')" = user || echo "no su"
test "$UV_PYTHON_DOWNLOADS" = never || echo "uv would fetch interpreters"
. ~/.local/bin/env
uv python find > /dev/null || echo "uv finds no interpreter"
test -x /usr/lib/openssh/sftp-server || echo "no SFTP server"
"""

#: A package of one module, installed as root, whom PEP 668 would refuse, and without a network.
PIP = """
mkdir -p /tmp/package && cd /tmp/package
echo 'def f(): return 7' > little.py
echo 'import setuptools; setuptools.setup(name="little", version="1", py_modules=["little"])' > setup.py
sudo pip install --quiet --no-index --no-build-isolation . && python -c 'import little; print(little.f())'
"""

NPM = """
mkdir -p /tmp/npm && cd /tmp/npm
echo '{"name": "little", "version": "1.0.0", "bin": {"little": "little.js"}}' > package.json
printf '#!/usr/bin/env node\\nconsole.log("from npm")\\n' > little.js
npm install --global --offline "$(npm pack --offline 2> /dev/null)" > /dev/null 2>&1
~/.local/bin/little
node -v
"""

COMPILE = """
cd /tmp && printf '#include <Python.h>\\nint main(void) { return PY_MAJOR_VERSION - 3; }\\n' > a.c
gcc $(python3 -c 'import sysconfig; print("-I" + sysconfig.get_paths()["include"])') a.c -o a && ./a && echo compiled
"""


def chain(flavour: Flavour) -> list[Flavour]:
    """The flavour and all that it is a layer on."""
    return [flavour, *(chain(stock.flavour(flavour.base)) if flavour.base else [])]


@pytest.fixture
async def box(bench: Bench, request: pytest.FixtureRequest) -> str:
    """A box of the flavour that the test is about."""
    image = Images(IMAGES).resolve(request.param.name)
    await bench.runtime.create(replace(bench.spec("b"), layers=image.layers, env=image.env, user=image.user))
    return "b"


@pytest.mark.parametrize(
    ("box", "flavour"), [(each, each) for each in HERE], ids=lambda each: each.name, indirect=["box"]
)
async def test_a_stock_image_keeps_its_promises(bench: Bench, box: str, flavour: Flavour) -> None:
    parts = chain(flavour)
    packages = {name for part in parts for name in part.packages}
    node = next((part.node for part in parts if part.node), None)
    common = await bench.sh(box, COMMON)
    assert (common.stdout, common.stderr, common.code) == ("", "", 0)
    pip = await bench.sh(box, PIP)
    assert (pip.stdout, pip.code) == ("7\n", 0), pip.stderr
    python = await bench.sh(box, "python3 -V")
    assert python.stdout.startswith("Python 3.11" if flavour.suite == "bookworm" else "Python 3.13")
    compiled = await bench.sh(box, COMPILE)
    assert (compiled.stdout == "compiled\n") is ("build-essential" in packages), compiled.stderr
    npm = await bench.sh(box, NPM)
    assert npm.stdout == (f"from npm\nv{node.version}\n" if node else "")


PYTHONS = [flavour for flavour in HERE if flavour.links]


@pytest.mark.parametrize(
    ("box", "flavour"), [(each, each) for each in PYTHONS], ids=lambda each: each.name, indirect=["box"]
)
async def test_an_image_of_python_is_like_the_official_one(bench: Bench, box: str, flavour: Flavour) -> None:
    said = await bench.sh(
        box,
        "command -v python python3; python -V; pip install --help | head -n 1; env | grep BREAK | sort;"
        "test -f $(python -c 'import sysconfig; print(sysconfig.get_paths()[\"include\"])')/Python.h && echo headers",
    )
    version = re.fullmatch(r"python-(3\.\d+)(-slim)?", flavour.name)
    assert version is not None
    lines = said.stdout.split("\n")
    assert lines[:2] == ["/usr/local/bin/python", "/usr/local/bin/python3"]
    assert lines[2].startswith(f"Python {version[1]}.")
    assert lines[-4:] == ["PIP_BREAK_SYSTEM_PACKAGES=1", "UV_BREAK_SYSTEM_PACKAGES=1", "headers", ""]


@pytest.mark.parametrize("box", [stock.flavour(stock.BUILDER)], ids=["builder"], indirect=True)
async def test_the_builder_has_buildah_a_runtime_and_where_it_keeps_things(bench: Bench, box: str) -> None:
    said = await bench.sh(box, "buildah --version; command -v crun; grep ^graphroot /etc/containers/storage.conf")
    assert re.match(r"buildah version 1\.(39|[4-9]\d)\.", said.stdout), said.stderr
    assert said.stdout.split("\n")[1:] == ["/usr/bin/crun", 'graphroot = "/var/lib/containers/storage"', ""]


@pytest.mark.parametrize("box", [stock.flavour(stock.DOCKER)], ids=["docker"], indirect=True)
async def test_the_docker_image_has_its_programs_and_its_user_may_use_them(bench: Bench, box: str) -> None:
    said = await bench.sh(
        box,
        "for name in dockerd containerd runc docker iptables nft pigz; do sudo which $name > /dev/null || echo; done\n"
        "docker compose version --short | cut -d. -f1; docker buildx version > /dev/null && echo buildx; id -nG",
    )
    assert said.stdout == "2\nbuildx\nuser docker\n", said.stderr
