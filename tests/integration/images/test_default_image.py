"""What an agent finds in the default image."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from corral.images.store import Stored
from tests.integration.images.conftest import Tree

pytestmark = [pytest.mark.root, pytest.mark.image]

PROGRAMS = (
    "python3", "python", "pip", "uv", "node", "npm", "npx", "git", "curl", "wget", "sudo", "ps", "jq", "rg", "ssh",
    "gcc", "g++", "make", "bash", "su", "getent", "find", "tar", "unzip", "xz", "file", "ip", "gpgv", "less", "vi",
)  # fmt: skip


def test_the_programs_that_are_promised_are_there(tree: Tree) -> None:
    script = f"for name in {' '.join(PROGRAMS)}; do command -v $name > /dev/null || echo $name; done"
    assert tree.shell(script) == ""


def test_files_can_be_copied_by_sftp(tree: Tree) -> None:
    assert tree.shell("test -x /usr/lib/openssh/sftp-server && echo there") == "there"


def test_the_user_is_who_the_manifest_says(tree: Tree) -> None:
    user = tree.stored.manifest.user
    assert tree.shell("id -un; id -u; id -g; pwd; getent passwd user | cut -d: -f7").split() == [
        user.name,
        str(user.uid),
        str(user.gid),
        user.home,
        "/bin/bash",
    ]


def test_sudo_asks_for_no_password_and_keeps_what_tools_need(tree: Tree) -> None:
    assert tree.shell("sudo -n sh -c 'id -u; echo $SSL_CERT_FILE'").split() == [
        "0",
        tree.stored.manifest.env["SSL_CERT_FILE"],
    ]


def test_a_login_shell_starts_no_process(tree: Tree) -> None:
    # Process ids are handed out in order: its first child has the next one, unless its profile forked.
    done = tree.run("sh", "-c", """bash -l -c 'echo $$; sh -c "echo \\$\\$"; true'; true""")
    shell, child = map(int, done.stdout.split())
    assert child == shell + 1


def test_a_login_shell_keeps_the_path_that_it_was_given(tree: Tree) -> None:
    done = tree.run("env", "PATH=/opt/mine/bin:/usr/bin:/bin", "bash", "-l", "-c", "echo $PATH")
    assert done.stdout.strip() == "/home/user/.local/bin:/opt/mine/bin:/usr/bin:/bin"


def test_what_an_installer_appends_to_bashrc_reaches_the_next_command(tree: Tree) -> None:
    assert tree.shell("echo 'export MARK=set' >> ~/.bashrc; bash -l -c 'echo $MARK'") == "set"


def test_pip_is_not_refused_and_venv_works_without_a_network(tree: Tree) -> None:
    script = """
    mkdir -p package && echo 'def f(): return 7' > package/little.py
    echo 'import setuptools; setuptools.setup(name="little", version="1", py_modules=["little"])' > package/setup.py
    pip install --quiet --no-index --no-build-isolation ./package
    python -c 'import little; print(little.f(), little.__file__)'
    python3 -m venv environment && environment/bin/pip --version | cut -d' ' -f1
    """
    lines = tree.shell(script).splitlines()
    assert lines[0].startswith("7 /home/user/.local/lib/python3.11/")
    assert lines[1] == "pip"


def test_pip_can_replace_itself(tree: Tree) -> None:
    # One that Debian's package manager owns cannot be: "no RECORD file was found".
    assert tree.shell("pip uninstall --yes pip 2>&1 | tail -n 1", user="root:root").startswith(
        "Successfully uninstalled"
    )


def test_node_compiles_an_add_on_without_a_network(tree: Tree) -> None:
    script = """
    mkdir addon && cd addon
    echo '{"targets": [{"target_name": "seven", "sources": ["seven.c"]}]}' > binding.gyp
    cat > seven.c << 'C'
#include <node_api.h>
NAPI_MODULE_INIT() {
  napi_value value;
  napi_create_int32(env, 7, &value);
  return value;
}
C
    gyp=/usr/local/lib/node_modules/npm/node_modules/node-gyp/bin/node-gyp.js
    node $gyp rebuild > /tmp/log 2>&1 || { cat /tmp/log >&2; exit 1; }
    node -e 'console.log(require("./build/Release/seven.node"))'
    """
    assert tree.shell(script) == "7"


def test_global_npm_packages_of_the_user_need_no_root(tree: Tree) -> None:
    script = """
    mkdir package && cd package
    echo '{"name": "little", "version": "1.0.0", "bin": {"little": "little.js"}}' > package.json
    printf '#!/usr/bin/env node\\nconsole.log("from npm")\\n' > little.js
    npm install --global --offline "$(npm pack --offline 2> /dev/null)" > /dev/null 2>&1
    little; command -v little
    """
    assert tree.shell(script).split("\n") == ["from npm", "/home/user/.local/bin/little"]


def test_the_hosts_certificates_are_trusted_inside(tree: Tree) -> None:
    script = """
import ssl
context = ssl.create_default_context()
print(len(context.get_ca_certs()))
"""
    assert int(tree.run("python3", "-c", script).stdout) >= 100


def test_packages_start_no_services(tree: Tree) -> None:
    assert tree.run("/usr/sbin/policy-rc.d", user="root:root", check=False).returncode == 101


def test_no_secret_or_trace_of_the_host_is_in_the_tree(default_image: Stored) -> None:
    root = default_image.rootfs
    assert not (root / "etc/resolv.conf").exists()
    assert not (root / "etc/hostname").exists()
    assert (root / "etc/machine-id").read_text() == ""
    assert [name for name in ("dev", "proc", "sys", "run", "tmp") if any((root / name).iterdir())] == []


def test_the_tree_belongs_to_root_and_only_its_user(default_image: Stored) -> None:
    strangers = []
    for folder, _, names in os.walk(default_image.rootfs):
        for path in (Path(folder), *(Path(folder, name) for name in names)):
            facts = path.lstat()
            # Debian's own accounts end below 1,000; the user has 1,000.
            if facts.st_uid > 1000 or (facts.st_uid == 1000 and "/home/user" not in str(path)):
                strangers.append(path)
            if stat.S_ISBLK(facts.st_mode) or stat.S_ISCHR(facts.st_mode):
                strangers.append(path)
    assert strangers == []


def test_the_image_stays_within_its_size(default_image: Stored) -> None:
    assert default_image.manifest.size < 800e6
