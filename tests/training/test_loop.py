"""The loop as a user meets it: what it writes, and what it says when something goes wrong."""

from __future__ import annotations

import json
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_fakes import NoiseClips, NoisePairs, losses, same, source_for, tiny_config

from vil_tracker.config import Config
from vil_tracker.data.sampling import PairSample, Samples
from vil_tracker.data.sequence import make_sequence
from vil_tracker.errors import UserError
from vil_tracker.images import read_image
from vil_tracker.io.draw import text_image
from vil_tracker.io.pictures import INK, PAPER
from vil_tracker.models.pretrained import load_model
from vil_tracker.training.loop import train
from vil_tracker.training.record import NonFiniteLoss, read_log
from vil_tracker.training.show_samples import write_contact_sheet
from vil_tracker.training.validation import Validation

CPU = torch.device("cpu")


def run(config: Config, output: Path, **options) -> Path:
    options = {"source": source_for(config), "device": CPU, "progress": False, **options}
    return train(config, output=output, **options)


@dataclass(frozen=True)
class Faulty:
    """Ordinary pairs, except sample ``bad``, which is recognised by its generator's first number."""

    config: Config
    bad: int
    fault: str
    skipped = None

    def sample(self, rng: np.random.Generator, difficulty: float) -> PairSample:
        wanted = Samples(self, self.config.data, self.config.train.seed, 1000).generator(self.bad)
        if rng.bit_generator.state == wanted.bit_generator.state:
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "unreadable":
                raise UserError("image a.jpg is damaged")
            if self.fault == "nan":
                sample = NoisePairs().sample(rng, difficulty)
                return sample._replace(search_box=np.full(4, np.nan, np.float32))
        return NoisePairs().sample(rng, difficulty)


def test_a_loader_process_that_dies_is_reported_with_its_sample(tmp_path: Path) -> None:
    config = tiny_config(workers=2)
    with pytest.raises(UserError, match=r"died while it made sample 9: .*--first-sample 9"):
        run(config, tmp_path, source=Faulty(config, 9, "killed"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_made_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    config = tiny_config(workers=workers)
    with pytest.raises(UserError, match="^sample 9 could not be made: image a.jpg is damaged$"):
        run(config, tmp_path, source=Faulty(config, 9, "unreadable"))


def test_a_loss_that_is_not_finite_stops_with_all_terms_and_samples_and_saves_nothing(tmp_path: Path) -> None:
    config = tiny_config(log_every=4, steps=8)
    with pytest.raises(NonFiniteLoss) as fault:
        run(config, tmp_path, source=Faulty(config, 6, "nan"))
    message = str(fault.value)
    assert "step 1 on rank 0" in message and "samples 4 5 6 7:" in message
    assert all(f"{term} " in message for term in ("loss", "focal", "giou", "l1")) and "nan" in message
    assert not list((tmp_path / "checkpoints").glob("*")) if (tmp_path / "checkpoints").exists() else True


def test_a_run_learns_validates_and_leaves_its_files(tmp_path: Path, with_curves) -> None:
    pytest.importorskip("matplotlib")
    config = tiny_config(steps=40, batch_size=8, log_every=5, validate_every=20, validation_pairs=8, lr=4e-3)
    clip = NoiseClips(length=6).sample(np.random.default_rng(0), 1.0)
    sequence = make_sequence("moving", "test", list(clip.frames), clip.boxes)
    validation = Validation(config, NoisePairs(), (sequence,))
    weights = run(config, tmp_path, validation=validation)
    log = read_log(tmp_path / "log.jsonl")
    found = losses(tmp_path)
    assert found[40] < 0.8 * found[5]
    measured = {line["step"]: line for line in log if "validation_auc" in line}
    assert list(measured) == [20, 40] and all(0 <= line["validation_iou"] <= 1 for line in measured.values())
    assert read_image(tmp_path / "curves.png").shape[2] == 3
    network = load_model(weights, "cpu")
    assert network.config == config.model
    assert validation.measure(load_model(tmp_path / "best.safetensors", "cpu"))["auc"] == pytest.approx(
        max(line["validation_auc"] for line in measured.values()), abs=0.02
    )


def test_the_same_run_twice_is_the_same_run_with_any_number_of_workers(tmp_path: Path) -> None:
    configs = [tiny_config(steps=3, workers=workers) for workers in (0, 2)]
    a, b = (run(config, tmp_path / str(config.train.workers)) for config in configs)
    assert same(load_file(a), load_file(b))


def test_accumulated_passes_equal_one_large_one(tmp_path: Path) -> None:
    for accumulate in (1, 2):
        run(tiny_config(steps=3, accumulate=accumulate), tmp_path / str(accumulate))
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "2"), abs=1e-5)


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    config = tiny_config(steps=2)
    run(config, tmp_path)
    with pytest.raises(UserError, match="already holds a run"):
        run(config, tmp_path, resume=False)
    with pytest.raises(UserError, match=r"model\.depth is 2 there, 4 here"):
        run(tiny_config(steps=2, model={"depth": 4}), tmp_path)
    with pytest.raises(UserError, match="data.mode"):
        run(tiny_config("clips", steps=2), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        run(config, tmp_path / "file")


def test_curves_are_left_out_without_matplotlib(tmp_path: Path, with_curves, monkeypatch, caplog) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    monkeypatch.setattr(logging.getLogger("vil_tracker"), "propagate", True)
    caplog.set_level(logging.INFO, "vil_tracker")
    run(tiny_config(steps=1), tmp_path)
    assert not (tmp_path / "curves.png").exists() and "pip install 'vil-tracker[plots]'" in caplog.text


def test_a_log_cut_off_by_a_kill_is_read_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    assert read_log(path) == [{"step": 1}]
    path.write_text('{"step"\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"log.jsonl:1 is no line"):
        read_log(path)


@pytest.mark.parametrize("mode", ["pairs", "clips"])
def test_the_contact_sheet_shows_the_samples_of_the_run(tmp_path: Path, mode: str) -> None:
    config = tiny_config(mode)
    path = write_contact_sheet(config, source_for(config), tmp_path / "new" / "sheet.png", 3, first=2)
    sheet = read_image(path)
    # template and search side by side (a clip: all its frames), with a rectangle in the colour of the truth
    row = 64 + text_image("2", 13, INK, PAPER).shape[0] + 12
    assert sheet.shape[0] == 12 + (row if mode == "pairs" else 3 * row)
    assert (np.abs(sheet.astype(int) - (40, 220, 70)).sum(-1) < 30).sum() > 100
    with pytest.raises(UserError, match="at least one"):
        write_contact_sheet(config, source_for(config), path, 0)
