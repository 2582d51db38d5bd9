"""Several stock images at once, as many as keep a machine's cores busy.

Owns the threads, which die with the command that waits for them, and so do the builds that they watch. Must not know
how an image is made.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from corral.images import build
from corral.images.packages import Report, Step
from corral.images.stock import Flavour
from corral.images.store import ImageStore, Stored

#: Half of a build waits for the network or the disk; more of them are only in each other's way.
AT_ONCE: Final = 2

_Outcome = tuple[Flavour, Stored | BaseException]


def build_all(
    images: ImageStore,
    flavours: Sequence[Flavour],
    report: Callable[[Flavour, Step], None],
    *,
    force: bool = False,
    mirror: str | None = None,
) -> Iterator[tuple[Flavour, Stored]]:
    """Build the flavours; yields each that is ready, in the order in which they get so.

    What several are built on is built once, with the first of them. Raises what the first that fails raises, after the
    others have come to an end.
    """
    todo: queue.SimpleQueue[Flavour] = queue.SimpleQueue()
    done: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
    for flavour in flavours:
        todo.put(flavour)

    def work() -> None:
        while True:
            try:
                flavour = todo.get_nowait()
            except queue.Empty:
                return
            done.put((flavour, _outcome(flavour)))

    def _outcome(flavour: Flavour) -> Stored | BaseException:
        told: Report = lambda step: report(flavour, step)  # noqa: E731
        try:
            return build.build(images, flavour, told, force=force, mirror=mirror)
        except BaseException as problem:  # noqa: BLE001 - raised by who waits
            return problem

    for number in range(min(AT_ONCE, len(flavours))):
        # A daemon: an interrupted command must not wait for it.
        threading.Thread(target=work, name=f"build {number}", daemon=True).start()
    failure: BaseException | None = None
    for _ in flavours:
        flavour, outcome = done.get()
        if isinstance(outcome, BaseException):
            failure = failure or outcome
        else:
            yield flavour, outcome
    if failure is not None:
        raise failure
