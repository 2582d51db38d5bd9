"""Why a build failed, in the words of whoever wrote the Dockerfile: the step, its command, its exit code, its output.

Owns the choice of the reason. Pure. What the devbox says is hostile, and harms no more than its own explanation.
"""

from __future__ import annotations

import re
from typing import Final

from corral.core import errors
from corral.devboxes.model import Devbox, Execution, Reason
from corral.images.builds.harvest import Result
from corral.images.builds.log import Reached
from corral.images.builds.model import BuildFailure, FailureReason
from corral.runtime.contract import Usage

#: A disk this near to its limit is full: the last pages of it are the filesystem's.
_FULL: Final = 0.98
_NO_SPACE: Final = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_EXIT: Final = re.compile(r"exit status (\d+)$")
_MISSING: Final = re.compile(
    r"^creating build container: (?P<why>.*)|^(?P<copy>COPY --from=\S+: no stage or image found.*)", re.DOTALL
)
_FROM: Final = re.compile(r"^FROM\s+(?:--platform=\S+\s+)?(\S+)", re.IGNORECASE)

_SAID: Final = 500


def unwanted() -> BuildFailure:
    """Nothing needs its image any more."""
    return BuildFailure(FailureReason.BUILD_FAILED, "the build was ended: nothing needs its image any more")


def lost(why: str) -> BuildFailure:
    """It cannot be carried out."""
    return BuildFailure(FailureReason.BUILD_FAILED, f"cannot build the image: {why}")


def not_furnished(problem: errors.CorralError) -> BuildFailure:
    """Bases or context could not be put into its devbox."""
    full = isinstance(problem, errors.TooLarge)
    reason = FailureReason.OUT_OF_DISK if full else FailureReason.BUILD_FAILED
    return BuildFailure(reason, f"cannot prepare the build: {problem.message}")


def bad_image(problem: errors.CorralError) -> BuildFailure:
    """What came out of its devbox is no image."""
    return BuildFailure(FailureReason.BUILD_FAILED, problem.message)


def bereft(devbox: Devbox, reached: Reached) -> BuildFailure:
    """Its devbox ended."""
    reason = {Reason.OUT_OF_MEMORY: FailureReason.OUT_OF_MEMORY, Reason.OUT_OF_DISK: FailureReason.OUT_OF_DISK}
    why = devbox.message or devbox.reason.value
    return _at(reached, reason.get(devbox.reason, FailureReason.BUILD_FAILED), f"its devbox ended: {why}", None)


def failed(
    result: Result | None, execution: Execution, reached: Reached, usage: Usage | None, limit_s: float
) -> BuildFailure:
    """The program ended, and there is no image. `result` is None when it was killed."""
    said = result.message if result is not None else ""
    found = _EXIT.search(said)
    code = int(found[1]) if found and reached.step else None
    if usage is not None and usage.oom_kills:
        memory = usage.limits.memory >> 20
        return _at(reached, FailureReason.OUT_OF_MEMORY, f"it needed more than its {memory} MiB of memory", code)
    if _is_full(said, reached, usage):
        disk = f" of {usage.limits.disk >> 20} MiB" if usage is not None else ""
        return _at(reached, FailureReason.OUT_OF_DISK, f"its disk{disk} is full", code)
    if result is None:
        message = f"the program that builds ended with code {execution.exit_code} and said nothing"
        return _at(reached, FailureReason.BUILD_FAILED, message, code)
    if result.late:
        return _at(reached, FailureReason.BUILD_FAILED, f"it took longer than {limit_s:g} s", code)
    if result.stage == "build" and (missing := _MISSING.search(said)) is not None:
        return _at(reached, FailureReason.BUILD_FAILED, _missing(missing, reached), None)
    message = f"its command exited with code {code}" if code is not None else said[-_SAID:]
    return _at(reached, FailureReason.BUILD_FAILED, message, code)


def _is_full(said: str, reached: Reached, usage: Usage | None) -> bool:
    if usage is not None and usage.disk >= _FULL * usage.limits.disk:
        return True
    return _NO_SPACE.search(said) is not None or _NO_SPACE.search(reached.output) is not None


def _missing(found: re.Match[str], reached: Reached) -> str:
    """A base that is nowhere; what its user can do about it."""
    named = _FROM.search(reached.command)
    if named is None:
        return f"{(found['why'] or found['copy'])[:_SAID]}; {_remedy('NAME')}"
    return f"there is no image {named[1]} on this host, and no registry gave it ({_last(found['why'])}); " + _remedy(
        named[1]
    )


def _remedy(name: str) -> str:
    return f"import it with `corral image import`, or say which image it is with `corral image alias {name} IMAGE`"


def _last(text: str) -> str:
    """The cause at the end of a chain of wrapped errors, short."""
    return text[-_SAID:].strip()


def _at(reached: Reached, reason: FailureReason, why: str, code: int | None) -> BuildFailure:
    if not reached.step:
        return BuildFailure(reason, f"cannot build the image: {why}")
    message = f"cannot build the image: {reached}, {reached.command}: {why}"
    return BuildFailure(reason, message, reached.step, reached.command, code, reached.output)
