"""The benchmarks: which sequences, in which files, scored by which convention.

A new benchmark is one `Reader` for its layout and one `Benchmark` entry below; docs/howto/add_a_benchmark.md walks
through it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vil_tracker.data.readers import FOLDER_READERS
from vil_tracker.data.readers.base import (
    Candidate,
    Item,
    Reader,
    natural_key,
    read_boxes,
    read_flags,
    read_numbers,
    subfolders,
)
from vil_tracker.data.readers.dtb70 import DTB70
from vil_tracker.data.readers.got10k import GOT10k
from vil_tracker.data.readers.lasot import LaSOT, LaSOTExtension
from vil_tracker.data.readers.nfs import NfS
from vil_tracker.data.readers.otb import OTB
from vil_tracker.data.readers.tnl2k import TNL2K
from vil_tracker.data.readers.trackingnet import TrackingNet
from vil_tracker.data.readers.uav import UAV20L, UAV123
from vil_tracker.data.readers.vasttrack import VastTrack
from vil_tracker.data.sequence import Frames, ImageFrames, Sequence, VideoFrames, make_sequence
from vil_tracker.errors import UserError, read_text
from vil_tracker.evaluation import conventions
from vil_tracker.evaluation.conventions import Convention
from vil_tracker.evaluation.results import name_key

LEAST_LEFT = 25  # frames after a later start
LASOT_ATTRIBUTES = (
    "Illumination Variation",
    "Partial Occlusion",
    "Deformation",
    "Motion Blur",
    "Camera Motion",
    "Rotation",
    "Background Clutter",
    "Viewpoint Change",
    "Scale Variation",
    "Full Occlusion",
    "Fast Motion",
    "Out-of-View",
    "Low Resolution",
    "Aspect Ratio Change",
)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        key: name on the command line.
        title: name in the report.
        reader: its files; None for `folder`, which tries several.
        split: the reader's split.
        official: the convention of the benchmark's own toolkit.
        family: how pytracking and OSTrack treat it: "uav", "lasot", "lasot_ext" or "other".
        layout: of the result files, see `results.py`.
        repetitions: runs that its protocol asks of a tracker that is not deterministic.
        truth_withheld: the true boxes lie on a server; only the first of each sequence is public.
        attributes: names of the challenge attributes in the order in which files of flags have them.
        gaps: rows of NaN in the true boxes are part of the data set; elsewhere they are errors.
    """

    key: str
    title: str
    reader: type[Reader] | None
    split: str
    official: Convention
    family: str = "other"
    layout: str = "flat"
    repetitions: int = 1
    truth_withheld: bool = False
    attributes: tuple[str, ...] = ()
    gaps: bool = False

    @property
    def names(self) -> tuple[str, ...] | None:
        """Official sequence names where there is a list, otherwise None."""
        return None if self.reader is None else self.reader().names(self.split)

    @property
    def size(self) -> int | None:
        """Official number of sequences, or None where there is no such number."""
        return None if self.reader is None else self.reader.sizes.get(self.split)

    def convention(self, name: str) -> Convention:
        """The convention of that name, one of `conventions.CONVENTION_NAMES`, for this benchmark."""
        if name == "official":
            return self.official
        return {"pytracking": conventions.pytracking, "ostrack": conventions.ostrack}[name](self.family)


