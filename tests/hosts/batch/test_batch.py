from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtnet.cli import main
from mtnet.hosts.batch.ledger import opened
from mtnet.hosts.batch.run import check_out
from mtnet.hosts.batch.tasks import ItemOutcome, Outcome, Settings, State, Task
from mtnet.hosts.batch.worker import Start
from mtnet.predictor import Predictor
from mtnet.results import write_results
from tests.bundles import write_random_bundle, write_tiny_bundle
from tests.hosts.batch.studies import InProcess, answer, batch, by_name, write_study

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module", name="predictor")
def _predictor(bundle: Path) -> Predictor:
    return Predictor.from_bundle(bundle, device="cpu")


def unreadable(folder: Path, seed: int) -> None:
    """A study whose files are all cut in their pixels."""
    write_study(folder, seed)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.slow
def test_a_batch_equals_a_loop_goes_on_where_it_was_and_is_not_stopped_by_a_bad_study(
    bundle: Path, predictor: Predictor, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed in range(3):
        write_study(source / f"good {seed}", seed)
    write_study(source / "refused", 10, rescale=None)
    unreadable(source / "bad", 11)
    (source / "empty").mkdir()
    both = source / "two studies"
    write_study(both / "a", 20)
    write_study(both / "b", 21, rescale=None)

    first = InProcess(predictor)
    outcomes = by_name(batch(source, out, bundle, first), out)
    assert sorted(first.given) == sorted(path.name for path in source.iterdir())
    states = {name: [(item.number, item.state) for item in one.items] for name, one in outcomes.items()}
    assert all(states[f"good {seed}"] == [(1, "answered")] for seed in range(3))
    assert states["refused"] == [(1, "refused")] and states["bad"] == [(1, "refused")]
    assert states["empty"] == [(0, "refused")]
    assert sorted(state for _, state in states["two studies"]) == ["answered", "refused"]
    assert {one.name for one in (out / "studies").iterdir()} == {o.folder for o in outcomes.values() if o.folder}
    assert not list(out.glob(".work*"))

    for seed in range(3):
        name, plain = f"good {seed}", tmp_path / "loop" / str(seed)
        case = predictor.read(source / name)
        write_results(predictor.finish(case, predictor.infer(case)), case.volume, plain)
        assert answer(out / "studies" / outcomes[name].folder) == answer(plain)

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (out / "studies").rglob("*")}

    before, second = files(), InProcess(predictor)
    done = batch(source, out, bundle, second)
    assert (second.given, done.done) == ([], 0) and by_name(done, out) == outcomes
    assert files() == before

    # The same content at another time and under another name; another content; results that were removed.
    for path in (source / "good 0").iterdir():
        path.touch()
    (source / "good 1").rename(source / "renamed")
    write_study(source / "good 2", 2, values=lambda p: np.cos(p / 7).prod(axis=-1) * 600 - 400)
    third = InProcess(predictor)
    redone = by_name(batch(source, out, bundle, third), out)
    assert sorted(third.given) == ["good 2", "renamed"]
    assert redone["renamed"].known and redone["renamed"].folder == outcomes["good 1"].folder
    assert redone["good 2"].content != outcomes["good 2"].content
    assert files().keys() - before.keys() == set()


def test_another_option_version_or_weight_is_another_answer_and_a_device_is_not(bundle: Path, tmp_path: Path) -> None:
    one = Settings(str(bundle), device="cpu")
    assert replace(one, device="cuda", memory_limit_bytes=1 << 30).key() == one.key()
    others = [replace(one, fast=True), replace(one, repair=True), replace(one, capture=False)]
    shutil.copytree(bundle, tmp_path / "copy")
    assert replace(one, bundle=str(tmp_path / "copy")).key() == one.key()
    with (tmp_path / "copy" / "models" / "model.pt").open("ab") as stream:
        stream.write(b"more")
    others.append(replace(one, bundle=str(tmp_path / "copy")))
    assert len({other.key() for other in others} | {one.key()}) == len(others) + 1


