"""One network, one pass: an encoder that is run once and a branch for every task."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, cast

from torch import Tensor, nn

from mtnet.structures import OutputSpec

# No "from __future__ import annotations" here: TorchScript would no longer see that an attribute is Final.


class Branch(nn.Module):
    """What one task adds to the shared encoder.

    Args:
        decoder: ``[level, ...] -> [level, ...]``.
        head: ``[level, ...] -> {name: tensor}``, with ``.outputs``, and ``.auxiliary`` if it gives more in training.
        reads: whether the decoder is given the levels of the encoder or those of the neck.

    Raises:
        ValueError: ``reads`` is something else.
    """

    def __init__(self, decoder: nn.Module, head: nn.Module, reads: Literal["encoder", "neck"] = "encoder") -> None:
        super().__init__()
        if reads not in ("encoder", "neck"):
            raise ValueError(f"Branch reads is {reads!r}; expected 'encoder' or 'neck'.")
        self.decoder = decoder
        self.head = head
        self.reads_neck = reads == "neck"
        self.outputs: tuple[OutputSpec, ...] = tuple(head.outputs)  # type: ignore[arg-type]
        self.auxiliary: tuple[OutputSpec, ...] = tuple(getattr(head, "auxiliary", ()))

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        """Answer from the levels that it reads: ``[level, ...] -> {name: tensor}``."""
        return self.head(self.decoder(levels))  # type: ignore[no-any-return]


class MultiTaskNet(nn.Module):
    """Encoder, optional neck, a branch a task, optional interaction between the branches' decoders and heads.

    Args:
        encoder: ``x -> [level, ...]``, finest first, with ``.channels`` and ``.strides``.
        branches: by task.
        neck: ``[level, ...] -> [level, ...]`` for the branches that read it.
        interaction: ``{task: levels} -> {task: levels}``, between decoders and heads. Where it has an attribute
            ``tasks`` it is given and changes these only; otherwise all.
        outputs: names of the outputs to keep (all by default). The others' branches stay in the state dict but are not
            run, unless the interaction needs their decoders.
        layout: ``dict`` for ``{name: tensor}``, ``tuple`` for the same tensors in the same order, ``tensor`` for the
            one tensor that is left (what MONAI's ``verify_net_in_out`` wants to see).

    ``outputs`` and ``layout`` change no weight and no key: one state dict fits every view of the network.

    In training mode the layout ``dict`` also holds the auxiliary answers of the heads that run (deep supervision),
    after the outputs; ``.auxiliary`` describes them.

    Raises:
        ValueError: two outputs of one name, an unknown output name, a branch that reads a neck that is not there, or
            ``layout="tensor"`` with more than one tensor.
    """

    as_tuple: Final[bool]
    as_tensor: Final[bool]
    tensor_names: Final[tuple[str, ...]]
    auxiliary_names: list[str]

    def __init__(
        self,
        encoder: nn.Module,
        branches: Mapping[str, Branch],
        *,
        neck: nn.Module | None = None,
        interaction: nn.Module | None = None,
        outputs: Sequence[str] | None = None,
        layout: Literal["dict", "tuple", "tensor"] = "dict",
    ) -> None:
        super().__init__()
        if layout not in ("dict", "tuple", "tensor"):
            raise ValueError(f"MultiTaskNet layout is {layout!r}; expected 'dict', 'tuple' or 'tensor'.")
        _check_branches(branches, has_neck=neck is not None)
        self.encoder = encoder
        self.neck = neck
        self.branches = nn.ModuleDict(branches)
        self.interaction = interaction
        self.outputs: tuple[OutputSpec, ...] = _keep(branches, outputs)
        self.tensor_names = tuple(name for output in self.outputs for name in output.tensor_names)
        if layout == "tensor" and len(self.tensor_names) != 1:
            raise ValueError(
                f"MultiTaskNet layout 'tensor' needs exactly one tensor, but outputs= leaves {self.tensor_names}."
            )
        self.as_tuple = layout == "tuple"
        self.as_tensor = layout == "tensor"

        kept = {output.name for output in self.outputs}
        self.answering = [task for task, branch in branches.items() if any(o.name in kept for o in branch.outputs)]
        self.auxiliary: tuple[OutputSpec, ...] = tuple(
            spec for task in self.answering for spec in branches[task].auxiliary
        )
        self.auxiliary_names = [name for spec in self.auxiliary for name in spec.tensor_names]
        joined: Collection[str] = () if interaction is None else getattr(interaction, "tasks", tuple(branches))
        self.interacting = [task for task in branches if task in joined]
        self.runs_interaction = bool(set(self.interacting) & set(self.answering))
        decoded = {*self.answering, *(self.interacting if self.runs_interaction else ())}
        self.decoding = [task for task in branches if task in decoded]
        self.runs_neck = any(branches[task].reads_neck for task in self.decoding)
        strides: Sequence[int] = encoder.strides  # type: ignore[assignment]
        self.stride: int = max(strides)

    def view(self, outputs: Sequence[str], layout: Literal["dict", "tuple", "tensor"] = "dict") -> "MultiTaskNet":
        """The same parts with other ``outputs`` or another ``layout``; weights and their names are shared."""
        branches = {task: cast(Branch, branch) for task, branch in self.branches.items()}
        return MultiTaskNet(
            self.encoder, branches, neck=self.neck, interaction=self.interaction, outputs=outputs, layout=layout
        )

    # No return type: it would fix one layout for TorchScript.
    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        """Answer every kept task in one pass: ``(B, C, *S) -> {name: tensor}`` in the order of ``outputs``.

        Raises:
            ValueError: an axis of ``S`` is no multiple of the coarsest stride; the text names the size to pad to.
        """
        self.check_size(x)
        encoded: list[Tensor] = self.encoder(x)
        necked = encoded
        if self.neck is not None and self.runs_neck:
            necked = self.neck(encoded)

        decoded: dict[str, list[Tensor]] = {}
        for task, branch in self.branches.items():
            if task in self.decoding:
                decoded[task] = branch.decoder(necked if branch.reads_neck else encoded)  # type: ignore[operator]
        if self.interaction is not None and self.runs_interaction:
            decoded.update(self.interaction({task: decoded[task] for task in self.interacting}))
        answers: dict[str, Tensor] = {}
        for task, branch in self.branches.items():
            if task in self.answering:
                answers.update(branch.head(decoded[task]))  # type: ignore[operator]

        if self.as_tensor:
            return answers[self.tensor_names[0]]
        elif self.as_tuple:  # noqa: RET505  # TorchScript drops the untaken side of if/else only
            # TorchScript unrolls the loop over the constant names, so a tuple that grows has a type at every step.
            values = ()
            for name in self.tensor_names:
                values = (*values, answers[name])  # type: ignore[assignment]
            return values
        else:
            return self.named(answers)

    def named(self, answers: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keep the tensors of the kept outputs, and in training the auxiliary ones after them."""
        kept: dict[str, Tensor] = {}
        for name in self.tensor_names:
            kept[name] = answers[name]
        if self.training:
            for name in self.auxiliary_names:
                kept[name] = answers[name]
        return kept

    def check_size(self, x: Tensor) -> None:
        """Raise a ``ValueError`` that names the size to pad to, unless every axis fits the coarsest stride."""
        size: list[int] = []
        padded: list[int] = []
        for n in x.shape[2:]:
            size.append(n)
            padded.append(max((n + self.stride - 1) // self.stride, 1) * self.stride)
        if size != padded:
            raise ValueError(
                f"The input's size is {size}; every axis must be a multiple of {self.stride}. Pad it to {padded}."
            )


def _check_branches(branches: Mapping[str, Branch], has_neck: bool) -> None:
    if not branches:
        raise ValueError("MultiTaskNet branches is empty; expected at least one task.")
    owner: dict[str, str] = {}
    for task, branch in branches.items():
        if branch.reads_neck and not has_neck:
            raise ValueError(f"The branch of task {task!r} reads the neck, but the network has none.")
        for output in (*branch.outputs, *branch.auxiliary):
            for name in {output.name, *output.tensor_names}:
                if name in owner:
                    raise ValueError(f"Tasks {owner[name]!r} and {task!r} both have an output named {name!r}.")
                owner[name] = task


def _keep(branches: Mapping[str, Branch], names: Sequence[str] | None) -> tuple[OutputSpec, ...]:
    outputs = tuple(output for branch in branches.values() for output in branch.outputs)
    if names is None:
        return outputs
    known = [output.name for output in outputs]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"MultiTaskNet outputs is {list(names)}; expected some of {known}.")
    return tuple(output for output in outputs if output.name in names)
