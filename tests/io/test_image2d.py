"""PNG, JPEG, TIFF and BMP: every kind of pixel as Pillow and ITK see it, or a refusal with its code."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from PIL import Image as PillowImages

from mtnet.io.image2d import describe_picture, read_picture
from mtnet.io.image_out import write_image
from mtnet.io.limits import Limits
from mtnet.structures.image import Image
from mtnet.structures.report import RefusedError

DATA = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[3] / "shared" / "data"))
GREY = np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)
WIDE = np.random.default_rng(2).integers(0, 65536, (24, 40), dtype=np.uint16)
WIDE_COLOUR = np.random.default_rng(3).integers(0, 65536, (24, 40, 3), dtype=np.uint16)


def rows_first(image: Image) -> NDArray[np.generic]:
    """The image as Pillow gives it: (rows, columns) or (rows, columns, 3)."""
    return image.array.transpose(2, 1, 0).squeeze()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_lossless_files_come_back_channel_first_and_column_first(
    tmp_path: Path, suffix: str, pixels: NDArray[np.uint8]
) -> None:
    PillowImages.fromarray(pixels).save(tmp_path / f"a{suffix}")
    image = read_picture(tmp_path / f"a{suffix}")
    assert image.array.shape == (1 if pixels.ndim == 2 else 3, 40, 24) and image.array.dtype == np.uint8
    np.testing.assert_array_equal(rows_first(image), pixels)
    assert image.spacing_mm is None and "pixel_spacing_unknown" in image.report.codes


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_jpeg_is_what_pillow_decodes_and_called_approximate(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    PillowImages.fromarray(pixels).save(tmp_path / "a.jpg", quality=80)
    image = read_picture(tmp_path / "a.jpg")
    np.testing.assert_array_equal(rows_first(image), np.asarray(PillowImages.open(tmp_path / "a.jpg")))
    assert "lossy_compression" in image.report.codes


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("pixels", [WIDE, WIDE_COLOUR], ids=["grey", "colour"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path, suffix: str, pixels: NDArray[np.uint16]) -> None:
    picture = SimpleITK.GetImageFromArray(pixels, isVector=pixels.ndim == 3)
    SimpleITK.WriteImage(picture, str(tmp_path / f"a{suffix}"))
    image = read_picture(tmp_path / f"a{suffix}")
    assert image.array.dtype == np.uint16
    np.testing.assert_array_equal(rows_first(image), pixels)


def test_big_endian_tiff_and_white_at_zero_are_brought_to_one_form(tmp_path: Path) -> None:
    PillowImages.frombuffer("I;16B", (40, 24), WIDE.astype(">u2").tobytes(), "raw", "I;16B", 0, 1).save(
        tmp_path / "big.tif"
    )
    np.testing.assert_array_equal(rows_first(read_picture(tmp_path / "big.tif")), WIDE)
    for pixels in (GREY, WIDE):
        PillowImages.fromarray(pixels).save(tmp_path / "white.tif", tiffinfo={262: 0})
        stored = (tmp_path / "white.tif").read_bytes()
        entry = struct.pack("<HHIH", 262, 3, 1, 1)
        (tmp_path / "white.tif").write_bytes(stored.replace(entry, struct.pack("<HHIH", 262, 3, 1, 0)))
        PillowImages.fromarray(pixels).save(tmp_path / "black.tif")
        white, black = read_picture(tmp_path / "white.tif"), read_picture(tmp_path / "black.tif")
        # Pillow inverts 8-bit pixels on writing too where the tag asks for it; the file's own bytes decide.
        raw_is_inverted = PillowImages.fromarray(pixels).tobytes() not in (tmp_path / "white.tif").read_bytes()
        top = np.iinfo(pixels.dtype).max
        expected = rows_first(black) if raw_is_inverted else top - rows_first(black)
        np.testing.assert_array_equal(rows_first(white), expected)


def test_floating_point_tiff_keeps_its_values_and_refuses_what_is_no_number(tmp_path: Path) -> None:
    values = np.linspace(-3, 5, 960, dtype=np.float32).reshape(24, 40)
    PillowImages.fromarray(values).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(rows_first(read_picture(tmp_path / "a.tif")), values)
    values[3, 4] = np.nan
    PillowImages.fromarray(values).save(tmp_path / "b.tif")
    with pytest.raises(RefusedError, match="values_not_finite"):
        read_picture(tmp_path / "b.tif")


def test_one_bit_palette_and_cmyk_become_grey_and_rgb(tmp_path: Path) -> None:
    PillowImages.fromarray(GREY > 100).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(rows_first(read_picture(tmp_path / "bit.png")), (GREY > 100) * 255)
    palette = PillowImages.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "palette.png")
    image = read_picture(tmp_path / "palette.png")
    np.testing.assert_array_equal(rows_first(image), np.asarray(palette.convert("RGB")))
    assert "palette_expanded" in image.report.codes
    cmyk = PillowImages.fromarray(COLOUR).convert("CMYK")
    cmyk.save(tmp_path / "cmyk.tif")
    image = read_picture(tmp_path / "cmyk.tif")
    np.testing.assert_array_equal(rows_first(image), COLOUR)
    assert "cmyk_converted" in image.report.codes


def test_ycbcr_tiff_becomes_rgb(tmp_path: Path) -> None:
    PillowImages.fromarray(COLOUR).convert("YCbCr").save(tmp_path / "a.tif")
    expected = np.asarray(PillowImages.open(tmp_path / "a.tif").convert("RGB"))
    np.testing.assert_array_equal(rows_first(read_picture(tmp_path / "a.tif")), expected)


def test_alpha_is_left_out_and_never_blended(tmp_path: Path) -> None:
    for pixels in (GREY[..., None], COLOUR):
        opaque = np.concatenate([pixels, np.full((24, 40, 1), 255, np.uint8)], axis=2)
        PillowImages.fromarray(opaque).save(tmp_path / "opaque.png")
        image = read_picture(tmp_path / "opaque.png", strict=True)
        np.testing.assert_array_equal(rows_first(image), pixels.squeeze())
        assert "alpha_dropped" in image.report.codes
        opaque[:6, :, -1] = 10
        PillowImages.fromarray(opaque).save(tmp_path / "clear.png")
        image = read_picture(tmp_path / "clear.png")
        np.testing.assert_array_equal(rows_first(image), pixels.squeeze())
        (found,) = (item for item in image.report if item.code == "transparent_pixels")
        assert found.severity == "repaired" and "25.0%" in found.message
        with pytest.raises(RefusedError, match="transparent_pixels"):
            read_picture(tmp_path / "clear.png", strict=True)


def test_sixteen_bit_colour_with_alpha_keeps_its_colours(tmp_path: Path) -> None:
    pixels = np.concatenate([WIDE_COLOUR, np.full((24, 40, 1), 65535, np.uint16)], axis=2)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels, isVector=True), str(tmp_path / "a.png"))
    image = read_picture(tmp_path / "a.png", strict=True)
    np.testing.assert_array_equal(rows_first(image), WIDE_COLOUR)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_as_pillow_does(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    exif = PillowImages.Exif()
    exif[0x0112] = orientation
    PillowImages.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    image = read_picture(tmp_path / "a.png")
    expected = np.asarray(ImageOps.exif_transpose(PillowImages.open(tmp_path / "a.png")))
    np.testing.assert_array_equal(rows_first(image), expected)
    assert ("exif_orientation" in image.report.codes) == (orientation != 1)
    size, lines = describe_picture(tmp_path / "a.png")
    assert size == image.shape and [item.code for item in lines] == list(image.report.codes)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(WIDE_COLOUR, isVector=True), str(tmp_path / "wide.png"))
    stored, tag = (tmp_path / "wide.png").read_bytes(), b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(tag) - 4) + tag + struct.pack(">I", zlib.crc32(tag))
    (tmp_path / "wide.png").write_bytes(stored[:33] + chunk + stored[33:])
    turned = np.stack(
        [np.asarray(ImageOps.exif_transpose(_with_exif(WIDE_COLOUR[..., n] // 256, exif, tmp_path))) for n in range(3)],
        axis=-1,
    )
    np.testing.assert_array_equal(rows_first(read_picture(tmp_path / "wide.png")) // 256, turned)


def _with_exif(pixels: NDArray[np.uint16], exif: PillowImages.Exif, folder: Path) -> PillowImages.Image:
    PillowImages.fromarray(pixels.astype(np.uint8)).save(folder / "plain.png", exif=exif)
    return PillowImages.open(folder / "plain.png")


def test_print_resolution_is_no_pixel_size(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif", "a.jpg", "a.bmp"):
        PillowImages.fromarray(GREY).save(tmp_path / name, dpi=(72, 72))
        assert read_picture(tmp_path / name).spacing_mm is None


def test_several_pages_and_foreign_formats_are_refused_by_code(tmp_path: Path) -> None:
    page = PillowImages.fromarray(GREY)
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page, page])
    with pytest.raises(RefusedError, match=r"3 pages.*several_pages"):
        read_picture(tmp_path / "pages.tif")
    page.save(tmp_path / "moving.gif")
    (tmp_path / "moving.gif").rename(tmp_path / "moving.png")
    with pytest.raises(RefusedError, match="unsupported_format"):
        read_picture(tmp_path / "moving.png")
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "nothing.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "wide.png", "packed.tif"])
def test_files_that_are_cut_short_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "wide.png":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(WIDE_COLOUR, isVector=True), str(path))
    else:
        PillowImages.fromarray(COLOUR).save(path, **({"compression": "tiff_lzw"} if name == "packed.tif" else {}))
    whole = path.read_bytes()
    for share in (0.0, 0.02, 0.3, 0.6, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(RefusedError, match=r"unreadable_image|unsupported_format"):
            read_picture(path)


def test_a_damaged_png_is_refused_by_its_check_sums(tmp_path: Path) -> None:
    PillowImages.fromarray(COLOUR).save(tmp_path / "a.png", compress_level=0)
    stored = bytearray((tmp_path / "a.png").read_bytes())
    stored[len(stored) // 2] ^= 0x10
    (tmp_path / "a.png").write_bytes(stored)
    with pytest.raises(RefusedError, match="unreadable_image"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["L", "1"])
def test_a_large_mask_of_even_areas_is_no_bomb_however_small_its_file_is(tmp_path: Path, mode: str) -> None:
    picture = PillowImages.new("L", (6748, 4499))
    picture.paste(255, (1000, 1000, 5000, 3000))
    picture.convert(mode).save(tmp_path / "mask.png")
    assert (tmp_path / "mask.png").stat().st_size < 64_000
    assert np.count_nonzero(read_picture(tmp_path / "mask.png").array) == 4000 * 2000


def _bomb(path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


@pytest.mark.parametrize("side", [6_000, 12_000, 60_000])
def test_bombs_are_refused_from_the_header_in_silence(tmp_path: Path, side: int) -> None:
    _bomb(tmp_path / "bomb.png", side)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RefusedError, match=r"limit_exceeded|unreadable_image"):
            read_picture(tmp_path / "bomb.png")
    PillowImages.fromarray(COLOUR).save(tmp_path / "a.png")
    with pytest.raises(RefusedError, match="limit_exceeded"):
        read_picture(tmp_path / "a.png", limits=Limits(image_bytes=1000))


@pytest.mark.parametrize(
    "array",
    [
        GREY.T[None],
        COLOUR.transpose(2, 1, 0),
        WIDE.T[None],
        WIDE_COLOUR.transpose(2, 1, 0),
        WIDE.T[None].astype(np.int32),
        WIDE.T[None].astype(np.int32) - 1000,
        np.linspace(-1, 1, 960, dtype=np.float32).reshape(1, 40, 24),
    ],
    ids=["grey", "colour", "wide", "wide colour", "int32", "negative", "float"],
)
def test_what_is_written_reads_back_equal_here_and_in_itk(tmp_path: Path, array: NDArray[np.generic]) -> None:
    path = write_image(array, tmp_path, "image-0")
    np.testing.assert_array_equal(read_picture(path).array, array)
    outside = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    np.testing.assert_array_equal(outside, array.transpose(2, 1, 0).squeeze())
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.study
@pytest.mark.parametrize(
    "pattern",
    [
        "BUSI/benign/benign (1).png",
        "BUSI/benign/benign (4)_mask_1.png",
        "Kvasir-SEG/images/*.jpg",
        "ISIC2018/ISIC2018_Task1-2_Training_Input/*.jpg",
        "CVC-ClinicDB/images/1.jpg",
        "CVC-ClinicDB/masks/1.png",
    ],
)
def test_real_pictures_are_what_itk_reads(pattern: str) -> None:
    path = sorted(DATA.glob(pattern))[0]
    image = read_picture(path)
    outside = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    difference = np.abs(rows_first(image).astype(int) - outside.astype(int))
    # Decoders of JPEG smooth colours between pixels in their own ways.
    assert difference.mean() < (0.5 if path.suffix == ".jpg" else 1e-9)
