"""Reading one header: what counts as DICOM, what is unreadable, and what never reaches a message."""

from __future__ import annotations

import random
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from mtnet.io.files import FileEntry, Opener
from mtnet.io.headers import Header, read_header
from mtnet.io.limits import Limits
from mtnet.io.scan import scan
from mtnet.structures import RefusedError, ReportLine
from tests.builders import write_ct_series, write_dataset

# pydicom warns about values that these tests make wrong on purpose, while it writes them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def read(path: Path, limits: Limits | None = None) -> Header | ReportLine | None:
    with Opener() as opener:
        return read_header(FileEntry(path, None, path.stat().st_size), opener, limits or Limits())


def good(path: Path) -> Header:
    header = read(path)
    assert isinstance(header, Header)
    return header


def one_file(folder: Path, **options: object) -> Path:
    return write_ct_series(folder, shape=(6, 5, 1), **options).paths[0]  # type: ignore[arg-type]


def without_preamble(path: Path, syntax: str, *, keep_meta: bool) -> Path:
    """The same data set as old exports have it: no preamble, with or without the file meta group."""
    written = path.with_name("written.dcm")
    write_dataset(in_syntax(path, syntax), written)
    content = written.read_bytes()
    written.unlink()
    meta_bytes = 12 + int.from_bytes(content[140:144], "little")
    target = path.with_name("bare")
    target.write_bytes(content[132 if keep_meta else 132 + meta_bytes :])
    return target


def in_syntax(path: Path, syntax: str) -> Dataset:
    """The data set of a file, ready to be written in another uncompressed transfer syntax."""
    source = pydicom.dcmread(path)
    bare = Dataset({element.tag: element for element in source})
    bare.file_meta = source.file_meta
    bare.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        bare.PixelData = b"".join(source.PixelData[i : i + 2][::-1] for i in range(0, len(source.PixelData), 2))
    return bare


def test_the_header_says_what_was_written(tmp_path: Path) -> None:
    path = one_file(tmp_path, kernel="Br40d\\3", tilt_deg=0.0, tilt_tag=True, thickness_mm=1.25, series_number=7)
    header = good(path)
    instance = header.instance
    assert (header.kernel, header.series_number, header.manufacturer) == ("Br40d\\3", 7, "SIEMENS")
    assert (instance.rows, instance.columns, instance.number_of_frames) == (5, 6, 1)
    assert instance.position_lps_mm == (-5.0, -4.0, -10.0)
    assert instance.orientation_lps == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert instance.pixel_spacing_mm == (0.8, 0.8)
    assert (instance.slice_thickness_mm, instance.gantry_tilt_deg) == (1.25, 0.0)
    assert (instance.rescale_slope, instance.rescale_intercept, instance.rescale_type) == (1.0, -1024.0, "HU")
    assert instance.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert instance.file_bytes == path.stat().st_size
    assert header.has_pixels and not header.problems
    with path.open("rb") as stream:
        stream.seek(header.pixel_offset or 0)
        assert stream.read() == pydicom.dcmread(path).PixelData
    assert instance.native_offset == header.pixel_offset


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian], ids=lambda uid: uid.name
)
def test_every_uncompressed_encoding_reads_alike(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    source = one_file(tmp_path)
    write_dataset(in_syntax(source, syntax), tmp_path / "other.dcm")
    one, two = good(source), good(tmp_path / "other.dcm")
    assert two.instance.transfer_syntax_uid == syntax
    assert two.has_pixels and not two.problems
    for name in ("position_lps_mm", "orientation_lps", "pixel_spacing_mm", "rescale_intercept", "rows", "columns"):
        assert getattr(one.instance, name) == getattr(two.instance, name)


@pytest.mark.parametrize(
    ("syntax", "keep_meta"),
    [
        (ImplicitVRLittleEndian, False),
        (ExplicitVRLittleEndian, False),
        (ExplicitVRBigEndian, False),
        (ExplicitVRLittleEndian, True),
    ],
)
def test_a_data_set_without_preamble_is_read(tmp_path: Path, syntax: str, keep_meta: bool) -> None:
    bare = without_preamble(one_file(tmp_path), syntax, keep_meta=keep_meta)
    header = good(bare)
    assert header.instance.position_lps_mm == (-5.0, -4.0, -10.0)
    assert header.instance.transfer_syntax_uid == syntax
    assert header.has_pixels and not header.problems


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"patient,age\n" * 40,
        b"\x08\x00 plain text that begins with an odd byte, and goes on for long enough to be looked at",
        b"\x02\x00\x01\x00" + bytes(200),
        b"\x08\x00\x05\x00CS" + bytes(200),
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        bytes(4000),
        random.Random(0).randbytes(5000),
    ],
)
def test_other_files_are_not_taken_for_dicom(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read(tmp_path / "file") is None


def test_a_file_that_claims_to_be_dicom_and_is_not_is_named(tmp_path: Path) -> None:
    (tmp_path / "slice.dcm").write_bytes(b"no" * 300)
    found = read(tmp_path / "slice.dcm")
    assert isinstance(found, ReportLine)
    assert (found.code, found.severity, found.where) == ("unreadable_file", "refused", "slice.dcm")


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_file_without_its_uids_is_unreadable(tmp_path: Path, keyword: str) -> None:
    path = one_file(tmp_path)
    dataset = pydicom.dcmread(path)
    dataset[keyword].value = ""
    dataset.save_as(path)
    found = read(path)
    assert isinstance(found, ReportLine)
    assert "UID is absent" in found.message


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("ImagePositionPatient", "1\\NAN\\3"),
        ("ImagePositionPatient", "1\\inf\\3"),
        ("PixelSpacing", "0.8\\wide"),
        ("RescaleSlope", "one"),
        ("NumberOfFrames", "1A"),
    ],
)
def test_a_value_that_geometry_or_units_hang_on_must_be_a_number(tmp_path: Path, keyword: str, text: str) -> None:
    def spoil(dataset: Dataset, k: int) -> None:
        setattr(dataset, keyword, "1\\1\\1" if keyword == "ImagePositionPatient" else "1\\1")
        dataset[keyword] = pydicom.DataElement(dataset[keyword].tag, "LO", text.split("\\"))

    path = one_file(tmp_path, edit=spoil)
    # The wrong text is written under another value representation, then called what it should be.
    tag = pydicom.tag.Tag(keyword)
    head = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
    vr = pydicom.datadict.dictionary_VR(tag).encode()
    path.write_bytes(path.read_bytes().replace(head + b"LO", head + vr, 1))
    found = read(path)
    assert isinstance(found, ReportLine)
    assert found.code == "unreadable_file"
    assert keyword in found.message
    assert text not in found.message


