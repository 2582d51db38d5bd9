"""Every route on one page, with the right that it asks for. `later` has the ones that answer 501.

Owns the table. FastAPI tries routes in this order, so the ones on the hot path come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from corral.api.health import HealthRoutes, HealthView
from corral.api.routing import MIB, Intake, Route
from corral.devboxes import execution_views, views
from corral.devboxes.execution_routes import ExecutionRoutes
from corral.devboxes.pty_routes import PtyRoutes
from corral.devboxes.routes import DevboxRoutes, FileRoutes
from corral.devboxes.ssh.routes import SshRoutes
from corral.http.model import View
from corral.identity import wire as identity_wire
from corral.identity.model import Need, Resource, Scope
from corral.identity.routes import IdentityRoutes
from corral.images import wire as images_wire
from corral.images.blueprints import wire as blueprint_wire
from corral.images.blueprints.routes import BlueprintRoutes
from corral.images.remote_routes import RemoteRoutes
from corral.images.snapshot_routes import SnapshotRoutes
from corral.storage import wire as storage_wire
from corral.storage.routes import ObjectRoutes

PUBLIC: Final = Need(None)
READ: Final = Need(Resource.DEVBOXES, Scope.READ)
WRITE: Final = Need(Resource.DEVBOXES, Scope.WRITE)
BLUEPRINT_READ: Final = Need(Resource.BLUEPRINTS, Scope.READ)
BLUEPRINT_WRITE: Final = Need(Resource.BLUEPRINTS, Scope.WRITE)
SNAPSHOT_READ: Final = Need(Resource.SNAPSHOTS, Scope.READ)
SNAPSHOT_WRITE: Final = Need(Resource.SNAPSHOTS, Scope.WRITE)
OBJECT_READ: Final = Need(Resource.OBJECTS, Scope.READ)
OBJECT_WRITE: Final = Need(Resource.OBJECTS, Scope.WRITE)
ACCOUNT_READ: Final = Need(Resource.ACCOUNT, Scope.READ)
ACCOUNT_WRITE: Final = Need(Resource.ACCOUNT, Scope.WRITE)

#: A text of 100 MB as JSON, where a line break takes two bytes.
TEXT_LIMIT: Final = 128 * MIB
#: Mounted files of up to 8 MiB in all, escaped.
CREATE_LIMIT: Final = 16 * MIB

_DEVBOX: Final = "/v1/devboxes/{devbox_id}"
_EXECUTION: Final = "/v1/devboxes/{devbox_id}/executions/{execution_id}"
_BLUEPRINTS: Final = "/v1/blueprints"
_SNAPSHOTS: Final = "/v1/devboxes/disk_snapshots"
_PAGE: Final = ("limit", "starting_after", "include_total_count")
_JSON: Final = Intake.JSON


@dataclass(frozen=True, slots=True)
class Handlers:
    """The routes' classes of every capability."""

    health: HealthRoutes
    identity: IdentityRoutes
    devboxes: DevboxRoutes
    executions: ExecutionRoutes
    files: FileRoutes
    ptys: PtyRoutes
    snapshots: SnapshotRoutes
    blueprints: BlueprintRoutes
    objects: ObjectRoutes
    remote: RemoteRoutes
    ssh: SshRoutes


def rows(on: Handlers) -> Iterator[Route]:
    """The table."""
    yield from _executions(on.executions)
    yield from _remote(on.remote)
    yield from _snapshots(on.snapshots)  # before the routes of one devbox, which would take their paths
    yield from _devboxes(on.devboxes)
    yield from _disks(on.devboxes)
    yield from _blueprints(on.blueprints)
    yield from _files(on.files)
    yield from _ptys(on.ptys)
    yield from _ssh(on.ssh)
    yield from _objects(on.objects)
    yield from _others(on)


