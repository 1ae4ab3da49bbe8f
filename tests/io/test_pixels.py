"""Pixels of one object: decoded as SimpleITK decodes them, refused where they can't be trusted, rescaled exactly."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, RLELossless

from mtnet.io.files import FileEntry, Opener
from mtnet.io.headers import Header, read_header
from mtnet.io.limits import Limits
from mtnet.io.pixels import read_stored
from mtnet.io.values import to_values
from mtnet.structures import Instance, RefusedError
from tests.builders import write_ct_series, write_dataset

DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
SYNTAXES = DATA / "dicom_robustness" / "ct_chest_transfer_syntaxes"
LOSSLESS = [
    "deflated",
    "explicit_big_endian",
    "explicit_little_endian",
    "implicit_little_endian",
    "j2k_lossless",
    "jpeg_lossless_sv1",
    "jpegls_lossless",
    "rle",
]
COMPRESSED = ["j2k_lossless", "jpeg_lossless_sv1", "jpegls_lossless", "rle"]


def instance_of(path: Path) -> Instance:
    with Opener() as opener:
        header = read_header(FileEntry(path, None, path.stat().st_size), opener, Limits())
    assert isinstance(header, Header), header
    return header.instance


def stored_of(path: Path, limits: Limits | None = None) -> NDArray[np.integer]:
    with Opener() as opener:
        return read_stored(instance_of(path), opener, limits or Limits())


def refusal_of(path: Path, limits: Limits | None = None) -> tuple[str, str]:
    with pytest.raises(RefusedError) as caught:
        stored_of(path, limits)
    (found,) = caught.value.lines
    return found.code, found.message


def one_slice(folder: Path, edit: Callable[[Dataset], None] | None = None) -> Path:
    written = write_ct_series(
        folder, shape=(40, 36, 1), edit=None if edit is None else lambda dataset, _: edit(dataset)
    )
    return written.paths[0]


@pytest.mark.study
@pytest.mark.parametrize("name", LOSSLESS)
def test_every_lossless_transfer_syntax_gives_simpleitks_values(name: str) -> None:
    path = SYNTAXES / f"{name}.dcm"
    instance = instance_of(path)
    values = to_values(stored_of(path), instance)
    judge = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0]
    np.testing.assert_array_equal(values, judge)
    assert values.dtype == np.int16


@pytest.mark.study
def test_the_eight_lossless_files_hold_equal_pixels() -> None:
    first, *others = [stored_of(SYNTAXES / f"{name}.dcm") for name in LOSSLESS]
    assert first.std() > 100
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.study
@pytest.mark.parametrize("name", COMPRESSED)
def test_a_stream_that_is_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    dataset = pydicom.dcmread(SYNTAXES / f"{name}.dcm")
    (length,) = struct.unpack_from("<I", dataset.PixelData, 4)
    stream = dataset.PixelData[8 + length + 8 :]
    half = stream[: len(stream) // 4 * 2]
    dataset.PixelData = b"\xfe\xff\x00\xe0" + bytes(4) + b"\xfe\xff\x00\xe0" + struct.pack("<I", len(half)) + half
    write_dataset(dataset, tmp_path / "cut.dcm")
    assert refusal_of(tmp_path / "cut.dcm")[0] == "unreadable_pixels"


@pytest.mark.study
@pytest.mark.parametrize("name", ["j2k_lossless", "jpeg_lossless_sv1", "jpegls_lossless"])
def test_a_stream_of_another_size_than_the_header_says_is_refused_before_decoding(tmp_path: Path, name: str) -> None:
    dataset = pydicom.dcmread(SYNTAXES / f"{name}.dcm")
    dataset.Rows, dataset.Columns = 64, 32
    write_dataset(dataset, tmp_path / "small.dcm")
    code, message = refusal_of(tmp_path / "small.dcm")
    assert code == "unreadable_pixels"
    assert "512 x 512" in message and "32 x 64" in message


@pytest.mark.study
def test_a_stream_of_another_format_than_the_transfer_syntax_is_refused(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(SYNTAXES / "jpegls_lossless.dcm")
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.70")
    write_dataset(dataset, tmp_path / "other.dcm")
    assert "another kind of JPEG" in refusal_of(tmp_path / "other.dcm")[1]


@pytest.mark.study
def test_signedness_that_differs_between_stream_and_header_has_its_own_code() -> None:
    path = DATA / "dicom_robustness" / "ct_j2k_sign_mismatch" / "J2K_pixelrep_mismatch.dcm"
    assert refusal_of(path)[0] == "signedness_mismatch"


@pytest.mark.parametrize(
    ("syntax", "advice"),
    [("1.2.840.10008.1.2.4.110", "Convert"), ("1.2.840.10008.1.2.4.100", "Export"), ("1.2.840.10008.1.2.8.1", "Conv")],
)
def test_a_transfer_syntax_without_decoder_is_named(tmp_path: Path, syntax: str, advice: str) -> None:
    # pydicom does not write syntaxes that it does not know: one of equal length is written, then replaced.
    stand_in = "1.2.840.10008.1.2.4.100" if len(syntax) == 23 else "1.2.840.10008.1.2.4.50"

    def edit(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = UID(stand_in)
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x0a" + bytes(40)])
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"

    path = one_slice(tmp_path, edit)
    written = path.read_bytes()
    assert written.count(stand_in.encode()) == 1
    path.write_bytes(written.replace(stand_in.encode(), syntax.encode().ljust(len(stand_in), b"\x00")))
    code, message = refusal_of(path)
    assert code == "unknown_decoder"
    assert syntax in message and advice in message


def test_rle_written_by_pydicom_is_read_back(tmp_path: Path) -> None:
    plain = one_slice(tmp_path / "plain")
    packed = one_slice(tmp_path / "rle", lambda dataset: dataset.compress(RLELossless))
    np.testing.assert_array_equal(stored_of(plain), stored_of(packed))


def test_a_slice_over_the_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = one_slice(tmp_path)
    assert refusal_of(path, Limits(decoded_bytes=40 * 36 * 2 - 1))[0] == "limit_exceeded"
    assert stored_of(path, Limits(decoded_bytes=40 * 36 * 2)).shape == (36, 40)


def test_a_deflated_file_that_inflates_without_end_is_refused(tmp_path: Path) -> None:
    path = one_slice(tmp_path)
    content = path.read_bytes()
    (length,) = struct.unpack("<I", content[140:144])
    body = content[144 + length :]
    meta = content[132 : 144 + length].replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.1.99")
    meta = meta[:8] + struct.pack("<I", len(meta) - 12) + meta[12:]
    at = meta.index(b"\x02\x00\x10\x00UI")
    meta = meta[: at + 6] + struct.pack("<H", 22) + meta[at + 8 :]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(body) + packer.flush()
    path.write_bytes(content[:132] + meta + packed)
    instance = instance_of(path)
    assert instance.transfer_syntax_uid == "1.2.840.10008.1.2.1.99"
    assert stored_of(path).shape == (36, 40)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(body + b"\xfc\xff\xfc\xffOB\x00\x00" + struct.pack("<I", 2**25) + bytes(2**25))
    path.write_bytes(content[:132] + meta + bomb + packer.flush())
    with Opener() as opener, pytest.raises(RefusedError) as caught:
        read_stored(instance, opener, Limits(header_bytes=2**22))
    assert [item.code for item in caught.value.lines] == ["limit_exceeded"]


def test_signed_values_of_twelve_bits_are_sign_extended(tmp_path: Path) -> None:
    wanted = np.arange(-720, 720).reshape(36, 40)

    def edit(dataset: Dataset) -> None:
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.PixelData = (wanted & 0x0FFF).astype("<u2").tobytes()

    np.testing.assert_array_equal(stored_of(one_slice(tmp_path, edit)), wanted)


def test_overlay_bits_above_the_pixel_are_cleared(tmp_path: Path) -> None:
    wanted = np.arange(1440).reshape(36, 40)

    def edit(dataset: Dataset) -> None:
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
        dataset.add_new(0x60000102, "US", 15)
        dataset.PixelData = (wanted | 0x8000).astype("<u2").tobytes()

    np.testing.assert_array_equal(stored_of(one_slice(tmp_path, edit)), wanted)


def test_values_that_do_not_fit_bits_stored_are_refused(tmp_path: Path) -> None:
    def edit(dataset: Dataset) -> None:
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
        dataset.PixelData = np.full((36, 40), 5000, dtype="<u2").tobytes()

    code, message = refusal_of(one_slice(tmp_path, edit))
    assert code == "unreadable_pixels" and "BitsStored" in message


def test_a_message_of_refusal_holds_nothing_of_the_patient(tmp_path: Path) -> None:
    path = one_slice(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-500])
    code, message = refusal_of(path)
    assert code == "unreadable_pixels"
    assert "Nobody" not in message and "SECRET" not in message
