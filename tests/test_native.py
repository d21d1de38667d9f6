from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vil_tracker import native
from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.models.inference_sublayer import FastSublayer
from vil_tracker.models.network import build_network
from vil_tracker.runtime import INSTRUCTION_SETS, prepare_environment

pytestmark = pytest.mark.skipif(native.unavailable_reason("sublayer") is not None, reason="no C++ compiler")


def test_built_once_for_a_source_and_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = native.build("sublayer", tmp_path / "new")
    assert ctypes.CDLL(str(built)).lanes() in (4, 8, 16)
    written = built.stat().st_mtime_ns
    assert native.build("sublayer", tmp_path / "new") == built and built.stat().st_mtime_ns == written
    assert [path.name for path in (tmp_path / "new").iterdir()] == [built.name]  # nothing of the way there
    monkeypatch.setattr(native, "_processor", lambda: "another processor")
    assert native.build("sublayer", tmp_path / "new") != built


def test_built_anew_when_a_header_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(native.__file__).parent
    for path in (*folder.glob("*.cpp"), *folder.glob("*.h")):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    built = native.build("passes", tmp_path / "made")
    assert native.build("passes", tmp_path / "made") == built
    with (tmp_path / "vectors.h").open("a") as header:
        header.write("// changed\n")
    assert native.build("passes", tmp_path / "made") != built


def compiler(folder: Path, script: str) -> str:
    """A program that stands in for a compiler."""
    path = folder / "compiler"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "what"),
    [
        (None, "no C\\+\\+ compiler"),
        ("echo 1.0; [ $1 = --version ] || { echo 'x.cpp:3: error: no such flag' >&2; exit 1; }", "no such flag"),
    ],
    ids=["none", "broken"],
)
def test_says_why_there_is_none(script: str | None, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "absent") if script is None else compiler(tmp_path, script))
    monkeypatch.setenv("VIL_CACHE", str(tmp_path / "cache"))
    native.attempt.cache_clear()
    try:
        assert native.load("sublayer") is None
        reason = native.unavailable_reason("sublayer")
        assert reason is not None and re.search(what, reason) and "\n" not in reason
        assert not list((tmp_path / "cache").rglob("*.so"))
    finally:
        native.attempt.cache_clear()


def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from vil_tracker.native import build; print(build('sublayer', pathlib.Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    paths = {process.communicate()[0].strip() for process in processes}
    assert len(paths) == 1 and all(process.returncode == 0 for process in processes)
    assert ctypes.CDLL(paths.pop().decode()).lanes() in (4, 8, 16)


DRIVER = Path(__file__).parent / "native_driver" / "run_sublayer.cpp"
GRID = (9, 15)  # 135 tokens: two chunks and a short one


def available(name: str) -> bool:
    chosen = INSTRUCTION_SETS[name]
    return platform.machine() in chosen.march and set(chosen.flags) <= set(native._processor().split())


def test_instruction_set_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Part of the compiled library's name, and PyTorch's limit, too, unless the user has set one."""
    ordinary = native.build("passes", tmp_path)
    monkeypatch.setenv("VIL_ISA", "generic")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "mine")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    limited = native.build("passes", tmp_path)
    assert limited != ordinary and ctypes.CDLL(str(limited)).lanes() == 4
    prepare_environment()
    assert (os.environ["ATEN_CPU_CAPABILITY"], os.environ["ONEDNN_MAX_CPU_ISA"]) == ("mine", "SSE41")


@pytest.mark.parametrize(
    ("name", "flags", "what"),
    [("mmx", "flags : sse2", "choose from generic, avx2, avx512"), ("avx2", "flags : sse2 fma", "lacks avx2, bmi2")],
)
def test_instructions_that_are_not_there(
    name: str, flags: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIL_ISA", name)
    monkeypatch.setattr(native, "_processor", lambda: flags)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(UserError, match=what):
        native.build("passes", tmp_path)


def check_driver(command: list[str], run: list[str], folder: Path) -> str:
    """Compile the driver, run it on sublayers of both directions, in float32 and bfloat16, and compare its results with
    PyTorch's in float64; returns what it says of itself."""
    program = folder / "run_sublayer"
    subprocess.run([*command, *native._FLAGS[:-2], "-o", str(program), str(DRIVER)], check=True, timeout=300)
    torch.manual_seed(0)
    config = ModelConfig(name="test", dim=64, depth=2, template_size=64, search_size=128, head_channels=16)
    network = build_network(config).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    boxes = torch.tensor([[[0.25, 0.3, 0.75, 0.6]]], dtype=torch.float64).expand(2, 1, 4)
    said = ""
    with torch.no_grad():
        memory = network.encode_templates(torch.randn(2, 1, 3, 64, 64, dtype=torch.float64), boxes)
        for sublayer, state in zip(network.backbone.sublayers, memory, strict=True):
            both = torch.randn(2, GRID[0] * GRID[1], 256).bfloat16().double()
            reference = FastSublayer(sublayer, torch.float64, kernel=False)
            reference.up_x, reference.up_z = (lambda _, part=part: part.clone() for part in both.split(128, dim=2))
            reference.down = lambda y: y
            expected, _ = reference.bounded(torch.zeros(2, len(both[0]), 128).double(), GRID, state, check=True)
            kernel = FastSublayer(sublayer.float(), torch.float32).kernel
            for half, tolerance in ((0, 2e-5), (1, 2e-2)):
                sizes = np.array([2, *GRID, 128, int(sublayer.reverse), half], np.int32).tobytes()
                sizes += np.float32(reference.outnorm_eps).tobytes()
                arrays = [*kernel._tensors.values(), both, *state]
                numbers = b"".join(array.float().contiguous().numpy().tobytes() for array in arrays)
                (folder / "input").write_bytes(sizes + numbers)
                files = [str(folder / "input"), str(folder / "output")]
                said = subprocess.run([*run, str(program), *files], check=True, capture_output=True, text=True).stdout
                found = torch.from_numpy(np.fromfile(folder / "output", np.float32)).view_as(expected).double()
                assert (found - expected).abs().max() < tolerance * expected.abs().max()
    return said


@pytest.mark.parametrize(("name", "lanes"), [("generic", 4), ("avx2", 8), ("avx512", 16)])
def test_each_instruction_set_against_float64(name: str, lanes: int, tmp_path: Path) -> None:
    if platform.machine() != "x86_64" or not available(name):
        pytest.skip(f"this processor has no {name}")
    march = INSTRUCTION_SETS[name].march["x86_64"]
    assert check_driver(["g++", f"-march={march}"], [], tmp_path) == f"{lanes} lanes\n"


@pytest.mark.soak
@pytest.mark.parametrize("march", ["armv8-a", "armv8.6-a"], ids=["without bfloat16", "with bfloat16"])
def test_on_arm_under_an_emulator(march: str, tmp_path: Path) -> None:
    """NEON, as on Jetsons and the drones' boards; both programs compile there without a warning."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user")
    command = [compiler, f"-march={march}", "-Wall", "-Werror"]
    passes = Path(native.__file__).with_name("passes.cpp")
    subprocess.run([*command, *native._FLAGS, "-o", str(tmp_path / "passes.so"), str(passes)], check=True, timeout=300)
    root = Path("/usr/aarch64-linux-gnu")
    run = [emulator, "-cpu", "max", "-L", str(root)]
    assert check_driver(command, run, tmp_path) == "4 lanes\n"
