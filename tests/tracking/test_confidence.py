"""Features, their calibration, and the fit, each against what it must be."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from track_clips import peak_calibration, scene, small_network

from vil_tracker.config import TrackConfig
from vil_tracker.data.crops import CropGeometry
from vil_tracker.data.sequence import make_sequence
from vil_tracker.errors import UserError
from vil_tracker.evaluation.calibration import reliability
from vil_tracker.models.pretrained import add_metadata, load_model, save_model
from vil_tracker.models.verifier import FastVerifier, VerifierNet, crop_patch
from vil_tracker.tracking.confidence import add_distractor, appearance, extract_confidence_features, pool_tokens
from vil_tracker.tracking.confidence_model import CONFIDENCE_FEATURES, ConfidenceModel, smooth_logit
from vil_tracker.tracking.search import SearchOutput
from vil_tracker.tracking.tracker import Tracker
from vil_tracker.training.calibrate import (
    Judgements,
    calibrate,
    fit,
    fit_beside_videos,
    fit_scaling,
    fit_with_held_out_scaling,
)


def view(logits: np.ndarray, *, shade: int = 90, box=(0.4, 0.4, 0.6, 0.6)) -> SearchOutput:
    """A crop of 100 × 100 pixels at the frame's origin, flat but for the box."""
    geometry = CropGeometry(50, 50, 100, 100)
    pixels = np.full((100, 100, 3), 128, np.uint8)
    pixels[40:60, 40:60] = np.random.default_rng(0).integers(shade, shade + 60, (20, 20, 3))
    in_crop = np.array(box, np.float64)
    best = 1 / (1 + math.exp(-logits.max()))
    features = torch.arange(logits.size, dtype=torch.float32)[:, None].repeat(1, 2) + torch.tensor([1.0, 2.0])
    offsets, sizes = np.full((2, *logits.shape), 0.5), np.full((2, *logits.shape), 0.2)
    return SearchOutput(
        geometry, pixels, geometry.to_image(in_crop), in_crop, best, logits, offsets, sizes, features, None
    )


def gather(seen: SearchOutput, first: SearchOutput, **changes: object) -> dict[str, float]:
    settings = {"squared_distance": 0.0, "last_size": 20.0, "frame_size": (200, 200), **changes}
    values = extract_confidence_features(seen, appearance(seen, None), appearance(first, None), None, **settings)  # type: ignore[arg-type]
    return dict(zip(CONFIDENCE_FEATURES, values, strict=True))


def peaked(*peaks: tuple[int, int, float], grid: int = 10) -> np.ndarray:
    logits = np.full((grid, grid), -8.0)
    for row, column, value in peaks:
        logits[row, column] = value
    return logits


def test_evidence_of_the_first_frame_itself() -> None:
    values = gather(view(peaked((4, 4, 2.0))), view(peaked((4, 4, 2.0))))
    assert values["peak"] == pytest.approx(2.0) and values["peak_change"] == pytest.approx(0)
    assert values["margin"] == pytest.approx(10.0, abs=0.01)
    for name in ("tokens", "colours", "pattern"):
        assert values[name] == pytest.approx(1.0)
    for name in ("jump", "resize", "growth", "aspect", "cut"):
        assert values[name] == pytest.approx(0.0, abs=1e-9)


def test_a_rival_elsewhere_narrows_the_margin_but_a_neighbour_does_not() -> None:
    first = view(peaked((4, 4, 2.0)))
    assert gather(view(peaked((4, 4, 2.0), (8, 8, 1.5))), first)["margin"] == pytest.approx(0.5)
    assert gather(view(peaked((4, 4, 2.0), (5, 4, 1.5))), first)["margin"] == pytest.approx(10.0, abs=0.01)


def test_a_flat_map_has_more_entropy_and_spread() -> None:
    first = view(peaked((4, 4, 2.0)))
    sharp, flat = gather(first, first), gather(view(np.zeros((10, 10))), first)
    assert flat["entropy"] == pytest.approx(1.0) and sharp["entropy"] < 0.5
    assert flat["spread"] > sharp["spread"] and flat["mass"] == pytest.approx(math.log(50))


