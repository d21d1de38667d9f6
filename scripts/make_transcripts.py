"""Run the commands of the how-tos and write what they print: ``python scripts/make_transcripts.py [NAME ...]``.

Each transcript is a page of ``docs/transcripts/``. The commands run one after another in one empty folder, in which the
repository is known as ``vil-tracker``; ``--work`` keeps it, so that single transcripts can be made again.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = REPOSITORY / "docs/transcripts"
LONGEST = 48  # lines shown of one command
BOX = "125.7,168.6,58.8,37.8"  # the car on the first frame of the demo clip

FIVE_LINES = """\
import vil_tracker
for index, result in vil_tracker.track("demo_output/clip.mp4", box=(125.7, 168.6, 58.8, 37.8)):
    print(index, result.box.round(1), round(result.score, 2), result.state)
    if index == 5: break
"""
HUB = """\
import vil_tracker
from vil_tracker.hub import from_pretrained, save_pretrained
network = vil_tracker.load_model("nano")
print(save_pretrained(network, "my_tracker"))
print(sum(p.numel() for p in from_pretrained("my_tracker").parameters()), "parameters")
"""
STATES = """\
import collections, json
rows = [json.loads(line) for line in open("tracked/boxes.jsonl")]
print(collections.Counter(row["state"] for row in rows))
print(min(rows, key=lambda row: row["score"]))
"""
OWN_DATA = "mkdir -p data/mine && cp demo_output/clip.mp4 data/mine/car.mp4 && python write_truth.py data/mine/car.txt"
WRITE_TRUTH = """\
import sys
from vil_tracker.data.synthetic.demo_clip import DemoClip
with open(sys.argv[1], "w") as stream:
    for box in DemoClip().boxes: print(",".join(f"{value:.2f}" for value in box), file=stream)
"""
TAKE_CODE = """\
import pathlib, re, sys
howto, *files = sys.argv[1:]
blocks = re.findall(r"```python\\n(.*?)```", pathlib.Path(howto).read_text(), re.S)
for file, code in zip(files, blocks): pathlib.Path(file).write_text(code)
"""
REGISTER = r"""cp -r vil-tracker/vil_tracker checkout
readers=checkout/data/readers
python take_code.py vil-tracker/docs/howto/add_a_data_set.md $readers/roadcam.py
sed -i 's/^from .*import COCO.*/&\nfrom vil_tracker.data.readers.roadcam import RoadCam/' $readers/__init__.py
sed -i 's/VastTrack())/VastTrack(), RoadCam())/' $readers/__init__.py
mkdir -p checked && rm -rf checked/vil_tracker && mv checkout checked/vil_tracker
"""
PAINT_ROADCAM = """\
from pathlib import Path
import numpy as np
from vil_tracker.data.synthetic.demo_clip import DemoClip
from vil_tracker.images import write_image
clip = DemoClip()
for number, (split, start) in enumerate((("train", 0), ("train", 60), ("test", 120)), start=1):
    drive = Path("roads/RoadCam") / split / f"drive_{number:02}"
    (drive / "cam").mkdir(parents=True, exist_ok=True)
    for k in range(30): write_image(drive / "cam" / f"{k + 1:04}.jpg", clip[start + k])
    np.savetxt(drive / "target.txt", clip.boxes[start : start + 30], "%.2f", ",")
    (drive / "hidden.txt").write_text(",".join(["0"] * 30))
