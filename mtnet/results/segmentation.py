"""What a DICOM SEG says of lesions, whatever its frames lie on: segments, equipment, identity (PS3.3 A.51)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mtnet.results.codes import ABNORMAL_STRUCTURE, ARTIFICIAL_INTELLIGENCE, lesion_region, lesion_type
from mtnet.results.derived import DerivedUids, coded, long_string, series_number, set_identity, set_lossy
from mtnet.results.dicom_source import DicomSource
from mtnet.results.notice import training_notice
from mtnet.structures import Findings, Lesion

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SegKind = Literal["binary", "labelmap"]
SEG_KINDS: tuple[SegKind, ...] = get_args(SegKind)
# The first highdicom that writes label maps.
_LABEL_MAPS_FROM = (0, 24)
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


def check_seg_kind(kind: str) -> SegKind:
    """The kind of DICOM SEG, where it can be written here.

    Raises:
        ValueError: there is no such kind, or the installed highdicom is too old for it.
    """
    from importlib.metadata import version

    if kind not in SEG_KINDS:
        raise ValueError(f"--seg is {kind!r}; expected {' or '.join(SEG_KINDS)}.")
    installed = version("highdicom")
    if kind == "labelmap" and tuple(int(part) for part in installed.split(".")[:2]) < _LABEL_MAPS_FROM:
        raise ValueError(
            f"--seg labelmap needs highdicom 0.24 or later; here is highdicom {installed}. Install a newer one "
            "(with pydicom 3), or write --seg binary."
        )
    return "labelmap" if kind == "labelmap" else "binary"


def new_segmentation(
    findings: Findings,
    source: DicomSource,
    identity: Dataset,
    uids: DerivedUids,
    *,
    kind: SegKind,
    source_images: Sequence[Dataset],
    frames: NDArray[np.unsignedinteger[Any]],
    numbers: tuple[int, ...],
) -> Any:
    """The object as highdicom makes it from clean sources, with identity, dates and UIDs that we set.

    Args:
        findings: what the segments are.
        source: what they are about.
        identity: from ``patient_and_study``.
        uids: of this object.
        kind: binary, or one label map.
        source_images: what highdicom needs to know of the sources, and nothing that it could take over unasked.
        frames: ``(n, rows, columns)`` segment numbers, 0 elsewhere.
        numbers: for each segment, in order, the number of its lesion.
    """
    from highdicom.seg import Segmentation

    from mtnet import __version__

    with warnings.catch_warnings():
        # highdicom's remarks on its own defaults are of no use to the caller, and could quote the source.
        warnings.simplefilter("ignore")
        seg = Segmentation(
            source_images=source_images,
            pixel_array=frames,
            segmentation_type="BINARY" if kind == "binary" else "LABELMAP",
            transfer_syntax_uid=_EXPLICIT_LITTLE_ENDIAN,
            segment_descriptions=_segments(findings, numbers),
            series_instance_uid=uids.of("series"),
            series_number=series_number(source.header, 9000),
            sop_instance_uid=uids.of("object"),
            instance_number=1,
            manufacturer="mtnet",
            manufacturer_model_name=long_string(f"mtnet {findings.model.name}"),
            software_versions=long_string(__version__),
            device_serial_number=findings.model.weights_sha256[:16] or "0",
            content_label="LESIONS",
            content_description=long_string(training_notice(findings.model)),
            omit_empty_frames=True,
            series_description=long_string("mtnet lesions (research use only, not a medical device)"),
        )
        set_identity(seg, identity, source.header)
        set_lossy(seg, source)
        _set_dimension_uid(seg, uids.of("dimensions"))
    if kind == "labelmap":
        size = (int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns))
        values = np.frombuffer(seg.PixelData, dtype=f"<u{int(seg.BitsAllocated) // 8}")
        set_label_map(seg, values[: np.prod(size)].reshape(size))
    return seg


def set_label_map(seg: Any, values: NDArray[np.unsignedinteger[Any]]) -> None:
    """Give a label map its frames ``(n, rows, columns)`` as RLE lossless, in as many bits as it declares.

    The encoder is pydicom's own: that of GDCM, which highdicom would get, ends the process on some odd sizes.
    """
    from pydicom.encaps import encapsulate
    from pydicom.pixels.encoders.base import get_encoder
    from pydicom.uid import RLELossless

    encoder = get_encoder(RLELossless)
    bits = int(seg.BitsAllocated)
    encoded = [
        encoder.encode(
            np.ascontiguousarray(frame, dtype=np.uint8 if bits == 8 else np.uint16),
            encoding_plugin="pydicom",
            rows=int(seg.Rows),
            columns=int(seg.Columns),
            number_of_frames=1,
            samples_per_pixel=1,
            bits_allocated=bits,
            bits_stored=bits,
            pixel_representation=0,
            photometric_interpretation=str(seg.PhotometricInterpretation),
        )
        for frame in values
    ]
    seg.file_meta.TransferSyntaxUID = RLELossless
    seg.PixelData = encapsulate(encoded)
    seg["PixelData"].VR = "OB"
    seg["PixelData"].is_undefined_length = True


def _segments(findings: Findings, numbers: tuple[int, ...]) -> list[Any]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    algorithm = AlgorithmIdentificationSequence(
        name=long_string(findings.model.name),
        family=coded(ARTIFICIAL_INTELLIGENCE.code),
        version=long_string(findings.model.version),
        source="mtnet",
        parameters=dict(sorted(findings.options.items())) or None,
    )
    colours = {label.name: label.colour for label in findings.labels}
    segments = []
    for segment_number, number in enumerate(numbers, start=1):
        lesion = findings.lesions[number - 1]
        region = lesion_region(lesion.label, findings.labels)
        segment = SegmentDescription(
            segment_number=segment_number,
            segment_label=f"Lesion {number}",
            segmented_property_category=coded(ABNORMAL_STRUCTURE.code),
            segmented_property_type=coded(lesion_type(lesion.label, findings.labels)),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            tracking_uid=lesion.tracking_uid,
            tracking_id=f"Lesion {number}",
            anatomic_regions=[coded(region)] if region is not None else None,
        )
        segment.SegmentDescription = _segment_text(lesion, findings)
        lab = CIELabColor(*_cielab(colours.get(lesion.label, (255, 196, 0))))
        segment.RecommendedDisplayCIELabValue = [int(v) for v in lab.value]
        segments.append(segment)
    return segments


def _segment_text(lesion: Lesion, findings: Findings) -> str:
    size = ""
    if lesion.longest_axial_diameter_mm is not None:
        size = f" Longest axial diameter {lesion.longest_axial_diameter_mm:.1f} mm."
    elif lesion.mask_drawn:
        size = " A ball of the measured diameter, drawn; its outline was not seen."
    found = "place given" if lesion.place_given else f"score {lesion.score:.2f}"
    return f"{lesion.label}, {found}.{size} {training_notice(findings.model)}"[:1024]


def _set_dimension_uid(seg: Any, uid: str) -> None:
    """Replace the random UID that highdicom gives to the dimensions."""
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _cielab(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """CIE L*a*b* (D50, as PS3.3 C.10.7.1.1 wants it) of an sRGB colour (IEC 61966-2-1, Bradford-adapted matrix)."""
    linear = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
    matrix = np.array(
        [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    )
    x, y, z = matrix @ linear / np.array([0.96422, 1.0, 0.82521])
    fx, fy, fz = (v ** (1 / 3) if v > (6 / 29) ** 3 else v / (3 * (6 / 29) ** 2) + 4 / 29 for v in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)
