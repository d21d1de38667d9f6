"""What one video needs: everything that changes from frame to frame lives here, nothing of it in the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vil_tracker.config import TrackConfig

if TYPE_CHECKING:
    import supervision

    from vil_tracker.models.film_temporal import TemporalContext
    from vil_tracker.tracking.confidence import Appearance, Others
    from vil_tracker.tracking.memory import TemplateMemory
    from vil_tracker.tracking.motion import BoxFilter, MotionModel
    from vil_tracker.tracking.redetect import Suspect, Sweep

STATES = ("tracking", "uncertain", "lost", "recovered")


@dataclass(frozen=True)
class Result:
    """What the tracker says about one frame.

    Attributes:
        box: (4,) float64 xywh in the frame's pixels, finite, inside the frame.
        score: how sure the tracker is that the box is on the target, in [0, 1]: the probability that it overlaps the
            target by more than half where the weights hold a calibration, else the peak of the score map.
        state: one of :data:`STATES`.
    """

    box: np.ndarray
    score: float
    state: str = "tracking"

    def to_detections(self, tracker_id: int = 1) -> supervision.Detections:
        """As ``supervision.Detections``; empty while the target is lost (extra ``supervision``)."""
        from vil_tracker.detections import to_detections

        return to_detections({tracker_id: self})


@dataclass
class Phase:
    """The state shown to the user, with hysteresis.

    A score below ``uncertain_below`` makes a track uncertain, one above ``tracking_above`` ends that. ``lost_after``
    frames in a row below ``lost_below``, or ``uncertain_frames`` uncertain ones, make it lost; only a verified match
    with the first template ends that, as "recovered" for ``recovered_frames`` frames. Such a match elsewhere also
    replaces a track in doubt.

    Attributes:
        name: one of :data:`STATES`.
        frames: frames spent in it.
        low: how many of the last frames in a row scored below ``lost_below``.
    """

    name: str = "tracking"
    frames: int = 0
    low: int = 0

    def advance(self, score: float, config: TrackConfig, *, doubtful: bool = False, verified: bool = False) -> str:
        """Take in one frame and return the new state.

        Args:
            score: calibrated, in [0, 1].
            config: the thresholds.
            doubtful: the frame cannot be trusted whatever its score; asked for except while lost.
            verified: whether a search found the target and the frame's box matches the first template.
        """
        self.low = self.low + 1 if score < config.lost_below else 0
        self.frames += 1
        if verified:
            self._enter("recovered")
        if self.name == "lost" or verified:
            return self.name
        if self.name == "uncertain":
            if score >= config.tracking_above and not doubtful:
                self._enter("tracking")
        elif doubtful or score < config.uncertain_below:
            self._enter("uncertain")
        elif self.name == "recovered" and self.frames >= config.recovered_frames:
            self._enter("tracking")
        if self.name == "uncertain" and (self.low >= config.lost_after or self.frames >= config.uncertain_frames):
            self._enter("lost")
        return self.name

    def _enter(self, name: str) -> None:
        self.name, self.frames = name, 0


@dataclass
class TrackState:
    """Everything that one video needs, made by ``Tracker.init``.

    Attributes:
        box: (4,) xywh in pixels, the last box as it was found.
        memory: the templates' memory.
        size: √(w·h) in pixels that search crops are made for: that of the boxes, which it follows with a lag.
        sure_size: √(w·h) in pixels of the last box that the tracker was sure of.
        context: temporal context of the frames before; None until a frame was confident enough to teach it.
        appearance: how the target looked in the first frame; None without a calibrated score, which alone needs it.
        look: how what was followed looked when it was last compared with the first frame; None if that is out of date.
        last_look: frame in which that was.
        others: what was seen beside the target while it was surely followed.
        last_other: frame in which that was last looked for.
        usual: fading mean of the likeness to the first frame, a logit, in frames in which the target was surely
            followed; None before any.
        motion: forecast of the centre.
        filter: steadies the reported boxes; None while the target is lost.
        phase: the state machine.
        sweep: which places of the frame were searched while the target is lost or in doubt; None while it is neither.
        suspect: the likeliest place found by that search so far.
        score: of the last frame.
        doubts: how many of the last frames in a row scored below ``doubt_below``.
        frame: frames since ``init``.
        last_template: frame of the last template added.
        judged: boxes (4,) that the last frame gave a score to, in turn, each with the evidence (F,) of
            :data:`vil_tracker.tracking.confidence.EVIDENCE`.
    """

    box: np.ndarray
    memory: TemplateMemory
    size: float
    sure_size: float
    motion: MotionModel
    filter: BoxFilter | None = None
    context: TemporalContext | None = None
    appearance: Appearance | None = None
    look: Appearance | None = None
    last_look: int = 0
    others: Others = ()
    last_other: int = 0
    usual: float | None = None
    phase: Phase = field(default_factory=Phase)
    sweep: Sweep | None = None
    suspect: Suspect | None = None
    score: float = 1.0
    doubts: int = 0
    frame: int = 0
    last_template: int = 0
    judged: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
