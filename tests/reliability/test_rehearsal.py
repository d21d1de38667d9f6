"""The whole recipe, small: scripts/rehearse.py checks each step of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.soak
def test_the_recipe_from_data_to_submission(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCRIPTS / "paint_data.py"), str(tmp_path / "painted")], check=True)
    command = [sys.executable, str(SCRIPTS / "rehearse.py"), "--videos", str(tmp_path / "painted" / "videos")]
    done = subprocess.run([*command, "--work", str(tmp_path / "work")], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "phase 1, resumed" in done.stdout and "all done" in done.stdout
