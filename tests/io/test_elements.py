"""The quick way through a header tells what pydicom tells, or leaves the header to it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from mtnet.io import headers
from mtnet.io.elements import read_elements
from mtnet.io.files import FileEntry, Opener
from mtnet.io.headers import read_header
from mtnet.io.limits import Limits
from tests.builders import write_ct_series, write_dataset

DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
TAGS = ("Rows", "ImagePositionPatient", "SeriesDescription", "RescaleSlope")


def both_ways(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, bool]:
    """The header as it is read, as pydicom alone reads it, and whether the first was the quick way."""
    taken: list[bool] = []

    def watched(*args: Any) -> Any:
        values = read_elements(*args)
        taken.append(values is not None)
        return values

    entry = FileEntry(path, None, path.stat().st_size)
    found = []
    for reader in (watched, lambda *_: None):
        monkeypatch.setattr(headers, "read_elements", reader)
        with Opener() as opener:
            found.append(read_header(entry, opener, Limits()))
    return found[0], found[1], any(taken)


def odd_header(dataset: Dataset, _: int) -> None:
    """Sequences of defined and undefined length, nested, and private elements on the way to the pixels."""
    inner = Dataset()
    inner.PatientComments = "x" * 30
    inner.RequestAttributesSequence = Sequence([Dataset()])
    outer = Dataset()
    outer.ReferencedStudySequence = Sequence([inner, Dataset()])
    outer.add_new((0x0009, 0x0010), "LO", "MAKER")
    outer["ReferencedStudySequence"].is_undefined_length = True
    dataset.ReferencedImageSequence = Sequence([outer, inner])
    dataset.ReferencedPatientSequence = Sequence([inner])
    dataset["ReferencedImageSequence"].is_undefined_length = True
    dataset.add_new((0x0019, 0x0010), "LO", "MAKER")
    dataset.add_new((0x0019, 0x1001), "OB", bytes(70_000))
    dataset.add_new((0x0019, 0x1002), "UT", "text")


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_an_ordinary_header_is_read_the_quick_way_and_alike(
    tmp_path: Path, syntax: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_ct_series(tmp_path, shape=(6, 5, 1), edit=odd_header, kernel="Br40d\\3").paths
    if syntax is not None:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        write_dataset(dataset, path)
    quick, slow, taken = both_ways(path, monkeypatch)
    assert taken
    assert quick == slow


def test_big_endian_and_text_beyond_ascii_are_left_to_pydicom(tmp_path: Path) -> None:
    def name_it(dataset: Dataset, _: int) -> None:
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.SeriesDescription = "Brust, schräg"

    (path,) = write_ct_series(tmp_path, shape=(6, 5, 1), edit=name_it).paths
    with path.open("rb") as stream:
        assert read_elements(stream, TAGS, ()) is None
        assert stream.tell() == 0
    content = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", ExplicitVRBigEndian.encode() + b"\0")
    assert read_elements(io.BytesIO(content), TAGS, ()) is None


def test_a_tag_that_is_given_up_on_leaves_the_header_to_pydicom(tmp_path: Path) -> None:
    (path,) = write_ct_series(tmp_path, shape=(6, 5, 1)).paths
    content = path.read_bytes()
    assert read_elements(io.BytesIO(content), TAGS, ("Columns",)) is None
    values = read_elements(io.BytesIO(content), TAGS, ("PatientAge",))
    assert values is not None and values["Rows"] == [5]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_damage_it_reads_pydicom_reads_alike(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_ct_series(tmp_path, shape=(6, 5, 1), edit=odd_header if seed % 2 else None).paths
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for at in rng.integers(132, min(1600, len(content)), 3):
        content[at] = rng.integers(256)
    path.write_bytes(bytes(content[: rng.integers(300, len(content))] if seed % 5 == 0 else content))
    quick, slow, taken = both_ways(path, monkeypatch)
    if taken and isinstance(quick, headers.Header) and isinstance(slow, headers.Header):
        assert quick.instance == slow.instance


@pytest.mark.study
def test_every_real_header_is_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly = 0
    paths = [path for path in (DATA / "dicom_robustness").rglob("*") if path.is_file()]
    paths += list((DATA / "chest_ct_study").rglob("*.dcm"))[:20]
    for path in paths:
        quick, slow, taken = both_ways(path, monkeypatch)
        assert quick == slow, path.name
        quickly += taken
    assert quickly > 0.6 * len(paths)
