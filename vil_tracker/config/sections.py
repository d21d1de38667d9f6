"""The sections of a configuration and their defaults: frozen dataclasses that check their own values."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from vil_tracker.errors import UserError


class Check(NamedTuple):
    """What a value must satisfy, and how an error says it."""

    holds: Callable[[Any], bool]
    expected: str


AT_LEAST_0 = Check(lambda value: value >= 0, "at least 0")
Count = Annotated[int, Check(lambda value: value >= 1, "at least 1")]
WholeNumber = Annotated[int, AT_LEAST_0]
Amount = Annotated[float, AT_LEAST_0]
Positive = Annotated[float, Check(lambda value: value > 0, "above 0")]
Share = Annotated[float, Check(lambda value: 0 <= value <= 1, "in [0, 1]")]
ShareBelow1 = Annotated[float, Check(lambda value: 0 <= value < 1, "in [0, 1)")]
ShareAbove0 = Annotated[float, Check(lambda value: 0 < value <= 1, "in (0, 1]")]
Factor = Annotated[float, Check(lambda value: 1 <= value <= 100, "from 1 to 100")]


def _multiple(of: int, low: int, high: int) -> Check:
    return Check(lambda value: low <= value <= high and value % of == 0, f"a multiple of {of} up to {high}")


def _whole(low: int, high: int) -> Check:
    return Check(lambda value: low <= value <= high, f"from {low} to {high}")


def validate(section: Any, name: str) -> None:
    """Raise UserError for the first field that does not satisfy the checks in its annotation."""
    for key, hint in typing.get_type_hints(type(section), include_extras=True).items():
        for check in getattr(hint, "__metadata__", ()):
            value = getattr(section, key)
            _require(check.holds(value), f"{name}.{key}", value, check.expected)


def _require(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise UserError(f"{key} is {value!r}, expected {expected}")


@dataclass(frozen=True)
class ModelConfig:
    """The network and the crops that it was trained on.

    Attributes:
        name: label of the size.
        dim: width of the tokens; the mLSTM's inner width is twice that.
        depth: number of sublayers (the ViL paper counts pairs: its depth 12 is 24 here).
        patch_size: pixels per token along each side.
        stem: "patch", the official 16×16 convolution; "conv", four stride-2 convolutions; "mobile", MobileNetV3 up to
            stride 16 (models/stem.py).
        template_size, search_size: side of the crops in pixels, multiples of ``patch_size``.
        template_factor, search_factor: side of the crops in units of the target's √(w·h).
        modulation_interval: temporal FiLM after every so many sublayers.
        temporal: whether the network has the temporal FiLM part at all.
        correlation: share that the correlation of the newest template with the search region, as in NanoTrack V3, has
            in the maps (models/correlation.py); it needs the features of ``stem: mobile``. 0 for none.
        drop_path: stochastic depth rate, linearly increasing with depth.
        head_channels: width of the head's towers; halved at each of their later convolutions.
        scan: "prefix" (template first in every sublayer, cacheable) or "flip" (odd sublayers flip the whole
            sequence; only for ablation, cannot be cached).
    """

    name: str = "small"
    dim: Annotated[int, _multiple(32, 32, 8192)] = 384
    depth: Annotated[int, _whole(1, 512)] = 24
    patch_size: Annotated[int, _whole(1, 128)] = 16
    stem: Literal["patch", "conv", "mobile"] = "patch"
    template_size: int = 128
    search_size: int = 256
    template_factor: Factor = 2.0
    search_factor: Factor = 4.0
    modulation_interval: Count = 6
    temporal: bool = True
    correlation: ShareBelow1 = 0.0
    drop_path: ShareBelow1 = 0.0
    head_channels: Annotated[int, _multiple(16, 16, 8192)] = 192
    scan: Literal["prefix", "flip"] = "prefix"

    def __post_init__(self) -> None:
        validate(self, "model")
        for key in ("template_size", "search_size"):
            value = getattr(self, key)
            fits = 0 < value <= 4096 and value % self.patch_size == 0
            _require(fits, f"model.{key}", value, f"a multiple of {self.patch_size} up to 4096")
        fits = self.stem == "patch" or self.patch_size == 16
        _require(fits, "model.patch_size", self.patch_size, f"16 with stem: {self.stem}")
        _require(
            not self.correlation or self.stem == "mobile", "model.stem", self.stem, "mobile with correlation above 0"
        )


DEFAULT_WEIGHTS = "tiny"  # shipped with the package; what every command runs on by default

MODEL_SIZES: dict[str, ModelConfig] = {
    "nano": ModelConfig(name="nano", dim=192, depth=12, stem="conv", head_channels=96),
    "tiny": ModelConfig(name="tiny", dim=192, depth=24, head_channels=96),
    "small": ModelConfig(name="small", dim=384, depth=24, head_channels=192),
    "base": ModelConfig(name="base", dim=768, depth=24, head_channels=256),
}


@dataclass(frozen=True)
class SourceConfig:
    """One data set of the training mixture.

    Attributes:
        name: a data set known to the readers, such as ``lasot``; ``folder:PATH`` for one's own; ``synthetic_pairs`` or
            ``synthetic_clips``.
        weight: share of the samples, relative to the other sources.
        split: split of the data set; synthetic ones and own folders have none, except for folders of videos with a
            ``validation.txt``, of whose targets "train" leaves out the held-out ones.
        kinds: of ``synthetic_pairs``: only these kinds of pairs, joined by commas, of those in data/synthetic/pairs.py
            (``still,boxed``); empty takes all of them, by their own weights.
        names: patterns of the sequences to use, joined by commas; a pattern after ``!`` leaves sequences out
            (``!drone_*``). Empty takes all.
    """

    name: str = ""
    weight: Positive = 1.0
    split: str = "train"
    kinds: str = ""
    names: str = ""

    def __post_init__(self) -> None:
        _require(bool(self.name), "data.sources[].name", self.name, "the name of a data set")
        where = f"data.sources[{self.name}]"
        validate(self, where)
        whole = not self.names or self.name not in ("synthetic_pairs", "synthetic_clips")
        _require(whole, f"{where}.names", self.names, "nothing: composed samples have no sequences")
        fits = not self.kinds or self.name == "synthetic_pairs"
        _require(fits, f"{where}.kinds", self.kinds, "nothing: only synthetic_pairs has kinds")


@dataclass(frozen=True)
class DataConfig:
    """What the network is trained on.

    Synthetic pairs are composed rather than cut out, and take of the following only ``centre_jitter``,
    ``scale_jitter``, ``aspect_jitter``, ``rotation``, ``grey`` and ``negatives``: their mirroring, light and blur are
    of their own.

    Attributes:
        sources: the mixture.
        validation: where held-out samples come from; empty takes samples of ``sources`` that training does not see.
        mode: "pairs" (template and search) or "clips" (template and consecutive search frames).
        clip_length: search frames per clip.
        clip_stride: largest distance between consecutive frames of a clip.
        max_gap: largest distance between template and (first) search frame, at the end of the curriculum.
        centre_jitter: range of the search crop's shift, in units of the target's √(w·h): 3 is ±1.5. In synthetic pairs
            most targets are anywhere in the crop, and this is about those near its centre: they are shifted normally,
            with a standard deviation of 0.12 of it.
        scale_jitter: standard deviation of the log of the search crop's scale. The larger, the less the network takes
            the crop's size for the target's.
        aspect_jitter: standard deviation of the log of width over height in a search crop against its picture, in
            pairs; clips keep the frame's.
        rotation: standard deviation of the search crop's turn against the template's, in degrees; clips stay upright.
        epoch_samples: samples per epoch, the unit in which randomness is counted.
        curriculum: share of the run over which gap and jitter widen from a quarter to their full value.
        grey: probability that all crops of a sample are grey.
        flip: probability that all crops of a sample are mirrored.
        brightness: largest relative change of a crop's brightness.
        motion_blur: probability of motion blur in a search crop.
        negatives: share of search crops that do not hold the target.
        max_damaged: share of unreadable pictures above which training stops.
    """

    sources: tuple[SourceConfig, ...] = ()
    validation: tuple[SourceConfig, ...] = ()
    mode: Literal["pairs", "clips"] = "pairs"
    clip_length: Annotated[int, Check(lambda value: value >= 2, "at least 2")] = 4
    clip_stride: Count = 4
    max_gap: Count = 200
    centre_jitter: Amount = 3.0
    scale_jitter: Amount = 0.25
    aspect_jitter: Amount = 0.12
    rotation: Amount = 7.0
    epoch_samples: Count = 60_000
    curriculum: Share = 0.3
    grey: Share = 0.06
    flip: Share = 0.5
    brightness: ShareBelow1 = 0.2
    motion_blur: Share = 0.1
    negatives: Share = 0.03
    max_damaged: Share = 0.02

    def __post_init__(self) -> None:
        validate(self, "data")


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation.

    Attributes:
        steps: optimiser steps of the whole run.
        batch_size: samples per optimiser step, over all processes and accumulation.
        accumulate: forward passes per optimiser step.
        lr: peak learning rate of the newly initialised parts.
        backbone_lr_scale: the backbone's rate relative to ``lr``; 0 leaves it as it is.
        stem_lr_scale: the stem's rate, that of a projection at its end left out, relative to the backbone's; 0 leaves
            it as it is.
        weight_decay: AdamW's, not applied to norms, biases and position embeddings.
        schedule: timm's name of what follows the warm-up. "cosine" falls to ``final_lr_scale``; "step" multiplies the
            rate by ``decay_rate`` after each share ``decay_after`` of the run (OSTrack's recipes: 0.1 after 0.8).
        warmup_steps: linear warm-up.
        final_lr_scale: of the cosine, rate at the end relative to the peak.
        decay_rate, decay_after: of the step schedule.
        clip_grad: largest norm of the gradient.
        ema_decay: decay of the averaged weights that are validated and shipped; 0 turns it off.
        loss_focal, loss_giou, loss_l1: weights of the three losses.
        loss_foreground: weight of the deep supervision of pairs (training/deep_supervision.py); 0 turns it off.
        teacher: folder of NanoTrack V3's ONNX files, whose features and score maps are targets in pairs
            (training/teacher.py; needs the extra ``export``); "" for no teacher.
        loss_teacher_features, loss_teacher_score: weights of its two losses.
        precision: "bfloat16" autocast, "float32", or "auto": bfloat16 where the device multiplies in it.
        compile: compile the network with torch.compile.
        grad_checkpointing: recompute activations in the backward pass, for memory.
        workers: loader processes per training process.
        seed: everything random in the run derives from it.
        log_every, checkpoint_minutes, validate_every: steps between log lines, minutes between checkpoints, steps
            between validations (0: only at the end).
        keep_every: every so many steps a checkpoint is written that stays, with its weights beside it; 0 keeps the last
            two alone.
        wandb: project of Weights & Biases that the log goes to as well (needs the extra ``wandb``); "" for none.
        init_from: weights to start from ("" starts from random ones).
        grow_from: weights of half the depth to start from, deepened so that the network begins as the same function
            (models/growth.py); "" for none.
        truth_share: in clips, share of frames whose search crop is centred on a jittered truth rather than on the
            prediction before.
        validation_pairs: held-out samples (pairs or clips) whose overlap is measured; 0 turns it off.
        validation_sequences: data set and split for one-pass AUC during training, such as ``lasot:test``,
            ``got10k:val`` or ``folder:PATH``, PATH relative to the data root; "" turns it off. What the run trains on
            is refused unless a ``!`` ends the name. The best weights are chosen by it, or else by the overlap.
    """

    steps: Count = 10_000
    batch_size: Count = 32
    accumulate: Count = 1
    lr: Positive = 4e-4
    backbone_lr_scale: Amount = 1.0
    stem_lr_scale: Amount = 1.0
    weight_decay: Amount = 0.05
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_steps: WholeNumber = 500
    final_lr_scale: Share = 0.01
    decay_rate: Share = 0.1
    decay_after: Annotated[float, Check(lambda value: 0 < value <= 1, "above 0 and at most 1")] = 0.8
    clip_grad: Positive = 1.0
    ema_decay: ShareBelow1 = 0.999
    loss_focal: Amount = 1.0
    loss_giou: Amount = 2.0
    loss_l1: Amount = 5.0
    loss_foreground: Amount = 0.0
    teacher: str = ""
    loss_teacher_features: Amount = 1.0
    loss_teacher_score: Amount = 0.5
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    compile: bool = False
    grad_checkpointing: bool = False
    workers: WholeNumber = 1
    seed: WholeNumber = 0
    log_every: Count = 20
    checkpoint_minutes: Positive = 5.0
    validate_every: WholeNumber = 0
    keep_every: WholeNumber = 0
    wandb: str = ""
    init_from: str = ""
    grow_from: str = ""
    truth_share: Share = 0.5
    validation_pairs: WholeNumber = 256
    validation_sequences: str = ""

    def __post_init__(self) -> None:
        validate(self, "train")
        shared = self.batch_size % self.accumulate == 0
        expected = f"a multiple of train.accumulate ({self.accumulate})"
        _require(shared, "train.batch_size", self.batch_size, expected)
        both = bool(self.init_from and self.grow_from)
        _require(not both, "train.grow_from", self.grow_from, "nothing beside train.init_from")


