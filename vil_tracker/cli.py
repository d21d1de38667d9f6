"""The command line: ``vil-tracker COMMAND``.

Each command lives beside its feature, in a module with ``add_parser(subparsers)`` and ``run(args) -> int``. Only the
module of the command that was typed is imported, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vil_tracker import __version__
from vil_tracker.errors import UserError, require_extra

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


@dataclass(frozen=True)
class Command:
    """One command: the module that holds it, and its line in the list of commands."""

    module: str
    help: str


COMMANDS = {
    "track": Command("vil_tracker.tracking.cli", "follow targets through a video, images, a camera or a stream"),
    "demo": Command("vil_tracker.web.cli", "track in the browser: drop a video, draw a box, watch the result"),
    "train": Command("vil_tracker.training.cli", "train a network"),
    "evaluate": Command("vil_tracker.evaluation.cli", "measure a tracker on a benchmark"),
    "data": Command("vil_tracker.data.cli", "unpack a data set's archives"),
    "export": Command("vil_tracker.export.cli", "write the network for other runtimes"),
    "benchmark": Command("vil_tracker.benchmarking.cli", "measure speed and memory"),
    "doctor": Command("vil_tracker.doctor", "check the installation and say what to do about each problem"),
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

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
    for name, entry in COMMANDS.items():
        if everything or name == command:
            try:
                importlib.import_module(entry.module).add_parser(subparsers)
            except ModuleNotFoundError as error:
                if error.name is None or not entry.module.startswith(error.name):
                    raise
                if not everything:
                    raise UserError(f"this installation has no command {name}: install vil-tracker anew") from error
                continue
            _add_verbosity(subparsers.choices[name], quiet=argparse.SUPPRESS, verbose=argparse.SUPPRESS)
        else:
            subparsers.add_parser(name, help=entry.help)
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


def _configure_logging(args: argparse.Namespace) -> None:
    """Messages go to standard error: warnings by default, errors with -q, everything with -v."""
    level = logging.ERROR if args.quiet else logging.DEBUG if args.verbose else logging.WARNING
    package = logging.getLogger("vil_tracker")
    package.setLevel(level)
    if not package.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(f"{PROGRAM}: %(message)s"))
        package.addHandler(handler)
        package.propagate = False


def _silence_native_logs() -> None:
    """OpenCV and FFmpeg print lines of their own for a damaged file; our one line says it better. Qt misses fonts."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")


def guarded(action: Callable[[], int]) -> int:
    """Run ``action`` and return its exit status, with the faults that a user meets told in one line on stderr.

    The status is 2 where the user can mend it, 130 after an interruption.
    """
    try:
        return action()
    except UserError as error:
        print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        print(FIRST_STEPS, end="")
        return 0
    if not {"-v", "--verbose"} & set(words):
        _silence_native_logs()
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
    return int(importlib.import_module(COMMANDS[args.command].module).run(args) or 0)


if __name__ == "__main__":
    sys.exit(main())
