"""Every setting of the server: typed, with its default and one sentence.

Owns names, defaults and the reading of CORRAL_* variables. Must not open, make or check anything on the host.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from corral.core import errors

PREFIX: Final = "CORRAL_"
MAX_PORT: Final = 65535
#: Numbers that switch something off.
MAY_BE_ZERO: Final = frozenset({"warm_boxes"})


class RuntimeName(enum.StrEnum):
    """Where boxes live."""

    OCI = "oci"
    FAKE = "fake"


class LogFormat(enum.StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


class LogLevel(enum.StrEnum):
    """Which log lines are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Durability(enum.StrEnum):
    """What an acknowledged write survives."""

    POWER_LOSS = "power-loss"  #: each commit is on the disk before it is acknowledged; of commands within a second
    CRASH = "crash"  #: kill -9 of the server, but not the loss of power


class Switch(enum.StrEnum):
    """Whether something is offered."""

    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one server. The variable of `data` is CORRAL_DATA, its flag `--data`, and so on."""

    listen: Annotated[str, "Address and TCP port of the API, as HOST:PORT."] = "127.0.0.1:8700"
    data: Annotated[Path, "Folder of database, disk pool and spool; one server each."] = Path("/var/lib/corral")
    api_key: Annotated[str | None, "First API key, instead of one made and written to <data>/api-key."] = field(
        default=None, repr=False
    )
    images: Annotated[Path, "Folder of image layers; data folders may share it."] = Path("/var/lib/corral/images")
    registries: Annotated[
        Path | None,
        "Configuration of registries (containers-registries.conf(5)): mirrors, plain HTTP, what is blocked.",
    ] = None
    registry_auth: Annotated[Path | None, "Credentials for registries (containers-auth.json(5))."] = None
    runtime: Annotated[RuntimeName, "Where boxes live: `oci` on this host; `fake` for tests, isolates nothing."] = (
        RuntimeName.OCI
    )
    oci_runtime: Annotated[str, "OCI runtime program that starts boxes."] = "crun"
    criu: Annotated[
        Path, "Folder of the CRIU that the set-up fetched; else the host's own keeps memories of suspended devboxes."
    ] = Path("/var/lib/corral/criu")
    guest: Annotated[Path | None, "The guest program, when it is not where the source tree builds it."] = None
    nested: Annotated[
        Switch, "Whether boxes that hold containers are made: builds and devboxes with `docker_in_docker` need them."
    ] = Switch.ON
    host_services: Annotated[tuple[int, ...], "TCP ports of the host that boxes may reach at their gateway."] = ()
    durability: Annotated[
        Durability, "What an acknowledged write survives: `power-loss` or `crash`; of commands within a second."
    ] = Durability.POWER_LOSS
    store_readers: Annotated[int, "Threads that read the database."] = 2
    starts_at_once: Annotated[int, "Boxes that are made at the same time; more wait their turn."] = 8
    warm_boxes: Annotated[
        int, "Boxes that are prepared ahead for each image that was used lately; 0 prepares none."
    ] = 8
    stops_at_once: Annotated[int, "Boxes that are removed at the same time; more wait their turn."] = 8
    resync_s: Annotated[float, "Seconds between two comparisons of all rows with all boxes on the host."] = 5.0
    alerts_s: Annotated[float, "Seconds between two readings of how near devboxes are to their limits."] = 10.0
    ping_s: Annotated[float, "Seconds between two questions to the guest of each devbox whether it is there."] = 10.0
    guest_limit_s: Annotated[
        float, "Seconds after which a devbox whose guest does not answer them, though it could, has failed."
    ] = 15.0
    provisioning_limit_s: Annotated[float, "Seconds after which a devbox that still has no box has failed."] = 120.0
    initializing_limit_s: Annotated[float, "Seconds that files and launch commands may take in all."] = 3600.0
    builder: Annotated[str, "Image of the devboxes that images are built in."] = "builder"
    pulled_keep_s: Annotated[
        float, "Seconds for which an image that was pulled for a build stays after the last one that asked for it."
    ] = 2592000.0
    builds_at_once: Annotated[int, "Images that are built at the same time; more wait their turn."] = 2
    build_limit_s: Annotated[float, "Seconds that a build may take unless it names its own limit."] = 3600.0
    build_cpu: Annotated[float, "Cores of a build."] = 2.0
    build_memory: Annotated[int, "Bytes of memory of a build."] = 4294967296
    build_disk: Annotated[int, "Bytes of disk of a build: bases, context, steps and image together."] = 17179869184
    build_context_limit: Annotated[int, "Bytes of a build's context, as it is uploaded."] = 1073741824
    build_cache_limit: Annotated[
        int, "Bytes of an account's disk that is kept between builds; one that has grown over it is given up."
    ] = 17179869184
    build_log_limit: Annotated[int, "Bytes kept of a build's log, times included; of more the steps and the end."] = (
        4194304
    )
    keep_output_s: Annotated[float, "Seconds for which output is kept after the end of its devbox."] = 604800.0
    output_limit: Annotated[int, "Bytes kept of each output stream of a command; more is dropped."] = 67108864
    session_idle_s: Annotated[float, "Seconds after which a terminal session that nobody is attached to ends."] = (
        3600.0
    )
    tunnel_domain: Annotated[
        str, "Domain of tunnels: the API's without `api.`; terminals are 13-KEY.tunnel.DOMAIN."
    ] = "localhost"
    ssh_listen: Annotated[
        str | None, "Address and TCP port for SSH, as HOST:PORT, plain and inside TLS; without it there is no SSH."
    ] = None
    ssh_certificate: Annotated[
        Path | None, "Certificate chain and key, in PEM, for SSH inside TLS; else one made in the data folder."
    ] = None
    ssh_login_s: Annotated[float, "Seconds in which an SSH client must have shown a key that opens a devbox."] = 20.0
    ssh_idle_s: Annotated[float, "Seconds after which an SSH connection that carries nothing is closed."] = 900.0
    public_url: Annotated[
        str | None, "Address of the API as clients have it, for addresses in answers; else that of each request."
    ] = None
    objects: Annotated[
        str | None, "Where contents of objects are: a folder or s3://BUCKET/PREFIX; else <data>/objects."
    ] = None
    objects_endpoint: Annotated[str | None, "Address of the S3 server, when it is not Amazon's."] = None
    objects_region: Annotated[str | None, "Region of the bucket; else AWS_REGION or us-east-1."] = None
    object_limit: Annotated[int, "Bytes of one object; S3 takes no more than the default in one upload."] = 5368709120
    remote_key: Annotated[
        Path | None,
        "File with the secret that remote copies are signed with; else <data>/remote-key.",
    ] = None
    remote_recovers: Annotated[
        str, "Accounts of lost servers whose remote copies may be used here, separated by commas."
    ] = ""
    remote_newest: Annotated[int, "Copies kept of each devbox that asks for one every so often."] = 3
    remote_keep_s: Annotated[float, "Seconds for which such a copy is kept at most."] = 2592000.0
    shutdown_grace_s: Annotated[float, "Seconds that open requests get to finish when the server stops."] = 10.0
    log_format: Annotated[LogFormat, "`text` for key=value lines, `json` for one object a line."] = LogFormat.TEXT
    log_level: Annotated[LogLevel, "Least level that is logged: debug, info, warning or error."] = LogLevel.INFO

    @property
    def host(self) -> str:
        """The address part of `listen`."""
        return _address("listen", self.listen)[0]

    @property
    def port(self) -> int:
        """The port part of `listen`."""
        return _address("listen", self.listen)[1]

    @property
    def ssh_address(self) -> tuple[str, int] | None:
        """The parts of `ssh_listen`."""
        return None if self.ssh_listen is None else _address("ssh_listen", self.ssh_listen)

    def __post_init__(self) -> None:
        _address("listen", self.listen)
        if self.ssh_listen is not None:
            _address("ssh_listen", self.ssh_listen)
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if not isinstance(value, int | float) or value > 0 or (value == 0 and setting.name in MAY_BE_ZERO):
                continue
            raise errors.Invalid(f"cannot read setting {setting.name}: {value} is not more than 0")


@dataclass(frozen=True, slots=True)
class About:
    """One setting, for help texts and documents."""

    name: str
    variable: str
    flag: str
    default: object
    sentence: str


def catalogue() -> tuple[About, ...]:
    """Every setting in the order in which it is declared."""
    hints = typing.get_type_hints(Settings, include_extras=True)
    return tuple(
        About(
            name=setting.name,
            variable=PREFIX + setting.name.upper(),
            flag="--" + setting.name.replace("_", "-"),
            default=setting.default,
            sentence=hints[setting.name].__metadata__[0],
        )
        for setting in dataclasses.fields(Settings)
    )


def load(environ: Mapping[str, str], **given: object) -> Settings:
    """Read settings: `given` (flags; None means not given) before `environ` before defaults.

    Raises errors.Invalid with the setting's name. A variable that is empty counts as not set.
    """
    kinds = typing.get_type_hints(Settings)
    values: dict[str, Any] = {}
    for about in catalogue():
        raw = given.get(about.name)
        if raw is None:
            raw = environ.get(about.variable) or None
        if raw is not None:
            values[about.name] = _convert(about.name, raw, kinds[about.name])
    return Settings(**values)


def _address(name: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise errors.Invalid(f"cannot read setting {name}: {text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def _convert(name: str, raw: object, kind: object) -> object:
    try:
        return _CONVERTERS.get(_plain(kind), str)(raw) if isinstance(raw, str) else raw
    except ValueError as error:
        raise errors.Invalid(f"cannot read setting {name}: {error}") from error


def _plain(kind: object) -> object:
    """`X | None` as X, `tuple[int, ...]` as tuple."""
    if isinstance(kind, types.UnionType):
        return next(member for member in typing.get_args(kind) if member is not types.NoneType)
    return typing.get_origin(kind) or kind


def _ports(text: str) -> tuple[int, ...]:
    ports = tuple(int(part) for part in text.split(",") if part.strip())
    if any(not 0 < port <= MAX_PORT for port in ports):
        message = f"{text!r} is not a list of TCP ports"
        raise ValueError(message)
    return ports


def _member(kind: type[enum.StrEnum]) -> Callable[[str], object]:
    def convert(text: str) -> object:
        values = [member.value for member in kind]
        if text not in values:
            message = f"{text!r} is none of {', '.join(values)}"
            raise ValueError(message)
        return kind(text)

    return convert


_CONVERTERS: Final[Mapping[object, Callable[[str], object]]] = {
    int: int,
    float: float,
    Path: lambda text: Path(text).expanduser(),
    tuple: _ports,
    **{kind: _member(kind) for kind in (RuntimeName, LogFormat, LogLevel, Durability, Switch)},
}
