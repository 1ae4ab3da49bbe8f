from __future__ import annotations

import socket
import struct
import subprocess
import threading

import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from mtnet.hosts.node.config import Sender, Tls
from mtnet.hosts.node.overview import overview
from tests.builders import write_ct_series
from tests.hosts.node.nodes import storescu, wait_for
from tests.hosts.node.services import receiving

SECRETS = ("Nobody", "SECRET", "19000101")


@pytest.fixture(name="study")
def _study(tmp_path):
    return write_ct_series(tmp_path / "study", shape=(16, 16, 6))


@pytest.fixture(name="state")
def _state(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def echo(port, title="ANY", called="MTNET"):
    done = subprocess.run(
        ["echoscu", "-aet", title, "-aec", called, "127.0.0.1", str(port)], capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


def test_echo_is_answered_to_who_calls_it_by_its_name(state):
    with receiving(state) as node:
        assert echo(node.port)
        assert not echo(node.port, called="SOMEBODY")


def test_every_object_is_on_disk_as_it_was_sent(study, state):
    with receiving(state) as node:
        assert storescu(node.port, study.folder).returncode == 0
        sent = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, study.paths)}
        kept = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, node.files())}
        assert kept == sent
        for uid, one in kept.items():
            assert one.file_meta.TransferSyntaxUID == sent[uid].file_meta.TransferSyntaxUID
            assert one.file_meta.MediaStorageSOPInstanceUID == uid
        (told,) = overview(node.ledger)
        assert (told["state"], told["instances"]) == ("receiving", 6)
        assert node.count("mtnet_received_instances_total", outcome="new") == 6


def test_dcmtk_finds_the_files_well_formed(study, state):
    with receiving(state) as node:
        storescu(node.port, study.folder)
        for path in node.files():
            assert subprocess.run(["dcmftest", str(path)], capture_output=True, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("syntax", ["implicit", "rle", "big"])
def test_other_encodings_are_kept_as_they_are(tmp_path, state, syntax):
    def encode(dataset, _):
        if syntax == "rle":
            dataset.compress(RLELossless, generate_instance_uid=False)
        elif syntax == "implicit":
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    study = write_ct_series(tmp_path / "study", shape=(16, 16, 2), edit=encode)
    option = {"implicit": "-xi", "rle": "-xr", "big": "-xb"}[syntax]
    with receiving(state) as node:
        done = storescu(node.port, study.folder, options=[option])
        assert done.returncode == 0, done.stdout
        sent = {d.SOPInstanceUID: d.pixel_array for d in map(pydicom.dcmread, study.paths)}
        for one in map(pydicom.dcmread, node.files()):
            assert (one.pixel_array == sent[one.SOPInstanceUID]).all()


def test_nothing_that_tells_who_it_is_reaches_a_log_or_file_name(study, state):
    with receiving(state) as node:
        storescu(node.port, study.folder)
        told = node.stream.getvalue() + " ".join(path.name for path in state.rglob("*"))
        assert not any(secret in told for secret in (*SECRETS, study.study_uid, study.series_uid))


def test_a_duplicate_is_acknowledged_and_kept_once(study, state):
    with receiving(state) as node:
        for _ in range(2):
            assert storescu(node.port, study.folder).returncode == 0
        assert len(node.files()) == 6
        assert node.count("mtnet_received_instances_total", outcome="duplicate") == 6


def test_two_senders_of_one_study_at_once_make_one_study(study, state):
    with receiving(state) as node:
        codes = []
        threads = [
            threading.Thread(target=lambda: codes.append(storescu(node.port, study.folder).returncode))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == [0, 0]
        (told,) = overview(node.ledger)
        assert told["instances"] == 6
        wait_for(lambda: len(node.files()) == 6, "the second copies are removed")


def test_a_study_is_busy_while_its_association_is_open(study, state):
    from pynetdicom import AE
    from pynetdicom.sop_class import CTImageStorage

    with receiving(state) as node:
        sender = AE()
        sender.add_requested_context(CTImageStorage)
        association = sender.associate("127.0.0.1", node.port, ae_title="MTNET")
        try:
            assert association.is_established
            status = association.send_c_store(study.paths[0])
            assert status.Status == 0
            assert node.receiver.busy_studies() == {study.study_uid}
        finally:
            association.release()
        wait_for(lambda: not node.receiver.busy_studies(), "the study is free")


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")
@pytest.mark.parametrize("uid", ["../../../../tmp/x", "/etc/passwd", "1.2..3", "1." + "1" * 70, "one.two"])
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_uid_that_is_none_is_not_understood(tmp_path, state, uid, keyword):
    from pynetdicom import AE
    from pynetdicom.sop_class import CTImageStorage

    def edit(dataset, _):
        with pydicom.config.disable_value_validation():
            setattr(dataset, keyword, uid)

    study = write_ct_series(tmp_path / "study", shape=(8, 8, 1), edit=edit)
    with receiving(state) as node:
        sender = AE()
        sender.add_requested_context(CTImageStorage)
        association = sender.associate("127.0.0.1", node.port, ae_title="MTNET")
        try:
            assert association.send_c_store(study.paths[0]).Status == 0xC000
        finally:
            association.release()
        assert node.files() == []
        assert [line["event"] for line in node.lines] == ["object_refused"]
        assert uid not in node.stream.getvalue()


def test_an_object_that_is_not_the_one_announced_is_refused(study, state):
    from pynetdicom import AE
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.sop_class import CTImageStorage

    with receiving(state) as node:
        sender = AE()
        sender.add_requested_context(CTImageStorage)
        association = sender.associate("127.0.0.1", node.port, ae_title="MTNET")
        try:
            dataset = pydicom.dcmread(study.paths[0])
            request = C_STORE()
            request.MessageID = 1
            request.AffectedSOPClassUID = dataset.SOPClassUID
            request.AffectedSOPInstanceUID = "1.2.3"
            request.Priority = 2
            from io import BytesIO

            from pynetdicom.dsutils import encode

            request.DataSet = BytesIO(encode(dataset, True, True))
            context = association.accepted_contexts[0]
            association._reactor_checkpoint.clear()
            association.dimse.send_msg(request, context.context_id)
            _, answer = association.dimse.get_msg(block=True)
            association._reactor_checkpoint.set()
            assert answer.Status == 0xA900
        finally:
            association.release()
        assert node.files() == []


def test_only_listed_senders_from_their_address_are_heard(study, state):
    senders = (Sender("CT1", "127.0.0.0/8"), Sender("CT2", "10.0.0.0/8"))
    with receiving(state, *senders) as node:
        assert echo(node.port, "CT1")
        assert not echo(node.port, "CT2"), "listed, with another address"
        assert not echo(node.port, "CT3")
        assert storescu(node.port, study.folder, options=["-aet", "CT2"]).returncode != 0
        assert node.files() == []


def test_an_address_that_is_not_listed_is_not_spoken_to(state):
    with receiving(state, Sender("CT1", "10.0.0.0/8")) as node:
        assert not echo(node.port, "CT1")
        assert node.lines[0] == {**node.lines[0], "event": "connection_refused", "reason": "address_not_listed"}


def test_more_connections_than_allowed_are_closed_and_later_ones_welcome(state):
    with receiving(state, max_associations=2) as node:
        held = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(2)]
        wait_for(lambda: node.receiver.associations() == 2, "both are there")
        assert not echo(node.port)
        for one in held:
            one.close()
        wait_for(lambda: echo(node.port), "there is room again")


def test_an_instance_that_is_too_large_ends_its_association_before_it_is_whole(tmp_path, state):
    study = write_ct_series(tmp_path / "study", shape=(256, 256, 1))
    with receiving(state, max_instance_bytes=64 * 1024) as node:
        assert storescu(node.port, study.folder).returncode != 0
        assert node.files() == []
        assert node.count("mtnet_refused_instances_total", reason="instance_too_large") == 1
        assert echo(node.port)


def test_a_study_that_is_too_large_is_set_aside(study, state):
    with receiving(state, max_study_instances=4) as node:
        assert storescu(node.port, study.folder).returncode != 0
        (told,) = overview(node.ledger)
        assert (told["state"], told["reason"], told["instances"]) == ("aside", "too_large", 4)
        assert len(node.files()) == 4


def test_a_pdu_that_says_it_has_gibibytes_ends_its_connection(state):
    with receiving(state) as node:
        with socket.create_connection(("127.0.0.1", node.port), timeout=60) as peer:
            peer.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFF0) + bytes(1000))
            while peer.recv(4096):
                pass
        assert echo(node.port)


