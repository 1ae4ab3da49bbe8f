"""The real sets, judged by what their tables and headers tell."""

import csv
import json
import math
import shutil
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image

from mtnet.io.load import load
from mtnet.io.scan import scan
from mtnet.sources.folds import fold_of, write_split_list
from mtnet.sources.masks import component_boxes, read_mask
from mtnet.sources.prepare import Request, prepare

pytestmark = [pytest.mark.study, pytest.mark.xdist_group("real_sets")]

SPLITS = Path(__file__).parents[2] / "data" / "splits"
SETS = {
    "busi": ("busi", "BUSI"),
    "kvasir_seg": ("kvasir_seg", "Kvasir-SEG"),
    "endotect": ("endotect", "EndoTect"),
    "cvc_clinicdb": ("polyp_folder", "CVC-ClinicDB"),
    "isic2018": ("isic2018", "ISIC2018"),
    "lidc_voi": ("lidc_voi", "lidc_voi"),
    "lung_pet_ct_dx": ("lung_pet_ct_dx", "chest_ct_study"),
}
PICTURES = ("busi", "kvasir_seg", "endotect", "cvc_clinicdb", "isic2018")


@pytest.fixture(scope="module")
def real(data_dir, tmp_path_factory):
    """What prepare makes of a set, once for all tests."""
    held = {}

    def make(name):
        if name not in held:
            layout, folder = SETS[name]
            out = tmp_path_factory.mktemp(name) / "m.json"
            held[name] = prepare(Request(layout, data_dir / folder, out))
        return held[name]

    return make


