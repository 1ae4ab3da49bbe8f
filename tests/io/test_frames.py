"""Frames of one object, grey or colour, one or many: as SimpleITK and pydicom decode them, only those asked for."""

from __future__ import annotations

import base64
import dataclasses
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK
from numpy.typing import NDArray
from PIL import Image
from pydicom import encaps
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage

from mtnet.io.files import FileEntry, Opener
from mtnet.io.frames import Frames, read_frames
from mtnet.io.headers import Header, read_header
from mtnet.io.limits import Limits
from mtnet.structures import Instance, RefusedError
from tests.builders import write_dataset

# Files that come with pydicom itself.
SAMPLES = Path(pydicom.data.__file__).parent / "test_files"
AS_SIMPLEITK = [
    "ExplVR_BigEnd.dcm",
    "GDCMJ2K_TextGBR.dcm",
    "JPEG-lossy.dcm",
    "JPEG2000.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_jpeg_no_color_transform.dcm",
    "SC_jpeg_no_color_transform_2.dcm",
    "SC_rgb_dcmtk_+eb+cr.dcm",
    "SC_rgb_dcmtk_+eb+cy+n1.dcm",
    "SC_rgb_dcmtk_+eb+cy+n2.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "SC_rgb_dcmtk_+eb+cy+s2.dcm",
    "SC_rgb_dcmtk_+eb+cy+s4.dcm",
    "SC_rgb_gdcm_KY.dcm",
    "SC_rgb_jpeg_app14_dcmd.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_jpeg_lossy_gdcm.dcm",
    "SC_rgb_rle.dcm",
    "SC_rgb_rle_2frame.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "examples_ybr_color.dcm",
    "rtdose_rle.dcm",
]
# HTJ2K of a 40 x 32 gradient of 12 bits, as OpenJPH writes it: no package here does.
HTJ2K = base64.b85decode(
    "|4;u>04YEK0000e0000W00000000000000e0000W0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&"
    "kdTm&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00000sQ>~0lfVEf0Hgn1{Q*KW0KfndzyK2f0Am2Qwg5sj0Kfnd"
    "zyK8h5_14rP5S`kcU1tu029Cf6@Xe*(SFNy04!sS{onvb00Hc{0KfnhZ~z6MBuSF*;HRgjLU;g_h=_=Y{{DkK@_YBm?79HJ04)dr"
    "1+)MF008`dsp;wI>FMd>d;kal000000O0?6AW84pC%<H#{gQk3N$j!#|Je"
)


def sample(name: str) -> Path:
    """A file of pydicom's; some came with its third version."""
    path = next(SAMPLES.parent.rglob(name), None)
    return path or pytest.skip(f"this pydicom has no {name}")


def instance_of(path: Path) -> Instance:
    with Opener() as opener:
        header = read_header(FileEntry(path, None, path.stat().st_size), opener, Limits())
    assert isinstance(header, Header), header
    return dataclasses.replace(header.instance, frame=None)


def frames_of(path: Path, indices: list[int] | None = None, limits: Limits | None = None) -> Frames:
    with Opener() as opener:
        return read_frames(instance_of(path), opener, limits or Limits(), indices)


def refusal_of(path: Path, limits: Limits | None = None) -> tuple[str, str]:
    with pytest.raises(RefusedError) as caught:
        frames_of(path, limits=limits)
    (found,) = caught.value.lines
    return found.code, found.message


