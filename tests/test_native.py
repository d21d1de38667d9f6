from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vil_tracker import native
from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.models.inference_stem import MobileStemKernel
from vil_tracker.models.inference_sublayer import FastSublayer
from vil_tracker.models.network import build_network
from vil_tracker.models.stem import MobileStem
from vil_tracker.runtime import INSTRUCTION_SETS, prepare_environment

pytestmark = pytest.mark.skipif(native.unavailable_reason("sublayer") is not None, reason="no C++ compiler")


def test_built_once_for_a_source_and_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = native.build("sublayer", tmp_path / "new")
    assert ctypes.CDLL(str(built)).lanes() in (4, 8, 16)
    written = built.stat().st_mtime_ns
    assert native.build("sublayer", tmp_path / "new") == built and built.stat().st_mtime_ns == written
    assert [path.name for path in (tmp_path / "new").iterdir()] == [built.name]  # nothing of the way there
    monkeypatch.setattr(native, "processor", lambda: "another processor")
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


DRIVERS = Path(__file__).parent / "native_driver"
GRID = (9, 15)  # 135 tokens: two chunks and a short one


def available(name: str) -> bool:
    chosen = INSTRUCTION_SETS[name]
    return platform.machine() in chosen.march and set(chosen.flags) <= set(native.processor().split())


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
    monkeypatch.setattr(native, "processor", lambda: flags)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(UserError, match=what):
        native.build("passes", tmp_path)


def build_driver(name: str, command: list[str], run: list[str], folder: Path) -> Callable[[bytes], tuple[str, Tensor]]:
    """Compile a driver; the result runs it on an input and returns what it says of itself, and its numbers."""
    program, files = folder / name, [str(folder / "input"), str(folder / "output")]
    source = DRIVERS / f"{name}.cpp"
    subprocess.run([*command, *native._FLAGS[:-2], "-o", str(program), str(source)], check=True, timeout=300)

    def call(content: bytes) -> tuple[str, Tensor]:
        Path(files[0]).write_bytes(content)
        done = subprocess.run([*run, str(program), *files], check=True, capture_output=True, text=True)
        return done.stdout, torch.from_numpy(np.fromfile(files[1], np.float32)).double()

    return call


def as_bytes(sizes: list[int], eps: float, arrays: Iterable[Tensor]) -> bytes:
    numbers = [array.float().contiguous().numpy().tobytes() for array in arrays]
    return b"".join([np.array(sizes, np.int32).tobytes(), np.float32(eps).tobytes(), *numbers])


def check_passes(command: list[str], run: list[str], folder: Path) -> str:
    """Compare norms and sums, in float32 and bfloat16, with PyTorch's in float64; returns what the driver says."""
    call = build_driver("run_passes", command, run, folder)
    torch.manual_seed(0)
    said = ""
    for width, groups, fold in ((64, 4, 1), (24, 3, 2)):  # two rows of 24 fill vectors of 16 lanes
        x = (3 * torch.randn(2, 90, width) + 5).bfloat16().double()
        gain, shift = torch.randn(2, width, dtype=torch.float64)
        images = F.gelu(F.group_norm(x.transpose(1, 2), groups, gain, shift, 1e-5)).transpose(1, 2)
        rows = F.layer_norm(x, (width,), eps=1e-5) if fold == 1 else None
        for half, tolerance in ((0, 2e-6), (1, 5e-3)):
            said, found = call(as_bytes([2, 90, width, groups, fold, half], 1e-5, [gain, shift, x]))
            for ours, expected in zip(found.view(3, *x.shape), (images, rows, 2 * x), strict=True):
                if expected is not None:
                    assert (ours - expected).abs().max() < tolerance * expected.abs().max()
    return said


def check_sublayer(command: list[str], run: list[str], folder: Path) -> str:
    """Compare sublayers of both directions, in float32 and bfloat16, with PyTorch's in float64; returns what the driver
    says."""
    call = build_driver("run_sublayer", command, run, folder)
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
        for sublayer, state in zip(network.backbone.sublayers, memory.states, strict=True):
            both = torch.randn(2, GRID[0] * GRID[1], 256).bfloat16().double()
            reference = FastSublayer(sublayer, torch.float64, kernel=False)
            reference.up_x, reference.up_z = (lambda _, part=part: part.clone() for part in both.split(128, dim=2))
            reference.down = lambda y: y
            expected, _ = reference.bounded(torch.zeros(2, len(both[0]), 128).double(), GRID, state, check=True)
            kernel = FastSublayer(sublayer.float(), torch.float32).kernel
            for half, tolerance in ((0, 2e-5), (1, 2e-2)):
                sizes = [2, *GRID, 128, int(sublayer.reverse), half]
                arrays = [*kernel._tensors.values(), both, *state]
                said, found = call(as_bytes(sizes, reference.outnorm_eps, arrays))
                found = found.view_as(expected)
                assert (found - expected).abs().max() < tolerance * expected.abs().max()
    return said


def check_stem(command: list[str], run: list[str], folder: Path) -> str:
    """Compare the mobile stem with PyTorch's in float64; returns what the driver says."""
    call = build_driver("run_mobile_stem", command, run, folder)
    torch.manual_seed(0)
    stem = MobileStem(64).double().eval()
    image = torch.randn(2, 3, 48, 80, dtype=torch.float64)
    with torch.no_grad():
        expected = stem(image)
        kernel = MobileStemKernel(stem.float(), torch.float32)
    blocks = [kernel._stem.blocks[i] for i in range(kernel._stem.count)]
    sizes = [2, 48, 80, 64, kernel._stem.channels, len(blocks)]
    for block in blocks:
        names = [name for name, kind in block._fields_ if kind is ctypes.c_int32]
        sizes += [getattr(block, name) for name in names]
        sizes += [int(block.expand is not None), int(block.squeeze is not None)]
    arrays = [array.numpy() for array in (*kernel._kept, image.float())]
    content = [np.array(sizes, np.int32).tobytes()]
    content += [np.int32(array.size).tobytes() + array.tobytes() for array in arrays]
    said, found = call(b"".join(content))
    found = found.view(2, 3, 5, 64).permute(0, 3, 1, 2)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    return said


@pytest.mark.parametrize(("name", "lanes"), [("generic", 4), ("avx2", 8), ("avx512", 16)])
def test_each_instruction_set_against_float64(name: str, lanes: int, tmp_path: Path) -> None:
    if platform.machine() != "x86_64" or not available(name):
        pytest.skip(f"this processor has no {name}")
    march = INSTRUCTION_SETS[name].march["x86_64"]
    for check in (check_sublayer, check_passes, check_stem):
        assert check(["g++", f"-march={march}"], [], tmp_path) == f"{lanes} lanes\n"


@pytest.mark.soak
@pytest.mark.parametrize("march", ["armv8-a", "armv8.6-a"], ids=["without bfloat16", "with bfloat16"])
def test_on_arm_under_an_emulator(march: str, tmp_path: Path) -> None:
    """NEON, as on Jetsons and the boards of drones, without a warning of the compiler."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user")
    command = [compiler, f"-march={march}", "-Wall", "-Werror"]
    root = Path("/usr/aarch64-linux-gnu")
    run = [emulator, "-cpu", "max", "-L", str(root)]
    for check in (check_sublayer, check_passes, check_stem):
        assert check(command, run, tmp_path) == "4 lanes\n"
