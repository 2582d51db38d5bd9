"""Recipes: what is pinned, and what makes a host build its image again."""

from __future__ import annotations

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
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_a_recipe_counts(change: dict[str, object]) -> None:
    assert replace(DEFAULT, **change).recipe() != DEFAULT.recipe()  # type: ignore[arg-type]


def test_a_file_of_the_skeleton_counts() -> None:
    names = {str(path.relative_to(stock.SKELETON)) for path in stock.skeleton_files()}
    assert {"etc/profile", "etc/skel/.bashrc", "etc/sudoers.d/user", "usr/sbin/policy-rc.d"} <= names


def test_every_wheel_is_pinned_by_its_content() -> None:
    assert DEFAULT.node is not None
    for wheel in (*DEFAULT.wheels, DEFAULT.node):
        assert re.fullmatch(rf"{wheel.name}==[\d.]+( --hash=sha256:[0-9a-f]{{64}})+", wheel.requirement())


def test_an_unknown_recipe_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(errors.NotFound, match=r"cannot build image arch: .* there are debian-12"):
        stock.flavour("arch")
