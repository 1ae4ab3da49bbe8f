"""Several commands of ``benchmarks.verbs`` one after the other in one process, so that torch and MONAI load once.

``python -m tests.hosts.verb_session COMMANDS.json RESULTS.json``: both hold a dictionary by verb, of the arguments of
Python and of ``[exit status, what was said]``.
"""

from __future__ import annotations

import io
import json
import runpy
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path


def ran(arguments: list[str]) -> tuple[int, str]:
    """Run ``-m module ...`` as its own command would."""
    said = io.StringIO()
    sys.argv = arguments[1:]
    status = 0
    with redirect_stdout(said), redirect_stderr(said):
        try:
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            status = 1
    return status, said.getvalue()


if __name__ == "__main__":
    given, taken = map(Path, sys.argv[1:])
    results = {verb: ran(arguments) for verb, arguments in json.loads(given.read_text(encoding="utf-8")).items()}
    taken.write_text(json.dumps(results), encoding="utf-8")
