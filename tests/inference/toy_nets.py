"""Tiny networks whose answers a test can work out by itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtnet.structures import Label, LesionChannel, OutputSpec

CLASSES = (Label(0, "background"), Label(1, "lung"), Label(2, "nodule"))
NODULE = (Label(1, "nodule"),)
STRIDE = 4
BOX_SIZE = 6.0
LOW = -20.0

PRED = OutputSpec("pred", "dense", CLASSES, (1,), "softmax")
VALUES = OutputSpec("values", "dense", (), (1,), background=-7.0)
COARSE = OutputSpec("coarse", "dense", (), (2,), background=-7.0)
BOXES = OutputSpec("boxes", "boxes", NODULE, (STRIDE,), lesion_channels=(LesionChannel("diameter", units="mm"),))
IMAGE = OutputSpec("image_class", "global", (Label(0, "ill"), Label(1, "subsolid")), activation="sigmoid")


def conv(dims: int) -> type[nn.Module]:
    return nn.Conv3d if dims == 3 else nn.Conv2d


class DenseNet(nn.Module):
    """One convolution, given as classes, as raw values and at half resolution."""

    def __init__(self, dims: int = 3, outputs: tuple[OutputSpec, ...] = (PRED, VALUES)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = conv(dims)(1, 3, 3, padding=1)
        for weight in self.conv.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)
        self.outputs = outputs
        self.batches: list[int] = []

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        self.batches.append(len(image))
        values = self.conv(image)
        pool = F.avg_pool3d if image.ndim == 5 else F.avg_pool2d
        made = {"pred": values, "values": values[:, :2], "coarse": pool(values, 2)}
        return {spec.name: made[spec.name] for spec in self.outputs}


class BlobNet(nn.Module):
    """Finds bright voxels: a box of 6 voxels about each, its score from the voxel's value, its diameter the value.

    ``wobble`` moves a box's centre by so many voxels away from (or, below 0, towards) the middle of the window that it
    is seen in, as two windows that see other surroundings do.
    """

    def __init__(self, wobble: float = 0.0) -> None:
        super().__init__()
        self.outputs = (BOXES,)
        self.wobble = wobble

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        dims = image.ndim - 2
        pool = F.max_pool3d if dims == 3 else F.max_pool2d
        value, where = pool(image, STRIDE, return_indices=True)
        voxel = torch.stack(torch.unravel_index(where[:, 0], image.shape[2:]), 1).float()
        middle = (torch.tensor(image.shape[2:]) - 1).reshape(1, -1, *[1] * dims) / 2
        voxel = voxel + self.wobble * torch.sign(voxel - middle)
        axes = [(torch.arange(n) + 0.5) * STRIDE - 0.5 for n in value.shape[2:]]
        cell = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
        size = torch.full_like(voxel, BOX_SIZE / STRIDE).log()
        logit = torch.where(value > 0, value, LOW)
        return {f"boxes_s{STRIDE}": torch.cat([logit, (voxel - cell) / STRIDE, size, logit, value], 1)}


class ImageNet(nn.Module):
    """Two classes from the window's mean and maximum, and a window weight from its mean."""

    def __init__(self, outputs: tuple[OutputSpec, ...] = (IMAGE,), weight: bool = True) -> None:
        super().__init__()
        self.outputs = outputs
        self.weight = weight

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        flat = image.flatten(1)
        values = [3 * flat.mean(1), flat.amax(1) - 2]
        if self.weight:
            values.append(5 * flat.mean(1))
        return {spec.name: torch.stack(values, 1) for spec in self.outputs}


class EveryKindNet(nn.Module):
    """All three kinds, dense at two resolutions. Refuses batches above ``most`` as torch does when memory is out."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.dense = DenseNet(outputs=(PRED, VALUES, COARSE))
        self.boxes = BlobNet()
        self.image = ImageNet()
        self.outputs = (PRED, VALUES, BOXES, IMAGE, COARSE)
        self.most = most

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        if self.most is not None and len(image) > self.most:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                "to allocate 17592186044416 bytes. Error code 12 (Cannot allocate memory)"
            )
        return {**self.dense(image), **self.boxes(image), **self.image(image)}
