"""OpenSSH's own programs as clients of one devbox, with a key and the server's host key."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pexpect

from tests.harness.server import Server

#: Seconds that one call may take.
LIMIT_S = 60.0


def create_key(server: Server, devbox_id: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """Ask for a key."""
    path = f"{server.url}/v1/devboxes/{devbox_id}/create_ssh_key"
    return httpx.post(path, json={}, headers=headers or server.headers, timeout=LIMIT_S)


class OpenSsh:
    """`ssh`, `scp`, `sftp` and `rsync` into the devbox of `view`, which create_ssh_key answered with."""

    def __init__(self, server: Server, view: dict[str, Any], folder: Path) -> None:
        self.view = view
        self.folder = folder
        self.port: int = view["ssh_port"]
        folder.mkdir(exist_ok=True)
        self.key = folder / "key"
        self.key.touch(mode=0o600)
        self.key.write_text(view["ssh_private_key"])
        known = folder / "known_hosts"
        known.write_text(f"{view['url']} {view['ssh_host_key']}\n")
        self.options = ["-F", "none", "-i", str(self.key)]
        for option in (
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            f"HostKeyAlias={view['url']}",
            f"UserKnownHostsFile={known}",
            "ConnectTimeout=20",
        ):
            self.options += ["-o", option]
        self.target = f"{view['ssh_user']}@127.0.0.1"

    @classmethod
    def into(cls, server: Server, devbox_id: str, folder: Path) -> OpenSsh:
        """With a new key."""
        return cls(server, create_key(server, devbox_id).raise_for_status().json(), folder)

    def arguments(self, *options: str) -> list[str]:
        """The argument vector of ssh up to the command."""
        return ["ssh", *self.options, "-p", str(self.port), *options, self.target]

    def run(
        self, command: str = "", *options: str, stdin: bytes = b"", timeout: float = LIMIT_S
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `command`, or a shell without one, to its end."""
        line = [*self.arguments(*options), *([command] if command else [])]
        return subprocess.run(line, input=stdin, capture_output=True, check=False, timeout=timeout)

    def start(self, command: str, *options: str) -> subprocess.Popen[bytes]:
        """Start without waiting, with pipes; the caller ends it."""
        return subprocess.Popen(
            [*self.arguments(*options), command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @staticmethod
    def end(client: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """Kill what `start` gave, if it still runs; what it had said and nobody has read."""
        client.kill()
        return client.communicate(timeout=10)

    def terminal(self, *command: str, rows: int = 24, cols: int = 80) -> pexpect.spawn[bytes]:
        """On a terminal of this size. The caller closes it."""
        program, *arguments = [*self.arguments("-t"), *command]
        return pexpect.spawn(program, arguments, dimensions=(rows, cols), timeout=20)

    def tool(self, program: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run scp or sftp; the devbox is `BOX:` in the arguments."""
        named = [one.replace("BOX:", f"{self.target}:") for one in arguments]
        line = [program, *self.options, "-P", str(self.port), *named]
        return subprocess.run(line, input=stdin, capture_output=True, check=False, timeout=LIMIT_S)

    def rsync(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run rsync; the devbox is `BOX:` in the arguments."""
        named = [one.replace("BOX:", f"{self.target}:") for one in arguments]
        shell = " ".join(["ssh", *self.options, "-p", str(self.port)])
        return subprocess.run(["rsync", "-e", shell, *named], capture_output=True, check=False, timeout=LIMIT_S)

    def through_tls(self, command: str) -> subprocess.CompletedProcess[bytes]:
        """Run `command` in the way of the dialect's clients: ssh in TLS, by the name of the devbox."""
        where = f"127.0.0.1:{self.port}"
        proxy = f"ProxyCommand=openssl s_client -quiet -servername %h -connect {where} 2>/dev/null"
        line = ["ssh", *self.options, "-o", proxy, f"{self.view['ssh_user']}@{self.view['url']}", command]
        return subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=LIMIT_S)
