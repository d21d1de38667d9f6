"""The commands of the documentation, as they are rendered: each is one that the programs understand."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from vil_tracker import cli
from vil_tracker.io.video_writer import VideoSink

markdown = pytest.importorskip("markdown", reason="the documentation is rendered with markdown")

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/howto").glob("*.md")]
)
WIDEST = 120  # characters of a code block that fit on a screen of 1366 pixels
PROGRAMS = ("vil-tracker", "python", "torchrun", "srun", "make", "pip", "ffmpeg")


class Code(HTMLParser):
    """The code of a rendered page: blocks, and what stands in a sentence."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.blocks: list[str] = []
        self.inline: list[str] = []
        self._inside: list[str] = []
        self.feed(markdown.markdown(text, extensions=["tables", "fenced_code"]))

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag in ("pre", "code"):
            if tag == "pre" or not self._inside:
                (self.blocks if tag == "pre" else self.inline).append("")
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("pre", "code"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if self._inside:
            (self.blocks if self._inside[0] == "pre" else self.inline)[-1] += data


def code_of(page: Path) -> Code:
    return Code(page.read_text(encoding="utf-8"))


def commands_of(page: Path) -> list[tuple[str, bool]]:
    """Commands of a page, and whether each is whole: one in a sentence may be a mention, as `vil-tracker track`."""
    code, found = code_of(page), []
    for block in code.blocks:
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            found += [(part, True) for part in re.split(r"\s&&\s", line.removeprefix("$ "))]
    found += [(text, False) for text in code.inline]
    parts = [(part.strip(), whole) for text, whole in found for part in text.split(" | ")]
    return [(text, whole) for text, whole in parts if text.split(" ")[0] in PROGRAMS and (whole or " " in text)]


class Parsed(Exception):
    """Raised in place of what a program would do with its arguments."""


def parse(words: list[str]) -> str:
    """Let a program's own parser take its words; returns what it printed, which is its help if that was asked for."""
    printed: list[str] = []
    real = argparse.ArgumentParser.parse_args

    def parse_alone(self: argparse.ArgumentParser, *given: object) -> None:
        real(self, *given)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_alone)
        patch.setattr(argparse.ArgumentParser, "_print_message", lambda self, text, file=None: printed.append(text))
        patch.setattr(sys, "argv", words)
        patch.syspath_prepend(ROOT / "scripts")  # as Python does for a script
        try:
            if words[0] == "vil-tracker":
                cli.build_parser(words[1]).parse_args(words[1:])
            else:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except (Parsed, SystemExit) as ending:
            assert isinstance(ending, Parsed) or not ending.code, "".join(printed)
    return "".join(printed)


def check(words: list[str], whole: bool) -> None:
    """Whether a program understands the words of a command; of a mention, whether it has these options."""
    program, *rest = words
    script = next((position for position, word in enumerate(words) if word.startswith("scripts/")), None)
    if program == "make":
        assert f"\n{rest[0]}:" in (ROOT / "Makefile").read_text()
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\[(\w+)\]", " ".join(rest))) <= set(extras)
    elif script is not None or program == "vil-tracker":
        words = words[script or 0 :]
        options = {word for word in words if word.startswith("--")} - {"--help"}
        if whole:
            parse(words)
        else:
            assert options <= set(re.findall(r"--[\w-]+", parse([*words[: 2 if script is None else 1], "--help"])))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(page: Path) -> None:
    for text, whole in commands_of(page):
        try:
            words = shlex.split(text, comments=True)
            check(words, whole)
        except (ValueError, AssertionError, cli.UserError, FileNotFoundError) as error:
            pytest.fail(f"{text!r} is not understood: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_fits_the_screen(page: Path) -> None:
    wide = [line for block in code_of(page).blocks for line in block.splitlines() if len(line) > WIDEST]
    assert not wide


def test_the_first_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """What the overview and the page about tracking begin with, on a video of that name."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 120, (270, 480, 3), np.uint8)
    sink = VideoSink(tmp_path, "video", 25.0, "h264")
    for step in range(4):
        picture = ground.copy()
        picture[80 + step : 128 + step, 120 : 120 + 64] = (200, 60, 40)
        sink.write(picture)
    sink.finish()
    monkeypatch.chdir(tmp_path)
    pages = (ROOT / "README.md", ROOT / "docs/howto/track.md")
    typed = {text for page in pages for text, whole in commands_of(page) if whole and "video.mp4 --box" in text}
    typed = {" ".join(shlex.split(text, comments=True)[1:]) for text in typed}
    assert typed == {"track video.mp4 --box 120,80,64,48"}
    assert cli.main(typed.pop().split()) == 0
    assert "tracked 4 frames" in capsys.readouterr().out and (tmp_path / "video_tracked/boxes.csv").exists()
    (code,) = (block for block in code_of(ROOT / "README.md").blocks if block.startswith("import vil_tracker"))
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("tracking") == 4
