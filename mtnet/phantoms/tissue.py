"""Painting the chest around and inside the lungs: wall, mediastinum, airways, parenchyma, vessels, clutter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtnet.phantoms.anatomy import Anatomy
from mtnet.phantoms.canvas import Canvas, FloatArray, blend, smooth_noise
from mtnet.phantoms.families import FamilyStyle
from mtnet.phantoms.vessels import beside, grow, widened

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mood:
    """The state of one patient: density of the lung, contrast agent in the blood, emphysema."""

    parenchyma_hu: float
    gravity_hu: float
    blood_hu: float
    muscle_hu: float
    emphysema: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Mood:
        """A random state; every fourth patient has emphysema, two in five have contrast."""
        emphysema = rng.uniform(0.3, 1.0) if rng.random() < 0.25 else 0.0
        return cls(
            parenchyma_hu=rng.uniform(-890, -815) - 25 * emphysema,
            gravity_hu=rng.uniform(5, 45),
            blood_hu=rng.uniform(110, 260) if rng.random() < 0.4 else rng.uniform(28, 50),
            muscle_hu=rng.uniform(38, 62),
            emphysema=emphysema,
        )


def draw_trunk(
    canvas: Canvas, anatomy: Anatomy, mood: Mood, cavity_mm: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """A new image with air, table, skin, fat, muscle and what lies between and below the lungs."""
    x, y, z = canvas.x, canvas.y, canvas.z
    image = np.full(canvas.shape, -1000, dtype=np.float32)
    bed = float(anatomy.half_depth + anatomy.fat + anatomy.muscle + 14)
    sheet = np.abs(y - bed + 0.0009 * x * x) - 2.5
    image += canvas.fraction(np.asarray(sheet, dtype=np.float32)) * np.float32(rng.uniform(650, 850))
    body = anatomy.body(x, y, z)
    blend(image, canvas.fraction(body), np.float32(rng.uniform(-115, -85)))
    marbling = smooth_noise(rng, canvas.shape, canvas.geometry.spacing_mm, 13)
    tissue = np.float32(mood.muscle_hu) + 6 * marbling
    deep = (cavity_mm > 0) & (cavity_mm < anatomy.muscle + 6 * marbling) | (
        (body < -anatomy.fat) & (marbling < 1.1) & (cavity_mm > 0)
    )
    skin = (body > -2) & (body < 0.5)
    np.copyto(image, tissue, where=deep)
    image[skin] = np.maximum(image[skin], -10)
    inside = cavity_mm <= 0
    yb = anatomy.to_body(x, y)[1]
    fatty = (marbling > 0.55) & (yb < anatomy.spine_y - 18)
    np.copyto(image, np.where(fatty, np.float32(-90), tissue - 8), where=inside)
    below = anatomy.diaphragm(x, y, z)
    np.copyto(image, np.float32(mood.muscle_hu + 8) + 2 * marbling, where=inside & (below < 0))
    stomach = np.array([0.45 * anatomy.half_width, -0.15 * anatomy.half_depth, anatomy.dome_z[1] - 34])
    drawn = canvas.ellipsoid(stomach, rng.uniform((28, 22, 14), (45, 34, 24)))
    if drawn is not None and rng.random() < 0.7:
        blend(image[drawn[0]], drawn[1] * (below[drawn[0]] < -4), -950 if rng.random() < 0.6 else 15)
    return image


def draw_vessels_of_mediastinum(
    canvas: Canvas, image: FloatArray, anatomy: Anatomy, mood: Mood, rng: np.random.Generator
) -> None:
    """Paint heart, aorta, pulmonary trunk, great vessels, windpipe and gullet."""
    heart = canvas.ellipsoid(anatomy.heart_centre, anatomy.heart_radii, anatomy.heart_turn)
    if heart is not None:
        blend(image[heart[0]], heart[1], mood.blood_hu * 0.85 + 8)
    w, spine, apex = anatomy.mediastinum, anatomy.spine_y, anatomy.apex_z
    arch = 0.42 * apex
    r = rng.uniform(10.5, 15)
    path = [(0.8 * w, spine - 12, -200), (0.8 * w, spine - 12, arch - 20), (0.62 * w, spine - 26, arch + 2)]
    path += [(0.1 * w, spine - 52, arch + 10), (-0.35 * w, spine - 74, arch - 14), (-0.3 * w, spine - 82, arch - 50)]
    vessels = [_path(anatomy, path, r)]
    vessels.append(_path(anatomy, [(-0.75 * w, spine - 62, 1.05 * apex), (-0.75 * w, spine - 62, 0)], 0.7 * r))
    right, left = anatomy.hila
    trunk = (0.25 * w, spine - 66, 14.0)
    trunk_world = (*anatomy.to_world(trunk[0], trunk[1]), trunk[2])
    lines = [(*trunk_world, *right, 11, 8.0), (*trunk_world, *left, 11, 8.0)]
    vessels.append(np.asarray(lines))
    for shift in (-16.0, 0.0, 15.0):
        vessels.append(_path(anatomy, [(shift, spine - 55, arch), (1.3 * shift, spine - 48, apex + 40)], 4.5))
    field = np.zeros(canvas.shape, dtype=np.float32)
    for part in vessels:
        canvas.tubes(field, part)
    blend(image, field, np.float32(mood.blood_hu))
    carina = 0.18 * apex
    pipe = _path(anatomy, [(0, spine - 40, apex + 60), (-2, spine - 34, carina)], rng.uniform(7.5, 9.5))
    fork = (*anatomy.to_world(-2, spine - 34), carina)
    main = np.asarray([(*fork, *right, 6.8, 5.0), (*fork, *left, 6.4, 5.0)])
    tree = np.concatenate([pipe, main])
    field[:] = 0
    canvas.tubes(field, widened(tree, 1.6))
    blend(image, field, np.float32(20))
    field[:] = 0
    canvas.tubes(field, tree)
    blend(image, field, np.float32(-985))


def _path(anatomy: Anatomy, points: list[tuple[float, float, float]], radius: float) -> Points:
    """A tube of one radius through points of the body frame, with its corners rounded."""
    p = np.asarray([(*anatomy.to_world(x, y), z) for x, y, z in points], dtype=np.float64)
    for _ in range(2):
        if len(p) > 2:
            cut = np.concatenate([0.75 * p[:-1] + 0.25 * p[1:], 0.25 * p[:-1] + 0.75 * p[1:]], axis=1).reshape(-1, 3)
            p = np.concatenate([p[:1], cut, p[-1:]])
    r = np.full((len(p) - 1, 1), radius)
    return np.concatenate([p[:-1], p[1:], r, r], axis=1)


def parenchyma(
    canvas: Canvas, anatomy: Anatomy, mood: Mood, style: FamilyStyle, rng: np.random.Generator
) -> FloatArray:
    """HU of the lung's substance without vessels: base density, gravity, texture, emphysema, fissures."""
    x, y, z = canvas.x, canvas.y, canvas.z
    yb = np.clip(anatomy.to_body(x, y)[1] / anatomy.half_depth, -1, 1)
    hu = np.float32(mood.parenchyma_hu) + np.float32(mood.gravity_hu) * (yb + 0.6 * np.maximum(yb - 0.4, 0))
    image = np.broadcast_to(hu, canvas.shape).astype(np.float32)
    spacing = canvas.geometry.spacing_mm
    for scale, strength in zip(style.grain_mm, style.grain_hu, strict=True):
        knot = max(scale, 1.6 * max(spacing))
        image += np.float32(strength * rng.uniform(0.6, 1.3)) * smooth_noise(rng, canvas.shape, spacing, knot)
    if rng.random() < 0.35:
        cloud = smooth_noise(rng, canvas.shape, spacing, rng.uniform(28, 55))
        image += np.float32(rng.uniform(40, 150)) * np.clip(cloud - np.float32(0.9), 0, 1.5)
    for side in (-1, 1):
        wave = 4 * np.sin(x / rng.uniform(18, 30) + rng.uniform(0, 6)) + 3 * np.sin(y / rng.uniform(20, 30))
        surface = rng.uniform(-5, 12) - rng.uniform(0.9, 1.3) * y + wave
        _sheet(image, (z - surface) * np.float32(0.68), x * side > 0, rng.uniform(25, 110), canvas.edge_mm)
        if side < 0:
            level = rng.uniform(0, 12) + 5 * np.sin(x / 25) + 0.15 * y
            _sheet(image, z - level, (x < 0) & (y < 0), rng.uniform(20, 80), canvas.edge_mm)
    if mood.emphysema > 0:
        _bullae(canvas, image, anatomy, mood, rng)
    return image


