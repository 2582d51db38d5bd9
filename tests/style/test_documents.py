"""Documents follow the code: promises name tests, references are complete, links lead somewhere."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.core import errors, settings
from corral.devboxes import model
from corral.runtime import contract
from tests.style import documents, references, tree

DOCS = tree.ROOT / "docs"
REFERENCE = DOCS / "reference"

SETTING = re.compile(r"\bCORRAL_[A-Z][A-Z_]*[A-Z]\b")
EMPTY_WORDS = re.compile(
    r"\b(simply|just|easy|easily|robust|comprehensive|seamless\w*|blazing\w*|powerful)\b", re.IGNORECASE
)
SECOND_SENTENCE = re.compile(r"[a-z`)*][.!?] +[A-Z`]")


def names_of_tests(path: Path) -> set[str]:
    """Names of the functions in a test file, Python or Rust."""
    if path.suffix == ".rs":
        return set(re.findall(r"^\s*(?:async )?fn (\w+)\(", path.read_text(), re.MULTILINE))
    return {function.name for function, _ in tree.functions(tree.parse(path))}


def unproved(text: str, root: Path) -> Iterator[str]:
    """Promises that name neither an existing test nor say that one is pending."""
    for promise in documents.promises(text):
        if not promise.tests and not promise.pending:
            yield f"{promise.number} names no test"
        if len(set(promise.tests)) < len(promise.tests):
            yield f"{promise.number} names a test twice"
        for file, name in promise.tests:
            path = root / file
            if not path.exists() or name not in names_of_tests(path):
                yield f"{promise.number} names {file}::{name}, which does not exist"


def words_of(name: str) -> list[str]:
    """The words of a class name (`ExecutionStatus`) or of a table name (`devbox_events`), in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def unknown_words(names: set[str], known: set[str]) -> list[str]:
    """Names of which the glossary explains neither the whole nor each word."""

    def explained(word: str) -> bool:
        return bool({word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ies") + "y"} & known)

    return sorted(
        name
        for name in names
        if not explained(name.lower())
        and not explained(" ".join(words_of(name)))
        and not all(explained(word) for word in words_of(name))
    )


def tables() -> set[str]:
    """Names of the SQL tables, from every `sa.Table("name", …)` in the server."""
    return {
        str(node.args[0].value)
        for path in tree.modules(tree.SERVER).values()
        for node in ast.walk(tree.parse(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "sa.Table"
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }


def model_classes() -> set[str]:
    """Names of the classes in every model module and in the runtime's contract."""
    paths = [path for name, path in tree.modules(tree.SERVER).items() if name.endswith((".model", ".contract"))]
    return {node.name for path in paths for node in tree.parse(path).body if isinstance(node, ast.ClassDef)}


def route_nouns() -> set[str]:
    """The collections in the paths of the routes: static segments of one word in the plural."""
    paths = {
        match
        for name, path in tree.modules(tree.SERVER).items()
        if name.endswith("routes") or ".api." in name
        for match in re.findall(r"\"(/[\w/{}.-]*)\"", path.read_text())
    }
    return {segment for path in paths for segment in path.split("/") if re.fullmatch(r"[a-z]{3,}s", segment)}


def settings_used() -> set[str]:
    """Names of settings in the sources, the client's and the examples' included."""
    sources = [
        *tree.files(tree.ROOT / "src", ".py"),
        *tree.files(tree.ROOT / "sdk" / "src", ".py"),
        *tree.files(tree.ROOT / "examples", ".py"),
        tree.ROOT / "Makefile",
    ]
    named = {name for path in sources if path.exists() for name in SETTING.findall(path.read_text())}
    return named | {each.variable for each in settings.catalogue()}


def error_classes() -> list[type[errors.CorralError]]:
    """All classes of the error tree but its base."""
    return [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.CorralError) and value is not errors.CorralError
    ]


def test_every_promise_names_a_test_that_exists_or_says_pending() -> None:
    text = (tree.ROOT / "SPECIFICATION.md").read_text()
    assert len(documents.promises(text)) > 20
    assert list(unproved(text, tree.ROOT)) == []


def test_the_number_of_pending_tests_is_stated() -> None:
    text = (tree.ROOT / "SPECIFICATION.md").read_text()
    stated = re.search(r"^Promises without a test: (\d+)\.$", text, re.MULTILINE)
    assert stated is not None
    assert int(stated[1]) == sum(promise.pending for promise in documents.promises(text))


def test_promises_are_numbered_once() -> None:
    numbers = [promise.number for promise in documents.promises((tree.ROOT / "SPECIFICATION.md").read_text())]
    assert len(numbers) == len(set(numbers))


def test_the_glossary_explains_every_table_class_and_route() -> None:
    known = documents.glossary()
    assert tables()
    assert route_nouns()
    assert unknown_words(tables() | model_classes() | route_nouns(), known) == []


def test_every_setting_is_documented_and_every_documented_setting_exists() -> None:
    documented = set(SETTING.findall((REFERENCE / "settings.md").read_text()))
    assert settings_used() - documented == set()
    assert documented - settings_used() == set()


@pytest.mark.parametrize("error", error_classes(), ids=lambda error: str(error.__name__))
def test_every_error_kind_is_documented_with_its_status(error: type[errors.CorralError]) -> None:
    assert f"| `{error.kind}` | {error.status} |" in (REFERENCE / "errors.md").read_text()


@pytest.mark.parametrize("reason", [reason for reason in (*model.Reason, *contract.DeathReason) if reason])
def test_every_reason_is_documented(reason: model.Reason | contract.DeathReason) -> None:
    assert f"| `{reason}` |" in (REFERENCE / "errors.md").read_text()


@pytest.mark.parametrize("name", ["cli.md", "settings.md"])
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    assert (REFERENCE / name).read_text() == references.pages()[name], "run python -m tests.style.references"


def test_the_changelog_has_an_unreleased_section_with_entries() -> None:
    text = (tree.ROOT / "CHANGELOG.md").read_text()
    section = re.search(r"^## Unreleased\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.search(r"^- ", section[1], re.MULTILINE)


def test_relative_links_lead_to_files_and_headings() -> None:
    assert [problem for path in documents.markdown() for problem in documents.dead_links(path)] == []


def test_prose_has_no_empty_words() -> None:
    found = [
        f"{path.relative_to(tree.ROOT)}: {match.group()}"
        for path in documents.markdown()
        for match in EMPTY_WORDS.finditer(documents.prose(path))
    ]
    assert found == []


def test_prose_has_one_sentence_on_a_line() -> None:
    found = [
        f"{path.relative_to(tree.ROOT)}: {line[:80]}"
        for path in documents.markdown()
        if path.name != "cli.md"  # help texts are paragraphs
        for line in documents.prose(path).splitlines()
        if SECOND_SENTENCE.search(line) and not line.startswith("|")
    ]
    assert found == []


def test_every_design_paper_says_what_it_does_not_buy() -> None:
    papers = sorted((DOCS / "design").glob("[0-9]*.md"))
    parts = {"Status", "Problem", "Decision", "Alternatives", "What it does not buy"}
    assert papers
    assert {paper.name: parts - set(documents.headings(paper)) for paper in papers} == {p.name: set() for p in papers}


def test_a_promise_without_a_test_is_found(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("def test_real() -> None: ...\n")
    text = (
        "- **P-01** Quick.\n  Test: `tests/test_a.py::test_real`.\n"
        "- **P-02** Small.\n- **P-03** True.\n  Test: `tests/test_a.py::test_gone`.\n- **P-04** Large; test pending.\n"
    )
    assert list(unproved(text, tmp_path)) == [
        "P-02 names no test",
        "P-03 names tests/test_a.py::test_gone, which does not exist",
    ]


def test_a_word_without_an_entry_is_found() -> None:
    known = {"devbox", "event", "exit code"}
    names = {"Devbox", "devbox_events", "ExitCode", "Gizmo", "DevboxGizmo"}
    assert unknown_words(names, known) == ["DevboxGizmo", "Gizmo"]


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n[a](page.md#a-page) [b](page.md#gone) [c](gone.md) [d](https://example.com)\n")
    assert list(documents.dead_links(page)) == ["page.md: page.md#gone (no such heading)", "page.md: gone.md"]
