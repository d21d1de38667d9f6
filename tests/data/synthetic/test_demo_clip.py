"""The demo clip: reproducible, a fair challenge, and its truth is where the car is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tracking_fakes import FakeTracker

from vil_tracker import demo
from vil_tracker.data.synthetic import demo_clip
from vil_tracker.data.synthetic.demo_clip import DemoClip, demo_sequence
from vil_tracker.tracking import cli


@pytest.fixture(scope="module")
def clip() -> DemoClip:
    return DemoClip()


def test_size_and_length(clip: DemoClip) -> None:
    assert len(clip) == 150 and clip[0].shape == (360, 640, 3) and clip[0].dtype == np.uint8
    assert clip.boxes.shape == (150, 4) and clip.cover.shape == (150,)
    with pytest.raises(IndexError):
        clip[150]


def test_same_seed_same_film_other_seed_another(clip: DemoClip) -> None:
    again, other = DemoClip(), DemoClip(seed=1)
    for index in (0, 77, 149):
        assert (again[index] == clip[index]).all()
    assert (again.boxes == clip.boxes).all() and not np.allclose(other.boxes, clip.boxes)
    assert (other[0] != clip[0]).mean() > 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_a_fair_challenge(seed: int) -> None:
    clip = DemoClip(seed)
    x, y, w, h = clip.boxes.T
    assert (x > 4).all() and (y > 4).all() and (x + w < 636).all() and (y + h < 356).all()  # always in the picture
    size = np.sqrt(w * h)
    assert size.min() > 35 and size.max() / size.min() > 1.3  # it grows and shrinks
    speed = np.hypot(*np.diff(np.stack([x + w / 2, y + h / 2]), axis=1))
    assert 2 < speed.max() < 12
    assert (clip.cover < 0.5).sum() >= 5 and clip.cover.min() < 0.3  # the tree hides it for a while
    assert (clip.cover[:60] == 1).all() and (clip.cover[-30:] == 1).all()


def test_box_is_where_the_car_is(clip: DemoClip, monkeypatch: pytest.MonkeyPatch) -> None:
    """Painting the car in pure blue shows its pixels; their extent is the box."""
    with monkeypatch.context() as patch:
        patch.setattr(demo_clip, "_paint_car", lambda body, trim, roof: _blue_or_grey(body))
        blue = DemoClip()
    for index in (0, 40, 70, 110, 149):
        picture = blue[index].astype(int)
        rows, columns = np.nonzero((picture[..., 2] > 140) & (picture[..., 0] < 70))
        x, y, w, h = clip.boxes[index]
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array(found) - [x, y, x + w, y + h]).max() < 2.5, index


def _blue_or_grey(body: tuple[int, int, int]) -> demo_clip._Sprite:
    h, w = demo_clip._CAR[1] * demo_clip._DETAIL, demo_clip._CAR[0] * demo_clip._DETAIL
    image = np.zeros((h, w, 3), np.float32)
    image[:] = (0, 0, 255) if body == (204, 44, 46) else (128, 128, 128)
    alpha = np.zeros((h, w), np.uint8)
    outline = demo_clip._car_outline() * demo_clip._DETAIL + np.array([w / 2, h / 2])
    demo_clip.cv2.fillPoly(alpha, [np.round(outline).astype(np.int32)], 255)
    return demo_clip._sprite(image, alpha)


def test_the_second_car_passes_close_by(clip: DemoClip) -> None:
    distances = []
    for t in np.linspace(0, 1, 150):
        a, b = clip._car_pose(t), clip._other_pose(t)
        distances.append(np.hypot(a[0] - b[0], a[1] - b[1]))
    assert 30 < min(distances) < 60  # beside it, without touching


def test_as_a_sequence() -> None:
    sequence = demo_sequence(frames=5)
    assert len(sequence) == len(sequence.frames) == 5 and sequence.visible.all()
    assert sequence.frames[4].shape == (360, 640, 3)


def test_demo_tracks_its_clip_and_says_where_the_files_are(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli, "load_tracker_factory", lambda *arguments, **options: FakeTracker)
    monkeypatch.setattr(demo, "DemoClip", lambda seed: DemoClip(seed, frames=12, width=160, height=90))
    assert demo.main(["--output", str(tmp_path / "demo")]) == 0
    files = {p.name for p in (tmp_path / "demo").iterdir()}
    assert {"clip.mp4", "boxes.csv", "contact-sheet.png"} < files and any(
        name.startswith("annotated") for name in files
    )
    printed = capsys.readouterr().out
    assert all(str(tmp_path / "demo" / name) in printed for name in files)
    assert "Mean overlap with the true box: 0." in printed and "vil-tracker track VIDEO --select" in printed


def test_demo_into_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert demo.main(["--output", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
