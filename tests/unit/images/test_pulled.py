"""Images that were pulled for builds: how long they stay, and whose they are."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from corral.core import events
from corral.core.clock import Clock, ManualClock
from corral.core.ids import Ids
from corral.core.store.store import Store
from corral.images import collect
from corral.images.builds import rows
from corral.images.builds.model import BuildPlan
from corral.images.builds.service import Builds, HostBases
from corral.images.builds.workshop import Workshop
from corral.images.catalogue import ImageInfo
from corral.images.service import Images
from corral.images.store import ImageStore
from corral.images.sweeper import LayerSweeper
from corral.runtime.contract import Layer
from tests.unit.images.scene import diff_id, manifest, publish, pull

DAY_S = 24 * 3600.0
NAME = "python:3.13-slim"


class Server:
    """One of those that share the store, with its own setting."""

    def __init__(self, folder: Path, clock: Clock, name: str, keep_s: float, *used: Layer) -> None:
        self.images = Images(folder / "images", folder / name, clock=clock)
        self._used = set(used)
        self.sweeper = LayerSweeper(self.images, self._boxes, (), clock=clock, keep_s=keep_s)

    async def _boxes(self, *, lasting: bool = False) -> set[Layer]:
        return self._used


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def there(images: ImageStore) -> set[str]:
    """Digests of all layers of the store, by their short names."""
    return {folder.name for folder in collect.folders(images)}


def short(images: ImageStore, *texts: str) -> set[str]:
    return {images.layer_folder(diff_id(text)).name for text in texts}


async def test_a_name_that_no_build_asks_for_goes_with_its_layers(
    tmp_path: Path, clock: ManualClock, images: ImageStore
) -> None:
    pull(images, NAME, "base", "python")
    pull(images, "node:24", "base", "node")
    publish(images, "mine", "base", "mine")
    server = Server(tmp_path, clock, "one", 30 * DAY_S)
    await clock.advance(29 * DAY_S)
    await server.images.obtain(NAME)
    await server.sweeper.sweep()
    assert images.names() == ["mine", "node:24", NAME]
    await clock.advance(2 * DAY_S)
    await server.sweeper.sweep()
    assert images.names() == ["mine", NAME]
    assert there(images) == short(images, "base", "mine", "python")
    await clock.advance(29 * DAY_S)
    await server.sweeper.sweep()
    assert images.names() == ["mine"]
    assert there(images) == short(images, "base", "mine")


async def test_layers_that_are_in_use_stay_when_their_name_goes(
    tmp_path: Path, clock: ManualClock, images: ImageStore
) -> None:
    pull(images, NAME, "base", "python")
    server = Server(tmp_path, clock, "one", DAY_S, images.layer(diff_id("base")))
    await clock.advance(2 * DAY_S)
    await server.sweeper.sweep()
    assert images.names() == []
    assert there(images) == short(images, "base")


async def test_of_several_servers_the_last_that_asked_counts(
    tmp_path: Path, clock: ManualClock, images: ImageStore
) -> None:
    pull(images, NAME, "python")
    brief, patient = Server(tmp_path, clock, "one", DAY_S), Server(tmp_path, clock, "two", 30 * DAY_S)
    await clock.advance(2 * DAY_S)
    patient.images.renew(NAME)
    await brief.sweeper.sweep()
    assert images.names() == [NAME]
    await clock.advance(2 * DAY_S)
    await patient.sweeper.sweep()
    assert images.names() == [NAME]
    await brief.sweeper.sweep()
    assert images.names() == []


async def test_who_collects_by_hand_takes_no_name_away(clock: ManualClock, images: ImageStore) -> None:
    pull(images, NAME, "python")
    await clock.advance(1000 * DAY_S)
    assert await Images(images.root, clock=clock).collect() == collect.Collected()
    assert images.names() == [NAME]


async def test_what_an_alias_stands_for_stays_until_the_alias_goes(
    tmp_path: Path, clock: ManualClock, images: ImageStore
) -> None:
    pull(images, "python:latest", "python")
    server = Server(tmp_path, clock, "one", DAY_S)
    await clock.advance(2 * DAY_S)
    server.images.alias("ours", "python")
    server.images.alias("ours:too", "ours")
    await clock.advance(2 * DAY_S)
    await server.sweeper.sweep()
    assert images.names() == ["ours", "ours:too", "python:latest"]
    images.drop("ours:too")
    images.drop("ours")
    await server.sweeper.sweep()
    assert images.names() == []


async def test_what_an_operator_names_is_his_whoever_comes_first(
    tmp_path: Path, clock: ManualClock, images: ImageStore
) -> None:
    pull(images, NAME, "pulled")
    publish(images, NAME, "mine")  # as an import does
    pull(images, NAME, "pulled late")  # by a build that asked before there was one
    images.put_alias("node:24", NAME)
    pull(images, "node:24", "pulled late")
    images.renew(NAME, clock.now_ms())
    server = Server(tmp_path, clock, "one", DAY_S)
    await clock.advance(2 * DAY_S)
    await server.sweeper.sweep()
    stored = images.current(NAME)
    assert stored is not None
    assert (stored.asked_ms, stored.layers) == (None, (images.layer(diff_id("mine")),))
    assert images.target("node:24") == NAME
    assert [path.name for path in (images.root / "names").glob(".*")] == []


async def test_a_record_of_before_is_the_operators(tmp_path: Path, clock: ManualClock, images: ImageStore) -> None:
    publish(images, NAME, "old")
    # What is not pulled is written as it was before.
    assert "pulled" not in json.loads(images.name_file(NAME).read_text())
    await clock.advance(1000 * DAY_S)
    server = Server(tmp_path, clock, "one", DAY_S)
    await server.images.obtain(NAME)
    await server.sweeper.sweep()
    assert images.names() == [NAME]


async def test_asking_again_is_seen_and_changes_nothing_else(
    tmp_path: Path, clock: ManualClock, images: ImageStore
) -> None:
    pull(images, NAME, "python")
    host = Images(images.root, tmp_path / "one", clock=clock)
    before, text = host.resolve(NAME), images.name_file(NAME).read_text()
    for asked in (f"library/{NAME}", NAME):
        await clock.advance(60)
        assert await host.obtain(asked) == before
        stored = images.current(NAME)
        assert stored is not None
        assert stored.asked_ms == clock.now_ms()
    host.renew("NO NAME")
    host.renew("of:nothing")
    assert images.name_file(NAME).read_text() == text


async def test_who_requests_a_build_asks_for_its_bases(clock: ManualClock, store: Store, images: ImageStore) -> None:
    """Also when the build is there already, and nothing has to be done for it."""
    pull(images, NAME, "python")
    await clock.advance(DAY_S)
    bases = HostBases(Images(images.root, clock=clock))
    found = await store.read(lambda connection: bases.find(connection, "acc_tests", NAME))
    stored = images.current(NAME)
    assert found is not None
    assert stored is not None
    assert (found.name, stored.asked_ms) == (NAME, clock.now_ms())


class Reaching(Images):
    """Images of a host that reaches a registry, which has all."""

    async def obtain(self, name: str) -> ImageInfo:
        if not self.store.name_file(name).exists():
            pull(self.store, name, "pulled again")
        return await super().obtain(name)


async def test_a_base_that_goes_before_its_build_begins_is_asked_of_its_registry_again(
    clock: ManualClock, store: Store, feed: events.Feed, images: ImageStore
) -> None:
    library = Reaching(images.root, clock=clock)
    publish(images, "builder", "builder")
    pull(images, NAME, "python")
    workshop = cast("Workshop", SimpleNamespace(terms=SimpleNamespace(builder="builder")))
    builds = Builds(store, feed, library, HostBases(library), workshop, clock=clock, ids=Ids(clock), most_context=1)
    plan = BuildPlan("acc_tests", "one", f"FROM {NAME}\nRUN true")
    build = await store.write(lambda connection: builds.request(connection, plan))
    job = await store.read(lambda connection: rows.get(connection, "acc_tests", build.id))
    assert not await builds.look_again(job)
    images.drop(NAME)
    assert await builds.look_again(job)
    again = await store.read(lambda connection: rows.get(connection, "acc_tests", build.id))
    assert again.bases == {NAME: (NAME, manifest(diff_id("pulled again")).digest)}
    assert not await builds.look_again(again)
