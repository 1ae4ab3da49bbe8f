from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from mtnet.hosts.batch.lane import Limits
from mtnet.hosts.batch.ray_cluster import on_ray
from mtnet.hosts.batch.tasks import Outcome, Task
from mtnet.hosts.batch.worker import Start
from mtnet.predictor import Predictor
from mtnet.results import findings_to_dict
from tests.bundles import write_tiny_bundle
from tests.hosts.batch.studies import answer, batch, write_study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning"),
    # Ray's own.
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]

STUDIES = 40
GENEROUS = Limits(time_s=600.0, memory_bytes=64 << 30)
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
WRITTEN = ("schema_version", "costs", "files", "dicom_seg", "dicom_report", "dicom_capture", "report", "masks")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # The repository's root: actors import mtnet from here, and so do the workers that they start.
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    )


@contextmanager
def running_cluster(**head: Any) -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False, **head})
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(name="cluster")
def _cluster() -> Iterator[Any]:
    with running_cluster() as cluster:
        yield cluster


@pytest.mark.timeout(900)
def test_studies_on_two_nodes_with_one_killed_half_way_are_answered_once_and_as_in_a_loop(
    cluster: Any, tmp_path: Path
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", spacing_mm=[12.0] * 3)
    source, out = tmp_path / "in", tmp_path / "out"
    for seed in range(STUDIES):
        write_study(source / f"{seed:02d}", seed, shape=(12, 10, 9))
    second = cluster.add_node(**NODE)
    times: dict[str, int] = {}

    def engine(tasks: Iterable[Task], start: Start) -> Iterator[Outcome]:
        for outcome in on_ray(tasks, start, GENEROUS, address=cluster.address, workers=2):
            times[outcome.id] = times.get(outcome.id, 0) + 1
            yield outcome

    def kill_half_way(done: int, _: int) -> None:
        if done == STUDIES // 2:
            cluster.remove_node(second, allow_graceful=False)

    done = batch(source, out, bundle, engine, settings={"capture": False}, progress=kill_half_way)
    assert len(times) == STUDIES and set(times.values()) == {1}
    assert {(item.state, item.code) for entry in done.entries.values() for item in entry.outcome.items} == {
        ("answered", "")
    }
    assert len(list((out / "studies").iterdir())) == STUDIES
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    assert len({line["outcome"]["id"] for line in lines}) == len(lines) == STUDIES
    assert not list(out.glob(".work*"))

    predictor = Predictor.from_bundle(bundle, device="cpu")
    names = dict(line.split(",") for line in (out / "inputs.csv").read_text().splitlines()[1:])
    for name, entry in done.entries.items():
        folder = out / "studies" / entry.outcome.folder
        written, found = answer(folder), predictor.run(source / names[name])
        expected = json.loads(json.dumps(findings_to_dict(found)))
        assert {k: v for k, v in written.items() if k not in WRITTEN} == {
            k: v for k, v in expected.items() if k not in WRITTEN
        }
        assert found.label_map is not None
        labels = np.asarray(nibabel.load(folder / "segmentation.nii.gz").dataobj)  # type: ignore[attr-defined]
        assert np.array_equal(labels, found.label_map.array[0])


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_lost_worker_is_replaced_where_there_is_a_machine_again(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", spacing_mm=[12.0] * 3)
    for seed in range(8):
        write_study(tmp_path / "in" / str(seed), seed, shape=(12, 10, 9))
    # Nothing can run on the head, so that what the second machine has not done is done by the third.
    with running_cluster(num_cpus=0) as cluster:
        second = cluster.add_node(**NODE)

        def change(done: int, _: int) -> None:
            if done == 2:
                cluster.remove_node(second, allow_graceful=False)
                cluster.add_node(**NODE)

        def engine(tasks: Iterable[Task], start: Start) -> Iterator[Outcome]:
            return on_ray(tasks, start, GENEROUS, address=cluster.address)

        done = batch(tmp_path / "in", tmp_path / "out", bundle, engine, progress=change)
    assert [entry.outcome.state for entry in done.entries.values()] == ["answered"] * 8


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    write_study(tmp_path / "in" / "one", shape=(4, 4, 2))
    with pytest.raises(ValueError, match=r"pip install 'mtnet\[ray\]'"):
        batch(tmp_path / "in", tmp_path / "out", tmp_path, lambda t, s: on_ray(t, s, GENEROUS))
