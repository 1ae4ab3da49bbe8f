"""What one output of a network is: the single thing that engine, losses, decoders, writers and hosts read about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mtnet.structures.kinds import check_kind
from mtnet.structures.labels import Label

Activation = Literal["none", "softmax", "sigmoid"]
Pooling = Literal["mean", "max", "noisy_or"]


@dataclass(frozen=True, slots=True)
class LesionChannel:
    """A per-lesion answer that travels with its box: classes (``labels`` given) or one value in ``units``."""

    name: str
    labels: tuple[Label, ...] = ()
    activation: Activation = "none"
    units: str = ""

    @property
    def channels(self) -> int:
        """Channels that it takes in a box tensor."""
        return max(len(self.labels), 1)


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One named answer of a network (architecture: "Network contracts").

    Args:
        name: key of the output; the primary dense one is ``pred``.
        kind: ``dense``, ``boxes``, ``global`` or a kind that an installed package brings.
        labels: dense and global: one a channel, in channel order; boxes: the lesion classes.
        strides: one for a dense output, one a level for boxes, empty for global; an outside kind may have any number.
        activation: turns logits into probabilities, or ``none`` for values.
        pooling: how a global output is merged over windows.
        background: label value (dense with labels) or value (dense without) outside the region.
        units: of a value that has no labels: ``"normalised"``, ``"HU"``, ``"mm"``...
        threshold: score from which a box counts, or a sigmoid class is called present.
        temperature: logits are divided by it before the activation (calibration).
        lesion_channels: boxes only: further channels of each candidate, after class, offsets and quality.
        log_variance: global values only: a second channel holds the natural logarithm of the variance that the network
            expects of its value, in the square of ``units``.
        title: what results call it, where hosts fix its name (``pred``) and that says nothing; its name by default.
    """

    name: str
    kind: str
    labels: tuple[Label, ...] = ()
    strides: tuple[int, ...] = ()
    activation: Activation = "none"
    pooling: Pooling = "mean"
    background: float = 0.0
    units: str = ""
    threshold: float = 0.5
    temperature: float = 1.0
    lesion_channels: tuple[LesionChannel, ...] = ()
    log_variance: bool = False
    title: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"OutputSpec.name is {self.name!r}; expected an identifier such as 'pred'.")
        check_kind(self.kind)
        if self.activation not in get_args(Activation):
            raise ValueError(f"OutputSpec.activation of {self.name!r} is {self.activation!r}.")
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"OutputSpec.pooling of {self.name!r} is {self.pooling!r}.")
        if self.kind == "dense" and len(self.strides) != 1:
            raise ValueError(f"OutputSpec.strides of dense {self.name!r} is {self.strides!r}; expected one stride.")
        if self.kind == "boxes" and not (self.strides and self.labels):
            raise ValueError(f"OutputSpec {self.name!r} of kind boxes needs a stride a level and its lesion labels.")
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(
                f"OutputSpec.threshold of {self.name!r} is {self.threshold}; expected a score from 0 to 1."
            )
        if self.temperature <= 0:
            raise ValueError(f"OutputSpec.temperature of {self.name!r} is {self.temperature}; expected more than 0.")
        if self.log_variance and (self.kind != "global" or self.labels or self.activation != "none"):
            raise ValueError(
                f"OutputSpec.log_variance of {self.name!r} is set; only a global value, without labels and activation, "
                "has one."
            )

    @property
    def called(self) -> str:
        """What results call it: its title, or its name."""
        return self.title or self.name

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Keys of its tensors in the network's answer: its name, or one a level (``boxes_s4``, ``boxes_s8``).

        Boxes have one a level always, others where they have several strides.
        """
        if self.kind == "boxes" or len(self.strides) > 1:
            return tuple(f"{self.name}_s{stride}" for stride in self.strides)
        return (self.name,)

    @property
    def value_channels(self) -> int:
        """Channels of a dense or global tensor: one a label, or the value, then its log-variance if it has one."""
        return max(len(self.labels), 1) + int(self.log_variance)

    def box_channels(self, spatial_dims: int) -> int:
        """Channels of a boxes tensor: classes, 2 x dims offsets, one quality, then the lesion channels."""
        return len(self.labels) + 2 * spatial_dims + 1 + sum(c.channels for c in self.lesion_channels)
