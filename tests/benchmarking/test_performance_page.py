"""The tables of the performance page come from the files of its measurements, and from nowhere else."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULTS = ROOT / "docs" / "performance.md", ROOT / "docs" / "results"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("performance_tables", ROOT / "scripts" / "performance_tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_holds_what_was_measured(tables: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert tables.filled(page, RESULTS) == page


def test_a_table_without_a_file_says_so(tables: ModuleType, tmp_path: Path) -> None:
    found = tables.sections(tmp_path)
    assert {"ratios", "scaling", "precision", "parts small", "video nano"} <= found.keys()
    assert all(tables.MISSING in content.lower() for content in found.values())
    page = tables.filled(PAGE.read_text(encoding="utf-8"), tmp_path)
    assert page.lower().count(tables.MISSING) == len(found) and "| tiny | float32 |" not in page


def test_precisions_are_told_by_set(tables: ModuleType, tmp_path: Path) -> None:
    overlap = {"mean": 0.98765, "least": 0.5}
    sequences = {"a": {"auc": 0.6, "auc_float32": 0.5}, "b": {"auc": 0.5, "auc_float32": 0.52}}
    row = {"frames": 1400, "same_crops": overlap, "own_tracks": overlap, "auc": 0.55, "auc_float32": 0.51}
    machine = {"processor": "abacus", "torch": "2"}
    found = {"machine": machine, "weights": "nano", "config": None, "sets": {"mine": {"int8": row}}}
    row["sequences"] = sequences
    (tmp_path / "precision.json").write_text(json.dumps(found))
    content = tables.sections(tmp_path)["precision"]
    assert content.startswith("`python scripts/precision.py nano --data-root mine` on abacus")
    # gains of 0.1 and -0.02: mean 0.04, standard deviation 0.0849, over two sequences an error of 0.06
    assert "| mine | int8 | 1,400 | 0.9877 | 0.9877 | 0.5100 | 0.5500 | +0.0400 ± 0.0600 |" in content
