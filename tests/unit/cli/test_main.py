"""The command line's frame: commands, help, exit codes."""

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arqonbus import cli
from arqonbus.cli import COMMANDS, Failure, main
from arqonbus.cli.table import print_table, printable

RUN = "import sys; from arqonbus.cli import main; sys.exit(main())"
ROOT = Path(__file__).parents[3]


def test_help_lists_every_command_and_imports_none() -> None:
    """Help is instant because nothing is loaded for it."""
    code = f"import sys\ntry:\n {RUN}\nfinally: print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    for name, summary in COMMANDS.items():
        assert name in done.stdout
        assert summary in done.stdout
    loaded = set(done.stdout.splitlines())
    assert {"arqonbus", "arqonbus.cli"} <= loaded
    assert not {name for name in loaded if name.startswith("arqonbus.cli.")}
    assert not loaded & {"pydantic", "asyncio", "arqonbus.config", "joserfc"}


@pytest.mark.parametrize("name", [name for name in COMMANDS if (ROOT / f"arqonbus/cli/{name}.py").exists()])
def test_a_command_is_a_module_that_says_what_the_root_says(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its help ends with examples, and every command has --json."""
    assert COMMANDS[name] == importlib.import_module(f"arqonbus.cli.{name}").SUMMARY
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """With a guess at what was meant."""
    with pytest.raises(SystemExit) as caught:
        main(["profle"])
    assert caught.value.code == 2
    assert "'profle' is not a command; did you mean profile?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--json", "profile"])
    assert "no command given; write the command first, then its options" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["eyJhbGciOi.canary.c2ln", "--tokn=canary"])
def test_what_nothing_takes_is_not_repeated(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be a secret in the wrong place."""
    with pytest.raises(SystemExit) as ended:
        main(["status", wrong])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "canary" not in said
    assert "see --help" in said


def test_no_command_shows_the_help_and_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """A script that forgot the command does not go on."""
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], int]], None]:
    """Puts a function in the place of `serve`."""

    def install(run: Callable[[Any], int]) -> None:
        module = types.ModuleType("arqonbus.cli.serve")
        vars(module).update(SUMMARY="x", configure=lambda parser: None, run=run)
        monkeypatch.setitem(sys.modules, "arqonbus.cli.serve", module)

    return install


def test_a_failure_is_one_sentence_and_its_code(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback reaches a user."""

    def run(_: Any) -> int:
        raise Failure("the port is taken; choose another", 4)

    command(run)
    assert main(["serve"]) == 4
    assert capsys.readouterr().err == "arqonbus: the port is taken; choose another\n"


def test_an_interrupt_is_quiet(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends with 130 and prints nothing."""

    def run(_: Any) -> int:
        raise KeyboardInterrupt

    command(run)
    assert main(["serve"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_goes_away_is_quiet() -> None:
    """`arqonbus … | head -1` prints no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", RUN, "profile", "schema"], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (cli.BROKEN_PIPE, b"")


@pytest.mark.parametrize(
    "command", [("profile", "show"), ("capacity",), ("preflight", "--list")], ids=" ".join
)
def test_a_full_disk_is_a_sentence(command: tuple[str, ...]) -> None:
    """Output that cannot be written ends the command with 1 and without a traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", RUN, *command], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    sentence = "arqonbus: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, sentence)


def test_a_table_is_aligned_and_has_no_colour_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers stand on the right; the end of a line has no spaces; control characters are shown."""
    print_table(("ROOM", "N"), [("orders", 5), ("a\x1b[31m", 1200)])
    assert capsys.readouterr().out.splitlines() == [
        "ROOM          N",
        "orders        5",
        "a\\x1b[31m  1200",
    ]
    assert printable("é\n\x07") == "é\\n\\x07"
