"""The host's Debian mirror: read from apt's own view of its sources, third-party lists left out.

Owns the choice of `deb` lines for a suite. Must not write to the host's configuration.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.core import errors

_FORMAT: Final = "$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"

#: Of apt's options only these decide whether a mirror can be reached; the rest is the host's own business.
_ACQUIRE: Final = (
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Retries",
    "Acquire::ForceIPv",
    "Acquire::Check-",
    "Acquire::Proxy-Auto-Detect",
    "Acquire::Max-FutureTime",
)


@dataclass(frozen=True, slots=True)
class Source:
    """One line of apt's sources, with what the mirror says of itself; `origin` is "" when it was never fetched."""

    origin: str
    codename: str
    uri: str
    suite: str
    component: str


def parse(text: str) -> list[Source]:
    """Sources from the output of `apt-get indextargets` with our format; apt leaves unknown fields as `$(NAME)`."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 4]
    known = [["" if cell.startswith("$(") else cell for cell in row] for row in rows]
    return [Source(origin, code or suite, uri, suite, part) for origin, code, uri, suite, part in known]


def lines(sources: Iterable[Source], suite: str) -> list[str]:
    """`deb` lines for `suite` (for example `bookworm`) from the host's own mirrors of Debian.

    A host that runs another release of Debian lends its mirrors; [] when the host has none.
    """
    pockets: dict[str, str] = {}
    for source in sources:
        if source.origin not in {"", "Debian"} or source.component != "main":
            continue
        pocket = source.codename.partition("-")[2].replace("/", "-")
        if pocket in {"", "updates", "security"} and (uri := reachable(source.uri)):
            pockets.setdefault(pocket, uri)
    if "" not in pockets:
        return []
    return [f"deb {uri} {suite}{'-' if pocket else ''}{pocket} main" for pocket, uri in sorted(pockets.items())]


def reachable(uri: str) -> str | None:
    """The URI as a box can use it; None for media of the host. A mirror list (cloud images) gives its first entry."""
    scheme, _, rest = uri.partition(":")
    if scheme in {"http", "https"}:
        return uri
    if scheme != "mirror+file":
        return None
    listed = Path("/" + rest.strip("/")).read_text().splitlines()
    entries = [line.split()[0] for line in listed if line.strip() and not line.startswith("#")]
    return reachable(entries[0]) if entries else None


def of_host(suite: str, override: str | None = None) -> list[str]:
    """The `deb` lines for a build. `override` is `URI` or `URI SECURITY_URI`, for hosts without a mirror of Debian.

    Raises Unavailable with the remedy.
    """
    if override:
        archive, *security = override.split()
        extra = [f"deb {uri} {suite}-security main" for uri in security]
        return [f"deb {archive} {suite} main", f"deb {archive} {suite}-updates main", *extra]
    sources = _indextargets()
    if any(not source.origin for source in sources):
        # Without the mirrors' own Release files a third party's list cannot be told from Debian's.
        _apt("update", "-qq")
        sources = _indextargets()
    if found := lines(sources, suite):
        return found
    message = "cannot build image: apt has no mirror of Debian configured"
    raise errors.Unavailable(message, remedy="set CORRAL_DEBIAN_MIRROR to the address of one")


def acquire_options() -> str:
    """The host's apt options (proxies, retries, certificates) for reaching mirrors, in apt's own syntax."""
    listed = _run("apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', "Acquire")
    return "".join(f"{line}\n" for line in listed.splitlines() if line.startswith(_ACQUIRE))


def _indextargets() -> list[Source]:
    return parse(_apt("indextargets", "--format", _FORMAT, "Created-By: Packages"))


def _apt(*arguments: str) -> str:
    return _run("apt-get", *arguments)


def _run(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300)
    except FileNotFoundError:
        message = f"cannot build image: no {argv[0]} in PATH"
        raise errors.Unavailable(message, remedy="stock images are built on hosts with apt (Debian, Ubuntu)") from None
    except subprocess.TimeoutExpired:
        message = f"cannot run {argv[0]} {argv[1]}: no answer in 300 s"
        raise errors.Unavailable(message, remedy="see whether the mirrors answer") from None
    except subprocess.CalledProcessError as failure:
        cause = (failure.stderr.strip().splitlines() or [f"exit code {failure.returncode}"])[-1]
        message = f"cannot run {argv[0]} {argv[1]}: {cause}"
        raise errors.Unavailable(message, remedy="mend the host's apt sources") from None
    return done.stdout
