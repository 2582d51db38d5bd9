from __future__ import annotations

import pytest

from corral.core import errors
from corral.core.clock import ManualClock
from corral.devboxes.vitals import Vitals
from corral.runtime.contract import BadCommand, BoxGone


async def test_a_devbox_is_idle_since_it_was_last_touched() -> None:
    clock = ManualClock()
    vitals = Vitals(clock)
    await clock.advance(10)
    assert vitals.idle_s("a") == 10  # since the server started
    vitals.touch("a")
    await clock.advance(5)
    assert vitals.idle_s("a") == 5


async def test_a_devbox_with_an_open_command_is_not_idle() -> None:
    clock = ManualClock()
    vitals = Vitals(clock)
    vitals.command_began("a")
    vitals.command_began("a")
    vitals.command_ended("a")
    await clock.advance(10)
    assert vitals.idle_s("a") == 0
    vitals.command_ended("a")
    await clock.advance(3)
    assert vitals.idle_s("a") == 3


def test_a_call_that_a_dead_box_would_explain_raises_a_doubt() -> None:
    heard: list[str] = []
    vitals = Vitals(ManualClock())
    vitals.on_doubt = heard.append
    with pytest.raises(errors.WrongState), vitals.watching("a"):
        raise BoxGone("cannot x: y")
    assert heard == ["a"]


def test_a_silent_guest_stays_so_until_its_devbox_is_forgotten() -> None:
    vitals = Vitals(ManualClock())
    vitals.silence("a")
    assert (vitals.is_silent("a"), vitals.is_silent("b")) == (True, False)
    vitals.forget("a")
    assert not vitals.is_silent("a")


def test_a_callers_mistake_raises_none() -> None:
    heard: list[str] = []
    vitals = Vitals(ManualClock())
    vitals.on_doubt = heard.append
    with pytest.raises(errors.Invalid), vitals.watching("a"):
        raise BadCommand("cannot x: y")
    assert heard == []
