"""What to do with damaged pictures in a data set of millions: step over a few and say so, stop when they are many."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from vil_tracker.errors import UserError

log = logging.getLogger(__name__)
Result = TypeVar("Result")

GRACE = 5  # damaged files: one bad picture among the first few does not stop a run


class SkippedFiles:
    """Counts pictures that were read and lists those that could not be; each loader process has its own counter.

    Args:
        max_share: largest share of damaged files among those read, in [0, 1]; above it reading stops.
            With 0 the first damaged file stops it, else none of the first :data:`GRACE`, whatever their share.
        worker: number of the loader process.

    Attributes:
        read, failures: number of files tried, and of failed reads.
        reasons: the damaged files in the order of their discovery, each once, with the error message.
    """

    def __init__(self, max_share: float, worker: int = 0) -> None:
        self.max_share, self.worker = max_share, worker
        self.grace = GRACE if max_share > 0 else 0
        self.read = 0
        self.failures = 0
        self.reasons: dict[str, str] = {}

    @property
    def share(self) -> float:
        """Share of reads that failed."""
        return self.failures / self.read if self.read else 0.0

    def attempt(self, name: str, read: Callable[[], Result]) -> Result | None:
        """Call ``read``; on a :class:`UserError`, note ``name`` as damaged and return None.

        Raises:
            UserError: too many files are damaged; the message names the first of them.
        """
        self.read += 1
        try:
            return read()
        except UserError as error:
            self.failures += 1
            if name not in self.reasons:
                self.reasons[name] = str(error)
                log.warning("skipped a damaged file: %s", error)
            if self.failures > self.grace and self.share > self.max_share:
                first = next(iter(self.reasons.values()))
                raise UserError(
                    f"{self.failures} of {self.read} pictures could not be read, over the limit of "
                    f"{self.max_share:.1%} (data.max_damaged), the first: {first}"
                ) from error
            return None

    def merge(self, others: Iterable[SkippedFiles]) -> SkippedFiles:
        """Add the counts of other processes to this one and return it; never raises."""
        for other in others:
            self.read += other.read
            self.failures += other.failures
            self.reasons.update(other.reasons)
        return self

    def summary(self) -> str:
        """One line for the log of a run."""
        shown = ", ".join(list(self.reasons)[:5])
        more = f" and {len(self.reasons) - 5} more" if len(self.reasons) > 5 else ""
        return f"{self.read} pictures read, {self.failures} reads failed ({self.share:.2%}): {shown}{more}"