def _executions(on: ExecutionRoutes) -> Iterator[Route]:
    # Running a command is the strongest right over a devbox; looking at what was said is reading.
    view, output = execution_views.ExecutionView, execution_views.OutputView
    last, offset = ("last_n",), ("offset",)
    yield _post(f"{_DEVBOX}/execute", on.execute, WRITE, "execute command", answers=view, query=last, errors=(404,))
    yield _post(f"{_DEVBOX}/execute_async", on.execute_async, WRITE, "execute command", answers=view, errors=(404,))
    yield _post(
        f"{_DEVBOX}/execute_sync",
        on.execute_sync,
        WRITE,
        "execute command",
        answers=execution_views.ExecutionDetailView,
        errors=(404, 408),
    )
    yield _get(_EXECUTION, on.retrieve, READ, "show execution", answers=view, query=last, errors=(404,))
    yield _post(
        f"{_EXECUTION}/wait_for_status",
        on.wait_for_status,
        READ,
        "wait for execution",
        answers=view,
        query=last,
        errors=(404, 408),
    )
    yield _stream(f"{_EXECUTION}/stream_stdout_updates", on.stream_stdout_updates, "stream output", output, offset)
    yield _stream(f"{_EXECUTION}/stream_stderr_updates", on.stream_stderr_updates, "stream output", output, offset)
    yield _post(f"{_EXECUTION}/kill", on.kill, WRITE, "kill execution", answers=view, errors=(404,))
    yield _post(
        f"{_EXECUTION}/send_std_in",
        on.send_std_in,
        WRITE,
        "send to standard input",
        answers=execution_views.SendStdInView,
        errors=(404,),
        replay=True,
    )
    yield _get(
        f"{_DEVBOX}/executions",
        on.list,
        READ,
        "list executions",
        answers=execution_views.ExecutionListView,
        query=_PAGE,
        errors=(404,),
    )
    yield _post(f"{_DEVBOX}/terminal", on.terminal, WRITE, "open terminal", answers=view, errors=(404,))
    yield Route(
        "WEBSOCKET",
        f"{_EXECUTION}/attach",
        on.attach,
        WRITE,
        "attach to terminal",
        Intake.SOCKET,
        query=("read_only",),
    )


def _devboxes(on: DevboxRoutes) -> Iterator[Route]:
    view = views.DevboxView
    create: dict[str, Any] = {
        "answers": view,
        "replay": True,
        "body_limit": CREATE_LIMIT,
        "errors": (404, 429, 501, 503),
    }
    yield _post("/v1/devboxes", on.create, WRITE, "create devbox", **create)
    yield _post("/v1/devboxes/create_and_await_running", on.create_and_await_running, WRITE, "create devbox", **create)
    filters = ("status", "name", "metadata[", *_PAGE)
    yield _get("/v1/devboxes", on.list, READ, "list devboxes", answers=views.DevboxListView, query=filters)
    part = ("limit", "starting_after")
    yield _get(
        "/v1/devboxes/metadata/keys",
        on.metadata_keys,
        READ,
        "list metadata keys",
        answers=views.MetadataKeysView,
        query=part,
    )
    yield _get(
        "/v1/devboxes/metadata/keys/{key:path}/values",
        on.metadata_values,
        READ,
        "list metadata values",
        answers=views.MetadataValuesView,
        query=part,
    )
    yield _stream("/v1/devboxes/evictions/watch", on.watch_evictions, "watch evictions", views.EvictionView)
    yield _get(_DEVBOX, on.retrieve, READ, "show devbox", answers=view, errors=(404,))
    yield _post(_DEVBOX, on.update, WRITE, "update devbox", answers=view, errors=(404,))
    yield _post(
        f"{_DEVBOX}/wait_for_status",
        on.wait_for_status,
        READ,
        "wait for devbox",
        answers=view,
        errors=(404, 408),
    )
    yield _post(
        f"{_DEVBOX}/shutdown",
        on.shutdown,
        WRITE,
        "shut down devbox",
        answers=view,
        query=("force",),
        errors=(404, 409),
    )
    yield _post(f"{_DEVBOX}/keep_alive", on.keep_alive, WRITE, "keep devbox alive", answers=dict, errors=(404,))
    yield _get(f"{_DEVBOX}/usage", on.usage, READ, "show usage", answers=views.UsageView, errors=(404,))
    one = ("execution_id", "shell_name")
    yield _get(f"{_DEVBOX}/logs", on.logs, READ, "show logs", answers=views.LogListView, query=one, errors=(404,))
    place = (*one, "starting_after")
    yield _stream(f"{_DEVBOX}/logs/tail", on.tail_logs, "follow log", views.LogTailView, place)