@pytest.mark.parametrize("name", SETS)
def test_the_committed_folds_are_those_that_the_command_makes(real, name, tmp_path):
    prepared = real(name)
    assert prepared.problems == ()
    write_split_list(prepared.manifest, tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == (SPLITS / f"{name}.csv").read_text()
    assert all(s.fold == fold_of(s.group) for s in prepared.manifest.samples)


def test_no_group_lies_in_two_splits(real):
    for name in SETS:
        assert real(name).divided == ()


@pytest.mark.parametrize(
    ("name", "recall"), [("busi", 0.99), ("isic2018", 0.99), ("endotect", 0.99), ("kvasir_seg", 0.6)]
)
def test_look_alikes_are_found_nearly_as_the_sets_own_groups_have_them(real, name, recall):
    found = real(name).agreement
    assert found.recall >= recall
    assert found.found_groups >= 0.96 * found.given_groups
    assert found.largest_found <= 8


def test_busi_has_the_counts_and_faults_that_its_description_tells(real):
    samples = real("busi").manifest.samples
    assert Counter(s.image_class for s in samples) == {"benign": 350, "malignant": 168, "normal": 106}
    assert sum("label_conflict" in s.flags for s in samples) == 20
    assert sum("colour_overlay" in s.flags for s in samples) == 13
    assert sum(len(s.masks) > 1 for s in samples) == 13
    assert {s.masks for s in samples if s.image_class == "normal"} == {()}
    assert {s.split for s in samples if "label_conflict" in s.flags} == {"train"}
    share = np.mean([read_mask(s).mean() for s in samples if s.image_class == "malignant"])
    assert share == pytest.approx(0.140, abs=0.001)


def test_kvasir_boxes_lie_on_the_masks_components(real, data_dir):
    """Where image and JSON both hold one box: the corners of both lie within three pixels in nearly all."""
    told = json.loads((data_dir / "Kvasir-SEG" / "kavsir_bboxes.json").read_text())
    near = []
    for sample in real("kvasir_seg").manifest.samples:
        assert len(sample.boxes) == len(told[sample.id.partition("/")[2]]["bbox"])
        components = component_boxes(read_mask(sample))
        if len(sample.boxes) == len(components) == 1:
            near.append(np.abs(np.subtract(sample.boxes[0], components[0])).max() <= 3)
    assert len(near) > 300
    assert np.mean(near) > 0.97


def test_stray_pixels_in_the_corner_of_kvasir_masks_are_left_out(real):
    flagged = [s for s in real("kvasir_seg").manifest.samples if "stray_pixel" in s.flags]
    assert len(flagged) >= 46
    for sample in flagged:
        assert np.asarray(Image.open(sample.masks[0]).convert("L"))[0, 0] > 127
        assert not read_mask(sample)[0, 0]


def test_masks_have_their_images_size_and_kind_of_axes(real):
    for name in PICTURES:
        for sample in real(name).manifest.samples[:20]:
            if sample.masks:
                with Image.open(sample.image) as image:
                    assert read_mask(sample).shape == image.size


def test_lidc_crops_lie_where_the_table_says_in_simpleitks_eyes(real, data_dir, tmp_path):
    root = tmp_path / "lidc"
    (root / "nodules").mkdir(parents=True)
    with (data_dir / "lidc_voi" / "index.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    few = rows[:: len(rows) // 6]
    for row in few:
        shutil.copy(data_dir / "lidc_voi" / row["file"], root / row["file"])
    with (root / "index.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(few)
    prepared = prepare(Request("lidc_voi", root, tmp_path / "m.json"))
    prepared.write()
    for sample, row in zip(prepared.manifest.samples, few, strict=True):
        mask = SimpleITK.ReadImage(str(sample.masks[0]))
        values = SimpleITK.GetArrayFromImage(mask)
        middle = np.argwhere(values)[:, ::-1].mean(axis=0)
        place = mask.TransformContinuousIndexToPhysicalPoint(middle.tolist())
        assert math.dist(place, sample.centre_lps_mm) < 2.5
        low = [float(row[f"bboxLow{axis}"]) for axis in "XYZ"]
        high = [float(row[f"bboxHigh{axis}"]) for axis in "XYZ"]
        # The table's box is the readers' common part: the mask's holds it, but for a voxel.
        box, step = np.array(sample.boxes_lps_mm[0]), np.array(mask.GetSpacing())
        assert (box[:3] <= low + step).all() and (box[3:] >= high - step).all()
        assert np.count_nonzero(values) == int(row["mask_voxels"])


def test_lidc_has_498_nodules_with_a_clear_suspicion(real):
    samples = real("lidc_voi").manifest.samples
    assert len(samples) == 788
    assert sum(s.image_class is not None for s in samples) == 498
    assert len({s.group for s in samples}) == 444


def test_the_tumour_of_the_real_study_lies_where_its_slices_boxes_say(real, data_dir):
    """Each series' box against the corners and ImagePositionPatient of its marked slices, read by pydicom."""
    root = data_dir / "chest_ct_study"
    marked = {path.stem: path for path in root.rglob("*.xml")}
    for sample in real("lung_pet_ct_dx").manifest.samples:
        corners, heights = [], []
        for path in sample.image.glob("*.dcm"):
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if header.SOPInstanceUID not in marked:
                continue
            box = ElementTree.parse(marked[header.SOPInstanceUID]).getroot().find("object/bndbox")
            corners.append([float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")])
            heights.append(float(header.ImagePositionPatient[2]))
            first, step = np.array(header.ImagePositionPatient[:2], float), float(header.PixelSpacing[0])
        corners = np.array(corners)
        low = first + (corners[:, :2].min(axis=0) - 0.5) * step
        high = first + (corners[:, 2:].max(axis=0) - 0.5) * step
        expected = [*low, min(heights) - 2.5, *high, max(heights) + 2.5]
        assert len(sample.boxes) == 1
        np.testing.assert_allclose(sample.boxes_lps_mm[0], expected, atol=0.01)
        assert sample.values == {"marked_slices": len(heights)}
        assert sample.image_class == "adenocarcinoma"


def test_the_box_of_the_tumour_holds_soft_tissue_in_the_volume_as_loaded(real):
    sample = real("lung_pet_ct_dx").manifest.samples[0]
    (study,) = scan(sample.image)
    volume = load(study.series[0].stacks[0], study.series[0])
    low_i, low_j, low_k, high_i, high_j, high_k = (math.ceil(v) for v in sample.boxes[0])
    inside = volume.array[0, low_i:high_i, low_j:high_j, low_k:high_k]
    mirrored = volume.array[0, low_i:high_i, low_j:high_j, -high_k:-low_k]
    assert np.mean(inside > -200) > 0.5
    assert np.mean(inside > -200) > np.mean(mirrored > -200)


def test_an_annotated_slice_that_is_missing_or_of_another_size_is_named(data_dir, tmp_path):
    source = data_dir / "chest_ct_study"
    root = tmp_path / "study"
    series = next(path.parent for path in sorted(source.rglob("1-15.dcm")))
    (root / "Lung_Dx-A0001" / "ct").mkdir(parents=True)
    for n in range(14, 20):
        shutil.copy(series / f"1-{n}.dcm", root / "Lung_Dx-A0001" / "ct")
    uids = [pydicom.dcmread(series / f"1-{n}.dcm", stop_before_pixels=True).SOPInstanceUID for n in (15, 21)]
    (root / "annotations" / "A0001").mkdir(parents=True)
    for uid in uids:
        shutil.copy(source / "annotations" / "A0001" / f"{uid}.xml", root / "annotations" / "A0001")
    found = prepare(Request("lung_pet_ct_dx", root, tmp_path / "m.json"))
    assert [(p.file.stem, p.reason) for p in found.problems] == [(uids[1], "no slice with this SOPInstanceUID")]
    assert len(found.manifest.samples) == 1
    xml = root / "annotations" / "A0001" / f"{uids[0]}.xml"
    xml.write_text(xml.read_text().replace("<width>512", "<width>256"))
    (root / "annotations" / "A0001" / "broken.xml").write_text("<annotation>")
    found = prepare(Request("lung_pet_ct_dx", root, tmp_path / "m.json"))
    assert found.manifest.samples == ()
    assert {p.reason.partition(":")[0] for p in found.problems} >= {"size mismatch", "unreadable"}
