"""The machine under the devboxes: the runtime, and the images that its boxes are made of."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import corral
from corral.core import errors
from corral.core.clock import SystemClock
from corral.core.settings import RuntimeName, Settings, Switch
from corral.images.builds.library import Library
from corral.images.layers import Layers
from corral.images.service import Images, Registries
from corral.runtime.contract import Layer, Runtime
from corral.runtime.fake import FakeHost, FakeRuntime
from corral.runtime.oci.driver import OciRuntime
from corral.runtime.oci.settings import OciSettings

_ARCHITECTURES: Final = {"aarch64": "arm64", "arm64": "arm64"}


class Host(Library, Layers, Protocol):
    """The images of this host, and their layers."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One host's runtime and images."""

    runtime: Runtime
    images: Host


def make(settings: Settings, clock: SystemClock, undo: contextlib.AsyncExitStack) -> Machine:
    """Those that the settings name, not started."""
    if settings.runtime is RuntimeName.FAKE:
        host = undo.enter_context(FakeHost(settings.data / "fake"))
        return Machine(FakeRuntime(host, clock=clock), NoImages())
    registries = Registries(settings.registries, settings.registry_auth)
    images = Images(settings.images, settings.data, registries=registries, clock=clock)
    return Machine(OciRuntime(oci_settings(settings), clock=clock), images)


async def start(machine: Machine, undo: contextlib.AsyncExitStack) -> None:
    """Start the runtime, and let it prepare boxes of the default image."""
    await machine.runtime.start()
    undo.push_async_callback(machine.runtime.close)
    with contextlib.suppress(errors.CorralError):  # no default image yet: `health` says so
        machine.runtime.expect(machine.images.resolve(None).layers)


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


def architecture() -> str:
    """The host's, in the dialect's words."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _built_guest() -> Path:
    """Where `make` of a source tree puts the guest."""
    return Path(corral.__file__).resolve().parents[2] / "guest" / "dist" / "corral-guest"


@dataclass(frozen=True, slots=True)
class _NoLayers:
    name: str = ""
    digest: str = ""
    layers: tuple[Layer, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


class NoImages:
    """For the runtime that needs none: every name is an image without layers."""

    def resolve(self, name: str | None = None) -> _NoLayers:
        """Whatever it is called."""
        return _NoLayers(name or "")

    def renew(self, name: str) -> None:
        """Nothing goes."""

    async def obtain(self, name: str) -> _NoLayers:
        """Whatever it is called."""
        return _NoLayers(name)

    async def export_layout(self, name: str, _folder: Path) -> None:
        """There is nothing to give."""
        raise errors.NotOffered(f"cannot export image {name}: the fake runtime has none")

    async def plain(self, name: str) -> str | None:
        """There is nothing to it."""

    async def import_layout(self, _folder: Path, reference: str, *, owned: bool = False) -> _NoLayers:
        """There is nowhere to put it."""
        raise errors.NotOffered(f"cannot import image {reference}: the fake runtime has none")

    def layer(self, digest: str) -> Layer | None:
        """There is none."""

    def pack_layer(self, digest: str) -> contextlib.AbstractAsyncContextManager[Path]:
        """There is none to give."""
        raise errors.NotOffered(f"cannot send layer {digest}: the fake runtime has none")

    async def take_layer(self, digest: str, _pieces: AsyncIterator[bytes]) -> Layer:
        """There is nowhere to put it."""
        raise errors.NotOffered(f"cannot receive layer {digest}: the fake runtime has none")

    def forget(self, name: str) -> None:
        """There is nothing to forget."""

    def names(self) -> list[str]:
        return []
