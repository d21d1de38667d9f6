"""Make a workspace of the vot-toolkit from a folder of sequences or videos, with ViL-Tracker registered in it.

    python integrations/vot/make_workspace.py --data-root my_videos --output workspace
    vot evaluate --workspace workspace ViLTracker

Only files are written; nothing of the toolkit is imported. Options after ``--`` go to vil_vot.py.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

import numpy as np

from vil_tracker.data.sequence import ImageFrames, Sequence
from vil_tracker.errors import UserError, atomic_write, make_folder
from vil_tracker.evaluation.benchmarks import get_benchmark, load_sequences
from vil_tracker.images import write_image

# One pass without restarts, scored by accuracy and robustness; it needs none of the anchors of VOT's own data.
STACK = """\
title: One pass over your own sequences
experiments:
  baseline:
    type: unsupervised
    repetitions: 1
    analyses:
      - type: average_accuracy
        name: accuracy
"""


def write_sequence(folder: Path, sequence: Sequence) -> None:
    """Write one sequence in the toolkit's layout; frames that are JPEG files already are linked."""
    color = make_folder(folder / "color")
    for index in range(len(sequence.boxes)):
        target = color / f"{index + 1:08d}.jpg"
        frames = sequence.frames
        if isinstance(frames, ImageFrames) and frames.paths[index].suffix.lower() in (".jpg", ".jpeg"):
            target.unlink(missing_ok=True)
            target.symlink_to(frames.paths[index].resolve())
        else:
            write_image(target, frames[index])
    lines = ("0" if not np.isfinite(box).all() else ",".join(f"{value:.3f}" for value in box) for box in sequence.boxes)
    with atomic_write(folder / "groundtruth.txt", "w") as stream:
        stream.writelines(f"{line}\n" for line in lines)
    with atomic_write(folder / "sequence", "w") as stream:
        stream.write(f"format=default\nfps=25\nname={sequence.name}\n")
        stream.write("channel.default=color\nchannels.color=color/%08d.jpg\n")


def make_workspace(output: Path, sequences: list[Sequence], options: list[str]) -> None:
    """Write the sequences, the stack, the registry and the configuration of a workspace."""
    for sequence in sequences:
        write_sequence(output / "sequences" / sequence.name, sequence)
    command = [sys.executable, str(Path(__file__).resolve().with_name("vil_vot.py")), *options]
    files = {
        "sequences/list.txt": "".join(f"{sequence.name}\n" for sequence in sequences),
        "stack.yaml": STACK,
        "config.yaml": "registry:\n- ./trackers.ini\nstack: ./stack.yaml\nsequences: sequences\n",
        "trackers.ini": f"[ViLTracker]\nlabel = ViL-Tracker\nprotocol = trax\ncommand = {shlex.join(command)}\n",
    }
    for name, content in files.items():
        with atomic_write(output / name, "w") as stream:
            stream.write(content)


def main() -> int:
    """Read the options and write the workspace."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Options after -- go to vil_vot.py, such as  -- --weights nano"
    )
    parser.add_argument("--data-root", required=True, help="folder of sequences or of videos with box files")
    parser.add_argument("--output", required=True, help="folder of the workspace")
    parser.add_argument("--sequences", help="only these, joined by commas")
    parser.add_argument("options", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    wanted = tuple(arguments.sequences.split(",")) if arguments.sequences else None
    try:
        sequences = load_sequences(get_benchmark("folder"), Path(arguments.data_root), wanted)
        make_workspace(make_folder(arguments.output), sequences, arguments.options)
    except UserError as error:
        print(f"make_workspace: {error}", file=sys.stderr)
        return 2
    print(f"now run:  vot evaluate --workspace {os.path.relpath(arguments.output)} ViLTracker")
    return 0


if __name__ == "__main__":
    sys.exit(main())
