"""Writing an exported tracker: a folder with two graphs and ``model.json``."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vil_tracker import __version__
from vil_tracker.config import config_to_dict
from vil_tracker.errors import UserError, require_extra, write_json
from vil_tracker.export.graphs import FrameGraph, TemplateGraph, example_inputs
from vil_tracker.models.exported import (
    DESCRIPTION,
    FRAME_INPUTS,
    FRAME_OUTPUTS,
    SUFFIXES,
    TEMPLATE_INPUTS,
    TEMPLATE_OUTPUTS,
    Format,
)
from vil_tracker.models.network import ViLTrackerNet

OPSET = 18


def export_network(network: ViLTrackerNet, folder: str | os.PathLike[str], format: Format = "onnx") -> Path:
    """Write both graphs, for any batch size, and return the folder.

    The network is on the CPU, in float32. The folder is made, or replaced if an earlier export is in it; nothing is
    left behind by a failure. UserError where it holds something else or cannot be written, the export extra is missing,
    which "onnx" and "openvino" need, or the network has no template memory.
    """
    target = Path(folder)
    if network.config.scan != "prefix":
        raise UserError(f"a network with scan: {network.config.scan} has no template memory to export")
    if target.exists() and not (target / DESCRIPTION).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is no earlier export: choose another --output, or empty it")
    for module in () if format == "torch-export" else ("onnx", "onnxscript"):
        require_extra(module, "export", f"export to {format}")
    if format == "openvino":
        require_extra("openvino", "openvino", "export to openvino")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose another --output") from error
    try:
        with _quiet():
            _write(network.float().cpu().eval(), staging, format)
        staging.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        staging.replace(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}; choose another --output") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _write(network: ViLTrackerNet, folder: Path, format: Format) -> None:
    # Two examples in the batch: with one, the exporter would take the axis for a constant.
    template, frame = example_inputs(network.config, batch=2)
    learned = TEMPLATE_OUTPUTS if network.config.correlation else TEMPLATE_OUTPUTS[:-1]
    graphs: list[tuple[str, nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]] = [
        ("template", TemplateGraph(network), template, TEMPLATE_INPUTS, learned),
        ("frame", FrameGraph(network), frame, FRAME_INPUTS[: len(frame)], FRAME_OUTPUTS),
    ]
    for name, graph, inputs, input_names, output_names in graphs:
        batch = torch.export.Dim("batch", min=1, max=1024)
        shapes = tuple({int(name in ("C", "n", "m")): batch} for name in input_names)  # memories have sublayers first
        with torch.no_grad():
            program = torch.export.export(graph.eval(), inputs, dynamic_shapes=shapes, strict=False)
        path = folder / f"{name}{SUFFIXES[format]}"
        if format == "torch-export":
            torch.export.save(program, path)
            continue
        onnx_path = folder / f"{name}.onnx"
        _write_onnx(program, onnx_path, input_names, output_names)
        if format == "openvino":
            openvino: Any = require_extra("openvino", "openvino", "export to openvino")
            openvino.save_model(openvino.convert_model(str(onnx_path)), str(path), compress_to_fp16=False)
            onnx_path.unlink()
    description = {
        "format": format,
        "version": __version__,
        "config": config_to_dict(network.config),
        "calibration": network.calibration,
        **{name: {"inputs": taken, "outputs": given} for name, _, _, taken, given in graphs},
    }
    write_json(folder / DESCRIPTION, description)


def _write_onnx(
    program: torch.export.ExportedProgram, path: Path, input_names: tuple[str, ...], output_names: tuple[str, ...]
) -> None:
    onnx = torch.onnx.export(
        program,
        input_names=input_names,
        output_names=output_names,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
        optimize=False,
    )
    assert onnx is not None
    # Of the exporter's own optimisation, its search for patterns takes three quarters of the export and gives nothing
    # here: the runtimes fuse what they can, and a frame takes as long.
    optimizer: Any = importlib.import_module("onnxscript.optimizer")
    optimizer.inline(onnx.model)
    for _ in range(2):
        optimizer.fold_constants(onnx.model)
        optimizer.remove_unused_nodes(onnx.model)
    onnx.save(str(path), external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' own progress and warnings, which say nothing about the network."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