def test_a_wrong_value_that_nothing_hangs_on_counts_as_absent(tmp_path: Path) -> None:
    def spoil(dataset: Dataset, k: int) -> None:
        dataset[0x00200013] = pydicom.DataElement(0x00200013, "LO", "first")

    path = one_file(tmp_path, edit=spoil)
    path.write_bytes(path.read_bytes().replace(b"\x20\x00\x13\x00LO", b"\x20\x00\x13\x00IS", 1))
    assert good(path).instance.instance_number is None


@pytest.mark.parametrize(
    ("signed", "vr", "written", "stored"),
    [(1, "SS", -2000, -2000), (1, "US", 63536, -2000), (0, "US", 63536, 63536), (0, "SS", -2000, 63536)],
)
def test_padding_is_given_as_the_stored_pixels_hold_it(
    tmp_path: Path, signed: int, vr: str, written: int, stored: int
) -> None:
    def pad(dataset: Dataset, k: int) -> None:
        dataset.PixelRepresentation = signed
        dataset.add_new(0x00280120, vr, written)

    assert good(one_file(tmp_path, edit=pad)).instance.padding_value == stored


@pytest.mark.parametrize("kept", [200, 500, 900])
def test_a_header_cut_short_is_never_a_readable_slice(tmp_path: Path, kept: int) -> None:
    path = one_file(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    try:
        (study,) = scan(tmp_path)
    except RefusedError as error:
        codes = [item.code for item in error.lines]
    else:
        codes = [item.code for item in study.series[0].stacks[0].report.refusals]
    assert {"unreadable_file", "no_pixel_data", "missing_geometry"} & set(codes)


@pytest.mark.parametrize("seed", range(4))
def test_any_damage_gives_a_study_or_a_refusal(tmp_path: Path, seed: int) -> None:
    whole = one_file(tmp_path / "source").read_bytes()
    damaged = tmp_path / "damaged" / "x.dcm"
    damaged.parent.mkdir()
    chance = random.Random(seed)
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 20)):
            content[chance.randrange(len(content))] = chance.choice([0, 255, chance.randrange(256)])
        damaged.write_bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
        try:
            assert scan(damaged.parent)
        except RefusedError as error:
            assert error.lines


def test_a_deflated_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = one_file(tmp_path)
    dataset = in_syntax(path, DeflatedExplicitVRLittleEndian)
    dataset.add_new(0x00091010, "OB", bytes(40 * 1024**2))
    write_dataset(dataset, path)
    assert path.stat().st_size < 200_000
    found = read(path, Limits(header_bytes=30 * 1024**2))
    assert isinstance(found, ReportLine)
    assert (found.code, found.severity) == ("limit_exceeded", "refused")
    assert isinstance(read(path), Header)


@pytest.mark.parametrize("tail", [b"\x00", b"\x00" * 100_000])
def test_bytes_after_a_deflated_data_set_are_passed_over(tmp_path: Path, tail: bytes) -> None:
    path = one_file(tmp_path)
    dataset = in_syntax(path, DeflatedExplicitVRLittleEndian)
    dataset.add_new(0x00091010, "OB", bytes(3 * 1024**2))
    write_dataset(dataset, path)
    path.write_bytes(path.read_bytes() + tail)
    assert good(path).instance.position_lps_mm == (-5.0, -4.0, -10.0)


def test_more_frames_than_the_limit_are_refused_by_the_header(tmp_path: Path) -> None:
    path = one_file(tmp_path, edit=lambda dataset, k: setattr(dataset, "NumberOfFrames", 70_000))
    found = read(path)
    assert isinstance(found, ReportLine)
    assert "number of frames is over the limit of 50000" in found.message


def test_no_patient_data_reach_a_message_or_the_structures(tmp_path: Path) -> None:
    write_ct_series(tmp_path, drop=(3,), tilt_deg=5, rescale=None)
    (tmp_path / "bad.dcm").write_bytes((tmp_path / "0001.dcm").read_bytes()[:600])
    text = repr(scan(tmp_path))
    for secret in ("Nobody", "SECRET-ID", "19000101", "20010203", "040506"):
        assert secret not in text