def _disks(on: DevboxRoutes) -> Iterator[Route]:
    """A devbox's disk without its box, and as the beginning of others."""
    view = views.DevboxView
    yield _post(f"{_DEVBOX}/suspend", on.suspend, WRITE, "suspend devbox", answers=view, errors=(404,))
    yield _post(f"{_DEVBOX}/resume", on.resume, WRITE, "resume devbox", answers=view, errors=(404,))
    yield _post(
        f"{_DEVBOX}/fork", on.fork, WRITE, "fork devbox", answers=views.ForkView, replay=True, errors=(404, 429)
    )
    yield _get(f"{_DEVBOX}/lineage", on.lineage, READ, "show lineage", answers=views.LineageView, errors=(404,))


def _snapshots(on: SnapshotRoutes) -> Iterator[Route]:
    view, keys, values = images_wire.SnapshotView, images_wire.SnapshotKeysView, images_wire.SnapshotValuesView
    copy: dict[str, Any] = {"answers": view, "replay": True, "errors": (404, 408)}
    yield _post(f"{_DEVBOX}/snapshot_disk", on.take, SNAPSHOT_WRITE, "snapshot devbox", **copy)
    yield _post(f"{_DEVBOX}/snapshot_disk_async", on.take_async, SNAPSHOT_WRITE, "snapshot devbox", **copy)
    filters = ("devbox_id", "source_blueprint_id", "metadata[", *_PAGE)
    pages: dict[str, Any] = {"answers": images_wire.SnapshotListView, "query": filters}
    yield _get(_SNAPSHOTS, on.list, SNAPSHOT_READ, "list snapshots", **pages)
    yield _get(f"{_SNAPSHOTS}/list_public", on.list_public, SNAPSHOT_READ, "list snapshots", **pages)
    for where, list_keys, list_values in (
        ("", on.metadata_keys, on.metadata_values),
        ("/public", on.public_metadata_keys, on.public_metadata_values),
    ):
        path = f"{_SNAPSHOTS}{where}/metadata/keys"
        yield _get(path, list_keys, SNAPSHOT_READ, "list metadata keys", answers=keys)
        yield _get(f"{path}/{{key:path}}/values", list_values, SNAPSHOT_READ, "list metadata values", answers=values)
    one = f"{_SNAPSHOTS}/{{snapshot_id}}"
    status = images_wire.SnapshotStatusView
    yield _get(f"{one}/status", on.status, SNAPSHOT_READ, "show snapshot", answers=status, errors=(404,))
    yield _post(one, on.update, SNAPSHOT_WRITE, "update snapshot", answers=view, errors=(404,))
    yield _post(f"{one}/delete", on.delete, SNAPSHOT_WRITE, "delete snapshot", answers=dict, errors=(404, 409))


def _remote(on: RemoteRoutes) -> Iterator[Route]:
    # A copy brings a devbox's whole disk, and its variables: pulling and restoring take the right to change devboxes.
    view = images_wire.RemoteView
    place, one = f"{_SNAPSHOTS}/remote", f"{_SNAPSHOTS}/remote/{{copy_id}}"
    own = (404, 501, 503)
    yield _get(
        place,
        on.list,
        SNAPSHOT_READ,
        "list remote copies",
        answers=images_wire.RemoteListView,
        query=("devbox_id",),
        errors=(501, 503),
    )
    yield _get(one, on.retrieve, SNAPSHOT_READ, "show remote copy", answers=view, errors=own)
    yield _post(f"{one}/pull", on.pull, SNAPSHOT_WRITE, "pull snapshot", answers=images_wire.SnapshotView, errors=own)
    yield _post(f"{one}/delete", on.delete, SNAPSHOT_WRITE, "delete remote copy", answers=dict, errors=(409, *own))
    snapshot = f"{_SNAPSHOTS}/{{snapshot_id}}"
    yield _post(f"{snapshot}/push", on.push, SNAPSHOT_WRITE, "push snapshot", answers=view, errors=own)
    yield _post(
        f"{snapshot}/restore",
        on.restore,
        WRITE,
        "restore snapshot",
        answers=images_wire.RestoredView,
        replay=True,
        errors=own,
    )


