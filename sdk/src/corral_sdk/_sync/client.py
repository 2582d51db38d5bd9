# Made from _async/client.py by sdk/tools/generate_sync.py: change that and run it again.
"""The door of the blocking client: one server, and the devboxes on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType

from corral_sdk import _config, _retry, errors
from corral_sdk._sync import concurrency
from corral_sdk._sync.blueprints import Blueprints
from corral_sdk._sync.devbox import Devbox
from corral_sdk._sync.objects import Objects
from corral_sdk._sync.transport import TRANSFER_S, Call, Transport
from corral_sdk.models import DevboxInfo, RemoteInfo, SnapshotInfo

#: Inside the classes `list` is a method.
list_ = list

_REMOTE = "/v1/devboxes/disk_snapshots/remote"
#: Seconds between two looks at a copy.
_POLL_S = 0.2


class Devboxes:
    """The devboxes of the key's account."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        *,
        name: str | None = None,
        size: str | None = None,
        cpu: float | None = None,
        memory: int | None = None,
        disk: int | None = None,
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        launch_commands: Sequence[str] = (),
        entrypoint: str | None = None,
        keep_alive_s: int | None = None,
        idle_s: int | None = None,
        snapshot: str | None = None,
        snapshot_every: int | None = None,
        blueprint: str | None = None,
        services: Sequence[str] = (),
        objects: Mapping[str, str] | None = None,
        docker: bool = False,
        keep_memory: str | None = None,
        wait: bool = True,
        timeout_s: float = 300,
    ) -> Devbox:
        """Make a devbox and, unless `wait` is False, return when it runs.

        `size` is X_SMALL to XX_LARGE; or give `cpu` in cores, `memory` and `disk` in GiB. `files` maps paths to
        text that is written before the launch commands run. `keep_alive_s` is its longest life, `idle_s` ends it
        after so many seconds without activity. `snapshot` is the id of the snapshot that its disk begins as;
        `blueprint` the id or name of a blueprint, by name the newest that is built, whose launch parameters are the
        defaults of the devbox's. `services` are names of the blueprint's services that start with it.
        `snapshot_every` has its disk copied to the server's object store that often, in seconds.
        `objects` maps paths to ids of objects: each is written there, archives are unpacked into the path.
        With `docker`, containers in it are possible, and Docker runs. `keep_memory` (auto, always, never) says
        whether its processes go on after a suspend and resume.
        Raises Invalid, Exhausted, Unavailable; Ended when it did not come up, TimedOut.
        """
        launch: dict[str, object] = {
            "resource_size_request": size or ("CUSTOM_SIZE" if cpu or memory or disk else None),
            "custom_cpu_cores": cpu,
            "custom_gb_memory": memory,
            "custom_disk_size": disk,
            "launch_commands": list(launch_commands) or None,
            "keep_alive_time_seconds": keep_alive_s,
            "required_services": list(services) or None,
            "after_idle": None if idle_s is None else {"idle_time_seconds": idle_s, "on_idle": "shutdown"},
            "docker_in_docker": docker or None,
            "keep_memory": keep_memory,
        }
        by_id = blueprint is not None and blueprint.startswith("bpt_")
        body: dict[str, object] = {
            "name": name,
            "snapshot_id": snapshot,
            "snapshot_every": snapshot_every,
            "blueprint_id": blueprint if by_id else None,
            "blueprint_name": None if by_id else blueprint,
            "entrypoint": entrypoint,
            "environment_variables": dict(env) if env else None,
            "metadata": dict(metadata) if metadata else None,
            "file_mounts": dict(files) if files else None,
            "mounts": [
                {"type": "object_mount", "object_id": object_id, "object_path": path}
                for path, object_id in (objects or {}).items()
            ]
            or None,
            "launch_parameters": _without_none(launch) or None,
        }
        call = Call("POST", "/v1/devboxes", json=_without_none(body))
        devbox = self.of(DevboxInfo.from_wire(self._transport.json(call)))
        if wait:
            devbox.wait(timeout_s=timeout_s)
        return devbox

    def get(self, devbox_id: str) -> Devbox:
        """Return a devbox by its id. Raises NotFound."""
        wire = self._transport.json(Call("GET", f"/v1/devboxes/{_segment(devbox_id)}"))
        return self.of(DevboxInfo.from_wire(wire))

    def find(self, reference: str) -> Devbox:
        """Return a devbox by its id or its name.

        A name means the one live devbox that has it, or else the newest that had it. Raises NotFound, Conflict
        when several live ones have it.
        """
        if reference.startswith("dbx_"):
            return self.get(reference)
        newest: DevboxInfo | None = None
        live: list[DevboxInfo] = []
        for info in self.list(name=reference):
            newest = newest or info
            if not info.has_ended:
                live.append(info)
        if len(live) > 1:
            ids = ", ".join(info.id for info in live)
            raise errors.Conflict(
                f"cannot tell which devbox {reference!r} is: several live ones have this name: {ids}"
            )
        found = live[0] if live else newest
        if found is None:
            raise errors.NotFound(f"cannot find devbox {reference!r}: no devbox has this id or name")
        return self.of(found)

    def of(self, info: DevboxInfo) -> Devbox:
        """Return a handle on a devbox that is known already."""
        return Devbox(self._transport, info)

    def list(
        self,
        *,
        status: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        page_size: int = 100,
    ) -> Iterator[DevboxInfo]:
        """Yield devboxes, newest first: those with this status, name and all of these metadata values."""
        params = {"limit": str(page_size), "include_total_count": "false"}
        if status:
            params["status"] = status
        if name:
            params["name"] = name
        params |= {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
        call = Call("GET", "/v1/devboxes", params=params)
        for wire in self._transport.pages(call, "devboxes"):
            info = DevboxInfo.from_wire(wire)
            if name is None or info.name == name:
                yield info


class Snapshots:
    """Find and delete snapshots; `Devbox.snapshot` makes them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, devbox_id: str | None = None, page_size: int = 100) -> Iterator[SnapshotInfo]:
        """Yield snapshots, newest first: all, or those of one devbox."""
        params = {"limit": str(page_size), "include_total_count": "false"}
        if devbox_id:
            params["devbox_id"] = devbox_id
        call = Call("GET", "/v1/devboxes/disk_snapshots", params=params)
        for wire in self._transport.pages(call, "snapshots"):
            yield SnapshotInfo.from_wire(wire)

    def get(self, snapshot_id: str) -> SnapshotInfo:
        """Return a snapshot by its id, wherever its making is. Raises NotFound; WrongState when it was not made."""
        path = f"/v1/devboxes/disk_snapshots/{_segment(snapshot_id)}/status"
        while True:
            wire = self._transport.json(Call("GET", path))
            if wire.get("status") == "error":
                raise errors.WrongState(f"cannot use snapshot {snapshot_id}: {wire.get('error_message')}")
            if wire.get("snapshot") is not None:
                return SnapshotInfo.from_wire(wire["snapshot"])
            concurrency.sleep(_POLL_S)

    def push(self, snapshot_id: str, *, wait: bool = True) -> RemoteInfo:
        """Copy a snapshot to the server's object store and, unless `wait` is False, return when it is there.

        Raises NotFound, WrongState when it cannot be copied, NotOffered.
        """
        path = f"/v1/devboxes/disk_snapshots/{_segment(snapshot_id)}/push"
        info = RemoteInfo.from_wire(self._transport.json(Call("POST", path, json={})))
        while wait and info.status == "in_progress":
            concurrency.sleep(_POLL_S)
            info = RemoteInfo.from_wire(self._transport.json(Call("GET", f"{_REMOTE}/{info.id}")))
        if info.status == "error":
            raise errors.WrongState(f"cannot push snapshot {snapshot_id}: {info.message}")
        return info

    def remote(self, *, devbox_id: str | None = None) -> list_[RemoteInfo]:
        """Return copies in the object store, newest first, of other servers too that this one recovers."""
        params = {"devbox_id": devbox_id} if devbox_id else {}
        wire = self._transport.json(Call("GET", _REMOTE, params=params, timeout_s=TRANSFER_S))
        return [RemoteInfo.from_wire(one) for one in wire.get("remote_copies") or ()]

    def pull(self, copy_id: str, *, wait: bool = True) -> SnapshotInfo:
        """Make a snapshot of a remote copy and, unless `wait` is False, return when devboxes can begin as it.

        Raises NotFound, WrongState when the copy cannot be believed or received.
        """
        call = Call("POST", f"{_REMOTE}/{_segment(copy_id)}/pull", json={})
        info = SnapshotInfo.from_wire(self._transport.json(call))
        return self.get(info.id) if wait else info

    def restore(self, snapshot_id: str) -> str:
        """Begin a devbox as a snapshot that was pulled, as its own devbox was asked for; return the new one's id."""
        call = Call("POST", f"/v1/devboxes/disk_snapshots/{_segment(snapshot_id)}/restore", json={})
        return str((self._transport.json(call))["devbox_id"])

    def delete_remote(self, copy_id: str) -> None:
        """Delete a remote copy. Raises NotFound, Conflict."""
        self._transport.json(Call("POST", f"{_REMOTE}/{_segment(copy_id)}/delete", json={}))

    def delete(self, snapshot_id: str) -> None:
        """Delete a snapshot. Devboxes that began as it keep their disks. Raises NotFound, Conflict."""
        path = f"/v1/devboxes/disk_snapshots/{_segment(snapshot_id)}/delete"
        self._transport.json(Call("POST", path, json={}))


class Corral:
    """A client of one server.

        with Corral() as corral:
            devbox = corral.devboxes.create(name="first")
            print((devbox.exec("uname -a")).stdout)
            devbox.shutdown()

    `base_url` is CORRAL_URL or http://127.0.0.1:8700 unless given; `api_key` is CORRAL_API_KEY or the content of
    $CORRAL_DATA/api-key. `patience_s` is how long a lost connection is tried again.
    """

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, *, patience_s: float = _retry.PATIENCE_S
    ) -> None:
        url = _config.server_url(base_url)
        self._transport = Transport(url, _config.api_key(api_key), patience_s=patience_s)
        self.devboxes = Devboxes(self._transport)
        self.snapshots = Snapshots(self._transport)
        self.objects = Objects(self._transport)
        self.blueprints = Blueprints(self._transport, self.objects)

    def __enter__(self) -> Corral:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def base_url(self) -> str:
        """The server's address."""
        return self._transport.base_url

    def close(self) -> None:
        """End all connections."""
        self._transport.close()


def _without_none(values: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _segment(devbox_id: str) -> str:
    if not devbox_id or not all(char.isalnum() or char in "-_" for char in devbox_id):
        raise errors.Invalid(f"cannot look up {devbox_id!r}: an id has letters, digits, - and _ only")
    return devbox_id
