"""Building the server and running it."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vil_tracker.errors import UserError, require_extra
from vil_tracker.web.child import ChildFailure, WorkerProcess
from vil_tracker.web.limits import Limits
from vil_tracker.web.store import Store
from vil_tracker.web.work import probe_setup, track_setup

if TYPE_CHECKING:
    import uvicorn

    from vil_tracker.results import TrackerLike

log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """Bind the address before anything is loaded; UserError where it cannot be bound."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host} is no address of this computer: give 127.0.0.1, or 0.0.0.0 for all") from error
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        number = getattr(error, "errno", None)
        if number in (errno.EADDRINUSE, errno.EACCES):
            what = "is in use" if number == errno.EADDRINUSE else "may not be used by you"
            raise UserError(f"port {port} {what}: choose another with --port, or --port 0 for any free one") from error
        raise UserError(f"cannot listen on {host} port {port} ({error}): check --host and --port") from error
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def build(
    load: Callable[[], Callable[[], TrackerLike]],
    limits: Limits,
    listener: socket.socket,
    host: str,
    parent: Path | None = None,
    *,
    token: str = "",
    allow_hosts: Sequence[str] = (),
) -> tuple[uvicorn.Server, Callable[[], None]]:
    """Make the server, with its processes running.

    Args:
        load: as of :func:`vil_tracker.tracking.cli.load_tracker_factory`, with its arguments bound; called in every
            tracking process, so it must be a function of a module.
        host: as given to :func:`listen`; a loopback address may only be called by its own names, another one also by
            any address and this computer's names.
        parent: where the folder of the uploads is made; the system's temporary folder by default.
        token: that the page asks for; "" for none.
        allow_hosts: further names of the page, such as a proxy's.

    Returns the server, and a function that ends its processes and deletes its files (which it calls when it ends).
    UserError where the ``demo`` extra is missing, or the weights cannot be loaded.
    """
    uvicorn = require_extra("uvicorn", "demo", "serve the web page")
    from vil_tracker.web.app import Application
    from vil_tracker.web.frames import FrameService
    from vil_tracker.web.guard import Guard, limited_protocol, own_names
    from vil_tracker.web.jobs import Jobs

    store = Store(limits, parent)
    prober = WorkerProcess(partial(probe_setup, limits), "probing process")
    frames = FrameService(WorkerProcess(partial(probe_setup, limits), "frame process"), limits)
    jobs = Jobs(partial(track_setup, load, limits), limits, store)
    local, cookie = is_loopback(host), f"vil_tracker_{listener.getsockname()[1]}"
    hosts = {host, *allow_hosts, *({"127.0.0.1", "localhost", "::1"} if local else own_names())}
    application = Application(limits, store, jobs, prober, frames, cookie)
    try:
        jobs.start()
        threading.Thread(target=_warm_up, args=(prober,), daemon=True).start()
    except ChildFailure as error:
        application.close()
        raise UserError(f"the tracking process does not start ({str(error).splitlines()[-1]})") from error
    except BaseException:
        application.close()
        raise
    config = uvicorn.Config(
        Guard(application.asgi, hosts, not local, token, f"{cookie}_key"),
        http=limited_protocol(limits.head_seconds, limits.heads_per_address),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
        limit_concurrency=1024,
    )
    return uvicorn.Server(config), application.close


def _warm_up(prober: WorkerProcess) -> None:
    try:
        prober.start()
    except (ChildFailure, UserError) as error:
        log.debug("%s", error)  # tried again, and reported, at the first upload


@contextlib.contextmanager
def running(
    load: Callable[[], Callable[[], TrackerLike]],
    limits: Limits | None = None,
    parent: Path | None = None,
    *,
    host: str = "127.0.0.1",
    **options: Any,
) -> Iterator[str]:
    """Serve on a free port in a thread, with ``options`` of :func:`build`; yields the address on this computer."""
    listener = listen(host, 0)
    server, close = build(load, limits or Limits(), listener, host, parent, **options)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        close()
        listener.close()
