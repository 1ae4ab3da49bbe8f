"""What the scanner does to the drawn chest: blur in the plane, a slice profile, and correlated noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtnet.phantoms.canvas import FloatArray, smooth_noise

FWHM_TO_SIGMA = 1 / (2 * np.sqrt(2 * np.log(2)))


@dataclass(frozen=True, slots=True)
class Scanner:
    """Blur and noise of one reconstruction.

    Args:
        psf_sigma_mm: standard deviation of the in-plane point spread function.
        profile_sigma_mm: of the blur along z, on top of the slice's own rectangular profile.
        noise_hu: standard deviation of the noise in soft tissue.
        noise_sigma_mm: scale of its correlation in the plane.
        noise_edge: 0 for a smoothing kernel's noise; up to 1 takes away its low frequencies, as sharp kernels do.
        streak: share of the noise that runs in streaks along x, as between the shoulders.
    """

    psf_sigma_mm: float
    profile_sigma_mm: float
    noise_hu: float
    noise_sigma_mm: float
    noise_edge: float
    streak: float

    def blur(self, image: FloatArray, spacing_mm: Sequence[float]) -> FloatArray:
        """The image through the point spread function."""
        for axis, sigma in enumerate((self.psf_sigma_mm, self.psf_sigma_mm, self.profile_sigma_mm)):
            image = gaussian(image, sigma / spacing_mm[axis], axis)
        return image

    def noise(self, rng: np.random.Generator, shape: Sequence[int], spacing_mm: Sequence[float]) -> FloatArray:
        """Correlated noise in HU, ``(i, j, k)``."""
        white = rng.standard_normal(tuple(shape), dtype=np.float32)
        sigma = self.noise_sigma_mm / spacing_mm[0], self.noise_sigma_mm / spacing_mm[1]
        noise = gaussian(gaussian(white, sigma[0], 0), sigma[1], 1)
        if self.noise_edge > 0:
            low = gaussian(gaussian(noise, 1.6 * sigma[0] + 0.5, 0), 1.6 * sigma[1] + 0.5, 1)
            noise = noise - np.float32(self.noise_edge) * low
        noise *= np.float32(1 / max(float(noise[:, :, :: max(shape[2] // 8, 1)].std()), 1e-6))
        level = np.exp(0.18 * smooth_noise(rng, shape, spacing_mm, 60))
        if self.streak > 0:
            rows = rng.standard_normal((1, shape[1], shape[2]), dtype=np.float32)
            noise = noise * np.float32(np.sqrt(1 - self.streak**2)) + rows * np.float32(self.streak)
        return np.asarray(noise * level * np.float32(self.noise_hu), dtype=np.float32)


def gaussian(image: FloatArray, sigma: float, axis: int) -> FloatArray:
    """Gaussian blur along one axis, ``sigma`` in voxels; under a tenth of a voxel nothing is done."""
    if sigma < 0.1:
        return image
    return np.asarray(ndimage.gaussian_filter1d(image, sigma, axis=axis, mode="nearest", truncate=3.0))


def slice_weights(sub_slices: int, slices: int, thickness_in_steps: float) -> NDArray[np.float32]:
    """Weights ``(slices, fine)`` of a rectangular slice profile over fine slices.

    Slice ``n`` is centred on fine slice ``n * sub_slices + margin`` and averages ``thickness_in_steps`` fine steps;
    each row sums to 1, so a mean HU stays what it was. ``fine`` is ``(slices - 1) * sub_slices + 1 + 2 * margin``
    with ``margin = profile_margin(thickness_in_steps)``.
    """
    margin = profile_margin(thickness_in_steps)
    offsets = np.arange(-margin, margin + 1)
    kernel = np.clip(thickness_in_steps / 2 - (np.abs(offsets) - 0.5), 0, 1)
    kernel /= kernel.sum()
    weights = np.zeros((slices, (slices - 1) * sub_slices + 1 + 2 * margin), dtype=np.float32)
    for n in range(slices):
        weights[n, n * sub_slices : n * sub_slices + 2 * margin + 1] = kernel
    return weights


def profile_margin(thickness_in_steps: float) -> int:
    """Fine slices that a profile of that thickness reaches beyond its centre."""
    return int(np.ceil(max(thickness_in_steps - 1, 0) / 2))
