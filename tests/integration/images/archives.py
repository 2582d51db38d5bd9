"""Archives as strangers make them, for the store to take in or refuse; and a registry to keep them in."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import socket
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "org.opencontainers.image.ref.name"
MEDIA = "application/vnd.oci.image"
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@dataclass(frozen=True)
class Entry:
    """One entry of a tar: a file with content, unless `kind` says something else."""

    name: str
    content: bytes = b""
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    device: tuple[int, int] = (0, 0)
    attributes: Mapping[str, str] = field(default_factory=dict)


def folder(name: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return Entry(name, kind=tarfile.DIRTYPE, mode=mode)


def tar(*entries: Entry) -> bytes:
    """The tar of these entries."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.linkname, info.mode, info.mtime = entry.kind, entry.link, entry.mode, 1_600_000_000
            info.uid, info.gid = entry.owner
            info.devmajor, info.devminor = entry.device
            info.size = len(entry.content)
            info.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in entry.attributes.items()}
            archive.addfile(info, io.BytesIO(entry.content))
    return output.getvalue()


def digest(content: bytes) -> str:
    """As OCI writes it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layout(
    root: Path,
    layers: Sequence[bytes],
    *,
    name: str = "image",
    blobs: Mapping[int, bytes] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """An OCI layout of these archives; `blobs` has what is stored for one of them instead, compressed or wrong."""
    put(root, b"{}")
    stored = [(blobs or {}).get(number, layer) for number, layer in enumerate(layers)]
    config = {
        "architecture": MACHINE,
        "os": "linux",
        "config": dict(settings or {}),
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{MEDIA}.manifest.v1+json",
        "config": descriptor(root, json.dumps(config).encode(), "config.v1+json"),
        "layers": [descriptor(root, blob, "layer.v1.tar") for blob in stored],
    }
    entry = descriptor(root, json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {NAME: name}
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return root


def descriptor(root: Path, content: bytes, kind: str) -> dict[str, Any]:
    """Store a blob, and say where it is."""
    return {"mediaType": f"{MEDIA}.{kind}", "digest": put(root, content), "size": len(content)}


def put(root: Path, content: bytes) -> str:
    """Store a blob."""
    path = root / "blobs/sha256" / digest(content).removeprefix("sha256:")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return digest(content)


def skopeo(*argv: str) -> None:
    """Have skopeo copy, without any policy of the host's."""
    done = subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--quiet", *argv], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def registry(root: Path) -> Iterator[str]:
    """A real registry on a port of the loopback; its HOST:PORT."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root.mkdir()
    config = root / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (root / "log").open("w") as log:
        child = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 10
            while not _answers(port):
                assert time.monotonic() < deadline, (root / "log").read_text()
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            child.kill()
            child.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