def _sheet(image: FloatArray, distance: FloatArray, where: NDArray[np.bool_], hu: float, edge_mm: float) -> None:
    """Add a thin bright surface (a fissure)."""
    i, j, k = np.nonzero((np.abs(distance) < 2.2 * edge_mm) & where)
    image[i, j, k] += np.float32(hu) * np.exp(-0.5 * (distance[i, j, k] / (0.6 * edge_mm + 0.3)) ** 2)


def _bullae(canvas: Canvas, image: FloatArray, anatomy: Anatomy, mood: Mood, rng: np.random.Generator) -> None:
    count = int(400 * mood.emphysema)
    centres = rng.uniform(
        (-anatomy.half_width, -anatomy.half_depth, -30),
        (anatomy.half_width, anatomy.half_depth, anatomy.apex_z),
        (count, 3),
    )
    for centre in centres[anatomy.lung_at(centres) < 0]:
        radius = rng.uniform(2, 5) if rng.random() < 0.9 else rng.uniform(5, 12)
        drawn = canvas.ellipsoid(centre, radius * rng.uniform(0.7, 1.3, 3))
        if drawn is not None:
            view = image[drawn[0]]
            view += drawn[1] * np.minimum(np.float32(-965) - view, 0) * np.float32(0.8)


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """Segments ``(n, 8)`` of arteries and veins, of the airways that follow the arteries, and junction knots
    ``(n, 4)`` of xyz and radius."""

    blood: Points
    airways: Points
    knots: Points