_GOT10K = Benchmark(
    "got10k_val", "GOT-10k val", GOT10k, "val", official=conventions.GOT10K, layout="got10k", repetitions=3
)
_LASOT = Benchmark(
    "lasot", "LaSOT", LaSOT, "test", official=conventions.LASOT, family="lasot", attributes=LASOT_ATTRIBUTES
)
_TNL2K = replace(conventions.LASOT, toolkit="TNL2K toolkit (LaSOT's)")
_VASTTRACK = replace(conventions.LASOT, toolkit="VastTrack toolkit (LaSOT's)")
_TABLE = (
    _LASOT,
    replace(_LASOT, key="lasot_ext", title="LaSOT_ext", reader=LaSOTExtension, family="lasot_ext"),
    _GOT10K,
    replace(_GOT10K, key="got10k_test", title="GOT-10k test", split="test", truth_withheld=True),
    Benchmark(
        "trackingnet", "TrackingNet test", TrackingNet, "test", official=conventions.TRACKINGNET, truth_withheld=True
    ),
    Benchmark("otb2013", "OTB-2013", OTB, "2013", official=conventions.OTB),
    Benchmark("otb50", "OTB-50", OTB, "50", official=conventions.OTB),
    Benchmark("otb100", "OTB-100", OTB, "100", official=conventions.OTB),
    Benchmark("uav123", "UAV123", UAV123, "test", official=conventions.UAV, family="uav", gaps=True),
    Benchmark("uav20l", "UAV20L", UAV20L, "test", official=conventions.UAV, family="uav", gaps=True),
    Benchmark("nfs30", "NfS, 30 fps", NfS, "30", official=conventions.OTB),
    Benchmark("nfs240", "NfS, 240 fps", NfS, "240", official=conventions.OTB),
    Benchmark("tnl2k", "TNL2K", TNL2K, "test", official=_TNL2K),
    Benchmark("vasttrack", "VastTrack test", VastTrack, "test", official=_VASTTRACK, family="lasot"),
    Benchmark("dtb70", "DTB70", DTB70, "test", official=conventions.OTB),
    Benchmark("folder", "folder of sequences", None, "all", official=conventions.PLAIN, gaps=True),
)
_BENCHMARKS = {benchmark.key: benchmark for benchmark in _TABLE}
BENCHMARK_NAMES = tuple(_BENCHMARKS)
_ALIASES = {
    "got10k": "got10k_val",
    "otb2015": "otb100",
    "nfs": "nfs30",
    "lasot_extension": "lasot_ext",
    "lasot_extension_subset": "lasot_ext",
    "trackingnet_test": "trackingnet",
    "uav": "uav123",
}


def get_benchmark(name: str) -> Benchmark:
    """Look up a benchmark; case, `-` and `_` do not matter.

    Raises:
        UserError: unknown name.
    """
    key = name.lower().replace("-", "_")
    key = _ALIASES.get(key, key)
    if key not in _BENCHMARKS:
        raise UserError(f"unknown benchmark '{name}'; choose from {', '.join(BENCHMARK_NAMES)}")
    return _BENCHMARKS[key]


def load_sequences(benchmark: Benchmark, root: Path, wanted: tuple[str, ...] | None = None) -> list[Sequence]:
    """Find and read a benchmark's sequences in `root` or in a folder of it; no frame is decoded. `wanted` names
    restrict it; ("all",) takes what is there; None asks for the complete benchmark.

    Raises:
        UserError: the layout is not found, sequences are missing (naming them), or a file is damaged.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; --data-root names the folder of the data set")
    where = f"below {root}"
    if benchmark.reader is None:
        found = _folder_entries(root)
    else:
        reader = benchmark.reader()
        folder = _locate(reader, root)
        where = f"below {folder}"
        entries = reader.list_sequences(folder, benchmark.split).candidates
        found = [(entry.name, benchmark.key, reader, folder, entry) for entry in entries]
    names = _chosen([name for name, *_ in found], wanted, root)
    if wanted is None:
        _check_complete(benchmark, names, where)
    sequences = [
        _to_sequence(name, dataset, reader.read_sequence(folder, entry))
        for name, dataset, reader, folder, entry in found
        if name in names
    ]
    return _checked(benchmark, sequences, root)


def load_truth(benchmark: Benchmark, folder: Path, wanted: tuple[str, ...] | None = None) -> list[Sequence]:
    """Sequences without frames from a folder with one box file per sequence, for scoring existing results.

    Files of sequences that the benchmark does not have are passed over. Absent frames and cover labels are read from
    `absent/NAME.txt` and `cover/NAME.txt` where those exist (flags, and shares from 0 to 1, one per line).

    Raises:
        UserError: no box files, sequences are missing (naming them), or a file is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; --truth names a folder with one box file per sequence")
    files = {name_key(path.stem): path for path in sorted(folder.glob("*.txt"), key=lambda p: natural_key(p.name))}
    official = benchmark.names or tuple(path.stem for path in files.values())
    names = _chosen([name for name in official if name_key(name) in files], wanted, folder)
    if wanted is None:
        _check_complete(benchmark, names, f"in {folder}")
    sequences = []
    for name in names:
        path = files[name_key(name)]
        boxes = read_boxes(path)
        cover = folder / "cover" / path.name
        sequences.append(
            make_sequence(
                name,
                benchmark.key,
                (),
                boxes,
                absent=read_flags(folder / "absent" / path.name, len(boxes)),
                cover=read_numbers(cover, len(boxes), 0, 1) if cover.is_file() else None,
            )
        )
    return _checked(benchmark, sequences, folder)


