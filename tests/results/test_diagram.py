"""The drawing of a network."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from mtnet.nets.outline import Outline, outline
from mtnet.results.diagram import write_diagram
from tests.nets.builders import Exchange, four_tasks

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(name="told")
def _told() -> Outline:
    return outline(four_tasks(interaction=Exchange(("segmentation", "reconstruction"), (4, 4))), (1, 32, 64))


def test_an_svg_names_every_part_and_shape_and_no_box_lies_upon_another(told: Outline, tmp_path: Path) -> None:
    write_diagram(told, "A < B & C", tmp_path / "network.svg")
    root = ElementTree.parse(tmp_path / "network.svg").getroot()
    words = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert words[0] == "A < B & C"
    for name in ("encoder", "neck", "interaction", "segmentation: decoder", "detection: head", "VGG13", "FPN"):
        assert name in words
    for shape in ("1 × 32 × 64", "12 × 2 × 4", "boxes_s4  9 × 8 × 16", "classes  3", "pred  3 × 32 × 64"):
        assert shape in words
    boxes = [
        tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        for rect in root.iter(f"{SVG}rect")
        if "rx" in rect.attrib
    ]
    page = float(root.attrib["width"]), float(root.attrib["height"])
    for n, (x, y, width, height) in enumerate(boxes):
        assert x >= 0 and y >= 0 and x + width <= page[0] and y + height <= page[1]
        for other_x, other_y, other_width, other_height in boxes[:n]:
            apart = x >= other_x + other_width or other_x >= x + width
            assert apart or y >= other_y + other_height or other_y >= y + height
    for line in root.iter(f"{SVG}line"):
        # Every arrow goes from the right edge of a box to the left edge of another.
        x0, x1 = float(line.attrib["x1"]), float(line.attrib["x2"])
        assert any(abs(x + width - x0) < 0.2 for x, _, width, _ in boxes)
        assert any(abs(x - x1) < 0.2 for x, *_ in boxes)


def test_a_png_is_the_same_drawing_at_twice_the_size(told: Outline, tmp_path: Path) -> None:
    write_diagram(told, "network", tmp_path / "network.svg")
    write_diagram(told, "network", tmp_path / "network.png")
    root = ElementTree.parse(tmp_path / "network.svg").getroot()
    with Image.open(tmp_path / "network.png") as picture:
        assert abs(picture.width - 2 * float(root.attrib["width"])) <= 2
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 8


def test_another_kind_of_file_is_refused_and_nothing_is_written(told: Outline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        write_diagram(told, "network", tmp_path / "network.pdf")
    assert not list(tmp_path.iterdir())
