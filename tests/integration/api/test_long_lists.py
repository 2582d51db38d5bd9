"""Ten thousand devboxes, listed by HTTP to the end with each filter."""

from __future__ import annotations

from typing import Final

import pytest
import sqlalchemy as sa

from corral.devboxes import rows
from corral.devboxes.model import DevboxRequest, Observed, Reason
from tests.integration.api.stand import Stand

N: Final = 10_000

#: Query, and numbers of the devboxes that it shows.
FILTERS: Final = [
    ("", range(N)),
    ("&status=shutdown", [number for number in range(N) if number % 10]),
    ("&status=failure", range(0, N, 10)),
    ("&status=running", []),
    ("&status=queued", []),
    ("&metadata[half]=1", range(1, N, 2)),
    ("&metadata[one]=7", [7]),
    ("&metadata[one][in]=7,10,4000", [7, 10, 4000]),
    ("&metadata[half]=0&status=failure", range(0, N, 10)),
    ("&metadata[half]=1&metadata[one][in]=7,10&name=box-2", [7]),
]


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_long_list_is_read_to_its_end_with_every_filter(stand: Stand) -> None:
    account_id = (await stand.client.get("/v1/accounts/me")).json()["id"]

    def fill(connection: sa.Connection) -> None:
        shutdown = rows.Step((Observed.SHUTDOWN,), Reason.API_SHUTDOWN)
        failure = rows.Step((Observed.FAILURE,), Reason.OUT_OF_MEMORY)
        for number in range(N):
            wish = DevboxRequest(f"box-{number % 5}", {"half": str(number % 2), "one": str(number)})
            rows.insert(connection, name(number), account_id, wish, 1000)
            rows.transition(connection, name(number), rows.LIVE, shutdown if number % 10 else failure, 2000)

    await stand.store.write(fill)
    for query, numbers in FILTERS:
        found, after = [], ""
        while True:
            answer = await stand.client.get(f"/v1/devboxes?limit=1000{query}{after}")
            page = answer.raise_for_status().json()
            assert page["total_count"] == len(numbers), query
            found += [devbox["id"] for devbox in page["devboxes"]]
            if not page["has_more"]:
                break
            after = f"&starting_after={found[-1]}"
        assert found == [name(number) for number in sorted(numbers, reverse=True)], query


def name(number: int) -> str:
    return f"dbx_{number:021}"
