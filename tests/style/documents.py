"""Reading Markdown for the document tests: headings, links, promises, glossary words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.style import tree

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PROMISE = re.compile(r"^- \*\*([A-Z]-\d\d)\*\* (.+?)(?=^- \*\*|^#|\Z)", re.MULTILINE | re.DOTALL)
#: Tests, and checks of the conformance suite, which `tests/conformance` runs on every driver.
TEST_ID = re.compile(r"`((?:tests|src/corral/runtime/conformance/checks)/[\w/.-]+\.py)::(\w+)`")
RUST_TEST_ID = re.compile(r"`(guest/[\w/.-]+\.rs)::(\w+)`")


def markdown() -> list[Path]:
    """Every Markdown file of the tree."""
    return list(tree.files(tree.ROOT, ".md"))


def prose(path: Path) -> str:
    """The file without its code blocks."""
    return FENCE.sub("", path.read_text())


def anchor(heading: str) -> str:
    """The fragment that a renderer gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(path: Path) -> list[str]:
    """The texts of all headings."""
    return re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)


def dead_links(path: Path) -> Iterator[str]:
    """Relative links whose file, or heading in it, does not exist."""
    for link in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists():
            yield f"{path.name}: {link}"
        elif fragment and fragment not in {anchor(heading) for heading in headings(target)}:
            yield f"{path.name}: {link} (no such heading)"


@dataclass(frozen=True)
class Promise:
    """One item of SPECIFICATION.md: its number, its tests, and whether it says that a test is pending."""

    number: str
    tests: tuple[tuple[str, str], ...]
    pending: bool


def promises(text: str) -> list[Promise]:
    """The items `- **X-01** …`, in order."""
    found = []
    for number, body in PROMISE.findall(text):
        tests = (*TEST_ID.findall(body), *RUST_TEST_ID.findall(body))
        found.append(Promise(number, tests, bool(re.search(r"\btest pending\b", body, re.IGNORECASE))))
    return found


def glossary() -> set[str]:
    """Words with an entry, in lower case: headings of the third level, and names in code on `In code:` lines."""
    text = (tree.ROOT / "docs" / "glossary.md").read_text()
    words = {heading.lower() for heading in re.findall(r"^### (.+)$", text, re.MULTILINE)}
    for line in re.findall(r"^In code: (.+)$", text, re.MULTILINE):
        words.update(word.lower() for word in re.findall(r"`([^`]+)`", line))
    return words
