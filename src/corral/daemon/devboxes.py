"""Devboxes: what can be done with them, and the controller that brings the machine to what was asked."""

from __future__ import annotations

from dataclasses import dataclass

from corral.daemon.base import Base
from corral.daemon.machine import Machine
from corral.daemon.storage import Storage
from corral.devboxes import deadlines, service
from corral.devboxes.controller import Controller
from corral.devboxes.followers import Followers
from corral.devboxes.lifecycle import Lifecycle, Rules
from corral.devboxes.pulse import Pace
from corral.devboxes.vitals import Vitals
from corral.images.blueprints.service import BlueprintRules
from corral.images.snapshots import SnapshotRules
from corral.images.sources import Sources


@dataclass(frozen=True, slots=True)
class DevboxParts:
    """`followers` are to be resumed, then `controller` and `sessions` to be run."""

    followers: Followers
    controller: Controller
    sessions: service.Sessions
    devboxes: service.Devboxes
    executions: service.Executions
    files: service.Files
    ports: service.Ports
    tunnels: service.PtyTunnels
    tails: service.LogTails
    snapshot_rules: SnapshotRules


def make(base: Base, machine: Machine, storage: Storage) -> DevboxParts:
    """Devboxes on this machine."""
    settings, clock, ids, store, feed = base.settings, base.clock, base.ids, base.store, base.feed
    runtime, vitals = machine.runtime, Vitals(clock)
    followers = Followers(store, runtime, vitals, clock=clock, ids=ids, output_limit=settings.output_limit)
    executions = service.Executions(store, runtime, followers, vitals, clock)
    calls = service.FileCalls(store, clock)
    rules = SnapshotRules(machine.images, clock=clock, ids=ids, remote=settings.objects is not None)
    return DevboxParts(
        followers=followers,
        controller=_controller(base, machine, storage, followers, vitals),
        sessions=service.Sessions(runtime, executions, followers, vitals, clock=clock, idle_s=settings.session_idle_s),
        devboxes=service.Devboxes(
            store,
            feed,
            runtime,
            executions,
            vitals,
            rules,
            BlueprintRules(),
            storage.objects,
            clock=clock,
            ids=ids,
        ),
        executions=executions,
        files=service.Files(store, runtime, vitals, calls),
        ports=service.Ports(store, runtime, vitals),
        tunnels=service.PtyTunnels(clock, ids, domain=settings.tunnel_domain),
        tails=service.LogTails(store, feed, runtime, executions, followers, calls, clock=clock),
        snapshot_rules=rules,
    )


def _controller(base: Base, machine: Machine, storage: Storage, followers: Followers, vitals: Vitals) -> Controller:
    settings, clock, store, runtime = base.settings, base.clock, base.store, machine.runtime
    sources = Sources(store, machine.images)
    rules = Rules(
        limits=deadlines.Limits(settings.provisioning_limit_s, settings.initializing_limit_s),
        starts_at_once=settings.starts_at_once,
        stops_at_once=settings.stops_at_once,
        booted_at_ms=clock.booted_at_ms(),
    )
    lifecycle = Lifecycle(
        store, runtime, sources, followers, vitals, objects=storage.objects, clock=clock, rules=rules
    )
    return Controller(
        store,
        base.feed,
        runtime,
        lifecycle,
        vitals,
        clock=clock,
        resync_s=settings.resync_s,
        alerts_s=settings.alerts_s,
        keep_output_s=settings.keep_output_s,
        pace=Pace(settings.ping_s, settings.guest_limit_s),
    )
