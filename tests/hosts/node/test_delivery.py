from __future__ import annotations

import io
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from mtnet.hosts.node.config import Destination, Tls
from mtnet.hosts.node.delivery import Deliveries, UndeliveredError, send
from mtnet.hosts.node.ledger import Delivery, Ledger, Received
from mtnet.hosts.node.lines import Lines
from mtnet.hosts.node.metrics import Metrics
from tests.builders import write_ct_series
from tests.hosts.node.nodes import wait_for
from tests.hosts.node.services import ROUTE, node_config, receiving
from tests.hosts.orthanc import AE_TITLE, Orthanc, running_orthanc

# pynetdicom lets go of the socket of a connection that was refused without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

DELIVERY = Delivery(7, "pacs", "1.2.3", "ab", "chest", 0)


@pytest.fixture(scope="module", name="archive")
def _archive(tmp_path_factory):
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), settings={"DicomCheckCalledAet": True}) as archive:
        yield archive


@pytest.fixture(name="answer")
def _answer(tmp_path, request):
    # Each test's own: folders of tests that passed are removed, and their names come again.
    name = request.node.name
    write_ct_series(tmp_path / "answer", shape=(8, 8, 3), study=name, series=name)
    (tmp_path / "answer" / "findings.json").write_text("{}", encoding="utf-8")
    return tmp_path / "answer"


def by_dicom(archive: Orthanc, **given) -> Destination:
    return Destination("pacs", **{"host": "127.0.0.1", "port": archive.dicom_port, "ae_title": AE_TITLE} | given)


def by_web(archive: Orthanc) -> Destination:
    return Destination("pacs", url=archive.dicomweb)


@pytest.mark.parametrize("how", [by_dicom, by_web])
def test_an_archive_has_every_object_once_however_often_it_is_sent(archive, answer, how):
    before = len(archive.instances())
    for _ in range(2):
        send(how(archive), answer, DELIVERY, "MTNET")
    assert len(archive.instances()) == before + 3


def test_a_folder_has_all_files_of_an_answer_and_the_newer_one_takes_its_place(answer, tmp_path):
    place = tmp_path / "out" / "1.2.3" / "chest"
    (place.parent / ".chest.tmp-0000").mkdir(parents=True)
    for _ in range(2):
        send(Destination("pacs", folder=tmp_path / "out"), answer, DELIVERY, "MTNET")
    assert sorted(path.name for path in place.iterdir()) == sorted(path.name for path in answer.iterdir())
    assert [path.name for path in place.parent.iterdir()] == ["chest"]
    (answer / "findings.json").unlink()
    send(Destination("pacs", folder=tmp_path / "out"), answer, DELIVERY, "MTNET")
    assert not (place / "findings.json").exists()


def test_a_destination_is_spoken_to_by_tls_and_known_by_its_certificate(answer, tmp_path, certificates):
    (tmp_path / "state").mkdir()
    own = Tls(certificates / "node.pem", certificates / "node.key", certificates / "sender.pem")
    sender = Tls(certificates / "sender.pem", certificates / "sender.key", certificates / "node.pem")
    with receiving(tmp_path / "state", tls=own) as other:
        there = {"host": "127.0.0.1", "port": other.port, "ae_title": "MTNET", "timeout_s": 20.0}
        send(Destination("other", **there, tls=sender), answer, DELIVERY, "MTNET")
        assert len(other.files()) == 3
        for tls in (None, replace(sender, ca=certificates / "stranger.pem")):
            with pytest.raises(UndeliveredError):
                send(Destination("other", **there, tls=tls), answer, DELIVERY, "MTNET")


def test_who_is_away_rejects_or_is_silent_is_told_without_what_was_sent(archive, answer):
    with socket.socket() as nobody, socket.create_server(("127.0.0.1", 0)) as silent:
        nobody.bind(("127.0.0.1", 0))
        away = by_dicom(archive, port=nobody.getsockname()[1])
        rejecting = by_dicom(archive, ae_title="SOMEBODY")
        quiet = by_dicom(archive, port=silent.getsockname()[1], timeout_s=0.5)
        no_server = Destination("pacs", url=f"http://127.0.0.1:{nobody.getsockname()[1]}/dicom-web")
        for destination in (away, rejecting, quiet, no_server):
            with pytest.raises(UndeliveredError) as raised:
                send(destination, answer, DELIVERY, "MTNET")
            assert str(Path(answer)) not in str(raised.value)
            assert "Nobody" not in str(raised.value)


def test_an_archive_that_does_not_take_an_object_has_not_taken_the_answer(answer):
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import CTImageStorage

    statuses = iter([0x0000, 0xB007, 0xA700])
    archive = AE("FULL")
    archive.add_supported_context(CTImageStorage)
    handlers = [(evt.EVT_C_STORE, lambda event: next(statuses))]
    server = archive.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        destination = Destination("full", host="127.0.0.1", port=server.server_address[1], ae_title="FULL")
        with pytest.raises(UndeliveredError, match=r"full answered 0xA700 to 0002\.dcm"):
            send(destination, answer, DELIVERY, "MTNET")
    finally:
        server.shutdown()


def test_a_class_that_the_archive_does_not_take_is_told(answer):
    from pynetdicom import AE
    from pynetdicom.sop_class import MRImageStorage

    archive = AE("MRONLY")
    archive.add_supported_context(MRImageStorage)
    server = archive.start_server(("127.0.0.1", 0), block=False)
    try:
        destination = Destination("mr", host="127.0.0.1", port=server.server_address[1], ae_title="MRONLY")
        with pytest.raises(UndeliveredError):
            send(destination, answer, DELIVERY, "MTNET")
    finally:
        server.shutdown()


def test_a_slow_destination_keeps_no_other_from_its_answers(answer, tmp_path):
    state = tmp_path / "state"
    (state / "answers").mkdir(parents=True)
    ledger, stream = Ledger(state), io.StringIO()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        slow = Destination("slow", host="127.0.0.1", port=silent.getsockname()[1], ae_title="SLOW", timeout_s=200.0)
        quick = Destination("quick", folder=tmp_path / "out")
        route = replace(ROUTE, destination=("slow", "quick"))
        config = replace(node_config(state), destination=(slow, quick), route=(route,))
        one = Received("1.2.3", "1.2.3.1", "1.3", "CT", "", "0.dcm", 1, "aa", counts=True)
        ledger.keep([(one, "cafe")], most_instances=9, most_bytes=99)
        ledger.complete(0, [route])
        task = ledger.next_task()
        answer.rename(state / "answers" / str(task.id))
        ledger.answered(task, route.destination, [])
        deliveries = Deliveries(config, ledger, Lines(stream), Metrics())
        deliveries.start()
        try:
            wait_for(lambda: '"delivered"' in stream.getvalue(), "the quick one has it")
            assert '"not_delivered"' not in stream.getvalue()
            silent.close()
            wait_for(lambda: '"not_delivered"' in stream.getvalue(), "the slow one is gone")
        finally:
            deliveries.stop(60)
    told = json.loads(stream.getvalue().splitlines()[-1])
    assert (told["destination"], told["again_in_s"]) == ("slow", 10.0)
    assert "slow cannot be reached, or is silent" in told["reason"]
    ledger.close()
