"""A rehearsal of the whole recipe, small: both phases of training on two processes with an interruption, evaluation on
two benchmarks, a report, two submissions. Stops with an error at the first step that does not do its work.

Videos with boxes are laid out as LaSOT (train, test), GOT-10k (train, val, test), TrackingNet (train, test) and COCO
(train), with the official names and files, and the commands of docs/howto/training.md and docs/howto/evaluate.md are
run on them, with a network of 64 channels. Training is validated on lasot:test and got10k:val.

example: python scripts/rehearse.py --videos videos --work runs/rehearsal     (two CPU cores: about two minutes)
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from vil_tracker import cli
from vil_tracker.data.dataset import open_folder
from vil_tracker.data.readers.base import split_list
from vil_tracker.data.readers.got10k import train_names
from vil_tracker.errors import UserError, make_folder

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["model.dim=64", "model.depth=4", "model.stem=conv", "model.template_size=64", "model.search_size=128"]
SMALL += ["model.modulation_interval=2", "model.head_channels=32", "train.batch_size=8", "train.workers=1"]
SMALL += ["train.log_every=2", "train.validation_pairs=16", "train.warmup_steps=2", "train.precision=float32"]
SMALL += ["train.checkpoint_minutes=0.01"]
LONG, SHORT = 24, 3  # frames of a sequence to train or be measured on, and of one for a server


class Footage:
    """Parts of the videos in turn, scaled down, all of whose frames show the target."""

    def __init__(self, videos: Path) -> None:
        self.sequences = [s for s in open_folder(videos) if s.visible[:LONG].all() and len(s) >= LONG]
        if len(self.sequences) < 3:
            raise UserError(f"{videos} has {len(self.sequences)} videos of {LONG} frames with a target, expected three")
        self._turn = 0
        self._read: dict[int, tuple[list[np.ndarray], np.ndarray]] = {}

    def take(self, count: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The first ``count`` frames (H, W, 3) of the next video, and their boxes (count, 4)."""
        number, self._turn = self._turn % min(len(self.sequences), 12), self._turn + 1
        if number not in self._read:
            sequence = self.sequences[number]
            read = [sequence.frames[i] for i in range(LONG)]
            scale = 240 / max(read[0].shape[:2])
            scaled = [cv2.resize(frame, None, fx=scale, fy=scale) for frame in read]
            self._read[number] = scaled, sequence.boxes[:LONG] * scale
        frames, boxes = self._read[number]
        return frames[:count], boxes[:count]


def write_frames(folder: Path, names: Iterator[str], frames: list[np.ndarray]) -> None:
    """Frames as JPEG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(names, frames, strict=False):
        cv2.imwrite(str(folder / name), frame[:, :, ::-1])


def write_boxes(path: Path, boxes: np.ndarray) -> None:
    """One x,y,w,h per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(f"{value:.4f}" for value in box) + "\n" for box in boxes))


def lay_out(videos: Path, data: Path) -> None:
    """The data sets of the recipes, a few sequences each; the parts that a server scores, 180 and 511, are complete."""
    footage = Footage(videos)
    for name in (*split_list("lasot_train")[:4], *split_list("lasot_test")[:2]):
        frames, boxes = footage.take(LONG)
        folder = data / "LaSOT" / name.rpartition("-")[0] / name
        write_frames(folder / "img", (f"{i:08d}.jpg" for i in range(1, LONG + 1)), frames)
        write_boxes(folder / "groundtruth.txt", boxes)
        for label in ("full_occlusion", "out_of_view"):
            (folder / f"{label}.txt").write_text(",".join("0" * LONG))
    got10k = [*train_names("vot_train")[:4], *train_names("vot_val")[:2]]
    got10k += [f"GOT-10k_Val_{n:06d}" for n in (1, 2)] + [f"GOT-10k_Test_{n:06d}" for n in range(1, 181)]
    for name in got10k:
        part = name.split("_")[1].lower()
        frames, boxes = footage.take(SHORT if part == "test" else LONG)
        folder = data / "GOT-10k" / part / name
        write_frames(folder, (f"{i:08d}.jpg" for i in range(1, LONG + 1)), frames)
        write_boxes(folder / "groundtruth.txt", boxes[:1] if part == "test" else boxes)
        for label, value in (("absence", 0), ("cover", 8), ("cut_by_image", 0)) if part != "test" else ():
            (folder / f"{label}.label").write_text(f"{value}\n" * LONG)
        with (folder.parent / "list.txt").open("a") as listed:
            listed.write(f"{name}\n")
    for number in range(4 + 511):
        part, count, known = ("TEST", SHORT, 1) if number >= 4 else (f"TRAIN_{number}", LONG, LONG)
        frames, boxes = footage.take(count)
        chunk, name = data / "TrackingNet" / part, f"video{number:06d}_0"
        write_frames(chunk / "frames" / name, (f"{i}.jpg" for i in range(count)), frames)
        write_boxes(chunk / "anno" / f"{name}.txt", boxes[:known])
    images, objects = [], []
    for number in range(12):
        frames, boxes = footage.take(1)
        name = f"{number:012d}.jpg"
        write_frames(data / "COCO" / "train2017", iter([name]), frames)
        height, width = frames[0].shape[:2]
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        box = [float(value) for value in boxes[0]]
        objects.append({"id": number, "image_id": number, "bbox": box, "iscrowd": 0, "category_id": 1})
    annotations = data / "COCO" / "annotations" / "instances_train2017.json"
    annotations.parent.mkdir(exist_ok=True)
    annotations.write_text(json.dumps({"images": images, "annotations": objects}))


