"""What becomes of an attempt, with a worker process that does as the test says."""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

import mtnet.hosts.node.workers as module
from mtnet.bundle import Bundle
from mtnet.hosts.node.config import Retry
from mtnet.hosts.node.ledger import Ledger, Received
from mtnet.hosts.node.lines import Lines
from mtnet.hosts.node.metrics import Metrics
from mtnet.hosts.node.overview import overview
from mtnet.hosts.node.workers import Workers
from tests.hosts.node.nodes import wait_for
from tests.hosts.node.services import ROUTE, node_config

ANSWERED = {"outcome": "answered", "products": ["9.1"], "items": 1}


class Obedient:
    """A worker that does what ``acts`` say, one after the other."""

    acts: ClassVar[list] = []

    def __init__(self, threads: int) -> None:
        self.alive = True

    def ask(self, what, within_s, stop):
        if "input" not in what:
            return {"outcome": "loaded"}
        act = Obedient.acts.pop(0)
        if isinstance(act, Exception):
            self.alive = False
            raise act
        if callable(act):
            return act(what, stop)
        if act["outcome"] == "answered":
            folder = Path(what["output"])
            folder.mkdir()
            (folder / "findings.json").write_text("{}", encoding="utf-8")
        return act

    def end(self) -> None:
        self.alive = False


@pytest.fixture(name="place")
def _place(tmp_path, monkeypatch):
    """One study that is ready, its file, and workers that obey."""
    monkeypatch.setattr(module, "_Process", Obedient)
    Obedient.acts = []
    ledger = Ledger(tmp_path)
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "0.dcm").write_bytes(b"x")
    one = Received("1.2", "1.2.1", "1.3", "CT", "CHEST", "0.dcm", 1, "aa", counts=True)
    ledger.keep([(one, "cafe")], most_instances=9, most_bytes=99)
    ledger.complete(0, [ROUTE])
    config = replace(node_config(tmp_path), retry=Retry(first_s=0.01, attempts=3))
    stream = io.StringIO()
    workers = Workers(
        config, ledger, Lines(stream), Metrics(), {"chest": Bundle(tmp_path, {}, {}, tmp_path / "own.pt")}
    )
    yield ledger, workers, stream
    workers.stop(0)
    ledger.close()


def told(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def state(ledger):
    tasks = overview(ledger)[0]["tasks"]
    return tasks[0]["state"] if tasks else "void"


def test_an_answer_is_moved_to_its_place_and_is_to_be_sent(place, tmp_path):
    ledger, workers, _ = place
    Obedient.acts = [ANSWERED]
    workers.start()
    wait_for(lambda: state(ledger) == "answered", "it is answered")
    assert (tmp_path / "answers" / "1" / "findings.json").is_file()
    assert ledger.next_delivery("folder") is not None
    wait_for(lambda: not list((tmp_path / "work").iterdir()), "nothing is left over")


def test_the_worker_sees_hard_links_to_the_files_of_the_route(place, tmp_path):
    ledger, workers, _ = place
    seen = []

    def look(what, stop):
        seen.extend((path.name, path.stat().st_ino) for path in Path(what["input"]).iterdir())
        return {"outcome": "refused", "codes": ["no_lungs"], "told": "There are none. (no_lungs)"}

    Obedient.acts = [look]
    workers.start()
    wait_for(lambda: state(ledger) == "aside", "it is refused")
    assert seen == [("0.dcm", (tmp_path / "objects" / "0.dcm").stat().st_ino)]


def test_the_worker_is_told_the_bundle_of_the_route_and_its_weights(place, tmp_path):
    ledger, workers, _ = place
    asked = []

    def look(what, stop):
        asked.append((what["bundle"], what["weights"]))
        return {"outcome": "refused", "codes": ["no_lungs"], "told": "There are none. (no_lungs)"}

    Obedient.acts = [look]
    workers.start()
    wait_for(lambda: state(ledger) == "aside", "it is refused")
    assert asked == [(str(tmp_path), str(tmp_path / "own.pt"))]


def test_a_refusal_is_for_good_and_a_failure_is_tried_again(place):
    ledger, workers, stream = place
    failed, died = {"outcome": "failed", "error": "ValueError in x.py:1"}, module._DiedError("took_too_long")
    Obedient.acts = [failed, died, {"outcome": "refused", "codes": ["no_lungs"], "told": "None. (no_lungs)"}]
    workers.start()
    wait_for(lambda: state(ledger) == "aside", "it is set aside")
    reasons = [line["reason"] for line in told(stream) if "reason" in line]
    assert reasons == ["ValueError in x.py:1", "took_too_long", "no_lungs"]
    assert overview(ledger)[0]["tasks"][0]["reason"] == "None. (no_lungs)"
    assert [line["event"] for line in told(stream)].count("worker_ready") == 2


def test_after_its_last_attempt_it_is_set_aside(place):
    ledger, workers, stream = place
    Obedient.acts = [{"outcome": "failed", "error": "E"}] * 3
    workers.start()
    wait_for(lambda: state(ledger) == "aside", "it is set aside")
    assert [line["event"] for line in told(stream) if "reason" in line] == ["failed", "failed", "set_aside"]


def test_an_answer_that_a_late_instance_overtook_is_thrown_away(place, tmp_path):
    ledger, workers, stream = place

    def late(what, stop):
        one = Received("1.2", "1.2.2", "1.3", "CT", "CHEST", "1.dcm", 1, "bb", counts=True)
        ledger.keep([(one, "cafe")], most_instances=9, most_bytes=99)
        Path(what["output"]).mkdir()
        return ANSWERED

    Obedient.acts = [late]
    workers.start()
    wait_for(lambda: any(line["event"] == "void" for line in told(stream)), "it is void")
    assert state(ledger) == "void"
    assert list((tmp_path / "answers").iterdir()) == []


def test_what_cannot_be_written_down_is_answered_again(place, monkeypatch):
    ledger, workers, stream = place
    real, full = ledger.answered, [sqlite3.OperationalError("database or disk is full")]

    def answered(*arguments):
        if full:
            raise full.pop()
        return real(*arguments)

    monkeypatch.setattr(ledger, "answered", answered)
    Obedient.acts = [ANSWERED, ANSWERED]
    workers.start()
    wait_for(lambda: state(ledger) == "answered", "it is answered")
    assert overview(ledger)[0]["tasks"][0]["attempts"] == 1
    assert any(line["event"] == "worker_failed" for line in told(stream))


def test_what_is_not_done_when_the_node_stops_is_put_back(place):
    ledger, workers, stream = place
    begun = threading.Event()

    def slow(what, stop):
        begun.set()
        stop.wait(60)
        raise module._DiedError("stopped")

    Obedient.acts = [slow]
    workers.start()
    assert begun.wait(60)
    workers.stop(0)
    assert (state(ledger), overview(ledger)[0]["tasks"][0]["attempts"]) == ("ready", 0)
    assert told(stream)[-1]["event"] == "put_back"


def test_a_worker_process_ends_with_its_input():
    process = subprocess.Popen(
        [sys.executable, "-m", "mtnet.hosts.node.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.communicate(timeout=120) == (b"", None)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_bundle_that_cannot_be_loaded_is_told_by_a_worker():
    process = module._Process(1)
    try:
        answer = process.ask({"bundle": "/nowhere", "weights": None, "device": "cpu"}, 200.0, threading.Event())
    finally:
        process.end()
    assert answer["outcome"] == "failed"
    assert answer["error"].startswith("BundleError")
