"""The tracking session: `init` on one frame and box, then `update` frame by frame.

A frame's way: crop around the last box (or, when unsure, around the motion forecast) → network, reading the template's
cached memory and the temporal context → best cell of score × window → box in the frame → how sure → state for the next
frame. A target that is lost, or long in doubt, is looked for all over the frame, a few crops per frame.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
import torch

from vil_tracker.boxes import BoxLike, check_box, clip_box, iou
from vil_tracker.config import TrackConfig
from vil_tracker.data.crops import CropGeometry, crop, geometry_for_box, to_input
from vil_tracker.errors import UserError
from vil_tracker.models.film_temporal import unregistered_context, updated_context
from vil_tracker.models.inference import SearchModel, prepare_for_inference
from vil_tracker.models.likeness import FastLikeness
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.tracking.confidence import (
    Appearance,
    Calibration,
    appearance,
    gather_evidence,
    renewed,
    with_other,
)
from vil_tracker.tracking.group import check_frame, update_together
from vil_tracker.tracking.looking import Request, Timer, View, look
from vil_tracker.tracking.memory import TemplateMemory
from vil_tracker.tracking.motion import (
    BoxFilter,
    MotionModel,
    box_centre,
    box_scale,
    centred_box,
    gate_distance,
    lagging,
)
from vil_tracker.tracking.odds import steadied
from vil_tracker.tracking.redetect import SAME_PLACE, Suspect, Sweep, apart, preference, promise
from vil_tracker.tracking.state import Result, TrackState

Steps = Generator[list[Request], list[View], Result]

_MAX_RESIZE = 2.0  # while unsure, the search crop stays within this factor of the size last known for sure
_OTHERS_INTERVAL = 8  # frames between two looks at what stands beside the target
_USUAL_GAIN = 0.1  # share of a new look in what the likeness to the first frame usually is
_TYPICAL_DISTANCE = 1.386  # median of the chi-square distribution, 2 dof: for boxes that no forecast applies to


class Tracker:
    """Follows one target through one video; a new :meth:`init` starts from nothing.

    The network holds weights and nothing else, so that any number of trackers may share one. Several targets in one
    video cost less with :func:`vil_tracker.tracking.group.update_together`.

    Args:
        model: a network from :func:`vil_tracker.load_model`, or what else finds a target in a crop: a network prepared
            with another precision, or an exported one.
        config: thresholds and switches; one set for every video.
        timer: is told the seconds of the parts ``crop`` and ``network``.

    Raises:
        UserError: the calibration stored with the weights cannot be read.

    Example:
        >>> tracker = Tracker(load_model("nano"))
        >>> tracker.init(first_frame, (120, 80, 64, 48))
        >>> result = tracker.update(next_frame)
        >>> result.box, result.score, result.state
    """

    def __init__(
        self, model: ViLTrackerNet | SearchModel, config: TrackConfig | None = None, timer: Timer | None = None
    ) -> None:
        if model.config.scan != "prefix":
            raise UserError(
                f"a network with scan: {model.config.scan} has no template memory: train one with scan: prefix to track"
            )
        self.model: SearchModel = prepare_for_inference(model) if isinstance(model, ViLTrackerNet) else model
        self.config = config or TrackConfig()
        self.timer = timer
        grid = model.config.search_size // model.config.patch_size
        self.window = hann_window(grid, self.config.window).to(self.model.device, self.model.io_dtype)
        self.calibration: Calibration | None = None
        self.likeness: FastLikeness | None = None
        if self.config.calibrated and model.calibration is not None:
            self.calibration = Calibration.from_json(model.calibration)
            if self.calibration.likeness is not None:
                self.likeness = FastLikeness(self.calibration.likeness)
        self.state: TrackState | None = None

    @torch.inference_mode()
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
        template, template_box = self._template(frame, box_xywh)
        first = self.model.encode_templates(template[None, None], template_box[None, None])
        memory = TemplateMemory(first, first)
        state = TrackState(
            box_xywh,
            memory,
            size=box_scale(box_xywh),
            sure_size=box_scale(box_xywh),
            motion=MotionModel(box_xywh),
            filter=BoxFilter(box_xywh),
        )
        if self.calibration is not None:
            request = Request(self._search_crop(state, box_xywh), first)
            view = look(self.model, frame, [request], self.window)[0]
            state.appearance = appearance(view, self.likeness, box=box_xywh)
            memory.looks.append(state.appearance.tokens)
        self.state = state
        return Result(box_xywh.copy(), 1.0, "tracking")

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
        """One frame, as a generator that yields the crops to look at and is sent what the network saw in them; it
        returns the result. Whoever drives it may put the crops of many trackers through the network together."""
        state = self.state
        if state is None:
            raise UserError("the tracker has no target yet: call init(frame, box) first")
        state.judged = []
        if state.appearance is None:
            return (yield from self._follow_plainly(state, frame))
        if state.phase.name == "lost":
            return (yield from self._find_again(state, frame))
        return (yield from self._follow(state, frame))

    def _follow_plainly(self, state: TrackState, frame: np.ndarray) -> Steps:
        """Without a calibrated score: always take the best box."""
        (view,) = yield [self._request(state, box_centre(state.box))]
        if view.peak >= self.config.context_confidence:
            self._teach(state, view)
        return self._finish(state, frame, view, view.peak)

    def _follow(self, state: TrackState, frame: np.ndarray) -> Steps:
        """While tracking, uncertain or just recovered."""
        config = self.config
        centre, expected = box_centre(state.box), state.motion.predict(state.box)
        if config.motion and state.phase.name == "uncertain":
            centre = np.clip(expected, 0.0, frame.shape[1::-1])
        requests = [self._request(state, centre)]
        doubted = config.redetect and state.doubts >= config.doubt_after
        if doubted:
            requests += self._elsewhere(state, frame)
        else:
            state.sweep, state.suspect = None, None
        view, *others = yield requests
        distance = state.motion.squared_distance(view.box, view.peak)
        jumped = distance > gate_distance(config.gate)
        seen, anew = self._seen(state, view, jumped)
        score = steadied(
            state.score, self._score(state, frame, view, seen, distance, box_scale(state.box)), config.score_gain
        )
        if doubted:
            rival = yield from self._search(state, frame, others, followed=view.box, least=promise(seen))
            if rival is not None:
                suspect, there = rival
                preferred = preference(suspect.score, score)
                if preferred >= config.recover_above:
                    return self._found(state, frame, there, preferred)

        beyond = jumped and score < config.tracking_above
        phase = state.phase.advance(score, config, doubtful=beyond)
        if not beyond:
            state.motion.correct(view.box, score)
        if phase in ("tracking", "recovered"):
            state.sure_size = box_scale(view.box)
            if score >= config.context_confidence:
                self._teach(state, view)
            if anew:
                if score >= config.look_score and phase == "tracking":
                    self._get_used_to(state, seen)
                    self._look_around(state, view)
                self._remember(state, frame, view, seen, score)
        return self._finish(state, frame, view, score)

    def _seen(self, state: TrackState, view: View, jumped: bool) -> tuple[Appearance, bool]:
        """How what a view's box holds looks, and whether that was judged anew. While all is well it seldom changes from
        one frame to the next, and to tell it costs more than the rest of a judgement."""
        config, last = self.config, state.look
        sure = state.score >= config.look_score and state.phase.name in ("tracking", "recovered") and not jumped
        if last is not None and sure and state.frame - state.last_look < config.look_interval:
            return renewed(last, view), False
        state.look, state.last_look = self._appearance(state, view), state.frame
        return state.look, True

    def _appearance(self, state: TrackState, view: View) -> Appearance:
        return appearance(view, self.likeness, state.appearance, state.others)

    def _find_again(self, state: TrackState, frame: np.ndarray) -> Steps:
        """While lost: the last place and some other ones, with the first template alone."""
        config = self.config
        requests = [replace(self._request(state, box_centre(state.box)), memory=state.memory.first)]
        if config.redetect:
            requests += self._elsewhere(state, frame)
        view, *others = yield requests
        score = self._judge(state, frame, view)
        if config.redetect:
            found = yield from self._search(state, frame, others)
            if found is not None:
                suspect, there = found
                if suspect.probability > max(score, config.recover_above):
                    view, score = there, suspect.probability
        if score >= config.recover_above:
            return self._found(state, frame, view, score)
        state.phase.advance(score, config)
        return self._finish(state, frame, view, score)

    def _elsewhere(self, state: TrackState, frame: np.ndarray) -> list[Request]:
        """The crops in which the target is looked for elsewhere in this frame, with the first template alone: around
        the likeliest place so far, if there is one, and the next ones of the sweep."""
        first, suspect = state.memory.first, state.suspect
        known = [] if suspect is None else [Request(self._near(state, suspect.box), first)]
        return known + [Request(place, first, windowed=False) for place in self._places(state, frame)]

    def _search(
        self,
        state: TrackState,
        frame: np.ndarray,
        others: Sequence[View],
        followed: np.ndarray | None = None,
        least: float = -np.inf,
    ) -> Generator[list[Request], list[View], tuple[Suspect, View] | None]:
        """Judge what was seen elsewhere, and keep the likeliest place as the suspect.

        Args:
            state: of the session.
            frame: the frame.
            others: what was seen in the crops of :meth:`_elsewhere`, in turn.
            followed: (4,) box of a track in doubt: what is seen there is not elsewhere.
            least: what a place must promise to be looked at from near.

        Returns:
            The suspect and its view in this frame; None if there is none.
        """
        suspect, view = state.suspect, None
        if suspect is not None:
            view, *others = others
            suspect = suspect.seen_again(view.box, self._judge(state, frame, view), self.config.score_gain)
            if suspect is not None and followed is not None and iou(suspect.box, followed) >= SAME_PLACE:
                suspect = None
        known = [box for box in (followed, None if suspect is None else suspect.box) if box is not None]
        others = [other for other in others if all(iou(other.box, box) < SAME_PLACE for box in known)]
        # What looks best from afar must look right from near, too.
        promises = [(promise(self._appearance(state, other)), other) for other in others]
        promises.sort(key=lambda pair: pair[0], reverse=True)
        candidates = apart([other for promised, other in promises if promised >= least], self.config.redetect_near)
        if candidates:
            nears = yield [Request(self._near(state, candidate.box), state.memory.first) for candidate in candidates]
            for near in nears:
                found = Suspect.best_of(near.box, self._judge(state, frame, near), len(nears))
                if suspect is None or found.log_odds > suspect.log_odds:
                    suspect, view = found, near
        state.suspect = suspect
        return None if suspect is None or view is None else (suspect, view)

    def _found(self, state: TrackState, frame: np.ndarray, view: View, score: float) -> Result:
        """Go on from where the target was found by a search."""
        state.phase.advance(score, self.config, verified=True)
        state.sweep, state.suspect = None, None
        state.size = state.sure_size = box_scale(view.box)
        state.motion, state.look = MotionModel(view.box), None
        state.filter = None
        return self._finish(state, frame, view, score)

    def _finish(self, state: TrackState, frame: np.ndarray, view: View, score: float) -> Result:
        """Go on to the next frame with what was found in this one."""
        height, width = frame.shape[:2]
        state.box = clip_box(view.box, width, height)
        if state.phase.name != "lost":
            state.size = lagging(state.size, box_scale(state.box), self.config.size_gain)
        state.score, state.frame = score, state.frame + 1
        state.doubts = state.doubts + 1 if score < self.config.doubt_below else 0
        box = state.box
        if state.phase.name == "lost" or not self.config.smooth:
            state.filter = None
        elif state.filter is None:
            state.filter = BoxFilter(view.box)
        else:
            box = clip_box(state.filter.update(view.box), width, height)
        return Result(box.copy(), score, state.phase.name)

    def _places(self, state: TrackState, frame: np.ndarray) -> list[CropGeometry]:
        """The next crops of the sweep over the frame."""
        state.sweep = state.sweep or Sweep()
        height, width = frame.shape[:2]
        settings = self.model.config
        side = settings.search_factor * state.sure_size
        places = state.sweep.crops(
            width, height, box_centre(state.box), side, settings.search_size, self.config.redetect_crops
        )
        return [place.snapped() for place in places]

    def _judge(self, state: TrackState, frame: np.ndarray, view: View) -> float:
        """The score of a view to which no motion forecast applies."""
        return self._score(state, frame, view, self._appearance(state, view), _TYPICAL_DISTANCE, state.sure_size)

    def _request(self, state: TrackState, centre: np.ndarray) -> Request:
        """The ordinary search crop, around ``centre`` (2,)."""
        box = centred_box(centre, np.array([state.size, state.size]))
        geometry, context = self._search_crop(state, box), state.context
        if not self.config.registration:
            context = unregistered_context(context, self._placed(geometry))
        return Request(geometry, state.memory.current, context)

    def _search_crop(self, state: TrackState, box: np.ndarray) -> CropGeometry:
        """The crop to see a box in."""
        if state.phase.name in ("uncertain", "lost"):
            return self._near(state, box)
        settings = self.model.config
        return geometry_for_box(box, settings.search_factor, settings.search_size).snapped()

    def _near(self, state: TrackState, box: np.ndarray) -> CropGeometry:
        """The same where the box is in doubt: about as large as the target was when it was last seen for sure."""
        settings, scale = self.model.config, box_scale(box)
        wanted = min(max(scale, state.sure_size / _MAX_RESIZE), state.sure_size * _MAX_RESIZE)
        box = centred_box(box_centre(box), box[2:] * (wanted / scale))
        return geometry_for_box(box, settings.search_factor, settings.search_size).snapped()

    def _score(
        self,
        state: TrackState,
        frame: np.ndarray,
        view: View,
        seen: Appearance,
        squared_distance: float,
        last_size: float,
    ) -> float:
        """Probability that the view's box is on the target."""
        assert self.calibration is not None and state.appearance is not None
        evidence = gather_evidence(
            view,
            seen,
            state.appearance,
            state.usual,
            squared_distance=squared_distance,
            last_size=last_size,
            frame_size=(frame.shape[1], frame.shape[0]),
        )
        state.judged.append((view.box, evidence))
        return float(self.calibration.probability(evidence))

    def _get_used_to(self, state: TrackState, seen: Appearance) -> None:
        """Take the likeness to the first frame into what it usually is."""
        same, _ = seen.alike
        state.usual = same if state.usual is None else state.usual + _USUAL_GAIN * (same - state.usual)

    def _look_around(self, state: TrackState, view: View) -> None:
        """Now and then, remember what else there is beside a target that is surely there."""
        if self.likeness is not None and state.frame - state.last_other >= _OTHERS_INTERVAL:
            state.others, state.last_other = with_other(state.others, self.likeness, view), state.frame

    def _teach(self, state: TrackState, view: View) -> None:
        """Take the frame's features into the temporal context."""
        if not self.config.temporal or not self.model.uses_context:
            return
        crops_13 = self._placed(view.geometry) if view.context is None else view.context.crops
        grid = (view.logits.shape[0], view.logits.shape[1])
        state.context = updated_context(view.context, view.features[None], grid, crops_13)

    def _placed(self, geometry: CropGeometry) -> torch.Tensor:
        """A crop's place as the temporal context keeps it: (1, 3), centre and side in image pixels."""
        return torch.tensor([[geometry.cx, geometry.cy, geometry.side]], device=self.window.device)

    def _remember(self, state: TrackState, frame: np.ndarray, view: View, seen: Appearance, score: float) -> None:
        """Add a template where the target is surely there and looks unlike the templates so far."""
        config = self.config
        due = config.templates and state.frame - state.last_template >= config.template_interval
        if not due or score < config.template_score or state.memory.likeness(seen.tokens) >= config.template_likeness:
            return
        crop_3HW, box_4 = self._template(frame, clip_box(view.box, frame.shape[1], frame.shape[0]))
        state.memory.add(self.model, crop_3HW, box_4, seen.tokens, config.max_templates)
        state.last_template = state.frame

    def _template(self, frame: np.ndarray, box: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised crop (3, H, W) and the box in it (4,), x1 y1 x2 y2 in [0, 1] of the crop."""
        settings = self.model.config
        geometry = geometry_for_box(box, settings.template_factor, settings.template_size)
        pixels = to_input(crop(frame, geometry), self.window.device, self.window.dtype)
        return pixels, torch.as_tensor(geometry.to_crop(box)).to(self.window)


def hann_window(grid: int, strength: float) -> torch.Tensor:
    """(grid, grid): (1 - strength) + strength · outer Hann, whose maximum lies at the centre of the crop."""
    hann = torch.hann_window(grid + 2, periodic=False)[1:-1]
    return (1 - strength) + strength * torch.outer(hann, hann)
