"""``vil-tracker demo``: the tracker as a web page."""

from __future__ import annotations

import argparse
import re
import secrets
import sys

from vil_tracker.config.command_line import add_model_options, add_track_options, track_config
from vil_tracker.errors import UserError

EPILOG = """\
examples:
  vil-tracker demo                                  then open the address that it prints
  vil-tracker demo --open --port 8000               opens the browser itself
  vil-tracker demo --weights runs/mine/best.safetensors
  vil-tracker demo --host 0.0.0.0 --workers 2 --max-mb 100     for everybody in the network

The page runs on this computer: videos go nowhere else, and are deleted after an hour and at the end.
"""


LIMITS = {
    "workers": (1, "videos tracked at once (default 1)"),
    "queue": (16, "videos that may wait (default 16)"),
    "max_mb": (512, "size of a video file (default 512)"),
    "max_frames": (9000, "length of a video (default 9000)"),
    "max_megapixels": (9.5, "size of a frame (default 9.5: 4K)"),
    "disk_mb": (8192, "all files of all visitors (default 8192)"),
    "keep_minutes": (60.0, "age at which files are deleted (default 60)"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``demo``, its description and its examples."""
    parser.description = (
        "Serve a web page on which a video is dropped, a box drawn, and the result watched (demo extra)."
    )
    parser.epilog = EPILOG
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default 127.0.0.1: this computer)")
    parser.add_argument("--port", type=int, default=7860, help="port, or 0 for any free one (default 7860)")
    parser.add_argument(
        "--token", metavar="TEXT", help="ask for this token (default: a new one if others can reach the page)"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="further name of the page, as of a proxy"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    model = parser.add_argument_group("model")
    add_model_options(model)
    add_track_options(model)
    limits = parser.add_argument_group("limits")
    for name, (default, help) in LIMITS.items():
        option = f"--{name.replace('_', '-')}"
        limits.add_argument(option, type=type(default), default=default, metavar="N", help=help)


def run(args: argparse.Namespace) -> int:
    """Run ``demo`` until it is interrupted; returns 0."""
    from functools import partial

    from vil_tracker.errors import require_extra
    from vil_tracker.tracking.cli import load_tracker_factory
    from vil_tracker.web.limits import MIB, Limits
    from vil_tracker.web.server import build, is_loopback, listen

    for module in ("starlette", "uvicorn"):
        require_extra(module, "demo", "serve the web page")
    for name in LIMITS:
        if not 0 < (value := getattr(args, name)) < 1e9:
            raise UserError(f"--{name.replace('_', '-')} {value} is out of range: give a number above 0")
    if not 0 <= args.port <= 65535:
        raise UserError(f"--port {args.port} is out of range: give a number up to 65535, or 0 for any free port")
    from vil_tracker.web.guard import lan_address

    limits = Limits(
        upload_bytes=args.max_mb * MIB,
        frames=args.max_frames,
        pixels=round(args.max_megapixels * 1e6),
        workers=args.workers,
        waiting=args.queue,
        stored_bytes=args.disk_mb * MIB,
        keep_seconds=args.keep_minutes * 60,
    )
    quiet = getattr(args, "quiet", False)
    load = partial(load_tracker_factory, args.weights, args.device, track_config(args))
    if args.token is not None and not re.fullmatch(r"[\w.~-]{8,200}", args.token, re.ASCII):
        raise UserError("--token is no token: give at least 8 letters, digits or any of -._~")
    token = args.token or ("" if is_loopback(args.host) else secrets.token_urlsafe(16))
    listener = listen(args.host, args.port)
    try:
        if not quiet:
            print("loading the network …", file=sys.stderr)
        server, close = build(load, limits, listener, args.host, token=token, allow_hosts=args.allow_host)
        try:
            port = listener.getsockname()[1]
            suffix = f"?token={token}" if token else ""
            address = _address(args.host, port) + suffix
            if not quiet:
                print(f"the page is at  {address}  (Ctrl-C ends it)", flush=True)
                if args.host in ("0.0.0.0", "::") and (lan := lan_address()):
                    print(f"for others in the network  {_address(lan, port)}{suffix}", flush=True)
                if not is_loopback(args.host):
                    print("everybody who has this link and can reach this computer can use it", file=sys.stderr)
            if args.open:
                import webbrowser

                listener.listen()  # the browser may be quicker than the server
                webbrowser.open(address)
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            pass  # the usual way to end it
        finally:
            close()
    finally:
        listener.close()
    return 0


def _address(host: str, port: int) -> str:
    """What to type into a browser on this computer."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}/"