def _chosen(names: list[str], wanted: tuple[str, ...] | None, where: Path) -> list[str]:
    """Those of the names that are wanted, in whatever spelling; UserError if one of those is not there."""
    if wanted is None or wanted == ("all",):
        return names
    known = {name_key(name) for name in names}
    unknown = [name for name in wanted if name_key(name) not in known]
    if unknown:
        raise UserError(f"{where}: no sequence {', '.join(unknown)}; there are {_shown(names)}")
    keys = {name_key(name) for name in wanted}
    return [name for name in names if name_key(name) in keys]


def _checked(benchmark: Benchmark, sequences: list[Sequence], where: Path) -> list[Sequence]:
    """Check that there are sequences, and that their boxes can be started on and scored."""
    if not sequences:
        raise UserError(f"{where}: no sequences found; check the layout with  vil-tracker doctor")
    for sequence in sequences:
        first = sequence.boxes[0]
        if not np.isfinite(first).all() or (first[2:] <= 0).any():
            raise UserError(
                f"sequence {sequence.name}: line 1 of its boxes is no box with an area, so nothing can start"
            )
        gaps = np.flatnonzero(np.isnan(sequence.boxes).any(axis=1))
        if len(gaps) and not benchmark.gaps and not benchmark.truth_withheld:
            raise UserError(
                f"sequence {sequence.name}: line {gaps[0] + 1} of its boxes is NaN, which {benchmark.title} never has: "
                "unpack its annotation again"
            )
    return sequences


def from_later_starts(sequences: list[Sequence], shares: list[float]) -> list[Sequence]:
    """Every sequence from several starts on: the first frames that show the target from these shares of its length on.

    A frame that two shares lead to is one start. A later start that leaves fewer than :data:`LEAST_LEFT` frames is
    left out. UserError if no start is left.
    """
    parts = []
    for sequence in sequences:
        shown = np.flatnonzero(sequence.visible)
        starts = {int(start) for share in shares for start in shown[shown >= share * len(sequence)][:1]}
        enough = [start for start in sorted(starts) if start == 0 or len(sequence) - start >= LEAST_LEFT]
        parts += [sequence.from_frame(start) if start else sequence for start in enough]
    if not parts:
        raise UserError(f"--starts: no sequence is long enough to begin there and go on for {LEAST_LEFT} frames")
    return parts


def with_attributes(sequences: list[Sequence], folder: Path, order: tuple[str, ...]) -> list[Sequence]:
    """Give sequences the challenge attributes written in a folder; those without a file keep their own.

    A file `NAME.txt` holds either names, separated by commas or lines, or 0/1 flags in the benchmark's own `order`, as
    the toolkits of LaSOT (`annos/att/`) and UAV123 ship them.

    Raises:
        UserError: no file matches, or a file has the wrong number of flags.
    """
    files = {name_key(path.stem): path for path in sorted(folder.glob("*.txt"))} if folder.is_dir() else {}
    if not any(name_key(s.name) in files for s in sequences):
        raise UserError(f"--attributes {folder}: no NAME.txt of any sequence there")
    return [
        replace(s, attributes=_read_attributes(files[name_key(s.name)], order)) if name_key(s.name) in files else s
        for s in sequences
    ]


