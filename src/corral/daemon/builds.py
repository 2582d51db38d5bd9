"""Builds of images in devboxes, and the blueprints that ask for them."""

from __future__ import annotations

from corral.daemon.base import Base
from corral.daemon.copies import Copies
from corral.daemon.devboxes import DevboxParts
from corral.daemon.machine import Machine, architecture
from corral.daemon.storage import Storage
from corral.images.blueprints.bases import BlueprintBases
from corral.images.blueprints.contexts import ObjectContexts
from corral.images.blueprints.controller import BlueprintController
from corral.images.blueprints.service import Blueprints
from corral.images.builds.controller import BuildController
from corral.images.builds.disks import Disks
from corral.images.builds.furnish import Contexts, Furnisher
from corral.images.builds.harvest import Harvester
from corral.images.builds.service import Builds
from corral.images.builds.workshop import Terms, Workshop
from corral.runtime.contract import Limits


def make(
    base: Base, machine: Machine, boxes: DevboxParts, copies: Copies, contexts: Contexts
) -> tuple[Builds, BuildController]:
    """Builds, and what carries them out. `contexts` is where their files come from."""
    settings, clock, images = base.settings, base.clock, machine.images
    workshop = Workshop(machine.runtime, boxes.devboxes, boxes.executions, clock=clock, terms=_terms(base))
    scratch = settings.data / "builds"
    builds = Builds(
        base.store,
        base.feed,
        images,
        BlueprintBases(images),
        workshop,
        clock=clock,
        ids=base.ids,
        most_context=settings.build_context_limit,
    )
    controller = BuildController(
        base.store,
        base.feed,
        workshop,
        Furnisher(workshop, boxes.files, images, contexts, scratch / "in"),
        Harvester(boxes.files, images, scratch / "out"),
        Disks(base.store, boxes.devboxes, copies.snapshots, workshop, clock=clock, most=settings.build_cache_limit),
        builds.look_again,
        clock=clock,
        at_once=settings.builds_at_once,
        scratch=scratch,
    )
    return builds, controller


def make_blueprints(
    base: Base, storage: Storage, boxes: DevboxParts, builds: Builds
) -> tuple[Blueprints, BlueprintController]:
    """Blueprints, and what makes them follow their builds."""
    store, feed, clock, contexts = base.store, base.feed, base.clock, ObjectContexts(storage.objects)
    follower = BlueprintController(
        store, feed, builds, contexts, boxes.devboxes, clock=clock, resync_s=base.settings.resync_s
    )
    blueprints = Blueprints(store, feed, builds, contexts, clock=clock, ids=base.ids, architecture=architecture())
    return blueprints, follower


def _terms(base: Base) -> Terms:
    settings = base.settings
    limits = Limits(cpu=settings.build_cpu, memory=settings.build_memory, disk=settings.build_disk)
    return Terms(limits, settings.build_limit_s, settings.build_log_limit, settings.builder)
