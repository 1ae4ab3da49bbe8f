"""What is asked of a worker, and what became of it: plain values that travel between processes and into the ledger."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mtnet import __version__
from mtnet.bundle import Bundle

if TYPE_CHECKING:
    from mtnet.inference.runtimes import Runtime
    from mtnet.results.segmentation import SegKind

State = Literal["answered", "refused", "set_aside", "failed"]
STATES: tuple[State, ...] = ("answered", "refused", "set_aside", "failed")
"""From best to worst. What is refused or set aside stays so while content, model and options are the same; what failed
is tried again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How every study of a batch is answered.

    Args:
        bundle: its folder.
        weights, device, tasks, fast, half, runtime, memory_limit_bytes, trust_bundle: as ``Predictor.from_bundle``
            takes them.
        strict, repair, allow_outside: as ``ReadOptions``.
        seg, capture, page: as ``WriteOptions``.
    """

    bundle: str
    weights: str | None = None
    device: str = "auto"
    tasks: tuple[str, ...] | None = None
    fast: bool = False
    half: bool = False
    runtime: Runtime = "eager"
    memory_limit_bytes: int | None = None
    trust_bundle: bool = False
    strict: bool = False
    repair: bool = False
    allow_outside: bool = False
    seg: SegKind = "binary"
    capture: bool = True
    page: bool = False

    def key(self) -> str:
        """SHA-256 of what decides an answer beside the study: configs, weights and their calibration, options, version.

        Device and memory limit do not change an answer beyond rounding, so they are not in it.

        Raises:
            BundleError: the bundle or the weights that it offers are damaged.
        """
        folder = Path(self.bundle)
        weights = folder / "models" / "model.pt"
        if self.weights is not None:
            weights = Bundle.read(folder).with_weights(self.weights).weights
        beside = weights.parent.glob(f"{glob.escape(weights.name)}*")
        digest = hashlib.sha256()
        for path in (*sorted((folder / "configs").glob("*.json")), *sorted(beside)):
            digest.update(file_sha256(path) if path.is_file() else b"")
        options = {key: value for key, value in asdict(self).items() if key not in _NO_CHANGE}
        digest.update(json.dumps([__version__, options], sort_keys=True).encode())
        return digest.hexdigest()


_NO_CHANGE = ("bundle", "weights", "device", "memory_limit_bytes")


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to answer: a folder, archive or image file, or a study on a server.

    Args:
        id: 16 hexadecimal digits, hashed from ``name``: its folder of results, and what messages call it.
        name: how the source calls it, such as a path below it; it may hold a patient's name and goes to
            ``inputs.csv`` alone.
        where: its path, or ``dicomweb+http://...`` URL.
    """

    id: str
    name: str
    where: str

    @staticmethod
    def of(name: str, where: str) -> Input:
        """The input with the id that its name gives."""
        return Input(hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16], name, where)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an item was not answered: a code that a program can read, and a sentence without patient data."""

    state: State
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Task:
    """One input for a worker.

    Args:
        input: what to answer.
        seen: the fingerprint that it had when it was given.
        without: items, counted from 1, that are not to be tried (again), each with its reason.
        alone: answer one item at a time, and nothing beside it: one of those in flight ended a worker.
        own: UIDs of results that were stored beside the images on a server, and are no part of its content.
    """

    input: Input
    seen: str
    without: Mapping[int, Reason] = field(default_factory=dict)
    alone: bool = False
    own: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one study or image of an input; ``number`` counts from 1, and is 0 for the input as a whole.

    ``seconds`` are those of each stage: ``find``, ``read``, ``network``, ``write``.
    """

    number: int
    state: State
    code: str = ""
    message: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an input.

    Args:
        id: of the input.
        seen: fingerprint by which a later run tells in a moment that the input is the same.
        content: SHA-256 of the content; empty where it could not be read.
        items: in their order.
        folder: name of the folder of results below ``studies``, empty where nothing was answered. That of another
            input where it held the same content.
        known: whether nothing had to be done, as the content was answered before.
    """

    id: str
    seen: str
    content: str
    items: Sequence[ItemOutcome]
    folder: str = ""
    known: bool = False

    @property
    def state(self) -> State:
        """The worst of its items'."""
        return max((item.state for item in self.items), key=STATES.index, default="failed")


def file_sha256(path: Path) -> bytes:
    """SHA-256 of a file, block by block."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.digest()
