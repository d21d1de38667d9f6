"""Fitting the calibration of the score for given weights, on generated clips with known absences.

The first half of the clips is tracked with a score that always says yes, and now and then the box is moved, onto the
target or away from it, so that every kind of crop is met; the second half as the tracker will run, with the
calibration fitted on the first, on longer clips, in most of which the target is away for a long time: that is when a
tracker settles on something else, whose score has to be low. The answer is fitted on both; its temperature and bias on
what the tracker answered in the second half, predicted with each clip left out of the fit: how often it is right with
given features depends on how often it is right at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from vil_tracker.boxes import clip_box, iou
from vil_tracker.config import TrackConfig
from vil_tracker.data.sequence import Sequence as Clip
from vil_tracker.data.synthetic.clips import ClipConfig, SyntheticClips
from vil_tracker.data.synthetic.photo_pool import PhotoPool
from vil_tracker.errors import UserError
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.models.verifier import VerifierNet
from vil_tracker.tracking.confidence_model import CONFIDENCE_FEATURES, ConfidenceModel
from vil_tracker.tracking.motion import MotionModel
from vil_tracker.tracking.tracker import Tracker

CORRECT_OVERLAP = 0.5
HIDDEN_UNITS = 4
FOLDS = 4
_WEIGHT_DECAY = 3e-2  # videos differ from generated clips: more than what suits clips left out of the fit
_SCALING_DECAY = 3e-3
_HARD, _ORDINARY = (0.5, 2.0), (0.4, 1.2)  # range of the clips' difficulty in the first and in the second half
_STEPS = 150
_LIVELY = ClipConfig(limbs=0.6, turns=0.45, twins=0.25)
_EVENTFUL = replace(_LIVELY, occlusion=0.45, leave=0.3, jump=0.3, hidden_frames=(8, 25), pose=2.0)
_LONG = replace(_LIVELY, occlusion=0.35, leave=0.35, jump=0.3, hidden_frames=(20, 60), pose=1.8)
_LONG_FRAMES = 110


@dataclass(frozen=True)
class Judgements:
    """Boxes that a tracker judged, with the truth.

    Attributes:
        features: (J, F).
        correct: (J,) bool, the box overlaps the visible target by more than half.
        reported: (J,) bool, the box was the one that the tracker took, rather than a candidate that it judged.
        clip: (J,) number of the clip.
        typical: (J,) bool, the clip was tracked undisturbed.
    """

    features: np.ndarray
    correct: np.ndarray
    reported: np.ndarray
    clip: np.ndarray
    typical: np.ndarray

    @staticmethod
    def join(parts: Sequence[Judgements]) -> Judgements:
        """All of them in turn."""
        return Judgements(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Judgements)))

    def rows(self, chosen: np.ndarray) -> Judgements:
        """Those where ``chosen`` (J,) bool is True."""
        return Judgements(*(getattr(self, f.name)[chosen] for f in fields(self)))


def constant_confidence(verifier: VerifierNet | None = None) -> ConfidenceModel:
    """Says 0.95 whatever the features, which hold the answers of ``verifier``."""
    count = len(CONFIDENCE_FEATURES)
    output = np.zeros(count + 2)
    output[-1] = np.log(0.95 / 0.05)
    return ConfidenceModel(np.zeros(count), np.ones(count), np.zeros((1, count + 1)), output, verifier=verifier)


def training_clips(pool: PhotoPool, count: int, frames: int, seed: int) -> Iterator[Clip]:
    """Generated clips: hard ones of ``frames`` frames first, then longer ones, most with a long absence."""
    eventful, long = SyntheticClips(pool, _EVENTFUL), SyntheticClips(pool, _LONG)
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        first_half = index < num_perturbed_clips(count)
        difficulty = float(rng.uniform(*(_HARD if first_half else _ORDINARY)))
        if first_half:
            yield eventful.sample_clip(rng, frames, difficulty)
        else:
            yield long.sample_clip(rng, _LONG_FRAMES, difficulty)


def num_perturbed_clips(count: int) -> int:
    """How many of ``count`` clips are tracked with the box moved now and then: the first half."""
    return (count + 1) // 2


def judge_clip(tracker: Tracker, clip: Clip, number: int, rng: np.random.Generator | None = None) -> Judgements:
    """Track a clip, and note every box judged; with ``rng``, move the box now and then."""
    features, boxes, truth, reported = [], [], [], []
    tracker.init(clip.frames[0], clip.boxes[0])
    for index in range(1, len(clip.frames)):
        frame, state = clip.frames[index], tracker.state
        assert state is not None and state.confidence is not None
        known = state.confidence
        similarity_ema, distractors = known.similarity_ema, known.distractors
        tracker.update(frame)
        for box, values in known.judged:
            inside = clip_box(box, frame.shape[1], frame.shape[0])
            boxes.append(inside)
            features.append(values)
            truth.append(clip.boxes[index])
            reported.append(np.array_equal(inside, state.box))
        if rng is not None:
            overlap_now = float(iou(state.box, clip.boxes[index]))
            if not overlap_now > CORRECT_OVERLAP:
                # A score worth something would not have let these in.
                known.similarity_ema, known.distractors = similarity_ema, distractors
            _move(tracker, clip, index, overlap_now, rng)
    overlap = iou(np.stack(boxes), np.stack(truth))
    correct = overlap > CORRECT_OVERLAP
    rows = len(correct)
    return Judgements(
        np.stack(features), correct, np.array(reported), np.full(rows, number), np.full(rows, rng is None)
    )


def _move(tracker: Tracker, clip: Clip, index: int, overlap: float, rng: np.random.Generator) -> None:
    """One time in eight while off the target, one in fifty while on it: put the box near the target or anywhere."""
    state = tracker.state
    assert state is not None
    if rng.random() > (0.02 if overlap > 0.1 else 0.125):
        return
    height, width = clip.frames[index].shape[:2]
    truth = clip.boxes[index]
    if np.isfinite(truth).all() and rng.random() < 0.65:
        scale = np.sqrt(truth[2] * truth[3])
        box = truth + np.concatenate([rng.normal(0.0, 0.25 * scale, 2), np.zeros(2)])
    else:
        box = np.concatenate([rng.uniform(0, 1, 2) * (width, height) - state.box[2:] / 2, state.box[2:]])
    state.box = clip_box(box, width, height, min_size=4.0)
    state.motion, state.context = MotionModel(state.box), None


def fit(data: Judgements) -> ConfidenceModel:
    """Standardise the features and fit the perceptron by its log loss with weight decay (L-BFGS).

    Raises:
        UserError: all boxes are right, or all are wrong.
    """
    if data.correct.all() or not data.correct.any():
        raise UserError("the clips gave no examples of both right and wrong boxes: use more clips")
    mean, scale = data.features.mean(0), data.features.std(0) + 1e-3
    linear = len(CONFIDENCE_FEATURES)
    z = torch.from_numpy(np.clip((data.features - mean) / scale, -5, 5))
    target = torch.from_numpy(data.correct.astype(np.float64))
    start = np.random.default_rng(0).normal(0.0, 0.3, (HIDDEN_UNITS, linear + 1))
    hidden = torch.tensor(start, requires_grad=True)
    output = torch.zeros(linear + HIDDEN_UNITS + 1, dtype=torch.float64)
    output[linear:-1] = 0.1
    output.requires_grad_(True)

    def loss() -> Tensor:
        units = torch.tanh(z @ hidden[:, :-1].T + hidden[:, -1])
        logit = z @ output[:linear] + units @ output[linear:-1] + output[-1]
        log_loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, target)
        return log_loss + _WEIGHT_DECAY * (hidden[:, :-1].square().sum() + output[:-1].square().sum())

    minimise(loss, [hidden, output])
    return ConfidenceModel(mean, scale, hidden.detach().numpy(), output.detach().numpy())


def minimise(loss: Callable[[], Tensor], parameters: list[Tensor]) -> None:
    """L-BFGS to convergence."""
    optimiser = torch.optim.LBFGS(parameters, max_iter=_STEPS, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def fit_scaling(logits: np.ndarray, correct: np.ndarray) -> tuple[float, float]:
    """Temperature T, within 0.25 and 4, and bias b, within -3 and 3, of least log loss for probabilities
    sigmoid((logit + b) / T), of logits (J,) and whether they are ``correct`` (J,) bool.

    Platt, "Probabilistic outputs for support vector machines", 1999, with a little weight on T = 1 and b = 0, so that
    answers that are all right do not send them to infinity.
    """
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    logit, target = torch.from_numpy(logits), torch.from_numpy(correct.astype(np.float64))

    def loss() -> Tensor:
        log_loss = torch.nn.functional.binary_cross_entropy_with_logits(
            (logit + bias) * torch.exp(-log_temperature), target
        )
        return log_loss + _SCALING_DECAY * (log_temperature.square() + bias.square())

    minimise(loss, [log_temperature, bias])
    return float(np.clip(np.exp(log_temperature.item()), 0.25, 4.0)), float(np.clip(bias.item(), -3.0, 3.0))


def fit_with_held_out_scaling(data: Judgements, fold: np.ndarray) -> tuple[ConfidenceModel, np.ndarray]:
    """Fit on everything, with the temperature and bias that suit predictions of clips left out of the fit.

    Args:
        fold: (J,), from 0 to FOLDS - 1; the judgements of one fold are left out together.

    Returns:
        The calibration, and the left-out probabilities (J,) after temperature and bias.
    """
    logits = np.zeros(len(data.correct))
    for number in range(FOLDS):
        out = fold == number
        if out.any():
            logits[out] = fit(data.rows(~out)).logit(data.features[out])
    answers = data.reported & data.typical
    temperature, bias = fit_scaling(logits[answers], data.correct[answers])
    probability = 1.0 / (1.0 + np.exp(-np.clip((logits + bias) / temperature, -30, 30)))
    whole = fit(data)
    output = np.append(whole.output[:-1], whole.output[-1] + bias)
    return replace(whole, output=output, temperature=temperature), probability


def fit_beside_videos(
    model: ViLTrackerNet,
    calibration: ConfidenceModel,
    generated: Judgements,
    clips: Sequence[Clip],
    config: TrackConfig | None = None,
) -> tuple[ConfidenceModel, Judgements, np.ndarray]:
    """Fit again, on generated clips and on what the tracker judges in real videos that the network was not trained on.

    Generated clips are easier than videos, and videos of the training easier than others: how often a box is right at
    the same features has to be seen on videos of neither kind. Temperature and bias suit the answers in undisturbed
    clips and in the videos: those of the videos alone depend too much on which ones they are. The network's own
    ``calibration`` is set to the answer.

    Args:
        calibration, generated: fitted on the generated clips, and their judgements; the videos are tracked with it.
        clips: the videos, those of one origin in turn.

    Returns:
        The calibration, what the tracker judged in the videos, and probabilities (J,) of that, predicted with the
        quarter of the videos that each one belongs to, and a quarter of the clips, left out of the fit.
    """
    model.calibration = calibration.to_json()
    tracker = Tracker(model, replace(config or TrackConfig(), calibrated=True))
    data = Judgements.join([judge_clip(tracker, clip, number) for number, clip in enumerate(clips)])
    fold = np.concatenate([generated.clip % FOLDS, data.clip * FOLDS // len(clips)])
    whole, probability = fit_with_held_out_scaling(Judgements.join([generated, data]), fold)
    whole = replace(whole, verifier=calibration.verifier)
    model.calibration = whole.to_json()
    return whole, data, probability[len(generated.correct) :]


def calibrate(
    model: ViLTrackerNet,
    clips: Iterable[Clip],
    count: int,
    *,
    verifier: VerifierNet | None = None,
    on_clip: Callable[[int], object] = lambda index: None,
) -> tuple[ConfidenceModel, Judgements, np.ndarray]:
    """Fit the calibration of a network. The network's own ``calibration`` is set to the answer.

    Args:
        clips: generated from training material; at least ``count``, which is at least 8, and of which as many are used.
        verifier: becomes a part of the calibration; trained on other photos than the clips show.
        on_clip: called with the number of clips done after each.

    Returns:
        The calibration, all judgements, and probabilities (J,) predicted with each one's clip left out of the fit.
    """
    if count < 2 * FOLDS:
        raise UserError(f"{count} clips are too few to fit a calibration: use at least {2 * FOLDS}")
    settings = TrackConfig(calibrated=True)
    model.calibration = constant_confidence(verifier).to_json()
    tracker = Tracker(model, replace(settings, compare_interval=1))  # moved boxes need a comparison of their own
    parts: list[Judgements] = []
    for number, clip in enumerate(clips):
        if number == count:
            break
        if number == num_perturbed_clips(count):
            model.calibration = replace(fit(Judgements.join(parts)), verifier=verifier).to_json()
            tracker = Tracker(model, settings)
        rng = np.random.default_rng((0, number)) if number < num_perturbed_clips(count) else None
        parts.append(judge_clip(tracker, clip, number, rng))
        on_clip(number + 1)
    data = Judgements.join(parts)
    calibration, probability = fit_with_held_out_scaling(data, data.clip % FOLDS)
    calibration = replace(calibration, verifier=verifier)
    model.calibration = calibration.to_json()
    return calibration, data, probability
