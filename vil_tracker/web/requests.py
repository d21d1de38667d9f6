"""Reading requests, whose senders may be slow, broken or hostile."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request

from vil_tracker.web.limits import MIB, Limits

_DRAIN = 16 * MIB


class RequestError(Exception):
    """A request that is answered with an error status and one line for the visitor."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def number(text: str) -> int:
    """A parameter of a request."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise RequestError(400, "a number of the request is none, or too large")
    return int(text)


async def chunks(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body, piece by piece; a sender that falls silent, or is too slow, is given up."""
    stream, begin, size = request.stream().__aiter__(), time.monotonic(), 0
    while True:
        try:
            chunk = await asyncio.wait_for(stream.__anext__(), limits.stall_seconds)
            size, passed = size + len(chunk), time.monotonic() - begin
            slow = passed > limits.stall_seconds and size < passed * limits.upload_rate
            if slow or passed > limits.upload_seconds:
                raise RequestError(408, "the upload is too slow: use a faster connection, or a smaller video")
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise RequestError(408, "nothing arrived for a while: check the connection and try again") from None
        if chunk:
            yield chunk


async def drain(body: AsyncIterator[bytes], seconds: float = 3.0) -> None:
    """Read on and forget, up to a size and a time."""
    left, end = _DRAIN, time.monotonic() + seconds
    async for chunk in body:
        left -= len(chunk)
        if left <= 0 or time.monotonic() > end:
            return


async def json_body(request: Request) -> dict[str, Any]:
    """The body as a JSON object of at most 64 KB."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > 1 << 16:
            raise RequestError(413, "the request is too large")
    try:
        content = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "the request is not JSON") from error
    if not isinstance(content, dict):
        raise RequestError(400, "the request is not a JSON object")
    return content
