"""The command line: ``vil-tracker COMMAND``.

Each command lives beside its feature, in a module with ``add_options(parser)`` and ``run(args) -> int``. Only the
module of the command that was typed is imported, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from vil_tracker import __version__
from vil_tracker.errors import UserError, library_advice, require_extra

PROGRAM = "vil-tracker"

FIRST_STEPS = f"""\
ViL-Tracker {__version__}: give it a video and one box, and it follows that target to the end.

  vil-tracker track video.mp4 --select         draw a box with the mouse and follow it
  vil-tracker demo                             the same in the browser: drop a video, draw, watch
  vil-tracker train configs/nano_starter.yaml  train a network on your own data

All commands:      vil-tracker --help
One command:       vil-tracker track --help
Something wrong?   vil-tracker doctor
"""


#: By name: the module that holds the command, and its line in the list of commands.
COMMANDS: dict[str, tuple[str, str]] = {
    "track": ("vil_tracker.tracking.cli", "follow targets through a video, images, a camera or a stream"),
    "demo": ("vil_tracker.web.cli", "track in the browser: drop a video, draw a box, watch the result"),
    "train": ("vil_tracker.training.cli", "train a network"),
    "evaluate": ("vil_tracker.evaluation.cli", "measure a tracker on a benchmark"),
    "data": ("vil_tracker.data.cli", "index data sets ahead of a run, pack their pictures"),
    "export": ("vil_tracker.export.cli", "write the network for other runtimes"),
    "benchmark": ("vil_tracker.benchmarking.cli", "measure speed and memory"),
    "doctor": ("vil_tracker.doctor", "check the installation and say what to do about each problem"),
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, and whose epilogs keep their lines."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see: {self.prog} --help)")


def build_parser(command: str | None = None, *, everything: bool = False) -> Parser:
    """The parser, with the options of ``command`` only or of ``everything``; the others appear with their help line."""
    parser = Parser(prog=PROGRAM, description="A visual object tracker: give it a video and one box.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "--print-completion",
        choices=("bash", "zsh", "tcsh"),
        metavar="SHELL",
        help="print the completion script of bash, zsh or tcsh (completion extra)",
    )
    _add_verbosity(parser, quiet=False, verbose=False)
    parser.epilog = "vil-tracker COMMAND --help shows the options and examples of a command."
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (module, help) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=help)
        if everything or name == command:
            importlib.import_module(module).add_options(subparser)
            _add_verbosity(subparser, quiet=argparse.SUPPRESS, verbose=argparse.SUPPRESS)
    return parser


def _add_verbosity(parser: argparse.ArgumentParser, *, quiet: object, verbose: object) -> None:
    """The same options before and behind the command; the default is set once, before it."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", default=quiet, help="only say what went wrong")
    group.add_argument("-v", "--verbose", action="store_true", default=verbose, help="say more of what is done")


def _attach_negative_values(argv: Sequence[str]) -> list[str]:
    """Write ``--box -5,0,10,10`` as ``--box=-5,0,10,10``: argparse takes the value for an option otherwise."""
    joined: list[str] = []
    for token in argv:
        if joined and re.match(r"-[\d.]", token) and re.fullmatch(r"--[a-z][\w-]*", joined[-1]):
            joined[-1] += f"={token}"
        else:
            joined.append(token)
    return joined


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let the shell complete file names where an argument takes free text (the names are shtab's helpers)."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _complete_files(subparser)
        elif action.nargs != 0 and action.choices is None and action.type in (None, Path):
            helpers = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
            action.complete = helpers  # type: ignore[attr-defined]


def _find_command(argv: Sequence[str]) -> str | None:
    """The command in a command line: the first word that is no option (those before it take no value but one)."""
    words = iter(argv)
    for word in words:
        if word == "--print-completion":
            next(words, None)
        elif not word.startswith("-"):
            if word not in COMMANDS:
                near = difflib.get_close_matches(word, COMMANDS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
                raise UserError(f"there is no command {word!r}: {hint}")
            return word
    return None


class _StderrHandler(logging.StreamHandler):
    """Writes to whatever standard error is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _configure_logging(args: argparse.Namespace) -> None:
    """Messages go to standard error: warnings by default, errors with -q, everything with -v."""
    level = logging.ERROR if args.quiet else logging.DEBUG if args.verbose else logging.WARNING
    package = logging.getLogger("vil_tracker")
    package.setLevel(level)
    if not package.handlers:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter(f"{PROGRAM}: %(message)s"))
        package.addHandler(handler)
        package.propagate = False


@contextlib.contextmanager
def suppress_native_stderr() -> Iterator[None]:
    """Keep what libraries print away from standard error: of a damaged file, our one line says it better.

    OpenCV, FFmpeg and Qt have a setting; libpng, libjpeg and others write to file descriptor 2 whatever is set, so
    it leads nowhere meanwhile, and Python's ``sys.stderr`` to where it led before. Python's warnings are for
    developers, who see them with --verbose.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")
    ours = sys.stderr
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        try:
            kept = os.dup(2)
        except OSError:  # closed: nobody listens anyhow
            yield
            return
        stack.callback(os.close, kept)
        stack.callback(os.dup2, kept, 2)
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        if _is_descriptor_2(ours):
            ours.flush()
            sys.stderr = open(
                kept, "w", buffering=1, encoding=ours.encoding, errors=ours.errors, newline="", closefd=False
            )
            stack.callback(setattr, sys, "stderr", ours)
            stack.callback(sys.stderr.flush)
        yield


def _is_descriptor_2(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.fileno() == 2
    except (OSError, ValueError):  # a stream in memory, as in notebooks
        return False


def guarded(action: Callable[[], int]) -> int:
    """Run ``action`` and return its exit status, with the faults that a user meets as one line on stderr.

    The status is 2 where the user can mend it, 130 after an interruption.
    """
    try:
        return action()
    except UserError as error:
        print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ImportError as error:
        advice = library_advice(error)
        if advice is None:
            raise
        print(f"{PROGRAM}: a package cannot be loaded ({' '.join(str(error).split())}): {advice}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (MemoryError, RuntimeError) as error:
        kind = type(error).__name__  # PyTorch's error on the CPU has no type of its own
        if not isinstance(error, MemoryError) and kind != "OutOfMemoryError" and "allocate memory" not in str(error):
            raise
        print(f"{PROGRAM}: the memory is not enough: give smaller pictures, batches or networks", file=sys.stderr)
        return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding has no letters for
            stream.reconfigure(errors="backslashreplace")
    if not words:
        print(FIRST_STEPS, end="")
        return 0
    if {"-v", "--verbose"} & set(words):
        return guarded(lambda: _run(words))
    with suppress_native_stderr():
        return guarded(lambda: _run(words))


def _run(words: list[str]) -> int:
    args = build_parser(_find_command(words)).parse_args(_attach_negative_values(words))
    _configure_logging(args)
    if args.print_completion:
        shtab = require_extra("shtab", "completion", "print shell completion")
        parser = build_parser(everything=True)
        _complete_files(parser)
        print(shtab.complete(parser, shell=args.print_completion))
        return 0
    if args.command is None:
        raise UserError("say what to do: vil-tracker COMMAND, such as vil-tracker track (see: vil-tracker --help)")
    return int(importlib.import_module(COMMANDS[args.command][0]).run(args) or 0)


if __name__ == "__main__":
    sys.exit(main())
