from __future__ import annotations

from dataclasses import replace

import pydicom
import pytest

from mtnet.hosts.node.config import Source
from mtnet.hosts.node.fetcher import Fetcher
from mtnet.hosts.node.keeper import remove_study
from mtnet.hosts.node.lines import Lines, Pseudonyms
from mtnet.hosts.node.overview import find, overview
from tests.builders import write_ct_series
from tests.hosts.node.nodes import wait_for
from tests.hosts.node.services import node_config, receiving
from tests.hosts.orthanc import running_orthanc


@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
def test_studies_of_a_server_are_taken_once_as_if_they_were_sent(tmp_path):
    first = write_ct_series(tmp_path / "first", shape=(8, 8, 4), study="first", series="first")
    second = write_ct_series(tmp_path / "second", shape=(8, 8, 4), study="second", series="second")
    state = tmp_path / "state"
    state.mkdir()
    with running_orthanc(tmp_path / "orthanc") as archive, receiving(state) as node:
        archive.upload(first.folder)
        nobody, server = Source("http://127.0.0.1:9/dicom-web", {}, 0.1), Source(archive.dicomweb, {}, 0.1)
        config = replace(node_config(state), source=(nobody, server))
        fetcher = Fetcher(config, node.ledger, node.intake, Lines(node.stream), Pseudonyms(state))
        fetcher.start()
        try:
            wait_for(lambda: node.ledger.was_fetched(first.study_uid), "the first is fetched")
            assert {pydicom.dcmread(path).SOPInstanceUID for path in node.files()} == {
                pydicom.dcmread(path).SOPInstanceUID for path in first.paths
            }
            remove_study(state, node.ledger, find(node.ledger, first.study_uid))
            archive.upload(second.folder)
            wait_for(lambda: node.ledger.was_fetched(second.study_uid), "the second is fetched")
            assert [one["instances"] for one in overview(node.ledger)] == [4]
            assert any(line["event"] == "fetching_failed" and line["source"] == 1 for line in node.lines)
            told = node.stream.getvalue()
        finally:
            fetcher.stop(60)
    assert first.study_uid not in told
    assert not fetcher.busy_studies()
