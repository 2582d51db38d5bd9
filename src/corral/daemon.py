"""The composition root: builds every part of a server, starts them in order, and stops them in the reverse order.

Owns the process: signals, the lock on the data folder, the exit code. Must not hold a rule of any part.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
import resource
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import sqlalchemy as sa
import uvloop

import corral
from corral.api import app, serve
from corral.api.gate import Gate
from corral.core import errors, events, log
from corral.core.clock import SystemClock
from corral.core.ids import Ids
from corral.core.settings import RuntimeName, Settings, Switch
from corral.core.store import engine, migrate
from corral.core.store.lock import FolderLock
from corral.core.store.store import Store
from corral.core.tasks import TaskOwner
from corral.devboxes import deadlines, service
from corral.devboxes.controller import Controller
from corral.devboxes.followers import Followers
from corral.devboxes.lifecycle import Lifecycle, Rules
from corral.devboxes.pulse import Pace
from corral.devboxes.ssh import identity as ssh_identity
from corral.devboxes.ssh.keys import Entrance
from corral.devboxes.ssh.listener import SshListener
from corral.devboxes.vitals import Vitals
from corral.identity.service import Identity
from corral.images import service as images
from corral.images.blueprints.bases import BlueprintBases
from corral.images.blueprints.contexts import ObjectContexts
from corral.images.blueprints.controller import BlueprintController
from corral.images.blueprints.service import BlueprintRules, Blueprints
from corral.images.builds.controller import BuildController
from corral.images.builds.disks import Disks
from corral.images.builds.furnish import Furnisher, StoredContexts
from corral.images.builds.harvest import Harvester
from corral.images.builds.library import Library
from corral.images.builds.service import Builds
from corral.images.builds.workshop import Terms, Workshop
from corral.images.layers import LayerShelf
from corral.images.remote import RemoteCopies
from corral.images.remote_controller import RemoteController, Retention
from corral.images.remote_store import RemoteStore
from corral.images.snapshots import SnapshotController, SnapshotRules, Snapshots, Sources
from corral.images.sweeper import LayerSweeper
from corral.runtime.contract import MIB, BoxGone, HostUnfit, Layer, Limits, Runtime
from corral.runtime.fake import FakeHost, FakeRuntime
from corral.runtime.oci.driver import OciRuntime
from corral.runtime.oci.settings import OciSettings
from corral.runtime.rootfs import pool
from corral.storage import service as storage
from corral.storage.controller import ObjectController
from corral.storage.service import Objects

#: With less room than this on the data folder's disk no new box is promised.
LEAST_FREE: Final = 256 * MIB

#: Seconds that one question of the health check may take.
_PROBE_LIMIT_S: Final = 5.0

_ARCHITECTURES: Final = {"aarch64": "arm64", "arm64": "arm64"}


def main(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. Standard error tells what the host lacks."""
    log.configure(format=settings.log_format, level=settings.log_level)
    try:
        return uvloop.run(Daemon(settings).run())
    except (errors.CorralError, HostUnfit) as problem:
        sys.stderr.write(f"corral: {problem.message}{_remedy(problem)}\n")
        return 1


def _remedy(problem: errors.CorralError | HostUnfit) -> str:
    return f"; {problem.remedy}" if isinstance(problem, HostUnfit) else ""


def oci_settings(settings: Settings) -> OciSettings:
    """What the OCI driver is told; `corral doctor` looks at the host by the same."""
    return OciSettings(
        data=settings.data,
        guest=settings.guest or _built_guest(),
        oci_runtime=settings.oci_runtime,
        host_services=settings.host_services,
        warm=settings.warm_boxes,
        nested=settings.nested is Switch.ON,
        layer_roots=(settings.images,),
        criu=settings.criu,
    )


def _built_guest() -> Path:
    """Where `make` of a source tree puts the guest."""
    return Path(corral.__file__).resolve().parents[2] / "guest" / "dist" / "corral-guest"


