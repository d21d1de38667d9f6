"""``vil-tracker track``: follow targets through a video, images, a camera or a stream."""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vil_tracker.config.command_line import add_engine_options, add_model_options, add_track_options, track_config
from vil_tracker.errors import UserError, check_folder, read_text, writing
from vil_tracker.models.loading import BACKENDS, PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from vil_tracker.config import TrackConfig
    from vil_tracker.io.source import Frame
    from vil_tracker.models.inference import Precision
    from vil_tracker.results import TrackerLike
    from vil_tracker.tracking.run import OutputSettings, Summary
    from vil_tracker.tracking.select import Target
    from vil_tracker.tracking.window import OpenCVWindow

EPILOG = """\
examples:
  vil-tracker track video.mp4 --box 120,80,64,48
  vil-tracker track video.mp4 --select --start 00:01:02      draw the box with the mouse
  vil-tracker track video.mp4 --box 120,80,64,48 --correct 250:300,90,60,45      where it had drifted
  vil-tracker track frames/ --box 120,80,64,48 --box 300,90,40,40 --format csv,mot
  vil-tracker track videos.csv --workers 4 --no-video        many videos, each from its box; goes on after a stop
  vil-tracker track 0 --select --show                        webcam, with a window
  vil-tracker track rtsp://camera/stream --box 120,80,64,48 --frames 3000
  ffmpeg -i in.mp4 -f image2pipe -c:v mjpeg - | vil-tracker track - --box 120,80,64,48

keys with --show: h shows them, space pause, s step, 1-9 choose a target, r draw its box again, q quit
with --select: draw a box; Enter starts, Space draws another one, c gives up
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``track``, its description and its examples."""
    parser.description = "Follow one or more targets through a video and write their boxes and an annotated video."
    parser.epilog = EPILOG
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="video file, image folder, glob in quotes, webcam index, rtsp:// or http:// address, "
        "- for JPEG or PNG images on standard input, or LIST.csv with a video,x,y,w,h[,start] per line",
    )
    target = parser.add_argument_group("target (one of --box, --select, --boxes)")
    target.add_argument(
        "--box", action="append", metavar="X,Y,W,H", help="box on the first frame, in pixels; repeat for more targets"
    )
    target.add_argument("--select", action="store_true", help="draw the boxes with the mouse on the first frame")
    target.add_argument(
        "--boxes",
        metavar="FILE",
        help="file of boxes: x,y,w,h per line, or a table frame,id,x,y,w,h (targets may join late)",
    )
    target.add_argument(
        "--correct",
        action="append",
        default=[],
        metavar="[ID@]FRAME:X,Y,W,H",
        help="go on from this box at a later frame (of target ID, default 1); repeat for more corrections",
    )
    frames = parser.add_argument_group("frames")
    frames.add_argument(
        "--start", default="0", metavar="N|TIME", help="begin at a frame (120) or time (1.5s, 00:01:02)"
    )
    frames.add_argument("--stride", type=int, default=1, metavar="N", help="use every N-th frame (default 1)")
    frames.add_argument("--frames", type=int, metavar="N", help="stop after N frames")
    frames.add_argument("--fps", type=float, metavar="RATE", help="frames per second of images (default 25)")
    frames.add_argument(
        "--range",
        metavar="LOW,HIGH",
        help="values that become black and white, of images of more than 8 bits (default: the sequence's range)",
    )
    frames.add_argument(
        "--stream-timeout",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds without a frame that end a stream (default 10)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--output", "-o", metavar="DIR", help="folder of the results (default: NAME_tracked)")
    output.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the files of another run in that folder (default: the files go to DIR-2)",
    )
    output.add_argument("--no-video", action="store_true", help="do not write the annotated video")
    output.add_argument(
        "--format",
        default="csv",
        metavar="LIST",
        help="box files: csv, jsonl, mot, coco, yolo, cvat, label-studio; joined by commas (default csv)",
    )
    output.add_argument(
        "--video-codec",
        default="auto",
        choices=("auto", "vp9", "h264"),
        help="of the videos: vp9 (WebM) or h264 (MP4); auto is vp9, or h264 where only MP4 takes the source's sound",
    )
    output.add_argument("--no-audio", action="store_true", help="leave the source's sound out of the annotated video")
    output.add_argument("--target-clip", action="store_true", help="write a square clip that stays on each target")
    output.add_argument("--strip", action="store_true", help="write eight key frames as one picture")
    output.add_argument("--contact-sheet", action="store_true", help="write twelve key frames as a sheet")
    output.add_argument("--score-plot", action="store_true", help="draw the score over time (plots extra)")
    output.add_argument("--show", action="store_true", help="show the results in a window while tracking")
    model = parser.add_argument_group("model")
    add_model_options(model, "shipped weights by name, a file, or the folder of an exported network")
    model.add_argument(
        "--dtype",
        default="float32",
        choices=(*PRECISIONS, "auto"),
        help="precision (default float32); auto: bfloat16 if that is faster here, timed once",
    )
    model.add_argument(
        "--backend", choices=BACKENDS, help="what runs the network (default: torch, or what an exported one is for)"
    )
    model.add_argument(
        "--compile", action="store_true", help="let torch.compile make programs of the network first: for a GPU"
    )
    add_track_options(parser.add_argument_group("session"))
    many = parser.add_argument_group("many videos (LIST.csv)")
    add_engine_options(many, 1, "processes (default 1)")


