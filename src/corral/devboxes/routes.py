"""HTTP of devboxes: their life, their logs and their files.

Owns the order of calls behind each route. Executions are in `execution_routes`. Must not hold a rule about a devbox:
`parameters` and `service` do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Final

import sqlalchemy as sa
from fastapi import Path, Query
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from corral.core import errors
from corral.devboxes import execution_views, execution_wire, listing, model, parameters, service, views, wire
from corral.http import hold, params
from corral.http.download import Download
from corral.http.events import EventStream
from corral.http.model import NAME_CHARS, Nothing
from corral.http.multipart import FileForm

#: Clients give up on create_and_await_running after 30 s; they take the booting view and go on with wait_for_status.
CREATE_HOLD_S: Final = 20.0
WAIT_S: Final = 10.0

DevboxId = Annotated[str, Path(pattern=wire.DEVBOX_ID)]
MetadataKey = Annotated[str, Path(max_length=256, description="It may hold slashes.")]
MetadataLimit = Annotated[int, Query(ge=1, le=listing.MAX_PAGE, description="Items of one page.")]
AfterMetadata = Annotated[
    str | None,
    Query(
        max_length=wire.AFTER_CHARS,
        description="The last key or value of the page before. A longer one cannot be given: ask for a larger page.",
    ),
]
LogExecution = Annotated[str | None, Query(pattern=execution_wire.EXECUTION_ID)]
LogShell = Annotated[str | None, Query(max_length=256)]

_STOPPED: Final = frozenset({model.Observed.RUNNING, *model.ENDED})
_OBSERVED: Final = {status.value: status for status in model.Observed}


class DevboxRoutes:
    """Create, look at, wait for and end devboxes. `architecture` is the host's, in the dialect's words."""

    def __init__(self, devboxes: service.Devboxes, tails: service.LogTails, *, architecture: str) -> None:
        self._devboxes = devboxes
        self._tails = tails
        self._architecture = architecture

    async def create(self, request: Request, body: wire.CreateBody) -> views.DevboxView:
        """Create a devbox and begin its boot."""
        return views.devbox_view(await self._create(request, body))

    async def create_and_await_running(self, request: Request, body: wire.CreateBody) -> views.DevboxView:
        """Create a devbox and answer when it runs, has failed, or after 20 s with what it is then."""
        account_id = params.account_id(request)
        devbox = await self._create(request, body)
        try:
            waiting = self._devboxes.wait(account_id, devbox.id, _STOPPED, CREATE_HOLD_S)
            devbox = await hold.hold(request, waiting)
        except errors.TimedOut:
            devbox = await self._devboxes.get(account_id, devbox.id)
        return views.devbox_view(devbox)

    async def retrieve(self, request: Request, devbox_id: DevboxId) -> views.DevboxView:
        """The devbox as it is now."""
        return views.devbox_view(await self._devboxes.get(params.account_id(request), devbox_id))

    async def list(
        self,
        request: Request,
        status: Annotated[wire.DevboxStatus | None, Query()] = None,
        name: Annotated[str | None, Query(max_length=NAME_CHARS)] = None,
        limit: params.Limit = 20,
        starting_after: params.StartingAfter = None,
        include_total_count: params.IncludeTotalCount = True,  # noqa: FBT002 - a query parameter
    ) -> views.DevboxListView:
        """Devboxes of the account, newest first. `metadata[key]=value` filters by metadata."""
        metadata = params.metadata_filter(request)
        observed = None if status is None else _OBSERVED.get(status)
        if status is not None and observed is None:  # of the dialect, but no devbox of this server is ever in it
            return views.DevboxListView(devboxes=[], has_more=False, total_count=0 if include_total_count else None)
        page = await self._devboxes.list(
            params.account_id(request),
            status=observed,
            metadata=metadata,
            name=name,
            limit=limit,
            starting_after=starting_after,
            count=include_total_count,
        )
        shown = [views.devbox_view(devbox) for devbox in page.items]
        return views.DevboxListView(devboxes=shown, has_more=page.has_more, total_count=page.total)

    async def metadata_keys(
        self, request: Request, limit: MetadataLimit = listing.METADATA_PAGE, starting_after: AfterMetadata = None
    ) -> views.MetadataKeysView:
        """Metadata keys that devboxes of the account have, in order."""
        page = await self._devboxes.metadata_keys(
            params.account_id(request), limit=limit, starting_after=starting_after
        )
        return views.MetadataKeysView(keys=list(page.items), has_more=page.has_more)

    async def metadata_values(
        self,
        request: Request,
        key: MetadataKey,
        limit: MetadataLimit = listing.METADATA_PAGE,
        starting_after: AfterMetadata = None,
    ) -> views.MetadataValuesView:
        """What devboxes of the account have as the value of a metadata key, in order."""
        page = await self._devboxes.metadata_values(
            params.account_id(request), key, limit=limit, starting_after=starting_after
        )
        return views.MetadataValuesView(key=key, values=list(page.items), has_more=page.has_more)

    async def update(self, request: Request, devbox_id: DevboxId, body: wire.UpdateBody) -> views.DevboxView:
        """Change name and metadata."""
        account_id = params.account_id(request)
        return views.devbox_view(
            await self._devboxes.update(account_id, devbox_id, name=body.name, metadata=body.metadata)
        )

    async def wait_for_status(self, request: Request, devbox_id: DevboxId, body: wire.WaitBody) -> views.DevboxView:
        """Answer once the devbox is in one of the statuses; 408 when it was not within the time."""
        statuses = frozenset(_OBSERVED[status] for status in body.statuses if status in _OBSERVED)
        timeout_s = WAIT_S if body.timeout_seconds is None else body.timeout_seconds
        waiting = self._devboxes.wait(params.account_id(request), devbox_id, statuses, timeout_s)
        return views.devbox_view(await hold.hold(request, waiting))

    async def shutdown(
        self,
        request: Request,
        devbox_id: DevboxId,
        body: Nothing,
        force: Annotated[bool, Query(description="Also while snapshots are made.")] = False,  # noqa: FBT002
    ) -> views.DevboxView:
        """End the devbox for good, in any state. Answers with `shutdown` at once; repeating it is harmless."""
        return views.devbox_view(await self._devboxes.shutdown(params.account_id(request), devbox_id, force=force))

    async def suspend(self, request: Request, devbox_id: DevboxId, body: Nothing) -> views.DevboxView:
        """Keep the devbox's disk, and give back its memory, processors and address. What runs in it ends."""
        return views.devbox_view(await self._devboxes.suspend(params.account_id(request), devbox_id))

    async def resume(self, request: Request, devbox_id: DevboxId, body: Nothing) -> views.DevboxView:
        """Start a suspended devbox again, with the disk that was kept. Its launch commands run again."""
        return views.devbox_view(await self._devboxes.resume(params.account_id(request), devbox_id))

    async def fork(self, request: Request, devbox_id: DevboxId, body: wire.ForkBody) -> views.ForkView:
        """Create devboxes that begin as this one's disk is now; it goes on running."""
        account_id, keep = params.account_id(request), params.keep(request)

        def kept(connection: sa.Connection, made: tuple[model.Devbox, ...]) -> None:
            if keep is not None:
                keep(connection, views.fork_view(made).model_dump_json(exclude_none=True).encode())

        made = await self._devboxes.fork(
            account_id,
            devbox_id,
            body.count,
            name=body.name,
            metadata=body.metadata,
            keep_memory=model.KeepMemory(body.keep_memory or model.KeepMemory.NEVER),
            also=kept,
        )
        return views.fork_view(made)

    async def lineage(self, request: Request, devbox_id: DevboxId) -> views.LineageView:
        """Which devboxes began as copies of which, in the tree that this one is in."""
        found = await self._devboxes.lineage(params.account_id(request), devbox_id)
        return views.LineageView(devboxes=[views.relative_view(relative) for relative in found])

    async def keep_alive(self, request: Request, devbox_id: DevboxId, body: Nothing) -> dict[str, Any]:
        """Count this moment as activity for the idle policy."""
        await self._devboxes.keep_alive(params.account_id(request), devbox_id)
        return {}

    async def usage(self, request: Request, devbox_id: DevboxId) -> views.UsageView:
        """What the devbox has had so far, and what its box uses now."""
        account_id = params.account_id(request)
        had = await self._devboxes.usage(account_id, devbox_id)
        return views.usage_view(had, await self._devboxes.consumption(account_id, devbox_id))

    async def logs(
        self,
        request: Request,
        devbox_id: DevboxId,
        execution_id: LogExecution = None,
        shell_name: LogShell = None,
    ) -> views.LogListView:
        """The devbox's log, also after its end."""
        entries = await self._devboxes.logs(params.account_id(request), devbox_id, execution_id=execution_id)
        shown = [views.log_view(entry) for entry in entries]
        return views.LogListView(logs=[view for view in shown if shell_name is None or view.shell_name == shell_name])

    async def tail_logs(
        self,
        request: Request,
        devbox_id: DevboxId,
        execution_id: LogExecution = None,
        shell_name: LogShell = None,
        starting_after: Annotated[
            str | None,
            Query(
                pattern=wire.CURSOR, max_length=wire.CURSOR_CHARS, description="The cursor of the last line that came."
            ),
        ] = None,
    ) -> Response:
        """The log as server-sent events: what `logs` shows, then each new line, until the devbox has ended."""
        which = service.Which(execution_id, shell_name)
        lines = await self._tails.tail(params.account_id(request), devbox_id, which, starting_after)
        return EventStream(_log_lines(lines))

    async def _create(self, request: Request, body: wire.CreateBody) -> model.Devbox:
        """Create; a repeat of the request gets the view of this moment, even if the server dies before it answers."""
        account_id = params.account_id(request)
        parameters.check_origin(body)
        origin = await self._devboxes.origin(
            account_id, blueprint_id=body.blueprint_id, blueprint_name=body.blueprint_name
        )
        wish = parameters.request(body, architecture=self._architecture, origin=origin)
        keep = params.keep(request)

        def kept(connection: sa.Connection, devbox: model.Devbox) -> None:
            if keep is not None:
                keep(connection, views.devbox_view(devbox).model_dump_json(exclude_none=True).encode())

        return await self._devboxes.create(account_id, wish, also=kept)

    async def watch_evictions(self, request: Request) -> Response:
        """Evictions to come, as server-sent events. This server evicts nobody: the stream stays silent."""
        return EventStream(_silence())


