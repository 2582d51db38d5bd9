"""The whole server in this process: real store, real services, real listener; boxes of the fake runtime.

Owns the wiring for tests that look into the server while they talk to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from corral.api import app, serve
from corral.api.gate import Gate
from corral.core import events
from corral.core.clock import SystemClock
from corral.core.ids import Ids
from corral.core.settings import Durability
from corral.core.store import engine as engines
from corral.core.store import migrate
from corral.core.store.store import Store
from corral.daemon.machine import NoImages
from corral.devboxes.controller import Controller
from corral.devboxes.deadlines import Limits
from corral.devboxes.followers import Followers
from corral.devboxes.lifecycle import Lifecycle, Rules
from corral.devboxes.pulse import Pace
from corral.devboxes.service import (
    Devboxes,
    Executions,
    FileCalls,
    Files,
    LogTails,
    PtyTunnels,
    Sessions,
    SshKeys,
)
from corral.devboxes.ssh.keys import Entrance
from corral.devboxes.vitals import Vitals
from corral.identity.service import Identity
from corral.identity.tables import ACCOUNTS, API_KEYS
from corral.images.blueprints.contexts import ObjectContexts
from corral.images.blueprints.controller import BlueprintController
from corral.images.blueprints.service import BlueprintRules, Blueprints
from corral.images.layers import LayerShelf
from corral.images.remote import RemoteCopies
from corral.images.remote_controller import RemoteController, Retention
from corral.images.remote_store import RemoteStore
from corral.images.snapshot_controller import SnapshotController
from corral.images.snapshots import SnapshotRules, Snapshots
from corral.images.sources import Sources
from corral.runtime.contract import MIB, Layer
from corral.runtime.fake import FakeHost, FakeRuntime
from corral.storage.controller import ObjectController
from corral.storage.service import Objects, Places, Tokens, load_key, load_node, open_store
from tests.harness.building import MemoryBuilds
from tests.harness.server import free_port

#: Bytes of one object.
OBJECT_LIMIT = 8 * MIB


@dataclass(frozen=True)
class NoImage:
    """An image of no layers: fake boxes have none."""

    layers: tuple[Layer, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, name: str | None = None) -> NoImage:
        return self

    def names(self) -> list[str]:
        return []


@dataclass
class Stand:
    """A server that listens on `url`. `client` sends the first key with every request."""

    url: str
    key: str
    client: httpx.AsyncClient
    gate: Gate
    listener: serve.Listener
    identity: Identity
    store: Store
    sessions: Sessions
    host: FakeHost
    reasons: list[str]
    builds: MemoryBuilds
    folder: Path

    async def devbox(self, **body: Any) -> str:
        """The id of a new devbox that runs."""
        answer = await self.client.post("/v1/devboxes/create_and_await_running", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "running", answer.text
        return str(answer.json()["id"])

    async def run(self, devbox_id: str, command: str, **query: Any) -> dict[str, Any]:
        """The view of a command that has ended."""
        answer = await self.client.post(f"/v1/devboxes/{devbox_id}/execute", json={"command": command}, params=query)
        assert answer.status_code == 200, answer.text
        view: dict[str, Any] = answer.json()
        assert view["status"] == "completed"
        return view

    async def second_account(self) -> str:
        """A key of an account that has nothing."""
        account = {"id": "acc_second", "name": "second", "created_at_ms": 1}
        await self.store.write(lambda one: one.execute(ACCOUNTS.insert(), account))
        return await self._add_key("ak_" + "s" * 40, "acc_second", None)

    async def restricted(self, scopes: dict[str, str]) -> str:
        """A key of the first account that may do only this."""
        account_id = (await self.client.get("/v1/accounts/me")).json()["id"]
        return await self._add_key("rk_" + "s" * 40, account_id, scopes)

    async def _add_key(self, key: str, account_id: str, scopes: dict[str, str] | None) -> str:
        row = {"id": f"key_{key[:2]}", "account_id": account_id, "name": "", "created_at_ms": 1, "scopes": scopes}
        row["digest"] = hashlib.sha256(key.encode()).digest()
        await self.store.write(lambda one: one.execute(API_KEYS.insert(), row))
        return key

    def waits(self) -> int:
        """Requests that the server is at work on."""
        return len(self.gate.tasks)


@contextlib.asynccontextmanager
async def standing(folder: Path, host: FakeHost) -> AsyncIterator[Stand]:
    """Start a server on `folder` and `host`; stop it at the end, as SIGTERM would."""
    clock = SystemClock()
    ids = Ids(clock)
    engine = engines.open_sqlite(folder / "corral.db", Durability.CRASH)
    await asyncio.to_thread(migrate.upgrade, engine)
    feed = events.Feed()
    store = Store(engine, feed)
    runtime = FakeRuntime(host)
    await runtime.start()
    vitals = Vitals(clock)
    followers = Followers(store, runtime, vitals, clock=clock, ids=ids, output_limit=64 * MIB)
    await followers.resume()
    executions = Executions(store, runtime, followers, vitals, clock)
    calls = FileCalls(store, clock)
    sessions = Sessions(runtime, executions, followers, vitals, clock=clock, idle_s=3600)
    rules = Rules(limits=Limits(provisioning_s=30, initializing_s=30), starts_at_once=8, stops_at_once=8)
    sources = Sources(store, NoImage())
    contents, places = open_store(str(folder / "objects")), Places(load_node(folder, ids))
    tokens = Tokens(load_key(folder, ids), clock)
    objects = Objects(store, contents, places, tokens, clock=clock, ids=ids, limit=OBJECT_LIMIT)
    keeper = ObjectController(store, feed, contents, places, clock=clock)
    await keeper.open()
    lifecycle = Lifecycle(store, runtime, sources, followers, vitals, objects=objects, clock=clock, rules=rules)
    controller = Controller(
        store,
        feed,
        runtime,
        lifecycle,
        vitals,
        clock=clock,
        resync_s=5,
        keep_output_s=3600,
        alerts_s=5,
        pace=Pace(),
    )
    identity = Identity(store, clock, ids)
    key = await identity.ensure_first_key(folder / "api-key") or (folder / "api-key").read_text().strip()
    reasons: list[str] = []

    async def health() -> list[str]:
        return reasons

    snapshot_rules = SnapshotRules(NoImage(), clock=clock, ids=ids, remote=True)
    devboxes = Devboxes(
        store, feed, runtime, executions, vitals, snapshot_rules, BlueprintRules(), objects, clock=clock, ids=ids
    )
    builds, contexts = MemoryBuilds(at_once=True), ObjectContexts(objects)
    follower = BlueprintController(store, feed, builds, contexts, devboxes, clock=clock, resync_s=0.2)
    remote = RemoteStore(contents, "k" * 43)
    shelf = LayerShelf(remote, NoImages())
    sender = RemoteController(
        store, feed, runtime, remote, shelf, devboxes, snapshot_rules,
        retention=Retention(3, 3600), clock=clock, ids=ids,
    )  # fmt: skip
    copies = SnapshotController(store, feed, runtime, devboxes, clock=clock, at_once=4, receive=sender.receive)
    gate = app.build(
        store=store,
        clock=clock,
        identity=identity,
        devboxes=devboxes,
        snapshots=Snapshots(store, feed, devboxes, snapshot_rules, clock=clock),
        blueprints=Blueprints(store, feed, builds, contexts, clock=clock, ids=ids, architecture="x86_64"),
        tails=LogTails(store, feed, runtime, executions, followers, calls, clock=clock),
        executions=executions,
        objects=objects,
        remote=RemoteCopies(store, remote, devboxes, recovers=(), clock=clock, ids=ids),
        files=Files(store, runtime, vitals, calls),
        sessions=sessions,
        tunnels=PtyTunnels(clock, ids, domain="localhost"),
        ssh_keys=SshKeys(store, clock, ids, Entrance("localhost", 2222, "ssh-ed25519 AAAA")),
        health=health,
        architecture="x86_64",
    )
    port = free_port()
    listener = serve.Listener(gate, "127.0.0.1", port)
    url = f"http://127.0.0.1:{port}"
    working = asyncio.gather(controller.run(), copies.run(), keeper.run(), sender.run(), follower.run())
    await listener.start()
    try:
        async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30) as client:
            yield Stand(url, key, client, gate, listener, identity, store, sessions, host, reasons, builds, folder)
    finally:
        await listener.stop(grace_s=2)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await followers.close()
        await runtime.close()
        await store.close()
