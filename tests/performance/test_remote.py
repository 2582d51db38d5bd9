"""What a remote copy of a devbox costs: seconds and bytes for 100 MB of changes, there and back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from corral_sdk import Corral
from tests.harness.server import Server

#: Of random bytes, which nothing compresses.
CHANGED = 100_000_000
#: The bars are for a quiet machine.
COPY_S = 3.0
PULL_S = 4.0
SLACK = 4.0

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.slow, pytest.mark.timeout(180)]


def took(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def test_a_copy_costs_what_has_changed(tmp_path: Path) -> None:
    env = {"CORRAL_OBJECTS": str(tmp_path / "objects")}
    with (
        Server(tmp_path / "data", runtime="oci", env=env) as server,
        Corral(server.url, server.key) as corral,
    ):
        devbox = corral.devboxes.create()
        first = took(lambda: corral.snapshots.push(devbox.snapshot().id))  # with the image's layers
        devbox.exec(f"head -c {CHANGED} /dev/urandom > ~/file; sync")
        snapshot = devbox.snapshot()
        push = took(lambda: corral.snapshots.push(snapshot.id))
        copy = corral.snapshots.remote()[0]
        assert copy.stored is not None
        empty = devbox.snapshot()
        nothing = took(lambda: corral.snapshots.push(empty.id))
        least = corral.snapshots.remote()[0]
        assert least.stored is not None
        corral.snapshots.delete(snapshot.id)
        pull = took(lambda: corral.snapshots.pull(copy.id))
    print(
        f"\nfirst, with the image {first:.2f} s; 100 MB changed {push:.2f} s, {copy.stored / 1e6:.1f} MB; "
        f"nothing changed {nothing:.2f} s, {least.stored} bytes; back {pull:.2f} s"
    )
    assert CHANGED < copy.stored < CHANGED * 1.02
    assert least.stored < 100_000
    assert push <= COPY_S * SLACK
    assert pull <= PULL_S * SLACK
