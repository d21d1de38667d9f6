"""Which model a session runs: the network in some precision, compiled or not, or an exported one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from vil_tracker.errors import UserError

if TYPE_CHECKING:
    from vil_tracker.models.inference import Precision, SearchModel

RUNTIMES = {"onnxruntime": "onnx", "torch-export": "torch-export", "openvino": "openvino"}  # and what they run
BACKENDS = ("torch", *RUNTIMES)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")


def load_search_model(
    weights: str | os.PathLike[str],
    device: str = "auto",
    *,
    precision: Precision | Literal["auto"] = "float32",
    compiled: bool = False,
    backend: str | None = None,
) -> SearchModel:
    """The model that a tracking session calls; UserError where the arguments do not go together or with this machine.

    Args:
        weights: shipped weights by name, a file, or the folder of an exported tracker.
        device: of the network; an exported tracker runs on the CPU.
        precision: what the network computes in; "auto" is :func:`vil_tracker.models.precision.fastest_precision`.
        compiled: compile the network with torch.compile, which takes minutes; done before this returns.
        backend: one of :data:`BACKENDS`; None takes the one that fits ``weights``.
    """
    from vil_tracker.models.exported import ExportedModel, is_exported

    if is_exported(weights) or backend not in (None, "torch"):
        if backend == "torch":
            raise UserError(f"{os.fspath(weights)} is an exported tracker: leave --backend out")
        if not is_exported(weights):
            raise UserError(
                f"--backend {backend} runs an exported tracker, and {os.fspath(weights)} is none: write one with "
                f"vil-tracker export --format {RUNTIMES[str(backend)]} and give its folder as --weights"
            )
        if precision not in ("float32", "auto") or compiled or device not in ("auto", "cpu"):
            raise UserError(
                "an exported tracker runs in float32 on the CPU, as it is: leave --dtype, --device and --compile out"
            )
        exported = ExportedModel(weights)
        if backend is not None and RUNTIMES[backend] != exported.format:
            raise UserError(
                f"{os.fspath(weights)} was exported as {exported.format}, which --backend {backend} cannot run"
            )
        return exported
    from vil_tracker.models.inference import InferenceNetwork
    from vil_tracker.models.precision import check_bfloat16, fastest_precision, warm_up
    from vil_tracker.models.pretrained import load_model, resolve_device

    if precision == "bfloat16":
        check_bfloat16(resolve_device(device), "--dtype")
    loaded = load_model(weights, device)
    chosen = fastest_precision(loaded) if precision == "auto" else precision
    network = InferenceNetwork(loaded, chosen, compiled=compiled)
    if compiled:
        try:
            warm_up(network)
        except RuntimeError as error:  # PyTorch's faults of compiling are such, of many lines
            what = next((line for line in str(error).splitlines() if "rror" in line or "ompiler" in line), "")
            raise UserError(
                f"the network cannot be compiled here ({what or type(error).__name__}): install a C++ compiler, or "
                "leave --compile out"
            ) from error
    return network