"""
ENTRY = r"""table=checked/vil_tracker/evaluation/benchmarks.py
sed -i 's/^from .*import TNL2K.*/&\nfrom vil_tracker.data.readers.roadcam import RoadCam/' $table
roadcam='Benchmark("roadcam", "RoadCam", RoadCam, "test", official=conventions.OTB),'
sed -i "s/^    Benchmark(\"folder\"/    $roadcam\n&/" $table
"""
SMOKE = "vil-tracker train vil-tracker/configs/smoke.yaml --data-root painted"
TWO_NODES = f"""\
# both nodes of this example are on one machine; on two, each runs its own line with the first one's address
node() {{
    torchrun --nnodes 2 --node-rank $1 --nproc-per-node 1 --master-addr 127.0.0.1 --master-port 29511 \\
        -m {SMOKE.replace("vil-tracker ", "vil_tracker ", 1)} --output two --set train.steps=20
}}
node 1 > node1.log 2>&1 &
node 0
wait
"""


@dataclass(frozen=True)
class Transcript:
    """The commands of one how-to; ``files`` are written before, and shown."""

    title: str
    page: str
    commands: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()


TRANSCRIPTS = {
    "demo": Transcript("The demo", "../index.md", ("python vil-tracker/scripts/demo.py",)),
    "track": Transcript(
        "Tracking your video",
        "../howto/track.md",
        (
            f"vil-tracker track demo_output/clip.mp4 --box {BOX} --format csv,jsonl --strip --output tracked",
            "head -4 tracked/boxes.csv",
            "tail -1 tracked/boxes.jsonl",
            f"vil-tracker track demo_output/clip.mp4 --box {BOX} --start 1.5s --stride 3 --no-video --output thirds",
            "vil-tracker track demo_output/clip.mp4 --box 900,20,10,10",
            "vil-tracker track clip.mpg --box 1,2,3,4",
        ),
    ),
    "python": Transcript(
        "From Python",
        "../howto/python.md",
        ("python five_lines.py", "python hub.py", "ls my_tracker"),
        (("five_lines.py", FIVE_LINES), ("hub.py", HUB)),
    ),
    "web_page": Transcript(
        "The web page",
        "../howto/web_page.md",
        ("timeout --preserve-status --signal INT 60 vil-tracker demo --port 7861", "vil-tracker demo --port 70000"),
    ),
    "lost_signal": Transcript(
        "The lost signal", "../howto/lost_signal.md", ("python states.py",), (("states.py", STATES),)
    ),
    "own_data": Transcript(
        "Your own data",
        "../howto/own_data.md",
        (OWN_DATA, "vil-tracker doctor --data-root data --scan"),
        (("write_truth.py", WRITE_TRUTH),),
    ),
    "evaluate": Transcript(
        "Evaluate a tracker",
        "../howto/evaluate.md",
        (
            "vil-tracker evaluate --benchmark folder --data-root data/mine --output evaluated --tracker vil still",
            "ls evaluated",
        ),
    ),
    "add_a_data_set": Transcript(
        "Add a data set",
        "../howto/add_a_data_set.md",
        (
            "bash register.sh && python paint_roadcam.py",
            "cd checked && python -m vil_tracker doctor --data-root ../roads --scan | grep -i -A 9 roadcam",
        ),
        (("take_code.py", TAKE_CODE), ("register.sh", REGISTER), ("paint_roadcam.py", PAINT_ROADCAM)),
    ),
    "add_a_benchmark": Transcript(
        "Add a benchmark",
        "../howto/add_a_benchmark.md",
        (
            "bash entry.sh",
            "cd checked && python -m vil_tracker evaluate --benchmark roadcam --data-root ../roads --sequences all "
            "--tracker vil still --output ../roadcam_scores",
        ),
        (("entry.sh", ENTRY),),
    ),
    "training": Transcript(
        "Training",
        "../howto/training.md",
        ("python vil-tracker/scripts/paint_data.py painted", f"{SMOKE} --output smoke", "ls smoke"),
    ),
    "multi_node": Transcript(
        "Training with several processes",
        "../howto/training.md",
        ("bash two_nodes.sh", "ls two"),
        (("two_nodes.sh", TWO_NODES),),
    ),
    "export": Transcript(
        "Export",
        "../howto/export.md",
        ("vil-tracker export --format onnx --weights nano --output exported", "ls exported"),
    ),
    "speed": Transcript("Tuning speed", "../howto/speed.md", ("vil-tracker benchmark --frames 60 --repeats 10",)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *TRANSCRIPTS], default=[], help="which ones (default: all)")
    parser.add_argument("--work", type=Path, help="folder in which the commands run (default: a temporary one)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one command")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "vil-tracker").exists():
            (folder / "vil-tracker").symlink_to(REPOSITORY, target_is_directory=True)
        failed = [name for name in args.names or TRANSCRIPTS if not record(name, folder.resolve(), args.timeout)]
    if failed:
        print(f"with another exit status than 0 or 2: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def record(name: str, folder: Path, timeout: float) -> bool:
    """Run one transcript's commands and write its page; False if one of them failed in an unforeseen way."""
    transcript = TRANSCRIPTS[name]
    parts = [f"# Transcript: {transcript.title}\n\nWhat the commands of [the how-to]({transcript.page}) print.\n"]
    for file, content in transcript.files:
        (folder / file).write_text(content, encoding="utf-8")
        parts.append(f"`{file}`:\n\n```{file.rpartition('.')[2]}\n{content}```\n")
    fine = True
    for command in transcript.commands:
        begin = time.monotonic()
        text, status = _run(command, folder, timeout)
        seconds = time.monotonic() - begin
        fine &= status in (0, 2)
        ending = f"[exit status {status}]\n" if status else ""
        parts.append(f"```console\n$ {command}\n{shorten(text)}{ending}```\n")
        print(f"{name}: {shlex.split(command)[0]} … {status} after {seconds:.0f} s", flush=True)
    parts.append(f"---\n\n{_machine()}\n")
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"{name}.md").write_text("\n".join(parts), encoding="utf-8")
    return fine


def _run(command: str, folder: Path, timeout: float) -> tuple[str, int]:
    tools = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    environment = os.environ | {"PATH": tools, "PYTHONWARNINGS": "ignore", "COLUMNS": "100"}
    try:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return "[stopped: it took too long]\n", 124
    text = done.stdout.replace(f"{folder}/", "").replace(str(folder), ".").replace(f"{REPOSITORY}/", "vil-tracker/")
    return text.replace(sys.prefix, ".venv").replace(str(Path.home()), "~"), done.returncode


def shorten(text: str) -> str:
    """Leave the middle of a long output out."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line.split("\r")[-1]) for line in text.splitlines()]
    if len(lines) > LONGEST:
        kept = LONGEST // 2
        lines = [*lines[:kept], f"… {len(lines) - 2 * kept} more lines …", *lines[-kept:]]
    return "".join(f"{line}\n" for line in lines)


def _machine() -> str:
    import torch

    return (
        f"Python {platform.python_version()}, PyTorch {torch.__version__}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} CPU cores, {'a GPU' if torch.cuda.is_available() else 'no GPU'}; other programs ran beside."
    )


if __name__ == "__main__":
    sys.exit(main())
