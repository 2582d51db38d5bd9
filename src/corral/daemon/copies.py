"""Snapshots of disks, their copies in a bucket, and the removal of layers that nobody needs."""

from __future__ import annotations

from dataclasses import dataclass

from corral.daemon.base import Base
from corral.daemon.devboxes import DevboxParts
from corral.daemon.machine import Machine
from corral.daemon.storage import Storage
from corral.images.layers import LayerShelf
from corral.images.remote import RemoteCopies
from corral.images.remote_controller import RemoteController, Retention
from corral.images.remote_store import RemoteStore
from corral.images.service import Images
from corral.images.snapshot_controller import SnapshotController
from corral.images.snapshots import Snapshots
from corral.images.sweeper import LayerSweeper
from corral.storage.service import load_remote_key


@dataclass(frozen=True, slots=True)
class Copies:
    """`controller`, and `sender` and `sweeper` where there is one, are to be run.

    `sender` is None without a bucket, `sweeper` where images have no layers.
    """

    snapshots: Snapshots
    remote: RemoteCopies
    controller: SnapshotController
    sender: RemoteController | None
    sweeper: LayerSweeper | None

    async def leave(self) -> None:
        """Tell the store of images what is needed after this server. Once nothing makes boxes any more."""
        if self.sweeper is not None:
            await self.sweeper.leave()


def make(base: Base, machine: Machine, storage: Storage, boxes: DevboxParts) -> Copies:
    """Snapshots of this machine's devboxes; remote copies of them if the settings say where."""
    settings, clock, ids, store, feed = base.settings, base.clock, base.ids, base.store, base.feed
    runtime, images, devboxes = machine.runtime, machine.images, boxes.devboxes
    remote, sender = None, None
    if settings.objects is not None:
        remote = RemoteStore(storage.contents, load_remote_key(settings.data, settings.remote_key, ids))
        shelf = LayerShelf(remote, images)
        sender = RemoteController(
            store,
            feed,
            runtime,
            remote,
            shelf,
            devboxes,
            boxes.snapshot_rules,
            retention=Retention(settings.remote_newest, settings.remote_keep_s),
            clock=clock,
            ids=ids,
        )
    controller = SnapshotController(
        store,
        feed,
        runtime,
        devboxes,
        clock=clock,
        at_once=settings.starts_at_once,
        receive=None if sender is None else sender.receive,
    )
    recovers = [one.strip() for one in settings.remote_recovers.split(",") if one.strip()]
    sweeper = None
    if isinstance(images, Images):
        sweeper = LayerSweeper(
            images, runtime.layers, (controller.layers,), clock=clock, keep_s=settings.pulled_keep_s
        )
    return Copies(
        snapshots=Snapshots(store, feed, devboxes, boxes.snapshot_rules, clock=clock),
        remote=RemoteCopies(store, remote, devboxes, recovers=recovers, clock=clock, ids=ids),
        controller=controller,
        sender=sender,
        sweeper=sweeper,
    )
