"""The engine held against MONAI's inferer, and every mode of it against the plainest one."""

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from mtnet.inference.bands import Band
from mtnet.inference.engine import run
from mtnet.inference.plan import Plan
from mtnet.inference.windows import pad_to_window
from mtnet.structures import Geometry, OutputSpec
from tests.inference.toy_nets import COARSE, PRED, STRIDE, VALUES, DenseNet, EveryKindNet

SHAPE = (48, 40, 32)
GRID = Geometry.from_parts(SHAPE, (1.5, 1.5, 1.5), (-10.0, 20.0, 30.0))
FINER = Geometry.from_parts((70, 60, 20), (1.02, 0.99, 2.4), (-10.0, 20.0, 30.0), np.diag([1.0, 1.0, 1.0]))
OBLIQUE = Geometry.from_parts(
    (40, 40, 20), (1.5, 1.2, 2.0), (0.0, 25.0, 30.0), [[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]
)
RAW = OutputSpec("pred", "dense", (), (1,))


def noise(shape=SHAPE, seed=0):
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(seed))


def study():
    """Noise below zero with a few bright nodules for the boxes to find."""
    image = -noise().abs()
    for n, voxel in enumerate([(5, 5, 5), (20, 14, 20), (13, 13, 13), (40, 30, 8), (25, 26, 28), (47, 39, 31)]):
        image[(0, 0, *voxel)] = 0.5 + 0.25 * n
    return image


def region():
    i, j, k = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return torch.from_numpy((i - 16) ** 2 / 100 + (j - 14) ** 2 / 80 + (k - 18) ** 2 / 60 <= 1)


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("shape", "window", "overlap"),
    [
        ((48, 40), (16, 16), 0.25),
        ((64, 37), (24, 37), 0.5),
        (SHAPE, (16, 16, 16), 0.25),
        ((33, 40, 29), (16, 24, 8), 0.6),
        ((16, 16, 16), (16, 16, 16), 0.25),
    ],
)
def test_one_dense_head_is_blended_as_monai_blends_it(shape, window, overlap, mode):
    net = DenseNet(len(shape), (RAW,))
    image = noise(shape)
    plan = Plan(window=window, overlap=overlap, importance=mode, batch=3)
    with torch.no_grad():
        expected = sliding_window_inference(image, window, 4, lambda x: net(x)["pred"], overlap=overlap, mode=mode)
    got = run(net, image, plan).dense["pred"].array
    assert np.abs(got - expected[0].numpy()).max() < 1e-5


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
def test_a_padded_image_is_blended_as_monai_blends_the_padded_one_and_cut_back(mode):
    net = DenseNet(3, (RAW,))
    padded, valid = pad_to_window(noise((12, 37, 24)), (16, 16, 16), 4)
    plan = Plan(window=(16, 16, 16), importance=mode, valid_shape=valid)
    with torch.no_grad():
        expected = sliding_window_inference(padded, (16, 16, 16), 4, lambda x: net(x)["pred"], mode=mode)
    got = run(net, padded, plan).dense["pred"].array
    assert got.shape == (3, 12, 37, 24)
    assert np.abs(got - expected[0, :, :12, :37].numpy()).max() < 1e-5