def test_cells_that_propose_other_boxes_disagree() -> None:
    """The chosen cell's neighbour, with a third of its score's square, proposes a box of twice the width."""
    first = view(np.full((10, 10), -30.0))
    logits = np.full((10, 10), -30.0)
    logits[4, 4], logits[4, 5] = 0.0, math.log(0.5 / math.sqrt(3) / (1 - 0.5 / math.sqrt(3)))
    sizes, offsets = np.full((2, 10, 10), 0.2), np.full((2, 10, 10), 0.5)
    sizes[0, 4, 5] = 0.4
    offsets[0, 4, 5] = -0.5  # centred where the chosen one is
    box = (0.35, 0.35, 0.55, 0.55)
    seen = replace(view(logits, box=box), sizes=sizes, offsets=offsets)
    assert gather(seen, first)["agreement"] == pytest.approx(0.75 * 1 + 0.25 * 0.5)
    assert gather(replace(seen, sizes=np.full((2, 10, 10), 0.2)), first)["agreement"] == pytest.approx(1.0)


def test_geometry_evidence() -> None:
    first, logits = view(peaked((4, 4, 2.0))), peaked((4, 4, 2.0))
    wide = view(logits, box=(-0.1, 0.4, 0.3, 0.6))  # twice as wide, centre 0.4 to the left, a quarter outside
    values = gather(wide, first, squared_distance=9.0)
    assert values["growth"] == pytest.approx(math.log(math.sqrt(2))) == values["resize"]
    assert values["aspect"] == pytest.approx(math.log(2)) and values["cut"] == pytest.approx(0.25)
    assert values["jump"] == pytest.approx(math.log(4))


def test_another_look_is_less_alike() -> None:
    first = view(peaked((4, 4, 2.0)))
    other = gather(view(peaked((4, 4, 2.0)), shade=10), first)
    assert other["colours"] < 0.5


def test_pooled_tokens_are_the_weighted_mean_of_the_covered_cells() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0], [5.0, 5.0]])
    pooled = pool_tokens(features, np.array([0.25, 0.0, 0.75, 0.5]), (2, 2))
    assert np.allclose(pooled, [math.sqrt(0.5)] * 2)
    assert np.array_equal(pool_tokens(features, np.array([2.0, 2.0, 3.0, 3.0]), (2, 2)), [0, 0])


def test_the_verifier_answers_on_what_the_boxes_hold() -> None:
    """Two answers more, those of the network itself on the two looks; 0 where there is no network."""
    torch.manual_seed(0)
    network = VerifierNet().eval()
    verifier = FastVerifier(network)
    first, seen = view(peaked((4, 4, 2.0))), view(peaked((4, 4, 2.0)), shade=10, box=(0.38, 0.4, 0.6, 0.6))
    known = appearance(first, verifier)
    found = appearance(seen, verifier, known)
    settings = {"squared_distance": 0.0, "last_size": 20.0, "frame_size": (200, 200)}
    values = dict(
        zip(CONFIDENCE_FEATURES, extract_confidence_features(seen, found, known, -1.0, **settings), strict=True)
    )  # type: ignore[arg-type]
    looks = [crop_patch(v.pixels, v.box_in_crop * 100) for v in (first, seen)]
    with torch.no_grad():
        embedded = network.embed(torch.from_numpy(np.stack(looks)))
        same, fit_logit = network.compare(embedded[:1], embedded[1:])[0].tolist()
    assert (values["same"], values["fit"]) == pytest.approx((same, fit_logit), abs=1e-4) and same != 0
    assert values["same_change"] == pytest.approx(same + 1.0, abs=1e-4)  # it was -1 lately
    assert gather(seen, first)["same"] == gather(seen, first)["fit"] == 0


def test_what_stands_beside_the_target_is_remembered_and_known_again() -> None:
    """A second peak shows something: its look is kept once, and "other" is high for what looks so later."""
    torch.manual_seed(0)
    network = VerifierNet().eval()
    verifier = FastVerifier(network)
    base = view(peaked((4, 4, 2.0), (7, 8, 1.0)))
    sizes = base.sizes.copy()
    sizes[:, 7, 8] = 0.3, 0.1
    seen = replace(base, sizes=sizes)
    seen.pixels[70:80, 70:100] = np.random.default_rng(1).integers(0, 255, (10, 30, 3))
    beside = np.array([85 - 15, 75 - 5, 85 + 15, 75 + 5]) / 100.0
    (kept,) = distractors = add_distractor((), verifier, seen)
    np.testing.assert_allclose(kept, verifier.embed(crop_patch(seen.pixels, beside * 100)), atol=1e-5)
    assert len(add_distractor(distractors, verifier, seen)) == 1  # the same thing again
    assert (
        add_distractor(distractors, verifier, view(peaked((4, 4, 2.0), (5, 4, 1.0)))) == distractors
    )  # on the target itself
    assert (
        add_distractor(distractors, verifier, view(peaked((4, 4, 2.0), (7, 8, -3.2)))) == distractors
    )  # nothing there

    there = replace(seen, box_in_crop=beside)
    known = appearance(seen, verifier)
    found = [appearance(there, verifier, known, some).other for some in ((), distractors)]
    with torch.no_grad():
        again = torch.from_numpy(kept)[None].float()
        expected = network.compare(again, again)[0, 0].item()
    assert found == [-6.0, pytest.approx(max(expected, -6.0), abs=1e-4)]


