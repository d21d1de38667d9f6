"""Write the tables of docs/performance.md from the measured JSON files, all of them: what has no file says so.

example: python scripts/performance_tables.py docs/performance.md --results docs/results
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from vil_tracker import cli
from vil_tracker.benchmarking.report import PARTS
from vil_tracker.errors import UserError, atomic_write

MODELS = ("nano", "tiny", "small")
MISSING = "not measured with this version."


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine_line(found: dict[str, Any], command: str) -> str:
    """What ran where."""
    machine = found["machine"]
    if found.get("clock", "").startswith("processor"):
        command += " --processor-time"
    return (
        f"`{command}` on {machine['processor']}, {machine['cores']} cores, {machine['threads']} threads "
        f"({machine['instructions']}), PyTorch {machine['torch']}; {found.get('clock', 'wall time')}."
    )


def ratio_table(found: dict[str, Any]) -> str:
    """Ours beside the one-stream ViT, every size and precision."""
    rows = [
        [
            size,
            dtype,
            templates,
            f"{row['ours_milliseconds']:.1f}",
            f"{row['vit_milliseconds']:.1f}",
            f"{row['ratio']:.2f}",
        ]
        for dtype, measured in found["dtypes"].items()
        for size, counts in measured.get("against_vit", {}).items()
        for templates, row in counts.items()
    ]
    return table(["network", "precision", "templates", "ours, ms", "ViT, ms", "ratio"], rows)


def part_table(found: dict[str, Any]) -> str:
    """Operations, time and rate by part, and the roofline, for each precision."""
    blocks = []
    for dtype, measured in found["dtypes"].items():
        rows = []
        for part in (*PARTS, "frame"):
            milliseconds, work = measured["milliseconds"].get(part), measured["gflop"].get(part)
            if milliseconds is None:
                continue
            rate = f"{1e3 * work / milliseconds:.0f}" if work and milliseconds else ""
            rows.append([part, f"{work:.3f}" if work else "", f"{milliseconds:.2f}", rate])
        blocks.append(
            f"{found['model']['name']}, {dtype}:\n\n{table(['part', 'GFLOP', 'ms', 'GFLOP/s'], rows)}\n\n"
            f"Matmul rate {measured['matmul_gflops']:.0f} GFLOP/s, copy rate "
            f"{measured['copy_gbytes_per_second']:.0f} GB/s; {measured['gflop']['frame']:.2f} GFLOP and "
            f"{measured['mbytes_read']:.0f} MB of weights and memory give a floor of "
            f"{measured['floor_milliseconds']:.1f} ms; a frame reaches {measured['share_of_matmul_rate']:.0%} of the "
            "matmul rate."
        )
    return "\n\n".join(blocks)


def video_table(found: dict[str, Any]) -> str:
    """Frames per second of whole videos, and of OpenCV's trackers."""
    rows = [
        [f"{found['model']['name']}, {dtype}: {name.replace('_', ' ')}", f"{row['frames_per_second']:.1f}"]
        for dtype, part in found["dtypes"].items()
        for name, row in part.get("end_to_end", {}).items()
    ]
    rows += [
        [f"{found['model']['name']}, {dtype}: tracker alone, {state}", f"{1e3 / milliseconds:.1f}"]
        for dtype, part in found["dtypes"].items()
        for state, milliseconds in part.get("end_to_end", {}).get("tracker_alone", {}).get("milliseconds", {}).items()
    ]
    rows += [[name, f"{rate:.1f}"] for name, rate in found.get("peers", {}).items() if rate is not None]
    rows.append(["peak memory, MiB", f"{found['peak_memory_mib']:.0f}"])
    return table(["1280×720 video", "frames/s"], rows)


def scaling_tables(found: dict[str, Any]) -> str:
    """Growth with templates, search size, targets and frames."""
    blocks = []
    for key, label in (("templates", "templates"), ("search_size", "search side, px")):
        rows = [[count, f"{row['ours']:.1f}", f"{row['vit']:.1f}"] for count, row in found[key].items()]
        blocks.append(table([label, "ours, ms", "ViT, ms"], rows))
    rows = [[count, f"{value:.1f}", f"{value / int(count):.1f}"] for count, value in found["targets"].items()]
    blocks.append(table(["targets", "step, ms", "per target, ms"], rows))
    if "soak" in found:
        rows = [[count, f"{value:.0f}"] for count, value in found["soak"]["resident_mib"].items()]
        blocks.append(
            f"{table(['frames', 'resident, MiB'], rows)}\n\nLargest growth: {found['soak']['growth_mib']:.1f} MiB."
        )
    return "\n\n".join(blocks)


