import numpy as np
import pytest

from mtnet.phantoms import NoduleRequest, Phantom, draw_chest
from mtnet.phantoms.baseline import lung_field, threshold_baseline
from mtnet.structures import Geometry, Volume


@pytest.mark.parametrize("family", ["train", "held_out"])
def test_the_lung_field_is_the_drawn_lung_with_its_nodules(family: str) -> None:
    inner = NoduleRequest(diameter_mm=12, place="parenchyma")
    phantom = draw_chest(7, family=family, spacing_mm=(2.0, 2.0, 2.5), nodules=[inner] * 4)  # type: ignore[arg-type]
    field = lung_field(phantom.volume)
    overlap = 2 * (field & phantom.lung_mask).sum() / (field.sum() + phantom.lung_mask.sum())
    assert overlap > 0.9
    nodules = phantom.lesion_map > 0
    assert (field & nodules).sum() > 0.95 * nodules.sum() > 0


def test_a_ball_in_air_gets_one_box_of_its_size() -> None:
    geometry = Geometry.from_parts((40, 40, 40), (1.0, 1.0, 1.0))
    axes = np.meshgrid(*(np.arange(40),) * 3, indexing="ij", sparse=True)
    ball = sum((a - c) ** 2 for a, c in zip(axes, (20, 18, 22), strict=True)) < 6**2
    array = np.where(ball, 30, -850).astype(np.int16)[None]
    boxes, scores = threshold_baseline(Volume(array, geometry, "CT"), np.ones((40, 40, 40), dtype=bool))
    assert boxes.shape == (1, 6)
    assert np.allclose(boxes[0], [14.5, 12.5, 16.5, 25.5, 23.5, 27.5])
    assert scores[0] > 0.8


def test_without_air_there_is_no_field_and_no_box() -> None:
    volume = Volume(np.full((1, 20, 20, 20), 40, dtype=np.int16), Geometry.from_parts((20, 20, 20), (2, 2, 2)), "CT")
    assert not lung_field(volume).any()
    assert len(threshold_baseline(volume)[0]) == 0


def _at_one_false_box(phantoms: list[Phantom]) -> float:
    """Sensitivity for nodules of 8 mm and more at no more than one false box a scan."""
    hits: list[tuple[float, tuple[int, int] | None]] = []
    wanted = set()
    for n, phantom in enumerate(phantoms):
        wanted |= {(n, lesion.number) for lesion in phantom.lesions if lesion.diameter_mm >= 8}
        boxes, scores = threshold_baseline(phantom.volume)
        centres = phantom.volume.geometry.index_to_lps_mm((boxes[:, :3] + boxes[:, 3:]) / 2)
        for centre, score in zip(centres, scores, strict=True):
            near = [
                (n, lesion.number)
                for lesion in phantom.lesions
                if np.linalg.norm(centre - np.asarray(lesion.centre_lps_mm)) <= lesion.diameter_mm / 2
            ]
            hits.append((score, near[0] if near else None))
    found, false = set(), 0
    for _, hit in sorted(hits, key=lambda pair: -pair[0]):
        false += hit is None
        if false > len(phantoms):
            break
        found |= {hit} & wanted
    return len(found) / len(wanted)


@pytest.mark.slow
def test_a_threshold_finds_under_six_of_ten_held_out_nodules_at_one_false_box_a_scan() -> None:
    phantoms = [draw_chest(seed, family="held_out", spacing_mm=(2.0, 2.0, 2.0)) for seed in range(1000, 1009)]
    assert sum(n.diameter_mm >= 8 for p in phantoms for n in p.lesions) > 15
    sensitivity = _at_one_false_box(phantoms)
    assert 0.1 < sensitivity < 0.6