def grow_trees(anatomy: Anatomy, style: FamilyStyle, spacing_mm: float, rng: np.random.Generator) -> Trees:
    """Grow arteries, veins and airways into both lungs; coarse grids get fewer leaves."""
    blood, airways, knots = [], [], []
    leaf, crowd = rng.uniform(*style.leaf_radius_mm), rng.uniform(200, 400)
    for side, hilum in zip((-1, 1), anatomy.hila, strict=True):
        for vein in (False, True):
            per_litre = crowd * (0.52 / leaf) ** 2.2 * (0.7 if vein else 1.0) / max(1.0, spacing_mm / 1.6) ** 2
            targets = _targets(anatomy, side, per_litre, rng)
            root = np.asarray(hilum) + (np.array([side * -4.0, -8.0, -14.0]) if vein else 0.0)
            tree = grow(rng, (root[0], root[1], root[2]), targets, leaf_radius_mm=leaf)
            blood.append(tree)
            big = tree[(tree[:, 7] > 0.9) & (tree[:, 7] < 2.8)]
            chosen = big[rng.random(len(big)) < style.knots]
            bulge = rng.uniform(1.0, rng.uniform(*style.bulge), len(chosen))
            knots.append(np.concatenate([chosen[:, 3:6], (chosen[:, 7] * bulge)[:, None]], axis=1))
            if not vein:
                direction = rng.normal(size=3)
                direction /= np.linalg.norm(direction)
                thick = tree[(tree[:, 7] > 1.25)]
                airways.append(beside(thick, direction, 1.9))
    return Trees(np.concatenate(blood), np.concatenate(airways), np.concatenate(knots))


def _targets(anatomy: Anatomy, side: int, per_litre: float, rng: np.random.Generator) -> Points:
    """Random points inside one lung, a few mm from its surface."""
    low = np.array([0, -anatomy.half_depth, anatomy.base_z])
    high = np.array([1.1 * anatomy.half_width, anatomy.half_depth, anatomy.apex_z])
    count = per_litre * float(np.prod(high - low)) / 1e6
    points = rng.uniform(low, high, (int(count) + 60, 3))
    points[:, 0] *= side
    return np.asarray(points[anatomy.lung_at(points) < -3.5])


