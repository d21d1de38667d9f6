"""The web application: routes, uploads, and what stands between visitors and each other."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.resources
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from vil_tracker.errors import UserError
from vil_tracker.web.child import ChildFailure, WorkerProcess
from vil_tracker.web.frames import FrameService
from vil_tracker.web.jobs import Jobs
from vil_tracker.web.limits import MIB, Limits
from vil_tracker.web.requests import RequestError, chunks, drain, json_body, number
from vil_tracker.web.store import MEDIA_TYPES, QuotaExceeded, Store, Video, clean_title, download_name
from vil_tracker.web.targets import check_targets
from vil_tracker.web.work import container_of, probe_setup

log = logging.getLogger(__name__)

_PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
CSRF_HEADER = "x-vil-tracker"  # a header that no foreign page can send without asking first
_HEAD, _CHUNK = 512, MIB
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Application:
    """What the routes share; :attr:`asgi` is the application for the server, and closes the rest as it shuts down.

    ``cookie`` is the name of the cookie, another one for each server of a machine.
    """

    def __init__(
        self, limits: Limits, store: Store, jobs: Jobs, prober: WorkerProcess, frames: FrameService, cookie: str
    ) -> None:
        self._limits, self._store, self._jobs, self._cookie = limits, store, jobs, cookie
        self._prober, self._frames = prober, frames
        self._uploads = asyncio.Semaphore(limits.uploads)
        self._uploads_of: dict[str, int] = {}  # by address, those that wait for all others included
        self._sample: dict[str, Any] | None = None
        self._sample_lock = asyncio.Lock()
        static = importlib.resources.files("vil_tracker.web") / "static"
        self._page = {
            file.name: file.read_bytes() for file in static.iterdir() if Path(file.name).suffix in _PAGE_TYPES
        }
        routes = [
            Route("/", self._index),
            Route("/{name}", self._asset),
            Route("/api/limits", self._get_limits),
            Route("/api/videos", self._answer(self._upload), methods=["POST"]),
            Route("/api/videos", self._answer(self._list)),
            Route("/api/sample", self._answer(self._bring_sample), methods=["POST"]),
            Route("/api/videos/{id}", self._answer(self._status)),
            Route("/api/videos/{id}", self._answer(self._delete), methods=["DELETE"]),
            Route("/api/videos/{id}/draft", self._answer(self._save_draft), methods=["PUT"]),
            Route("/api/videos/{id}/propose", self._answer(self._propose), methods=["POST"]),
            Route("/api/videos/{id}/track", self._answer(self._track), methods=["POST"]),
            Route("/api/videos/{id}/stop", self._answer(self._stop), methods=["POST"]),
            Route("/api/videos/{id}/frames/{frame}", self._answer(self._frame)),
            Route("/api/videos/{id}/{role}", self._answer(self._file)),
        ]
        self.asgi = Starlette(routes=routes, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeper.cancel()
            self.close()

    def close(self) -> None:
        self._jobs.close()
        self._prober.close()
        self._frames.close()
        self._store.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(60.0, max(0.2, self._limits.keep_seconds / 4)))
            await run_in_threadpool(self._store.sweep)
            await self._frames.rest()

    async def _index(self, request: Request) -> Response:
        response = self._page_file("index.html")
        if not self._store.known_visitor(request.cookies.get(self._cookie)):
            response.set_cookie(self._cookie, self._store.new_visitor(), httponly=True, samesite="lax", path="/")
        return response

    async def _asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        return self._page_file(name) if name in self._page else Response("not found", 404, _HEADERS)

    def _page_file(self, name: str) -> Response:
        return Response(self._page[name], media_type=_PAGE_TYPES[Path(name).suffix], headers=_HEADERS)

    async def _get_limits(self, request: Request) -> Response:
        limits = self._limits
        shown = ("upload_bytes", "frames", "pixels", "targets", "keep_seconds")
        return JSONResponse({name: getattr(limits, name) for name in shown}, headers=_HEADERS)

    def _answer(
        self, handler: Callable[[Request, str], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Give the handler the visitor's token, and turn refusals into answers."""

        @wraps(handler)
        async def answer(request: Request) -> Response:
            try:
                visitor = request.cookies.get(self._cookie)
                if visitor is None or not self._store.known_visitor(visitor):
                    raise RequestError(401, "this page is from before the server was started: load it again")
                if request.method not in ("GET", "HEAD") and CSRF_HEADER not in request.headers:
                    raise RequestError(403, f"requests that change something need the header {CSRF_HEADER}")
                return await handler(request, visitor)
            except (RequestError, QuotaExceeded, UserError) as error:
                status, message = getattr(error, "status", 400), str(error)
            except ClientDisconnect:
                status, message = 400, "the connection was closed"
            except asyncio.CancelledError:  # Ctrl-C, with this request still going on
                status, message = 503, "the server is closing"
            return JSONResponse({"error": message}, status, _HEADERS)

        return answer

    def _video(self, request: Request, visitor: str) -> Video:
        video = self._store.get(request.path_params["id"], visitor)
        if video is None:  # somebody else's videos do not exist either
            raise RequestError(404, "there is no such video: it was removed after its time, or is not yours")
        return video

    async def _upload(self, request: Request, visitor: str) -> Response:
        claimed = request.headers.get("content-length", "")
        if claimed and number(claimed) > self._limits.upload_bytes:
            raise self._too_large()
        async with self._turn(request.client.host if request.client else ""), self._new_folder() as folder:
            path = await self._receive(request, folder)
            video = await self._open(visitor, folder, path, clean_title(request.query_params.get("name", "")))
        return JSONResponse(video.snapshot(), 201, _HEADERS)

    @contextlib.asynccontextmanager
    async def _new_folder(self) -> AsyncIterator[Path]:
        """A folder for a video to come, which goes away with it where something goes wrong."""
        folder = await run_in_threadpool(self._store.new_folder)
        try:
            yield folder
        except BaseException:
            self._store.remove_folder(folder)
            raise

    @contextlib.asynccontextmanager
    async def _turn(self, address: str) -> AsyncIterator[None]:
        """A slot among the uploads of an address, then one among all."""
        end = time.monotonic() + self._limits.stall_seconds
        busy = QuotaExceeded("many videos are being received right now: try again in a minute")
        while self._uploads_of.get(address, 0) >= self._limits.uploads_per_address:
            if time.monotonic() > end:
                raise busy
            await asyncio.sleep(0.05)
        self._uploads_of[address] = self._uploads_of.get(address, 0) + 1
        try:
            await asyncio.wait_for(self._uploads.acquire(), max(0.1, end - time.monotonic()))
            try:
                yield
            finally:
                self._uploads.release()
        except TimeoutError:
            raise busy from None
        finally:
            self._uploads_of[address] -= 1
            if not self._uploads_of[address]:
                del self._uploads_of[address]

    def _too_large(self) -> RequestError:
        return RequestError(
            413, f"the file is over the limit of {self._limits.upload_bytes / MIB:.0f} MB: cut it into parts"
        )

    async def _receive(self, request: Request, folder: Path) -> Path:
        """Write the body to a file whose name says its container, and which holds no part of the visitor's name."""
        body = chunks(request, self._limits)
        size, buffer = 0, bytearray()
        path: Path | None = None
        async for chunk in body:
            size += len(chunk)
            buffer += chunk
            if size > self._limits.upload_bytes:
                raise self._too_large()
            if path is None and len(buffer) >= _HEAD:
                path = await self._name(bytes(buffer[:_HEAD]), folder, body)
            if path is not None and len(buffer) >= _CHUNK:
                await run_in_threadpool(self._append, path, bytes(buffer))
                buffer.clear()
        path = path or await self._name(bytes(buffer), folder, body)
        await run_in_threadpool(self._append, path, bytes(buffer))
        return path

    async def _name(self, head: bytes, folder: Path, body: AsyncIterator[bytes]) -> Path:
        suffix = container_of(head)
        if suffix is None:
            await drain(body)  # a browser that is still sending would not read the answer
            what = "the file is empty" if not head else "this is not a video that can be read"
            raise RequestError(415, f"{what}: give an MP4, WebM, MKV, MOV, AVI or MPEG file")
        return folder / f"source{suffix}"

    def _append(self, path: Path, data: bytes) -> None:
        self._store.reserve(path.parent, len(data))
        try:
            with path.open("ab") as stream:
                stream.write(data)
        except OSError as error:
            raise QuotaExceeded(f"the server cannot store the video ({error.strerror}): try again later") from error

    async def _open(
        self, visitor: str, folder: Path, path: Path, title: str, suggested: list[dict[str, Any]] | None = None
    ) -> Video:
        try:
            info = await run_in_threadpool(self._prober.call, {"probe": str(path)}, timeout=self._limits.probe_seconds)
        except UserError as error:
            raise RequestError(415, str(error)) from error
        except ChildFailure as error:
            log.warning("an upload was refused: %s", error)
            raise RequestError(415, "the video cannot be decoded: it is damaged or of an unsupported kind") from error
        video = Video(folder.name, visitor, folder, path, title, info, suggested or [])
        self._store.add(video)
        return video

    async def _bring_sample(self, request: Request, visitor: str) -> Response:
        """The demo clip, as if the visitor had uploaded it; it is painted at the first request."""
        origin = self._store.root / "sample.mp4"
        async with self._sample_lock:
            if self._sample is None:
                self._sample = await run_in_threadpool(self._paint_sample, origin)
        data = await run_in_threadpool(origin.read_bytes)
        async with self._new_folder() as folder:
            path = folder / "source.mp4"
            self._store.reserve(folder, len(data))
            await run_in_threadpool(path.write_bytes, data)
            video = await self._open(visitor, folder, path, "sample clip.mp4", self._sample["targets"])
        return JSONResponse(video.snapshot(), 201, _HEADERS)

    def _paint_sample(self, origin: Path) -> dict[str, Any]:
        process = WorkerProcess(partial(probe_setup, self._limits), "painting process")  # uploads go on meanwhile
        try:
            with contextlib.closing(process):
                return process.call({"sample": str(origin)}, timeout=300)
        except ChildFailure as error:
            log.error("%s", error)
            raise RequestError(500, "the sample clip could not be painted: bring a video of your own") from error

    async def _track(self, request: Request, visitor: str) -> Response:
        video = self._video(request, visitor)
        targets = check_targets((await json_body(request)).get("targets"), video.info, self._limits)
        self._jobs.submit(video, targets)
        return self._shown(video, 202)

    async def _save_draft(self, request: Request, visitor: str) -> Response:
        """Keep what is drawn but not tracked yet: for a reload, and for the visitor's other tabs."""
        video = self._video(request, visitor)
        video.save_draft(check_targets((await json_body(request)).get("targets"), video.info, self._limits, least=0))
        return JSONResponse({"edits": video.edits}, headers=_HEADERS)

    async def _status(self, request: Request, visitor: str) -> Response:
        return self._shown(self._video(request, visitor), after=number(request.query_params.get("after", "0")))

    def _shown(self, video: Video, status: int = 200, after: int = 0) -> Response:
        content = video.snapshot(after) | {"ahead": self._jobs.position(video)}
        return JSONResponse(content, status, _HEADERS)

    async def _list(self, request: Request, visitor: str) -> Response:
        shown = ("id", "title", "status", "frames", "tracked")
        videos = [video.snapshot(after=len(video.rows)) for video in self._store.of(visitor)]
        return JSONResponse([{name: video[name] for name in shown} for video in videos], headers=_HEADERS)

    async def _stop(self, request: Request, visitor: str) -> Response:
        video = self._video(request, visitor)
        self._jobs.stop(video)
        return self._shown(video)

    async def _delete(self, request: Request, visitor: str) -> Response:
        video = self._video(request, visitor)
        self._jobs.stop(video)
        await run_in_threadpool(self._store.remove, video)
        return JSONResponse({}, headers=_HEADERS)

    async def _frame(self, request: Request, visitor: str) -> Response:
        answer = await self._frames.ask(self._video(request, visitor), number(request.path_params["frame"]))
        return Response(base64.b64decode(answer["jpeg"]), media_type="image/jpeg", headers=_HEADERS)

    async def _propose(self, request: Request, visitor: str) -> Response:
        video, content = self._video(request, visitor), await json_body(request)
        frame, point = content.get("frame"), content.get("point")
        if type(frame) is not int or frame < 0 or not isinstance(point, list) or len(point) != 2:
            raise RequestError(400, "a click needs a frame and a point: x, y in pixels")
        sizes = (video.info["width"], video.info["height"])
        if not all(type(v) in (int, float) and 0 <= v <= size for v, size in zip(point, sizes, strict=True)):
            raise RequestError(400, "the click lies outside the frame")
        return JSONResponse(await self._frames.ask(video, frame, point=point), headers=_HEADERS)

    async def _file(self, request: Request, visitor: str) -> Response:
        video = self._video(request, visitor)
        path = video.file(request.path_params["role"])
        if path is None:
            raise RequestError(404, "there is no such file, or not yet")
        headers = dict(_HEADERS)
        if "download" in request.query_params:
            headers["Content-Disposition"] = f'attachment; filename="{download_name(video, path)}"'
        if path.suffix == ".jpg":  # small, and replaced while a run goes on
            data = await run_in_threadpool(path.read_bytes)
            return Response(data, media_type=MEDIA_TYPES[path.suffix], headers=headers)
        return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers=headers)
