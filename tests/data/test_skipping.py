"""Damaged pictures: a few are stepped over and listed, many stop the run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from vil_tracker.data.skipping import GRACE, SkippedFiles
from vil_tracker.errors import UserError
from vil_tracker.images import read_image


def broken() -> int:
    raise UserError("image a.jpg is damaged")


def test_good_reads_pass_through_and_others_are_listed(caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("vil_tracker"), "propagate", True)  # the command line turns it off
    caplog.set_level(logging.WARNING, "vil_tracker")
    skipped = SkippedFiles(0.5)
    assert skipped.attempt("good", lambda: 7) == 7
    assert skipped.attempt("bad", broken) is None and skipped.attempt("bad", broken) is None
    assert (skipped.read, skipped.failures, list(skipped.reasons)) == (3, 2, ["bad"])
    assert skipped.share == pytest.approx(2 / 3)
    assert caplog.text.count("a.jpg is damaged") == 1
    assert skipped.summary() == "3 pictures read, 2 reads failed (66.67%): bad"


def test_too_many_stop_the_run() -> None:
    skipped = SkippedFiles(0.02)
    for _ in range(100):
        skipped.attempt("good", lambda: 1)
    for _ in range(GRACE):
        assert skipped.attempt("bad", broken) is None  # 5 of 105 is over 2 %, but within the grace
    with pytest.raises(UserError, match=r"6 of 106 .* over the limit of 2\.0% .*a\.jpg is damaged"):
        skipped.attempt("bad", broken)


def test_few_among_many_never_stop_it() -> None:
    skipped = SkippedFiles(0.02)
    for i in range(3000):
        skipped.attempt(str(i), broken if i % 100 == 99 else lambda: 1)
    assert skipped.failures == 30


def test_none_allowed() -> None:
    with pytest.raises(UserError, match="1 of 1"):
        SkippedFiles(0.0).attempt("bad", broken)


def test_only_user_errors_are_skipped() -> None:
    with pytest.raises(ZeroDivisionError):
        SkippedFiles(1.0).attempt("bug", lambda: 1 // 0)


def test_counts_of_several_processes() -> None:
    workers = [SkippedFiles(1.0), SkippedFiles(1.0)]
    for worker in workers:
        worker.attempt("same", broken)
        worker.attempt("good", lambda: 1)
    total = SkippedFiles(1.0).merge(workers)
    assert (total.read, total.failures, list(total.reasons)) == (4, 2, ["same"])


def test_with_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 cut short")
    skipped = SkippedFiles(1.0)
    assert skipped.attempt("cut", lambda: read_image(path)) is None
    assert skipped.attempt("lost", lambda: read_image(tmp_path / "lost.jpg")) is None
    assert str(path) in skipped.reasons["cut"]