def write_picture(path: Path, pixels: NDArray[np.generic], edit: Callable[[Dataset], None] | None = None) -> Path:
    """An uncompressed object of ``(frames, rows, columns[, 3])``, as ``edit`` leaves it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3.1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3.2", "1.2.3.3"
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Nobody^Test", "SECRET-ID", "OT"
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = pixels.shape[:3]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 4 else "MONOCHROME2"
    if pixels.ndim == 4:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    if edit is not None:
        edit(dataset)
    write_dataset(dataset, path)
    return path


def in_items(dataset: Dataset, syntax: str, encapsulated: bytes) -> None:
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.PixelData = encapsulated
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def grey_frames(count: int = 4) -> NDArray[np.uint16]:
    return np.random.default_rng(7).integers(0, 4096, (count, 10, 14)).astype(np.uint16)


@pytest.mark.parametrize("name", AS_SIMPLEITK)
def test_frames_are_those_that_simpleitk_reads(name: str) -> None:
    path = sample(name)
    instance, found = instance_of(path), frames_of(path)
    judged = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).reshape(found.values.shape)
    if instance.rescale_slope is not None:
        judged = np.rint((judged - (instance.rescale_intercept or 0)) / instance.rescale_slope)
    np.testing.assert_array_equal(found.values, judged)
    assert found.photometric == ("RGB" if instance.samples_per_pixel == 3 else "MONOCHROME2")
    assert (
        found.values.shape
        == (
            (instance.number_of_frames, instance.rows, instance.columns, 3)[
                : 4 if instance.samples_per_pixel == 3 else 3
            ]
        )
    )


@pytest.mark.parametrize("name", ["SC_rgb_rle_16bit_2frame.dcm", "SC_rgb_rle_32bit.dcm", "liver_1frame.dcm"])
def test_frames_are_those_that_pydicom_reads_where_simpleitk_does_not(name: str) -> None:
    path = sample(name)
    found = frames_of(path).values
    np.testing.assert_array_equal(found, pydicom.dcmread(path).pixel_array.reshape(found.shape))


def test_palette_indices_stay_indices() -> None:
    path = sample("examples_palette.dcm")
    found = frames_of(path)
    assert found.photometric == "PALETTE COLOR"
    np.testing.assert_array_equal(found.values[0], pydicom.dcmread(path).pixel_array)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"])
def test_high_throughput_jpeg_2000_is_read(tmp_path: Path, syntax: str) -> None:
    j, i = np.mgrid[:32, :40]
    wanted = (i * 3 + j * 5).astype(np.uint16)[None]
    # pydicom 2 does not write this syntax: one of its length stands in.
    stand_in = "1.2.840.10008.1.2.4.100"
    path = write_picture(
        tmp_path / "a.dcm", wanted, lambda d: in_items(d, stand_in, encaps.encapsulate([HTJ2K + bytes(len(HTJ2K) % 2)]))
    )
    path.write_bytes(path.read_bytes().replace(stand_in.encode(), syntax.encode()))
    np.testing.assert_array_equal(frames_of(path).values, wanted)


def test_colour_by_plane_and_by_pixel_are_the_same(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 6, 5, 3)).astype(np.uint8)

    def by_plane(dataset: Dataset) -> None:
        dataset.PlanarConfiguration = 1
        dataset.PixelData = pixels.transpose(0, 3, 1, 2).tobytes()

    np.testing.assert_array_equal(frames_of(write_picture(tmp_path / "a.dcm", pixels)).values, pixels)
    np.testing.assert_array_equal(frames_of(write_picture(tmp_path / "b.dcm", pixels, by_plane)).values, pixels)


def test_bits_of_a_frame_may_start_inside_a_byte(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 2, (5, 3, 7)).astype(np.uint8)

    def one_bit(dataset: Dataset) -> None:
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
        packed = np.packbits(pixels.ravel(), bitorder="little").tobytes()
        dataset.PixelData = packed + bytes(len(packed) % 2)

    path = write_picture(tmp_path / "a.dcm", pixels, one_bit)
    np.testing.assert_array_equal(frames_of(path).values, pixels)
    np.testing.assert_array_equal(frames_of(path, [3, 0]).values, pixels[[3, 0]])


def test_bytes_in_big_endian_words_are_put_in_order(tmp_path: Path) -> None:
    pixels = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)

    def in_words(dataset: Dataset) -> None:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dataset.PixelData = np.frombuffer(pixels.tobytes() + b"\x00", dtype="<u2").byteswap().tobytes()
        dataset["PixelData"].VR = "OW"

    path = write_picture(tmp_path / "a.dcm", pixels, in_words)
    np.testing.assert_array_equal(frames_of(path, [1, 2, 0]).values, pixels[[1, 2, 0]])


def test_colour_written_by_pillow_is_what_pillow_reads(tmp_path: Path) -> None:
    j, i = np.mgrid[:32, :40]
    picture = Image.fromarray(np.stack([i * 6, j * 7, 255 - i - j], axis=-1).astype(np.uint8))
    streams, wanted = [], []
    for quality in (70, 90):
        coded = BytesIO()
        picture.save(coded, "JPEG", quality=quality)
        streams.append(coded.getvalue())
        wanted.append(np.asarray(Image.open(coded)))

    def compressed(dataset: Dataset) -> None:
        dataset.PhotometricInterpretation = "YBR_FULL_422"
        in_items(dataset, "1.2.840.10008.1.2.4.50", encaps.encapsulate(streams))

    found = frames_of(write_picture(tmp_path / "a.dcm", np.stack(wanted), compressed))
    np.testing.assert_array_equal(found.values, np.stack(wanted))
    assert found.photometric == "RGB"


@pytest.mark.parametrize("table", ["basic", "extended", "wrong", "none"])
def test_frames_in_several_fragments_are_told_apart(tmp_path: Path, table: str) -> None:
    streams, wanted = [], []
    for seed in range(4):
        coded = BytesIO()
        picture = np.random.default_rng(seed).integers(0, 256, (24, 32)).astype(np.uint8)
        Image.fromarray(picture).save(coded, "JPEG", quality=80)
        streams.append(coded.getvalue())
        wanted.append(np.asarray(Image.open(coded)))
    pixels = np.stack(wanted)

    def compressed(dataset: Dataset) -> None:
        content = encaps.encapsulate(streams, fragments_per_frame=3, has_bot=table in ("basic", "wrong"))
        if table == "wrong":
            content = content[:12] + struct.pack("<I", 7) + content[16:]
        in_items(dataset, "1.2.840.10008.1.2.4.50", content)
        if table == "extended":
            whole = encaps.encapsulate(streams, fragments_per_frame=3, has_bot=True)
            offsets = struct.unpack_from("<4I", whole, 8)
            dataset.ExtendedOffsetTable = struct.pack("<4Q", *offsets)
            dataset.ExtendedOffsetTableLengths = struct.pack("<4Q", *map(len, streams))

    path = write_picture(tmp_path / "a.dcm", pixels, compressed)
    np.testing.assert_array_equal(frames_of(path).values, pixels)
    np.testing.assert_array_equal(frames_of(path, [2, 1]).values, pixels[[2, 1]])


def test_frames_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    pixels = grey_frames(4)

    def compressed(dataset: Dataset) -> None:
        dataset.compress(RLELossless)
        items = [pydicom.encaps.encapsulate([bytes(8)] * 3, has_bot=False)]
        in_items(dataset, RLELossless, items[0])

    code, message = refusal_of(write_picture(tmp_path / "a.dcm", pixels, compressed))
    assert code == "unreadable_pixels" and "3 fragment(s) for 4 frame(s)" in message


@pytest.mark.parametrize("compress", [False, True])
def test_selected_frames_come_in_the_order_asked_for(tmp_path: Path, compress: bool) -> None:
    pixels = grey_frames(5)
    path = write_picture(tmp_path / "a.dcm", pixels, (lambda d: d.compress(RLELossless)) if compress else None)
    np.testing.assert_array_equal(frames_of(path).values, pixels)
    np.testing.assert_array_equal(frames_of(path, [4, 0, 0]).values, pixels[[4, 0, 0]])
    with pytest.raises(IndexError, match="frames 0 to 4"):
        frames_of(path, [5])


class CountingOpener(Opener):
    """Counts the bytes that are read."""

    count = 0

    def open(self, path: Path, member: str | None = None) -> IO[bytes]:
        opener = self

        class Counting(BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                found = super().read(size)
                opener.count += len(found)
                return found

        return Counting(path.read_bytes())


def test_only_the_frames_asked_for_are_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 4096, (50, 64, 64)).astype(np.uint16)
    path = write_picture(tmp_path / "a.dcm", pixels)
    instance = instance_of(path)
    with CountingOpener() as opener:
        found = read_frames(instance, opener, Limits(decoded_bytes=2 * 64 * 64 * 2), [30, 31])
        np.testing.assert_array_equal(found.values, pixels[30:32])
        assert opener.count < 2 * 64 * 64 * 2 + 10_000
        read_frames(instance, opener, Limits(), [32])
        assert opener.count < 3 * 64 * 64 * 2 + 10_000


def test_frames_over_the_limit_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.dcm", grey_frames(4))
    assert refusal_of(path, Limits(decoded_bytes=4 * 10 * 14 * 2 - 1))[0] == "limit_exceeded"
    assert frames_of(path, limits=Limits(decoded_bytes=4 * 10 * 14 * 2)).values.shape == (4, 10, 14)


@pytest.mark.parametrize("photometric", ["CMYK", "HSV", "YBR_PARTIAL_422", "MONOCHROME2", ""])
def test_colour_that_is_not_known_is_refused(tmp_path: Path, photometric: str) -> None:
    def edit(dataset: Dataset) -> None:
        dataset.PhotometricInterpretation = photometric

    pixels = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    code, message = refusal_of(write_picture(tmp_path / "a.dcm", pixels, edit))
    assert code == "unreadable_pixels" and "PhotometricInterpretation" in message


@pytest.mark.parametrize("missing", ["PIL", "jpeg_ls", "openjpeg", "gdcm"])
def test_a_decoder_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    name, package = {
        "PIL": ("SC_rgb_jpeg.dcm", "pillow"),
        "jpeg_ls": ("MR_small_jpeg_ls_lossless.dcm", "pyjpegls"),
        "openjpeg": ("JPEG2000.dcm", "pylibjpeg-openjpeg"),
        "gdcm": ("SC_rgb_jpeg_gdcm.dcm", "python-gdcm"),
    }[missing]
    path = sample(name)
    code, message = refusal_of(path)
    assert code == "unknown_decoder" and f"Install {package}." in message


def test_one_frame_of_a_compressed_enhanced_object_is_read_alone(tmp_path: Path) -> None:
    from mtnet.io.pixels import read_stored

    pixels = grey_frames(5)
    path = write_picture(tmp_path / "a.dcm", pixels, lambda d: d.compress(RLELossless))
    with Opener() as opener:
        stored = read_stored(dataclasses.replace(instance_of(path), frame=4), opener, Limits())
    np.testing.assert_array_equal(stored, pixels[3])
