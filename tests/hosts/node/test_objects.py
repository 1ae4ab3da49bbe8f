from __future__ import annotations

import io
import random

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from mtnet.hosts.node.objects import BrokenObjectError, file_meta, read_facts, received
from tests.builders import write_ct_series

UIDS = st.lists(st.integers(0, 10**6), min_size=2, max_size=8).map(lambda parts: ".".join(map(str, parts)))


@given(UIDS)
def test_file_meta_is_what_pydicom_reads(uid):
    meta = pydicom.dcmread(io.BytesIO(file_meta(CTImageStorage, uid, ExplicitVRLittleEndian))).file_meta
    assert (meta.MediaStorageSOPInstanceUID, meta.MediaStorageSOPClassUID) == (uid, CTImageStorage)
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian


@pytest.fixture(name="parts")
def _parts(tmp_path):
    path = write_ct_series(tmp_path, shape=(16, 16, 1)).paths[0]
    dataset = pydicom.dcmread(path)
    meta = file_meta(dataset.SOPClassUID, dataset.SOPInstanceUID, ExplicitVRLittleEndian)
    start = 132 + 12 + dataset.file_meta.FileMetaInformationGroupLength
    return meta, path.read_bytes()[start:], dataset


def test_the_header_tells_what_the_queue_needs(parts):
    meta, data, dataset = parts
    facts = read_facts(meta, memoryview(data))
    assert (facts.study_uid, facts.series_uid) == (dataset.StudyInstanceUID, dataset.SeriesInstanceUID)
    assert (facts.sop_uid, facts.modality) == (dataset.SOPInstanceUID, "CT")
    one = received(facts, meta, memoryview(data))
    assert one.counts
    assert one.bytes == len(meta) + len(data)
    assert dataset.SOPInstanceUID not in one.file


def test_cut_and_flipped_headers_are_broken_or_read_and_nothing_else(parts):
    meta, data, _ = parts
    chance = random.Random(1)
    for _ in range(300):
        bad = bytearray(data[: chance.randrange(len(data))])
        for _ in range(chance.randrange(4)):
            if bad:
                bad[chance.randrange(len(bad))] = chance.randrange(256)
        try:
            facts = read_facts(meta, memoryview(bytes(bad)))
        except BrokenObjectError as error:
            assert "Nobody" not in str(error)
        else:
            assert set(facts.study_uid) <= set("0123456789.")
