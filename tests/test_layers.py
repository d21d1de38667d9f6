"""Imports between the parts of the package point downwards: nothing depends on what is built on top of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "vil_tracker"

#: Layers, lowest first. A part may import from the layers below its own, and nothing else of the package.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "runtime"),
    ("boxes", "config", "native", "packed", "tasks"),
    ("images", "results"),
    ("videos",),
    ("models",),
    ("data",),
    ("io",),
    ("tracking",),
    ("evaluation", "web", "export"),
    ("training",),
    ("benchmarking", "api", "hub", "doctor", "cli", "demo", "__main__"),
)
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}
#: The top layer's modules are entry points and may use one another; models read a hub's folder through `hub`, which is
#: imported when a hub's name is given.
ALLOWED = {("models", "hub")}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and part of the package of every import, those inside functions and TYPE_CHECKING blocks included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "vil_tracker":
            modules = [f"vil_tracker.{alias.name}" for alias in node.names if not alias.name.startswith("__")]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            if module.startswith("vil_tracker."):
                yield node.lineno, module.split(".")[1]


def wrong_imports(source: str, part: str) -> list[str]:
    """What a part's source imports that it must not."""
    found = []
    for line, target in imports(ast.parse(source)):
        top = LEVEL[part] == len(LAYERS) - 1
        if target != part and not top and LEVEL[target] >= LEVEL[part] and (part, target) not in ALLOWED:
            found.append(f"{line}: {part} imports {target}")
    return found


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def test_imports_point_downwards() -> None:
    paths = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    assert {part_of(path) for path in paths} == set(LEVEL), "a part is missing in LAYERS, or gone"
    found = [
        f"{path.relative_to(PACKAGE)}:{fault}"
        for path in paths
        for fault in wrong_imports(path.read_text(), part_of(path))
    ]
    assert not found, "\n".join(found)


def test_no_circle_between_modules() -> None:
    """Within a folder, too: each module can be read, and imported, before those that use it."""
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    uses: dict[str, set[str]] = {}
    for name, path in names.items():
        targets: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                targets |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        uses[name] = (targets & set(names)) - {name}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "a circle of imports: " + " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in sorted(uses[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(uses):
        if not name.startswith("vil_tracker.cli"):  # entry points import the package lazily
            visit(name, ())


@pytest.mark.parametrize(
    "source",
    ["from vil_tracker.tracking import tracker", "import vil_tracker.web.app", "from vil_tracker import training"],
)
def test_an_upward_import_is_seen(source: str) -> None:
    assert wrong_imports(source, "data")