def run(args: argparse.Namespace) -> int:
    """Run ``track``; returns 0, or 128 plus the number of the signal that ended it."""
    config = track_config(args)
    if args.source.lower().endswith(".csv"):
        from vil_tracker.tracking.track_list import track_list

        return track_list(args, config, load_tracker_factory, track)
    if (args.workers, args.threads, args.engine, args.address) != (1, 1, "processes", None):
        raise UserError("--workers, --threads, --engine and --address are for many videos: give LIST.csv")
    load = functools.partial(load_tracker_factory, args.weights, args.device, config)
    return track(args, functools.partial(load, precision=args.dtype, compiled=args.compile, backend=args.backend))


def load_tracker_factory(
    weights: str,
    device: str,
    config: TrackConfig | None = None,
    *,
    precision: Precision | Literal["auto"] = "float32",
    compiled: bool = False,
    backend: str | None = None,
) -> Callable[[], TrackerLike]:
    """Load a network once; every tracker that the result makes shares it."""
    from vil_tracker.models.loading import load_search_model
    from vil_tracker.runtime import keep_freed_memory
    from vil_tracker.tracking.tracker import Tracker

    keep_freed_memory()
    model = load_search_model(weights, device, precision=precision, compiled=compiled, backend=backend)
    return lambda: Tracker(model, config)