def test_a_coarse_output_is_blended_as_monai_blends_it():
    net = DenseNet(3, (COARSE,))
    cells = Geometry.from_parts([n // 2 for n in SHAPE], (3, 3, 3), GRID.index_to_lps_mm([0.5, 0.5, 0.5]))
    with torch.no_grad():
        expected = sliding_window_inference(noise(), (16, 16, 16), 4, lambda x: net(x)["coarse"], mode="gaussian")
    got = run(net, noise(), Plan(window=(16, 16, 16), grid=GRID, target=cells)).dense["coarse"].array
    assert np.abs(got - expected[0].numpy()).max() < 1e-5


def test_windows_given_as_a_list_are_the_ones_that_run():
    net = DenseNet(2, (VALUES,))
    out = run(net, noise((32, 32)), Plan(window=(8, 8), starts=((0, 0), (0, 4), (16, 20))))
    covered = np.zeros((32, 32), dtype=bool)
    for i, j in ((0, 0), (0, 4), (16, 20)):
        covered[i : i + 8, j : j + 8] = True
    values = out.dense["values"].array
    assert out.windows_run == out.windows_total == 3
    assert (values[:, ~covered] == VALUES.background).all()
    assert (values[:, covered] != VALUES.background).all()
    alone = net(noise((32, 32))[..., 16:24, 20:28])["values"][0].detach().numpy()
    assert np.abs(values[:, 16:24, 20:28] - alone).max() < 1e-6


@pytest.mark.parametrize(
    ("starts", "expected"),
    [(((0, 0), (0, 4), (16, 20)), [2, 2]), (((0, 0), (0, 4), (4, 0), (16, 20)), [2, 2]), (((0, 0),), [1])],
)
def test_on_a_cpu_no_window_of_several_is_passed_alone(starts, expected):
    net = DenseNet(2, (VALUES,))
    out = run(net, noise((32, 32)), Plan(window=(8, 8), starts=starts, batch=2)).dense["values"].array
    assert net.batches == expected
    plain = run(net, noise((32, 32)), Plan(window=(8, 8), starts=starts)).dense["values"].array
    assert np.abs(out - plain).max() < 1e-5


def assert_same(got, expected, where=None, tolerance=1e-4, labels_from=None):
    """All outputs equal; labels where the two best classes are told apart by more than the tolerance."""
    for name, dense in expected.dense.items():
        mask = np.ones(dense.array.shape[1:], dtype=bool) if where is None else where
        if dense.array.dtype == np.uint8:
            top = np.sort(labels_from.dense[name].probabilities, axis=0)
            mask = mask & (top[-1] - top[-2] > 2 * tolerance)
            assert mask.any()
            assert (got.dense[name].array == dense.array)[:, mask].all(), name
        else:
            assert np.abs(got.dense[name].array - dense.array)[:, mask].max() < tolerance, name


def assert_same_findings(got, expected):
    for name, boxes in expected.boxes.items():
        assert len(boxes.score) > 0
        assert torch.allclose(got.boxes[name].box_index, boxes.box_index, atol=1e-4)
        assert torch.allclose(got.boxes[name].score, boxes.score, atol=1e-4)
        assert torch.equal(got.boxes[name].label, boxes.label)
        assert all(torch.allclose(got.boxes[name].lesion[n], v, atol=1e-4) for n, v in boxes.lesion.items())
    for name, values in expected.global_.items():
        assert torch.allclose(got.global_[name], values, atol=1e-4)


BASE = {"window": (16, 16, 16), "grid": GRID, "target": FINER}


@pytest.fixture(scope="module")
def plain():
    return run(EveryKindNet(), study(), Plan(**BASE, keep_probabilities=True))


@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_every_batch_gives_all_outputs_the_same(plain, batch):
    out = run(EveryKindNet(), study(), Plan(**BASE, batch=batch))
    assert_same(out, plain, labels_from=plain)
    assert_same_findings(out, plain)


def test_keeping_probabilities_changes_no_label(plain):
    out = run(EveryKindNet(), study(), Plan(**BASE))
    assert out.dense["pred"].probabilities is None
    assert_same(out, plain, labels_from=plain)
    # Without interpolation labels come from raw values, and must still be those of the probabilities.
    same_grid = {"window": (16, 16, 16)}
    kept = run(EveryKindNet(), study(), Plan(**same_grid, keep_probabilities=True))
    assert_same(run(EveryKindNet(), study(), Plan(**same_grid)), kept, labels_from=kept)
    assert (kept.dense["pred"].array[0] == kept.dense["pred"].probabilities.argmax(0)).all()


def test_two_threads_give_all_outputs_the_same(plain):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        out = run(EveryKindNet(), study(), Plan(**BASE, batch=2))
    finally:
        torch.set_num_threads(before)
    assert_same(out, plain, labels_from=plain)
    assert_same_findings(out, plain)


def test_when_memory_runs_out_the_batch_halves_and_the_answer_stays(plain):
    out = run(EveryKindNet(most=2), study(), Plan(**BASE, batch=10))
    assert [line.code for line in out.lines] == ["memory_batch_halved"] * 2
    assert_same(out, plain, labels_from=plain)
    assert_same_findings(out, plain)


def fail_first(monkeypatch, times):
    """Let the first calls that copy finished planes run out of memory."""
    left = [times]
    planes = Band.planes

    def failing(self, *args):
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return planes(self, *args)

    monkeypatch.setattr(Band, "planes", failing)


def test_then_slabs_shrink_and_the_answer_stays(plain, monkeypatch):
    fail_first(monkeypatch, 5)
    out = run(EveryKindNet(), study(), Plan(**BASE, batch=4))
    assert [line.code for line in out.lines] == ["memory_batch_halved"] * 2 + ["memory_slabs_halved"] * 3
    assert_same(out, plain, labels_from=plain)
    assert_same_findings(out, plain)


def test_slabs_shrink_on_the_way_to_an_oblique_target_too(monkeypatch):
    plan = {"window": (16, 16, 16), "grid": GRID, "target": OBLIQUE}
    plain = run(EveryKindNet(), study(), Plan(**plan, keep_probabilities=True))
    fail_first(monkeypatch, 4)
    out = run(EveryKindNet(), study(), Plan(**plan))
    assert [line.code for line in out.lines] == ["memory_slabs_halved"] * 4
    assert_same(out, plain, labels_from=plain)


def test_when_nothing_is_left_to_give_the_error_goes_on():
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        run(EveryKindNet(most=0), study(), Plan(**BASE, batch=2))


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("no"), KeyError("x")]
)
def test_an_error_that_is_not_out_of_memory_is_never_swallowed(error):
    net = EveryKindNet()
    calls = []

    def failing(_):
        calls.append(1)
        raise error

    net.forward = failing
    with pytest.raises(type(error)):
        run(net, study(), Plan(**BASE, batch=4))
    assert len(calls) == 1


