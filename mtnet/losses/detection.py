"""Loss of dense anchor-free detection with per-lesion channels, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtnet.detection import Assignment, Candidates, atss, cell_centres, decode, encode_offsets, paired_overlap, simota
from mtnet.losses.boxes import BOX_LOSS_KINDS, BoxLossKind, box_loss
from mtnet.losses.quality_focal import quality_focal
from mtnet.structures import LesionChannel, OutputSpec

Assigner = Literal["simota", "atss"]
Confidence = Literal["quality_focal", "bce"]
ClassTarget = Literal["iou", "one"]
UNKNOWN = -1.0
"""Target of a per-lesion channel that nobody knows for this lesion."""


class DenseDetectionLoss(nn.Module):
    """Terms ``box``, ``class``, ``quality`` and one for each lesion channel, of an output of kind ``boxes``.

    ``box`` is the box loss of positive cells; ``class`` has the IoU of a positive cell's box with its object as soft
    target at the object's class; ``quality`` has that IoU as target for positives and 0 for all other cells. Each
    is summed over the batch and divided by the number of positives, at least 1 (YOLOX, arXiv 2107.08430).

    With ``confidence="quality_focal"`` (default, our choice) class and quality are quality focal losses over all cells:
    in 3D one positive stands against thousands of cells, which plain BCE drowns it in. ``"bce"`` is YOLOX as published:
    BCE of the quality over all cells and of the class over positives.

    A lesion channel with labels learns by cross-entropy (``softmax``), or by BCE (``sigmoid``: one label with a target
    in 0..1, or several labels of which the target is the one that holds); one without labels by smooth L1 in its
    units (after the sigmoid, if it has one). It is divided by the number of positives whose value is known.

    Image items without objects have no positives; every term stays finite and every channel keeps a gradient (zero
    where there is nothing to learn), so that distributed training sees all parameters.

    Args:
        spec: the output; its ``tensor_names`` are the keys of the level tensors.
        spatial_dims: 2 or 3.
        assigner: ``simota`` or ``atss``.
        box: kind of box loss.
        confidence: form of the class and quality terms.
        class_target: what the class of a positive cell is to reach: ``iou`` of its box with the object, or ``one``.
            In 3D the IoU of a good box is low (0.73 where every side is 10 % too long), and as a target it teaches
            little as long as boxes are poor.
        offset_l1: also learn the coded offsets by smooth L1, as the term ``offset`` (YOLOX's extra L1 term); its
            gradient does not fade for boxes that are far off, as that of an overlap does.
        term_weights: factor of a term by its name, 1 where not given. The box term has 2 by default, as in GFL
            (arXiv 2006.04388); YOLOX has 5 with ``iou_squared`` and ``bce``.
        anchor_scale: side of ATSS's anchors in strides.

    Raises:
        ValueError: an argument is not what is described above.
    """

    def __init__(
        self,
        spec: OutputSpec,
        spatial_dims: int,
        assigner: Assigner = "simota",
        *,
        box: BoxLossKind = "giou",
        confidence: Confidence = "quality_focal",
        class_target: ClassTarget = "iou",
        offset_l1: bool = False,
        term_weights: Mapping[str, float] | None = None,
        anchor_scale: float = 8.0,
    ) -> None:
        super().__init__()
        if spec.kind != "boxes":
            raise ValueError(f"DenseDetectionLoss needs an output of kind boxes; {spec.name!r} is {spec.kind!r}.")
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is {spatial_dims}; expected 2 or 3.")
        for name, value, allowed in (
            ("assigner", assigner, get_args(Assigner)),
            ("box", box, BOX_LOSS_KINDS),
            ("confidence", confidence, get_args(Confidence)),
            ("class_target", class_target, get_args(ClassTarget)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(allowed)}.")
        if box == "ciou" and spatial_dims == 3:
            raise ValueError("CIoU is defined for 2D boxes only; use box='giou' or 'diou' in 3D.")
        self.spec = spec
        self.spatial_dims = spatial_dims
        self.assigner = assigner
        self.box = box
        self.confidence = confidence
        self.class_target = class_target
        self.offset_l1 = offset_l1
        self.anchor_scale = anchor_scale
        lesion_terms = (channel.name for channel in spec.lesion_channels)
        self.term_names = ("box", *(("offset",) if offset_l1 else ()), "class", "quality", *lesion_terms)
        for channel in spec.lesion_channels:
            if channel.labels and channel.activation == "none":
                raise ValueError(
                    f"Lesion channel {channel.name!r} has labels and no activation; give it 'softmax' or 'sigmoid', so "
                    "that its loss and its probabilities agree."
                )
        given = {"box": 2.0} if term_weights is None else dict(term_weights)
        unknown = set(given) - set(self.term_names)
        if unknown:
            raise ValueError(f"term_weights names {sorted(unknown)}; the terms are {', '.join(self.term_names)}.")
        self.term_weights = {name: float(given.get(name, 1.0)) for name in self.term_names}

    def forward(
        self, tensors: Mapping[str, Tensor], targets: Sequence[Mapping[str, Tensor] | None]
    ) -> dict[str, Tensor]:
        """Named scalar terms, each times its weight; their sum is the loss.

        Args:
            tensors: the network's answer; the levels of this output are taken by name, each ``(B, C, *S / stride)``.
            targets: for each batch item ``box_index`` ``(G, 2D)`` in voxels of the input, ``label`` ``(G,)`` from 0,
                and for each lesion channel that is known its name with ``(G,)`` values, -1 (or NaN) for unknown.
                ``None`` for an item whose objects were never marked: it teaches nothing, unlike one with G = 0.

        Raises:
            ValueError: targets that do not fit the batch, the dimension or the classes.
        """
        candidates, centres, strides = self._decode(tensors)
        batch = candidates.box_index.shape[0]
        if len(targets) != batch:
            raise ValueError(f"DenseDetectionLoss got {len(targets)} targets for a batch of {batch}.")
        class_target = torch.zeros_like(candidates.class_logits)
        quality_target = torch.zeros_like(candidates.quality_logit)
        marked = torch.zeros_like(quality_target)
        matched = torch.zeros_like(quality_target)
        predicted: list[Candidates] = []
        objects: list[dict[str, Tensor]] = []
        places: list[tuple[Tensor, Tensor]] = []
        for item, target in enumerate(targets):
            if target is None:
                continue
            marked[item] = 1.0
            truth = self._checked(target, centres.device)
            assignment = self._assign(candidates[item], truth, centres, strides)
            cells = assignment.positive
            own = {name: value[assignment.object_of_cell[cells]] for name, value in truth.items()}
            iou = paired_overlap(candidates.box_index[item, cells].detach(), own["box_index"])
            class_target[item, cells, own["label"]] = iou if self.class_target == "iou" else 1.0
            quality_target[item, cells] = iou
            matched[item, cells] = 1.0
            predicted.append(candidates[item][cells])
            objects.append(own)
            places.append((centres[cells], strides[cells, None]))
        # Zero, but tied to every channel: an answer that teaches nothing still gives all parameters a gradient.
        nothing = torch.stack([tensors[name].float().sum() * 0 for name in self.spec.tensor_names]).sum()
        terms = dict.fromkeys(self.term_names, nothing)
        if objects:
            positive = Candidates.joined(predicted)
            own = {name: torch.cat([one[name] for one in objects]) for name in objects[0]}
            n_positive = max(positive.box_index.shape[0], 1)
            by_class, by_quality = self._confidence(candidates, class_target, quality_target)
            over_class = marked if self.confidence == "quality_focal" else matched
            terms["box"] = nothing + box_loss(positive.box_index, own["box_index"], self.box).sum() / n_positive
            if self.offset_l1:
                centre, stride = (torch.cat(parts) for parts in zip(*places, strict=True))
                coded, wanted = (encode_offsets(box, centre, stride) for box in (positive.box_index, own["box_index"]))
                terms["offset"] = nothing + F.smooth_l1_loss(coded, wanted, reduction="sum") / n_positive
            terms["class"] = nothing + (by_class * over_class[..., None]).sum() / n_positive
            terms["quality"] = nothing + (by_quality * marked).sum() / n_positive
            first = 0
            for channel in self.spec.lesion_channels:
                logits = positive.lesion[:, first : first + channel.channels]
                terms[channel.name] = nothing + lesion_loss(logits, own[channel.name], channel)
                first += channel.channels
        return {name: term * self.term_weights[name] for name, term in terms.items()}

    def _decode(self, tensors: Mapping[str, Tensor]) -> tuple[Candidates, Tensor, Tensor]:
        """All levels joined, with the centre ``(N, D)`` and the stride ``(N,)`` of every cell."""
        levels, centres, strides = [], [], []
        for name, stride in zip(self.spec.tensor_names, self.spec.strides, strict=True):
            level = tensors[name]
            expected = self.spec.box_channels(self.spatial_dims)
            if level.shape[1] != expected:
                raise ValueError(f"{name} has {level.shape[1]} channels; {self.spec.name!r} has {expected}.")
            levels.append(decode(level, stride, len(self.spec.labels), self.spatial_dims))
            centres.append(cell_centres(level.shape[2:], stride, device=level.device))
            strides.append(torch.full((centres[-1].shape[0],), float(stride), device=level.device))
        return Candidates.joined(levels), torch.cat(centres), torch.cat(strides)

    def _checked(self, target: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """A complete target on the device, with unknown lesion channels filled in."""
        box_index, label = target["box_index"], target["label"]
        count = label.shape[0]
        if box_index.shape != (count, 2 * self.spatial_dims):
            raise ValueError(
                f"Target box_index has shape {tuple(box_index.shape)} for {count} labels; expected "
                f"({count}, {2 * self.spatial_dims}): lows, then highs."
            )
        if not bool(torch.isfinite(box_index).all()):
            raise ValueError("Target box_index holds a value that is not finite.")
        if count and (int(label.min()) < 0 or int(label.max()) >= len(self.spec.labels)):
            raise ValueError(
                f"Target label is outside 0..{len(self.spec.labels) - 1}, the lesion classes of {self.spec.name!r}: "
                f"{label.tolist()}."
            )
        truth = {"box_index": box_index.to(device, torch.float32), "label": label.to(device, torch.long)}
        for channel in self.spec.lesion_channels:
            value = target.get(channel.name)
            if value is not None and value.shape != (count,):
                raise ValueError(f"Target {channel.name} has shape {tuple(value.shape)}; expected ({count},).")
            truth[channel.name] = (
                torch.full((count,), UNKNOWN, device=device) if value is None else value.to(device, torch.float32)
            )
        return truth

    def _assign(
        self, candidates: Candidates, truth: Mapping[str, Tensor], centres: Tensor, strides: Tensor
    ) -> Assignment:
        if self.assigner == "simota":
            return simota(candidates, truth["box_index"], truth["label"], centres, strides)
        return atss(truth["box_index"], centres, strides, anchor_scale=self.anchor_scale)

    def _confidence(
        self, candidates: Candidates, class_target: Tensor, quality_target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Class loss ``(B, N, classes)`` and quality loss ``(B, N)`` of every cell."""
        if self.confidence == "quality_focal":
            return (
                quality_focal(candidates.class_logits, class_target),
                quality_focal(candidates.quality_logit, quality_target),
            )
        return (
            F.binary_cross_entropy_with_logits(candidates.class_logits, class_target, reduction="none"),
            F.binary_cross_entropy_with_logits(candidates.quality_logit, quality_target, reduction="none"),
        )


def lesion_loss(logits: Tensor, target: Tensor, channel: LesionChannel) -> Tensor:
    """Mean loss (scalar) of one lesion channel over the lesions whose value is known; 0 where none is.

    Args:
        logits: ``(P, channel.channels)``.
        target: ``(P,)``; -1 or NaN for unknown.
        channel: says the form, see ``DenseDetectionLoss``.
    """
    known = (target != UNKNOWN) & ~torch.isnan(target)
    logits, target = logits[known].float(), target[known]
    if channel.activation == "softmax" and channel.labels:
        loss = F.cross_entropy(logits, target.long(), reduction="sum")
    elif channel.labels:
        wanted = target[:, None] if channel.channels == 1 else F.one_hot(target.long(), channel.channels).to(logits)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    else:
        value = logits[:, 0].sigmoid() if channel.activation == "sigmoid" else logits[:, 0]
        loss = F.smooth_l1_loss(value, target, reduction="sum")
    return loss / known.sum().clamp_min(1)
