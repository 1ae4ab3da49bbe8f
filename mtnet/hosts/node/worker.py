"""A worker process: answers one task after the other, with its models loaded. ``python -m mtnet.hosts.node.worker``.

Tasks come as lines of JSON on standard input, outcomes go as such lines to standard output. It ends with its input,
also in the middle of an answer: a node that was killed leaves nobody behind who writes.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mtnet.hosts.node.lines import kind_of, without_uids

if TYPE_CHECKING:
    from mtnet.structures import ReportLine

_MOST_TOLD = 2000


def main() -> NoReturn:
    """Answer until the input ends."""
    # Libraries print; what they print is no outcome, and may quote a header.
    outcomes = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    predictors: dict[str, Any] = {}
    while True:
        outcome = _outcome(json.loads(tasks.get()), predictors)
        outcomes.write(json.dumps(outcome) + "\n")
        outcomes.flush()


def _listen(tasks: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        tasks.put(line)
    os._exit(0)


def _outcome(task: dict[str, Any], predictors: dict[str, Any]) -> dict[str, Any]:
    """``answered`` with what was made, ``refused`` with the codes that say why, or ``failed`` with what went wrong."""
    from mtnet.structures import RefusedError

    try:
        return _answer(task, predictors)
    except RefusedError as refused:
        return _refused([refused.lines])
    except Exception as error:
        return {"outcome": "failed", "error": kind_of(error)}


def _answer(task: dict[str, Any], predictors: dict[str, Any]) -> dict[str, Any]:
    from pydicom import dcmread

    from mtnet.cases import ReadOptions
    from mtnet.predictor import Predictor
    from mtnet.results import check_seg_kind
    from mtnet.study_folder import WriteOptions, answer_studies

    model = f"{task['bundle']} {task['weights']}"
    if model not in predictors:
        predictors[model] = Predictor.from_bundle(task["bundle"], weights=task["weights"], device=task["device"])
    if "input" not in task:
        return {"outcome": "loaded"}
    options = ReadOptions(**task["read"])
    options = replace(options, rule=replace(options.rule, **{k: _tuple(v) for k, v in task["rule"].items()}))
    out = Path(task["output"])
    write = WriteOptions(check_seg_kind(task["seg"]), capture=task["capture"])
    outcomes = list(answer_studies(predictors[model], Path(task["input"]), out, options, write=write))
    if all(one.written is None for one in outcomes):
        return _refused([one.refusal for one in outcomes])
    objects = sorted(path for one in outcomes if one.written for path in one.written.files if path.suffix == ".dcm")
    uids = [str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in objects]
    return {"outcome": "answered", "products": uids, "items": len(outcomes)}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _refused(reports: Iterable[Iterable[ReportLine]]) -> dict[str, Any]:
    """What refuses it: codes for the log, and for people what they mean, without the UIDs that some sentences have."""
    lines = list(dict.fromkeys(line for report in reports for line in report))
    told = " ".join(f"{without_uids(line.message)} ({line.code})" for line in lines)
    return {"outcome": "refused", "codes": sorted({line.code for line in lines}), "told": told[:_MOST_TOLD]}


if __name__ == "__main__":
    main()
