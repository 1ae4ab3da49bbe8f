"""The two families of phantoms: one to train on, one held out, with other noise, texture, nodules and clutter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mtnet.phantoms.nodules import NoduleStyle
from mtnet.phantoms.scanner import Scanner

Family = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class FamilyStyle:
    """What sets a family apart.

    Args:
        nodules: shapes and substance of its nodules.
        psf_sigma_mm, noise_hu, noise_sigma_mm, noise_edge, streak: ranges for ``Scanner``.
        grain_mm: scales of the parenchyma's texture; grain_hu their standard deviations.
        rib_ends: share of rib ends that jut into the lung.
        knots: share of the vessels' junctions that are thickened.
        bulge: largest ratio of a junction's radius to its vessel's.
        leaf_radius_mm: radius of the smallest vessels drawn.
        stem_radius_mm: of the vessels that a nodule can sit on.
        scars: most bands and pleural plaques in one phantom.
    """

    nodules: NoduleStyle
    psf_sigma_mm: tuple[float, float]
    noise_hu: tuple[float, float]
    noise_sigma_mm: tuple[float, float]
    noise_edge: tuple[float, float]
    streak: tuple[float, float]
    grain_mm: tuple[float, ...]
    grain_hu: tuple[float, ...]
    rib_ends: tuple[float, float]
    knots: float
    bulge: tuple[float, float]
    leaf_radius_mm: tuple[float, float]
    stem_radius_mm: tuple[float, float]
    scars: int

    def scanner(self, rng: np.random.Generator) -> Scanner:
        """A reconstruction of this family."""
        return Scanner(
            psf_sigma_mm=rng.uniform(*self.psf_sigma_mm),
            profile_sigma_mm=rng.uniform(0.3, 0.8),
            noise_hu=float(np.exp(rng.uniform(*np.log(self.noise_hu)))),
            noise_sigma_mm=rng.uniform(*self.noise_sigma_mm),
            noise_edge=rng.uniform(*self.noise_edge),
            streak=rng.uniform(*self.streak),
        )


FAMILIES: dict[Family, FamilyStyle] = {
    "train": FamilyStyle(
        nodules=NoduleStyle(
            ellipticity=0.22,
            lobes=7,
            lobe_amplitude=(0.02, 0.09),
            lobe_frequency=(1.5, 4.5),
            grain_mm=(2.0, 5.0),
            grain_hu=(4.0, 30.0),
            cavities=0.08,
            weights=(0.49, 0.17, 0.22, 0.12),
            place_weights=(0.45, 0.32, 0.23),
        ),
        psf_sigma_mm=(0.45, 1.0),
        noise_hu=(7.0, 38.0),
        noise_sigma_mm=(0.45, 1.1),
        noise_edge=(0.0, 0.6),
        streak=(0.0, 0.12),
        grain_mm=(60.0, 22.0, 5.0),
        grain_hu=(14.0, 11.0, 13.0),
        rib_ends=(0.0, 0.35),
        knots=0.35,
        bulge=(1.0, 1.25),
        leaf_radius_mm=(0.48, 0.8),
        stem_radius_mm=(0.7, 2.8),
        scars=4,
    ),
    "held_out": FamilyStyle(
        nodules=NoduleStyle(
            ellipticity=0.3,
            lobes=5,
            lobe_amplitude=(0.04, 0.12),
            lobe_frequency=(2.5, 5.5),
            grain_mm=(3.0, 8.0),
            grain_hu=(15.0, 45.0),
            cavities=0.12,
            weights=(0.37, 0.19, 0.36, 0.08),
            place_weights=(0.25, 0.43, 0.32),
        ),
        psf_sigma_mm=(0.55, 0.85),
        noise_hu=(12.0, 32.0),
        noise_sigma_mm=(0.7, 1.4),
        noise_edge=(0.7, 0.95),
        streak=(0.12, 0.3),
        grain_mm=(90.0, 30.0, 9.0, 3.6),
        grain_hu=(18.0, 8.0, 9.0, 16.0),
        rib_ends=(0.5, 0.9),
        knots=0.7,
        bulge=(1.2, 1.5),
        leaf_radius_mm=(0.52, 0.8),
        stem_radius_mm=(1.2, 3.4),
        scars=7,
    ),
}
