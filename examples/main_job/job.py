"""The job, step by step, as a person would watch it."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from corral_sdk import Corral, Devbox
from corral_sdk.errors import CorralError
from examples.main_job import library
from examples.main_job.model import Model
from examples.main_job.server import Server

# litellm asks for mcp as soon as a model has tools, but does not require it; all three are pinned together.
AGENT = ("mini-swe-agent==2.4.6", "litellm==1.106.2", "mcp==2.3.0")
PROJECT = "/home/user/library"
TASK = (
    f"The project in {PROJECT} is the Python library {library.NAME}. A test of windowed() fails. Find the bug in the "
    "library, repair it, and make sure that the whole test suite passes. Do not change the tests."
)


class JobFailed(Exception):
    """A step did not do what it had to."""


@dataclass
class TimeLine:
    """What was done when, on the screen and for the table at the end."""

    console: Console
    began: float = field(default_factory=time.monotonic)
    steps: list[tuple[str, float, float]] = field(default_factory=list)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show a heading, and note how long the block took."""
        start = time.monotonic()
        self.console.rule(f"[bold]{escape(title)}[/bold]", align="left")
        yield
        self.steps.append((title, start - self.began, time.monotonic() - start))

    def table(self) -> Table:
        """The steps with their start and length in seconds."""
        table = Table(title="Time line", title_justify="left")
        for heading, justify in (("step", "left"), ("at", "right"), ("took", "right")):
            table.add_column(heading, justify="right" if justify == "right" else "left")
        for title, at, took in self.steps:
            table.add_row(title, f"{at:.1f} s", f"{took:.2f} s")
        return table


@dataclass
class Job:
    """One run of the demo on one devbox."""

    console: Console
    devbox: Devbox

    def run(self, command: str, *, show: bool = True, must: bool = True) -> str:
        """Run a command, show its output as it comes, and return its standard output. Raises JobFailed."""
        output = self.devbox.exec_stream(command)
        parts = []
        for chunk in output:
            if chunk.stream == "stdout":
                parts.append(chunk.text)
            if show:
                self.console.print(escape(chunk.text), end="", highlight=False, soft_wrap=True)
        if must and output.exit_code:
            raise JobFailed(f"cannot run {command!r}: exit code {output.exit_code}: {''.join(parts)[-2000:]}")
        return "".join(parts)

    def prepare(self, source: Path) -> None:
        """Copy the library into the devbox and make it a git repository, so that the change can be shown."""
        self.devbox.upload(source, PROJECT)
        commit = "git -c user.name=demo -c user.email=demo@localhost commit -qm start"
        self.run(f"cd {PROJECT} && git init -q && git add -A && {commit}")

    def test(self) -> bool:
        """Run the library's own tests; show the end of what they print; say whether all passed."""
        report = self.run(f"cd {PROJECT} && {library.TESTS} 2>&1 | tail -4", must=False)
        return report.rstrip().endswith("OK")

    def install_agent(self) -> None:
        """Install the agent from the package registry, as user, in an environment of its own."""
        packages = " ".join(shlex.quote(package) for package in AGENT)
        self.run(f"python3 -m venv ~/agent && ~/agent/bin/pip install --quiet --progress-bar off {packages}")
        self.run("~/agent/bin/pip list 2>/dev/null | grep -E '^(mini-swe-agent|litellm|openai) '")

    def gateway(self) -> str:
        """The host's address as the devbox sees it."""
        return self.run("ip -4 route show default", show=False).split()[2]

    def let_agent_work(self, model: Model) -> None:
        """Run the agent on the task, showing what it does as it does it."""
        settings = {
            "OPENAI_API_KEY": "held-by-the-host",
            "OPENAI_BASE_URL": f"http://{model.address}:{model.port}/v1",
            "MSWEA_CONFIGURED": "true",
            "MSWEA_COST_TRACKING": "ignore_errors",
            "MSWEA_SILENT_STARTUP": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "true",
            "PYTHONUNBUFFERED": "1",
        }
        env = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
        # The agent gives a command 30 s unless told otherwise; the test suite takes longer on a busy machine.
        config = "-c mini.yaml -c environment.timeout=300"
        agent = (
            f"~/agent/bin/mini {config} --yolo --exit-immediately --cost-limit 0 -m {model.name} -o ~/trajectory.json"
        )
        self.run(f"cd {PROJECT} && {env} {agent} -t {shlex.quote(TASK)} 2>&1 | grep -v '^ *$'")
        if model.failures or not model.calls:
            raise JobFailed(
                f"cannot finish the task: {'; '.join(model.failures) or 'the agent never asked the model'}"
            )

    def diff(self) -> str:
        """What the agent changed."""
        return self.run(f"cd {PROJECT} && git diff", show=False)


