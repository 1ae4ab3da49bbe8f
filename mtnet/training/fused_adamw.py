"""AdamW as the configs take it."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import ParamsT


class FusedAdamW(torch.optim.AdamW):
    """``torch.optim.AdamW`` with ``fused``: a step is one kernel, on a CPU too.

    A class of its own, so that a config that names another optimiser (``--optimizer#_target_ torch.optim.RAdam``) does
    not hand it an argument that it lacks.

    Args:
        params: tensors or groups of them, of floating point.
        options: ``AdamW``'s own.
    """

    def __init__(self, params: ParamsT, **options: Any) -> None:
        super().__init__(params, **{"fused": True, **options})
