"""Structural similarity as a loss, in 2D and 3D."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SSIMLoss(nn.Module):
    """1 - mean structural similarity (Wang et al., IEEE TIP 13(4), 2004, section III.B), Gaussian window, no padding.

    Args:
        spatial_dims: 2 or 3.
        data_range: largest minus smallest possible value, in the images' units (1400 for HU from -1000 to 400).
        window: odd edge of the Gaussian window in voxels.
        sigma: its standard deviation in voxels.
        k1, k2: constants that keep the two quotients finite, 0.01 and 0.03 in the paper.

    Raises:
        ValueError: ``window`` is even or below 3, or ``data_range`` not above 0.
    """

    kernel: Tensor

    def __init__(
        self,
        spatial_dims: int,
        data_range: float = 1.0,
        window: int = 11,
        sigma: float = 1.5,
        k1: float = 0.01,
        k2: float = 0.03,
    ) -> None:
        super().__init__()
        if window < 3 or window % 2 == 0:
            raise ValueError(f"SSIMLoss window is {window}; expected an odd number of voxels, 3 or more.")
        if data_range <= 0:
            raise ValueError(f"SSIMLoss data_range is {data_range}; expected a number above 0.")
        self.spatial_dims = spatial_dims
        self.data_range = data_range
        self.window = window
        self.c1, self.c2 = k1**2, k2**2
        place = torch.arange(window, dtype=torch.float64) - window // 2
        kernel = torch.exp(-(place**2) / (2 * sigma**2))
        self.register_buffer("kernel", (kernel / kernel.sum()).float(), persistent=False)

    def forward(self, predicted: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """Loss (scalar) of ``predicted`` against ``target``, both ``(B, C, *S)``.

        ``valid`` ``(B, 1, *S)`` marks voxels that are no padding: only windows that hold nothing else count.

        Raises:
            ValueError: the shapes differ, or an axis is shorter than the window.
        """
        shape = tuple(predicted.shape)
        if shape != tuple(target.shape) or len(shape) != self.spatial_dims + 2:
            raise ValueError(f"predicted is {shape}, target {tuple(target.shape)}; expected one shape (B, C, *S).")
        if min(shape[2:]) < self.window:
            raise ValueError(f"An image of {shape[2:]} is smaller than SSIM's window of {self.window}.")
        # Variances are small differences of large numbers: half precision would lose them.
        with torch.autocast(predicted.device.type, enabled=False):
            x, y = predicted.float() / self.data_range, target.float() / self.data_range
            mean_x, mean_y = self._blur(x), self._blur(y)
            var_x = self._blur(x * x) - mean_x.square()
            var_y = self._blur(y * y) - mean_y.square()
            covariance = self._blur(x * y) - mean_x * mean_y
            luminance = (2 * mean_x * mean_y + self.c1) / (mean_x.square() + mean_y.square() + self.c1)
            loss = 1 - luminance * (2 * covariance + self.c2) / (var_x + var_y + self.c2)
        if valid is None:
            return loss.mean()
        pool = F.max_pool2d if self.spatial_dims == 2 else F.max_pool3d
        weight = (1 - pool(1 - valid.float(), self.window, stride=1)).expand_as(loss)
        return (loss * weight).sum() / weight.sum().clamp_min(1)

    def _blur(self, image: Tensor) -> Tensor:
        """Windowed mean without padding, one axis after another."""
        channels = image.shape[1]
        convolve = F.conv2d if self.spatial_dims == 2 else F.conv3d
        for axis in range(self.spatial_dims):
            shape = [1] * self.spatial_dims
            shape[axis] = self.window
            kernel = self.kernel.float().reshape(1, 1, *shape).expand(channels, 1, *shape)
            image = convolve(image, kernel, groups=channels)
        return image
