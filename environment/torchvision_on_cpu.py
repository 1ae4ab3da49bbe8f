"""Let torchvision's CUDA wheel be imported beside a torch without CUDA.

`make env` copies this file into `.venv` only where a plain `import torchvision` fails there, with a start-up line that
imports it. That wheel's library of compiled operators cannot be loaded then, and the import dies at the operators that
it would have declared. Declared here, without code, they let all that is plain torch work. What needs compiled code
(`torchvision.ops.nms`, reading and writing image files) stays unavailable.
"""

import importlib.abc
import sys

LIBRARIES = []
"""The declarations live as long as the object that made them."""


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Acts once, when torchvision is first asked for: no other program pays for the import of torch."""

    def find_spec(self, fullname, path=None, target=None):
        """Declare the operators, and leave the finding to others."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch  # noqa: PLC0415

            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            LIBRARIES.append(library)


sys.meta_path.insert(0, DeclareOperators())
