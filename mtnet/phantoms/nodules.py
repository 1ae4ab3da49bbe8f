"""Nodules: their shape as a radius in every direction, what they are made of, and drawing them into an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mtnet.phantoms.canvas import Canvas, FloatArray, smooth_noise
from mtnet.structures import Geometry

Texture = Literal["solid", "part_solid", "ground_glass", "calcified"]
Place = Literal["parenchyma", "pleura", "vessel"]
Form = Literal["smooth", "lobulated", "spiculated"]
TEXTURES: tuple[Texture, ...] = get_args(Texture)
PLACES: tuple[Place, ...] = get_args(Place)
FORMS: tuple[Form, ...] = get_args(Form)

Points = NDArray[np.float64]
Triple = tuple[float, float, float]
Box = tuple[float, float, float, float, float, float]
Limit = Callable[[Points], FloatArray]


def _sphere(count: int) -> Points:
    """Evenly spread unit vectors ``(count, 3)`` (Fibonacci lattice)."""
    n = np.arange(count) + 0.5
    z = 1 - 2 * n / count
    phi = np.pi * (1 + 5**0.5) * n
    r = np.sqrt(1 - z * z)
    return np.stack([r * np.cos(phi), r * np.sin(phi), z], axis=1)


_RAYS = np.concatenate([_sphere(2000), np.eye(3), -np.eye(3)])


@dataclass(frozen=True, slots=True)
class NoduleRequest:
    """A nodule that is asked for. What is None is drawn at random.

    Args:
        diameter_mm: of the sphere that the free shape is made from.
        texture, place, form: see ``TEXTURES``, ``PLACES``, ``FORMS``.
        centre_lps_mm: where; else a fitting place is looked for.
    """

    diameter_mm: float | None = None
    texture: Texture | None = None
    place: Place | None = None
    form: Form | None = None
    centre_lps_mm: Triple | None = None

    def __post_init__(self) -> None:
        if self.diameter_mm is not None and not self.diameter_mm > 0:
            raise ValueError(f"NoduleRequest.diameter_mm is {self.diameter_mm}; expected more than 0.")
        for name, known in (("texture", TEXTURES), ("place", PLACES), ("form", FORMS)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ValueError(f"NoduleRequest.{name} is {value!r}; expected one of {', '.join(known)}.")


@dataclass(frozen=True, slots=True)
class DrawnNodule:
    """The truth about one drawn nodule. The thin spikes of a spiculated one do not count to its shape.

    Args:
        number: its value in the lesion map, from 1.
        centre_lps_mm: centroid of the drawn shape.
        diameter_mm: of the sphere of the same volume.
        volume_mm3: of the drawn shape.
        box_index: its exact extent as a half-open box in continuous voxel index.
        box_lps_mm: the same in LPS mm.
        texture, place, form: what was drawn.
        hu: of its main substance before blur and noise.
    """

    number: int
    centre_lps_mm: Triple
    diameter_mm: float
    volume_mm3: float
    box_index: Box
    box_lps_mm: Box
    texture: Texture
    place: Place
    form: Form
    hu: float


@dataclass(frozen=True, slots=True, eq=False)
class NoduleShape:
    """A star-shaped body: an ellipsoid whose radius is modulated by smooth waves, optionally cut by a surface.

    Args:
        centre_mm: origin of the rays, LPS.
        radii_mm: semi-axes; ``turn`` has their directions as columns.
        waves: ``(n, 6)`` rows of direction xyz, amplitude, frequency, phase:
            ``r *= 1 + a cos(f u.d + p)``.
        limit: signed distance of a surface that cuts the body (the pleura); the body keeps its negative side.
    """

    centre_mm: Points
    radii_mm: Points
    turn: Points
    waves: Points = field(default_factory=lambda: np.zeros((0, 6)))
    limit: Limit | None = None

    def radius(self, u: Points) -> Points:
        """Radius in mm in directions ``(..., 3)`` (unit vectors) before the cut."""
        radius = 1 / np.sqrt((((u @ self.turn) / self.radii_mm) ** 2).sum(axis=-1))
        for x, y, z, amplitude, frequency, phase in self.waves:
            radius = radius * (1 + amplitude * np.cos(frequency * (u @ np.array([x, y, z])) + phase))
        return np.asarray(radius)

    def distance(self, points_mm: Points) -> FloatArray:
        """Signed distance to first order at points ``(..., 3)``, negative inside."""
        offset = points_mm - self.centre_mm
        length = np.maximum(np.linalg.norm(offset, axis=-1), 1e-6)
        distance = length - self.radius(offset / length[..., None])
        if self.limit is not None:
            distance = np.maximum(distance, self.limit(points_mm))
        return np.asarray(distance, dtype=np.float32)

    def rays(self) -> Points:
        """Distance from the centre to the surface, cut included, along ``_RAYS``."""
        free = self.radius(_RAYS)
        if self.limit is None:
            return free
        t = np.linspace(0, 1, 17)
        points = self.centre_mm + (free[:, None] * t)[..., None] * _RAYS[:, None]
        level = self.limit(points.reshape(-1, 3)).reshape(len(free), -1)
        outside = level > 0
        first = np.where(outside.any(axis=1), outside.argmax(axis=1), len(t) - 1)
        before = np.maximum(first - 1, 0)
        rows = np.arange(len(free))
        a, b = level[rows, before], level[rows, first]
        share = np.where(b > 0, np.clip(-a / np.maximum(b - a, 1e-6), 0, 1), 1)
        return np.asarray(free * (t[before] + share * (t[first] - t[before])))

    def facts(self) -> tuple[float, Points, Points, Points]:
        """Volume (mm³), centroid, low and high corner (LPS mm) of the drawn body."""
        r = self.rays()
        mean_cube = (r**3).mean()
        centroid = self.centre_mm + ((r**4)[:, None] * _RAYS).mean(axis=0) * 0.75 / mean_cube
        surface = self.centre_mm + r[:, None] * _RAYS
        return float(4 / 3 * np.pi * mean_cube), centroid, surface.min(axis=0), surface.max(axis=0)


def random_turn(rng: np.random.Generator) -> Points:
    """A random rotation (columns are orthonormal)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(q * np.sign(np.diag(r)))