def _blueprints(on: BlueprintRoutes) -> Iterator[Route]:
    view, keys, values = (
        blueprint_wire.BlueprintView,
        blueprint_wire.BlueprintKeysView,
        blueprint_wire.BlueprintValuesView,
    )
    # The routes with fixed names come before those of one blueprint, which would take their paths.
    create: dict[str, Any] = {"answers": view, "replay": True, "body_limit": CREATE_LIMIT, "errors": (404, 413, 501)}
    yield _post(_BLUEPRINTS, on.create, BLUEPRINT_WRITE, "create blueprint", **create)
    path = f"{_BLUEPRINTS}/create_from_inspection"
    yield _post(path, on.create_from_inspection, BLUEPRINT_WRITE, "create blueprint", **create)
    yield _post(
        f"{_BLUEPRINTS}/preview",
        on.preview,
        BLUEPRINT_READ,
        "preview blueprint",
        answers=blueprint_wire.BlueprintPreviewView,
        body_limit=CREATE_LIMIT,
        errors=(501,),
    )
    pages: dict[str, Any] = {
        "answers": blueprint_wire.BlueprintListView,
        "query": ("name", "status", *_PAGE),
    }
    yield _get(_BLUEPRINTS, on.list, BLUEPRINT_READ, "list blueprints", **pages)
    yield _get(f"{_BLUEPRINTS}/list_public", on.list_public, BLUEPRINT_READ, "list blueprints", **pages)
    for where, list_keys, list_values in (
        ("", on.metadata_keys, on.metadata_values),
        ("/public", on.public_metadata_keys, on.public_metadata_values),
    ):
        path = f"{_BLUEPRINTS}{where}/metadata/keys"
        yield _get(path, list_keys, BLUEPRINT_READ, "list metadata keys", answers=keys)
        yield _get(f"{path}/{{key:path}}/values", list_values, BLUEPRINT_READ, "list metadata values", answers=values)
    one = f"{_BLUEPRINTS}/{{blueprint_id}}"
    yield _get(one, on.retrieve, BLUEPRINT_READ, "show blueprint", answers=view, errors=(404,))
    yield _post(f"{one}/delete", on.delete, BLUEPRINT_WRITE, "delete blueprint", answers=dict, errors=(404,))
    yield _get(
        f"{one}/logs",
        on.logs,
        BLUEPRINT_READ,
        "show build log",
        answers=blueprint_wire.BlueprintLogsView,
        query=("starting_after",),
        errors=(404,),
    )


def _files(on: FileRoutes) -> Iterator[Route]:
    # Files may hold secrets, and opening one runs in the box: reading them takes the right to use the devbox.
    done = execution_views.ExecutionDetailView
    yield _post(
        f"{_DEVBOX}/read_file_contents",
        on.read_file_contents,
        WRITE,
        "read file",
        media_type="text/plain",
        errors=(404, 413),
    )
    write: dict[str, Any] = {"answers": done, "body_limit": TEXT_LIMIT, "errors": (404,)}
    yield _post(f"{_DEVBOX}/write_file_contents", on.write_file_contents, WRITE, "write file", **write)
    yield _post(f"{_DEVBOX}/write_file", on.write_file_contents, WRITE, "write file", **write)
    yield Route(
        "POST",
        f"{_DEVBOX}/upload_file",
        on.upload_file,
        WRITE,
        "upload file",
        intake=Intake.STREAM,
        answers=dict,
        errors=(404, 413),
    )
    yield _post(
        f"{_DEVBOX}/download_file",
        on.download_file,
        WRITE,
        "download file",
        media_type="application/octet-stream",
        errors=(404,),
    )
    yield _post(f"{_DEVBOX}/list_files", on.list_files, WRITE, "list files", answers=views.FileListView, errors=(404,))


def _ptys(on: PtyRoutes) -> Iterator[Route]:
    # The right of the others is their token's, which stands for that of the key that made the tunnel.
    # A repeat of create_pty_tunnel makes another one: an answer with a token is not kept.
    tunnel = execution_views.PtyTunnelView
    yield _post(
        f"{_DEVBOX}/create_pty_tunnel", on.create_tunnel, WRITE, "create PTY tunnel", answers=tunnel, errors=(404, 429)
    )
    yield _get(
        "/pty/{session_name}",
        on.connect,
        WRITE,
        "connect to session",
        answers=execution_views.PtyConnectView,
        query=("cols", "rows"),
        tunnel=True,
        errors=(404, 503),
    )
    yield _post(
        "/pty/{session_name}/control",
        on.control,
        WRITE,
        "control session",
        answers=execution_views.PtyControlResultView,
        tunnel=True,
        errors=(404,),
    )
    path = "/pty/{session_name}/attach"
    yield Route("WEBSOCKET", path, on.attach, WRITE, "attach to session", Intake.SOCKET, tunnel=True)


