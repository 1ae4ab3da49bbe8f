from __future__ import annotations

import threading

import pytest

from mtnet.hosts.node.config import Retry, Route
from mtnet.hosts.node.ledger import Ledger, Received
from mtnet.hosts.node.overview import counts, find, overview

CHEST = Route("chest", "bundle", ("pacs", "folder"), modality=("CT",), body_part=("CHEST", "THORAX"))
ANY = Route("any", "bundle", ("pacs",))
RETRY = Retry(first_s=10, factor=2, most_s=25, attempts=4)


class Clock:
    """A time that tests set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(name="clock")
def _clock():
    return Clock()


@pytest.fixture(name="ledger")
def _ledger(tmp_path, clock):
    ledger = Ledger(tmp_path, clock)
    yield ledger
    ledger.close()


def an_object(uid="1.1", study="1", sha256="aa", **facts) -> Received:
    given = {"series_uid": "1.0", "modality": "CT", "body_part": "CHEST", "counts": True} | facts
    return Received(study_uid=study, sop_uid=uid, file=f"{uid}-{sha256}.dcm", bytes=10, sha256=sha256, **given)


def keep(ledger, *objects, most_instances=100, most_bytes=10_000):
    entries = [(one, f"p{one.study_uid}") for one in objects]
    return [kept.outcome for kept in ledger.keep(entries, most_instances=most_instances, most_bytes=most_bytes)]


def study_of(ledger, number=0):
    return overview(ledger)[number]


def answered(ledger, clock, *objects):
    """A study whose answer is on disk."""
    keep(ledger, *(objects or (an_object(),)))
    clock.now += 60
    assert ledger.complete(30, [CHEST]) == [("p1", ["chest"])]
    task = ledger.next_task()
    assert ledger.answered(task, CHEST.destination, ["9.1", "9.2"])
    return task


def test_a_study_is_complete_after_a_quiet_time(ledger, clock):
    keep(ledger, an_object("1.1"))
    clock.now += 29
    assert ledger.complete(30, [CHEST]) == []
    keep(ledger, an_object("1.2"))
    clock.now += 29
    assert ledger.complete(30, [CHEST]) == []
    clock.now += 1
    assert ledger.complete(30, [CHEST]) == [("p1", ["chest"])]
    assert ledger.complete(30, [CHEST]) == []


def test_a_clock_that_was_set_back_does_not_keep_a_study_waiting(ledger, clock):
    keep(ledger, an_object())
    clock.now -= 3600
    assert ledger.complete(30, [CHEST]) == [("p1", ["chest"])]


def test_a_route_takes_the_series_that_match_it(ledger, clock):
    keep(ledger, an_object("1.1"), an_object("1.2", modality="MR"), an_object("1.3", body_part="UPPER THORAX AND NECK"))
    clock.now += 60
    assert ledger.complete(30, [CHEST, ANY]) == [("p1", ["chest", "any"])]
    assert sorted(ledger.files("1", CHEST)) == ["1.1-aa.dcm", "1.3-aa.dcm"]
    assert len(ledger.files("1", ANY)) == 3


def test_a_study_without_a_route_is_told_and_becomes_old(ledger, clock):
    keep(ledger, an_object(modality="MR"))
    clock.now += 60
    assert ledger.complete(30, [CHEST]) == [("p1", [])]
    assert study_of(ledger)["reason"] == "no_route_matches"
    assert ledger.old_studies(100) == []
    clock.now += 60
    assert ledger.old_studies(100) == ["1"]


def test_the_same_object_twice_changes_nothing(ledger, clock):
    answered(ledger, clock)
    assert keep(ledger, an_object()) == ["duplicate"]
    assert study_of(ledger)["state"] == "complete"
    assert study_of(ledger)["instances"] == 1


def test_an_object_of_the_same_uid_and_other_content_takes_its_place(ledger, clock):
    answered(ledger, clock)
    (kept,) = ledger.keep([(an_object(sha256="bb"), "p1")], most_instances=9, most_bytes=99)
    assert (kept.outcome, kept.unused) == ("replaced", "1.1-aa.dcm")
    told = study_of(ledger)
    assert (told["state"], told["generation"], told["instances"], told["bytes"]) == ("receiving", 2, 1, 10)
    assert ledger.files("1", CHEST) == ["1.1-bb.dcm"]


def test_an_object_that_the_node_made_itself_is_not_taken(ledger, clock):
    answered(ledger, clock)
    assert keep(ledger, an_object("9.1")) == ["own"]
    assert study_of(ledger)["state"] == "complete"


def test_what_no_network_reads_does_not_set_a_study_going_again(ledger, clock):
    answered(ledger, clock)
    assert keep(ledger, an_object("5.1", modality="SR", counts=False)) == ["new"]
    assert (study_of(ledger)["state"], study_of(ledger)["instances"]) == ("complete", 2)


def test_a_late_instance_voids_what_was_not_sent_yet(ledger, clock):
    answered(ledger, clock)
    assert ledger.next_delivery("pacs") is not None
    keep(ledger, an_object("1.2"))
    assert ledger.next_delivery("pacs") is None
    clock.now += 60
    assert ledger.complete(30, [CHEST]) == [("p1", ["chest"])]
    assert ledger.next_task().generation == 2


def test_an_answer_that_a_late_instance_overtook_is_void(ledger, clock):
    keep(ledger, an_object())
    clock.now += 60
    ledger.complete(30, [CHEST])
    task = ledger.next_task()
    keep(ledger, an_object("1.2"))
    assert not ledger.answered(task, CHEST.destination, ["9.1"])
    assert ledger.next_delivery("pacs") is None
    assert keep(ledger, an_object("9.1")) == ["new"], "it was never sent, so it is not its own"


def test_a_study_that_grows_too_large_is_set_aside_and_can_be_retried(ledger, clock):
    assert keep(ledger, an_object("1.1"), an_object("1.2"), most_instances=1) == ["new", "too_large"]
    assert keep(ledger, an_object("2.1", study="2"), most_bytes=5) == ["too_large"]
    assert [one["reason"] for one in overview(ledger)] == ["too_large", "too_large"]
    clock.now += 60
    assert ledger.complete(30, [CHEST]) == []
    assert ledger.retry("1") == 1
    assert ledger.complete(30, [CHEST]) == [("p1", ["chest"])]


def test_a_failed_task_waits_longer_each_time_and_is_then_set_aside(ledger, clock):
    keep(ledger, an_object())
    clock.now += 60
    ledger.complete(30, [CHEST])
    pauses = []
    while (task := ledger.next_task()) is not None:
        pauses.append(ledger.task_failed(task, "out of luck", RETRY))
        assert ledger.next_task() is None
        clock.now += pauses[-1] or 10_000
    assert pauses == [10, 20, 25, None]
    assert study_of(ledger)["tasks"][0]["reason"] == "out of luck"
    assert counts(ledger)["task_aside"] == 1
    assert ledger.retry() == 1
    assert ledger.next_task().attempts == 1


def test_a_refused_task_is_set_aside_at_once(ledger, clock):
    keep(ledger, an_object())
    clock.now += 60
    ledger.complete(30, [CHEST])
    assert ledger.task_failed(ledger.next_task(), "no_series_suits", None) is None
    assert study_of(ledger)["tasks"][0]["state"] == "aside"


def test_a_task_is_done_when_every_destination_has_it(ledger, clock):
    answered(ledger, clock)
    first, second = ledger.next_delivery("pacs"), ledger.next_delivery("folder")
    assert not ledger.delivered(first)
    pauses = [ledger.delivery_failed(second, "away", RETRY)]
    assert ledger.next_delivery("folder") is None
    while (second := ledger.next_delivery("folder")) is not None or clock.now < 1100:
        if second is not None:
            pauses.append(ledger.delivery_failed(second, "away", RETRY))
        clock.now += 5
    assert pauses[:3] == [10, 20, 25]
    ledger.retry("1")
    assert ledger.delivered(ledger.next_delivery("folder"))
    assert study_of(ledger)["tasks"][0]["state"] == "done"
    clock.now += 10_000
    assert ledger.old_studies(5000) == ["1"]


def test_a_study_with_something_that_was_set_aside_does_not_become_old(ledger, clock):
    keep(ledger, an_object())
    clock.now += 60
    ledger.complete(30, [CHEST])
    ledger.task_failed(ledger.next_task(), "refused", None)
    clock.now += 1e7
    assert ledger.old_studies(1) == []


def test_what_ran_when_the_node_ended_is_ready_again(ledger, clock):
    keep(ledger, an_object())
    clock.now += 60
    ledger.complete(30, [CHEST])
    ledger.next_task()
    ledger.recover(["pacs", "folder"])
    assert ledger.next_task().attempts == 2


def test_what_is_to_be_sent_to_nobody_is_set_aside(ledger, clock):
    answered(ledger, clock)
    ledger.recover(["folder"])
    assert ledger.next_delivery("pacs") is None
    assert ledger.next_delivery("folder") is not None
    reasons = {sent["destination"]: sent["reason"] for sent in study_of(ledger)["tasks"][0]["deliveries"]}
    assert reasons == {"pacs": "destination_is_gone", "folder": ""}


def test_the_time_when_nobody_listened_does_not_make_a_study_complete(ledger, clock):
    keep(ledger, an_object())
    clock.now += 3600
    ledger.recover(["pacs", "folder"])
    assert ledger.complete(30, [CHEST]) == []
    clock.now += 30
    assert ledger.complete(30, [CHEST]) == [("p1", ["chest"])]


def test_a_study_that_is_being_sent_is_not_complete(ledger, clock):
    keep(ledger, an_object(), an_object(study="2"))
    clock.now += 3600
    assert ledger.complete(30, [CHEST], busy={"1"}) == [("p2", ["chest"])]


def test_a_task_that_is_put_back_has_not_used_an_attempt(ledger, clock):
    keep(ledger, an_object())
    clock.now += 60
    ledger.complete(30, [CHEST])
    ledger.put_back(ledger.next_task())
    assert ledger.next_task().attempts == 1


def test_rows_whose_files_are_lost_set_the_study_aside_until_they_are_sent_again(ledger):
    keep(ledger, an_object("1.1"), an_object("1.2"))
    ledger.files_lost(["1.1-aa.dcm"])
    told = study_of(ledger)
    assert (told["state"], told["reason"], told["instances"], told["bytes"]) == ("aside", "files_lost", 1, 10)
    assert keep(ledger, an_object("1.1")) == ["new"]
    assert study_of(ledger)["state"] == "receiving"


def test_a_forgotten_study_leaves_nothing(ledger, clock):
    task = answered(ledger, clock)
    assert ledger.forget("1") == (["1.1-aa.dcm"], [task.id])
    assert overview(ledger) == []
    assert ledger.next_delivery("pacs") is None
    assert ledger.known_files() == set()


def test_a_study_is_found_by_uid_or_the_beginning_of_its_pseudonym(ledger):
    keep(ledger, an_object(study="1.23"), an_object(study="1.24"))
    assert find(ledger, "1.23") == "1.23"
    assert find(ledger, "p1.24") == "1.24"
    for named, said in (("p1.2", "several"), ("%", "no such"), ("x", "no such")):
        with pytest.raises(ValueError, match=said):
            find(ledger, named)


def test_a_commit_that_fails_leaves_nothing_and_the_next_one_works(ledger):
    with pytest.raises(AttributeError):
        ledger.keep([(an_object(), "p1"), (None, "p1")], most_instances=9, most_bytes=99)
    assert overview(ledger) == []
    assert keep(ledger, an_object()) == ["new"]


def test_tasks_are_taken_once_by_workers_at_the_same_time(ledger, clock):
    keep(ledger, *(an_object("1.1", study=str(number)) for number in range(40)))
    clock.now += 60
    ledger.complete(30, [ANY])
    taken: list[int] = []

    def take() -> None:
        while (task := ledger.next_task()) is not None:
            taken.append(task.id)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 41))


def test_a_queue_of_another_version_is_not_touched(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.base.execute("PRAGMA user_version=99")
    ledger.close()
    with pytest.raises(ValueError, match="version 99"):
        Ledger(tmp_path)
