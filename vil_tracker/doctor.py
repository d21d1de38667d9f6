"""``vil-tracker doctor``: what is installed, what works, which data and weights are there, and what to do about it."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.resources
import json
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vil_tracker.errors import UserError, library_advice

Status = Literal["ok", "note", "fail"]
_PACKAGE = "vil-tracker"
_MARKS = {"ok": "ok  ", "note": "note", "fail": "FAIL"}
_AREAS = ("packages", "device", "video", "weights", "extras", "data")


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    area: str  # heading that it stands under
    name: str  # what was looked at
    status: Status  # "note": works, but something could be better; "fail": something that was asked for is broken
    text: str  # what was found
    advice: str = ""  # what to do about it, "" if nothing


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``doctor``, its description and its example."""
    parser.description = (
        "Check the installation, the device, video codecs, data sets and weights; say what to do about each problem. "
        "Exit status 1 if something that was asked for is broken."
    )
    parser.epilog = "example: vil-tracker doctor --data-root /data/tracking --scan"
    parser.add_argument("--data-root", metavar="DIR", help="folder below which the data sets lie (default: VIL_DATA)")
    parser.add_argument("--scan", action="store_true", help="read every annotation: finds broken and missing files")
    parser.add_argument("--cache-dir", metavar="DIR", help="where indices are kept (default: the user's cache folder)")
    parser.add_argument("--layouts", action="store_true", help="print the layout of every data set, found or not")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 if all that was asked for works, else 1."""
    checks = [*check_packages()]
    found: list[dict[str, Any]] = []
    if not any(check.status == "fail" for check in checks):  # without a package, nothing else works
        checks += [*check_device(), *check_video(), *check_weights(), *check_extras()]
        found, data_checks = check_data(args.data_root, args.scan, args.cache_dir)
        checks += data_checks
    failed = [check for check in checks if check.status == "fail"]
    if args.json:
        print(json.dumps({"ok": not failed, "checks": [*map(asdict, checks)], "data": found}, indent=2, default=str))
    else:
        _print(checks, found, args.layouts)
    return 1 if failed else 0


def _print(checks: list[Check], found: list[dict[str, Any]], every_layout: bool) -> None:
    for area in (area for area in _AREAS if any(check.area == area for check in checks)):
        print(f"{area}:")
        for check in (check for check in checks if check.area == area):
            print(f"  {_MARKS[check.status]}  {check.name}: {check.text}")
            if check.advice:
                print(f"        -> {check.advice}")
        print()
    failed = [check for check in checks if check.status == "fail"]
    if all(check.area == "packages" for check in checks):
        print("The rest was not looked at: without these packages, nothing works.")
    else:
        _print_layouts(set() if every_layout else {entry["name"] for entry in found})
    if failed:
        print(f"{len(failed)} problem(s): {'; '.join(f'{check.area}: {check.name}' for check in failed)}")
    else:
        print("no problems")


def _print_layouts(found: set[str]) -> None:
    from vil_tracker.data.readers import FOLDER_READERS
    from vil_tracker.data.survey import OFFICIAL_READERS

    wanted = [reader for reader in OFFICIAL_READERS if reader.name not in found]
    if wanted:
        print("layouts expected below the data root, up to two folders deep, under any name:\n")
    for reader in wanted:
        print(f"  {reader.title} ({reader.name})" + (f"  {reader.url}" if reader.url else ""))
        print("\n".join(f"    {line}" for line in reader.layout.splitlines()) + "\n")
    if not found:
        print("layouts of folders of your own, used as folder:PATH:\n")
        for reader in FOLDER_READERS.values():
            print(f"  {reader.title}")
            print("\n".join(f"    {line}" for line in reader.layout.splitlines()) + "\n")


def check_packages() -> Iterator[Check]:
    """Python and the packages that the project cannot do without."""
    yield Check("packages", "python", "ok", f"{platform.python_version()}, {platform.platform()}")
    yield Check("packages", _PACKAGE, "ok", _version(_PACKAGE) or "not installed, run from its sources")
    for module in ("torch", "torchvision", "cv2", "numpy", "timm", "einops", "safetensors", "yaml", "PIL", "tqdm"):
        try:
            version = str(getattr(importlib.import_module(module), "__version__", "present"))
            yield Check("packages", module, "ok", version)
        except (ImportError, OSError) as error:  # OSError: a shared library is missing
            advice = library_advice(error) or f"pip install --upgrade --force-reinstall {_PACKAGE}"
            yield Check("packages", module, "fail", f"cannot be imported ({error})", advice)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_device() -> Iterator[Check]:
    """The device that ``--device auto`` takes, and the threads of the CPU."""
    import torch

    from vil_tracker.native import PROGRAMS, unavailable_reason

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        has_cuda = torch.cuda.is_available()
    if has_cuda:
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            text = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute {card.major}.{card.minor}"
            yield Check("device", f"cuda:{number}", "ok", text)
    elif torch.backends.mps.is_available():
        yield Check("device", "mps", "ok", "Apple GPU")
    elif caught:
        reason = str(caught[0].message).splitlines()[0]
        advice = "update the driver, or install the PyTorch build that fits it (https://pytorch.org)"
        yield Check("device", "cuda", "note", f"not usable: {reason}", advice)
    else:
        build = f"this PyTorch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "PyTorch CPU build"
        yield Check("device", "cuda", "note", f"no GPU ({build}); the CPU is used")
    cores = os.cpu_count() or 1
    yield Check("device", "cpu", "ok", f"{torch.get_num_threads()} threads on {cores} cores")
    fault = next(filter(None, map(unavailable_reason, PROGRAMS)), None)
    text = "compiled" if fault is None else f"not compiled ({fault}); PyTorch's operations are used, slower by a half"
    advice = "install a C++ compiler, such as g++" if fault is not None and sys.platform == "linux" else ""
    if fault is not None and "cache folder" in fault:
        advice = "set VIL_CACHE to a folder that can be written"
    yield Check("device", "cpu kernel", "ok" if fault is None else "note", text, advice)
    limit = os.environ.get("OMP_NUM_THREADS")
    if limit and limit.isdigit() and int(limit) < cores // 2:
        advice = "unset it for full speed, unless several processes share the cores"
        yield Check("device", "OMP_NUM_THREADS", "note", limit, advice)


def check_video() -> Iterator[Check]:
    """Write a short video with each codec and read it back."""
    from vil_tracker.io.video_writer import CODECS

    works = {codec: _codec_fault(codec) for codec in CODECS if codec != "auto"}
    for codec, fault in works.items():
        yield Check("video", codec, "note" if fault else "ok", fault or "written and read back")
    if all(works.values()):
        what = "no codec works, so no video can be written"
        yield Check("video", "output", "fail", what, "pip install --force-reinstall av")


def _codec_fault(codec: str) -> str:
    """Why a codec cannot be used here; "" if it can."""
    import numpy as np

    from vil_tracker.cli import suppress_native_stderr
    from vil_tracker.io.video_writer import write_video
    from vil_tracker.videos import count_frames

    try:
        with tempfile.TemporaryDirectory() as folder, suppress_native_stderr():
            painted = (np.full((48, 64, 3), 60 * number, np.uint8) for number in range(4))
            frames = count_frames(write_video(painted, Path(folder), "probe", 25.0, codec))
        return "" if frames == 4 else f"{frames} of 4 frames came back"
    except UserError as error:
        return str(error)


def _weights_folder() -> Path:
    return Path(str(importlib.resources.files("vil_tracker"))) / "weights"


def check_weights() -> Iterator[Check]:
    """Load every set of weights that comes with the package; loading verifies its checksum."""
    paths = sorted(_weights_folder().glob("*.safetensors"))
    for path in paths:
        from vil_tracker.models.pretrained import load_model

        try:
            load_model(path.stem, device="cpu")
            yield Check("weights", path.stem, "ok", f"{path}, checksum verified")
        except UserError as error:
            yield Check("weights", path.stem, "fail", str(error), f"pip install --force-reinstall {_PACKAGE}")
    if not paths:
        advice = "train a network and give its file: --weights FILE.safetensors"
        yield Check("weights", "shipped weights", "note", "none in this installation", advice)


def check_extras() -> Iterator[Check]:
    """The package's optional extras, as its metadata lists them."""
    try:
        requirements = importlib.metadata.requires(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("extras", "extras", "note", f"{_PACKAGE} is not installed", "pip install -e . in its sources")
        return
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        match = re.match(r"([A-Za-z0-9._-]+).*;.*extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if match and match[1].lower() != _PACKAGE:
            extras.setdefault(match[2], []).append(match[1])
    for extra, packages in sorted(extras.items()):
        lacking = [package for package in packages if _version(package) is None]
        if lacking:
            text, advice = f"not installed (lacks {', '.join(lacking)})", f"pip install '{_PACKAGE}[{extra}]'"
            yield Check("extras", extra, "note", text, advice)
        else:
            yield Check("extras", extra, "ok", ", ".join(f"{p} {_version(p)}" for p in packages))


def check_data(
    choice: str | None, scan: bool = False, cache_dir: str | None = None
) -> tuple[list[dict[str, Any]], list[Check]]:
    """The data sets below the data root: what was found, ready for JSON, and the checks."""
    from vil_tracker.data.root import VARIABLE, data_root
    from vil_tracker.data.survey import survey

    if not choice and not os.environ.get(VARIABLE):
        advice = f"only training and evaluation need data: give --data-root DIR or set {VARIABLE}"
        return [], [Check("data", "data root", "note", "not given", advice)]
    try:
        root = data_root(choice)
    except UserError as error:
        return [], [Check("data", "data root", "fail", str(error))]
    reports = survey(root, scan, cache_dir)
    if not reports:
        advice = "lay the data sets out as below; links to folders elsewhere are followed"
        return [], [Check("data", "data root", "fail", f"{root} holds no data set that is recognised", advice)]
    checks = [_data_check(report.name, report.folder, part) for report in reports for part in report.splits]
    return [asdict(report) for report in reports], [Check("data", "data root", "ok", str(root)), *checks]


def _data_check(name: str, folder: Path, part: Any) -> Check:
    of = f" of {part.official}" if part.official is not None else ""
    text = f"{part.found}{of} in {folder}"
    if part.frames is not None:
        text += f", {part.frames} boxes"
    label = f"{name} {part.split}"
    if part.problems:
        shown = "; ".join(part.problems[:10]) + (f"; and {len(part.problems) - 10} more" * (len(part.problems) > 10))
        return Check("data", label, "fail", f"{text}; {len(part.problems)} broken", shown)
    if part.missing_frames:
        return Check("data", label, "fail", f"{text}; {part.missing_frames} frames are missing", "unpack them again")
    if part.note or not part.found:
        return Check("data", label, "note", part.note or "not there")
    if part.missing:
        more = " …" if len(part.missing) > 5 else ""
        return Check("data", label, "note", text, f"missing: {', '.join(part.missing[:5])}{more}")
    if part.official is not None and part.found < part.official:
        return Check("data", label, "note", text, "incomplete: fine for training, but not for a benchmark's score")
    return Check("data", label, "ok", text)