def draw_trees(canvas: Canvas, image: FloatArray, trees: Trees, mood: Mood) -> None:
    """Paint airways, then vessels with their junction knots, over the lung."""
    field = np.zeros(canvas.shape, dtype=np.float32)
    canvas.tubes(field, widened(trees.airways, 0.55, 0.95))
    blend(image, field, np.float32(-60))
    field[:] = 0
    canvas.tubes(field, widened(trees.airways, -0.15, 0.85))
    blend(image, field, np.float32(-960))
    field[:] = 0
    canvas.tubes(field, trees.blood)
    canvas.tubes(
        field, np.concatenate([trees.knots[:, :3], trees.knots[:, :3], trees.knots[:, 3:], trees.knots[:, 3:]], axis=1)
    )
    image += field * np.maximum(np.float32(0.75 * mood.blood_hu + 8) - image, 0)


def draw_clutter(
    canvas: Canvas,
    image: FloatArray,
    anatomy: Anatomy,
    *,
    style: FamilyStyle,
    rib_ends: Points,
    rng: np.random.Generator,
) -> list[tuple[tuple[slice, slice, slice], FloatArray]]:
    """Paint what looks like a nodule and is none: rib ends that jut into the lung, scars, pleural plaques.

    Returns the sub-boxes and fractions of what no longer belongs to the lung.
    """
    taken = []
    share = rng.uniform(*style.rib_ends)
    for end in rib_ends[rng.random(len(rib_ends)) < share]:
        outward = end - np.array([0, 0, end[2]])
        outward /= max(np.linalg.norm(outward), 1e-6)
        centre = end - outward * rng.uniform(2.5, 5.5)
        for shrink, value in ((0.0, rng.uniform(30, 70)), (1.8, rng.uniform(90, 420))):
            drawn = canvas.ellipsoid(centre, np.maximum(np.array([6.5, 6.5, 6.0]) - shrink, 1))
            if drawn is not None:
                blend(image[drawn[0]], drawn[1], value)
                if shrink == 0:
                    taken.append(drawn)
    low = (-anatomy.half_width, -anatomy.half_depth, anatomy.base_z)
    high = (anatomy.half_width, anatomy.half_depth, anatomy.apex_z)
    points = rng.uniform(low, high, (4000, 3))
    depth = anatomy.lung_at(points)
    near = points[(depth < -1) & (depth > -8)]
    for point in near[: int(rng.integers(0, style.scars + 1))]:
        if rng.random() < 0.5:
            drawn = canvas.ellipsoid(point, (rng.uniform(1.0, 1.7), rng.uniform(6, 18), rng.uniform(5, 16)), _turn(rng))
            hu = rng.uniform(-350, 10)
        else:
            surface = _toward_wall(anatomy, point)
            drawn = canvas.ellipsoid(surface, rng.uniform((1.2, 6, 6), (2.2, 16, 18)), _facing(anatomy, surface))
            hu = rng.uniform(0, 60)
        if drawn is not None:
            view = image[drawn[0]]
            view += drawn[1] * np.maximum(np.float32(hu) - view, 0)
    return taken


def _turn(rng: np.random.Generator) -> Points:
    return np.asarray(np.linalg.qr(rng.normal(size=(3, 3)))[0])


def _normal(anatomy: Anatomy, point: Points) -> Points:
    """Outward normal of the lung's surface by central differences."""
    steps = np.concatenate([point + np.eye(3), point - np.eye(3)])
    d = anatomy.lung_at(steps).astype(np.float64)
    n = d[:3] - d[3:]
    return np.asarray(n / max(float(np.linalg.norm(n)), 1e-6))


def _toward_wall(anatomy: Anatomy, point: Points) -> Points:
    """The point of the lung's surface nearest to a point near it."""
    for _ in range(3):
        point = point - _normal(anatomy, point) * float(anatomy.lung_at(point[None])[0])
    return point


def _facing(anatomy: Anatomy, point: Points) -> Points:
    """Axes with the first one along the surface's normal."""
    n = _normal(anatomy, point)
    other = np.cross(n, [0.0, 0.0, 1.0] if abs(n[2]) < 0.9 else [1.0, 0.0, 0.0])
    other /= np.linalg.norm(other)
    return np.stack([n, other, np.cross(n, other)], axis=1)
