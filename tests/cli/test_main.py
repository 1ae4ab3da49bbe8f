from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import pytest

from mtnet.cli import infer, main
from mtnet.structures import RefusedError, ReportLine


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(infer, "run", run)


ARGUMENTS = ["infer", "in", "out", "--bundle", "b"]


def test_help_answers_in_half_a_second() -> None:
    # The processor's seconds, so that a busy machine does not fail it.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "mtnet", "--help"], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "infer" in done.stdout and "Exit codes" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, mtnet.cli.main as main\n"
        "try: main.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    heavy = "numpy scipy torch monai pydicom highdicom itk SimpleITK nibabel ignite PIL psutil jsonschema tqdm fire"
    assert loaded.isdisjoint(heavy.split())
    assert "mtnet" in loaded


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["infer"], ["infer", "in", "out"], [*ARGUMENTS, "--strict", "--repair"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(arguments)
    assert stopped.value.code == 2
    assert "usage: mtnet" in capsys.readouterr().err


def test_no_command_shows_the_help_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    assert "COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["scan", "convert", "infer", "demo", "info"])
def test_each_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main([command, "--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    assert f"Example: mtnet {command}" in " ".join(told.split()) and "--debug" in told


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (RefusedError([ReportLine("eight_bit_ct", "refused", "Too few bits.", "a.dcm")]), 1, "Too few bits. [a.dcm]"),
        (ValueError("threshold is 3; expected 0..1"), 1, "expected 0..1"),
        (FileNotFoundError("nothing there"), 1, "nothing there"),
        (MemoryError(), 1, "not enough memory"),
        (KeyError("pred"), 3, "failed unexpectedly (KeyError: 'pred')"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_a_message_with_a_code_and_no_traceback(
    error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(error, monkeypatch)
    assert main.main(ARGUMENTS) == code
    shown = capsys.readouterr()
    assert told in shown.err and "Traceback" not in shown.err and shown.out == ""


@pytest.mark.parametrize("arguments", [["--debug", *ARGUMENTS], [*ARGUMENTS, "--debug"]])
def test_debug_lets_the_traceback_through(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(ValueError("seen whole"), monkeypatch)
    with pytest.raises(ValueError, match="seen whole"):
        main.main(arguments)


def test_text_from_files_does_not_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [ReportLine("a", "refused", "One.", "x\x1b[2Jy"), ReportLine("b", "refused", "Two.")]
    fail_with(RefusedError(lines), monkeypatch)
    assert main.main(ARGUMENTS) == 1
    assert capsys.readouterr().err == "mtnet infer: One. [x?[2Jy] (a)\nTwo. (b)\n"


def test_the_module_runs_as_the_command_and_refuses_with_1() -> None:
    command = [sys.executable, "-m", "mtnet", "infer", "no/such/place", "out", "--bundle", "chest_ct_multitask"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no/such/place does not exist" in done.stderr and "Traceback" not in done.stderr
