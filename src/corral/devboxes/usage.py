"""What a devbox has had so far, computed from its transitions. Pure."""

from __future__ import annotations

from corral.devboxes.model import Devbox, Observed, Usage
from corral.runtime.contract import GIB


def usage(devbox: Devbox, now_ms: int) -> Usage:
    """Seconds since its creation and of running, times its limits. An ended devbox no longer counts up."""
    end_ms = devbox.ended_at_ms if devbox.ended_at_ms is not None else now_ms
    elapsed_s = max(0, end_ms - devbox.created_at_ms) / 1000
    active_s = _running_ms(devbox, end_ms) / 1000
    limits = devbox.request.limits
    return Usage(
        id=devbox.id,
        status=devbox.observed,
        start_time_ms=devbox.created_at_ms,
        end_time_ms=devbox.ended_at_ms,
        total_elapsed_seconds=int(elapsed_s),
        total_active_seconds=int(active_s),
        vcpu_seconds=int(active_s * limits.cpu),
        memory_gb_seconds=int(active_s * limits.memory / GIB),
        disk_gb_seconds=int(elapsed_s * limits.disk / GIB),
    )


def _running_ms(devbox: Devbox, end_ms: int) -> int:
    """Time in `running`: from each entry to the next transition."""
    ends = [one.at_ms for one in devbox.transitions[1:]] + [end_ms]
    spans = zip(devbox.transitions, ends, strict=True)
    return sum(max(0, end - one.at_ms) for one, end in spans if one.status is Observed.RUNNING)
