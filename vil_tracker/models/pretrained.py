"""Weights in and out: the project's own files, the shipped ones, and the official Vision-LSTM checkpoints.

A weights file is safetensors; its metadata holds ``format`` = "vil-tracker", the model's configuration as JSON under
``config``, once it is fitted the calibration of the score as JSON under ``calibration``, and whatever the writer adds.
The package ships some in ``vil_tracker/weights``, with their checksums in
``SHA256SUMS`` beside them, and knows them by name.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import pickle
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vil_tracker.config import DEFAULT_WEIGHTS, ModelConfig, config_to_dict, model_config_from_dict
from vil_tracker.errors import UserError, atomic_write, mistaken_for, require_extra
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.vil import PositionEmbedding, ViL, resize_grid
from vil_tracker.models.weights_int8 import from_int8, to_int8

log = logging.getLogger(__name__)

FORMAT = "vil-tracker"
MAX_NAMES = 40  # in one error message
OPTIONAL_PARTS = ("temporal", "correlation")  # a network may have these although the weights that it starts from do not
HUB_FILE = "model.safetensors"  # in a repository of the Hugging Face hub, or a folder in its layout
HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?<!\.safetensors)(?<!\.pth)(?<!\.th)(?<!\.pt)(?<!\.ckpt)(@[\w./-]+)?"
POSITION_NAMES = ("backbone.pos_embed.embed", "template_pos_embed.embed")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device to run on, UserError where it is not here; "auto" takes CUDA, else MPS, else the CPU."""
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"unknown device '{device}': use auto, cpu, cuda, cuda:N or mps") from error
    if resolved.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device '{device}' is not supported: use auto, cpu, cuda, cuda:N or mps")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"there is no device '{device}' here ({torch.cuda.device_count()} CUDA devices): use auto or cpu"
        )
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("there is no device 'mps' here: use auto or cpu")
    return resolved


