"""``vil-tracker evaluate``: measure trackers on a benchmark, or score results that exist already."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vil_tracker.config.command_line import (
    add_engine_options,
    add_model_options,
    add_track_options,
    check_engine_options,
    track_config,
)
from vil_tracker.errors import UserError, check_folder, write_json
from vil_tracker.models.loading import PRECISIONS
from vil_tracker.runtime import Ranks, leave_process_group

if TYPE_CHECKING:
    from vil_tracker.data.sequence import Sequence
    from vil_tracker.evaluation.benchmarks import Benchmark
    from vil_tracker.evaluation.run import Failure
    from vil_tracker.evaluation.trackers import TrackerSpec
    from vil_tracker.models.inference import Precision

EPILOG = """\
benchmarks:
  lasot lasot_ext got10k_val got10k_test trackingnet otb2013 otb50 otb100 uav123 uav20l nfs30 nfs240 tnl2k
  vasttrack dtb70
  folder: any folder of sequences (frames and groundtruth_rect.txt), or of videos each with a .txt of boxes

trackers:
  vil, vil:WEIGHTS                ours, with --weights or with the weights named
  opencv:MIL, opencv:Nano, …      OpenCV's; opencv:all takes every one that is installed
  nanotrack:v3                    NanoTrack V3 from its authors' ONNX files below --peers-dir
  still                           a box that never moves: the floor
  python:MODULE:FACTORY           yours: FACTORY() gives an object with init(frame, box) and update(frame)

examples:
  vil-tracker evaluate --benchmark lasot --data-root /data/LaSOT --output runs/lasot
  vil-tracker evaluate --benchmark folder --data-root my_videos --output runs/mine --tracker vil opencv:MIL
  vil-tracker evaluate --benchmark uav123 --data-root /data/UAV123 --output runs/uav --convention official,pytracking
  vil-tracker evaluate --benchmark folder --data-root my_videos --output runs/mine --dtype float32 bfloat16 int8
  vil-tracker evaluate --benchmark otb2013 --truth otb/gt --results otb/ccot --output runs/ccot
  vil-tracker evaluate --benchmark got10k_test --data-root /data/GOT-10k --output runs/got --submission got10k.zip
  torchrun --nproc-per-node 4 scripts/evaluate.py --benchmark lasot --data-root /data/LaSOT --output runs/lasot

