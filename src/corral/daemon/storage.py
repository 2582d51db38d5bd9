"""Stored objects, and what keeps their contents in order."""

from __future__ import annotations

from dataclasses import dataclass

from corral.daemon.base import Base
from corral.storage import service
from corral.storage.controller import ObjectController
from corral.storage.service import Objects, ObjectStore, Places, Tokens


@dataclass(frozen=True, slots=True)
class Storage:
    """`controller` is to be opened, then run."""

    objects: Objects
    contents: ObjectStore
    controller: ObjectController


def make(base: Base) -> Storage:
    """Objects in the bucket that the settings name, else in the data folder."""
    settings, clock, ids = base.settings, base.clock, base.ids
    where = settings.objects or str(settings.data / "objects")
    contents = service.open_store(where, endpoint=settings.objects_endpoint, region=settings.objects_region)
    places = Places(service.load_node(settings.data, ids))
    tokens = Tokens(service.load_key(settings.data, ids), clock)
    objects = Objects(base.store, contents, places, tokens, clock=clock, ids=ids, limit=settings.object_limit)
    return Storage(objects, contents, ObjectController(base.store, base.feed, contents, places, clock=clock))
