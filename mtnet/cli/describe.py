"""``mtnet describe``: the parts of a bundle's network and the shapes between them, as a table or a drawing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtnet.cli.terminal import plain

if TYPE_CHECKING:
    from mtnet.nets.outline import Part


def add_parser(commands: Any) -> None:
    """Add ``mtnet describe`` to the command line."""
    parser = commands.add_parser(
        "describe",
        help="show the parts of a bundle's network, as a table or a diagram",
        description="Show what a bundle is made of: parts, shapes between them, parameters and GMACs for one window or "
        "image. Example: mtnet describe chest_ct_multitask --out network.svg",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle, by name or folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="draw the network to this .svg or .png file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table, or draw."""
    from mtnet.bundle import find_bundle
    from mtnet.bundle_card import diagram_title, read_card
    from mtnet.cli.bundles import card_lines
    from mtnet.results.diagram import shape_text, write_diagram

    card = read_card(find_bundle(args.bundle))
    if args.out is not None:
        write_diagram(card.outline, diagram_title(card), args.out)
        print(args.out)
        return 0
    outline = card.outline
    print(plain(f"{card.name} {card.version}  ({card.folder})"))
    for what, text in card_lines(card):
        print(plain(f"  {what:11}{text}"))
    rows = [("part", "made by", "parameters", "GMAC", "gives")]
    shared = [("encoder", outline.encoder), ("neck", outline.neck), ("interaction", outline.interaction)]
    rows += [_row(name, part) for name, part in shared if part is not None]
    for task, branch in outline.tasks.items():
        rows.append(_row(f"{task}: decoder of the {branch.reads}'s levels", branch.decoder))
        told = ", ".join(f"{name} {shape_text(shape)}" for name, shape in branch.tensors.items())
        rows.append((*_row(f"{task}: head", branch.head)[:4], told))
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    print()
    for row in rows:
        left = f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}"
        print(plain(f"{left}  {row[4]}"))
    return 0


def _row(name: str, part: Part) -> tuple[str, str, str, str, str]:
    from mtnet.results.diagram import shape_text

    levels = ", ".join(shape_text(level) for level in part.levels)
    return name, part.made_by, f"{part.parameters:,}", f"{part.macs / 1e9:.3f}", levels
