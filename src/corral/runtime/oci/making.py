"""Making a box: from its first record to a running process 1, by a launch of the OCI runtime.

Owns what is asked of the launcher for a box. Must not know which boxes live, nor talk to a guest.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from corral.core.tasks import settled
from corral.runtime.contract import STORES, BoxSpec, HostUnfit
from corral.runtime.network.namespace import SlotWish
from corral.runtime.oci import config, hostfiles, record, removal, slots, wire
from corral.runtime.oci.faults import ended_at_once, exists, refused
from corral.runtime.oci.launching import LauncherClient
from corral.runtime.oci.record import Living
from corral.runtime.oci.shared import Shared
from corral.runtime.oci.snapshots import Snapshots
from corral.runtime.rootfs import plan, steps

ABORT_LIMIT_S: Final = 10.0


class Maker:
    """On what boxes share, with slots from a stock. What it leaves half-made has a record, and is `Removal`'s."""

    def __init__(self, shared: Shared, snapshots: Snapshots, launcher: LauncherClient, stock: slots.SlotStock) -> None:
        self._shared = shared
        self._snapshots = snapshots
        self._launcher = launcher
        self._stock = stock

    async def make(self, folder: Path, spec: BoxSpec) -> Living:
        """Make a box whose record is in `folder`, where it stays one that is half-made. Its guest was not asked yet.

        Raises BoxExists, HostExhausted, HostUnfit. When it is cancelled, nothing of it is in progress any more.
        """
        slot = await self._stock.take(nested=spec.nested)
        await self._begin(folder, spec, slot.wish.index)
        await settled(asyncio.to_thread(self.prepare_box, spec, slot.wish.id_base))
        answer = await self._launch(spec, slot)
        if spec.nested and self._shared.layout.version == 2:
            self._delegate(spec, slot.wish.id_base)
        try:
            found = record.Record.of(spec, slot.wish.index).living(answer["pid"])
        except ProcessLookupError:
            raise ended_at_once(spec.id) from None
        if Path(self._shared.settings.oci_runtime).name in removal.PLAIN_RUNTIMES:
            (self._shared.places.bundle(spec.id) / "config.json").unlink()  # read once: 40 KiB of memory for each box
        process = found.open_process()
        if process is None:
            raise ended_at_once(spec.id)
        return Living(found, process)

    async def reserve(self, folder: Path, spec: BoxSpec) -> SlotWish:
        """The slot of a box whose namespaces are not made ahead, and the first record of it.

        Raises BoxExists, HostExhausted, HostUnfit.
        """
        wish = await self._stock.reserve()
        await self._begin(folder, spec, wish.index)
        return wish

    async def _begin(self, folder: Path, spec: BoxSpec, slot: int) -> None:
        """Write the record, with which the slot is the box's; without it, it goes back."""
        try:
            await settled(asyncio.to_thread(_write_first, folder, spec, slot))
        except BaseException:
            kept = record.read(folder)
            if kept is None or kept.slot != slot:
                self._stock.give_back(slot)
            raise

    def prepare_box(self, spec: BoxSpec, owner: int) -> None:
        """Make its disk, and the folder of its bundle. `owner` is the host id of its root. Blocks.

        Raises HostExhausted, HostUnfit.
        """
        if spec.nested and self._shared.layout.version == 1:
            self._delegate(spec, owner)
        try:
            self._shared.places.bundle(spec.id).mkdir(mode=0o700, exist_ok=True)
            if spec.origin is not None:
                self._snapshots.require(spec.origin)
            self._shared.pool.prepare(spec.id, spec.limits.disk, spec.origin)
        except OSError as error:
            raise refused(f"create box {spec.id}", error.errno or 0, str(error)) from error

    def _delegate(self, spec: BoxSpec, owner: int) -> None:
        if self._shared.layout.version == 1 and self._shared.layout.second is None:
            message = f"cannot create nested box {spec.id}: version 2 of control groups is not mounted"
            raise HostUnfit(message, remedy="mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, and restart the server")
        try:
            self._shared.group(spec.id).delegate(owner)
        except OSError as error:
            raise refused(f"create box {spec.id}", error.errno or 0, str(error)) from error

    async def _launch(self, spec: BoxSpec, slot: slots.ReadySlot) -> wire.Message:
        folder = self._shared.places.bundle(spec.id)
        log, pid_file = folder / "launch.log", folder / "pid"
        root = self._shared.places.stage.root
        place = config.Place(
            root=root,
            user_namespace=slot.user_path,
            network_namespace=slot.net_path,
            id_base=slot.wish.id_base,
            cgroup=self._shared.group(spec.id).path,
            cgroup_version=self._shared.layout.version,
            swap_limit=self._shared.layout.swap_limit,
        )
        boxed = replace(spec, env={**self._shared.host.env, **spec.env})
        bundle = config.bundle(boxed, place, self._shared.seccomp[spec.nested])
        answer = await self._request_launch(
            box=spec.id,
            index=slot.wish.index,
            steps=[steps.pack(step) for step in self.steps(spec, slot.wish.id_base)],
            write={str(folder / "config.json"): json.dumps(bundle)},
            socket=str(self._shared.places.socket(spec.id)),
            pid_file=str(pid_file),
            log=str(log),
            nested=self._nested(spec),
            argv=[
                self._shared.settings.oci_runtime,
                "--root",
                str(self._shared.places.state),
                "--log",
                str(log),
                "run",
                "--detach",
                "--preserve-fds",
                "1",
                "--pid-file",
                str(pid_file),
                "--bundle",
                str(folder),
                spec.id,
            ],
        )
        if not answer["ok"]:
            raise refused(f"create box {spec.id}", answer["errno"], answer["error"])
        return answer

    def _nested(self, spec: BoxSpec) -> Mapping[str, Any] | None:
        """What the launcher gives a nested box (`corral.runtime.oci.delegation`)."""
        if not spec.nested:
            return None
        second = self._shared.layout.second if self._shared.layout.version == 1 else None
        return {
            "group": None if second is None else f"{second}{self._shared.group(spec.id).path}",
            "oom_score": config.OOM_SCORE,
        }

    def steps(self, spec: BoxSpec, owner: int) -> list[steps.Step]:
        """What the launcher's child does before the OCI runtime. `owner` is the host id of the box's root."""
        # On a disk that was a box's, a path may lead anywhere: its guest writes these.
        files = {"etc/hostname": f"{spec.hostname}\n", "etc/hosts": hostfiles.hosts(spec.hostname)}
        layers = (*spec.layers, self._shared.layer)
        disk = self._shared.pool.folder(spec.id)
        # crun refuses a host that has both versions, and makes a folder for the box on the host's own tmpfs below the
        # mount of v2 where that is merely unmounted.
        second = self._shared.layout.second
        return [
            *([steps.Cover(str(second))] if second is not None else []),
            *self._shared.pool.steps(spec.id, spec.limits.disk, spec.origin),
            *plan.root_plan(
                self._shared.places.stage,
                layers,
                disk,
                owner=owner,
                files=None if spec.origin is not None else files,
                binds={config.GUEST_TARGET: self._shared.guest},
                stores=STORES if spec.nested else (),
                lent=spec.lent,
            ),
        ]

    def resources(self, spec: BoxSpec) -> Mapping[str, Any]:
        """The limits of its control group, as OCI has them."""
        layout = self._shared.layout
        return config.resources_of(spec.limits, swap_limit=layout.swap_limit, socket_limit=layout.version == 1)

    async def _request_launch(self, box: str, **fields: object) -> wire.Message:
        """Ask for a launch and stay until it has ended, even when cancelled: `remove` must not race with it."""
        limit = self._shared.settings.launch_limit_s
        asked = asyncio.ensure_future(self._launcher.request("launch", limit + ABORT_LIMIT_S, box=box, **fields))
        try:
            done, _ = await asyncio.wait({asked}, timeout=limit)
            if not done:
                self._launcher.tell("abort", box=box)
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            self._launcher.tell("abort", box=box)
            await asyncio.wait({asked}, timeout=ABORT_LIMIT_S)
            raise
        except TimeoutError as error:
            message = f"cannot create box {box}: the OCI runtime did not end within {limit:.0f} s"
            raise HostUnfit(message, remedy="look at the load of the host") from error

    def abort(self, box_id: str) -> None:
        """End the launch of a box, if one is in progress; `make` then raises."""
        self._launcher.tell("abort", box=box_id)


def _write_first(folder: Path, spec: BoxSpec, slot: int) -> None:
    """The record, before anything else of the box: whatever fails from here on can be found and removed."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError as error:
        raise exists(spec.id) from error
    try:
        record.write(folder, record.Record.of(spec, slot))
    except OSError as error:
        shutil.rmtree(folder)
        raise refused(f"create box {spec.id}", error.errno or 0, str(error)) from error
