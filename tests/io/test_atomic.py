"""A file appears whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mtnet.io.atomic import atomic_path


def test_what_was_written_appears_under_the_name(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("x")
        assert not (tmp_path / "a.json").exists()
    assert (tmp_path / "a.json").read_text() == "x"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_the_temporary_name_is_hidden_beside_the_target_and_keeps_every_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "volume-0.nii.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".volume-0.tmp-")
        assert temporary.suffixes[-2:] == [".nii", ".gz"]
        temporary.write_bytes(b"1")


def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="broken"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("broken")
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Nothing was written"), atomic_path(tmp_path / "a.json"):
        pass


def test_a_folder_that_is_missing_or_in_the_way_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"), atomic_path(tmp_path / "no" / "a.json"):
        pass
    with pytest.raises(IsADirectoryError, match="is a folder"), atomic_path(tmp_path):
        pass


def test_a_process_killed_while_writing_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom mtnet.io.atomic import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as t:\n"
        "    t.write_bytes(b'half')\n    print('written', flush=True)\n    time.sleep(60)\n"
    )
    target = tmp_path / "a.nii.gz"
    with subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert all(entry.name.startswith(".") for entry in tmp_path.iterdir())
