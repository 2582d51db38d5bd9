"""Which names of the registries mean which flavour."""

from __future__ import annotations

import pytest

from corral.images import stock

MEANT = {
    "debian": "debian-13",
    "debian:latest": "debian-13",
    "debian:13": "debian-13",
    "debian:trixie": "debian-13",
    "debian:stable-slim": "debian-13-slim",
    "debian:bookworm": "debian-12",
    "debian:12": "debian-12",
    "debian:12.11": "debian-12",
    "debian:12-slim": "debian-12-slim",
    "debian:bookworm-slim": "debian-12-slim",
    "debian:bookworm-20250520-slim": "debian-12-slim",
    "library/debian:trixie-20250520": "debian-13",
    "docker.io" + "/library/debian:12": "debian-12",
    "buildpack-deps:bookworm": "debian-12",
    "python": "python-3.13",
    "python:3": "python-3.13",
    "python:slim": "python-3.13-slim",
    "python:3-bookworm": "python-3.11",
    "python:3.11": "python-3.11",
    "python:3.11-slim": "python-3.11-slim",
    "python:3.11.9-slim-bookworm": "python-3.11-slim",
    "python:3.13-slim": "python-3.13-slim",
    "python:3.13-slim-bookworm": "python-3.13-slim",
    "python:3.13.1-trixie": "python-3.13",
    "node": "node-24",
    "node:24": "node-24",
    "node:lts-slim": "node-24-slim",
    "node:22-slim": "node-22-slim",
    "node:22.11.0-bookworm-slim": "node-22-slim",
    "node:jod-trixie": "node-22",
    "node:20": "node-20",
}

NOT_MEANT = (
    "debian:11", "debian:sid", "debian:bookworm-backports", "debian:12-slim-slimmer", "python:2.7", "python:3.12-slim",
    "python:3.13-alpine", "python:3.13-windowsservercore", "node:18", "node:24-alpine", "node:24.1.2.3",
    "ubuntu:24.04", "me/python:3.11", "registry.test/python:3.11", "registry.test:5000/debian",
    f"debian:12@sha256:{'0' * 64}",
    f"debian@sha256:{'0' * 64}", "", ":", "debian:-", "debian:bookworm-slim-", "debian-12", "python:",
)  # fmt: skip


@pytest.mark.parametrize(("reference", "flavour"), MEANT.items(), ids=MEANT)
def test_a_name_of_the_registries_means_a_flavour(reference: str, flavour: str) -> None:
    assert stock.flavour_of(reference) == flavour
    assert flavour in stock.FLAVOURS


@pytest.mark.parametrize("reference", NOT_MEANT)
def test_what_no_flavour_can_stand_for_means_none(reference: str) -> None:
    assert stock.flavour_of(reference) is None
