"""The notebook runs from top to bottom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vil_tracker.models.pretrained import shipped_weights

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples/notebook.ipynb"


def test_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the notebook draws with matplotlib").use("Agg")
    if "nano" not in shipped_weights():
        pytest.skip("the notebook needs the shipped weights")
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    cells = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    names: dict[str, object] = {"__name__": "notebook"}
    for number, source in enumerate(cells):
        exec(compile(source, f"cell {number}", "exec"), names)
    assert len(names["results"]) == names["length"]  # type: ignore[arg-type]
