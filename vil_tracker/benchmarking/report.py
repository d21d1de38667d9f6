"""What was measured, for people to read."""

from __future__ import annotations

from typing import Any

from vil_tracker.benchmarking.parts import KERNEL

SUBLAYER_PARTS = ("projections", KERNEL, "convolution", "q, k, v", "cell", "norms, gates")
PARTS = ("stem", *SUBLAYER_PARTS, "modulation", "head", "correlation")


def as_text(measured: dict[str, Any]) -> str:
    """The tables that ``vil-tracker benchmark`` prints."""
    machine, model = measured["machine"], measured["model"]
    lines = [
        "",
        f"machine   {machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['instructions']}, {machine['device']}, PyTorch {machine['torch']}",
        f"network   {model['name']} ({model['weights']} weights): dim {model['dim']}, {model['depth']} sublayers, "
        f"{model['search_tokens']} search and {model['template_tokens']} template tokens",
    ]
    for dtype, found in measured["dtypes"].items():
        lines += ["", f"{dtype:<26}{'ms':>9}{'GFLOP':>9}{'GFLOP/s':>9}"]
        milliseconds, gflop = found["milliseconds"], found["gflop"]
        for name in (*PARTS, "frame", "compiled frame"):
            if name in milliseconds:
                work = gflop.get(name.removeprefix("compiled "))
                rate = f"{work:9.3f}{1e3 * work / milliseconds[name]:9.1f}" if work and milliseconds[name] else ""
                lines.append(f"  {name:<24}{milliseconds[name]:9.2f}{rate}")
        lines.append(
            f"  matmul rate {found['matmul_gflops']:.0f} GFLOP/s, of which a frame reaches "
            f"{found['share_of_matmul_rate']:.0%}; floor {found['floor_milliseconds']:.1f} ms"
        )
        for size, rows in found.get("against_vit", {}).items():
            for count, row in rows.items():
                lines.append(
                    f"  {size}, {count} templates: ViT {row['vit_milliseconds']:.1f} ms, ours "
                    f"{row['ours_milliseconds']:.1f} ms, ratio {row['ratio']:.2f}"
                )
    lines += ["", f"times above: {measured['clock']}"]
    if any("end_to_end" in found for found in measured["dtypes"].values()):
        lines += ["", "1280×720 video, frames per second"]
    for dtype, found in measured["dtypes"].items():
        for name, row in found.get("end_to_end", {}).items():
            parts = ", ".join(f"{part} {value:.1f}" for part, value in row.get("milliseconds", {}).items())
            label = f"{dtype}, {name.replace('_', ' ')}"
            lines.append(f"  {label:<26}{row['frames_per_second']:9.1f}{f'   ms: {parts}' * bool(parts)}")
    peers = measured.get("peers", {})
    lines += [f"  {name:<26}{rate:9.1f}" for name, rate in peers.items() if rate is not None]
    missing = ", ".join(name for name, rate in peers.items() if rate is None)
    if missing:
        lines.append(f"  not in this OpenCV, or not in --peers-dir: {missing}")
    lines.append(f"\npeak memory {measured['peak_memory_mib']:.0f} MiB")
    return "\n".join(lines)