def track(
    args: argparse.Namespace,
    load: Callable[[], Callable[[], TrackerLike]],
    open_window: Callable[[], OpenCVWindow] | None = None,
    on_done: Callable[[Summary], None] | None = None,
) -> int:
    """Do what ``args`` says with trackers from ``load()``, which is called once the source and the boxes are known;
    ``on_done`` is called with the summary, where the source could be read to its end.
    """
    from vil_tracker.io.files import open_source
    from vil_tracker.io.source import parse_start

    _check_targets_given(args)
    if args.frames is not None and args.frames < 1:
        raise UserError(f"--frames {args.frames} is below 1: give how many frames to track")
    source = open_source(  # before anything that takes seconds to import, so that a wrong path is reported at once
        args.source,
        start=parse_start(args.start),
        stride=args.stride,
        fps=args.fps,
        stream_timeout=args.stream_timeout,
        value_range=_parse_range(args.range),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(source.close)
        from vil_tracker.io.box_writers import parse_formats
        from vil_tracker.io.video_writer import choose_codec
        from vil_tracker.tracking.run import OutputSettings, track_source
        from vil_tracker.tracking.select import parse_correction
        from vil_tracker.tracking.window import OpenCVWindow, Viewer, select_targets

        quiet = getattr(args, "quiet", False)
        fixed = _fixed_targets(args)
        corrections = [parse_correction(text) for text in args.correct]
        formats = parse_formats(args.format)
        if not args.no_video or args.target_clip:
            choose_codec(args.video_codec)  # fail before any work
        window: OpenCVWindow | None = None
        if args.select or args.show:
            window = (open_window or OpenCVWindow)()
            stack.callback(window.close)
        same = ("target_clip", "strip", "contact_sheet", "score_plot", "overwrite")
        settings = OutputSettings(
            folder=Path(args.output or f"{_file_name(source.name)}_tracked"),
            formats=formats,
            video=not args.no_video,
            codec=args.video_codec,
            sound=not args.no_audio,
            reads=(Path(args.boxes),) if args.boxes else (),
            **{name: getattr(args, name) for name in same},
        )
        check_folder(settings.folder)  # again when it is made, but after the weights are loaded
        viewer = Viewer(window, source.fps / args.stride) if args.show and window is not None else None
        if viewer is not None and not quiet:
            print(viewer.KEYS, file=sys.stderr)
        make = functools.cache(load)  # the network is loaded at the first tracker that is asked for

        def choose(first: Frame) -> list[Target]:
            if fixed is not None:
                return fixed(first.number)
            assert window is not None  # --select opens one
            return select_targets(window, first.image)

        summary = track_source(
            source,
            choose,
            lambda: make()(),
            settings,
            stride=args.stride,
            limit=args.frames,
            viewer=viewer,
            progress=not quiet,
            corrections=corrections,
        )
    if not quiet:
        with writing("standard output"):
            print(describe(summary, settings, args.weights), flush=True)
    if summary.fault is not None:
        raise summary.fault
    if on_done is not None:
        on_done(summary)
    return 0 if summary.signal is None else 128 + summary.signal


def _parse_range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not 0 < high - low < math.inf:
        raise UserError(f"--range {text!r} is no range: write two numbers, the lower first, such as 29000,29510")
    return low, high


def _check_targets_given(args: argparse.Namespace) -> None:
    given = [name for name, value in (("--box", args.box), ("--select", args.select), ("--boxes", args.boxes)) if value]
    if not given:
        raise UserError("say what to follow: --box x,y,w,h, or --select to draw it with the mouse, or --boxes FILE")
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other: give one of them")


def _fixed_targets(args: argparse.Namespace) -> Callable[[int], list[Target]] | None:
    """Gives the targets of ``--box`` or ``--boxes`` for a first frame; None with ``--select``."""
    from vil_tracker.boxes import parse_box
    from vil_tracker.tracking.select import read_targets, targets_from_boxes

    if args.boxes:
        text = read_text(args.boxes, "box file")  # a named pipe gives it only once
        read_targets(args.boxes, text=text)  # for its faults; which rows count is up to the first frame
        return lambda start: read_targets(args.boxes, start, text)
    targets = targets_from_boxes([parse_box(box) for box in args.box or ()])
    return (lambda start: targets) if targets else None


def _file_name(name: str) -> str:
    name = re.sub(r"[^\w.-]+", "_", name).strip("._") or "source"
    return name.encode()[:120].decode(errors="ignore")  # file systems take 143 to 255 bytes, and more is appended


_LABELS = {
    "boxes.csv": "boxes",
    "boxes.jsonl": "boxes, JSON lines",
    "boxes.mot.txt": "boxes, MOT",
    "boxes.coco.json": "boxes, COCO",
    "labels": "boxes, YOLO",
    "boxes.cvat.xml": "boxes, CVAT",
    "boxes.label-studio.json": "Label Studio",
    "annotated": "annotated video",
    "strip.png": "key frames",
    "contact-sheet.png": "contact sheet",
    "scores.png": "score plot",
}


def describe(summary: Summary, settings: OutputSettings, weights: str) -> str:
    """What a person wants to know after a run: how it went, where the time went, where the files are."""
    from vil_tracker.results import STATES

    rate = summary.frames / summary.seconds if summary.seconds > 0 else 0.0
    lines = [
        f"tracked {summary.frames} frames ({summary.first} to {summary.last}) in {summary.seconds:.1f} s: "
        f"{rate:.1f} frames per second",
        summary.timing,
    ]
    if summary.signal is not None:
        lines.insert(0, f"interrupted by {summary.signal.name}; the files are complete up to frame {summary.last}")
    if summary.fault is not None:
        lines.insert(0, f"ended early; the files are complete up to frame {summary.last}")
    if summary.dropped:
        hint = "" if weights == "nano" else ": --weights nano is faster"
        lines.append(f"{summary.dropped} frames arrived while the tracker was busy and were dropped{hint}")
    if summary.reconnections:
        lines.append(f"the connection broke and was made again {summary.reconnections} times")
    for number, states in summary.states.items():
        shares = ", ".join(f"{state} {states[state]}" for state in STATES if states[state])
        lines.append(f"target {number}: {shares}")
    if summary.slowest == "write" and settings.video:
        lines.append("writing took most of the time: --video-codec h264 is quicker, --no-video quicker still")
    for path in summary.files:
        label = _LABELS.get(path.name) or _LABELS.get(path.stem) or path.stem.replace("-", " ")
        lines.append(f"{label + ':':<18} {path}")
    return "\n".join(lines)
