"""The whole of ``mtnet batch`` with studies that pass its limits, in real workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mtnet.hosts.batch import lane as lane_module
from mtnet.hosts.batch.lane import Limits
from mtnet.hosts.batch.local import local
from mtnet.hosts.batch.tasks import Outcome, Task
from mtnet.hosts.batch.worker import Start
from tests.bundles import write_tiny_bundle
from tests.hosts.batch.studies import batch, by_name, write_study

pytestmark = [pytest.mark.soak, pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")]

LIMITS = Limits(time_s=150.0, memory_bytes=2300 << 20)
# A network that hangs, takes 2 GiB, or ends its process, where the image holds one of three values.
RUN = """
import os, signal, time
import numpy
from mtnet.hosts.batch import worker
from mtnet.predictor import Predictor

infer = Predictor.infer

def hard(self, case, progress=None):
    top = int(case.volume.array.max())
    if top == 2001:
        time.sleep(100_000)
    if top == 2002:
        held = numpy.ones(1 << 28)
        time.sleep(100_000)
    if top == 2003:
        os.kill(os.getpid(), signal.SIGKILL)
    return infer(self, case, progress)

Predictor.infer = hard
worker.main()
"""


@pytest.mark.timeout(1500)
def test_studies_over_their_limits_are_set_aside_with_their_reason_and_the_others_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_module, "_RUN", RUN)
    bundle, source, out = write_tiny_bundle(tmp_path / "bundle"), tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate(("a good", "e good", "f good")):
        write_study(source / name, seed)
    for value, name in ((2001, "b slow"), (2002, "c big"), (2003, "d crash")):
        write_study(source / name, value, values=lambda p, value=value: np.where(p[..., 2] > 0, value, -800.0))

    def engine(tasks: Iterable[Task], start: Start) -> Iterator[Outcome]:
        return local(tasks, start, LIMITS, 1)

    outcomes = by_name(batch(source, out, bundle, engine), out)
    told = {name: [(item.state, item.code) for item in one.items] for name, one in outcomes.items()}
    assert told == {
        **{f"{letter} good": [("answered", "")] for letter in "aef"},
        "b slow": [("set_aside", "time_limit")],
        "c big": [("set_aside", "memory_limit")],
        "d crash": [("set_aside", "crashed")],
    }
    assert "stage 'network'" in outcomes["b slow"].items[0].message
    assert not list(out.glob(".work*"))
