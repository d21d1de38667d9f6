"""The command line as a whole: help, mistakes, lazy loading, logging."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from types import ModuleType

import pytest

from vil_tracker import __version__, cli


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command, whose module is given by the test."""
    module = ModuleType("vil_tracker._test_work")

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--box")
        parser.add_argument("--fail")

    def run(args: argparse.Namespace) -> int:
        logging.getLogger("vil_tracker.test").info("detail")
        logging.getLogger("vil_tracker.test").warning("note")
        if args.fail:
            raise {"user": cli.UserError("a\nb"), "interrupt": KeyboardInterrupt(), "bug": ZeroDivisionError()}[
                args.fail
            ]
        print(args.box)
        return 0

    module.add_options, module.run = add_options, run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, "COMMANDS", {"work": (module.__name__, "do work")})


def test_without_arguments_three_things_to_do_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  vil-tracker ")]
    assert len(lines) == 3
    for line in lines:
        assert line.split()[1] in cli.COMMANDS


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "example" in text and f"vil-tracker {name}" in text.split("example", 1)[1]


def test_list_of_commands_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["--version"]):
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        assert left.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in cli.COMMANDS) and __version__ in text


def test_help_and_mistakes_do_not_import_the_network() -> None:
    script = (
        "import sys; from vil_tracker.cli import main\n"
        "for words in ([], ['--help'], ['track', '--help'], ['track'], ['nonsense']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "assert not {'torch', 'cv2', 'numpy'} & set(sys.modules), 'imported'\n"
        "assert main(['track', 'no-such-file.mp4', '--box', '1,2,3,4']) == 2\n"
        "assert 'torch' not in sys.modules, 'imported to say that a file is missing'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "vil_tracker", "--version"], capture_output=True, text=True)
    assert done.stdout.strip() == f"vil-tracker {__version__}" and done.returncode == 0


@pytest.mark.parametrize(
    "words, message",
    [(["trakc"], "did you mean track?"), (["xyzzy"], "choose from track"), (["-q"], "say what to do"),
     (["track"], "required: SOURCE"), (["track", "a", "b"], "unrecognized arguments: b"),
     (["track", "a", "--frames", "many"], "invalid int value"), (["track", "a", "--box"], "expected one argument")],
)  # fmt: skip
def test_mistakes_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert message in printed.err and printed.err.startswith("vil-tracker: ")


@pytest.mark.parametrize("box", ["-5,0,10,10", "-.5,0,1,1", "5,-1,2,2"])
def test_values_may_be_negative(commands, box: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["work", "--box", box]) == 0
    assert capsys.readouterr().out == f"{box}\n"


def test_exit_status_tells_what_happened(commands, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["work", "--fail", "user"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "vil-tracker: a b"
    assert cli.main(["work", "--fail", "interrupt"]) == 130
    assert "interrupted" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        cli.main(["work", "--fail", "bug"])


@pytest.mark.parametrize(
    "words, wanted",
    [(["work"], {"note"}), (["work", "-q"], set()), (["-q", "work"], set()),
     (["work", "--verbose"], {"note", "detail"}), (["-v", "work"], {"note", "detail"})],
)  # fmt: skip
def test_quiet_and_verbose(commands, words: list[str], wanted: set[str], capfd, monkeypatch) -> None:
    logger = logging.getLogger("vil_tracker")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)
    assert cli.main(words) == 0
    assert {line.split(": ")[1] for line in capfd.readouterr().err.splitlines()} == wanted
    logger.setLevel(logging.NOTSET)


def test_completion_script(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    for shell in ("bash", "zsh", "tcsh"):
        assert cli.main(["--print-completion", shell]) == 0
        text = capsys.readouterr().out
        assert "track" in text and "stride" in text
        assert {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}[shell] in text


def test_completion_without_its_extra_names_the_extra(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["--print-completion", "bash"]) == 2
    assert "vil-tracker[completion]" in capsys.readouterr().err


def test_threads_wait_briefly_unless_told_otherwise() -> None:
    """Set before anything imports torch, whose OpenMP reads it then; what the user has set stays."""
    code = (
        "import os, sys; from vil_tracker.cli import main; assert 'torch' not in sys.modules; main([]); "
        "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )

    def said(**settings: str) -> str:
        plain = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=plain | settings, check=True, capture_output=True, text=True)
        return done.stdout.splitlines()[-1]

    assert said() == "1000 False"
    assert said(GOMP_SPINCOUNT="7") == "7 False"
    assert said(OMP_WAIT_POLICY="active") == "None False"
