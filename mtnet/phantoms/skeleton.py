"""Ribs, spine and breastbone of a drawn chest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtnet.phantoms.anatomy import Anatomy
from mtnet.phantoms.canvas import Canvas, FloatArray, blend


def draw_ribs(
    canvas: Canvas, image: FloatArray, anatomy: Anatomy, cavity_mm: FloatArray, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Paint ribs with cortex, marrow and cartilage into the image; returns the bony ends in world mm ``(n, 3)``.

    ``cavity_mm`` is the distance to the chest's inner wall on the canvas: ribs run at a fixed depth behind it, falling
    from the spine to the front.
    """
    pitch = rng.uniform(23, 28) * anatomy.half_width / 132
    depth, thick, high = rng.uniform(6.0, 7.5), rng.uniform(3.2, 4.2), rng.uniform(5.5, 7.5)
    fall = rng.uniform(55, 85)
    cortex, marrow, cartilage = rng.uniform(450, 850), rng.uniform(130, 260), rng.uniform(70, 130)
    top = anatomy.apex_z + rng.uniform(-4, 10)
    count = 11
    ends = np.concatenate([rng.uniform(2.35, 2.65, 7), [2.2, 2.0, 1.7, 1.3]])

    shell = np.nonzero((cavity_mm > depth - thick - 2) & (cavity_mm < depth + thick + 2))
    z = canvas.z.ravel()[shell[2]]
    theta, *_ = anatomy.outline(canvas.x, canvas.y)
    phi = np.abs(np.angle(np.exp(1j * (theta[:, :, 0] - np.pi / 2))))[shell[0], shell[1]]
    along = (top - z - fall * (1 - np.cos(np.minimum(phi, 2.5))) / 2 + 30 * np.maximum(phi - 2.5, 0)) / pitch
    number = np.clip(np.round(along), 0, count - 1).astype(int)
    dz = (along - number) * (pitch * 0.9)
    end = ends[number]
    flare = np.exp(-(((phi - end) / 0.07) ** 2))
    q = np.hypot((cavity_mm[shell] - depth) / (thick + 1.2 * flare), dz / (high + 1.5 * flare))
    size = thick * (1 - q)
    fraction = np.clip(size / canvas.edge_mm + 0.5, 0, 1)
    fraction *= (phi > 0.3) & (phi < np.where(number < 7, 2.95, end))
    inner = np.clip((size - 1.3) / canvas.edge_mm + 0.5, 0, 1)
    bone = cortex + (marrow - cortex) * inner
    share = np.clip((phi - end) * anatomy.half_width / 3 + 0.5, 0, 1)
    value = bone * (1 - share) + cartilage * share
    image[shell] += (fraction * (value - image[shell])).astype(np.float32)

    tips = []
    for side in (-1, 1):
        for n in range(count):
            angle = np.pi / 2 + side * ends[n]
            radius = _radius_at(anatomy, angle, depth, top - n * pitch - fall * (1 - np.cos(min(ends[n], 2.5))) / 2)
            height = top - n * pitch - fall * (1 - np.cos(min(ends[n], 2.5))) / 2
            tips.append((*anatomy.to_world(radius * np.cos(angle), radius * np.sin(angle)), height))
    return np.asarray(tips)


def _radius_at(anatomy: Anatomy, angle: float, depth: float, z: float) -> float:
    """Distance from the axis at which the chest wall is ``depth`` deep, at one angle (body frame) and height."""
    wx, wy = anatomy.to_world(np.cos(angle), np.sin(angle))
    x, y, height = np.array([[wx], [wy], [z]], dtype=np.float32)
    factor = float(anatomy.outline(x, y)[3][0])
    return 1 + (depth - float(anatomy.cavity(x, y, height)[0])) / factor


def draw_spine(canvas: Canvas, image: FloatArray, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Paint vertebral bodies with discs, canal, arches, and transverse and spinous processes."""
    centre = np.asarray(anatomy.to_world(0, anatomy.spine_y))
    box = canvas.box([centre[0] - 50, centre[1] - 30, -1e6], [centre[0] + 50, centre[1] + 75, 1e6])
    if box is None:
        return
    x, y, z = canvas.axes_in(box)
    xb, yb = anatomy.to_body(x, y)
    yb = yb - np.float32(anatomy.spine_y)
    view, edge = image[box], canvas.edge_mm
    pitch, phase = rng.uniform(22, 26), rng.uniform(0, 24)
    cortex, marrow = rng.uniform(380, 650), rng.uniform(110, 230)
    height = np.abs((z + phase) % pitch - pitch / 2).astype(np.float32)

    def soft(size: NDArray[np.floating[Any]]) -> FloatArray:
        return np.asarray(np.clip(size / edge + 0.5, 0, 1), dtype=np.float32)

    waist = 1 - 0.1 * np.cos(2 * np.pi * height / pitch)
    body = (np.hypot(xb / 19, yb / 14.5) / waist - 1) * -15
    disc = height - (pitch / 2 - 2.5)
    level = np.minimum(body, -disc)
    blend(view, soft(body), 80)
    blend(view, soft(level), cortex)
    blend(view, soft(level - 1.5), marrow)
    yc = yb - 22
    ring = 3.5 - np.abs(np.hypot(xb, yc) - 12)
    arch = np.minimum(ring, 8 - np.maximum(height - 2, 0) * 2)
    blend(view, soft(arch), cortex * 0.8)
    blend(view, soft(8.5 - np.hypot(xb, yc)), 25)
    sides = np.minimum(np.minimum(4 - np.abs(yb - 20 - 0.15 * np.abs(xb)), 34 - np.abs(xb)), np.abs(xb) - 9)
    blend(view, soft(np.minimum(sides, 5 - height)), cortex * 0.75)
    spine = np.minimum(np.minimum(3.2 - np.abs(xb), 58 - yb), yb - 33)
    blend(view, soft(np.minimum(spine, 8 - height)), cortex * 0.8)


def draw_front(canvas: Canvas, image: FloatArray, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Paint the breastbone and the shoulder blades."""
    cortex, marrow = rng.uniform(300, 500), rng.uniform(60, 160)
    for z in np.arange(-60, anatomy.apex_z, 14.0):
        radius = _radius_at(anatomy, -np.pi / 2, 8, z)
        x, y = anatomy.to_world(0, -radius)
        for shrink, value in ((0.0, cortex), (1.6, marrow)):
            drawn = canvas.ellipsoid((x, y, z), (19 - shrink, 6 - shrink, 9.5 - shrink / 4))
            if drawn is not None:
                blend(image[drawn[0]], drawn[1], value)
    for side in (-1, 1):
        tilt = rng.uniform(0.45, 0.8) * side
        c, s = np.cos(tilt), np.sin(tilt)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
        angle = np.pi / 2 - side * rng.uniform(0.75, 0.95)
        top = anatomy.apex_z * 0.55
        radius = _radius_at(anatomy, angle, 20, top)
        x, y = anatomy.to_world(radius * np.cos(angle), radius * np.sin(angle))
        for shrink, value in ((0.0, cortex * 1.4), (1.4, marrow)):
            drawn = canvas.ellipsoid((x, y, top), (38 - shrink, 4.2 - shrink, 62 - shrink), turn)
            if drawn is not None:
                blend(image[drawn[0]], drawn[1], value)