@pytest.mark.slow
def test_shards_share_a_folder_and_leave_nothing_out(bundle: Path, predictor: Predictor, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed in range(4):
        write_study(source / str(seed), seed, shape=(12, 10, 9))
    parts = [InProcess(predictor), InProcess(predictor)]
    for number, part in enumerate(parts, 1):
        batch(source, out, bundle, part, shard=(number, 2))
    assert sorted(parts[0].given + parts[1].given) == ["0", "1", "2", "3"]
    assert all(part.given for part in parts)
    whole = InProcess(predictor)
    done = batch(source, out, bundle, whole)
    assert whole.given == [] and [one.outcome.state for one in done.entries.values()] == ["answered"] * 4


@pytest.mark.slow
def test_images_of_a_folder_are_answered_one_by_one(tmp_path: Path) -> None:
    bundle = write_random_bundle("yolo_med_polyp", tmp_path / "bundle")
    engine = InProcess(Predictor.from_bundle(bundle, device="cpu"))
    rng = np.random.default_rng(0)
    (tmp_path / "in" / "several").mkdir(parents=True)
    for name in ("a.png", "several/b.png", "several/c.png"):
        Image.fromarray(rng.integers(0, 255, (64, 80, 3), dtype=np.uint8)).save(tmp_path / "in" / name)
    outcomes = by_name(batch(tmp_path / "in", tmp_path / "out", bundle, engine), tmp_path / "out")
    assert {name: len(one.items) for name, one in outcomes.items()} == {"a.png": 1, "several": 2}
    assert all(one.state == "answered" for one in outcomes.values())
    folder = tmp_path / "out" / "studies" / outcomes["several"].folder
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_another_batch_cannot_write_to_the_same_shard(tmp_path: Path) -> None:
    with opened(tmp_path, (1, 1)), pytest.raises(ValueError, match="Another batch writes"), opened(tmp_path, (1, 1)):
        pass
    with opened(tmp_path, (1, 2)), opened(tmp_path, (2, 2)):
        pass


def test_results_do_not_go_into_the_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lies in SOURCE"):
        check_out(str(tmp_path), tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        check_out(str(tmp_path / "in"), tmp_path / "file")


@pytest.mark.slow
def test_the_command_prints_what_became_of_a_batch_and_writes_its_summary(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet

    source, out = tmp_path / "in", tmp_path / "out"
    write_study(source / "SECRET-NAME", 0)
    write_study(source / "other", 1, rescale=None)

    def run(*more: str) -> tuple[int, dict[str, Any], str]:
        code = main.main(["batch", str(source), str(out), "--bundle", str(bundle), "--device", "cpu", *more])
        shown = capsys.readouterr()
        return code, json.loads(shown.out) if "--json" in more else {}, shown.out + shown.err

    code, told, shown = run("--json")
    assert code == 1 and told["done_now"] == 2 and told["states"] == {"answered": 1, "refused": 1}
    assert told["reasons"] == {"refused.no_series_suits": 1}
    table = {row["state"]: row for row in pyarrow.parquet.read_table(out / "summary.parquet").to_pylist()}
    findings = json.loads((out / "studies" / table["answered"]["folder"] / "findings.json").read_text())
    assert table["answered"]["lesions"] == len(findings["lesions"])
    assert table["answered"]["study_instance_uid"] == findings["source"]["study_instance_uid"]
    assert table["answered"]["seconds"] >= table["answered"]["seconds.network"] > 0
    assert table["refused"]["lesions"] is None and "rescale_missing" in table["refused"]["message"]
    lines = (out / "summary.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 and lines[0].startswith("id,item,state,code")
    page = (out / "summary.html").read_text(encoding="utf-8")
    assert "chest_ct_multitask" in page and "no_series_suits" in page and "Slowest studies" in page
    assert "http" not in page and "Research use only" in page
    for name in ("summary.csv", "summary.html", "ledger.jsonl"):
        assert "SECRET-NAME" not in (out / name).read_text(encoding="utf-8")
    assert "SECRET-NAME" not in shown and "SECRET-NAME" in (out / "inputs.csv").read_text(encoding="utf-8")
    code, told, _ = run("--json")
    assert code == 1 and told["done_now"] == 0
    code, _, shown = run()
    assert code == 1 and "2 inputs: 0 done now, 2 done before" in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "out"], "does not exist"),
        ([".", "out", "--strict", "--allow-outside"], "Give one"),
        ([".", "out", "--address", "host:1"], "--engine ray"),
        ([".", "out", "--store", "http://host"], "no DICOMweb server"),
        ([".", "."], "lies in SOURCE"),
    ],
)
def test_what_cannot_be_done_is_told(
    bundle: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["batch", *arguments, "--bundle", str(bundle)]) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "-1/2"])
def test_a_shard_that_is_none_is_wrong_usage(bundle: Path, shard: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(["batch", "in", "out", "--bundle", str(bundle), f"--shard={shard}"])
    assert stopped.value.code == 2 and "--shard" in capsys.readouterr().err


@pytest.mark.slow
def test_a_bundle_that_cannot_be_used_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        write_study(tmp_path / "in" / str(seed), seed)
    damaged = write_tiny_bundle(tmp_path / "damaged")
    (damaged / "models" / "model.pt").write_bytes(b"nothing")
    assert main.main(["batch", str(tmp_path / "in"), str(tmp_path / "out"), "--bundle", str(damaged)]) == 1
    assert capsys.readouterr().err.count("SHA-256") == 1


class Scripted:
    """An engine that gives one outcome of each input after the other."""

    def __init__(self, *states: State) -> None:
        self._states = states
        self.given: list[str] = []

    def __call__(self, tasks: Iterable[Task], _: Start) -> Iterator[Outcome]:
        for task in tasks:
            state = self._states[len(self.given)]
            self.given.append(task.input.name)
            code = "" if state == "answered" else "server" if state == "failed" else "time_limit"
            yield Outcome(task.input.id, task.seen, "content", (ItemOutcome(1, state, code, "why"),))


def test_what_a_server_failed_to_give_is_tried_once_more_and_again_in_the_next_run(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "in" / "one").mkdir(parents=True)
    (tmp_path / "in" / "one" / "1").touch()
    out = tmp_path / "out"
    for engine, state, tries in (
        (Scripted("failed", "failed"), "failed", 2),
        (Scripted("failed", "set_aside"), "set_aside", 2),
        (Scripted(), "set_aside", 0),
    ):
        (entry,) = batch(tmp_path / "in", out, bundle, engine).entries.values()
        assert (entry.outcome.state, len(engine.given)) == (state, tries)
    engine = Scripted("answered")
    (entry,) = batch(tmp_path / "in", out, bundle, engine, retry=True).entries.values()
    assert entry.outcome.state == "answered" and engine.given == ["one"]


def test_a_line_that_was_cut_off_costs_its_study_only(bundle: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "1").write_text(name)
    out = tmp_path / "out"
    batch(tmp_path / "in", out, bundle, Scripted("answered", "answered"))
    ledger = out / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-30])
    again, never = Scripted("answered"), Scripted()
    batch(tmp_path / "in", out, bundle, again)
    assert again.given == ["b"]
    batch(tmp_path / "in", out, bundle, never)
    assert never.given == []
