from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import nibabel as nib
import psutil
import pydicom
import pytest

from mtnet.hosts.node.lines import Pseudonyms
from tests.builders import WrittenSeries, write_ct_series
from tests.bundles import write_tiny_bundle
from tests.hosts.node.disks import full_disk, small_disk
from tests.hosts.node.fuzz import attack
from tests.hosts.node.nodes import Running, running, serve, storescu, wait_for, write_config
from tests.hosts.orthanc import running_orthanc

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("node")]

DESTINATIONS = """
[[destination]]
name = "out"
folder = "out"
[[destination]]
name = "pacs"
host = "127.0.0.1"
port = {port}
ae_title = "ORTHANC"
timeout_s = 20
"""
RETRY = "first_s = 0.2\nfactor = 1.5\nmost_s = 1.0\nattempts = 100000"


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory) -> Iterator[Path]:
    """A folder whose ``state`` is a small disk of its own, where that is allowed."""
    place = tmp_path_factory.mktemp("node")
    with small_disk(place / "state", "96m"):
        yield place


@pytest.fixture(scope="module", name="pacs_port")
def _pacs_port() -> int:
    """Where an archive will be that is away for now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@pytest.fixture(scope="module", name="node")
def _node(place, pacs_port):
    bundle = write_tiny_bundle(place / "tiny")
    config = write_config(
        place,
        bundle,
        DESTINATIONS.format(port=pacs_port),
        route='modality = "CT"',
        node="quiet_s = 0.5\nstop_s = 120",
        retry=RETRY,
    )
    with running(config) as node:
        yield node


def a_study(place: Path, name: str, count: int = 10, **options) -> WrittenSeries:
    return write_ct_series(place / name, shape=(24, 24, count), study=name, series=name, frame=name, **options)


def name_of(place: Path, study: WrittenSeries) -> str:
    return Pseudonyms(place / "state").of(study.study_uid)


def answer_of(place: Path, study: WrittenSeries) -> Path:
    return place / "out" / study.study_uid / "chest"


def send(node: Running, study: WrittenSeries) -> str:
    """Send a study; returns the pseudonym."""
    assert storescu(node.port, study.folder).returncode == 0
    return name_of(node.config.parent, study)


def shape_of(answer: Path) -> tuple[int, ...] | None:
    """Of the masks; None in the moment in which a newer answer takes the place of an older one."""
    try:
        return nib.load(answer / "segmentation.nii.gz").shape
    except FileNotFoundError:
        return None


def fuzz_node(node: Running, study: WrittenSeries, seeds: Iterable[int]) -> None:
    """Attack a node; it lives, and its memory does not grow by more than a fifth."""
    path = study.paths[0]
    start = 132 + 12 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    dataset, uid = path.read_bytes()[start:], pydicom.dcmread(path).SOPInstanceUID.encode()
    process = psutil.Process(node.process.pid)
    for seed in range(8):
        attack(node.port, seed, dataset, uid)
    before = process.memory_info().rss
    for seed in seeds:
        attack(node.port, seed, dataset, uid)
    wait_for(lambda: node.metric("mtnet_associations") == 0, "every association has ended")
    assert process.memory_info().rss <= 1.2 * before


def objects(answer: Path) -> dict[str, str]:
    return {path.name: pydicom.dcmread(path).SOPInstanceUID for path in answer.glob("*.dcm")}


def test_a_study_that_is_sent_is_answered_and_delivered_as_a_whole(node, place):
    study = a_study(place, "one")
    name = send(node, study)
    node.wait("delivered", destination="out", study=name)
    answer = answer_of(place, study)
    findings = json.loads((answer / "findings.json").read_text(encoding="utf-8"))
    assert findings["source"]["series_instance_uid"] == study.series_uid
    assert {"segmentation.dcm", "report.dcm", "overlay.dcm"} <= objects(answer).keys()
    for path in answer.glob("*.dcm"):
        assert pydicom.dcmread(path).StudyInstanceUID == study.study_uid


def test_a_late_instance_sends_the_study_round_again_with_new_uids(node, place):
    study = a_study(place, "late", 12)
    late = study.paths[-1].rename(place / "late.dcm")
    name = send(node, study)
    node.wait("delivered", destination="out", study=name)
    first = objects(answer_of(place, study))
    assert storescu(node.port, late).returncode == 0
    node.wait("delivered", 2, destination="out", study=name)
    second = objects(answer_of(place, study))
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())
    assert node.told("answered", study=name)[-1]["generation"] == 2


def test_the_same_study_again_and_the_nodes_own_results_change_nothing(node, place):
    study = a_study(place, "again")
    name = send(node, study)
    node.wait("delivered", destination="out", study=name)
    assert storescu(node.port, study.folder).returncode == 0
    own = storescu(node.port, *answer_of(place, study).glob("*.dcm"), options=["-R"])
    assert own.returncode == 0, own.stdout
    assert 'mtnet_received_instances_total{outcome="own"} 3.0' in node.get("/metrics")[1].splitlines()
    other = a_study(place, "again-2")
    node.wait("delivered", destination="out", study=send(node, other))
    assert len(node.told("complete", study=name)) == 1


def test_two_senders_of_one_study_at_once_get_one_answer(node, place):
    study = a_study(place, "two", 16)
    halves = [study.paths[::2], study.paths[1::2]]
    senders = [threading.Thread(target=storescu, args=(node.port, *half)) for half in halves]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    name = name_of(place, study)
    node.wait("delivered", destination="out", study=name)
    wait_for(
        lambda: node.told("complete", study=name) and shape_of(answer_of(place, study)) == (24, 24, 16), "all of it"
    )


def test_a_study_that_cannot_be_read_right_is_set_aside_with_its_reason(node, place):
    study = a_study(place, "gap", 16, drop=(5, 6, 7, 8), spacing_mm=(0.8, 0.8, 3.0))
    name = send(node, study)
    (line,) = node.wait("set_aside", study=name)
    assert line["reason"] == "no_series_suits,series_passed_over"
    assert line["attempt"] == 1
    told = serve("status", "--config", str(node.config), name[:8])
    assert "(missing_slices_wide_gap)" in told.stdout
    assert study.series_uid not in told.stdout
    assert serve("retry", "--config", str(node.config), name).returncode == 0
    node.wait("set_aside", 2, study=name)
    assert serve("forget", "--config", str(node.config), name).returncode == 0
    assert name not in serve("status", "--config", str(node.config)).stdout
    assert serve("forget", "--config", str(node.config), name).returncode == 1


def test_a_broken_slice_among_good_ones_is_answered_as_infer_answers_it(node, place):
    def cut(dataset, k):
        if k == 3:
            dataset.PixelData = dataset.PixelData[:100]

    study = a_study(place, "broken", 12, edit=cut)
    name = send(node, study)
    node.wait("set_aside", study=name)
    good = a_study(place, "after-broken")
    node.wait("delivered", destination="out", study=send(node, good))


def test_a_study_of_no_route_is_kept_and_told(node, place):
    study = a_study(place, "mr", edit=lambda d, _: setattr(d, "Modality", "MR"))
    name = send(node, study)
    (line,) = node.wait("complete", study=name)
    assert line["routes"] == ""
    assert "no_route_matches" in serve("status", "--config", str(node.config), name).stdout


def test_a_worker_that_dies_is_replaced_and_the_study_answered(node, place):
    workers = [p for p in psutil.Process(node.process.pid).children() if "worker" in " ".join(p.cmdline())]
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    study = a_study(place, "unlucky")
    name = send(node, study)
    node.wait("answering", study=name)
    for worker in workers:
        worker.kill()
    (line,) = node.wait("failed", study=name)
    assert line["reason"] == f"worker_died_{-signal.SIGKILL}"
    node.wait("delivered", destination="out", study=name)
    assert node.told("answered", study=name)[-1]["attempt"] == 2


def test_a_disk_that_fills_is_told_and_everything_goes_on_when_there_is_room_again(node, place):
    state = place / "state"
    if not state.is_mount():
        pytest.skip("this machine lets nobody mount a small disk")
    before = a_study(place, "before-full")
    names = [send(node, before)]
    refused = a_study(place, "while-full")
    with full_disk(state):
        assert storescu(node.port, refused.folder).returncode != 0
        status, told = node.get("/healthz")
        assert (status, "disk_full" in told) == (503, True)
        assert not list((state / "objects").glob(".*"))
    names.append(send(node, refused))
    for name, study in zip(names, (before, refused), strict=True):
        node.wait("delivered", destination="out", study=name)
        assert shape_of(answer_of(place, study)) == (24, 24, 10)


def test_what_nobody_should_send_does_no_harm(node, place):
    study = a_study(place, "fuzzed")
    fuzz_node(node, study, range(50))
    node.wait("delivered", destination="out", study=send(node, a_study(place, "after-fuzz")))


def test_an_archive_that_was_away_gets_everything_once_when_it_is_back(node, place, pacs_port):
    node.wait("delivered", destination="out", study=send(node, a_study(place, "while-away")))
    node.wait("not_delivered", destination="pacs")
    assert not node.told("delivered", destination="pacs")
    with running_orthanc(place / "orthanc", settings={"DicomPort": pacs_port}) as archive:
        wait_for(lambda: not node.metric_of("mtnet_queue", what="delivery", state="ready"), "all is sent", 300)
        done = json.loads(serve("status", "--json", "--config", str(node.config)).stdout)
        sent = [task for study in done for task in study["tasks"] if task["state"] == "done"]
        assert sent
        held = [one["MainDicomTags"]["SOPInstanceUID"] for one in archive.instances()]
        assert len(held) == len(set(held)) == 3 * len(sent)


def test_it_is_well_and_counts(node, place):
    node.wait("delivered", destination="out", study=send(node, a_study(place, "counted")))
    wait_for(lambda: node.get("/healthz") == (200, '{"status": "ok", "reasons": []}'), "it is well")
    assert node.metric("mtnet_answers_total") >= 1
    assert node.metric("mtnet_workers_ready") == 1
    assert node.metric("mtnet_free_bytes") > 0
    assert node.get("/elsewhere")[0] == 404


def test_no_line_and_no_file_tells_who_it_was(node, place):
    told = "".join(node.raw) + " ".join(str(path.relative_to(place)) for path in (place / "state").rglob("*"))
    assert [line for line in node.raw if not line.startswith("{")] == []
    for secret in ("Nobody", "SECRET", "19000101", "1.2.826", "2.25."):
        assert secret not in told


def test_a_second_node_on_one_state_folder_is_refused(node):
    done = serve("--config", str(node.config))
    assert done.returncode == 1
    assert "in use by another node" in done.stderr


def test_sigterm_ends_it_cleanly_and_everything_is_in_its_place(node, place):
    study = a_study(place, "last")
    name = send(node, study)
    node.wait("answering", study=name)
    assert node.stop() == 0
    assert [line["event"] for line in node.lines[-1:]] == ["stopped"]
    assert list((place / "state" / "work").iterdir()) == []
    told = json.loads(serve("status", "--json", "--config", str(node.config), name).stdout)
    assert told[0]["tasks"][0]["state"] in ("done", "answered")


@pytest.mark.soak
def test_a_thousand_attacks_do_no_harm(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "tiny")
    out = '[[destination]]\nname = "out"\nfolder = "out"'
    with running(write_config(tmp_path, bundle, out, receiver="idle_s = 10.0")) as node:
        fuzz_node(node, a_study(tmp_path, "fuzzed"), range(1000))
        node.wait("delivered", study=send(node, a_study(tmp_path, "good")))