def test_few_things_beside_the_target_are_remembered_the_latest_ones() -> None:
    torch.manual_seed(0)
    verifier = FastVerifier(VerifierNet().eval())
    distractors = tuple(np.eye(160)[index] * 50 for index in range(6))
    after = add_distractor(distractors, verifier, view(peaked((4, 4, 2.0), (8, 8, 1.0))))
    assert len(after) == 6 and all(a is b for a, b in zip(after, distractors[1:], strict=False))


@pytest.mark.parametrize("bias", [9.0, -9.0])
def test_what_is_usual_is_learnt_from_sure_frames_alone(bias: float) -> None:
    """An exponential mean of the similarity to the first frame, and nothing at all where no frame was sure."""
    torch.manual_seed(0)
    network = small_network(calibrated=False)
    calibration = replace(peak_calibration(bias=bias, slope=0.0), verifier=VerifierNet().eval())
    network.calibration = calibration.to_json()
    frames, boxes = scene(0, 6)
    tracker = Tracker(network, TrackConfig(compare_interval=1))
    tracker.init(frames[0], boxes[0])
    assert tracker.state is not None
    expected = None
    for frame in frames[1:]:
        tracker.update(frame)
        features = dict(zip(CONFIDENCE_FEATURES, tracker.state.confidence.judged[-1][1], strict=True))
        assert features["same_change"] == pytest.approx(0.0 if expected is None else features["same"] - expected)
        if bias > 0:
            same = features["same"]
            expected = same if expected is None else expected + 0.1 * (same - expected)
        assert tracker.state.confidence.similarity_ema == (None if expected is None else pytest.approx(expected))
    assert (expected is None) == (bias < 0)


def test_a_sure_target_is_compared_with_the_first_frame_now_and_then(monkeypatch) -> None:
    """Every third frame while the score is high, every frame while it is not or right after a jump of the box."""
    network = small_network(seed=2)
    network.calibration = peak_calibration(bias=9.0).to_json()
    frames, boxes = scene(0, 14)
    tracker = Tracker(network, TrackConfig(compare_interval=3))
    tracker.init(frames[0], boxes[0])
    assert tracker.state is not None
    compared: list[int] = []

    def counted(view, *rest):
        compared.append(index)
        return appearance(view, *rest)

    monkeypatch.setattr("vil_tracker.tracking.confidence.appearance", counted)
    monkeypatch.setattr(type(tracker.state.motion), "squared_distance", lambda *_: 100.0 if index == 9 else 0.0)
    for index in range(1, 14):  # noqa: B007
        if index == 12:
            tracker.state.score = 0.7
        tracker.update(frames[index])
        assert tracker.state.phase.name == "tracking"
        _, features = tracker.state.confidence.judged[-1]
        assert features[CONFIDENCE_FEATURES.index("peak_change")] != 0  # the score map is read in every frame
    assert compared == [1, 4, 7, 9, 12]


def test_the_verifier_is_stored_with_the_calibration() -> None:
    torch.manual_seed(0)
    network = VerifierNet().eval()
    stored = replace(peak_calibration(), verifier=network).to_json()
    again = ConfidenceModel.from_json(stored).verifier
    assert again is not None and again.to_text() == network.to_text()
    assert ConfidenceModel.from_json(peak_calibration().to_json()).verifier is None
    for damaged in ("AAAA", 3, {}):
        with pytest.raises(UserError, match=r"verifier|damaged"):
            ConfidenceModel.from_json(json.dumps({**json.loads(stored), "likeness": damaged}))


