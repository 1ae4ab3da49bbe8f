"""What faults must not do: 20 studies arrive over 4 associations while the node is killed, its archive away or its disk
full. Nothing that was acknowledged is lost, every study is answered once, no half file is left."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mtnet.hosts.node.database import DATABASE
from mtnet.hosts.node.ledger import Ledger
from mtnet.hosts.node.overview import overview
from tests.builders import WrittenSeries, write_ct_series
from tests.bundles import write_tiny_bundle
from tests.hosts.node.disks import full_disk, small_disk
from tests.hosts.node.nodes import TO_ARCHIVE, Running, serve, storescu, wait_for, write_config
from tests.hosts.orthanc import Orthanc, running_orthanc

STUDIES, SENDERS, SLICES = 20, 4, 10
AWAY_S = 60.0
FULL_QUIET_S = 20.0
pytestmark = pytest.mark.slow
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


class Load:
    """Studies on their way to a node whose answers go to an archive; each goes when it is let go.

    Args:
        place: an empty folder, in which ``state`` may be there already.
        archive_port: of the archive, for DICOM.
        quiet_s: of the node; longer than any fault, or a study that a fault cuts in two is rightly answered twice.
    """

    def __init__(self, place: Path, archive_port: int, quiet_s: float) -> None:
        self.state = place / "state"
        studies = [
            write_ct_series(place / f"s{n}", shape=(24, 24, SLICES), study=f"s{n}", series=f"s{n}", frame=f"s{n}")
            for n in range(STUDIES)
        ]
        self._uids = {path: _uid(path) for study in studies for path in study.paths}
        self._config = write_config(
            place,
            write_tiny_bundle(place / "tiny"),
            TO_ARCHIVE.format(port=archive_port),
            node=f"quiet_s = {quiet_s}",
            retry="first_s = 0.2\nfactor = 1.5\nmost_s = 5.0\nattempts = 100",
        )
        self.node = Running(self._config)
        self._config.write_text(self._config.read_text().replace("port = 0", f"port = {self.node.port}", 1))
        self.senders = Senders(studies, self.node.port)

    def kill(self) -> None:
        """Kill the node, whose workers end by themselves, and look at what is there."""
        before = set(self.senders.acknowledged)
        workers = psutil.Process(self.node.process.pid).children(recursive=True)
        self.node.kill()
        wait_for(lambda: all(_ended(worker) for worker in workers), "workers end")
        self._check_kept(before)

    def start(self) -> None:
        """Start the node that was killed."""
        self.node = Running(self._config)

    def starting(self) -> subprocess.CompletedProcess[str]:
        """The end of a node that cannot start."""
        return serve("--config", str(self._config))

    def finish(self, archive: Orthanc) -> None:
        """Wait until all is sent and answered; look at the queue and at the archive."""
        wait_for(lambda: self.senders.done == STUDIES, "all is sent", 600)
        wait_for(lambda: self.node.metric_of("mtnet_queue", what="task", state="done") >= STUDIES, "all answered", 600)
        assert self.node.stop() == 0
        self._check_kept(set(self._uids))
        check_answered(self.state, archive)

    def _check_kept(self, acknowledged: set[Path]) -> None:
        """Every acknowledged object has a row, and its file is whole."""
        rows = _instances(self.state)
        assert {self._uids[path] for path in acknowledged} <= rows.keys()
        for file, size, sha256 in rows.values():
            content = (self.state / "objects" / file).read_bytes()
            assert len(content) == size
            assert hashlib.sha256(content).hexdigest() == sha256


@contextmanager
def load(place: Path, archive_port: int, quiet_s: float = 8.0) -> Iterator[Load]:
    """A load whose node and senders end, whatever happens."""
    one = Load(place, archive_port, quiet_s)
    try:
        yield one
    finally:
        one.senders.stop()
        one.node.kill()


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


def _instances(state: Path) -> dict[str, tuple[str, int, str]]:
    """File, size and hash of every object by its UID; read beside the queue, and without room for a lock of its own."""
    base = sqlite3.connect(f"file:{state / DATABASE}?mode=ro", uri=True)
    with contextlib.closing(base):
        return {
            uid: (file, size, sha)
            for uid, file, size, sha in base.execute("SELECT uid, file, bytes, sha256 FROM instance")
        }


def _ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == "zombie"


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(6000)])])
def test_a_node_that_is_killed_loses_nothing_and_answers_every_study_once(tmp_path, kills):
    chance = random.Random(kills)
    with running_orthanc(tmp_path / "orthanc") as archive, load(tmp_path, archive.dicom_port) as running:
        for number in range(1, kills + 1):
            running.senders.release(STUDIES * number // kills - STUDIES * (number - 1) // kills)
            if number % 2 == 0:
                running.node.wait("worker_ready", limit_s=300)
            time.sleep(chance.uniform(0.05, 2.5))
            running.kill()
            running.start()
        running.finish(archive)


@pytest.mark.timeout(1500)
def test_an_archive_that_is_away_for_a_minute_gets_every_answer_once(tmp_path):
    """And the node is killed in that minute."""
    with contextlib.ExitStack() as stack:
        with running_orthanc(tmp_path / "orthanc") as archive:
            running = stack.enter_context(load(tmp_path, archive.dicom_port))
            running.senders.release(STUDIES // 2)
            running.node.wait("delivered", count=2)
        gone = time.monotonic()
        running.senders.release(STUDIES - STUDIES // 2)
        running.node.wait("not_delivered", count=2)
        running.kill()
        running.start()
        running.node.wait("not_delivered", count=2)
        assert not running.node.told("delivered")
        time.sleep(max(0.0, gone + AWAY_S - time.monotonic()))
        with running_orthanc(tmp_path / "orthanc", settings={"DicomPort": archive.dicom_port}) as back:
            assert len(back.instances()) < 3 * STUDIES
            running.finish(back)


@pytest.mark.timeout(1500)
def test_a_disk_that_fills_loses_nothing_and_every_study_is_answered_once(tmp_path):
    """And the node is killed while it is full, and cannot start again before there is room."""
    with small_disk(tmp_path / "state", "96m") as mounted:
        if not mounted:
            pytest.skip("this machine lets nobody mount a small disk")
        with (
            running_orthanc(tmp_path / "orthanc") as archive,
            load(tmp_path, archive.dicom_port, FULL_QUIET_S) as running,
        ):
            running.senders.release(STUDIES // 2)
            running.node.wait("answering")
            with full_disk(running.state):
                running.senders.release(STUDIES - STUDIES // 2)
                running.node.wait("object_not_kept", count=SENDERS)
                assert "disk_full" in running.node.get("/healthz")[1]
                running.kill()
                refused = running.starting()
                assert refused.returncode == 1
                assert "Make room" in refused.stderr
            running.start()
            running.finish(archive)