class Rehearsal:
    """Runs commands in the folder of the rehearsal, and writes what they print to ``log.txt``."""

    def __init__(self, work: Path) -> None:
        self.work, self.log = work, work / "log.txt"
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.environment["VIL_CACHE"] = str(work.resolve() / "cache")

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            return subprocess.Popen(
                command, cwd=self.work, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, what: str, *command: str) -> None:
        """Run a command to its end.

        Raises:
            UserError: it failed.
        """
        began = time.monotonic()
        status = self.start(*command).wait()
        check(status == 0, f"{what}: exit status {status}, see {self.log}")
        print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)

    def tracker(self, what: str, *arguments: str) -> None:
        self.run(what, sys.executable, "-m", "vil_tracker", *arguments)

    def training(self, config: str, output: str, *settings: str) -> list[str]:
        """The documented command line for two processes."""
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += [str(ROOT / "scripts" / "train.py"), str(ROOT / "configs" / config), "--data-root", "data"]
        return [*command, "--output", output, "--trust-index", "--set", *SMALL, *settings]


def check(right: bool, fault: str) -> None:
    """Raise UserError unless ``right``."""
    if not right:
        raise UserError(f"rehearsal: {fault}")


def logged_steps(folder: Path) -> list[int]:
    """Steps that a run's log has losses of."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def run(args: argparse.Namespace) -> int:
    work = make_folder(args.work)
    check(not any(work.iterdir()), f"{work} is not empty: give a new folder")
    lay_out(args.videos, work / "data")
    stage = Rehearsal(work)
    stage.tracker("doctor", "doctor", "--data-root", "data")
    stage.tracker("index", "data", "index", "--data-root", "data", "lasot", "got10k:vot_train", "trackingnet", "coco")

    steps = args.steps
    pairs = ["train.init_from=", f"train.steps={steps}", "train.validation_sequences=lasot:test"]
    pairs = stage.training("small_pairs.yaml", "pairs", *pairs)
    first = stage.start(*pairs)
    deadline = time.monotonic() + 300
    while not list((work / "pairs" / "checkpoints").glob("*.pt")):
        check(first.poll() is None and time.monotonic() < deadline, f"phase 1 made no checkpoint, see {stage.log}")
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    reached = logged_steps(work / "pairs")[-1]
    check(reached < steps, "phase 1 was done before it was interrupted: give more --steps")
    print(f"phase 1 on two processes: killed at step {reached} of {steps}", flush=True)
    stage.run("phase 1, resumed", *pairs)
    check(logged_steps(work / "pairs") == list(range(2, steps + 1, 2)), "the resumed run's log has other steps")

    start = ["train.init_from=pairs/weights.safetensors", f"train.steps={steps // 2}", "data.clip_length=3"]
    start.append("train.validation_sequences=got10k:val")
    stage.run("phase 2", *stage.training("small_clips.yaml", "clips", *start))

    for phase in ("pairs", "clips"):
        check(
            '"validation_auc"' in (work / phase / "log.jsonl").read_text(),
            f"{phase}: no AUC on the sequences to validate on",
        )

    weights = ["--weights", "clips/weights.safetensors", "--workers", "2"]
    for key, folder in (("lasot", "LaSOT"), ("got10k_val", "GOT-10k")):
        part = ["--benchmark", key, "--data-root", f"data/{folder}", "--output", key, "--sequences", "all"]
        stage.tracker(f"{key}, with a report", "evaluate", *part, *weights)
        check(all((work / key / f"report.{kind}").is_file() for kind in ("html", "json")), f"{key}: no report")
    for key, folder, files, count in (
        ("got10k_test", "GOT-10k", "{0}/{0}_001.txt {0}/{0}_time.txt", 180),
        ("trackingnet", "TrackingNet", "{0}.txt", 511),
    ):
        whole = ["--benchmark", key, "--data-root", f"data/{folder}", "--output", key]
        stage.tracker(f"{key}, for its server", "evaluate", *whole, *weights, "--submission", f"{key}.zip")
        frames = (work / "data" / folder).glob("test/*/" if key == "got10k_test" else "TEST/frames/*/")
        wanted = {name for sequence in frames for name in files.format(sequence.name).split()}
        with zipfile.ZipFile(work / f"{key}.zip") as archive:
            lines = {len(archive.read(name).splitlines()) for name in archive.namelist()}
            check(set(archive.namelist()) == wanted, f"{key}.zip has other files than its {count} sequences ask for")
        check(lines == {SHORT}, f"{key}.zip has files of {lines} lines, expected {SHORT}")
    print(f"all done; what the commands printed is in {stage.log}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="folder of videos, each with a text of boxes")
    parser.add_argument("--work", type=Path, required=True, help="new folder for everything")
    parser.add_argument("--steps", type=int, default=20, help="of phase 1, even (default 20); half in phase 2")
    args = parser.parse_args()
    return cli.guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
