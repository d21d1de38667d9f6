"""Worker processes: what they decode may hang or crash them, and the server goes on.

Requests, events and replies are JSON texts over a pipe, so that a process that a hostile video has taken over can
tell the server nothing but data.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from vil_tracker.errors import UserError

log = logging.getLogger(__name__)

Emit = Callable[[Any], None]
Stopped = Callable[[], bool]
Handler = Callable[[Any, Emit, Stopped], Any]
_START_SECONDS = 300.0  # that a setup may take


class ChildFailure(Exception):
    """The process died, took too long, or met a fault of our own; the message is meant for the log."""


class WorkerProcess:
    """One worker process; started when it is first needed, and again after it died.

    ``setup`` is called in the process (it is pickled on the way there) and returns the function that answers requests:
    ``handle(request, emit, stopped)``, where ``emit`` sends an event and ``stopped`` says whether it was called off.
    Its :class:`UserError` is raised again in :meth:`call`. ``name`` is for the log.
    """

    def __init__(self, setup: Callable[[], Handler], name: str) -> None:
        self._setup, self._name = setup, name
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._calls = 0
        self._calling = threading.Lock()
        self._sending = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Start the process if there is none, and wait until it is ready; raises as :meth:`call`, of its setup."""
        with self._calling:
            self._ensure()

    def call(self, request: Any, *, timeout: float, on_event: Callable[[Any], None] | None = None) -> Any:
        """Send a request and wait for the reply; one at a time. UserError as of the handler; ChildFailure where it
        failed or died, or did not reply within ``timeout`` seconds, after which it is killed.
        """
        with self._calling:
            connection = self._ensure()
            self._calls += 1
            with self._sending:
                connection.send_bytes(json.dumps({"call": self._calls, "request": request}).encode())
            return self._wait(connection, timeout, on_event or (lambda event: None))

    def stop(self) -> None:
        """Call the current request off; its handler decides when to return."""
        self._tell({"stop": self._calls})

    def _tell(self, message: dict[str, Any]) -> None:
        connection = self._connection
        if connection is not None:
            with self._sending, contextlib.suppress(OSError):  # it is gone, which :meth:`call` reports
                connection.send_bytes(json.dumps(message).encode())

    def close(self) -> None:
        """End the process, by force if it does not go at once; a call that is under way fails."""
        self._closed = True
        self._tell({"quit": True})
        process = self._process
        if process is not None:
            process.join(timeout=3)
            if process.is_alive():
                process.kill()
                process.join()

    def _ensure(self) -> Connection:
        if self._closed:
            raise ChildFailure(f"{self._name} was closed")
        if self._process is not None and self._process.is_alive() and self._connection is not None:
            return self._connection
        self._discard()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, self._setup), name=self._name, daemon=True)
        self._process.start()
        theirs.close()
        self._connection = ours
        self._wait(ours, _START_SECONDS, lambda event: None)
        return ours

    def _wait(self, connection: Connection, timeout: float, on_event: Callable[[Any], None]) -> Any:
        deadline = time.monotonic() + timeout
        try:
            while True:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise ChildFailure(f"{self._name} gave no answer within {timeout:g} s")
                if not connection.poll(min(remaining, 1.0)):
                    continue
                message = json.loads(connection.recv_bytes())
                if "event" in message:
                    on_event(message["event"])
                elif "error" in message:
                    raise UserError(message["error"])
                elif "fault" in message:
                    raise ChildFailure(f"{self._name} failed:\n{message['fault']}")
                else:
                    return message["reply"]
        except UserError:
            raise
        except (EOFError, OSError) as error:
            self._discard()
            raise ChildFailure(f"{self._name} died") from error
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        if self._process is not None:
            if self._process.is_alive():
                self._process.kill()
            self._process.join()
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _main(connection: Connection, setup: Callable[[], Handler]) -> None:
    """The process: get ready, then answer one request after another until the server is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches every process; the server decides
    current = 0

    def send(**message: Any) -> None:
        connection.send_bytes(json.dumps(message).encode())

    def receive() -> dict[str, Any]:
        message = json.loads(connection.recv_bytes())
        if "quit" in message:
            raise EOFError
        return message

    def stopped() -> bool:
        while connection.poll():
            message = receive()
            if message.get("stop") == current:
                return True
        return False

    try:
        try:
            handle = setup()
        except UserError as error:
            send(error=str(error))
            return
        send(reply="ready")
        while True:
            message = receive()
            if "call" not in message:  # a stop that came too late
                continue
            current = message["call"]
            try:
                reply = handle(message["request"], lambda event: send(event=event), stopped)
            except UserError as error:
                send(error=str(error))
            except (EOFError, BrokenPipeError):
                raise
            except Exception:  # reported to the server, which logs it and starts a new process
                send(fault=traceback.format_exc())
            else:
                send(reply=reply)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the server is gone, or wants to go