A run that was interrupted goes on where it stopped when the same command is given again.
Exit status: 0 done, 1 some sequences failed (--keep-going), 2 bad input.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate``, its description and its examples."""
    parser.description = "Run trackers over a benchmark, score them, and write report.json, CSV files and report.html."
    parser.epilog = EPILOG
    parser.add_argument("--benchmark", required=True, metavar="NAME", help="which benchmark; see below")
    parser.add_argument("--output", "-o", required=True, metavar="DIR", help="folder of the results and the report")
    data = parser.add_argument_group("data")
    data.add_argument("--data-root", metavar="DIR", help="folder of the data set, or one that holds it")
    data.add_argument(
        "--sequences",
        metavar="LIST",
        help="only these sequences, joined by commas; 'all' takes what is there of an incomplete benchmark",
    )
    data.add_argument(
        "--starts",
        nargs="+",
        type=float,
        metavar="SHARE",
        help="with --benchmark folder: begin every sequence anew at these shares of its length, such as 0 0.25 0.5 "
        "(default: 0); a figure over few videos varies less so",
    )
    data.add_argument("--truth", metavar="DIR", help="with --results: folder of true boxes, one text file per sequence")
    data.add_argument(
        "--attributes",
        metavar="DIR",
        help="challenge attributes, one text file per sequence: names, or LaSOT's flags (its toolkit's annos/att)",
    )
    trackers = parser.add_argument_group("trackers")
    trackers.add_argument(
        "--tracker", nargs="+", action="extend", metavar="NAME", help="one or several; see below (default: vil)"
    )
    add_model_options(trackers, "weights of vil")
    add_track_options(trackers)
    trackers.add_argument(
        "--dtype",
        nargs="+",
        default=["float32"],
        choices=PRECISIONS,
        help="precision of vil; several are compared in one report (default float32)",
    )
    trackers.add_argument(
        "--peers-dir", metavar="DIR", help="folder with the networks of OpenCV's trackers and NanoTrack"
    )
    trackers.add_argument(
        "--results",
        nargs="+",
        metavar="DIR",
        help="score these results instead of running a tracker: one text file of boxes per sequence in each folder",
    )
    trackers.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="DIR",
        help="results of other trackers to show beside: folders of box files, or a folder of such folders",
    )
    running = parser.add_argument_group("running")
    add_engine_options(running, None, "processes (default: one per GPU, one on a machine without)")
    running.add_argument(
        "--keep-going", action="store_true", help="pass over sequences that fail, list them, and exit with status 1"
    )
    scoring = parser.add_argument_group("scoring")
    scoring.add_argument(
        "--convention",
        default="official",
        metavar="LIST",
        help="official (the benchmark's own toolkit, default), pytracking or ostrack; several joined by commas print "
        "their difference",
    )
    scoring.add_argument(
        "--empty-boxes",
        choices=("error", "previous"),
        default="error",
        help="predicted boxes that are NaN or have no area: an error (default), or the box before instead",
    )
    scoring.add_argument(
        "--no-html", action="store_true", help="do not write report.html (its plots need the plots extra)"
    )
    scoring.add_argument(
        "--submission", metavar="FILE.zip", help="write the archive for GOT-10k's or TrackingNet's server"
    )


def run(args: argparse.Namespace) -> int:
    """Run ``evaluate``; returns 0, or 1 if sequences failed or are missing."""
    from vil_tracker.evaluation.benchmarks import (
        from_later_starts,
        get_benchmark,
        load_sequences,
        load_truth,
        with_attributes,
    )
    from vil_tracker.evaluation.report import Report, to_json, to_text, write_csv
    from vil_tracker.evaluation.results import ResultStore
    from vil_tracker.evaluation.scoring import score_tracker
    from vil_tracker.evaluation.submission import check_possible, write_submission
    from vil_tracker.runtime import keep_freed_memory

    keep_freed_memory()
    benchmark = get_benchmark(args.benchmark)
    wanted = None if args.sequences is None else tuple(filter(None, args.sequences.split(",")))
    conventions = _conventions(args.convention)
    _check(args)
    if benchmark.reader is None:
        benchmark = replace(benchmark, title=Path(args.truth or args.data_root).resolve().name)
    elif args.starts is not None:
        raise UserError("--starts goes with --benchmark folder: benchmarks are scored from their first frames on")
    if args.truth is not None:
        sequences = load_truth(benchmark, Path(args.truth), wanted)
    else:
        sequences = load_sequences(benchmark, Path(args.data_root), wanted)
    if args.attributes is not None:
        sequences = with_attributes(sequences, Path(args.attributes), benchmark.attributes)
    notes: list[str] = []
    if args.starts is not None:
        sequences = from_later_starts(sequences, args.starts)
        notes.append(f"every sequence begun at {', '.join(f'{share:g}' for share in args.starts)} of its length")
    failures: list[Failure] = []
    output = Path(args.output)
    check_folder(output)
    if args.results is None:
        specs, remarks = _specs(args)
        notes += remarks
        if args.submission is not None:
            if len(specs) != 1:
                raise UserError("--submission takes one --tracker")
            check_possible(Path(args.submission), benchmark)
        failures = _track(args, benchmark, specs, sequences, output)
        if not Ranks.from_environment().main:
            return 1 if failures else 0
        folders = [(spec.name, output / "results" / spec.folder) for spec in specs]
    else:
        folders = [(Path(folder).resolve().name, _existing(folder)) for folder in args.results]
    folders += _compared(args.compare, sequences)
    names, scores = [name for name, _ in folders], []
    for index, (name, folder) in enumerate(folders):
        shown = name if names.count(name) == 1 else f"{name}-{names[: index + 1].count(name)}"
        store = ResultStore(folder, benchmark.layout)
        found = score_tracker(
            shown, benchmark, sequences, store, conventions, allow_missing=args.keep_going, empty=args.empty_boxes
        )
        scores.append(found)
    if benchmark.official.bounded and "official" in conventions and not all(len(s.frames) for s in sequences):
        notes.append("without the images, boxes could not be clipped to them as the official convention asks")
    partial = benchmark.size is not None and len(sequences) != benchmark.size
    report = Report(benchmark, sequences, scores, failures, partial or (wanted not in (None, ("all",))), notes)
    write_json(output / "report.json", to_json(report), indent=1, allow_nan=False)
    written = [output / "report.json", *write_csv(output, report)]
    if not args.no_html:
        from vil_tracker.evaluation.page import write_page

        write_page(output / "report.html", report)
        written.append(output / "report.html")
    print(to_text(report))
    for failure in failures:
        print(f"failed: {failure.tracker} on {failure.sequence}: {failure.message}")
    if args.submission is not None and report.complete:
        written.append(Path(args.submission))
        count = write_submission(written[-1], benchmark, sequences, ResultStore(folders[0][1], benchmark.layout))
        print(f"submission: {count} files, format checked", file=sys.stderr)
    print(f"written: {', '.join(str(path) for path in written)}")
    return 0 if report.complete else 1


def _check(args: argparse.Namespace) -> None:
    """Refuse combinations of options that make no sense, before any work."""
    if args.truth is None and args.data_root is None:
        raise UserError("say where the data is: --data-root DIR (or --truth DIR with --results DIR)")
    if args.truth is not None and args.data_root is not None:
        raise UserError("--truth and --data-root are two sources of the same boxes: give one of them")
    if args.truth is not None and args.results is None:
        raise UserError("--truth goes with --results DIR: there are no frames to run a tracker on")
    if args.results is not None and args.tracker:
        raise UserError("--results scores existing boxes and runs no --tracker: give one of them")
    if args.results is not None and args.submission:
        raise UserError("--submission is written from a run, not from --results")
    if any(not 0 <= share < 1 for share in args.starts or ()):
        raise UserError(f"--starts {' '.join(map(str, args.starts))}: shares from 0 up to, but without, 1")
    check_engine_options(args)


def _conventions(text: str) -> list[str]:
    from vil_tracker.evaluation.conventions import CONVENTION_NAMES

    names = list(dict.fromkeys(filter(None, text.lower().split(","))))
    unknown = [name for name in names if name not in CONVENTION_NAMES]
    if unknown or not names:
        raise UserError(f"--convention {text}: choose from {', '.join(CONVENTION_NAMES)}, joined by commas")
    return names


def _specs(args: argparse.Namespace) -> tuple[list[TrackerSpec], list[str]]:
    """The trackers to run, and a note on those of ``opencv:all`` that cannot."""
    from vil_tracker.evaluation import baselines
    from vil_tracker.evaluation.trackers import parse_tracker

    config = track_config(args)
    notes, specs = [], []
    folder = Path(args.peers_dir) if args.peers_dir else None
    for text in ",".join(args.tracker or ["vil"]).split(","):
        names = [text]
        if text.lower() == "opencv:all":
            reasons = {name: baselines.unavailable_reason(name, folder) for name in baselines.KNOWN}
            names = [f"opencv:{name}" for name, reason in reasons.items() if reason is None]
            left_out = ", ".join(name for name, reason in reasons.items() if reason is not None)
            notes.append(f"trackers of OpenCV that this installation cannot run: {left_out or 'none'}")
        for name in names:
            dtypes: list[Precision] = (
                list(dict.fromkeys(args.dtype)) if name.partition(":")[0] == "vil" else ["float32"]
            )
            for dtype in dtypes:
                spec = parse_tracker(
                    name, weights=args.weights, device=args.device, config=config, dtype=dtype, peers_dir=args.peers_dir
                )
                reason = baselines.unavailable_reason(spec.target, folder) if spec.kind == "opencv" else None
                if reason is not None:
                    raise UserError(reason)
                specs.append(spec)
    doubles = sorted({spec.name for spec in specs if sum(other.folder == spec.folder for other in specs) > 1})
    if doubles:
        raise UserError(f"--tracker: {', '.join(doubles)} is given twice")
    return specs, notes


def _track(
    args: argparse.Namespace, benchmark: Benchmark, specs: list[TrackerSpec], sequences: list[Sequence], output: Path
) -> list[Failure]:
    import torch

    from vil_tracker.evaluation.results import ResultStore
    from vil_tracker.evaluation.run import run_tracker
    from vil_tracker.tasks import Engine

    workers = args.workers
    if workers is None:
        alone = Ranks.from_environment().world == 1 and args.device in ("auto", "cuda")
        workers = max(1, torch.cuda.device_count()) if alone else 1
    gpu = args.device in ("auto", "cuda")
    engine = Engine(args.engine, workers, args.address, args.threads, gpu)
    failures = []
    try:
        for spec in specs:
            failures += run_tracker(
                spec,
                sequences,
                ResultStore(output / "results" / spec.folder, benchmark.layout),
                benchmark=benchmark.key,
                repetitions=benchmark.repetitions,
                engine=engine,
                keep_going=args.keep_going,
            )
    finally:
        leave_process_group()
    return failures


def _existing(folder: str) -> Path:
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is not a folder; give a folder with one text file of boxes per sequence")
    return Path(folder)


def _compared(folders: list[str], sequences: list[Sequence]) -> list[tuple[str, Path]]:
    """Folders of box files as they are; a folder without any stands for the folders in it."""
    from vil_tracker.evaluation.results import ResultStore

    found = []
    for text in folders:
        folder = _existing(text)
        candidates = [folder, *sorted(child for child in folder.iterdir() if child.is_dir())]
        holding = [child for child in candidates if any(ResultStore(child).has(s.name) for s in sequences)]
        if not holding:
            raise UserError(f"--compare {folder}: no results of these sequences there or one folder deeper")
        found += [(child.resolve().name, child) for child in ([folder] if folder in holding else holding)]
    return found