def _read_attributes(path: Path, order: tuple[str, ...]) -> tuple[str, ...]:
    words = [word.strip() for word in re.split(r"[,\n\t]+", read_text(path, "attributes")) if word.strip()]
    if not words or not all(word in ("0", "1") for word in words):
        return tuple(words)
    if len(words) != len(order):
        raise UserError(f"{path}: {len(words)} flags, but this benchmark orders {len(order)} attributes; write names")
    return tuple(name for name, flag in zip(order, words, strict=True) if flag == "1")


def _check_complete(benchmark: Benchmark, found: list[str], where: str) -> None:
    advice = "; --sequences NAME,NAME (or --sequences all) scores what is there, as a part"
    if benchmark.names is not None:
        keys = {name_key(name) for name in found}
        missing = [name for name in benchmark.names if name_key(name) not in keys]
        if missing:
            raise UserError(
                f"{benchmark.title}: {len(missing)} of {len(benchmark.names)} sequences are missing {where}: "
                f"{_shown(missing)}{advice}"
            )
    elif benchmark.size is not None and len(found) != benchmark.size:
        raise UserError(
            f"{benchmark.title} has {benchmark.size} sequences, but {len(found)} were found {where}{advice}"
        )


def _shown(names: list[str], limit: int = 12) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def _locate(reader: Reader, root: Path) -> Path:
    for folder in (root, *subfolders(root, limit=1000)):
        if reader.matches(folder):
            return folder
    layout = " ".join(reader.layout.split())
    raise UserError(f"{root}: no {reader.title} found; expected is: {layout}")


def _folder_entries(root: Path) -> list[tuple[str, str, Reader, Path, Candidate]]:
    """Any folder of sequences or of videos, or a folder of such folders; `dataset` is the folder's name."""
    folders = [root] if _folder_candidates(root) else subfolders(root)
    found = [(folder, reader, entry) for folder in folders for reader, entry in _folder_candidates(folder)]
    if not found:
        raise UserError(
            f"{root}: no sequences; expected NAME/groundtruth_rect.txt with NAME/img/*.jpg, NAME/groundtruth.txt with "
            "NAME/*.jpg, or NAME.mp4 with NAME.txt, here or one folder deeper"
        )
    count = Counter(entry.name for _, _, entry in found)
    return [
        (entry.name if count[entry.name] == 1 else f"{f.name}_{entry.name}", f.name, reader, f, entry)
        for f, reader, entry in found
    ]


def _folder_candidates(folder: Path) -> list[tuple[Reader, Candidate]]:
    """Sequences of any supported layout directly in a folder, each by the first reader that knows it."""
    found: dict[str, tuple[Reader, Candidate]] = {}
    for reader in FOLDER_READERS.values():
        if not reader.stills and reader.matches(folder):
            for entry in reader.list_sequences(folder, reader.splits[0]).candidates:
                found.setdefault(entry.name, (reader, entry))
    return list(found.values())


def _to_sequence(name: str, dataset: str, item: Item) -> Sequence:
    frames: Frames
    if item.frame_names is None:
        frames = VideoFrames(item.folder, len(item.boxes))
    else:
        if item.exists is not None and not item.exists.all():
            missing = [frame for frame, there in zip(item.frame_names, item.exists, strict=True) if not there]
            raise UserError(
                f"sequence {name}: {len(missing)} pictures are missing in {item.folder}: {_shown(missing, 5)}; "
                "unpack them again"
            )
        frames = ImageFrames(tuple(item.folder / frame for frame in item.frame_names))
    boxes, absent = item.boxes, item.absent
    return make_sequence(name, dataset, frames, boxes, absent=absent, cover=item.cover, attributes=item.attributes)
