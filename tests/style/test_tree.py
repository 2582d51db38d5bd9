"""What may lie where: the root is closed, nothing names this machine or a registry, packages say what they own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.style import tree

ROOT_FILES = frozenset(
    {
        ".editorconfig", ".gitattributes", ".gitignore", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md",
        "LICENSE", "Makefile", "README.md", "SECURITY.md", "SPECIFICATION.md", "pyproject.toml",
    }
)  # fmt: skip
ROOT_FOLDERS = frozenset({".ci", ".github", "bench", "docs", "examples", "guest", "sdk", "src", "tests", "tools"})

#: Written in halves, so that this file does not name what it looks for.
FOREIGN = {
    "registry host": re.compile(
        "|".join(
            rf"{left}\.{right}"
            for left, right in (
                (r"\bpypi", "org"),
                ("pythonhosted", "org"),
                (r"registry\.npmjs", "org"),
                (r"\bcrates", "io"),
                (r"\bdeb\.debian", "org"),
                (r"proxy\.golang", "org"),
                # In quotes it is a package of Debian.
                ('(?<!")docker', r"io\b"),
                (r"\bghcr", "io"),
            )
        )
    ),
    "path of one machine": re.compile("|".join(("/wo" + "rk/", "/fa" + "rm/"))),
}
#: Lock files name where their packages came from; that is their purpose.
LOCKS = ("Cargo.lock", "package-lock.json")

MODULE_DOCSTRING_LINES = 8
#: A module whose docstring may be longer, with the reason.
LONG_DOCSTRINGS = {
    "corral.core.errors": "the tree of all errors stands at its top",
    "corral_sdk": "the door of the library shows its use",
    "corral_sdk.errors": "the tree of all errors stands at its top",
}


def foreign(text: str) -> Iterator[str]:
    """What in the text belongs to one machine or names a registry."""
    for what, pattern in FOREIGN.items():
        for match in pattern.finditer(text):
            yield f"{what}: {match.group()}"


def prints(path: Path) -> Iterator[int]:
    """Lines on which the module calls `print`."""
    for node in ast.walk(tree.parse(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node.lineno


def is_command(name: str) -> bool:
    """Whether the module's work is to talk to a terminal."""
    return name.endswith(".commands") or name.startswith("corral_sdk.cli")


def test_the_root_holds_only_what_is_listed() -> None:
    entries = [entry for entry in tree.ROOT.iterdir() if entry.name not in tree.GENERATED]
    strangers = {e.name for e in entries if e.name not in (ROOT_FOLDERS if e.is_dir() else ROOT_FILES)}
    assert strangers - {".coverage"} == set()


def test_no_file_names_a_registry_host_or_a_path_of_one_machine() -> None:
    found = []
    for path in tree.files():
        if path.name in LOCKS:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a binary: pictures and fixtures
        found += [f"{path.relative_to(tree.ROOT)}: {problem}" for problem in foreign(text)]
    assert found == []


def test_every_module_says_what_it_owns_in_a_few_lines() -> None:
    problems = []
    for package in (tree.SERVER, tree.CLIENT):
        for name, path in tree.modules(package).items():
            docstring = ast.get_docstring(tree.parse(path))
            if not docstring:
                problems.append(f"{name}: no module docstring")
            elif len(docstring.splitlines()) > MODULE_DOCSTRING_LINES and name not in LONG_DOCSTRINGS:
                problems.append(f"{name}: docstring of {len(docstring.splitlines())} lines")
    assert problems == []


def test_every_folder_of_source_is_a_package_with_a_docstring() -> None:
    packages = (tree.SERVER, tree.CLIENT)
    folders = {path.parent for package in packages for path in tree.files(package, ".py")}
    folders = {folder for folder in folders if "migrations" not in folder.parts}  # Alembic loads these by path
    assert [str(folder.relative_to(tree.ROOT)) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_only_commands_print() -> None:
    found = [
        f"{name}:{line}"
        for package in (tree.SERVER, tree.CLIENT)
        for name, path in tree.modules(package).items()
        if not is_command(name)
        for line in prints(path)
    ]
    assert found == []


def test_a_registry_host_and_a_machine_path_are_found() -> None:
    assert list(foreign("see files.python" + "hosted.org/x and /wo" + "rk/main")) == [
        "registry host: python" + "hosted.org",
        "path of one machine: /wo" + "rk/",
    ]
    assert list(foreign("the home of user is /home/user/project")) == []


def test_a_print_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("def f():\n    print(1)\n")
    assert list(prints(path)) == [2]