@dataclass(frozen=True, slots=True)
class NoduleStyle:
    """How nodules of one family of phantoms are shaped and filled.

    Args:
        ellipticity: largest relative deviation of the semi-axes.
        lobes: largest number of waves of a lobulated nodule; ``lobe_amplitude`` and ``lobe_frequency`` their ranges.
        grain_mm, grain_hu: scale and strength of the texture inside.
        cavities: share of large solid nodules with an air-filled or low centre.
        weights: of the textures in ``TEXTURES``' order; ``place_weights`` in that of ``PLACES``.
    """

    ellipticity: float
    lobes: int
    lobe_amplitude: tuple[float, float]
    lobe_frequency: tuple[float, float]
    grain_mm: tuple[float, float]
    grain_hu: tuple[float, float]
    cavities: float
    weights: tuple[float, float, float, float]
    place_weights: tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Nodule:
    """One nodule with its place and substance settled, ready to draw."""

    shape: NoduleShape
    texture: Texture
    place: Place
    form: Form
    hu: float
    core_hu: float
    core_share: float
    grain_mm: float
    grain_hu: float
    hollow: float
    spicules: Points

    def truth(self, number: int, geometry: Geometry) -> DrawnNodule:
        """Its facts on a grid."""
        volume, centre, low, high = self.shape.facts()
        corners = geometry.lps_mm_to_index(
            np.array([[(low, high)[(n >> a) & 1][a] for a in range(3)] for n in range(8)])
        )
        return DrawnNodule(
            number=number,
            centre_lps_mm=_triple(centre),
            diameter_mm=float((6 * volume / np.pi) ** (1 / 3)),
            volume_mm3=volume,
            box_index=(*_triple(corners.min(axis=0)), *_triple(corners.max(axis=0))),
            box_lps_mm=(*_triple(low), *_triple(high)),
            texture=self.texture,
            place=self.place,
            form=self.form,
            hu=self.hu,
        )

    def draw(self, canvas: Canvas, image: FloatArray, rng: np.random.Generator) -> None:
        """Paint it into an image in HU, in place."""
        reach = float(self.shape.radius(_RAYS).max()) + 2 * canvas.edge_mm
        if len(self.spicules):
            reach += float(np.linalg.norm(self.spicules[:, 3:6] - self.spicules[:, :3], axis=1).max())
        box = canvas.box(self.shape.centre_mm - reach, self.shape.centre_mm + reach)
        if box is None:
            return
        view = image[box]
        points = np.stack(np.broadcast_arrays(*canvas.axes_in(box)), axis=-1).astype(np.float64)
        distance = self.shape.distance(points)
        fraction = canvas.fraction(distance)
        value = np.full(view.shape, self.hu, dtype=np.float32)
        if self.core_share > 0:
            size = float(self.shape.radii_mm.mean()) * (1 - self.core_share)
            value += canvas.fraction(distance + np.float32(size)) * np.float32(self.core_hu - self.hu)
        if self.hollow > 0:
            size = float(self.shape.radii_mm.mean()) * (1 - self.hollow)
            value += canvas.fraction(distance + np.float32(size)) * (np.float32(-840) - value)
        value += np.float32(self.grain_hu) * smooth_noise(rng, view.shape, canvas.geometry.spacing_mm, self.grain_mm)
        if self.texture in ("ground_glass", "part_solid"):
            value = np.maximum(value, view)
        if len(self.spicules):
            spikes = np.zeros(view.shape, dtype=np.float32)
            corner = canvas.geometry.index_to_lps_mm([s.start for s in box])
            part = Geometry.from_parts(view.shape, canvas.geometry.spacing_mm, corner.tolist())
            Canvas.of(part).tubes(spikes, self.spicules)
            if self.shape.limit is not None:
                spikes *= canvas.fraction(self.shape.limit(points))
            view += spikes * np.maximum(np.float32(self.hu) - view, 0)
        view += fraction * (value - view)

    def mask(self, canvas: Canvas, lesion_map: NDArray[np.uint16], truth: DrawnNodule) -> None:
        """Write its number where a voxel's centre is inside; at least into the voxel nearest to its centroid."""
        half = np.asarray(canvas.geometry.spacing_mm)
        box = canvas.box(np.subtract(truth.box_lps_mm[:3], half), np.add(truth.box_lps_mm[3:], half))
        written = False
        if box is not None:
            points = np.stack(np.broadcast_arrays(*canvas.axes_in(box)), axis=-1).astype(np.float64)
            inside = self.shape.distance(points) < 0
            lesion_map[box][inside] = truth.number
            written = bool(inside.any())
        if not written:
            nearest = np.round(canvas.geometry.lps_mm_to_index(truth.centre_lps_mm)).astype(int)
            if ((nearest >= 0) & (nearest < canvas.shape)).all():
                lesion_map[tuple(nearest)] = truth.number


