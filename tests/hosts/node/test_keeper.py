from __future__ import annotations

import io

import pytest

from mtnet.hosts.node.intake import Intake
from mtnet.hosts.node.keeper import recover, remove_study
from mtnet.hosts.node.ledger import Ledger, Received
from mtnet.hosts.node.lines import Lines, Pseudonyms, without_uids
from mtnet.hosts.node.node import only_one
from mtnet.hosts.node.overview import overview
from tests.hosts.node.services import ROUTE, node_config


@pytest.fixture(name="ledger")
def _ledger(tmp_path):
    ledger = Ledger(tmp_path)
    yield ledger
    ledger.close()


def keep(state, ledger, count=3):
    intake = Intake(state, ledger, Pseudonyms(state), node_config(state).receiver)
    try:
        for number in range(count):
            one = Received("1.2", f"1.2.{number}", "1.3", "CT", "", f"{number}.dcm", 4, f"{number}", counts=True)
            assert intake.keep(one, (b"ab", memoryview(b"cd"))).outcome == "new"
    finally:
        intake.stop()


def test_what_a_crash_left_is_removed_and_what_was_acknowledged_stays(tmp_path, ledger):
    keep(tmp_path, ledger)
    half = tmp_path / "objects" / "half.dcm"
    half.write_bytes(b"a")
    for name in ("work/1-1/input", "answers/77"):
        (tmp_path / name).mkdir(parents=True)
    recover(node_config(tmp_path), ledger, Lines(io.StringIO()))
    assert sorted(path.name for path in (tmp_path / "objects").iterdir()) == ["0.dcm", "1.dcm", "2.dcm"]
    assert not (tmp_path / "work").exists()
    assert list((tmp_path / "answers").iterdir()) == []
    assert overview(ledger)[0]["state"] == "receiving"


def test_files_that_are_lost_set_their_study_aside(tmp_path, ledger):
    keep(tmp_path, ledger)
    (tmp_path / "objects" / "1.dcm").unlink()
    stream = io.StringIO()
    recover(node_config(tmp_path), ledger, Lines(stream))
    assert '"lost_objects": 1' in stream.getvalue()
    assert (overview(ledger)[0]["state"], overview(ledger)[0]["reason"]) == ("aside", "files_lost")


def test_an_answer_that_was_made_is_kept_until_it_is_forgotten(tmp_path, ledger):
    keep(tmp_path, ledger)
    ledger.complete(0, [ROUTE])
    task = ledger.next_task()
    ledger.answered(task, ["folder"], [])
    answer = tmp_path / "answers" / str(task.id)
    answer.mkdir(parents=True)
    recover(node_config(tmp_path), ledger, Lines(io.StringIO()))
    assert answer.is_dir()
    remove_study(tmp_path, ledger, "1.2")
    assert not answer.exists()
    assert list((tmp_path / "objects").iterdir()) == []


def test_the_pseudonym_of_a_uid_is_the_same_for_one_state_folder_only(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    here, again, elsewhere = (Pseudonyms(tmp_path / name).of("1.2.3") for name in "aab")
    assert here == again != elsewhere
    assert (tmp_path / "a" / "pseudonyms.key").stat().st_mode & 0o777 == 0o600


def test_sentences_lose_their_uids_and_keep_their_addresses():
    told = "http://127.0.0.1:80/x was asked for series 1.2.840.10008.5.1 and answered HTTP 500."
    assert without_uids(told) == "http://127.0.0.1:80/x was asked for series (UID) and answered HTTP 500."


def test_a_state_folder_is_held_by_one_node_until_it_ends(tmp_path):
    with only_one(tmp_path), pytest.raises(BlockingIOError, match="in use by another node"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_a_reader_of_the_log_that_has_gone_away_stops_nothing():
    stream = io.StringIO()
    stream.close()
    Lines(stream).tell("anything", study="ab")
