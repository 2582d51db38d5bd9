"""What the operator decides about the OCI driver, and the places that follow from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from corral.runtime.cgroup.group import Group
from corral.runtime.cgroup.layout import Layout
from corral.runtime.network.blocks import DEFAULT_NETWORK
from corral.runtime.network.firewall import TABLE_PREFIX
from corral.runtime.rootfs.plan import Stage


@dataclass(frozen=True, slots=True)
class OciSettings:
    """Settings of one driver.

    `data` is this server's folder, for it alone. `guest` is the guest's binary. `host_services` are TCP ports on the
    gateway address that boxes may reach. `slots_ready` namespaces are kept ready, for bursts. `pool_size` in bytes;
    None is what the disk has free. `disk` is `auto`, `btrfs` or `image`. `run` holds what ends with the host's uptime.
    `warm` boxes are prepared ahead for each image that was asked for lately. Without `nested` no nested box is made.
    """

    data: Path
    guest: Path
    oci_runtime: str = "crun"
    host_services: tuple[int, ...] = ()
    slots_ready: int = 16
    warm: int = 0
    nested: bool = True
    pool_size: int | None = None
    disk: str = "auto"
    network: str = DEFAULT_NETWORK
    run: Path = Path("/run/corral")
    #: Paths whose mounts the launcher must keep, beside those that `data` and `guest` are on: where image layers are.
    layer_roots: tuple[Path, ...] = (Path("/var/lib/corral/images"),)
    #: Where the set-up puts a CRIU with its libraries, on hosts whose own is too old.
    criu: Path = Path("/var/lib/corral/criu")
    #: Time for the guest to answer after the OCI runtime has returned.
    hello_limit_s: float = 10.0
    launch_limit_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Places:
    """Every path of the driver, from the data folder and the run folder."""

    data: Path
    run: Path

    @property
    def instance(self) -> str:
        """A short name of this data folder, unique on the host."""
        return hashlib.sha256(str(self.data).encode()).hexdigest()[:8]

    @property
    def table(self) -> str:
        """Its nftables table."""
        return f"{TABLE_PREFIX}{self.instance}"

    @property
    def lock(self) -> Path:
        """Held by the server, and by its launcher until that has ended."""
        return self.data / "lock"

    @property
    def boxes(self) -> Path:
        """One folder per box."""
        return self.data / "boxes"

    def box(self, box_id: str) -> Path:
        """What must outlive the host's uptime: the box's record."""
        return self.boxes / box_id

    @property
    def prepared(self) -> Path:
        """One folder per box that nobody has claimed; a claim moves it to `boxes`."""
        return self.data / "prepared"

    @property
    def memory(self) -> Path:
        """What ends with the host's uptime; see `corral.runtime.oci.memory`."""
        return self.run / self.instance

    @property
    def bundles(self) -> Path:
        """One folder per box for what ends with its process 1."""
        return self.memory / "boxes"

    def bundle(self, handle: str) -> Path:
        """The box's bundle and socket."""
        return self.bundles / handle

    def socket(self, handle: str) -> Path:
        """Where the box's guest listens."""
        return self.bundle(handle) / "guest.sock"

    @property
    def frozen(self) -> Path:
        """One file per box that stands still now: whoever comes after a killed server lets it go on."""
        return self.memory / "frozen"

    @property
    def stage(self) -> Stage:
        """Folders that boxes mount over."""
        return Stage(self.memory / "stage")

    @property
    def spool(self) -> Path:
        """Output of executions."""
        return self.data / "spool"

    @property
    def state(self) -> Path:
        """The OCI runtime's own records."""
        return self.memory / "state"

    def group(self, layout: Layout, handle: str) -> Group:
        """The box's control group."""
        return Group(layout, f"corral-{self.instance}", handle)