@dataclass(frozen=True, slots=True)
class _NoLayers:
    name: str = ""
    digest: str = ""
    layers: tuple[Layer, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


class Daemon:
    """One server. `make_…` are separate so that tests can put their own part in the place of one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = SystemClock()
        self._log = log.get("daemon")
        self._stop = asyncio.Event()
        self._sweeper: LayerSweeper | None = None

    # -- parts

    def make_store(self, database: sa.Engine, feed: events.Feed) -> Store:
        """The store on a migrated database."""
        return Store(database, feed, readers=self.settings.store_readers)

    def make_runtime(self, undo: contextlib.AsyncExitStack) -> tuple[Runtime, Library]:
        """The runtime, not started, and the images that its boxes are made of."""
        if self.settings.runtime is RuntimeName.FAKE:
            host = undo.enter_context(FakeHost(self.settings.data / "fake"))
            return FakeRuntime(host, clock=self.clock), NoImages()
        return OciRuntime(oci_settings(self.settings), clock=self.clock), images.Images(
            self.settings.images,
            self.settings.data,
            registries=images.Registries(self.settings.registries, self.settings.registry_auth),
            clock=self.clock,
        )

    def make_builds(
        self,
        store: Store,
        feed: events.Feed,
        library: Library,
        workshop: Workshop,
        devboxes: service.Devboxes,
        snapshots: Snapshots,
        files: service.Files,
        objects: Objects,
        ids: Ids,
    ) -> tuple[Builds, BuildController]:
        """Builds, and what carries them out, not running."""
        settings, clock = self.settings, self.clock
        scratch = settings.data / "builds"
        controller = BuildController(
            store,
            feed,
            workshop,
            Furnisher(workshop, files, library, StoredContexts(objects), scratch / "in"),
            Harvester(files, library, scratch / "out"),
            Disks(store, devboxes, snapshots, workshop, clock=clock, most=settings.build_cache_limit),
            clock=clock,
            at_once=settings.builds_at_once,
            scratch=scratch,
        )
        most = settings.build_context_limit
        bases = BlueprintBases(library)
        builds = Builds(store, feed, library, bases, workshop, clock=clock, ids=ids, most_context=most)
        return builds, controller

    # -- life

    async def run(self) -> int:
        """Start, serve until told to stop, stop. Raises what prevents the start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with contextlib.AsyncExitStack() as undo:
            ends = await self._start(undo)
            stop = asyncio.ensure_future(self._stop.wait())
            undo.callback(stop.cancel)
            await asyncio.wait([stop, *ends], return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                if end.done():
                    self._log.error("part ended by itself", part=end.get_name(), exc_info=end.exception())
                    return 1
            self._log.info("stopping")
        return 0

    async def _start(self, undo: contextlib.AsyncExitStack) -> Sequence[asyncio.Task[None]]:
        """Start every part, each with its undo; return the tasks that must not end before the server does."""
        settings, clock = self.settings, self.clock
        self._claim(undo)
        feed = events.Feed()
        store = await self._open_store(undo, feed)
        runtime, available = await self._start_runtime(undo)
        ids, vitals = Ids(clock), Vitals(clock)
        identity = Identity(store, clock, ids)
        key = await identity.ensure_first_key(settings.data / "api-key", settings.api_key)
        followers = Followers(store, runtime, vitals, clock=clock, ids=ids, output_limit=settings.output_limit)
        undo.push_async_callback(followers.close)
        await followers.resume()
        sources = Sources(store, available)
        objects, contents, keeper = await self._open_objects(store, feed, ids)
        lifecycle = Lifecycle(
            store, runtime, sources, followers, vitals, objects=objects, clock=clock, rules=self._rules()
        )
        controller = self._make_controller(store, feed, runtime, lifecycle, vitals)
        undo.push_async_callback(self._leave_images)  # after all that makes boxes has ended
        owner = self._owner(undo)
        controlling = owner.spawn(controller.run(), name="controller")
        undo.push_async_callback(controller.finish, settings.shutdown_grace_s)
        executions = service.Executions(store, runtime, followers, vitals, clock)
        calls = service.FileCalls(store, clock)
        sessions = self._start_sessions(owner, runtime, executions, followers, vitals)
        rules = SnapshotRules(available, clock=clock, ids=ids, remote=settings.objects is not None)
        devboxes = service.Devboxes(
            store, feed, runtime, executions, vitals, rules, BlueprintRules(), objects, clock=clock, ids=ids
        )
        remote, copying = self._start_copies(owner, store, feed, runtime, available, contents, devboxes, rules, ids)
        keeping = owner.spawn(keeper.run(), name="objects")
        snapshots = Snapshots(store, feed, devboxes, rules, clock=clock)
        files = service.Files(store, runtime, vitals, calls)
        workshop = Workshop(runtime, devboxes, executions, clock=clock, terms=self._terms())
        builds, builder = self.make_builds(store, feed, available, workshop, devboxes, snapshots, files, objects, ids)
        building = owner.spawn(builder.run(), name="builds")
        blueprints, following = self._start_blueprints(owner, store, feed, builds, objects, devboxes, ids)
        ssh_keys = await self._start_ssh(undo, store, feed, executions, service.Ports(store, runtime, vitals), ids)
        gate = app.build(
            store=store,
            clock=clock,
            identity=identity,
            devboxes=devboxes,
            snapshots=snapshots,
            blueprints=blueprints,
            tails=service.LogTails(store, feed, runtime, executions, followers, calls, clock=clock),
            executions=executions,
            objects=objects,
            remote=remote,
            files=files,
            sessions=sessions,
            tunnels=service.PtyTunnels(clock, ids, domain=settings.tunnel_domain),
            ssh_keys=ssh_keys,
            health=Health(settings.data, store, runtime, available).reasons,
            url=settings.public_url,
            architecture=_architecture(),
        )
        listener = await self._listen(undo, gate)
        self._greet(key)
        return [controlling, *copying, keeping, building, following, owner.spawn(listener.wait(), name="listener")]

    def _owner(self, undo: contextlib.AsyncExitStack) -> TaskOwner:
        owner = TaskOwner("daemon")
        undo.push_async_callback(owner.close)
        return owner

    async def _listen(self, undo: contextlib.AsyncExitStack, gate: Gate) -> serve.Listener:
        settings = self.settings
        listener = serve.Listener(gate, settings.host, settings.port)
        undo.push_async_callback(listener.stop, settings.shutdown_grace_s)
        await listener.start()
        return listener

    async def _open_store(self, undo: contextlib.AsyncExitStack, feed: events.Feed) -> Store:
        database = engine.open_sqlite(self.settings.data / "corral.db", self.settings.durability)
        await asyncio.to_thread(migrate.upgrade, database)
        store = self.make_store(database, feed)
        undo.push_async_callback(store.close)
        return store

    async def _open_objects(
        self, store: Store, feed: events.Feed, ids: Ids
    ) -> tuple[Objects, storage.ObjectStore, ObjectController]:
        """Stored objects, and what keeps their contents in order, not running."""
        settings, clock = self.settings, self.clock
        where = settings.objects or str(settings.data / "objects")
        contents = storage.open_store(where, endpoint=settings.objects_endpoint, region=settings.objects_region)
        places = storage.Places(storage.load_node(settings.data, ids))
        tokens = storage.Tokens(storage.load_key(settings.data, ids), clock)
        objects = Objects(store, contents, places, tokens, clock=clock, ids=ids, limit=settings.object_limit)
        keeper = ObjectController(store, feed, contents, places, clock=clock)
        await keeper.open()
        return objects, contents, keeper

    def _start_sessions(
        self,
        owner: TaskOwner,
        runtime: Runtime,
        executions: service.Executions,
        followers: Followers,
        vitals: Vitals,
    ) -> service.Sessions:
        """Sessions, and what ends those that nobody uses."""
        idle_s = self.settings.session_idle_s
        sessions = service.Sessions(runtime, executions, followers, vitals, clock=self.clock, idle_s=idle_s)
        owner.spawn(sessions.run(), name="sessions")
        return sessions

    def _start_blueprints(
        self,
        owner: TaskOwner,
        store: Store,
        feed: events.Feed,
        builds: Builds,
        objects: Objects,
        devboxes: service.Devboxes,
        ids: Ids,
    ) -> tuple[Blueprints, asyncio.Task[None]]:
        """Blueprints, and what makes them follow their builds."""
        clock, contexts, resync_s = self.clock, ObjectContexts(objects), self.settings.resync_s
        follower = BlueprintController(store, feed, builds, contexts, devboxes, clock=clock, resync_s=resync_s)
        blueprints = Blueprints(store, feed, builds, contexts, clock=clock, ids=ids, architecture=_architecture())
        return blueprints, owner.spawn(follower.run(), name="blueprints")

    def _start_copies(
        self,
        owner: TaskOwner,
        store: Store,
        feed: events.Feed,
        runtime: Runtime,
        available: Library,
        contents: storage.ObjectStore,
        devboxes: service.Devboxes,
        rules: SnapshotRules,
        ids: Ids,
    ) -> tuple[RemoteCopies, list[asyncio.Task[None]]]:
        """What makes snapshots, and, if the settings say where, remote copies of them; both run."""
        settings, clock = self.settings, self.clock
        remote, sending, receive = None, [], None
        if settings.objects is not None:
            remote = RemoteStore(contents, storage.load_remote_key(settings.data, settings.remote_key, ids))
            shelf = LayerShelf(settings.data / "layers", remote, lambda: _layers(available))
            shelf.open()
            retention = Retention(settings.remote_newest, settings.remote_keep_s)
            sender = RemoteController(
                store, feed, runtime, remote, shelf, devboxes, rules, retention=retention, clock=clock, ids=ids
            )
            sending, receive = [owner.spawn(sender.run(), name="remote copies")], sender.receive
        at_once = settings.starts_at_once
        copies = SnapshotController(store, feed, runtime, devboxes, clock=clock, at_once=at_once, receive=receive)
        recovers = [one.strip() for one in settings.remote_recovers.split(",") if one.strip()]
        self._start_sweeper(owner, runtime, available, copies)
        wishes = RemoteCopies(store, remote, devboxes, recovers=recovers, clock=clock, ids=ids)
        return wishes, [owner.spawn(copies.run(), name="snapshots"), *sending]

    async def _start_runtime(self, undo: contextlib.AsyncExitStack) -> tuple[Runtime, Library]:
        runtime, available = self.make_runtime(undo)
        await runtime.start()
        undo.push_async_callback(runtime.close)
        with contextlib.suppress(errors.CorralError):  # no default image yet: `health` says so
            runtime.expect(available.resolve(None).layers)
        return runtime, available

    def _claim(self, undo: contextlib.AsyncExitStack) -> None:
        """The data folder is this server's alone, and it has the descriptors that the host gives."""
        _raise_limits()
        lock = FolderLock(self.settings.data)
        lock.acquire()
        undo.callback(lock.release)

    async def _start_ssh(
        self,
        undo: contextlib.AsyncExitStack,
        store: Store,
        feed: events.Feed,
        executions: service.Executions,
        ports: service.Ports,
        ids: Ids,
    ) -> service.SshKeys:
        """Listen for SSH if the settings say where; the keys that open devboxes, which are none if they do not."""
        settings, clock = self.settings, self.clock
        if settings.ssh_address is None:
            return service.SshKeys(store, clock, ids, None)
        domain = settings.tunnel_domain
        shown = ssh_identity.load(settings.data, clock, domain=domain, certificate=settings.ssh_certificate)
        keys = service.SshKeys(store, clock, ids, Entrance(domain, settings.ssh_address[1], shown.public_line))
        listener = SshListener(
            settings.ssh_address,
            shown,
            keys,
            executions,
            ports,
            feed,
            clock=clock,
            ids=ids,
            idle_s=settings.ssh_idle_s,
            login_s=settings.ssh_login_s,
        )
        undo.push_async_callback(listener.stop)
        await listener.start()
        return keys

    def _start_sweeper(
        self, owner: TaskOwner, runtime: Runtime, available: Library, copies: SnapshotController
    ) -> None:
        """Have layers removed that nobody needs; images that need none have none."""
        if isinstance(available, images.Images):
            self._sweeper = LayerSweeper(available, runtime.layers, (copies.layers,), clock=self.clock)
            owner.spawn(self._sweeper.run(), name="sweeper")

    async def _leave_images(self) -> None:
        if self._sweeper is not None:
            await self._sweeper.leave()

    def _make_controller(
        self, store: Store, feed: events.Feed, runtime: Runtime, lifecycle: Lifecycle, vitals: Vitals
    ) -> Controller:
        settings = self.settings
        return Controller(
            store,
            feed,
            runtime,
            lifecycle,
            vitals,
            clock=self.clock,
            resync_s=settings.resync_s,
            alerts_s=settings.alerts_s,
            keep_output_s=settings.keep_output_s,
            pace=Pace(settings.ping_s, settings.guest_limit_s),
        )

    def _rules(self) -> Rules:
        settings = self.settings
        return Rules(
            limits=deadlines.Limits(settings.provisioning_limit_s, settings.initializing_limit_s),
            starts_at_once=settings.starts_at_once,
            stops_at_once=settings.stops_at_once,
            booted_at_ms=self.clock.booted_at_ms(),
        )

    def _terms(self) -> Terms:
        settings = self.settings
        limits = Limits(cpu=settings.build_cpu, memory=settings.build_memory, disk=settings.build_disk)
        return Terms(limits, settings.build_limit_s, settings.build_log_limit, settings.builder)

    def _greet(self, key: str | None) -> None:
        listens = {"listen": self.settings.listen, "ssh": self.settings.ssh_listen or "off"}
        self._log.info("serving", **listens, data=str(self.settings.data))
        if key is not None:
            sys.stdout.write(f"first API key, shown once and kept in {self.settings.data}/api-key: {key}\n")
            sys.stdout.flush()


def _layers(available: Library) -> list[Layer]:
    """The layers of all images that are on this host."""
    return [layer for name in available.names() for layer in available.resolve(name).layers]


class NoImages:
    """For the runtime that needs none: every name is an image without layers."""

    def resolve(self, name: str | None = None) -> _NoLayers:
        """Whatever it is called."""
        return _NoLayers(name or "")

    async def export_layout(self, name: str, _folder: Path) -> None:
        """There is nothing to give."""
        raise errors.NotOffered(f"cannot export image {name}: the fake runtime has none")

    async def import_layout(self, _folder: Path, reference: str) -> _NoLayers:
        """There is nowhere to put it."""
        raise errors.NotOffered(f"cannot import image {reference}: the fake runtime has none")

    def forget(self, name: str) -> None:
        """There is nothing to forget."""

    def names(self) -> list[str]:
        return []


@dataclass(frozen=True, slots=True)
class Health:
    """Whether boxes can be created."""

    data: Path
    store: Store
    runtime: Runtime
    images: Library

    async def reasons(self) -> Sequence[str]:
        """Why not, each with its remedy; nothing when they can."""
        found: list[str] = []
        room = {self.data: shutil.disk_usage(self.data).free}
        if (home := self.data / "pool").exists():
            room[home] = pool.left(home)
        for folder, free in room.items():
            if free < LEAST_FREE:
                found.append(f"cannot create boxes: only {free // MIB} MiB are free in {folder}; free some there")
        for ask in (self._store_writes, self._runtime_answers, self._image_is_there):
            try:
                async with asyncio.timeout(_PROBE_LIMIT_S):
                    await ask()
            except TimeoutError:
                found.append(f"cannot create boxes: {ask.__name__.strip('_').replace('_', ' ')}: no answer in time")
            except (errors.CorralError, HostUnfit) as problem:
                found.append(problem.message + _remedy(problem))
        return found

    async def _store_writes(self) -> None:
        await self.store.write(lambda _connection: None)

    async def _runtime_answers(self) -> None:
        with contextlib.suppress(BoxGone):  # which is an answer; a list would cost by the number of boxes
            await self.runtime.inspect("dbx_health")

    async def _image_is_there(self) -> None:
        self.images.resolve(None)


def _architecture() -> str:
    """The host's, in the dialect's words."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _raise_limits() -> None:
    """Every box costs the server a descriptor, every connection one, and a box has no more processes than the server
    may have: take what the host allows.
    """
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (hard, hard))
