from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from track_clips import small_network
from tracking_fakes import write_video

from vil_tracker.cli import main
from vil_tracker.errors import UserError
from vil_tracker.models import precision
from vil_tracker.models.film_temporal import TemporalContext
from vil_tracker.models.inference import InferenceNetwork, Precision
from vil_tracker.models.network import NetworkOutput, TargetMemory
from vil_tracker.models.precision import candidates, fastest_precision, multiplies_bfloat16, warm_up
from vil_tracker.models.pretrained import save_model
from vil_tracker.training.loop import training_precision

CPU = torch.device("cpu")


def processor(monkeypatch: pytest.MonkeyPatch, *, bfloat16: bool) -> None:
    """A processor of x86-64 with or without AVX512-BF16."""
    monkeypatch.delenv("VIL_ISA", raising=False)
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


class Stopwatch:
    """Stands in for the timing: seconds of each precision, and what was timed."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.calls = seconds, []

    def __call__(self, network: object, precisions: list[Precision]) -> dict[str, float]:
        self.calls.append(precisions)
        return {name: self.seconds[name] for name in precisions}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIL_CACHE", str(tmp_path / "cache"))
    processor(monkeypatch, bfloat16=True)
    return tmp_path / "cache" / "precision.json"


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"float32": 3.0, "bfloat16": 1.0}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": 2.0}, "float32"),
        ({"float32": 1.0, "bfloat16": 0.98}, "float32"),  # not worth the bits
    ],
)
def test_the_fastest_is_chosen_once(
    seconds: dict[str, float], chosen: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Stopwatch(**seconds)
    monkeypatch.setattr(precision, "time_frames", watch)
    network = small_network()
    assert [fastest_precision(network) for _ in range(3)] == [chosen] * 3
    assert watch.calls == [["float32", "bfloat16"]]
    assert [entry["precision"] for entry in json.loads(cache.read_text()).values()] == [chosen]


def test_another_processor_number_of_threads_or_size_is_timed_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Stopwatch(float32=3.0, bfloat16=2.0)
    monkeypatch.setattr(precision, "time_frames", watch)
    network = small_network()
    fastest_precision(network)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    fastest_precision(network)
    torch.set_num_threads(threads)
    monkeypatch.setattr(precision, "processor", lambda: "another")
    fastest_precision(network)
    monkeypatch.setattr(network, "config", replace(network.config, depth=6))
    fastest_precision(network)
    assert len(watch.calls) == len(json.loads(cache.read_text())) == 4
    fastest_precision(network)
    assert len(watch.calls) == 4


@pytest.mark.parametrize("text", ["", "[1]", '{"k": 3}', "\\xff"])
def test_a_spoilt_file_is_replaced(text: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "time_frames", Stopwatch(float32=3.0, bfloat16=2.0))
    cache.parent.mkdir()
    cache.write_bytes(text.encode("latin-1"))
    assert fastest_precision(small_network()) == "bfloat16"
    assert "bfloat16" in cache.read_text() and json.loads(cache.read_text())


def test_a_cache_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.write_text("a file in the folder's place")
    monkeypatch.setattr(precision, "time_frames", Stopwatch(float32=3.0, bfloat16=2.0))
    assert fastest_precision(small_network()) == "bfloat16"


def test_really_timed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "SECONDS", 0.0)
    assert fastest_precision(small_network()) in ("float32", "bfloat16")
    (entry,) = json.loads(cache.read_text()).values()
    assert set(entry["ms"]) == {"float32", "bfloat16"} and min(entry["ms"].values()) > 0


def test_bfloat16_is_never_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, bfloat16=True)
    assert candidates(CPU) == ["float32", "bfloat16"]
    assert training_precision("auto", CPU) == training_precision("bfloat16", CPU) == "bfloat16"
    monkeypatch.setenv("VIL_ISA", "avx2")
    assert not multiplies_bfloat16(CPU)
    processor(monkeypatch, bfloat16=False)
    assert candidates(CPU) == ["float32"]
    assert training_precision("auto", CPU) == training_precision("float32", CPU) == "float32"
    with pytest.raises(UserError, match="train.precision: bfloat16.*train.precision: auto"):
        training_precision("bfloat16", CPU)


@pytest.mark.parametrize("listed", [False, True], ids=["video", "list"])
def test_the_command_takes_it(
    listed: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same boxes as the precision that is fastest, and one line where bfloat16 would be emulated."""
    monkeypatch.setattr(precision, "time_frames", Stopwatch(float32=3.0, bfloat16=2.0))
    save_model(small_network(), tmp_path / "small.safetensors")
    clip = write_video(tmp_path / "clip.mp4", 6)
    (tmp_path / "list.csv").write_text(f"{clip},8,4,20,10\n")
    words = ["track", str(tmp_path / "list.csv")] if listed else ["track", str(clip), "--box", "8,4,20,10"]
    words += ["--no-video", "--weights", str(tmp_path / "small.safetensors"), "--output"]
    boxes = "clip/boxes.csv" if listed else "boxes.csv"
    # On a processor without the instructions bfloat16 is emulated here, to the same boxes.
    for name in ("auto", "bfloat16", "float32"):
        assert main([*words, str(tmp_path / name), "--dtype", name]) == 0
    found = {name: (tmp_path / name / boxes).read_text() for name in ("auto", "bfloat16", "float32")}
    assert found["auto"] == found["bfloat16"] != found["float32"]
    if listed:
        return
    processor(monkeypatch, bfloat16=False)
    capsys.readouterr()
    assert main([*words, str(tmp_path / "refused"), "--dtype", "bfloat16"]) == 2
    message = capsys.readouterr().err.strip()
    assert "--dtype bfloat16" in message and "--dtype auto" in message and "\n" not in message


def test_warm_up_runs_both_kinds_of_frame_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = InferenceNetwork(small_network())
    seen: list[bool] = []
    forward = prepared.forward_search

    def record(search: Tensor, memory: TargetMemory, context: TemporalContext | None = None) -> NetworkOutput:
        seen.append(context is not None)
        return forward(search, memory, context)

    monkeypatch.setattr(prepared, "forward_search", record)
    warm_up(prepared)()
    assert seen == [False, True] * 2
