"""The blocking client is what the generator makes of the asyncio one."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import corral_sdk
from corral_sdk._async import client as async_client
from corral_sdk._async import devbox as async_devbox
from corral_sdk._async import execution as async_execution
from corral_sdk._sync import client as sync_client
from corral_sdk._sync import devbox as sync_devbox
from corral_sdk._sync import execution as sync_execution

TOOL = Path(__file__).parents[3] / "sdk" / "tools" / "generate_sync.py"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_sync", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_blocking_client_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, TOOL, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_async_words_are_dropped_and_names_exchanged() -> None:
    source = '''"""The AsyncThing of an asyncio client; `await` it."""

import asyncio


class AsyncThing:
    async def __aenter__(self) -> "AsyncThing":
        return self

    async def read(self) -> AsyncIterator[int]:
        async with self.lock:
            yield [x async for x in self]  # an AsyncThing of its own
        await self.aclose()
'''
    made = load_tool().to_sync(source, "_async/thing.py")
    code = made.split("import", 1)[1]
    assert "Made from _async/thing.py" in made
    assert "async" not in code
    assert "Async" not in code
    assert "await" not in code
    assert "def __enter__(self)" in made
    assert "yield [x for x in self]  # an Thing of its own" in made
    assert "self.close()" in made
    compile(made, "made", "exec")


@pytest.mark.parametrize(
    ("written", "made"),
    [
        (async_client.AsyncCorral, sync_client.Corral),
        (async_client.AsyncDevboxes, sync_client.Devboxes),
        (async_devbox.AsyncDevbox, sync_devbox.Devbox),
        (async_execution.AsyncExecution, sync_execution.Execution),
    ],
)
def test_both_clients_have_the_same_methods_and_parameters(written: type, made: type) -> None:
    def shape(cls: type) -> dict[str, list[str]]:
        members = inspect.getmembers(cls, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in members if not name.startswith("_")}

    assert shape(made) == shape(written)
    assert not any(inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f) for f in vars(made).values())


def test_the_door_names_both_clients() -> None:
    assert corral_sdk.Corral is sync_client.Corral
    assert corral_sdk.AsyncCorral is async_client.AsyncCorral
    assert {name: getattr(corral_sdk, name).__name__ for name in corral_sdk.__all__[:-1]} == {
        name: name for name in corral_sdk.__all__[:-1]
    }
    with pytest.raises(AttributeError):
        _ = corral_sdk.Nothing


def test_everything_that_outsiders_call_is_documented() -> None:
    missing = [
        f"{cls.__name__}.{name}"
        for cls in (async_client.AsyncCorral, async_client.AsyncDevboxes, async_devbox.AsyncDevbox)
        for name, member in vars(cls).items()
        if not name.startswith("_") and not inspect.getdoc(member)
    ]
    assert missing == []
