"""What the style tests know about the tree: its files, its modules, what each module imports.

Reads source with `ast` and never imports it, so that a broken module cannot hide from its checks.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "src" / "corral"
CLIENT = ROOT / "sdk" / "src" / "corral_sdk"

#: Made by tools and ignored by git, by name anywhere in the tree.
GENERATED = frozenset(
    {
        ".git", ".venv", ".make", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "__pycache__",
        "node_modules", "target", "dist", "build", "htmlcov", "bench-results",
    }
)  # fmt: skip


def files(root: Path = ROOT, *suffixes: str) -> Iterator[Path]:
    """Every file under `root` that is source; with `suffixes` only those that end so."""
    for folder, names, entries in os.walk(root):
        names[:] = sorted(name for name in names if name not in GENERATED and not name.endswith(".egg-info"))
        for entry in sorted(set(entries) - GENERATED):  # `.git` is a file in a worktree
            if not suffixes or entry.endswith(suffixes):
                yield Path(folder, entry)


def modules(package: Path) -> dict[str, Path]:
    """Dotted module names of the package directory `package`, each with its file."""
    names = {}
    for path in files(package, ".py"):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        names[".".join(parts).removesuffix(".__init__")] = path
    return names


def parse(path: Path) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse(path.read_text(), str(path))


def functions(tree: ast.AST) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Every function with its length in lines, its docstring left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            yield node, (node.end_lineno or 0) - node.lineno + 1 - len(docstring.splitlines())


def imported(name: str, path: Path, known: Collection[str] = ()) -> set[str]:
    """Dotted names that the module mentions in imports which run when it is loaded.

    `from a import b` counts as `a.b` when that is one of the `known` modules, otherwise as `a`.
    Imports under TYPE_CHECKING and in functions are left out.
    """
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                source = ".".join([*base, *([child.module] if child.module else [])])
                names = {f"{source}.{alias.name}" for alias in child.names}
                found.update(name if name in known else source for name in names)
            walk(child)

    walk(parse(path))
    return found


def graph(package: Path) -> dict[str, set[str]]:
    """For each module of the package, the modules of the same package that it imports, the package itself left out."""
    known = modules(package)
    return {name: (imported(name, path, known) & known.keys()) - {name, package.name} for name, path in known.items()}
