"""Pictures as people have them: turned, animated, of many bits, in many folders, with gaps."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from tracking_fakes import numbered_frame, read_number

from vil_tracker.data.sequence import ImageFrames
from vil_tracker.errors import UserError
from vil_tracker.images import decode_image, natural_key
from vil_tracker.io.files import open_source
from vil_tracker.io.source import Start

FRAMES = [numbered_frame(number) for number in range(12)]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.getLogger("vil_tracker").propagate = True
    caplog.set_level(logging.WARNING, "vil_tracker")
    return caplog


# --- orientation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_as_a_viewer_shows_it(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:20, :30], picture[20:, 30:] = (250, 0, 0), (0, 250, 0)
    Image.fromarray(picture).save(stream, kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(stream)).convert("RGB"))
    found = decode_image(stream.getvalue(), "x")
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 3  # two decoders of lossy formats


def test_an_orientation_that_there_is_not_is_none() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    stream = io.BytesIO()
    Image.fromarray(FRAMES[0]).save(stream, "WEBP", exif=exif)
    assert decode_image(stream.getvalue(), "x").shape == FRAMES[0].shape


# --- several pictures in one file -----------------------------------------------------------------------------------


def animate(path: Path, duration: int | list[int] = 40, **options: object) -> Path:
    first, *others = [Image.fromarray(frame) for frame in FRAMES]
    timing = {} if path.suffix == ".tif" else {"duration": duration}
    first.save(path, save_all=True, append_images=others, **timing, **options)
    return path


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.apng", "a.gif", "a.tif", "a.avif"])
def test_every_picture_of_a_file_is_a_frame(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "a.apng":
        animate(tmp_path / "a.png").rename(path)
    else:
        animate(path)
    source = open_source(path)
    assert source.total == 12 and source.fps == pytest.approx(25)
    frames = list(source)
    source.close()
    assert [(frame.number, read_number(frame.image)) for frame in frames] == [(n, n) for n in range(12)]
    assert [frame.time for frame in frames] == pytest.approx([n / 25 for n in range(12)])
    assert frames[0].image.shape == FRAMES[0].shape
    skipping = open_source(path, start=Start(3), stride=4)
    assert skipping.total == 3 and [read_number(frame.image) for frame in skipping] == [3, 7, 11]
    with pytest.raises(UserError, match="12 frames"):
        open_source(path, start=Start(12))


def test_the_times_of_an_animation_are_its_own(tmp_path: Path) -> None:
    path = animate(tmp_path / "a.gif", duration=[100] * 6 + [500] * 6)
    assert [frame.time for frame in open_source(path)] == pytest.approx(
        [*np.arange(6) * 0.1, *(0.6 + np.arange(6) * 0.5)]
    )
    later = list(open_source(path, start=Start(seconds=1.0)))
    assert later[0].number == read_number(later[0].image) == 7
    assert [frame.time for frame in open_source(path, fps=10)][11] == pytest.approx(1.1)
    with pytest.raises(UserError, match="lasts 3.60 s"):
        list(open_source(path, start=Start(seconds=9.0)))


def test_the_picture_for_old_viewers_is_no_frame(tmp_path: Path) -> None:
    path = animate(tmp_path / "a.png", default_image=True)
    assert [read_number(frame.image) for frame in open_source(path)] == list(range(1, 12))


def test_a_preview_in_a_tiff_is_no_frame(tmp_path: Path) -> None:
    whole, small = Image.fromarray(FRAMES[5]), Image.fromarray(FRAMES[5][::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    whole.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    frames = list(open_source(tmp_path / "a.tif"))
    assert [read_number(frame.image) for frame in frames] == [5] and frames[0].image.shape == FRAMES[5].shape


def test_a_damaged_animation_is_one_line(tmp_path: Path) -> None:
    path = animate(tmp_path / "a.gif")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    seen = 0
    with pytest.raises(UserError, match=r"a\.gif"):
        for frame in open_source(path):
            assert read_number(frame.image) == seen
            seen += 1
        raise UserError("a.gif has fewer pictures")  # as far as its reader can tell


@pytest.mark.filterwarnings("ignore")  # Pillow's, which the command line keeps away
@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif", "a.tif", "a.avif"])
def test_damage_anywhere_gives_frames_and_then_one_line(name: str, tmp_path: Path) -> None:
    whole, rng = bytearray(animate(tmp_path / name).read_bytes()), np.random.default_rng(0)
    for occasion in range(12):
        data = whole[:]
        for place in rng.integers(0, len(data) if occasion % 2 else 300, 3):
            data[place] = rng.integers(256)
        (tmp_path / name).write_bytes(data[: rng.integers(len(data))] if occasion % 3 == 0 else data)
        try:
            assert all(frame.image.dtype == np.uint8 for frame in open_source(tmp_path / name))
        except UserError as error:
            assert name in str(error) and "\n" not in str(error)


# --- more than eight bits -------------------------------------------------------------------------------------------


def thermal(number: int) -> np.ndarray:
    """A warm patch over a slope, 510 of 65536 values wide; frame 0 is the coldest."""
    rows, columns = np.mgrid[:48, :64]
    picture = 29000 + 3 * columns + rows + 20 * number
    picture[20:30, 10 + number : 20 + number] += 150
    picture[0, 0], picture[0, 1] = 0, 65535  # dead pixels
    return picture.astype(np.uint16)


@pytest.fixture
def warm(tmp_path: Path) -> Path:
    folder = tmp_path / "warm"
    folder.mkdir()
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), thermal(number))
    return folder


def test_a_sequence_of_many_bits_keeps_its_contrast_and_does_not_flicker(warm: Path, lines) -> None:
    frames = [frame.image for frame in open_source(warm)]
    values = np.stack(frames)[..., 0].astype(float)
    raw = np.stack([thermal(number) for number in range(6)]).astype(float)
    inside = (raw > 29000) & (raw < 29510)
    slope, offset = np.polyfit(raw[inside], values[inside], 1)
    assert values[inside].max() - values[inside].min() > 200
    # One linear map for all frames; dead pixels take no part in it.
    assert np.abs(values[inside] - (slope * raw[inside] + offset)).mean() < 1
    assert len(lines.records) == 1 and "16-bit" in lines.text and "--range" in lines.text
    training = [ImageFrames(tuple(sorted(warm.iterdir())))[index] for index in range(6)]
    np.testing.assert_array_equal(np.stack(training), np.stack(frames))  # the same in an evaluation


def test_a_range_that_was_asked_for(warm: Path, lines) -> None:
    frame = next(iter(open_source(warm, value_range=(29000, 29510))))
    raw = thermal(0).astype(float)
    np.testing.assert_allclose(frame.image[..., 0], np.clip((raw - 29000) / 2, 0, 255), atol=1)
    assert not lines.records
    grey = np.full((8, 8), 110, np.uint8)
    cv2.imwrite(str(warm.parent / "grey.png"), grey)
    assert next(iter(open_source(warm.parent / "grey.png", value_range=(100, 120)))).image[0, 0, 0] in (127, 128)


@pytest.mark.parametrize("kind, low", [(np.uint16, 900), (np.float32, 21.5), (np.int16, -40)])
def test_pages_of_many_bits(kind: type, low: float, tmp_path: Path, lines) -> None:
    pages = [(low + np.arange(64)[None] / 2 + np.arange(48)[:, None] + n).astype(kind) for n in range(4)]
    cv2.imwritemulti(str(tmp_path / "a.tif"), pages)
    frames = [frame.image[..., 0].astype(int) for frame in open_source(tmp_path / "a.tif")]
    assert len(frames) == 4 and frames[0].min() < 10 and frames[3].max() > 245
    assert frames[1].mean() > frames[0].mean() and len(lines.records) == 1


def test_alpha_does_not_count(tmp_path: Path) -> None:
    picture = np.full((8, 8, 4), 65535, np.uint16)
    picture[..., :3] = np.arange(8)[:, None, None] * 10 + 100
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    image = next(iter(open_source(tmp_path / "a.png"))).image
    assert image[0].max() == 0 and image[-1].min() == 255


# --- order, names, gaps ---------------------------------------------------------------------------------------------


def save(folder: Path, *names: str, first: int = 0) -> None:
    for number, name in enumerate(names, start=first):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), FRAMES[number])


def test_folders_are_in_natural_order_and_frames_keep_their_folder(tmp_path: Path) -> None:
    names = [f"part{part}/{number:03d}.png" for part in (1, 2, 10) for number in range(4)]
    save(tmp_path, *names)
    frames = list(open_source(f"{tmp_path}/part*/*.png"))
    assert [frame.name for frame in frames] == names
    assert [read_number(frame.image) for frame in frames] == list(range(12))


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    save(tmp_path, "0.png", "1.png", "2.png")
    (tmp_path / "1.png").unlink()
    (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
    for source in (tmp_path, f"{tmp_path}/*.png"):
        with pytest.raises(UserError, match=r"1\.png is a link to .*gone\.png, which is not there"):
            open_source(source)


@pytest.mark.parametrize(
    "names, line",
    [
        (["f1", "f2", "f3", "f5", "f6", "f7"], "missing between .*f3.png and f5.png"),
        (["f1", "f2", "f4", "f5", "f6", "f9", "f10"], "and in 1 more place"),
        (["f0", "f5", "f10", "f15"], None),  # every fifth is what was kept
        (["a1", "a2", "b7", "b8"], None),
        (["x", "y", "z"], None),
        (["f1", "f5", "f20", "f300"], None),  # numbers without a rule
    ],
)
def test_a_missing_picture_is_named(names: list[str], line: str | None, tmp_path: Path, lines) -> None:
    save(tmp_path, *(f"{name}.png" for name in names))
    assert len(list(open_source(tmp_path))) == len(names)
    assert len(lines.records) == (line is not None)
    if line:
        assert re.search(line, lines.text)


def test_the_only_folder_of_pictures_is_taken(tmp_path: Path, lines) -> None:
    """VOT's layout."""
    save(tmp_path / "ball" / "color", "1.jpg", "2.jpg")
    (tmp_path / "ball" / "groundtruth.txt").write_text("1,2,3,4\n")
    assert len(list(open_source(tmp_path / "ball"))) == 2 and "its folder color" in lines.text
    save(tmp_path / "ball" / "depth", "1.png")
    with pytest.raises(UserError, match="color, depth do"):
        open_source(tmp_path / "ball")


def test_brackets_in_the_name_of_a_folder(tmp_path: Path) -> None:
    save(tmp_path / "[2024] trip", "1.png", "2.png")
    assert len(list(open_source(f"{tmp_path}/[2024] trip/*.png"))) == 2
    assert len(list(open_source(f"{tmp_path}/?2024? trip/[12].png"))) == 2


def test_natural_order_of_names() -> None:
    names = ["img10.png", "img2.png", "img1.png", "img1b.png"]
    assert sorted(names, key=natural_key) == ["img1.png", "img1b.png", "img2.png", "img10.png"]
