"""Many independent pieces of work on processes of this machine, or on a Ray cluster.

A piece is done by a function that each process builds once, from something that can be sent to it. What comes out does
not depend on who did it. Ray itself decides where a piece runs, and gives those of a process that died to another.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.queues import Queue
from typing import Any

from vil_tracker.errors import UserError

ENGINES = ("processes", "ray")
RETRIES = 3  # of a piece whose process died, on Ray

#: Builds the function of one piece, in the process that will do the pieces; it is pickled on the way there. Its
#: argument numbers the processes of a machine, and is 0 on Ray.
Builder = Callable[[int], Callable[[Any], Any]]


@dataclass(frozen=True)
class Engine:
    """Where pieces are done."""

    name: str = "processes"  # one of ENGINES
    workers: int = 1  # processes on this machine; one is this process itself. On Ray the cluster decides
    address: str | None = None  # of the Ray cluster, as ``ray.init`` takes it; None starts one on this machine
    threads: int = 1  # CPU threads of a process, which a cluster keeps free for it
    gpu: bool = False  # whether a process wants a GPU, on a cluster that has any

    def run(self, build: Builder, pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Do all pieces; yields position and result as they are done, in any order. UserError as of a piece, or where
        its process was killed (on Ray, several times).
        """
        if not pieces:
            return iter(())
        if self.name == "ray":
            return self._on_ray(build, pieces)
        alone = min(self.workers, len(pieces)) == 1
        return enumerate(map(build(0), pieces)) if alone else self._on_processes(build, pieces)

    def _on_processes(self, build: Builder, pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        workers = min(self.workers, len(pieces))
        context = get_context("spawn")
        places: Queue[int] = context.Queue()
        for place in range(workers):
            places.put(place)
        with ProcessPoolExecutor(workers, context, _start, (build, places)) as pool:
            futures = {pool.submit(_do, piece): number for number, piece in enumerate(pieces)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BrokenProcessPool as error:
                raise UserError(
                    "a worker process was killed, most often for want of memory; what is finished is kept: run the "
                    "same command with fewer --workers"
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _on_ray(self, build: Builder, pieces: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        try:
            import ray
        except ImportError as error:
            raise UserError("--engine ray needs Ray: pip install 'vil-tracker[ray]'") from error
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"no Ray cluster at {self.address} ({reason}): start one with ray start --head") from error
        try:
            gpus = 1 if self.gpu and ray.cluster_resources().get("GPU", 0) else 0
            remote = ray.remote(num_cpus=self.threads, num_gpus=gpus, max_retries=RETRIES)(_do_on_ray)
            run, sent = secrets.token_hex(8), ray.put(build)
            waiting = {remote.remote(run, sent, piece): number for number, piece in enumerate(pieces)}
            while waiting:
                (done, *_), _ = ray.wait(list(waiting), num_returns=1)
                try:
                    yield waiting.pop(done), ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, UserError):
                        raise UserError(str(error.cause)) from error
                    raise
                except ray.exceptions.RayError as error:
                    raise UserError(
                        f"a piece of work lost its process {RETRIES + 1} times ({type(error).__name__}); what is "
                        "finished is kept: give the same command again"
                    ) from error
        finally:
            with contextlib.suppress(ConnectionError):
                ray.shutdown()


# Set once in each worker process by its initialiser; the pool has no other way to hand what was built to its pieces.
_work: Callable[[Any], Any] | UserError | None = None


def _start(build: Builder, places: Queue[int]) -> None:
    global _work
    try:
        _work = build(places.get())
    except UserError as error:  # an initialiser that raises would break the pool without a word
        _work = error


def _do(piece: Any) -> Any:
    if isinstance(_work, UserError):
        raise _work
    assert _work is not None
    return _work(piece)


# What a process of Ray, which does many pieces, has built last, by the run that it is for.
_kept: dict[str, Callable[[Any], Any]] = {}


def _do_on_ray(run: str, build: Builder, piece: Any) -> Any:
    if run not in _kept:
        _kept.clear()
        _kept[run] = build(0)
    return _kept[run](piece)
