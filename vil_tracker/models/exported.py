"""Running an exported tracker in the ordinary session: graphs of another runtime behind the network's interface."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vil_tracker.config import ModelConfig, model_config_from_dict
from vil_tracker.errors import UserError, require_extra
from vil_tracker.models.correlation import TEMPLATE_CELLS
from vil_tracker.models.film_temporal import TemporalContext, resize_context
from vil_tracker.models.head import decode_maps
from vil_tracker.models.mlstm import MLSTMState
from vil_tracker.models.network import NetworkOutput, TargetMemory
from vil_tracker.models.stem import MOBILE_CHANNELS
from vil_tracker.models.vil import HEADS

Format = Literal["onnx", "torch-export", "openvino"]
FORMATS: tuple[Format, ...] = ("onnx", "torch-export", "openvino")
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "openvino": ".xml"}
DESCRIPTION = "model.json"

EMPTY = -1e30  # logarithm of a weight that is no weight; infinity minus infinity would be no number

# ``template`` is of networks with correlation alone, ``context`` of those with a temporal part.
TEMPLATE_INPUTS = ("crop", "box", "C", "n", "m")
TEMPLATE_OUTPUTS = ("C_out", "n_out", "m_out", "template_out")
FRAME_INPUTS = ("crop", "C", "n", "m", "context", "context_valid", "window", "template")
FRAME_OUTPUTS = ("boxes", "scores", "score_logits", "offset", "size", "features", "context_out")

Stacked = tuple[Tensor, ...]  # C, n, m and, with correlation, the template's features
Graph = Callable[[Sequence[Tensor]], list[Tensor]]


class ExportedModel:
    """A tracker that :func:`vil_tracker.export.write.export_network` wrote, with what a session needs of a network; see
    :class:`vil_tracker.models.inference.SearchModel`. UserError where the folder holds none, a file is damaged, or the
    runtime is not installed.
    """

    device = torch.device("cpu")
    io_dtype = torch.float32

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        description = read_description(self.folder)
        self.format: str = description["format"]
        self.config: ModelConfig = model_config_from_dict(description["config"])
        self.calibration: str | None = description["calibration"]
        self.uses_context = self.config.temporal
        open_graph = {"onnx": _open_onnx, "torch-export": _open_program, "openvino": _open_openvino}[self.format]
        graphs = []
        for name in ("template", "frame"):
            path = self.folder / f"{name}{SUFFIXES[self.format]}"
            try:
                graphs.append(open_graph(path))
            except UserError:
                raise
            except Exception as error:  # each runtime has its own kinds
                first = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UserError(f"cannot load {path}: {first}; export the network again") from error
        self._template, self._frame = graphs

    def __reduce__(self) -> tuple[object, ...]:
        """Copies and pickles hold the folder's path, from which the graphs are loaded again."""
        return ExportedModel, (self.folder.absolute(),)

    def encode_templates(
        self, templates: Tensor, template_boxes: Tensor, memory: TargetMemory | None = None
    ) -> TargetMemory:
        stacked = empty_memory(self.config, len(templates)) if memory is None else stack_memory(memory)
        for index in range(templates.shape[1]):
            stacked = tuple(self._template([templates[:, index], template_boxes[:, index], *stacked[:3]]))
        return unstack_memory(*stacked)

    def forward_search(
        self, search: Tensor, memory: TargetMemory, context: TemporalContext | None = None
    ) -> NetworkOutput:
        """As :meth:`vil_tracker.models.network.ViLTrackerNet.forward_search`, on crops of the network's own size."""
        batch, side = len(search), self.config.search_size // self.config.patch_size
        if context is None:
            features = torch.zeros(batch, side**2, self.config.dim)
            valid = features[..., :1]
        else:
            context = resize_context(context, (side, side))
            features, valid = context.features, context.valid
        window = torch.ones(batch, side, side)
        C, n, m, *template = stack_memory(memory)
        inputs = [search, C, n, m, features, valid, window, *template]
        _, _, score, offset, size, found, _ = self._frame([part.float() for part in inputs])
        return NetworkOutput(score, offset, size, found)

    def decode(self, output: NetworkOutput, window: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return decode_maps(output.score_logits, output.offset, output.size, window)


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an exported tracker."""
    return (Path(path) / DESCRIPTION).is_file()


def read_description(folder: Path) -> dict[str, Any]:
    """``model.json`` of an exported tracker; UserError where it is not there, or damaged."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(
            f"{folder} holds no exported tracker ({DESCRIPTION} is missing): write one with vil-tracker export"
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        complete = description["format"] in FORMATS and {"config", "calibration"} <= description.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise UserError(f"{path} is damaged: export the network again")
    return description


def _open_onnx(path: Path) -> Graph:
    onnxruntime: Any = require_extra("onnxruntime", "export", "run ONNX graphs")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = functools.partial(_feed, path, [entry.name for entry in session.get_inputs()])
    return lambda inputs: [torch.from_numpy(array) for array in session.run(None, feed(inputs))]


def _feed(path: Path, names: list[str], inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """A graph's inputs by name; a network without temporal part leaves some out."""
    given = dict(zip(TEMPLATE_INPUTS if path.stem == "template" else FRAME_INPUTS, inputs, strict=False))
    return {name: np.ascontiguousarray(given[name].numpy()) for name in names}


def _open_program(path: Path) -> Graph:
    program = torch.export.load(path).module()
    return torch.no_grad()(lambda inputs: list(program(*inputs)))


def _open_openvino(path: Path) -> Graph:
    openvino: Any = require_extra("openvino", "openvino", "run OpenVINO graphs")
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    feed = functools.partial(_feed, path, [entry.get_any_name() for entry in compiled.inputs])

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        found = compiled(feed(inputs))
        return [torch.from_numpy(np.array(found[output])) for output in compiled.outputs]

    return run


def stack_memory(memory: TargetMemory) -> Stacked:
    """One tensor per part of the state, over all sublayers, and the template's features, if there are any."""
    parts = [torch.stack(parts) for parts in zip(*memory.states, strict=True)]
    return (*parts, *([] if memory.features is None else [memory.features]))


def unstack_memory(C: Tensor, n: Tensor, m: Tensor, template: Tensor | None = None) -> TargetMemory:
    """The inverse of :func:`stack_memory`."""
    states = (MLSTMState(*parts) for parts in zip(C.unbind(0), n.unbind(0), m.unbind(0), strict=True))
    return TargetMemory(tuple(states), template)


def empty_memory(config: ModelConfig, batch: int) -> Stacked:
    """The memory before the first template."""
    K = 2 * config.dim // HEADS
    lead = (config.depth, batch, HEADS)
    states = torch.zeros(*lead, K, K), torch.zeros(*lead, K), torch.full(lead, EMPTY)
    features = torch.zeros(batch, MOBILE_CHANNELS, TEMPLATE_CELLS, TEMPLATE_CELLS)
    return (*states, features) if config.correlation else states
