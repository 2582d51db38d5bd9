"""Every promise of the contract, on every runtime."""

from __future__ import annotations

import pytest

from corral.runtime.conformance import CHECKS, Check, Outcome, run_check
from corral.runtime.fake import DIFFERENCES
from tests.conformance.conftest import Stand

BY_NAME = {check.name: check for check in CHECKS}

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def keep(check: Check, stand: Stand) -> None:
    """Run the check; a known difference is skipped with its reason."""
    bench = stand.bench()
    result = await run_check(check, bench, stand.differences.get(check.name))
    stand.runtime = bench.runtime
    if result.outcome is Outcome.KNOWN:
        pytest.xfail(result.detail)
    assert result.outcome is Outcome.KEPT, f"{check.promise}\n{result.detail}"


@pytest.mark.parametrize("name", BY_NAME)
async def test_the_fake_keeps_the_contract(fake: Stand, name: str) -> None:
    await keep(BY_NAME[name], fake)


@pytest.mark.root
@pytest.mark.image
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", BY_NAME)
async def test_the_oci_driver_keeps_the_contract(oci: Stand, name: str) -> None:
    await keep(BY_NAME[name], oci)


async def test_every_check_has_a_name_and_a_promise() -> None:
    assert len(BY_NAME) == len(CHECKS)
    assert all(check.name and check.promise.endswith(".") for check in CHECKS)


async def test_every_known_difference_is_of_a_check() -> None:
    assert set(DIFFERENCES) <= set(BY_NAME)