def test_a_memory_limit_makes_the_batch_smaller_beforehand_and_says_so(plain):
    net = EveryKindNet()
    free = run(net, study(), Plan(**BASE, batch=32, memory_limit_bytes=1 << 34))
    assert max(net.dense.batches) == 32
    assert not free.lines
    net.dense.batches.clear()
    out = run(net, study(), Plan(**BASE, batch=32, memory_limit_bytes=6 << 20))
    assert 1 <= max(net.dense.batches) < 32
    assert [line.code for line in out.lines] == ["memory_limit_batch"]
    assert_same(out, plain, labels_from=plain)
    assert_same_findings(out, plain)


def test_a_memory_limit_that_cannot_be_kept_is_said_and_the_study_still_answered(plain):
    out = run(EveryKindNet(), study(), Plan(**BASE, memory_limit_bytes=1000))
    assert "memory_limit_exceeded" in [line.code for line in out.lines]
    assert_same(out, plain, labels_from=plain)


def inside(target):
    """Target voxels whose nearest image voxel lies in the region: the definition, worked out voxel by voxel."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in target.shape), indexing="ij"), axis=-1)
    at = GRID.lps_mm_to_index(target.index_to_lps_mm(index))
    held = np.clip(at, 0, np.array(SHAPE) - 1)
    nearest = np.floor(held + 0.5 + 1e-9).astype(int)
    return region().numpy()[tuple(np.moveaxis(nearest, -1, 0))] & (np.abs(at - held) <= 0.5).all(-1)


@pytest.mark.parametrize("overlap", [0.0, 0.25])
@pytest.mark.parametrize("target", [GRID, FINER, OBLIQUE], ids=["same grid", "finer", "oblique"])
def test_inside_the_region_skipping_changes_nothing_and_outside_lies_background(target, overlap):
    plan = {"window": (8, 8, 8), "overlap": overlap, "grid": GRID, "target": target, "keep_probabilities": True}
    whole = run(EveryKindNet(), study(), Plan(**plan))
    out = run(EveryKindNet(), study(), Plan(**plan, region=region()))
    within = inside(target)
    assert out.windows_run < out.windows_total == whole.windows_run
    assert within.any()
    assert out.region_share == pytest.approx(region().float().mean().item())
    assert_same(out, whole, within, 1e-5, labels_from=whole)
    probabilities = out.dense["pred"].probabilities - whole.dense["pred"].probabilities
    assert np.abs(probabilities[:, within]).max() < 1e-5
    assert (out.dense["pred"].array[:, ~within] == 0).all()
    assert (out.dense["values"].array[:, ~within] == VALUES.background).all()
    assert (out.dense["coarse"].array[:, ~within] == COARSE.background).all()
    expected = [s for b, s in _centres(whole) if region()[b]]
    assert [s for _, s in _centres(out)] == pytest.approx(expected)
    assert 0 < len(expected) < len(whole.boxes["boxes"].score)


def _centres(out):
    boxes = out.boxes["boxes"]
    middle = ((boxes.box_index[:, :3] + boxes.box_index[:, 3:]) / 2 + 0.5).floor().long()
    return [(tuple(m), s) for m, s in zip(middle.tolist(), boxes.score.tolist(), strict=True)]


def test_a_region_in_two_parts_with_nothing_between_is_restored_whole():
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[:, :, 1] = mask[3:9, 2:6, 29] = True
    plan = {"window": (8, 8, 8), "overlap": 0.0}
    whole = run(EveryKindNet(), study(), Plan(**plan))
    out = run(EveryKindNet(), study(), Plan(**plan, region=mask))
    assert {0, 24} == set(_slab_starts(out, mask))
    assert np.array_equal(out.dense["values"].array[:, mask], whole.dense["values"].array[:, mask])
    oblique = {"window": (8, 8, 8), "overlap": 0.0, "grid": GRID, "target": OBLIQUE}
    whole = run(EveryKindNet(), study(), Plan(**oblique)).dense["values"].array
    out = run(EveryKindNet(), study(), Plan(**oblique, region=mask)).dense["values"].array
    within = (out != VALUES.background).all(0)
    assert within.any()
    assert np.abs(out - whole)[:, within].max() < 1e-5


def _slab_starts(out, mask):
    return (
        [8 * s for s in range(4) if mask[:, :, 8 * s : 8 * s + 8].any()] if out.windows_run < out.windows_total else []
    )


def test_a_volume_smaller_than_the_window_gets_all_answers():
    image = study()[..., 10:30, 10:20, 10:24]
    padded, valid = pad_to_window(image, (32, 32, 32), STRIDE, -1.0)
    out = run(EveryKindNet(), padded, Plan(window=(32, 32, 32), valid_shape=valid))
    assert out.windows_run == 1
    assert out.dense["pred"].array.shape == (1, *valid)
    assert len(out.boxes["boxes"].score) == 2
    once = EveryKindNet()(padded)
    assert np.abs(out.dense["values"].array - once["values"][0, :, :20, :10, :14].detach().numpy()).max() < 1e-6
    assert torch.allclose(out.global_["image_class"], once["image_class"][0, :2].sigmoid(), atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_half_precision_answers_alike(plain, precision):
    out = run(EveryKindNet(), study(), Plan(**BASE, precision=precision))
    agree = (out.dense["pred"].array == plain.dense["pred"].array).mean()
    assert 0.97 < agree < 1.0
    assert out.dense["values"].array.dtype == np.float32


def test_progress_tells_windows_done_and_to_do():
    told = []
    out = run(EveryKindNet(), study(), Plan(**BASE, batch=7), lambda done, total: told.append((done, total)))
    total = out.windows_run
    assert told == [(min(n, total), total) for n in range(7, total + 7, 7)]


def test_the_network_keeps_its_mode_and_no_gradient_is_recorded():
    net = DenseNet(2).train()
    run(net, noise((16, 16)).requires_grad_(), Plan(window=(8, 8)))
    assert net.training


def test_labels_of_the_whole_image_are_those_of_the_blend():
    with torch.no_grad():
        net = DenseNet()
        raw = sliding_window_inference(noise(), (16, 16, 16), 4, lambda x: net(x)["pred"], mode="gaussian")[0]
    got = run(DenseNet(outputs=(PRED,)), noise(), Plan(window=(16, 16, 16))).dense["pred"].array
    clear = (raw.sort(0).values.diff(dim=0)[-1] > 1e-4).numpy()
    assert clear.mean() > 0.99
    assert (got[0] == raw.argmax(0).numpy())[clear].all()


@pytest.mark.parametrize(
    ("image", "words"),
    [(torch.zeros(2, 1, 16, 16), r"expected \(1, C, \*S\)"), (torch.zeros(1, 16, 16), r"expected \(1, C, \*S\)")],
)
def test_an_image_that_is_no_batch_of_one_is_refused(image, words):
    with pytest.raises(ValueError, match=words):
        run(DenseNet(2), image, Plan(window=(8, 8)))


def test_a_network_that_does_not_give_what_it_says_is_refused():
    net = DenseNet(2)
    net.outputs = (*net.outputs, OutputSpec("depth", "dense", (), (1,)))
    net.forward = lambda x: {"pred": x.repeat(1, 3, 1, 1), "values": x}
    with pytest.raises(ValueError, match="did not give depth; it gave pred, values"):
        run(net, noise((16, 16)), Plan(window=(8, 8)))
