from __future__ import annotations

import pytest
import torch

from mtnet.detection import fuse, pairwise_iou

ONE = torch.zeros(1, dtype=torch.long)


def test_two_sources_that_agree_give_the_mean_weighted_by_score() -> None:
    boxes = [torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[2.0, 0.0, 12.0, 10.0]])]
    found = fuse(boxes, [torch.tensor([0.9]), torch.tensor([0.6])], [ONE, ONE])
    # Corners: (0.9 * 0 + 0.6 * 2) / 1.5 = 0.8 and 10.8; score (0.9 + 0.6) / 2.
    assert found.box_index.tolist() == [pytest.approx([0.8, 0.0, 10.8, 10.0])]
    assert found.score.tolist() == pytest.approx([0.75])
    assert found.members == (((0, 0), (1, 0)),)


def test_a_box_that_one_of_three_sources_saw_counts_a_third() -> None:
    box = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0, 4.0]])
    none = torch.zeros(0, 6), torch.zeros(0), torch.zeros(0, dtype=torch.long)
    found = fuse([box, none[0], none[0]], [torch.tensor([0.9]), none[1], none[1]], [ONE, none[2], none[2]])
    assert found.score.tolist() == pytest.approx([0.3])
    assert found.box_index.tolist() == box.tolist()


def test_a_box_is_held_against_the_fused_box_and_not_against_its_members() -> None:
    # Along axis 0 the third overlaps the second by 7.5 / 12.5 = 0.6, but the first two's mean [1, 11) by 6.5 / 13.5.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 1.0], [2.0, 0.0, 12.0, 1.0], [4.5, 0.0, 14.5, 1.0]])
    found = fuse([boxes[:1], boxes[1:2], boxes[2:]], [torch.tensor([s]) for s in (0.8, 0.8, 0.5)], [ONE] * 3)
    assert found.members == (((0, 0), (1, 0)), ((2, 0),))
    assert found.box_index[:, 0].tolist() == pytest.approx([1.0, 4.5])


def test_classes_never_fuse() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    found = fuse([box, box], [torch.tensor([0.9]), torch.tensor([0.8])], [ONE, ONE + 1])
    assert found.label.tolist() == [0, 1]
    assert found.score.tolist() == pytest.approx([0.45, 0.4])


def test_a_source_can_be_trusted_more() -> None:
    boxes = [torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[2.0, 0.0, 12.0, 10.0]])]
    found = fuse(boxes, [torch.tensor([0.5]), torch.tensor([0.5])], [ONE, ONE], weights=[3.0, 1.0])
    assert found.box_index[0, 0].item() == pytest.approx(0.5)
    assert found.score.tolist() == pytest.approx([0.5])


def test_more_members_than_sources_do_not_raise_a_score_above_one() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(5, 1)
    found = fuse([boxes], [torch.ones(5)], [torch.zeros(5, dtype=torch.long)])
    assert found.score.tolist() == [1.0]
    assert len(found.members[0]) == 5


@pytest.mark.parametrize("dims", [2, 3])
def test_the_answer_does_not_depend_on_the_order_of_sources(dims: int) -> None:
    draw = torch.Generator().manual_seed(0)
    sources = []
    for _ in range(3):
        low = torch.rand(20, dims, generator=draw) * 15
        box = torch.cat([low, low + 4 + 4 * torch.rand(20, dims, generator=draw)], 1)
        sources.append((box, torch.rand(20, generator=draw), torch.randint(0, 2, (20,), generator=draw)))
    ahead = fuse(*map(list, zip(*sources, strict=True)), iou_threshold=0.3)  # type: ignore[arg-type]
    back = fuse(*map(list, zip(*reversed(sources), strict=True)), iou_threshold=0.3)  # type: ignore[arg-type]
    assert 0 < len(ahead.score) < 60
    assert sum(map(len, ahead.members)) == 60
    torch.testing.assert_close(ahead.box_index, back.box_index)
    torch.testing.assert_close(ahead.score, back.score)


def by_the_paper(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, threshold: float
) -> dict[tuple[int, ...], torch.Tensor]:
    """Members of every fused box and the box, by the paper's loop."""
    clusters: list[list[int]] = []
    fused = torch.zeros_like(boxes)
    for box in scores.argsort(descending=True, stable=True).tolist():
        same = torch.tensor([labels[cluster[0]] == labels[box] for cluster in clusters], dtype=torch.bool)
        iou = pairwise_iou(boxes[box : box + 1], fused[: len(clusters)])[0] * same
        if clusters and float(iou.max()) > threshold:
            place = int(iou.argmax())
            clusters[place].append(box)
        else:
            place = len(clusters)
            clusters.append([box])
        members = clusters[place]
        fused[place] = (boxes[members] * scores[members, None]).sum(0) / scores[members].sum()
    return {tuple(members): fused[place] for place, members in enumerate(clusters)}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("extent", [4.0, 20.0, 200.0])
@pytest.mark.parametrize("threshold", [0.1, 0.55])
def test_fusion_equals_the_papers_loop(dims: int, extent: float, threshold: float) -> None:
    draw = torch.Generator().manual_seed(3)
    low = torch.rand(700, dims, generator=draw, dtype=torch.double) * extent
    boxes = torch.cat([low, low + 5 + 10 * torch.rand(700, dims, generator=draw, dtype=torch.double)], 1)
    scores, labels = torch.rand(700, generator=draw, dtype=torch.double), torch.randint(0, 3, (700,), generator=draw)
    found = fuse([boxes], [scores], [labels], threshold)
    expected = by_the_paper(boxes, scores, labels, threshold)
    members = [tuple(row for _, row in rows) for rows in found.members]
    assert set(members) == set(expected)
    torch.testing.assert_close(found.box_index, torch.stack([expected[rows] for rows in members]))
    # Of one source: min(T, 1) / 1.
    torch.testing.assert_close(found.score, torch.stack([scores[list(rows)].mean() for rows in members]))


def test_no_boxes_fuse_to_none() -> None:
    found = fuse([torch.zeros(0, 6)], [torch.zeros(0)], [torch.zeros(0, dtype=torch.long)])
    assert (found.box_index.shape, found.score.shape, found.members) == ((0, 6), (0,), ())


def test_sources_that_do_not_fit_together_are_refused() -> None:
    box = torch.zeros(1, 4)
    with pytest.raises(ValueError, match="at least one source"):
        fuse([], [], [])
    with pytest.raises(ValueError, match="0 of labels"):
        fuse([box], [torch.ones(1)], [])
    with pytest.raises(ValueError, match="more than 0"):
        fuse([box], [torch.ones(1)], [ONE], weights=[0.0])
