"""Where things are in a drawn chest: the surfaces of body, chest cavity, lungs, heart and diaphragm as distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtnet.phantoms.canvas import FloatArray, ellipsoid_distance, smooth_maximum

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """Proportions of one drawn chest, in mm about a point between the hila. World frame: LPS.

    Every method takes world coordinates that broadcast (open grid axes or lists of points) and returns signed distances
    in mm, negative inside; they are exact on the surface and to first order near it.

    Args:
        half_width, half_depth: of the chest cavity at its widest.
        squareness: exponent of the outline's superellipse.
        roll_rad: turn about the long axis.
        outline_waves: amplitudes and phases of small deviations of the outline.
        base_z, apex_z: lowest point of the costophrenic angles and highest of the lungs.
        dome_z: height of the right and left diaphragm; dome_drop how far it falls to the wall.
        wall: thickness of fat under the skin and of muscle.
        mediastinum: half width at the level of the hila.
        heart_centre, heart_radii: the heart as an ellipsoid, turned by ``heart_turn`` (columns).
        spine_y: centre of the vertebral bodies.
        bulges: rows of side, y, z, height, width and length by which hila, aortic arch, great veins and others press
            into the lungs.
    """

    half_width: float
    half_depth: float
    squareness: float
    roll_rad: float
    outline_waves: tuple[tuple[float, float], ...]
    base_z: float
    apex_z: float
    dome_z: tuple[float, float]
    dome_drop: float
    fat: float
    muscle: float
    mediastinum: float
    heart_centre: Triple
    heart_radii: Triple
    heart_turn: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    spine_y: float
    bulges: tuple[tuple[float, float, float, float, float, float], ...]

    @classmethod
    def random(cls, rng: np.random.Generator) -> Anatomy:
        """Proportions of an adult of random size."""
        size = rng.uniform(0.86, 1.08)
        half_width, half_depth = 132 * size * rng.uniform(0.95, 1.05), 92 * size * rng.uniform(0.92, 1.1)
        base, apex = -118 * size * rng.uniform(0.9, 1.1), 125 * size * rng.uniform(0.93, 1.07)
        dome = -45 * size + rng.uniform(-18, 14)
        angle = rng.uniform(0.3, 0.9)
        c, s = np.cos(angle), np.sin(angle)
        lift = rng.uniform(-0.4, 0.1)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T @ np.array(
            [[np.cos(lift), 0, -np.sin(lift)], [0, 1, 0], [np.sin(lift), 0, np.cos(lift)]]
        )
        heart = tuple(float(v) for v in np.array([58, 42, 50]) * size * rng.uniform(0.88, 1.1, 3))
        return cls(
            half_width=half_width,
            half_depth=half_depth,
            squareness=rng.uniform(2.15, 2.7),
            roll_rad=np.deg2rad(rng.uniform(-6, 6)),
            outline_waves=tuple((rng.normal(0, 0.012), rng.uniform(0, 2 * np.pi)) for _ in range(4)),
            base_z=base,
            apex_z=apex,
            dome_z=(dome + rng.uniform(0, 10), dome - rng.uniform(0, 10)),
            dome_drop=abs(base - dome) * rng.uniform(0.95, 1.25),
            fat=rng.uniform(5, 24),
            muscle=rng.uniform(12, 22),
            mediastinum=rng.uniform(24, 33) * size,
            heart_centre=(
                float(rng.uniform(14, 26) * size),
                float(-0.36 * half_depth + rng.uniform(-4, 4)),
                float(dome + heart[2] * rng.uniform(0.55, 0.75)),
            ),
            heart_radii=(heart[0], heart[1], heart[2]),
            heart_turn=turn,
            spine_y=0.62 * half_depth,
            bulges=_bulges(rng, 0.62 * half_depth, apex, size),
        )

    @property
    def hila(self) -> tuple[Triple, Triple]:
        """Right and left hilum, body frame turned into the world."""
        right = self.to_world(-self.mediastinum * 1.25, 6.0)
        left = self.to_world(self.mediastinum * 1.25, 9.0)
        return (*right, 0.0), (*left, 8.0)

    def to_body(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Undo the roll: world x, y to the body's own."""
        c, s = np.float32(np.cos(self.roll_rad)), np.float32(np.sin(self.roll_rad))
        return x * c + y * s, y * c - x * s

    def to_world(self, x: float, y: float) -> tuple[float, float]:
        """Apply the roll to one point."""
        c, s = np.cos(self.roll_rad), np.sin(self.roll_rad)
        return float(x * c - y * s), float(x * s + y * c)

    def narrowing(self, z: FloatArray) -> FloatArray:
        """How far the chest has narrowed at height z: 0 at the hila and below, 1 at the apex."""
        return np.asarray(np.clip((z + 20) / np.float32(self.apex_z + 20), 0, 1.25), dtype=np.float32)

    def outline(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Polar angle, distance from the axis, radius of the cavity's outline at that angle, and obliquity factor."""
        xb, yb = self.to_body(x, y)
        theta = np.arctan2(yb, xb)
        n = self.squareness

        def radius(angle: FloatArray) -> FloatArray:
            base = (np.abs(np.cos(angle) / self.half_width) ** n + np.abs(np.sin(angle) / self.half_depth) ** n) ** (
                -1 / n
            )
            for order, (amplitude, phase) in enumerate(self.outline_waves, start=2):
                base = base * (1 + amplitude * np.cos(order * angle + phase))
            return np.asarray(base, dtype=np.float32)

        here = radius(theta)
        slope = (radius(theta + np.float32(0.01)) - radius(theta - np.float32(0.01))) / np.float32(0.02) / here
        factor = 1 / np.sqrt(1 + slope**2)
        return theta, np.hypot(xb, yb), here, np.asarray(factor, dtype=np.float32)

    def cavity(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Distance to the inner surface of the chest wall."""
        _, r, radius, factor = self.outline(x, y)
        profile = 1 - np.float32(0.42) * self.narrowing(z) ** 2
        return r * factor - (radius * factor) * profile

    def body(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Distance to the skin."""
        theta, r, radius, factor = self.outline(x, y)
        narrow = self.narrowing(z)
        wall = self.fat + self.muscle + 8 * np.maximum(np.sin(theta), 0) + 4
        shoulder = 26 * np.cos(theta) ** 2 * factor
        return r * factor - (radius * factor + wall) + (radius * factor * 0.16 - shoulder) * narrow**2

    def diaphragm(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Distance to the domes; negative below them."""
        xb, yb = self.to_body(x, y)
        side = 1 / (1 + np.exp(-xb / 9))
        wide, deep = 0.64 * self.half_width, 1.15 * self.half_depth
        height, slope2 = np.zeros_like(xb), np.zeros_like(xb)
        for sign, top, share in ((-1, self.dome_z[0], 1 - side), (1, self.dome_z[1], side)):
            u = (xb - sign * 0.45 * self.half_width) / wide
            v = (yb + 0.3 * self.half_depth) / deep
            s = u * u + v * v
            grade = self.dome_drop * (0.35 + 1.3 * s)
            height += share * (top - self.dome_drop * (0.35 * s + 0.65 * s * s))
            slope2 += share * ((2 * u * grade / wide) ** 2 + (2 * v * grade / deep) ** 2)
        factor = 1 / np.sqrt(1 + slope2)
        return np.asarray(z * factor.astype(np.float32) - (height * factor).astype(np.float32))

    def _medial(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Distance to the surfaces of the lungs that face each other; negative within a lung."""
        xb, yb = self.to_body(x, y)
        w, d = self.mediastinum, self.half_depth
        width = np.interp(
            yb / d, [-1.0, -0.7, -0.35, 0.0, 0.3, 0.6, 0.85, 1.05], [3, 5, 0.85 * w, w, 0.9 * w, 27, 33, 48]
        ).astype(np.float32)
        distance = width - np.abs(xb) + np.float32(6) * self.narrowing(z) ** 2
        for side, y0, z0, high, wide, tall in self.bulges:
            across = np.where(xb * side > 0, high * np.exp(-(((yb - y0) / wide) ** 2)), 0).astype(np.float32)
            distance = distance + across * np.exp(-(((z - np.float32(z0)) / np.float32(tall)) ** 2))
        return np.asarray(distance, dtype=np.float32)

    def heart(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Distance to the heart."""
        return ellipsoid_distance(x, y, z, centre=self.heart_centre, radii=self.heart_radii, turn=self.heart_turn)

    def _apex(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Distance to the domes that close the lungs at the top; negative below."""
        xb, yb = self.to_body(x, y)
        u = (np.abs(xb) - 0.4 * self.half_width) / (0.36 * self.half_width)
        v = (yb - 0.12 * self.half_depth) / (0.55 * self.half_depth)
        factor = 1 / np.sqrt(1 + (u * u + v * v) * 0.8)
        top = self.apex_z - 28 * (u * u + v * v)
        return np.asarray(z * factor.astype(np.float32) - (top * factor).astype(np.float32))

    def lung(self, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
        """Distance to the surface of the lungs, both in one field."""
        distance = smooth_maximum(self.cavity(x, y, z), self._medial(x, y, z), 8)
        distance = smooth_maximum(distance, -self.heart(x, y, z), 5)
        distance = smooth_maximum(distance, -self.diaphragm(x, y, z), 3)
        return smooth_maximum(distance, self._apex(x, y, z), 8)

    def lung_at(self, points_lps_mm: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> FloatArray:
        """Distance to the lungs' surface at points ``(n, 3)``."""
        p = points_lps_mm.astype(np.float32)
        return self.lung(p[..., 0], p[..., 1], p[..., 2])


def _bulges(
    rng: np.random.Generator, spine_y: float, apex_z: float, size: float
) -> tuple[tuple[float, float, float, float, float, float], ...]:
    """Where mediastinal structures press into the lungs, with some that have no name."""
    rows = [
        (-1.0, 4.0, 0.0, 11.0, 17.0, 20.0),
        (1.0, 8.0, 8.0, 11.0, 17.0, 18.0),
        (1.0, spine_y - 30, 0.42 * apex_z, 12.0, 24.0, 15.0),
        (-1.0, spine_y - 62, 0.45 * apex_z, 8.0, 18.0, 45.0),
        (1.0, spine_y - 8, -10.0, 7.0, 13.0, 90.0),
    ]
    for _ in range(6):
        rows.append(
            (
                float(rng.choice([-1.0, 1.0])),
                rng.uniform(-70, 70),
                rng.uniform(-80, 0.9 * apex_z),
                rng.uniform(-6, 7),
                rng.uniform(10, 26),
                rng.uniform(10, 30),
            )
        )
    return tuple(
        (side, y, z + rng.normal(0, 3), high * size * rng.uniform(0.6, 1.2), wide * size, tall * size)
        for side, y, z, high, wide, tall in rows
    )
