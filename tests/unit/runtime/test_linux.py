"""Small questions to the kernel."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from corral.runtime.linux import meminfo, uts


def test_the_share_of_memory_that_is_available() -> None:
    text = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    250 kB\nHugePages_Total:       0\n"
    assert meminfo.available_share(text) == 0.25
    assert 0 < meminfo.available_share() < 1


@pytest.mark.root
def test_a_host_name_is_set_for_another_process_alone() -> None:
    own = socket.gethostname()
    script = "echo ready; read line; hostname"
    with subprocess.Popen(
        ["unshare", "--uts", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        process = os.pidfd_open(other.pid)
        try:
            uts.set_hostname(process, "box-1")
            with pytest.raises(OSError, match="setns"):
                uts.set_hostname(0, "box-2")
        finally:
            os.close(process)
        other.stdin.write("go\n")
        other.stdin.flush()
        assert other.stdout.readline() == "box-1\n"
    assert socket.gethostname() == own
