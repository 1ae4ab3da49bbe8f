"""The kinds of output by name: ours, and those that installed packages bring through an entry point.

A kind is a merger (``mtnet.inference.mergers``), a decoder (``mtnet.decoded``), a loss (``mtnet.losses.by_kind``) and a
metric (``mtnet.evaluation``). Ours stand in one dictionary each. A package that brings a kind names it in the
entry-point group ``mtnet.kinds``: the entry's name is the kind's, and what it loads (a module, say) has what it brings
under ``merger``, ``decoder``, ``loss`` and ``metric``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar

KIND_GROUP = "mtnet.kinds"
"""Entry-point group of further kinds of output."""

BUILT_IN = ("dense", "boxes", "global")

KindPart = Literal["merger", "decoder", "loss", "metric"]

T = TypeVar("T")


def check_kind(kind: str) -> None:
    """Raise a ``ValueError`` with all names unless the kind is ours or an installed package's."""
    if kind not in BUILT_IN:
        _entry(kind)


def of_kind(kind: str, part: KindPart, built_in: Mapping[str, T]) -> T:
    """What a kind of output brings: ours from ``built_in``, else an installed package's.

    Raises:
        ValueError: nobody knows the kind, or its package cannot be loaded or does not bring that.
    """
    if kind in built_in:
        return built_in[kind]
    entry = _entry(kind)
    try:
        brought: Any = entry.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"Output kind {kind!r} is brought by {entry.value!r}, which cannot be loaded ({error}). Install its "
            "package again."
        ) from error
    if not hasattr(brought, part):
        raise ValueError(f"Output kind {kind!r}: {entry.value!r}, which brings it, has no {part}.")
    found: T = getattr(brought, part)
    return found


def _entry(kind: str) -> EntryPoint:
    found = {entry.name: entry for entry in entry_points(group=KIND_GROUP)}
    if kind not in found:
        raise ValueError(
            f"Output kind {kind!r} is unknown; known are {', '.join([*BUILT_IN, *sorted(found)])}. A package that "
            f"brings a kind names it in the entry-point group {KIND_GROUP!r}."
        )
    return found[kind]
