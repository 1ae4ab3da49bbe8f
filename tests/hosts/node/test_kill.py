"""A node that is killed at random moments loses nothing, answers every study once, and leaves no half file."""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from pathlib import Path

import psutil
import pytest

from mtnet.hosts.node.ledger import Ledger
from mtnet.hosts.node.overview import overview
from tests.builders import WrittenSeries, write_ct_series
from tests.bundles import write_tiny_bundle
from tests.hosts.node.nodes import Running, storescu, wait_for, write_config
from tests.hosts.orthanc import Orthanc, running_orthanc

STUDIES, SENDERS, SLICES = 20, 4, 10
TO_ARCHIVE = """
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {port}
ae_title = "ORTHANC"
"""
_SENT = re.compile(r"Sending file: (\S+)|Received Store Response \((Success)\)")


class Senders:
    """Sends studies over several associations, each until all of it is acknowledged, and keeps what was."""

    def __init__(self, studies: list[WrittenSeries], port: int) -> None:
        self.port = port
        self.acknowledged: set[Path] = set()
        self._lock = threading.Lock()
        self._released = threading.Semaphore(0)
        self._stop = threading.Event()
        self.done = 0
        self._threads = [
            threading.Thread(target=self._send, args=(studies[number::SENDERS],), daemon=True)
            for number in range(SENDERS)
        ]
        for thread in self._threads:
            thread.start()

    def release(self, count: int) -> None:
        """Let so many studies go."""
        for _ in range(count):
            self._released.release()

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()
        self.release(STUDIES)
        for thread in self._threads:
            thread.join()

    def _send(self, studies: list[WrittenSeries]) -> None:
        for study in studies:
            self._released.acquire()
            missing = list(study.paths)
            while missing and not self._stop.is_set():
                told = storescu(self.port, *missing)
                sent = ""
                for match in _SENT.finditer(told.stdout + told.stderr):
                    sent = match[1] or sent
                    if match[2]:
                        with self._lock:
                            self.acknowledged.add(Path(sent))
                missing = [path for path in missing if path not in self.acknowledged]
                if missing:
                    time.sleep(0.2)
            self.done += 1


def check_kept(state: Path, acknowledged: set[Path], uids: dict[Path, str]) -> None:
    """Every acknowledged object has a row, and its file is whole."""
    ledger = Ledger(state)
    try:
        rows = {
            uid: (file, size, sha256)
            for uid, file, size, sha256 in ledger.rows("SELECT uid, file, bytes, sha256 FROM instance")
        }
    finally:
        ledger.close()
    assert {uids[path] for path in acknowledged} <= rows.keys()
    for file, size, sha256 in rows.values():
        content = (state / "objects" / str(file)).read_bytes()
        assert len(content) == size
        assert hashlib.sha256(content).hexdigest() == sha256


def kill(node: Running) -> None:
    """Kill the node; its workers end by themselves."""
    workers = psutil.Process(node.process.pid).children(recursive=True)
    node.kill()
    wait_for(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers), "workers end")


def run(tmp_path: Path, archive: Orthanc, kills: int) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    studies = [
        write_ct_series(tmp_path / f"s{n}", shape=(24, 24, SLICES), study=f"s{n}", series=f"s{n}", frame=f"s{n}")
        for n in range(STUDIES)
    ]
    uids = {path: _uid(path) for study in studies for path in study.paths}
    config = write_config(
        tmp_path, bundle, TO_ARCHIVE.format(port=archive.dicom_port), node="quiet_s = 8.0", receiver=""
    )
    chance = random.Random(kills)
    node = Running(config)
    config.write_text(config.read_text().replace("port = 0", f"port = {node.port}", 1))
    senders = Senders(studies, node.port)
    released = 0
    try:
        for number in range(1, kills + 1):
            share = STUDIES * number // kills - released
            senders.release(share)
            released += share
            if number % 2 == 0:
                node.wait("worker_ready", limit_s=300)
            time.sleep(chance.uniform(0.05, 2.5))
            before = set(senders.acknowledged)
            kill(node)
            check_kept(tmp_path / "state", before, uids)
            node = Running(config)
        wait_for(lambda: senders.done == STUDIES, "all is sent", 600)
        wait_for(lambda: node.metric_of("mtnet_queue", what="task", state="done") >= STUDIES, "all is answered", 600)
        assert node.stop() == 0
    finally:
        senders.stop()
        node.kill()
    check_kept(tmp_path / "state", set(uids), uids)
    check_answered(tmp_path / "state", archive)


def check_answered(state: Path, archive: Orthanc) -> None:
    """Every study was answered once, and the archive has each answer once."""
    ledger = Ledger(state)
    try:
        studies = overview(ledger)
    finally:
        ledger.close()
    assert [(one["instances"], one["generation"]) for one in studies] == [(SLICES, 1)] * STUDIES
    assert [[task["state"] for task in one["tasks"]] for one in studies] == [["done"]] * STUDIES
    assert len(list((state / "objects").iterdir())) == STUDIES * SLICES
    assert not list((state / "work").iterdir())
    assert not [path for path in state.rglob("*") if ".tmp-" in path.name]
    held = [one["MainDicomTags"]["SOPInstanceUID"] for one in archive.instances()]
    assert len(held) == len(set(held)) == 3 * STUDIES
    series = archive.rest("/series?expand")
    assert sorted(one["MainDicomTags"]["Modality"] for one in series) == sorted(["OT", "SEG", "SR"] * STUDIES)


def _uid(path: Path) -> str:
    import pydicom

    return str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(6000)])])
def test_a_node_that_is_killed_loses_nothing_and_answers_every_study_once(tmp_path, kills):
    with running_orthanc(tmp_path / "orthanc") as archive:
        run(tmp_path, archive, kills)
