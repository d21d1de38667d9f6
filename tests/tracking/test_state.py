"""The state machine: hysteresis, and what may end "lost"."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vil_tracker.config import TrackConfig
from vil_tracker.errors import UserError
from vil_tracker.results import STATES
from vil_tracker.tracking.state import Phase

CONFIG = TrackConfig(
    uncertain_below=0.4,
    tracking_above=0.6,
    lost_below=0.2,
    lost_after=3,
    uncertain_frames=5,
    recover_above=0.7,
    recovered_frames=2,
)


def walk(scores: list[float], **flags: bool) -> list[str]:
    phase = Phase()
    return [phase.advance(score, CONFIG, **flags) for score in scores]


def test_a_confident_track_stays() -> None:
    assert walk([0.9, 0.5, 0.41, 0.9]) == ["tracking"] * 4


def test_between_the_thresholds_the_state_stays_what_it_was() -> None:
    assert walk([0.5, 0.39, 0.5, 0.59, 0.6, 0.5]) == [
        "tracking",
        "uncertain",
        "uncertain",
        "uncertain",
        "tracking",
        "tracking",
    ]


def test_low_scores_in_a_row_lose_the_target() -> None:
    assert walk([0.1, 0.1, 0.3, 0.1, 0.1]) == ["uncertain"] * 5
    assert walk([0.1, 0.1, 0.1]) == ["uncertain", "uncertain", "lost"]


def test_long_uncertainty_loses_the_target() -> None:
    assert walk([0.3] * 7) == ["uncertain"] * 5 + ["lost"] * 2


def test_only_a_verified_match_ends_lost() -> None:
    phase = Phase("lost")
    assert phase.advance(0.99, CONFIG) == "lost"
    assert phase.advance(0.8, CONFIG, verified=True) == "recovered"
    assert [phase.advance(0.9, CONFIG) for _ in range(3)] == ["recovered", "tracking", "tracking"]
    back = Phase("recovered")
    assert back.advance(0.3, CONFIG) == "uncertain"


def test_a_doubtful_frame_is_not_tracked_whatever_its_score() -> None:
    assert walk([0.59], doubtful=True) == ["uncertain"]
    assert Phase("uncertain").advance(0.9, CONFIG, doubtful=True) == "uncertain"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), max_size=40))
def test_every_walk_keeps_to_the_rules(steps: list[tuple[float, bool, bool]]) -> None:
    phase = Phase()
    for score, doubtful, verified in steps:
        before = phase.name
        after = phase.advance(score, CONFIG, doubtful=doubtful, verified=verified)
        assert after in STATES
        if before == "lost":
            assert after == ("recovered" if verified else "lost")
        else:
            assert after == "recovered" if verified else after != "recovered" or before == "recovered"
        if before == "tracking" and after == "lost":
            assert phase.low >= CONFIG.lost_after


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(UserError, match="uncertain_below"):
        TrackConfig(lost_below=0.5, uncertain_below=0.4)
    assert np.isfinite(TrackConfig().gate)