def _triple(v: Points) -> Triple:
    return float(v[0]), float(v[1]), float(v[2])


def random_diameter(rng: np.random.Generator) -> float:
    """A diameter in mm: 4 to 30, mostly 6 to 16, now and then a mass of up to 45."""
    kind = rng.random()
    if kind < 0.05:
        return float(rng.uniform(30, 45))
    if kind < 0.25:
        return float(rng.uniform(4, 8))
    return float(np.clip(np.exp(rng.normal(np.log(12), 0.42)), 4, 30))


def random_nodule(
    rng: np.random.Generator,
    style: NoduleStyle,
    request: NoduleRequest,
    *,
    centre_mm: Points,
    diameter_mm: float,
    place: Place,
    limit: Limit | None,
) -> Nodule:
    """Settle shape and substance of a nodule at a place that was found for it."""
    texture = request.texture or TEXTURES[rng.choice(4, p=np.asarray(style.weights) / sum(style.weights))]
    if diameter_mm < 6 and request.texture is None:
        texture = "calcified" if rng.random() < 0.2 else "solid"
    form = request.form or FORMS[rng.choice(3, p=[0.45, 0.35, 0.2])]
    radii = diameter_mm / 2 * (1 + rng.uniform(-style.ellipticity, style.ellipticity, 3))
    radii *= diameter_mm / 2 / np.prod(radii) ** (1 / 3)
    count = 0 if form == "smooth" else int(rng.integers(3, style.lobes + 1))
    waves = np.zeros((count, 6))
    for wave in waves:
        wave[:3] = random_turn(rng)[:, 0]
        wave[3] = rng.uniform(*style.lobe_amplitude)
        wave[4] = rng.uniform(*style.lobe_frequency)
        wave[5] = rng.uniform(0, 2 * np.pi)
    shape = NoduleShape(centre_mm, radii, random_turn(rng), waves, limit)
    hu = {
        "solid": rng.uniform(-10, 75),
        "part_solid": rng.uniform(-660, -500),
        "ground_glass": rng.uniform(-640, -440),
        "calcified": rng.uniform(60, 350),
    }[texture]
    core_share, core_hu = 0.0, 0.0
    if texture == "part_solid":
        core_share, core_hu = rng.uniform(0.4, 0.7), rng.uniform(-60, 50)
    elif texture == "calcified":
        core_share, core_hu = rng.uniform(0.35, 0.85), rng.uniform(250, 800)
    hollow = 0.0
    if texture == "solid" and diameter_mm > 14 and rng.random() < style.cavities:
        hollow = rng.uniform(0.25, 0.55)
    spicules = np.zeros((0, 8))
    if form == "spiculated":
        u = _RAYS[rng.choice(2000, int(rng.integers(8, 22)), replace=False)]
        start = centre_mm + 0.8 * shape.radius(u)[:, None] * u
        end = start + (shape.radius(u) * rng.uniform(0.35, 0.8, len(u)))[:, None] * (u + rng.normal(0, 0.15, u.shape))
        thick = np.full((len(u), 1), 0.035 * diameter_mm + 0.25)
        spicules = np.concatenate([start, end, thick, 0.3 * thick], axis=1)
    return Nodule(
        shape=shape,
        texture=texture,
        place=place,
        form=form,
        hu=float(hu),
        core_hu=float(core_hu),
        core_share=float(core_share),
        grain_mm=float(rng.uniform(*style.grain_mm)),
        grain_hu=float(rng.uniform(*style.grain_hu)),
        hollow=float(hollow),
        spicules=spicules,
    )
