"""When a devbox ends by itself, or a state has lasted too long. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from corral.devboxes.model import Devbox, Observed, Reason


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a state may last."""

    provisioning_s: float
    initializing_s: float


@dataclass(frozen=True, slots=True)
class Deadline:
    """`left_s` until the devbox ends for `reason`; not above 0 when that is due."""

    left_s: float
    reason: Reason
    message: str


def deadline(devbox: Devbox, limits: Limits, *, now_ms: int, idle_s: float) -> Deadline | None:
    """The next deadline of a devbox in its present state. None when it has ended or is suspended."""
    if devbox.observed is Observed.PROVISIONING:
        left = limits.provisioning_s - _since(devbox.observed_at_ms, now_ms)
        return Deadline(left, Reason.START_FAILED, f"no box was made within {limits.provisioning_s:g} s")
    if devbox.observed is Observed.INITIALIZING:
        left = limits.initializing_s - _since(devbox.observed_at_ms, now_ms)
        message = f"files and launch commands took over {limits.initializing_s:g} s"
        return Deadline(left, Reason.LAUNCH_FAILED, message)
    if devbox.observed is Observed.SUSPENDING:
        limit = limits.provisioning_s + devbox.request.suspend_limit_s
        return Deadline(
            limit - _since(devbox.observed_at_ms, now_ms), Reason.NONE, f"its disk was not kept within {limit:g} s"
        )
    if devbox.observed is not Observed.RUNNING:
        return None
    request = devbox.request
    if request.idle_s is not None:
        idle_s = min(idle_s, _since(devbox.observed_at_ms, now_ms))
        return Deadline(request.idle_s - idle_s, Reason.IDLE, f"nothing was asked of it for {request.idle_s} s")
    left = request.keep_alive_s - _since(devbox.observed_at_ms, now_ms)
    return Deadline(left, Reason.KEEP_ALIVE_TIMEOUT, f"its {request.keep_alive_s} s are over")


def _since(at_ms: int, now_ms: int) -> float:
    return (now_ms - at_ms) / 1000