def test_a_peer_that_falls_silent_in_a_pdu_is_let_go(state):
    with receiving(state, idle_s=0.5) as node:
        with socket.create_connection(("127.0.0.1", node.port), timeout=60) as peer:
            peer.sendall(struct.pack(">BBL", 1, 0, 500) + bytes(100))
            while peer.recv(4096):
                pass
        wait_for(lambda: node.receiver.associations() == 0, "its threads end")


def test_a_full_disk_is_told_and_nothing_is_kept(study, state, monkeypatch):
    with receiving(state) as node:
        monkeypatch.setattr(node.intake, "free_bytes", lambda: 0)
        assert storescu(node.port, study.folder).returncode != 0
        assert node.files() == []
        assert node.count("mtnet_refused_instances_total", reason="not_kept") == 1
        monkeypatch.undo()
        assert storescu(node.port, study.folder).returncode == 0


def test_a_disk_that_fails_when_it_syncs_keeps_nothing_that_is_acknowledged(study, state, monkeypatch):
    import mtnet.hosts.node.intake as intake

    real, failing = intake._sync_content, threading.Event()

    def sync(descriptor):
        if failing.is_set():
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(intake, "_sync_content", sync)
    with receiving(state) as node:
        failing.set()
        assert storescu(node.port, study.folder).returncode != 0
        assert node.files() == []
        assert overview(node.ledger) == []
        failing.clear()
        assert storescu(node.port, study.folder).returncode == 0


def tls_options(folder, who, trusted="node"):
    return ["+tls", str(folder / f"{who}.key"), str(folder / f"{who}.pem"), "+cf", str(folder / f"{trusted}.pem")]


def test_tls_lets_in_who_has_a_certificate_and_nobody_else(study, state, certificates):
    tls = Tls(certificates / "node.pem", certificates / "node.key", certificates / "sender.pem")
    with receiving(state, tls=tls) as node:
        # One that connects and never shakes hands must not keep the others out.
        with socket.create_connection(("127.0.0.1", node.port)):
            done = storescu(node.port, study.folder, options=tls_options(certificates, "sender"))
            assert done.returncode == 0, done.stdout + done.stderr
        assert len(node.files()) == 6
        assert storescu(node.port, study.folder, options=tls_options(certificates, "stranger")).returncode != 0
        assert storescu(node.port, study.folder).returncode != 0, "without TLS"
