"""Who may speak to the server at all: names it is called by, the token, connections that never finish a request."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

import h11
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_ABSENT = (
    "This page is shared by a link that holds a token: ask whoever started it for that link. "
    "It is printed where the page was started, and ends in /?token=…\n"
)


class Guard:
    """Answers requests for a foreign host name with 400, and those without the token with 401.

    Args:
        hosts: names under which the page may be called.
        addresses: whether any IP address is such a name, too. A foreign site can make a name of its own point to this
            server, but not an address.
        token: asked for, unless it is empty. It comes once in the address of the page and then in the cookie.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], addresses: bool, token: str, cookie: str) -> None:
        self._app, self._addresses, self._token, self._cookie = app, addresses, token, cookie
        self._hosts = {name.lower() for name in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._refusal(scope) if scope["type"] == "http" else None
        await (answer or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._knows(headers.get("host", "")):
            return PlainTextResponse("Invalid host header: start the page with --allow-host NAME to call it so\n", 400)
        if not self._token or self._same(cookie_parser(headers.get("cookie", "")).get(self._cookie, "")):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] != "/" or not self._same(given):
            return PlainTextResponse(_ABSENT, 401, {"Cache-Control": "no-store"})
        answer = RedirectResponse("/", 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax", path="/")
        return answer

    def _same(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    def _knows(self, host: str) -> bool:
        name = host.rpartition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
        if name.lower() in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._addresses


def own_names() -> set[str]:
    """Names by which other computers of the network may call this one."""
    name = socket.gethostname()
    return {"localhost", name, name.partition(".")[0], f"{name.partition('.')[0]}.local"}


def lan_address() -> str | None:
    """The address by which this computer reaches its network; None without one. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None


def limited_protocol(seconds: float, per_address: int) -> type[H11Protocol]:
    """The HTTP protocol, with limits on requests whose head is incomplete: the ``seconds`` that it may take, and such
    connections of one address, of which the oldest makes room for a new one.
    """
    unfinished: dict[str, dict[LimitedProtocol, None]] = {}

    class LimitedProtocol(H11Protocol):
        _address = ""
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._address = self.client[0] if self.client else ""
            self._expect_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._settle()  # the head is complete
            elif self._deadline is None:  # a further request has begun
                self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._settle()
            super().connection_lost(exc)

        def _expect_head(self) -> None:
            mine = unfinished.get(self._address, {})
            if len(mine) >= per_address:
                next(iter(mine))._give_up()
            unfinished.setdefault(self._address, {})[self] = None
            self._deadline = self.loop.call_later(seconds, self._give_up)

        def _give_up(self) -> None:
            self._settle()
            self.connections.discard(self)
            self.transport.abort()

        def _settle(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
                mine = unfinished[self._address]
                mine.pop(self, None)
                if not mine:
                    del unfinished[self._address]

    return LimitedProtocol