def test_json_round_trip_and_damage() -> None:
    rng, count = np.random.default_rng(0), len(CONFIDENCE_FEATURES)
    numbers = (rng.normal(size=count), rng.uniform(1, 2, count), rng.normal(size=(3, count + 1)))
    calibration = ConfidenceModel(*numbers, rng.normal(size=count + 4), 1.3)
    again = ConfidenceModel.from_json(calibration.to_json())
    sample = rng.normal(size=(20, count))
    assert np.array_equal(again.probability(sample), calibration.probability(sample))
    assert again.probability(sample).shape == (20,)
    content = json.loads(calibration.to_json())
    former = {key: value for key, value in content.items() if key != "likeness"} | {
        "evidence": list(CONFIDENCE_FEATURES[:15])
    }
    with pytest.raises(UserError, match="of another version"):  # as weights of the version before hold it
        ConfidenceModel.from_json(json.dumps(former))
    for change in (
        {"evidence": ["other"]},
        {"mean": [0.0]},
        {"scale": [0.0] * count},
        {"temperature": float("nan")},
        {"hidden": "x"},
    ):
        with pytest.raises(UserError, match=r"calibrate\.py"):
            ConfidenceModel.from_json(json.dumps({**content, **change}))
    for text in ("", "[]", "{}"):
        with pytest.raises(UserError, match="damaged"):
            ConfidenceModel.from_json(text)


