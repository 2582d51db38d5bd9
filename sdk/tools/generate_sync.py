"""Write `corral_sdk/_sync` from `corral_sdk/_async`: the same code without `async` and `await`.

    python sdk/tools/generate_sync.py           write
    python sdk/tools/generate_sync.py --check   exit 1 and name the files that are not up to date

Works on Python's own tokens, so that names in strings and comments change only where TEXT says so. The result is
formatted with ruff. `concurrency.py` is written by hand on both sides: threads and tasks have no common text.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "corral_sdk"
BY_HAND = frozenset({"__init__.py", "concurrency.py"})

NAMES = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "_async": "_sync",
    "aclose": "close",
    "aiter_raw": "iter_raw",
    "anext": "next",
    "aread": "read",
    "enter_async_context": "enter_context",
    "asynccontextmanager": "contextmanager",
    "asyncio": "sync",  # websockets.asyncio.client has its twin in websockets.sync.client
}
TEXT = (
    (r"\basync (with|for|def)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync([A-Z])", r"\1"),
    (r"\b(an|the) asyncio client\b", "the blocking client"),
)
ASYNC_NAME = re.compile(r"(_?)Async([A-Z].*)")


def to_sync(source: str, origin: str) -> str:
    """Return `source` without async, under a line that says where it comes from."""
    result = [f"# Made from {origin} by sdk/tools/generate_sync.py: change that and run it again.\n"]
    end = (1, 0)
    dropped = False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in {tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT}:
            continue
        result.append(_space(end, token.start, source, glue=dropped))
        dropped = token.type == tokenize.NAME and token.string in {"async", "await"}
        if not dropped:
            result.append(_renamed(token))
        end = token.end
    return _formatted("".join(result))


def _space(end: tuple[int, int], start: tuple[int, int], source: str, *, glue: bool) -> str:
    """Return what stands between two tokens; the space after a dropped word goes with it."""
    if end[0] == start[0]:
        between = source.splitlines(keepends=True)[end[0] - 1][end[1] : start[1]] if start[1] > end[1] else ""
        return "" if glue else between
    lines = source.splitlines(keepends=True)
    return lines[end[0] - 1][end[1] :] + "".join(lines[end[0] : start[0] - 1]) + lines[start[0] - 1][: start[1]]


def _renamed(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        if token.string in NAMES:
            return NAMES[token.string]
        match = ASYNC_NAME.fullmatch(token.string)
        return match[1] + match[2] if match else token.string
    if token.type in {tokenize.STRING, tokenize.COMMENT}:
        text = token.string
        for pattern, replacement in TEXT:
            text = re.sub(pattern, replacement, text)
        return text
    return token.string


def _formatted(source: str) -> str:
    ruff = [sys.executable, "-m", "ruff"]
    name = str(PACKAGE / "_sync" / "generated.py")  # where the settings of the project are looked up
    sort = [*ruff, "check", "--select", "I", "--fix", "--quiet", "--stdin-filename", name, "-"]
    sorted_source = subprocess.run(sort, input=source, capture_output=True, text=True, check=True).stdout
    shape = [*ruff, "format", "--quiet", "--stdin-filename", name, "-"]
    return subprocess.run(shape, input=sorted_source, capture_output=True, text=True, check=True).stdout


def outdated() -> dict[Path, str]:
    """Return the files of `_sync` whose content is not what it should be, with what it should be."""
    wanted = {
        PACKAGE / "_sync" / path.name: to_sync(path.read_text(), f"_async/{path.name}")
        for path in sorted((PACKAGE / "_async").glob("*.py"))
        if path.name not in BY_HAND
    }
    return {path: text for path, text in wanted.items() if not path.exists() or path.read_text() != text}


def main() -> int:
    """Write, or with --check only tell, what is outdated."""
    changes = outdated()
    if "--check" in sys.argv[1:]:
        for path in changes:
            print(f"{path} is not up to date: run python {__file__}", file=sys.stderr)
        return 1 if changes else 0
    for path, text in changes.items():
        path.write_text(text)
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
