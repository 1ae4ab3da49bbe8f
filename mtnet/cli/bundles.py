"""``mtnet bundles``: the bundles that ``--bundle`` finds, and what there is to know of each before it is chosen."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mtnet.cli.terminal import plain

if TYPE_CHECKING:
    from mtnet.bundle_card import BundleCard, OtherWeights


def add_parser(commands: Any) -> None:
    """Add ``mtnet bundles`` to the command line."""
    parser = commands.add_parser(
        "bundles",
        help="list bundles with tasks, input, size, work, licence and scores",
        description="List the bundles in ./bundles, in the folders of $MTNET_BUNDLES and in the user's cache: tasks, "
        "input, parameters, GMACs of one window or image, licence of the weights, scores. "
        "Example: mtnet bundles --json",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list; 1 where a bundle is damaged."""
    import json
    import sys

    from mtnet.bundle import bundle_folders, bundle_places
    from mtnet.bundle_card import read_card

    cards, damaged = [], []
    for name, folder in bundle_folders().items():
        try:
            cards.append(read_card(folder))
        except (ValueError, RuntimeError) as error:
            damaged.append((name, str(error)))
    if args.json:
        told = [*(card.to_dict() for card in cards), *({"name": n, "error": why} for n, why in damaged)]
        print(json.dumps(told, indent=2))
        return 1 if damaged else 0
    if not cards and not damaged:
        looked = ", ".join(str(place) for place in bundle_places())
        print(f"No bundle in {looked}. Set MTNET_BUNDLES to the folder that holds your bundles.")
    for card in cards:
        print(plain(f"{card.name} {card.version}  ({card.folder})"))
        for what, text in card_lines(card):
            print(plain(f"  {what:11}{text}"))
        print()
    for name, why in damaged:
        print(plain(f"{name}: damaged. {why}"), file=sys.stderr)
    return 1 if damaged else 0


def card_lines(card: BundleCard) -> list[tuple[str, str]]:
    """What is told of a bundle, line by line."""
    what = "window" if card.windowed else "image"
    size = " x ".join(str(n) for n in card.outline.image[1:])
    weights = {
        "missing": "none yet; train the bundle",
        "changed": "neither the published ones nor trained here: they will be refused",
    }.get(card.weights, f"{card.weights}, trained on {card.training_data}, licence {card.weights_licence or 'unknown'}")
    return [
        ("task", card.task),
        ("tasks", ", ".join(card.outline.tasks)),
        ("input", f"{card.input_domain}; {what} of {size}, {card.outline.image[0]} channel(s)"),
        ("network", f"{card.outline.parameters:,} parameters, {card.outline.macs / 1e9:.3f} GMAC for one {what}"),
        ("weights", weights),
        ("scores", _scores(card.scores) or "none told"),
        *(("other", _offered(other)) for other in card.other_weights),
    ]


def _offered(other: OtherWeights) -> str:
    scores = _scores(other.scores) or "no scores told"
    return f"--weights {other.name}, trained on {other.training_data}, licence {other.licence or 'unknown'}; {scores}"


def _scores(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