def resources(devbox: Devbox) -> Table:
    """What the devbox has used, beside its limits."""
    usage = devbox.consumption()
    table = Table(title="Resources used", title_justify="left")
    for heading in ("what", "used", "limit"):
        table.add_column(heading)
    table.add_row("CPU", f"{usage.cpu_us / 1e6:.1f} s", f"{usage.cpu_limit:g} core")
    table.add_row("memory, peak", _mib(usage.memory_peak), _mib(usage.memory_limit))
    table.add_row("disk", _mib(usage.disk), _mib(usage.disk_limit))
    return table


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"


def work(console: Console, line: TimeLine, server: Server, source: Path) -> None:
    """The whole job on a running server. Raises JobFailed; the devbox is shut down in any case."""
    client = Corral(base_url=server.url, api_key=server.key)
    with line.step("Create a devbox"):
        start = time.monotonic()
        devbox = client.devboxes.create(name="main-job", size="MEDIUM")
        console.print(f"{devbox.id} is running after {(time.monotonic() - start) * 1e3:.0f} ms")
    job = Job(console, devbox)
    try:
        _repair(job, line, source, server)
        console.print(resources(devbox))
    finally:
        with line.step("Shut the devbox down"):
            devbox.shutdown()
    console.print(line.table())


def _repair(job: Job, line: TimeLine, source: Path, server: Server) -> None:
    with line.step(f"Copy {library.NAME} {library.VERSION} into it, with a bug in {library.FILE}"):
        job.prepare(source)
    with line.step("The library's own tests, before"):
        if job.test():
            raise JobFailed("cannot show a repair: the tests pass before it")
    with line.step("Install a real agent: mini-swe-agent"):
        job.install_agent()
    with Model(job.gateway(), server.service_port) as model:
        kind = (
            "a real model, through the host, which keeps the key" if model.is_real else "a scripted model on the host"
        )
        with line.step(f"The agent works; it asks {kind}"):
            job.let_agent_work(model)
            job.console.print(f"\nthe agent asked the model {model.calls} times")
    with line.step("What it changed"):
        diff = job.diff()
        job.console.print(Syntax(diff, "diff", background_color="default"))
        if not diff.strip():
            raise JobFailed("cannot show a repair: the agent changed nothing")
    with line.step("The library's own tests, after"):
        if not job.test():
            raise JobFailed("cannot finish the task: the tests still fail")


def _interrupt(number: int, _frame: object) -> None:
    raise JobFailed(f"cannot go on: stopped by {signal.Signals(number).name}")


def _run(console: Console, folder: Path) -> None:
    line = TimeLine(console)
    with line.step(f"Fetch {library.NAME} from the package registry"):
        source = library.fetch(folder)
        library.put_bug_in(source)
    server = Server()
    with contextlib.ExitStack() as running:
        with line.step("Start a server on a fresh data folder"):
            console.print(
                f"corral serve --listen {server.url.removeprefix('http://')} --data {server.folder / 'data'}"
            )
            running.enter_context(server)
        work(console, line, server, source)
    if left := server.leftovers():
        raise JobFailed(f"cannot leave nothing behind: {', '.join(left)}")


def main() -> int:
    """Run the demo; 0 when the library was repaired and nothing was left behind."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    console = Console(highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="corral-demo-source-"))
    try:
        _run(console, folder)
    except (JobFailed, CorralError, RuntimeError) as error:
        console.print(f"[red]demo: {escape(str(error))}[/red]")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print("[green]The library is repaired, its tests pass, and nothing is left on this machine.[/green]")
    return 0