def precision_table(found: dict[str, Any]) -> str:
    """Overlap with float32 and AUC of every reduced precision on every set."""
    rows = []
    for name, precisions in found["sets"].items():
        for precision, row in precisions.items():
            gains = [sequence["auc"] - sequence["auc_float32"] for sequence in row["sequences"].values()]
            error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
            rows.append(
                [
                    name,
                    precision,
                    f"{row['frames']:,}",
                    f"{row['same_crops']['mean']:.4f}",
                    f"{row['own_tracks']['mean']:.4f}",
                    f"{row['auc_float32']:.4f}",
                    f"{row['auc']:.4f}",
                    f"{row['auc'] - row['auc_float32']:+.4f} ± {error:.4f}",
                ]
            )
    header = ["set", "precision", "frames", "IoU, same crops", "IoU, own tracks", "AUC, float32", "AUC", "difference"]
    machine = found["machine"]
    command = f"python scripts/precision.py {found['weights']} --data-root {' '.join(found['sets'])}"
    if found["config"]:
        command += f" --config {found['config']}"
    return f"`{command}` on {machine['processor']}, PyTorch {machine['torch']}.\n\n{table(header, rows)}"


def index_table(found: dict[str, Any]) -> str:
    """Indexing of the training sets at their official size, and starts from the index."""
    names = {"checked": "all four, index checked", "trusted": "all four, index trusted"}
    rows = []
    for what, measured in found["rows"].items():
        row, fit = measured[-1], found.get("fits", {}).get(what)
        cells = [f"{row['sequences']:,}", f"{row['seconds']:.2f}", f"{row['calls']:,}", f"{row['peak_mib']:.0f}"]
        cells.append(f"{1e3 * fit['slope']:.3f} (R² {fit['r2']:.3f})" if fit else "")
        rows.append([names.get(what, f"{what}, no index"), *cells])
    header = ["training sets", "sequences", "s", "file system calls", "peak, MiB", "ms per sequence"]
    machine = found["machine"]
    command = f"python scripts/bench_index.py --work DIR --frames {found['frames']:g}"
    return (
        f"`{command}` on {machine['processor']}, {machine['cores']} cores, Python {machine['python']}.\n\n"
        f"{table(header, rows)}"
    )


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between the markers of ``name``."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise UserError(f"the page has no markers <!-- {name} --> and <!-- /{name} -->")
    return pattern.sub(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", text)


def sections(results: Path) -> dict[str, str]:
    """What stands between each pair of markers."""
    found = dict.fromkeys(("ratios", "ratios avx2", "scaling", "precision", "index"), MISSING.capitalize())
    found |= {f"{part} {model}": f"{model}: {MISSING}" for part in ("parts", "video") for model in MODELS}
    for file in sorted(results.glob("benchmark*.json")):
        measured = json.loads(file.read_text(encoding="utf-8"))
        name = measured["model"]["name"]
        command = f"vil-tracker benchmark --model {name}"
        if measured["model"]["weights"] != "random":
            command += f" --weights {measured['model']['weights']}"
        if any("against_vit" in part for part in measured["dtypes"].values()):
            line = machine_line(measured, f"{command} --peers")
            found["ratios"] = f"{line}\n\n{ratio_table(measured)}"
        found[f"parts {name}"] = f"{machine_line(measured, command)}\n\n{part_table(measured)}"
        if any("end_to_end" in part for part in measured["dtypes"].values()):
            line = machine_line(measured | {"clock": "wall time"}, command)
            found[f"video {name}"] = f"{line}\n\n{video_table(measured)}"
    blocks = []
    for file in sorted(results.glob("avx2*.json")):
        measured = json.loads(file.read_text(encoding="utf-8"))
        size, weights = measured["model"]["name"], measured["model"]["weights"]
        command = f"vil-tracker benchmark --model {size} --weights {weights}"
        compared = any("against_vit" in part for part in measured["dtypes"].values())
        blocks.append(machine_line(measured, f"{command} --peers" if compared else command))
        tables = (ratio_table, part_table, video_table) if compared else (part_table, video_table)
        blocks += [table_of(measured) for table_of in tables]
    if blocks:
        found["ratios avx2"] = "\n\n".join(blocks)
    if (results / "scaling.json").is_file():
        measured = json.loads((results / "scaling.json").read_text(encoding="utf-8"))
        line = machine_line(measured, f"python scripts/scaling.py --model {measured['model']}")
        found["scaling"] = f"{line}\n\n{scaling_tables(measured)}"
    if (results / "precision.json").is_file():
        measured = json.loads((results / "precision.json").read_text(encoding="utf-8"))
        found["precision"] = precision_table(measured)
    if (results / "index.json").is_file():
        found["index"] = index_table(json.loads((results / "index.json").read_text(encoding="utf-8")))
    return found


def filled(page: str, results: Path) -> str:
    """The text of the page with every table as the results give it."""
    for name, content in sections(results).items():
        page = fill(page, name, content)
    return page


def run(page: Path, results: Path) -> int:
    text = filled(page.read_text(encoding="utf-8"), results)
    with atomic_write(page) as stream:
        stream.write(text.encode())
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument(
        "--results", type=Path, required=True, help="folder of benchmark*.json, scaling, precision and index.json"
    )
    args = parser.parse_args()
    return cli.guarded(lambda: run(args.page, args.results))


if __name__ == "__main__":
    sys.exit(main())
