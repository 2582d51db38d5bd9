"""The server's own verbs of the `corral` program: serve, doctor, conformance.

Owns options, tables and exit codes of these. Must not decide anything about the host or a box.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from corral import daemon
from corral.core import errors
from corral.core.settings import LogFormat, LogLevel, RuntimeName, Settings, load
from corral.daemon import machine
from corral.images import stock
from corral.images.service import Images
from corral.runtime import conformance as suite
from corral.runtime.contract import BoxSpec, HostUnfit
from corral.runtime.fake import DIFFERENCES, FakeHost, FakeRuntime
from corral.runtime.oci import facts, probe
from corral.runtime.oci.driver import OciRuntime

_STYLES: Final = {facts.Verdict.OK: "green", facts.Verdict.WARN: "yellow", facts.Verdict.FAIL: "bold red"}

Data = Annotated[Path | None, typer.Option("--data", help="Data folder; else CORRAL_DATA, else /var/lib/corral.")]
RuntimeOption = Annotated[RuntimeName | None, typer.Option("--runtime", help="`oci` or `fake` (for tests).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def serve(
    listen: Annotated[str | None, typer.Option("--listen", help="HOST:PORT; else CORRAL_LISTEN.")] = None,
    data: Data = None,
    runtime: RuntimeOption = None,
    log_format: Annotated[LogFormat | None, typer.Option("--log-format", help="Form of the log's lines.")] = None,
    log_level: Annotated[LogLevel | None, typer.Option("--log-level", help="Least level that is logged.")] = None,
) -> None:
    """Serve the API, and run devboxes on this host, until SIGTERM or Ctrl-C. Devboxes outlive the server.

    Every option has a variable: CORRAL_LISTEN, CORRAL_DATA, … (docs/reference/settings.md). Needs root.

    Example: corral serve --listen 127.0.0.1:8700 --data /var/lib/corral
    """
    with _told():
        settings = load(
            os.environ, listen=listen, data=data, runtime=runtime, log_format=log_format, log_level=log_level
        )
    raise typer.Exit(daemon.main(settings))


def doctor(data: Data = None, *, as_json: Json = False) -> None:
    """Show what this host offers, what it lacks, and how to mend it. Exit code 1 when it cannot run boxes.

    Changes nothing on the host.

    Example: corral doctor --json
    """
    with _told():
        settings = load(os.environ, data=data)
        oci = machine.oci_settings(settings)
        found = [*probe.facts(oci), probe.memory_fact(oci), *_image_facts(settings)]
    if as_json:
        typer.echo(json.dumps([asdict(fact) for fact in found], indent=2))
    else:
        _show(found)
    raise typer.Exit(1 if any(fact.verdict is facts.Verdict.FAIL for fact in found) else 0)


def conformance(
    runtime: RuntimeOption = RuntimeName.OCI,
    only: Annotated[list[str] | None, typer.Argument(help="Names of checks; all when there is none.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Hold the runtime on this host to every promise of its contract. Exit code 1 when one is broken.

    Makes and removes boxes in a temporary data folder; a running server is not disturbed.

    Example: corral conformance --runtime oci
    """
    with _told(), tempfile.TemporaryDirectory(prefix="corral-conformance-") as folder:
        settings = load(os.environ, data=Path(folder), runtime=runtime)
        results = asyncio.run(_check(settings, only or None, show=not as_json))
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results], indent=2))
    raise typer.Exit(1 if suite.broken(results) else 0)


async def _check(settings: Settings, only: list[str] | None, *, show: bool) -> list[suite.CheckResult]:
    def tell(result: suite.CheckResult) -> None:
        if show:
            typer.echo(suite.line(result))

    if settings.runtime is RuntimeName.FAKE:
        with FakeHost(settings.data / "fake") as host:
            hooks = suite.Hooks(kill=lambda box: host.kill_box(box.id), stop=lambda box: host.stop_box(box.id))
            runtime = FakeRuntime(host)
            await runtime.start()
            try:
                return await suite.run(
                    runtime, lambda box: BoxSpec(box, (), "conformance"), only,
                    hooks=hooks, differences=DIFFERENCES, on_result=tell,
                )  # fmt: skip
            finally:
                await runtime.close()
    image = Images(settings.images).resolve()
    driver = OciRuntime(machine.oci_settings(settings))
    await driver.start()
    try:
        return await suite.run(
            driver,
            lambda box: BoxSpec(box, image.layers, "conformance", user=image.user, env=image.env),
            only,
            on_result=tell,
        )
    finally:
        for left in await driver.boxes():
            await driver.destroy(left.id)
        await driver.close()


def _image_facts(settings: Settings) -> Iterator[facts.Fact]:
    """The image without which nothing starts, and those without which one thing or another does not."""
    images = Images(settings.images)
    for title, name, lacking in (
        ("default image", stock.DEFAULT, facts.Verdict.FAIL),
        ("image for Docker in devboxes", stock.DOCKER, facts.Verdict.WARN),
        ("image for builds", stock.BUILDER, facts.Verdict.WARN),
    ):
        try:
            image = images.resolve(name)
        except errors.CorralError as problem:
            yield facts.Fact(title, lacking, problem.message, f"corral image build {name}")
        else:
            yield facts.Fact(title, facts.Verdict.OK, f"{image.name} {image.digest[:19]} in {settings.images}")


def _show(found: list[facts.Fact]) -> None:
    remedy = Column("what to do", overflow="fold")  # a command that is cut short mends nothing
    table = Table("what", "", "found", remedy, box=None, pad_edge=False, header_style="bold")
    for fact in found:
        verdict = f"[{_STYLES[fact.verdict]}]{fact.verdict.value}[/]"
        table.add_row(fact.name, verdict, escape(fact.found), escape(fact.remedy))
    Console().print(table)


@contextmanager
def _told() -> Iterator[None]:
    """Tell what the host or the call lacks on standard error, and end with exit code 1."""
    try:
        yield
    except HostUnfit as problem:
        sys.stderr.write(f"corral: {problem.message}; {problem.remedy}\n")
        raise typer.Exit(1) from problem
    except errors.CorralError as problem:
        sys.stderr.write(f"corral: {problem.message}\n")
        raise typer.Exit(1) from problem
    except ValueError as problem:  # a name of a check that there is not
        sys.stderr.write(f"corral: {problem}\n")
        raise typer.Exit(2) from problem
