"""The log of a run, one JSON object per line; its curves; TensorBoard, and Weights & Biases where it is asked for."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vil_tracker.config import Config, config_to_dict
from vil_tracker.data.skipping import SkippedFiles
from vil_tracker.errors import UserError, atomic_write, read_text, require_extra, write_lines, writing
from vil_tracker.runtime import Ranks
from vil_tracker.training.losses import Terms

log = logging.getLogger(__name__)


PANELS = (
    ("loss", ("loss", "focal", "giou", "l1")),
    ("overlap", ("iou", "validation_iou", "validation_auc")),
    ("gradient norm", ("grad_norm",)),
    ("learning rate", ("lr",)),
)


class NonFiniteLoss(UserError):
    """The loss or the gradient became NaN or infinite; the message holds every term and the samples of that step."""


class Record:
    """Collects losses on the device and reads them only when a line is due: ``log.jsonl`` and ``tensorboard/`` in the
    run's folder, written by rank 0, of losses averaged over all processes. Lines of an interrupted part of the run that
    begin after ``first_step`` are removed.
    """

    def __init__(self, folder: Path, config: Config, ranks: Ranks, first_step: int) -> None:
        self.path, self.config, self.ranks = folder / "log.jsonl", config, ranks
        self.pending: list[tuple[int, Tensor, Terms, list[int]]] = []
        self.skipped: dict[int, SkippedFiles] = {}
        self.started, self.waited, self.logged_step = time.monotonic(), 0.0, first_step
        self.board = _open_board(folder / "tensorboard") if ranks.main else None
        self.wandb = _open_wandb(folder, config) if ranks.main and config.train.wandb else None
        if ranks.main:
            lines: list[dict[str, Any]] = [{"config": config_to_dict(config)}]
            if first_step > 0 and self.path.exists():
                lines = [line for line in read_log(self.path) if line.get("step", 0) <= first_step]
            write_lines(self.path, map(json.dumps, lines))
            for line in lines[1:]:  # TensorBoard's own files lack the last minutes before a kill
                self._show(line)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside counts as waiting for data."""
        begun = time.monotonic()
        yield
        self.waited += time.monotonic() - begun

    def add(self, step: int, loss: Tensor, terms: Terms, samples: list[int], skipped: SkippedFiles | None) -> None:
        """Note one forward pass, without waiting for the device."""
        self.pending.append((step, loss.detach(), terms, samples))
        if skipped is not None:
            self.skipped[skipped.worker] = skipped

    def write(self, step: int, norm: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Write the means since the last line.

        Raises:
            NonFiniteLoss: one of the losses, or the last gradient, is not finite (here or in another process).
        """
        names = list(self.pending[0][2])
        rows = [torch.stack([loss, *(terms[name] for name in names)]).float() for _, loss, terms, _ in self.pending]
        values = torch.stack(rows)
        mean = values.mean(0)
        if self.ranks.world > 1:
            dist.all_reduce(mean)
            mean /= self.ranks.world
        mean_list = mean.tolist()  # the only point where the device is waited for
        if not torch.isfinite(mean).all() or not torch.isfinite(norm):
            self._stop(values.cpu(), names, norm)
        elapsed = time.monotonic() - self.started
        line = {
            "step": step,
            **dict(zip(["loss", *names], mean_list, strict=True)),
            "grad_norm": norm.item(),
            "lr": max(group["lr"] for group in optimizer.param_groups),
            "samples_per_second": (step - self.logged_step) * self.config.train.batch_size / max(elapsed, 1e-9),
            "waiting": self.waited / max(elapsed, 1e-9),
        }
        if any(entry.failures for entry in self.skipped.values()):
            line["damaged"] = sum(entry.failures for entry in self.skipped.values())
        self.append(line)
        self.pending.clear()
        self.started, self.waited, self.logged_step = time.monotonic(), 0.0, step

    def append(self, line: dict[str, Any]) -> None:
        """Write one line, on rank 0; its numbers go to TensorBoard and Weights & Biases as well."""
        if not self.ranks.main:
            return
        with writing(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self._show(line)

    def _show(self, line: dict[str, Any]) -> None:
        """Hand a line's numbers to TensorBoard and Weights & Biases, where they are there."""
        step = line["step"]
        numbers = {name: value for name, value in line.items() if name != "step" and isinstance(value, (int, float))}
        if self.board is not None:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)
        if self.wandb is not None:  # a resumed run's lines that are there already are passed over, with a warning
            self.wandb.log(numbers, step=step)

    def close(self) -> None:
        """Say which pictures were damaged, and finish."""
        if self.skipped:
            total = SkippedFiles(1.0).merge(self.skipped.values())
            if self.ranks.main and total.failures:
                log.warning("damaged pictures: %s", total.summary())
                with writing(self.path), (self.path.parent / "damaged.txt").open("w", encoding="utf-8") as stream:
                    stream.writelines(f"{name}\t{reason}\n" for name, reason in sorted(total.reasons.items()))
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()

    def _stop(self, values: Tensor, names: list[str], norm: Tensor) -> None:
        bad = (~torch.isfinite(values[:, 0])).nonzero()
        if len(bad) == 0 and torch.isfinite(norm):
            raise NonFiniteLoss("the loss of another process is not finite: its message says which samples")
        row = int(bad[0]) if len(bad) else len(values) - 1
        step, _, _, samples = self.pending[row]
        shown = ", ".join(f"{name} {value:g}" for name, value in zip(["loss", *names], values[row], strict=True))
        listed = " ".join(map(str, samples))
        raise NonFiniteLoss(
            f"training stopped at step {step} on rank {self.ranks.rank}: {shown}, gradient norm {norm.item():g}, "
            f"samples {listed}: lower train.lr, or look at these samples with --show-samples {len(samples)} "
            f"--first-sample {samples[0]}"
        )


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line that was cut off by a kill is left out.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    lines = read_text(path, "the log").splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}:{number} is no line of a log: {error}") from error
    return found


def plot_curves(log_path: Path, path: Path) -> Path | None:
    """Draw the losses, overlaps, gradient norm and rate in the log of a run over its steps, to the PNG file ``path``;
    None with a note in the log where matplotlib is not installed.
    """
    try:
        figures = require_extra("matplotlib.figure", "plots", "draw the curves of a run")
    except UserError as error:
        log.info("no curves: %s", error)
        return None
    lines = [line for line in read_log(log_path) if "step" in line]
    figure = figures.Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
    return path


def _open_board(folder: Path) -> Any:
    """A TensorBoard writer, or None where TensorBoard is not installed; what the folder held before is hidden."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info(
            "TensorBoard is not installed, so the log is in log.jsonl alone: pip install 'vil-tracker[tensorboard]' "
            "adds its files"
        )
        return None
    with writing(folder):
        return SummaryWriter(str(folder), purge_step=0)


def _open_wandb(folder: Path, config: Config) -> Any:
    """The run of Weights & Biases that belongs to the folder: a new one, or the one that it had before.

    Raises:
        UserError: the package is not installed, or it cannot begin a run.
    """
    wandb = require_extra("wandb", "wandb", "log to Weights & Biases, as train.wandb asks")
    known = folder / "wandb_id"
    if not known.is_file():
        write_lines(known, [secrets.token_hex(4)])
    try:
        return wandb.init(
            project=config.train.wandb,
            name=folder.name,
            id=known.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(folder),
            config=config_to_dict(config),
        )
    except (wandb.Error, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot begin a run of Weights & Biases ({reason}): log in, or WANDB_MODE=offline") from error
