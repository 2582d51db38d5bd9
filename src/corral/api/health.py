"""Whether boxes can be created, and the account of the caller: routes that belong to no capability."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from starlette.responses import JSONResponse, Response

from corral import __version__
from corral.http.model import View

#: Reasons for which no box can be created now, each with its remedy; none when all is well.
Probe = Callable[[], Awaitable[Sequence[str]]]


class HealthView(View):
    """`ok`, or why not."""

    status: Literal["ok", "unhealthy"]
    version: str
    reasons: list[str]


class HealthRoutes:
    """For load balancers and scripts; no key needed."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    async def healthz(self) -> Response:
        """200 when boxes can be created, else 503 with the reasons."""
        reasons = [*await self._probe()]
        view = HealthView(status="unhealthy" if reasons else "ok", version=__version__, reasons=reasons)
        return JSONResponse(view.model_dump(), status_code=503 if reasons else 200)
