"""What the sources must never contain, read from their syntax trees: ways to run code that came in as data."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("vil_tracker", "scripts", "integrations", "examples", "tests", "docs")
    for path in (ROOT / folder).rglob("*.py")
)

FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.loads", "marshal.load",
    "marshal.loads", "dill.load", "dill.loads", "joblib.load", "shelve.open", "jsonpickle.decode",
    "tarfile.extractall", "shutil.unpack_archive", "tempfile.mktemp",
}  # fmt: skip
FORBIDDEN_MODULES = {"cPickle", "marshal", "dill", "shelve", "joblib", "cloudpickle", "jsonpickle"}
#: What tests may do with data of their own making.
OF_THE_TESTS = {"exec", "compile", "__import__", "pickle.loads", "archive.extractall"}
FORBIDDEN_METHODS = {"extractall"}


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of an attribute chain, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head or '?'}.{node.attr}"
    return ""


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and description of everything that is forbidden."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in modules:
                if module.split(".")[0] in FORBIDDEN_MODULES:
                    yield node.lineno, f"imports {module}"
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if f"{node.module}.{alias.name}" in FORBIDDEN_CALLS | {"torch.load"}:
                        yield node.lineno, f"imports {alias.name} under a bare name, where this test does not see it"
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            if name in FORBIDDEN_CALLS or name.rpartition(".")[2] in FORBIDDEN_METHODS:
                yield node.lineno, f"calls {name}"
            if name in ("torch.load", "torch.serialization.load") and not _is(keywords.get("weights_only"), True):
                yield node.lineno, "calls torch.load without weights_only=True"
            for option in ("shell", "allow_pickle"):
                shells = option != "shell" or name.startswith(("subprocess.", "Popen"))
                if option in keywords and shells and not _is(keywords[option], False):
                    yield node.lineno, f"passes {option}"
            if name.startswith("subprocess.") and node.args and isinstance(node.args[0], (ast.Constant, ast.JoinedStr)):
                yield node.lineno, "gives a subprocess one string instead of a list"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def imports_pickle(tree: ast.AST) -> bool:
    return any(
        (isinstance(node, ast.Import) and any(alias.name == "pickle" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "pickle" and _names(node) != {"UnpicklingError"})
        for node in ast.walk(tree)
    )


def _names(node: ast.ImportFrom) -> set[str]:
    return {alias.name for alias in node.names}


def test_no_source_can_run_code_that_came_as_data() -> None:
    assert len(SOURCES) > 100
    found = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        allowed = OF_THE_TESTS if path.is_relative_to(ROOT / "tests") else set()
        here = [(line, fault) for line, fault in faults(tree) if fault.rpartition(" ")[2] not in allowed]
        found += [f"{path.relative_to(ROOT)}:{line}: {fault}" for line, fault in here]
        if path.is_relative_to(ROOT / "vil_tracker") and imports_pickle(tree):
            # Its one honest use: the type of the error that torch.load raises for a file with code in it.
            used = {dotted(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
            found += [
                f"{path.relative_to(ROOT)}: uses {n}" for n in used if n.startswith("pickle.") and "Error" not in n
            ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    ["eval('1')", "exec(x)", "import os\nos.system('ls')", "yaml.load(f)", "torch.load(f)",
     "np.load(f, allow_pickle=True)",
     "torch.load(f, weights_only=False)", "subprocess.run('ls', shell=True)", "subprocess.run('ls -l')",
     "import dill",
     "pickle.loads(x)", "archive.extractall(p)", "from torch import load", "subprocess.run(x, shell=flag)"],
)  # fmt: skip
def test_the_test_sees_each_of_them(code: str) -> None:
    assert list(faults(ast.parse(code)))


def test_the_test_lets_safe_code_pass() -> None:
    code = (
        "torch.load(f, weights_only=True)\nyaml.safe_load(f)\nsubprocess.run(['ls'])\nnp.load(f, allow_pickle=False)\n"
    )
    assert not list(faults(ast.parse(code)))