def judgements(count: int, seed: int = 0) -> tuple[Judgements, np.ndarray]:
    """Made up: the true log odds are 2·a - b + a·b/2 of the first two numbers."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, len(CONFIDENCE_FEATURES)))
    truth = 1 / (1 + np.exp(-(2 * features[:, 0] - features[:, 1] + 0.5 * features[:, 0] * features[:, 1])))
    correct = rng.random(count) < truth
    return Judgements(features, correct, np.ones(count, bool), np.arange(count) % 12, np.ones(count, bool)), truth


def test_the_fit_finds_the_probability_and_is_calibrated_on_new_data() -> None:
    data, _ = judgements(6000)
    calibration, held_out = fit_with_held_out_scaling(data, data.clip % 4)
    fresh, truth = judgements(3000, seed=1)
    probability = calibration.probability(fresh.features)
    assert np.abs(probability - truth).mean() < 0.07
    assert reliability(probability, fresh.correct)[0] < 0.05
    assert reliability(held_out, data.correct)[0] < 0.06
    assert fit(data).to_json() == fit(data).to_json()


def test_temperature_and_bias_undo_over_confidence_and_modesty() -> None:
    data, truth = judgements(24000)
    logits = np.log(truth / (1 - truth))
    assert fit_scaling(2.0 * logits, data.correct) == pytest.approx((2.0, 0.0), rel=0.1, abs=0.1)
    assert fit_scaling(0.5 * logits - 1.0, data.correct) == pytest.approx((0.5, 1.0), rel=0.1)
    temperature, bias = fit_scaling(0.0 * logits + 1e3, data.correct)
    assert temperature <= 4.0 and abs(bias) <= 3.0


def test_the_bias_suits_what_is_typical() -> None:
    """Half of the boxes come from clips made hard, in which equal features are right less often."""
    data, truth = judgements(24000)  # so many that chance stays below the tolerances
    rng = np.random.default_rng(5)
    hard = data.clip >= 6
    odds = truth / (1 - truth) * np.where(hard, np.exp(-1.5), 1.0)
    data = replace(data, correct=rng.random(24000) < odds / (1 + odds), typical=~hard)
    calibration, held_out = fit_with_held_out_scaling(data, data.clip % 4)
    fresh, _ = judgements(24000, seed=1)
    assert calibration.probability(fresh.features).mean() == pytest.approx(fresh.correct.mean(), abs=0.02)
    assert held_out[~hard].mean() == pytest.approx(data.correct[~hard].mean(), abs=0.01)
    modest = fit(data).probability(fresh.features).mean()
    assert modest < fresh.correct.mean() - 0.05


def test_a_fit_beside_videos_brings_the_score_to_the_share_that_is_right() -> None:
    """A calibration that is too sure: the third of the boxes with the highest scores is right."""
    network, sure = small_network(calibrated=False), peak_calibration(bias=1.0)
    network.calibration, clips, settings = sure.to_json(), [], TrackConfig(score_gain=1.0)
    for seed in range(3):
        frames, boxes = scene(seed, 13)
        tracker = Tracker(network, settings)
        tracker.init(frames[0], boxes[0])
        found = [tracker.update(frame) for frame in frames[1:]]
        least = np.quantile([result.score for result in found], 2 / 3)
        truth = [result.box if result.score >= least else result.box + 500.0 for result in found]
        clips.append(make_sequence(str(seed), "made", frames, np.stack([boxes[0], *truth])))
    disturbed = replace(judgements(40)[0], typical=np.zeros(40, bool))  # how often these are right says nothing
    calibration, data, left_out = fit_beside_videos(network, sure, disturbed, clips, settings)
    answers = data.reported
    assert answers.sum() == 36 and data.correct[answers].mean() == pytest.approx(1 / 3, abs=0.06)
    assert sure.probability(data.features[answers]).mean() > 0.7 > 0.6 > left_out[answers].mean()
    assert calibration.probability(data.features).mean() == pytest.approx(data.correct.mean(), abs=0.05)
    assert network.calibration == calibration.to_json()


def test_a_fit_needs_right_and_wrong_boxes() -> None:
    data, _ = judgements(40)
    with pytest.raises(UserError, match="both right and wrong"):
        fit(replace(data, correct=np.ones(40, bool)))


def test_the_score_is_the_calibrated_probability_or_else_the_peak() -> None:
    frames, boxes = scene(0, 3)
    network = small_network(calibrated=False)
    plain = Tracker(network)
    network.calibration = peak_calibration(bias=1.0).to_json()
    calibrated, off = Tracker(network, TrackConfig(score_gain=1.0)), Tracker(network, TrackConfig(calibrated=False))
    peaks = []
    for tracker in (plain, calibrated, off):
        tracker.init(frames[0], boxes[0])
        peaks.append(tracker.update(frames[1]).score)
    assert peaks[0] == peaks[2] and 0 < peaks[0] < 1
    expected = 1 / (1 + math.exp(-(math.log(peaks[0] / (1 - peaks[0])) + 1.0)))
    assert peaks[1] == pytest.approx(expected, abs=1e-4)


def test_the_score_is_steadied_over_frames() -> None:
    """Log odds of +6, of which 0.3 stay, and of -2, of which 0.7 count: 0.4. Certainties count as odds of six."""
    six, two = 1 / (1 + math.exp(-6)), 1 / (1 + math.exp(2))
    assert smooth_logit(six, two, 0.7) == pytest.approx(1 / (1 + math.exp(-0.4)))
    assert smooth_logit(1.0, two, 0.7) == pytest.approx(1 / (1 + math.exp(-0.4)))
    assert smooth_logit(0.0, two, 1.0) == pytest.approx(two)

    frames, boxes = scene(0, 3)
    network = small_network(calibrated=False)
    network.calibration = peak_calibration(bias=1.0).to_json()
    alone, steady = Tracker(network, TrackConfig(score_gain=1.0)), Tracker(network, TrackConfig(score_gain=0.6))
    for tracker in (alone, steady):
        tracker.init(frames[0], boxes[0])
    # The ground truth before is sure.
    assert steady.update(frames[1]).score == pytest.approx(
        smooth_logit(1.0, alone.update(frames[1]).score, 0.6), abs=1e-9
    )


def test_calibrate_and_store_beside_the_weights(tmp_path: Path) -> None:
    """From clips to a weights file whose tensors are untouched, and a tracker that reads it."""
    network = small_network(calibrated=False)
    clips = []
    for seed in range(8):
        frames, boxes = scene(seed, 8)
        if seed % 2:
            boxes[1:] = 0, 0, 120, 90  # what a random network finds is mostly large: now and then it shall be right
        clips.append(make_sequence(f"s{seed}", "own", frames, boxes))
    save_model(network, tmp_path / "plain.safetensors", {"note": "kept"})
    verifier = VerifierNet().eval()
    calibration, data, probability = calibrate(network, clips, 8, verifier=verifier)
    assert calibration.verifier is verifier and data.features[:, CONFIDENCE_FEATURES.index("same")].std() > 0
    assert data.correct.any() and not data.correct.all() and set(data.clip) == set(range(8))
    assert all(data.reported[data.clip == number].sum() == 7 for number in range(8))  # one box a frame is the answer
    assert data.features.shape == (len(probability), len(CONFIDENCE_FEATURES)) and np.isfinite(probability).all()
    add_metadata(tmp_path / "plain.safetensors", tmp_path / "new.safetensors", {"calibration": calibration.to_json()})
    loaded = load_model(tmp_path / "new.safetensors", device="cpu")
    assert loaded.calibration == calibration.to_json()
    assert load_model(tmp_path / "plain.safetensors", device="cpu").calibration is None
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), network.parameters(), strict=True))
    tracker = Tracker(loaded)
    tracker.init(clips[0].frames[0], clips[0].boxes[0])
    assert 0 <= tracker.update(clips[0].frames[1]).score <= 1
    with pytest.raises(UserError, match="too few"):
        calibrate(network, clips, 3)