def _ssh(on: SshRoutes) -> Iterator[Route]:
    # As with tunnels a repeat makes another key: an answer with a private key is not kept.
    view = views.SshKeyView
    path = f"{_DEVBOX}/create_ssh_key"
    yield _post(path, on.create_key, WRITE, "create SSH key", answers=view, errors=(404, 501))


def _objects(on: ObjectRoutes) -> Iterator[Route]:
    view, keys, values = storage_wire.ObjectView, storage_wire.ObjectKeysView, storage_wire.ObjectValuesView
    path, one = "/v1/objects", "/v1/objects/{object_id}"
    yield _post(path, on.create, OBJECT_WRITE, "create object", answers=view, replay=True)
    filters = ("content_type", "name", "search", "state", *_PAGE)
    pages: dict[str, Any] = {"answers": storage_wire.ObjectListView, "query": filters}
    yield _get(path, on.list, OBJECT_READ, "list objects", **pages)
    yield _get(f"{path}/list_public", on.list_public, OBJECT_READ, "list objects", **pages)
    yield _get(f"{path}/metadata/keys", on.metadata_keys, OBJECT_READ, "list metadata keys", answers=keys)
    yield _get(
        f"{path}/metadata/keys/{{key:path}}/values",
        on.metadata_values,
        OBJECT_READ,
        "list metadata values",
        answers=values,
    )
    yield _get(one, on.retrieve, OBJECT_READ, "show object", answers=view, errors=(404,))
    yield _post(f"{one}/delete", on.delete, OBJECT_WRITE, "delete object", answers=view, errors=(404,))
    yield _post(f"{one}/complete", on.complete, OBJECT_WRITE, "complete object", answers=view, errors=(404, 409, 413))
    # The address that this gives lets anybody read the content: it takes no more than the right to read it.
    yield _get(
        f"{one}/download",
        on.download,
        OBJECT_READ,
        "download object",
        answers=storage_wire.ObjectDownloadView,
        query=("duration_seconds",),
        errors=(404,),
    )
    # The right of these is their token's.
    yield Route(
        "PUT",
        f"{one}/content",
        on.put_content,
        PUBLIC,
        "upload object",
        Intake.STREAM,
        query=("token",),
        answers=dict,
        errors=(400, 403, 404, 408, 409, 413, 429, 503),
    )
    yield _get(
        f"{one}/content",
        on.get_content,
        PUBLIC,
        "download object",
        query=("token",),
        media_type="application/octet-stream",
        errors=(400, 403, 404, 416, 503),
    )


def _others(on: Handlers) -> Iterator[Route]:
    yield _get("/healthz", on.health.healthz, PUBLIC, "check health", answers=HealthView, errors=(503,))
    yield _get("/v1/accounts/me", on.identity.me, ACCOUNT_READ, "show account", answers=identity_wire.AccountView)
    # Not replayed: the answer would be kept, and in it the key.
    yield _post(
        "/v1/apikeys",
        on.identity.create_key,
        ACCOUNT_WRITE,
        "create API key",
        answers=identity_wire.KeyView,
    )
    yield _post(
        "/v1/restricted_keys",
        on.identity.create_restricted_key,
        ACCOUNT_WRITE,
        "create API key",
        answers=identity_wire.RestrictedKeyView,
    )


def _get(path: str, handler: Any, need: Need, does: str, **more: Any) -> Route:
    return Route("GET", path, handler, need, does, **more)


def _post(path: str, handler: Any, need: Need, does: str, **more: Any) -> Route:
    return Route("POST", path, handler, need, does, intake=_JSON, **more)


def _stream(path: str, handler: Any, does: str, answers: type[View], query: tuple[str, ...] = ()) -> Route:
    return Route(
        "GET",
        path,
        handler,
        READ,
        does,
        query=query,
        answers=answers,
        media_type="text/event-stream",
        errors=(404,),
    )
