"""Pictures of an evaluation: curves, calibration, agreement and size, each as one SVG text."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtnet.evaluation import classification, regression
from mtnet.evaluation.average_precision import IOU_THRESHOLDS
from mtnet.evaluation.detection import froc_of, precision_recall_of
from mtnet.evaluation.froc import RATES
from mtnet.evaluation.operating_points import class_rankings
from mtnet.evaluation.ranking import Ranking
from mtnet.evaluation.records import SampleRecord, notes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Note = Mapping[str, Any]
_SIZE_INCHES = (4.6, 3.6)


def plots_of(samples: Sequence[SampleRecord]) -> dict[str, str]:
    """Every picture that the notes allow, title to SVG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    made: dict[str, str] = {}
    masks, boxes, classes = (_known(samples, path) for path in ("segmentation", "detection", "classification"))
    if masks:
        made["Dice by lesion size"] = _drawn(lambda axes: _dice_by_size(axes, masks))
    if any(note["objects"] for note in boxes):
        made["Precision and recall of boxes"] = _drawn(lambda axes: _precision_recall(axes, boxes))
        made["FROC"] = _drawn(lambda axes: _froc(axes, boxes))
    if classes:
        # A class that always or never occurs has no curve.
        rankings = {k: v for k, v in class_rankings(classes).items() if 0 < v.positive.sum() < len(v.positive)}
        if rankings:
            made["ROC"] = _drawn(lambda axes: _roc(axes, rankings))
            made["Precision and recall of classes"] = _drawn(lambda axes: _class_precision(axes, rankings))
        made["Calibration"] = _drawn(lambda axes: _calibration(axes, classes))
    for path in sorted({path for sample in samples for path in sample.notes if path.startswith("regression.")}):
        notes = _known(samples, path)
        name = path.removeprefix("regression.").replace("_", " ")
        made[f"Bland-Altman of {name}"] = _drawn(_agreement(notes))
    redrawn = _known(samples, "reconstruction")
    if any(note["foreign"] for note in redrawn):
        made["Error of redrawn images"] = _drawn(lambda axes: _errors(axes, redrawn))
    return made


def _known(samples: Sequence[SampleRecord], path: str) -> list[Note]:
    return [note for note in notes_of(samples, path) if note is not None]


def _drawn(draw: Callable[[Axes], None]) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Without a date and with a fixed salt the same scores make the same file.
    with mpl.rc_context({"svg.hashsalt": "mtnet", "font.size": 9}):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.grid(alpha=0.3)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _dice_by_size(axes: Axes, notes: Sequence[Note]) -> None:
    lesions = [note for note in notes if note["true_positive"] + note["false_negative"]]
    share = np.array([note["truth_share"] for note in lesions])
    dice = np.array([note["dice"] for note in lesions])
    axes.scatter(share, dice, s=9, alpha=0.6)
    if len(share) >= 8:
        edges = np.quantile(share, [0, 0.25, 0.5, 0.75, 1])
        place = np.clip(np.searchsorted(edges, share, side="right") - 1, 0, 3)
        means = [
            (float(np.median(share[place == n])), float(dice[place == n].mean()))
            for n in range(4)
            if (place == n).any()
        ]
        axes.plot(*zip(*means, strict=True), marker="o", color="black", label="mean of each quarter")
        axes.legend()
    if len(share):
        axes.set_xscale("log")
    axes.set(xlabel="lesion's share of the image", ylabel="Dice", ylim=(-0.03, 1.03))


def _precision_recall(axes: Axes, notes: Sequence[Note]) -> None:
    for place in (0, 5):
        curve = precision_recall_of(notes, place)
        recall, precision = curve.curve(np.ones(len(notes)))
        axes.step(recall, precision, where="pre", label=f"IoU {IOU_THRESHOLDS[place]:.2f}")
    axes.legend()
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.03))


def _froc(axes: Axes, notes: Sequence[Note]) -> None:
    false, sensitivity = froc_of(notes).curve(np.ones(len(notes)))
    axes.step(np.append(0.0, false), np.append(0.0, sensitivity), where="post")
    axes.set_xscale("symlog", linthresh=RATES[0])
    axes.set_xticks([0, *RATES], ["0", "1/8", "1/4", "1/2", *(f"{rate:g}" for rate in RATES[3:])])
    axes.set(xlabel="false boxes an image", ylabel="sensitivity", xlim=(0, RATES[-1]), ylim=(0, 1.03))


def _roc(axes: Axes, rankings: Mapping[str, Ranking]) -> None:
    for name, ranking in rankings.items():
        true, false = ranking.counts(np.ones(len(ranking.order)))
        axes.plot(np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1]), label=name.replace("_", " "))
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.legend()
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.03))


def _class_precision(axes: Axes, rankings: Mapping[str, Ranking]) -> None:
    for name, ranking in rankings.items():
        true, false = ranking.counts(np.ones(len(ranking.order)))
        axes.step(true / true[-1], true / (true + false), where="pre", label=name.replace("_", " "))
    axes.legend()
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.03))


def _calibration(axes: Axes, notes: Sequence[Note]) -> None:
    """Of classes that exclude each other the highest probability; of others each class's own."""
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for name, probability, right in _told(notes):
        place = np.clip((probability * 10).astype(int), 0, 9)
        filled = [n for n in range(10) if (place == n).any()]
        axes.plot(
            [probability[place == n].mean() for n in filled],
            [right[place == n].mean() for n in filled],
            "o-",
            label=name,
        )
    axes.legend()
    axes.set(xlabel="probability as told", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.03))


def _told(notes: Sequence[Note]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    if "target" in notes[0]:
        _, _, probability, target = classification.arrays(notes)
        return [("most probable class", probability.max(axis=1), probability.argmax(axis=1) == target)]
    names = sorted({name for note in notes for name in note["present"]})
    found = []
    for name in names:
        own = [note for note in notes if name in note["present"]]
        probability = np.array([note["probabilities"][name] for note in own])
        found.append((name.replace("_", " "), probability, np.array([note["present"][name] for note in own])))
    return found


def _agreement(notes: Sequence[Note]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        _, both = regression.pairs(notes)
        error = both[:, 1] - both[:, 0]
        axes.scatter(both.mean(axis=1), error, s=9, alpha=0.6)
        once = np.ones(len(error))
        for value, style in (
            (float(error.mean()), "-"),
            *((regression.limit_of_agreement(error, once, sign), "--") for sign in (-1.0, 1.0)),
        ):
            if np.isfinite(value):
                axes.axhline(value, color="black", linestyle=style, linewidth=0.8)
        unit = f" ({notes[0]['unit']})" if notes[0]["unit"] else ""
        axes.set(xlabel=f"mean of known and measured{unit}", ylabel=f"measured less known{unit}")

    return draw


def _errors(axes: Axes, notes: Sequence[Note]) -> None:
    for foreign, name in ((False, "own kind"), (True, "foreign")):
        axes.hist([note["error"] for note in notes if note["foreign"] == foreign], bins=20, alpha=0.6, label=name)
    axes.legend()
    unit = f" ({notes[0]['unit']})" if notes[0]["unit"] else ""
    axes.set(xlabel=f"mean absolute error{unit}", ylabel="images")