def shipped_weights() -> dict[str, Path]:
    """The weights files that come with the package, by name."""
    folder = Path(str(resources.files("vil_tracker"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


class _NoInitialValues(TorchFunctionMode):
    """Leaves out what gives a tensor its values, in place or by resizing: on the meta device, which holds none, the
    first such operation imports PyTorch's compiler, which takes seconds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.__name__
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            return args[0] if args else kwargs["tensor"]  # type: ignore[index]  # torch.nn.init names it
        if name == "interpolate" and kwargs:
            return args[0].new_empty(*args[0].shape[:2], *kwargs["size"])
        return func(*args, **(kwargs or {}))


def load_model(
    name_or_path: str | os.PathLike[str] = DEFAULT_WEIGHTS, device: str | torch.device = "auto"
) -> ViLTrackerNet:
    """A trained network in evaluation mode, float32.

    Args:
        name_or_path: name of shipped weights, whose checksum is verified, a weights file, a folder of
            ``save_pretrained``, or a repository of the Hugging Face hub: ``owner/name`` or ``owner/name@revision``
            (extra ``hub``). Where there is a folder ``owner``, only the form with a revision asks the hub.
        device: see :func:`resolve_device`.

    Raises:
        UserError: no such weights, a damaged file, or a file that does not fit its own configuration.
    """
    resolved = resolve_device(device)
    path = _find(name_or_path)
    tensors, metadata = _read_own(path)
    tensors = from_int8(path, tensors)
    config = _stored_config(path, metadata)
    # No memory is spent before the file is seen to hold what its configuration says.
    with torch.device("meta"), _NoInitialValues():
        network = build_network(config)
    _check_names(path, network.state_dict(), tensors)
    broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"{path} holds values that are not finite, in {broken[0]}: it is damaged, save it again")
    network.load_state_dict({name: value.float() for name, value in tensors.items()}, assign=True)
    network.calibration = metadata.get("calibration")
    beside = path.parent / "README.md" if path.name == HUB_FILE else path.with_suffix(".md")
    network.card = beside.read_text(encoding="utf-8") if beside.is_file() else None
    return network.eval().to(resolved)


def save_model(
    network: ViLTrackerNet,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a network's weights and configuration, all or nothing.

    Args:
        network: any device and dtype.
        path: file to write, ``.safetensors``.
        metadata: what else to record, such as steps and data.
        dtype: precision on disk; float16 halves the file. int8 is for weights that are final: the large matrices are
            rounded to 8 bits, each row with a scale of its own, the rest is float16.

    Raises:
        UserError: the file cannot be written, or a weight is not finite in ``dtype``.
    """
    floats = torch.float16 if dtype == torch.int8 else dtype
    tensors = {name: value.detach().to("cpu", floats).contiguous() for name, value in network.state_dict().items()}
    bad = [name for name, value in tensors.items() if not value.isfinite().all()]
    if bad:
        fault = f"{bad[0]} is not finite in {floats}"
        raise UserError(f"cannot save {os.fspath(path)}: {fault}; use float32 or train again")
    if dtype == torch.int8:
        tensors = to_int8(tensors)
    header = {**(metadata or {}), "format": FORMAT, "config": json.dumps(config_to_dict(network.config))}
    content = safetensors.torch.save(tensors, metadata=header)
    with atomic_write(path) as stream:
        stream.write(content)


def add_metadata(source: str | os.PathLike[str], target: str | os.PathLike[str], extra: Mapping[str, str]) -> None:
    """Copy a weights file of ours, by name or path, adding to or replacing its metadata, to ``target``, all or nothing.

    The tensors stay as they are, bit for bit. UserError where the one cannot be read, or the other not written.
    """
    tensors, metadata = _read_own(_find(source))
    content = safetensors.torch.save(tensors, metadata={**metadata, **extra})
    with atomic_write(target) as stream:
        stream.write(content)


def load_weights(network: ViLTrackerNet, name_or_path: str | os.PathLike[str]) -> None:
    """Start a network from other weights: the project's own, or an official Vision-LSTM checkpoint.

    Position embeddings of another grid are resized. An optional part, such as the temporal modulation, of which the
    file has nothing stays as it is, and that is logged; anything else that does not match, or cannot be read, is a
    UserError.
    """
    path = _find(name_or_path)
    if not _is_own(path):
        load_official_vil(network, path)
        return
    tensors, _ = _read_own(path)
    tensors = from_int8(path, tensors)
    current = network.state_dict()
    for name in POSITION_NAMES:
        if name in tensors and tensors[name].dim() == 4:
            tensors[name] = resize_grid(tensors[name].float(), (current[name].shape[1], current[name].shape[2]))
    for part in OPTIONAL_PARTS:
        fresh = {name: value for name, value in current.items() if name.startswith(f"{part}.")}
        if fresh and not any(name.startswith(f"{part}.") for name in tensors):
            log.info("%s has no %s part: it starts from its initialisation", path, part)
            tensors.update(fresh)
    _check_names(path, current, tensors)
    network.load_state_dict(tensors)


def load_official_vil(network: ViLTrackerNet | ViL, path: str | os.PathLike[str]) -> None:
    """Load an ImageNet checkpoint of Vision-LSTM v2 (NX-AI/vision-lstm) into the backbone.

    Both namings are accepted: the library's (``blocks.{pair}.rowwise_from_top_left...``) and the raw files'
    (``xlstm.blocks.{i}.xlstm...`` under ``state_dict``). The position embedding is resized bicubically to the search
    and the template grid. The classifier (``legacy_norm``, ``head``) is left out.

    Args:
        network: the tracker, or a backbone alone.
        path: ``.th`` or ``.safetensors`` file.

    Raises:
        UserError: unreadable file, or names or shapes that do not match; the missing and the unused are listed.
    """
    path = Path(path)
    tensors = {_from_official(name): value for name, value in _read_tensors(path).items()}
    tensors = {name: value for name, value in tensors.items() if not name.startswith(("legacy_norm.", "head."))}
    backbone = network.backbone if isinstance(network, ViLTrackerNet) else network
    position = tensors.get("pos_embed.embed")
    if position is not None and position.dim() == 4:
        position = position.float()
        tensors["pos_embed.embed"] = resize_grid(position, _grid(backbone.pos_embed))
    _check_names(path, backbone.state_dict(), tensors)
    backbone.load_state_dict(tensors)
    if isinstance(network, ViLTrackerNet) and position is not None:
        with torch.no_grad():
            template = network.template_pos_embed
            template.embed.copy_(resize_grid(position.to(template.embed.device), _grid(template)))


def _grid(position: PositionEmbedding) -> tuple[int, int]:
    return position.embed.shape[1], position.embed.shape[2]


def _from_official(name: str) -> str:
    """Our name of an official parameter; a name of neither convention comes back as it is."""
    name = re.sub(r"^xlstm\.blocks\.(\d+)\.xlstm_norm\.", r"sublayers.\1.norm.", name)
    name = re.sub(r"^xlstm\.blocks\.(\d+)\.xlstm\.", r"sublayers.\1.layer.", name)
    name = re.sub(r"^(sublayers\.\d+\.layer)\.conv1d\.", r"\1.conv.", name)
    name = re.sub(r"^xlstm\.post_blocks_norm\.", "norm.", name)
    name = re.sub(r"^head\.0\.", "legacy_norm.", name)
    pair = re.match(r"blocks\.(\d+)\.rowwise_from_(top_left|bot_right)\.", name)
    if pair:
        index = 2 * int(pair[1]) + (pair[2] == "bot_right")
        name = f"sublayers.{index}.{name[pair.end() :]}"
    return name


def _find(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a name or path; shipped weights are verified on the way."""
    if not isinstance(name_or_path, str | os.PathLike):
        raise UserError(f"weights are a name, a file or a folder, not {name_or_path!r:.80}: give one such as 'nano'")
    text = os.fspath(name_or_path)
    shipped = shipped_weights()
    if text in shipped:
        _verify(shipped[text])
        return shipped[text]
    path = Path(text)
    if path.is_file():
        return path
    if path.is_dir() and (path / HUB_FILE).is_file():
        return path / HUB_FILE
    revision = "@" in text
    if re.fullmatch(HUB_ID, text) and not path.exists() and (revision or not path.parent.is_dir()):
        hub = require_extra("vil_tracker.hub", "hub", f"get {text}, which is no file, from the Hugging Face hub")
        return hub.fetch_weights(text)
    if path.suffix or len(path.parts) > 1:
        raise UserError(_no_file(path, shipped))
    near = difflib.get_close_matches(text, shipped, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped are: {', '.join(shipped) or 'none'}; or give a file"
    raise UserError(f"there are no shipped weights '{text}' and no such file: {hint}")


def _no_file(path: Path, shipped: Mapping[str, Path]) -> str:
    """What to say of a path at which there are no weights; the hub is not asked about it."""
    advice = f"check the path, or use one of: {', '.join(shipped) or '-'}"
    if path.is_dir():
        return f"the folder {path} holds no {HUB_FILE}: give a weights file, or a folder of save_pretrained"
    if len(path.parts) > 1 and path.parent.is_dir():
        names = [child.name for child in path.parent.iterdir() if child.suffix == ".safetensors" or child.is_dir()]
        near = difflib.get_close_matches(path.name, names, n=1) or [n for n in names if n.startswith(f"{path.name}.")]
        if near:
            advice = f"did you mean {path.parent / near[0]}?"
        elif re.fullmatch(HUB_ID, str(path)):
            advice += f"; {path}@main is that repository of the Hugging Face hub"
    return f"there is no weights file {path}: {advice}"


def _verify(path: Path) -> None:
    sums = path.parent / "SHA256SUMS"
    try:
        lines = [line.split() for line in sums.read_text(encoding="utf-8").splitlines()]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot verify the shipped weights {path}: {error}; install the package again") from error
    expected = {line[1].lstrip("*"): line[0] for line in lines if len(line) == 2}.get(path.name)
    if digest != expected:
        raise UserError(f"the shipped weights {path} are damaged (wrong SHA-256): install the package again")


def _is_own(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            return (stored.metadata() or {}).get("format") == FORMAT
    except (safetensors.SafetensorError, OSError):
        return False


def _read_own(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        fault = _fault(path) or f"it is damaged or no safetensors file ({error})"
        raise UserError(f"cannot read weights {path}: {fault}; check the path") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is not a weights file of this project: write one with vil-tracker train")
    return _without_wrapper(tensors), metadata


def _fault(path: Path) -> str | None:
    """What a file that cannot be read is mistaken for, if that is known."""
    try:
        with open(path, "rb") as stream:
            return mistaken_for(stream.read(200))
    except OSError:
        return None


def _without_wrapper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names in the network itself, not in what it was wrapped in when it was saved."""
    for wrapper in ("module.", "_orig_mod."):  # DataParallel and its kin; torch.compile
        if tensors and all(name.startswith(wrapper) for name in tensors):
            return _without_wrapper({name.removeprefix(wrapper): value for name, value in tensors.items()})
    return tensors


def _stored_config(path: Path, metadata: dict[str, str]) -> ModelConfig:
    advice = "save it again with vil-tracker train"
    try:
        content = json.loads(metadata["config"])
        if not isinstance(content, dict):
            raise ValueError
        return model_config_from_dict(content)
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path} holds no readable model configuration: {advice}") from error
    except UserError as error:
        raise UserError(f"{path} holds a wrong model configuration ({error}): {advice}") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a foreign checkpoint, pickled or safetensors; never runs code from the file."""
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        safetensors.SafetensorError,
        pickle.UnpicklingError,
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
    ) as error:
        # PyTorch's own message advises to load the file unsafely, so it is not passed on.
        raise UserError(
            f"cannot read checkpoint {path}: {_fault(path) or 'it is damaged or holds more than weights'}; check the "
            "path, or save its state dict as safetensors"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict: give a checkpoint of weights")
    return _without_wrapper(content)


def _check_names(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise a UserError listing every difference of names and shapes between a network and a file."""
    missing = sorted(expected.keys() - found.keys())
    unused = sorted(found.keys() - expected.keys())
    shapes = [
        f"{name} (network {tuple(expected[name].shape)}, file {tuple(found[name].shape)})"
        for name in sorted(expected.keys() & found.keys())
        if expected[name].shape != found[name].shape
    ]
    parts = [
        f"{label}: {', '.join(names[:MAX_NAMES])}" + (f" and {len(names) - MAX_NAMES} more" * (len(names) > MAX_NAMES))
        for label, names in (("missing", missing), ("unused", unused), ("of another shape", shapes))
        if names
    ]
    if parts:
        raise UserError(f"{path} does not fit the network; {'; '.join(parts)}. Use weights of the same architecture")
