"""Peers as the ``network_def`` of our training configs: same outputs by name, so same targets, loss, schedule, scores.

``data/peers.json`` names them. A peer is the library's own network; what stands here only names its tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mtnet.structures import OutputSpec
from mtnet.systems import breast_ultrasound, res_mtnet, unet_v2

STRIDE = 32
"""Of the coarsest level of all of them: what an image is padded to."""
_PLANES = 32
"""Planes that DenseNet's five halvings leave one of."""


class PlanarUNet(nn.Module):
    """segmentation_models_pytorch's U-Net, with its own classification head where there are classes.

    Args:
        segmentation: the dense output, of one label.
        classification: the global output; its labels are the classes.
        encoder: by smp's name.
        pretrained: start the encoder from ImageNet weights.

    Raises:
        ImportError: segmentation_models_pytorch is not installed.
    """

    def __init__(
        self,
        segmentation: OutputSpec,
        classification: OutputSpec | None = None,
        encoder: str = "resnet34",
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        classes: dict[str, Any] = {}
        if classification is not None:
            classes = {"aux_params": {"classes": len(classification.labels)}}
        self.net = smp.Unet(
            encoder,
            encoder_weights="imagenet" if pretrained else None,
            classes=len(segmentation.labels),
            **classes,
        )
        self.outputs = (segmentation,) if classification is None else (segmentation, classification)
        self.stride = STRIDE

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W) -> {name: tensor}``, logits."""
        told = self.net(image)
        return dict(zip([spec.name for spec in self.outputs], told if len(self.outputs) > 1 else [told], strict=True))


class NoduleDenseNet(nn.Module):
    """MONAI's DenseNet121 in 3D on what Res-MTNet sees: a field of 22 x 22 mm and its three planes.

    The planes are interpolated to 32 before it, since the network halves each axis five times. Deeper fields would
    leak: LIDC's crops end with the nodule above and below.

    Args:
        classification: the global output of classes.
        values: global outputs of one value each.
        offsets, scales: one a value, as ``RegressionHead`` has them.
    """

    def __init__(
        self,
        classification: OutputSpec,
        values: Sequence[OutputSpec] = (),
        offsets: Sequence[float] = (),
        scales: Sequence[float] = (),
    ) -> None:
        super().__init__()
        from monai.networks.nets import DenseNet121

        self.classes = len(classification.labels)
        self.net = DenseNet121(spatial_dims=3, in_channels=1, out_channels=self.classes + len(values))
        self.outputs = (classification, *values)
        self.standard = tuple(zip(offsets, scales, strict=True))
        self.stride = STRIDE

    def forward(self, planes: Tensor) -> dict[str, Tensor]:
        """``(B, 3, 64, 64) -> {name: tensor}``: logits ``(B, 2)``, and ``(B, 1)`` a value, in its units."""
        deep = F.interpolate(planes[:, None], size=(_PLANES, *planes.shape[2:]), mode="trilinear", align_corners=True)
        told = self.net(deep)
        answers = {self.outputs[0].name: told[:, : self.classes]}
        drawn = told[:, self.classes :].float().split(1, 1)
        for spec, value, (offset, scale) in zip(self.outputs[1:], drawn, self.standard, strict=True):
            answers[spec.name] = value * scale + offset
        return answers


def polyp_unet(encoder: str = "resnet34", pretrained: bool = False) -> PlanarUNet:
    """Beside U-Net v2, and beside the outlines of YOLO-Med."""
    return PlanarUNet(unet_v2.SEGMENTATION, encoder=encoder, pretrained=pretrained)


def breast_unet(encoder: str = "resnet34", pretrained: bool = False) -> PlanarUNet:
    """Beside the multi-task network for breast ultrasound."""
    return PlanarUNet(breast_ultrasound.SEGMENTATION, breast_ultrasound.CLASSIFICATION, encoder, pretrained)


def nodule_densenet() -> NoduleDenseNet:
    """Beside Res-MTNet, with its three answers."""
    standard = (res_mtnet.DIAMETER_MM, res_mtnet.READER_RATING)
    offsets, scales = zip(*standard, strict=True)
    return NoduleDenseNet(res_mtnet.CLASSIFICATION, (res_mtnet.DIAMETER, res_mtnet.RATING), offsets, scales)