class FileRoutes:
    """Read and write files in a running devbox."""

    def __init__(self, files: service.Files) -> None:
        self._files = files

    async def read_file_contents(self, request: Request, devbox_id: DevboxId, body: wire.ReadFileBody) -> Response:
        """A UTF-8 file as text/plain."""
        text = await self._files.read_text(params.account_id(request), devbox_id, body.file_path)
        return PlainTextResponse(text)

    async def write_file_contents(
        self, request: Request, devbox_id: DevboxId, body: wire.WriteFileBody
    ) -> execution_views.ExecutionDetailView:
        """Write a text file whole, making its folders."""
        await self._files.write_text(params.account_id(request), devbox_id, body.file_path, body.contents)
        return execution_views.ExecutionDetailView(devbox_id=devbox_id, exit_status=0, stdout="", stderr="")

    async def upload_file(self, request: Request, devbox_id: DevboxId) -> dict[str, Any]:
        """Write a file of any size. The form's `path` comes before its `file`."""
        form = FileForm(request, file="file", fields=frozenset({"path"}))
        await form.open()
        path = wire.file_path(form.fields["path"])
        await self._files.upload(params.account_id(request), devbox_id, path, form.chunks())
        return {}

    async def download_file(self, request: Request, devbox_id: DevboxId, body: wire.DownloadFileBody) -> Response:
        """A file of any kind and size."""
        reader = await self._files.download(params.account_id(request), devbox_id, body.path)
        return Download(reader, path=body.path, size=reader.info.size)

    async def list_files(self, request: Request, devbox_id: DevboxId, body: wire.ListFilesBody) -> views.FileListView:
        """The entries of a directory."""
        entries = await self._files.list(params.account_id(request), devbox_id, body.path)
        return views.FileListView(files=[views.file_view(entry) for entry in entries])


async def _log_lines(lines: AsyncIterator[tuple[model.LogEntry, str]]) -> AsyncIterator[Mapping[str, Any]]:
    async for entry, cursor in lines:
        yield views.log_tail_view(entry, cursor).model_dump(exclude_none=True)


async def _silence() -> AsyncIterator[Mapping[str, Any]]:
    await asyncio.get_running_loop().create_future()  # ended by its reader
    yield {}