@dataclass(frozen=True)
class TrackConfig:
    """How a session turns the network's maps into a track; one set of values for every video and benchmark.

    Scores below are calibrated probabilities. Weights without a calibration are tracked as with ``calibrated: false``:
    the score is the score map's peak, no probability, so the state stays "tracking" and nothing acts on it except
    ``context_confidence``.

    Attributes:
        window: how strongly the Hann window pulls towards the last position: scores are multiplied by
            (1 - window) + window · hann.
        temporal: use the temporal context (where the network has that part).
        registration: move the temporal context to where each new search crop lies in the image; without it (for
            ablations) token (row, column) of one crop stands for that of the next, wherever the crops were cut.
        context_confidence: score below which a frame does not teach the temporal context.
        calibrated: use the calibration stored with the weights: score, states and what follows from them.
        sure_above: score from which on a frame is sure: only such frames update the similarity's mean and the
            distractors.
        compare_interval: in sure frames, the box is compared with the first frame once in so many frames; in between
            the last comparison stands.
        score_gain: share of a frame's own log odds in those of its score; the rest is the score before. Not smoothed
            while the target is lost.
        size_gain: share of a change of the box's size (of its logarithm) that the next search crop takes over. Crops
            that follow at once (1) let a box that takes in smoke or a neighbour grow from frame to frame, since a wider
            crop shows it still more to take in. While the target is lost, its size stays.
        smooth: steady the reported boxes while the target is followed; the search goes by the boxes as they are found.
        motion: centre the search on a motion forecast while uncertain.
        distractors: where a distractor has crossed the target's way, follow what is on the expected side of the other
            (tracking/distractor.py), and do not take what it was seen at for a likelier place.
        gate: probability that a true position passes the forecast's chi-square gate; one outside makes the frame
            uncertain unless its score is at least ``tracking_above``.
        redetect: search the whole frame while lost, and while in doubt.
        redetect_below, redetect_after: a score below the first for so many frames in a row puts a track in doubt: while
            it is followed, the frame is searched for a likelier place.
        redetect_fall: a similarity (the verifier's logit) by so much below its mean over sure frames, ten frames in a
            row, has the frame searched, too. A place counts then that is clearly more alike than the followed box.
        max_crops: largest number of crops in one frame: the ordinary one, and what a search may look at beside it.
        uncertain_below, tracking_above: scores at which "uncertain" begins and ends.
        lost_below, lost_after: a score below the first for so many frames in a row makes the target lost.
        uncertain_frames: so many uncertain frames make it lost, too.
        recover_above: score of a match with the first template that ends "lost".
        recovered_frames: frames for which the state is then "recovered".
        max_templates: largest number of templates, the first one and corrections by hand (``Tracker.correct``).
    """

    window: Share = 0.6
    temporal: bool = True
    registration: bool = True
    context_confidence: Share = 0.3
    calibrated: bool = True
    sure_above: Share = 0.8
    compare_interval: Count = 3
    score_gain: ShareAbove0 = 0.7
    size_gain: ShareAbove0 = 0.3
    smooth: bool = True
    motion: bool = True
    distractors: bool = True
    gate: Share = 0.999
    redetect: bool = True
    redetect_below: Share = 0.8
    redetect_after: Count = 3
    redetect_fall: Amount = 2.5
    max_crops: Annotated[int, Check(lambda value: value >= 2, "at least 2")] = 2
    uncertain_below: Share = 0.35
    tracking_above: Share = 0.5
    lost_below: Share = 0.2
    lost_after: Count = 3
    uncertain_frames: Count = 12
    recover_above: Share = 0.75
    recovered_frames: Count = 5
    max_templates: Annotated[int, Check(lambda value: value >= 2, "at least 2")] = 4

    def __post_init__(self) -> None:
        validate(self, "track")
        ordered = self.lost_below <= self.uncertain_below <= self.tracking_above
        between = f"between track.lost_below ({self.lost_below}) and track.tracking_above ({self.tracking_above})"
        _require(ordered, "track.uncertain_below", self.uncertain_below, between)


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on, apart from where the data lies."""

    model: ModelConfig = field(default_factory=lambda: MODEL_SIZES["small"])
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
