"""The tracking session: `init` on one frame and box, then `update` frame by frame.

A frame's way: crop around the last box (or, when unsure, around the motion forecast) → network, reading the template's
cached memory and the temporal context → best cell of score × window, or the other of two boxes where a distractor has
crossed → box in the frame → how sure → state for the next frame. A target that is lost or in doubt is searched for all
over the frame, a few crops per frame.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from vil_tracker.boxes import BoxLike, box_centre, box_scale, centred_box, check_box, clip_box, iou
from vil_tracker.config import TrackConfig
from vil_tracker.data.crops import CropGeometry, crop, ema_scale, geometry_for_box, to_input
from vil_tracker.errors import UserError
from vil_tracker.images import check_frame
from vil_tracker.models.film_temporal import unregistered_context, updated_context
from vil_tracker.models.head import hann_window
from vil_tracker.models.inference import SearchModel, exact_inference, prepare_for_inference
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.results import Result
from vil_tracker.runtime import StageTimer
from vil_tracker.tracking.confidence import TYPICAL_DISTANCE, ConfidenceEstimator, ConfidenceState
from vil_tracker.tracking.confidence_model import ConfidenceModel, smooth_logit
from vil_tracker.tracking.distractor import tell_apart
from vil_tracker.tracking.motion import BoxFilter, MotionModel, gate_distance
from vil_tracker.tracking.redetect import (
    SAME_PLACE,
    UNLIKE_AFTER,
    PlaceSearch,
    RedetectionCandidate,
    candidate_posterior,
    clearly_more_alike,
)
from vil_tracker.tracking.search import SearchOutput, SearchRequest, Steps, run_search, run_steps, search_crop
from vil_tracker.tracking.state import TemplateMemory, TrackState


class Tracker:
    """Follows one target through one video; a new :meth:`init` starts from nothing.

    The network holds weights and nothing else, so that any number of trackers may share one. Several targets in one
    video cost less with :func:`vil_tracker.tracking.tracker.update_together`.

    Args:
        model: a network from :func:`vil_tracker.load_model`, or what else finds a target in a crop: a network prepared
            with another precision, or an exported one.
        config: thresholds and switches; one set for every video.
        timer: receives the seconds of the parts ``crop`` and ``network``.

    Raises:
        UserError: the calibration stored with the weights cannot be read.

    Example:
        >>> tracker = Tracker(load_model("nano"))
        >>> tracker.init(first_frame, (120, 80, 64, 48))
        >>> result = tracker.update(next_frame)
        >>> result.box, result.score, result.state
    """

    def __init__(
        self, model: ViLTrackerNet | SearchModel, config: TrackConfig | None = None, timer: StageTimer | None = None
    ) -> None:
        if not hasattr(model, "config"):
            raise UserError(
                f"a tracker needs a network, not {model!r:.80}: Tracker(load_model(...)) with a name or a file"
            )
        if model.config.scan != "prefix":
            raise UserError(
                f"a network with scan: {model.config.scan} has no template memory: train one with scan: prefix to track"
            )
        self.model: SearchModel = prepare_for_inference(model) if isinstance(model, ViLTrackerNet) else model
        if not isinstance(config, TrackConfig | None):
            raise UserError(f"config must be a TrackConfig, not {config!r:.80}: TrackConfig(window=0.3)")
        self.config = config or TrackConfig()
        self.timer = timer
        grid = model.config.search_size // model.config.patch_size
        self.window = hann_window(grid, self.config.window).to(self.model.device, self.model.io_dtype)
        self.confidence: ConfidenceEstimator | None = None
        if self.config.calibrated and model.calibration is not None:
            self.confidence = ConfidenceEstimator(ConfidenceModel.from_json(model.calibration))
        self.state: TrackState | None = None

    def __getstate__(self) -> dict[str, object]:
        """All but the timer, which belongs to whoever takes the time."""
        return {**self.__dict__, "timer": None}

    def init(self, frame: np.ndarray, box: BoxLike) -> Result:
        """Start on a target.

        Args:
            frame: (H, W, 3) uint8 RGB.
            box: x, y, w, h in pixels of the frame.

        Returns:
            The box itself, with score 1.

        Raises:
            UserError: the frame is no RGB image, or the box has no area or lies outside the frame.
        """
        check_frame(frame)
        box_xywh = check_box(box, frame.shape[1], frame.shape[0])
        with exact_inference(self.model.device):
            first = self.model.encode_templates(*self._template(frame, box_xywh))
            return self._begin(frame, box_xywh, TemplateMemory(first, first))

    def correct(self, frame: np.ndarray, box: BoxLike) -> Result:
        """Go on from a box that a person has drawn, in a frame that may have been tracked already.

        The box becomes a further template beside the first frame's (with ``track.max_templates`` the oldest later one
        makes room), and confidence compares with it from now on. Motion, temporal context and state start afresh.

        Args:
            frame: (H, W, 3) uint8 RGB.
            box: x, y, w, h in pixels of the frame.

        Returns:
            The box itself, with score 1.

        Raises:
            UserError: as :meth:`init`, or :meth:`init` was not called.
        """
        check_frame(frame)
        box_xywh = check_box(box, frame.shape[1], frame.shape[0])
        memory = self._started().memory
        with exact_inference(self.model.device):
            memory.add(self.model, *self._template(frame, box_xywh), limit=self.config.max_templates)
            return self._begin(frame, box_xywh, memory)

    def _begin(self, frame: np.ndarray, box: np.ndarray, memory: TemplateMemory) -> Result:
        """Follow what a box holds, from nothing but the templates."""
        scale = box_scale(box)
        state = TrackState(box, memory, scale, scale, motion=MotionModel(box), filter=BoxFilter(box))
        if self.confidence is not None:
            request = SearchRequest(self._search_crop(state, box), memory.current)
            view = run_search(self.model, frame, [request], self.window)[0]
            state.confidence = self.confidence.begin(view, box)
        self.state = state
        return Result(box.copy(), 1.0, "tracking")

    def _confidence(self, state: TrackState) -> tuple[ConfidenceEstimator, ConfidenceState]:
        assert self.confidence is not None and state.confidence is not None  # without, a session only follows plainly
        return self.confidence, state.confidence

    def _started(self) -> TrackState:
        if self.state is None:
            raise UserError("the tracker has no target yet: call init(frame, box) first")
        return self.state

    def update(self, frame: np.ndarray) -> Result:
        """Find the target in the next frame.

        Args:
            frame: (H, W, 3) uint8 RGB; its size may differ from the frame's before.

        Returns:
            Box inside the frame, score and state.

        Raises:
            UserError: the frame is no RGB image, or :meth:`init` was not called.
        """
        return update_together([self], frame)[0]

    def steps(self, frame: np.ndarray) -> Steps:
        """One frame, as a generator that yields search requests and is sent their outputs; it returns
        the result. Whoever drives it may put the crops of many trackers through the network together.
        """
        state = self._started()
        if state.confidence is None:
            return (yield from self._follow_plainly(state, frame))
        state.confidence.judged = []
        if state.phase.name == "lost":
            return (yield from self._find_again(state, frame))
        return (yield from self._follow(state, frame))

    def _follow_plainly(self, state: TrackState, frame: np.ndarray) -> Steps:
        """Without a calibrated score: always take the best box."""
        (view,) = yield [self._request(state, box_centre(state.box))]
        if view.peak >= self.config.context_confidence:
            self._update_context(state, view)
        return self._finish(state, frame, view, view.peak)

    def _follow(self, state: TrackState, frame: np.ndarray) -> Steps:
        """While tracking, uncertain or just recovered."""
        config = self.config
        estimator, known = self._confidence(state)
        centre, expected = box_centre(state.box), state.motion.predict(state.box)
        if config.motion and state.phase.name == "uncertain":
            centre = np.clip(expected, 0.0, frame.shape[1::-1])
        (view,) = yield [self._request(state, centre)]
        if config.distractors:
            found = view
            state.distractor, view = tell_apart(state.distractor, view, state.frame)
            if view is not found:  # what was followed for some frames was the other thing
                known.compared, state.filter, state.motion = None, None, MotionModel(view.box)
                state.motion.predict(view.box)
        distance = state.motion.squared_distance(view.box, view.peak)
        jumped = distance > gate_distance(config.gate)
        sure = state.score >= config.sure_above and state.phase.name in ("tracking", "recovered") and not jumped
        seen, compared = estimator.compare(known, view, state.frame, config.compare_interval if sure else 1)
        raw = estimator.score(known, frame, view, seen, distance, box_scale(state.box))
        score = smooth_logit(state.score, raw, config.score_gain)
        fallen = known.similarity_ema is not None and known.similarity_ema - seen.alike[0] > config.redetect_fall
        state.frames_unlike = state.frames_unlike + 1 if fallen else 0
        doubtful, unlike = state.frames_in_doubt >= config.redetect_after, state.frames_unlike >= UNLIKE_AFTER
        if not config.redetect or not (doubtful or unlike):
            state.search, state.candidate = None, None
        else:
            rival = yield from self._search(state, frame, view, followed=True, least=seen.alike[0])
            if rival is not None:
                candidate, there = rival
                preferred = candidate_posterior(candidate.score, score) if doubtful else 0.0
                if unlike and preferred < config.recover_above <= min(candidate.score, candidate.probability):
                    alike = estimator.appearance(known, there).alike
                    if clearly_more_alike(alike, seen.alike):
                        preferred = candidate.score
                if preferred >= config.recover_above:
                    return self._found(state, frame, there, preferred)

        beyond = jumped and score < config.tracking_above
        phase = state.phase.advance(score, config, doubtful=beyond)
        if not beyond:
            state.motion.correct(view.box, score)
        if phase in ("tracking", "recovered"):
            state.sure_size = box_scale(view.box)
            if score >= config.context_confidence:
                self._update_context(state, view)
            if compared and score >= config.sure_above and phase == "tracking":
                estimator.update(known, view, seen, state.frame)
        return self._finish(state, frame, view, score)

    def _find_again(self, state: TrackState, frame: np.ndarray) -> Steps:
        """While lost: the last place and some other ones, with the first template alone."""
        config = self.config
        (view,) = yield [replace(self._request(state, box_centre(state.box)), memory=state.memory.first)]
        score = self._judge(state, frame, view)
        if config.redetect:
            found = yield from self._search(state, frame, view)
            if found is not None:
                candidate, there = found
                if candidate.probability > max(score, config.recover_above):
                    view, score = there, candidate.probability
        if score >= config.recover_above:
            return self._found(state, frame, view, score)
        state.phase.advance(score, config)
        return self._finish(state, frame, view, score)

    def _search(
        self, state: TrackState, frame: np.ndarray, here: SearchOutput, followed: bool = False, least: float = -np.inf
    ) -> Generator[list[SearchRequest], list[SearchOutput], tuple[RedetectionCandidate, SearchOutput] | None]:
        """Look for the target elsewhere in the frame, with the first template alone, and keep the likeliest place as
        the candidate. With one crop to spare, the candidate and new places take turns.

        ``here`` is what the ordinary crop of this frame shows; ``followed``: its box is followed, and in doubt. Places
        with a similarity from ``least`` on (:meth:`ConfidenceEstimator.similarity_map`) are searched. Returns the
        candidate and its output in this frame; None if it was not searched.
        """
        estimator, known = self._confidence(state)
        settings, spare = self.model.config, self.config.max_crops - 1
        candidate, view = state.candidate, None
        again = candidate if spare > 1 or state.frame % 2 == 0 else None
        boxes = [] if again is None else [again.box]
        seen = [np.array([here.geometry.cx, here.geometry.cy])]
        if candidate is not None:
            seen.append(box_centre(candidate.box))
        first = known.first.box[2:]
        box_size = first * (state.sure_size / math.sqrt(first[0] * first[1]))
        state.search = state.search or PlaceSearch()
        similarity_map, count = partial(estimator.similarity_map, known), spare - len(boxes)
        places = state.search.places(frame, box_centre(state.box), box_size, similarity_map, seen, count, least)
        boxes += [centred_box(place, box_size) for place in places]
        if not boxes:
            return None
        views = yield [SearchRequest(search_crop(box, settings, state.sure_size), state.memory.first) for box in boxes]
        apart_from = [here.box] if followed else []
        distractor = state.distractor if followed else None

        def is_other(box: np.ndarray) -> bool:
            """Whether it is on what is followed or judged already, or on what was seen beside the target."""
            known = any(iou(box, other) >= SAME_PLACE for other in apart_from)
            return known or (distractor is not None and distractor.is_at(box, state.frame))

        if again is not None:
            view, *views = views
            candidate = again.seen_again(view.box, self._judge(state, frame, view), self.config.score_gain)
            if candidate is not None and is_other(candidate.box):
                candidate = None
        if candidate is not None:
            apart_from.append(candidate.box)
        for near in views:
            if is_other(near.box):
                continue
            found = RedetectionCandidate.first_seen(near.box, self._judge(state, frame, near))
            if candidate is None or found.log_odds > candidate.log_odds:
                candidate, view = found, near
        state.candidate = candidate
        return None if candidate is None or view is None else (candidate, view)

    def _found(self, state: TrackState, frame: np.ndarray, view: SearchOutput, score: float) -> Result:
        """Go on from where the target was found by a search."""
        state.phase.advance(score, self.config, verified=True)
        state.search, state.candidate, state.distractor = None, None, None
        state.size = state.sure_size = box_scale(view.box)
        state.motion = MotionModel(view.box)
        self._confidence(state)[1].compared = None
        state.filter = None
        return self._finish(state, frame, view, score)

    def _finish(self, state: TrackState, frame: np.ndarray, view: SearchOutput, score: float) -> Result:
        """Go on to the next frame with what was found in this one."""
        height, width = frame.shape[:2]
        state.box = clip_box(view.box, width, height)
        if state.phase.name != "lost":
            state.size = ema_scale(state.size, box_scale(state.box), self.config.size_gain)
        state.score, state.frame = score, state.frame + 1
        state.frames_in_doubt = state.frames_in_doubt + 1 if score < self.config.redetect_below else 0
        box = state.box
        if state.phase.name == "lost" or not self.config.smooth:
            state.filter = None
        elif state.filter is None:
            state.filter = BoxFilter(view.box)
        else:
            box = clip_box(state.filter.update(view.box), width, height)
        return Result(box.copy(), score, state.phase.name)

    def _judge(self, state: TrackState, frame: np.ndarray, view: SearchOutput) -> float:
        """The score of a view to which no motion forecast applies."""
        estimator, known = self._confidence(state)
        seen = estimator.appearance(known, view)
        return estimator.score(known, frame, view, seen, TYPICAL_DISTANCE, state.sure_size)

    def _request(self, state: TrackState, centre: np.ndarray) -> SearchRequest:
        """The ordinary search crop, around ``centre`` (2,)."""
        box = centred_box(centre, np.array([state.size, state.size]))
        geometry, context = self._search_crop(state, box), state.context
        if not self.config.registration:
            context = unregistered_context(context, self._placed(geometry))
        return SearchRequest(geometry, state.memory.current, context)

    def _search_crop(self, state: TrackState, box: np.ndarray) -> CropGeometry:
        """The crop to see a box in; of bounded size where the box is in doubt."""
        doubtful = state.phase.name in ("uncertain", "lost")
        return search_crop(box, self.model.config, state.sure_size if doubtful else None)

    def _update_context(self, state: TrackState, view: SearchOutput) -> None:
        if not self.config.temporal or not self.model.uses_context:
            return
        crops_13 = self._placed(view.geometry) if view.context is None else view.context.crops
        grid = (view.logits.shape[0], view.logits.shape[1])
        state.context = updated_context(view.context, view.features[None], grid, crops_13)

    def _placed(self, geometry: CropGeometry) -> torch.Tensor:
        """A crop's place as the temporal context keeps it: (1, 3), centre and side in image pixels."""
        place = [[geometry.cx, geometry.cy, geometry.side]]
        return torch.tensor(place, dtype=torch.float32, device=self.window.device)

    def _template(self, frame: np.ndarray, box: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised crop (1, 1, 3, H, W) and the box in it (1, 1, 4), x1 y1 x2 y2 in [0, 1] of the crop."""
        settings = self.model.config
        geometry = geometry_for_box(box, settings.template_factor, settings.template_size)
        pixels = to_input(crop(frame, geometry), self.window.device, self.window.dtype)
        return pixels[None, None], torch.as_tensor(geometry.to_crop(box)).to(self.window)[None, None]


def update_together(trackers: Sequence[Tracker], frame: np.ndarray) -> list[Result]:
    """Update trackers of one video, at least one, which share a network and its window, with the next frame.

    Every tracker does exactly what its own ``update`` does; only their crops go through the network together.

    Raises:
        UserError: the frame is no RGB image, or a tracker has no target.
        ValueError: the trackers have different networks or settings.
    """
    check_frame(frame)
    lead = trackers[0]
    for index, tracker in enumerate(trackers):
        if tracker.model is not lead.model or tracker.config != lead.config:
            what = "network" if tracker.model is not lead.model else "configuration"
            raise ValueError(f"trackers 0 and {index} of {len(trackers)} do not share one {what}: update them apart")
    for tracker in trackers:
        tracker._started()
    with exact_inference(lead.model.device):
        return run_steps(lead.model, frame, [tracker.steps(frame) for tracker in trackers], lead.window, lead.timer)
