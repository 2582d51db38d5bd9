"""What the server listens with: HTTP, and SSH where the settings say so."""

from __future__ import annotations

import contextlib

from corral.api import serve
from corral.api.gate import Gate
from corral.core.settings import Settings
from corral.daemon.base import Base
from corral.daemon.devboxes import DevboxParts
from corral.devboxes import service
from corral.devboxes.ssh import identity
from corral.devboxes.ssh.keys import Entrance
from corral.devboxes.ssh.listener import SshListener


async def start_ssh(base: Base, boxes: DevboxParts, undo: contextlib.AsyncExitStack) -> service.SshKeys:
    """Listen for SSH if the settings say where; the keys that open devboxes, which are none if they do not."""
    settings, store, clock, ids = base.settings, base.store, base.clock, base.ids
    if settings.ssh_address is None:
        return service.SshKeys(store, clock, ids, None)
    domain = settings.tunnel_domain
    shown = identity.load(settings.data, clock, domain=domain, certificate=settings.ssh_certificate)
    keys = service.SshKeys(store, clock, ids, Entrance(domain, settings.ssh_address[1], shown.public_line))
    listener = SshListener(
        settings.ssh_address,
        shown,
        keys,
        boxes.executions,
        boxes.ports,
        base.feed,
        clock=clock,
        ids=ids,
        idle_s=settings.ssh_idle_s,
        login_s=settings.ssh_login_s,
    )
    undo.push_async_callback(listener.stop)
    await listener.start()
    return keys


async def start_http(settings: Settings, gate: Gate, undo: contextlib.AsyncExitStack) -> serve.Listener:
    """Listen for HTTP, with `gate` behind it."""
    listener = serve.Listener(gate, settings.host, settings.port)
    undo.push_async_callback(listener.stop, settings.shutdown_grace_s)
    await listener.start()
    return listener
