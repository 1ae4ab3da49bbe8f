"""The queue of trainings: in pieces, resumed, told about, and stopped where it must be."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtnet.training import queue as queues
from mtnet.training.queue import Job, Queue, QueueError, main, read_bases, read_jobs
from tests.training.made import write_pictures

REPOSITORY = Path(__file__).parents[2]


def job(name: str, **changes) -> dict:
    return {"name": name, "config": "train.json", "prepare": [["folder", "$MTNET_DATA/a"]], "overrides": {}, **changes}


def write_jobs(folder: Path, *entries: dict) -> Path:
    path = folder / "jobs.json"
    path.write_text(json.dumps({"jobs": list(entries)}), encoding="utf-8")
    return path


class Trainings:
    """Stands for the commands: each piece of a training is one epoch of three."""

    def __init__(self, monkeypatch) -> None:
        self.asked: list[list[str]] = []
        self.broken: set[str] = set()
        monkeypatch.setattr(queues.subprocess, "call", self)

    def __call__(self, command, stdout, stderr):
        self.asked.append(command)
        if "prepare" in command:
            Path(command[command.index("--out") + 1]).write_text("{}")
            return 0
        changes = json.loads(Path(json.loads(command[-1])[1]).read_text())
        folder = Path(changes["work_dir"])
        if folder.name in self.broken:
            return 1
        curve = folder / "curve.json"
        done = json.loads(curve.read_text())["epochs"] if curve.is_file() else []
        curve.write_text(json.dumps({"max_epochs": 3, "epochs": [*done, {"epoch": len(done) + 1}]}))
        return 0


def test_jobs_are_done_in_order_in_pieces_and_one_that_starts_from_another_waits_for_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MTNET_DATA", "/sets")
    trainings = Trainings(monkeypatch)
    two = [["folder", "$MTNET_DATA/a"], ["folder", "b", "--title", "B"]]
    jobs = read_jobs(
        write_jobs(tmp_path, job("first", prepare=two), job("second", starts_from="first", overrides={"seed": 4}))
    )
    queue = Queue(jobs, tmp_path / "state", minutes=2)
    assert not queue.run(pieces=4)
    assert [queue.progress(one).epochs for one in jobs] == [3, 1]
    prepared = [command[4:] for command in trainings.asked if "prepare" in command]
    made = str(tmp_path / "state" / "first" / "preparing.json")
    assert prepared[0] == ["folder", "/sets/a", "--out", made]
    assert prepared[1] == ["folder", "b", "--title", "B", "--join", made, "--out", made]
    assert len(prepared) == 3 and (tmp_path / "state" / "first" / "manifest.json").is_file()
    changes = json.loads((tmp_path / "state" / "second" / "overrides.json").read_text())
    assert changes["initial_weights"] == str(tmp_path / "state" / "first" / "model.pt")
    assert (changes["seed"], changes["minutes"], changes["pretrained"]) == (4, 2, False)

    # Another process goes on.
    again = Queue(read_jobs(tmp_path / "jobs.json"), tmp_path / "state")
    assert again.run() and all(again.progress(one).done for one in again.jobs)
    asked = len(trainings.asked)
    assert again.run() and len(trainings.asked) == asked
    told = capsys.readouterr().err
    assert "second" in told and "epoch 3/3" in told and "done" in told


def test_a_job_that_fails_twice_is_passed_over_and_the_next_call_tries_it_again(tmp_path, monkeypatch):
    trainings = Trainings(monkeypatch)
    trainings.broken = {"bad"}
    jobs = read_jobs(write_jobs(tmp_path, job("bad"), job("good"), job("waits", starts_from="bad")))
    queue = Queue(jobs, tmp_path / "state")
    assert not queue.run()
    assert queue.progress(jobs[1]).done and not queue.progress(jobs[2]).pieces
    assert queue.progress(jobs[0]).failures == 2 and "failed 2 times, see" in queue.line(jobs[0])
    only = Queue(jobs, tmp_path / "state", only=["waits"])
    assert not only.run() and not only.progress(jobs[2]).pieces
    trainings.broken = set()
    assert queue.run() and "failed" not in queue.line(jobs[0])


def test_a_job_that_starts_from_several_waits_for_all_and_begins_with_all_their_weights(tmp_path, monkeypatch):
    Trainings(monkeypatch)
    jobs = read_jobs(write_jobs(tmp_path, job("a"), job("b"), job("both", starts_from=["a", "b"])))
    state = tmp_path / "state"
    assert Queue(jobs, state, only=["a"]).run()
    assert not Queue(jobs, state, only=["both"]).run() and not (state / "both" / "overrides.json").exists()
    assert Queue(jobs, state).run()
    changes = json.loads((state / "both" / "overrides.json").read_text())
    assert changes["initial_weights"] == [str(state / name / "model.pt") for name in ("a", "b")]
    with pytest.raises(QueueError, match="'both' starts from 'c', which is no earlier job"):
        read_jobs(write_jobs(tmp_path, job("a"), job("both", starts_from=["a", "c"])))


def test_a_job_like_another_has_its_recipe_but_for_what_is_told_and_shares_its_manifest(tmp_path, monkeypatch):
    trainings = Trainings(monkeypatch)
    base = job("base", overrides={"seed": 1, "batch_size": 4})
    write_jobs(tmp_path, base, job("tuned", starts_from="base")).rename(tmp_path / "base.json")
    peer = {"name": "peer", "like": "base", "overrides": {"network_def": {"_target_": "a.b"}}}
    again = {"name": "again", "like": "tuned", "overrides": {}}
    path = write_jobs(tmp_path, peer, again, {"name": "faster", "like": "peer", "overrides": {"seed": 2}})
    path.write_text(json.dumps({"base": str(tmp_path / "base.json"), **json.loads(path.read_text())}))
    jobs = read_jobs(path)
    assert [one.name for one in jobs] == ["peer", "again", "faster"]
    assert jobs[0].overrides == {"seed": 1, "batch_size": 4, "network_def": {"_target_": "a.b"}}
    assert jobs[2].overrides == {"seed": 2, "batch_size": 4, "network_def": {"_target_": "a.b"}}
    # Weights to start from are no part of a recipe.
    assert jobs[1].starts_from is None and jobs[1].prepare == [["folder", "$MTNET_DATA/a"]]
    state = tmp_path / "state"
    assert Queue(jobs, state).run()
    assert sum("prepare" in command for command in trainings.asked) == 1
    assert (state / "faster" / "manifest.json").resolve() == (state / "peer" / "manifest.json").resolve()
    # Where the one that it shared is gone, it is prepared anew.
    (state / "peer" / "manifest.json").unlink()
    (state / "again" / "curve.json").unlink()
    assert Queue(jobs, state, only=["again"]).run() and not (state / "again" / "manifest.json").is_symlink()
    with pytest.raises(QueueError, match="'b' is like 'c', which is no earlier job, nor one of its base"):
        read_jobs(write_jobs(tmp_path, {"name": "b", "like": "c"}))


def test_a_recipe_may_come_from_the_base_of_a_base_with_what_lies_over_its_config(tmp_path):
    write_jobs(tmp_path, job("first", overlays=["over.json"])).rename(tmp_path / "first.json")
    names = {"base": str(tmp_path / "first.json"), "jobs": [{"name": "second", "like": "first"}]}
    (tmp_path / "second.json").write_text(json.dumps(names))
    path = tmp_path / "third.json"
    entries = [{"name": "third", "like": "first"}, {"name": "bare", "like": "second", "overlays": []}]
    path.write_text(json.dumps({"base": str(tmp_path / "second.json"), "jobs": entries}))
    third, bare = read_jobs(path)
    assert list(third.overlays) == ["over.json"] and list(bare.overlays) == []
    assert [one.name for one in read_bases(path)] == ["first", "second"]


def test_what_cannot_be_gone_on_with_is_refused_with_what_to_do(tmp_path, monkeypatch):
    Trainings(monkeypatch)
    state = tmp_path / "state"
    queue = Queue([Job.read(job("one"))], state)
    queue.run(pieces=1)
    with pytest.raises(QueueError, match=r"has changed since it was begun\. Remove"):
        Queue([Job.read(job("one", overrides={"seed": 1}))], state).run()
    with (state / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(QueueError, match="another process runs the queue"):
            queue.run()
    for entries, wrong in (
        ([job("a"), job("a")], "two jobs are called 'a'"),
        ([job("a", starts_from="b"), job("b")], "which is no earlier job"),
        ([job("a", starts_from=5)], "starts_from is 5; expected the name of a job, or a list"),
        ([job("a", overrides=[])], "overrides is .*; expected a dict"),
        ([job("a", epochs=3)], "unknown keys epochs"),
    ):
        with pytest.raises(QueueError, match=wrong):
            read_jobs(write_jobs(tmp_path, *entries))
    (tmp_path / "jobs.json").write_text("[]")
    with pytest.raises(QueueError, match="no file of jobs"):
        read_jobs(tmp_path / "jobs.json")


def test_the_command_tells_and_refuses_by_its_exit_code(tmp_path, monkeypatch, capsys):
    Trainings(monkeypatch)
    jobs, state = str(write_jobs(tmp_path, job("one"), job("two"))), str(tmp_path / "state")
    common = ["--jobs", jobs, "--state", state]
    assert main([*common, "--status"]) == 0
    assert capsys.readouterr().out.count("not begun") == 2
    assert main([*common, "--only", "two"]) == 0
    assert main([*common, "--pieces", "1"]) == 1
    assert main([*common, "--only", "three"]) == 1
    assert "there is no job three; there are one, two" in capsys.readouterr().err


def test_the_jobs_of_the_repository_name_configs_ids_and_sources_that_there_are():
    from mtnet.cli.prepare import SOURCES

    jobs = read_jobs(REPOSITORY / queues.JOBS)
    assert len(jobs) >= 5
    for one in jobs:
        config = json.loads((REPOSITORY / one.config).read_text(encoding="utf-8"))
        for overlay in one.overlays:
            config |= json.loads((REPOSITORY / overlay).read_text(encoding="utf-8"))
        assert one.overrides.keys() <= set(config) and {"max_epochs", "seed"} <= one.overrides.keys()
        assert all(told[0] in SOURCES for told in one.prepare)


def test_a_jobs_overlays_lie_between_its_config_and_its_overrides_and_make_it_another_job(tmp_path):
    plain, laid_over = read_jobs(write_jobs(tmp_path, job("one"), job("two", overlays=["a.json", "b.json"])))
    assert plain.overlays == () and laid_over.digest != Job("two", "train.json", laid_over.prepare, {}).digest
    (tmp_path / "state" / "two").mkdir(parents=True)
    (tmp_path / "state" / "two" / "manifest.json").touch()
    *_, command = Queue([laid_over], tmp_path / "state")._commands(laid_over)
    files = json.loads(command[-1])
    assert [Path(file).name for file in files] == ["train.json", "a.json", "b.json", "overrides.json"]


@pytest.mark.slow
def test_a_real_training_goes_through_the_queue_in_two_pieces(tmp_path):
    write_pictures(tmp_path / "pictures", 6)
    folder = tmp_path / "set"
    for number in range(6):
        for kind, name in (("images", f"{number}.png"), ("masks", f"{number}_mask.png")):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "pictures" / name).rename(folder / kind / f"{number}.png")
    entry = job(
        "small",
        config=str(REPOSITORY / "bundles/unet_v2_polyp/configs/train.json"),
        prepare=[["folder", str(folder)]],
        overrides={"size": [32, 32], "encoder": "resnet10", "max_epochs": 2, "batch_size": 2, "workers": 0, "seed": 1},
    )
    command = [sys.executable, "-W", "ignore", "-m", "mtnet.training.queue", "--jobs", str(write_jobs(tmp_path, entry))]
    command += ["--state", str(tmp_path / "state"), "--minutes", "0"]
    for pieces, code in ((1, 1), (1, 0)):
        done = subprocess.run(
            [*command, "--pieces", str(pieces)], cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
        assert done.returncode == code, (tmp_path / "state" / "small" / "log.txt").read_text()
    written = {path.name for path in (tmp_path / "state" / "small").iterdir()}
    assert written >= {"model.pt", "model.pt.sha256", "curve.json", "curve.png", "checkpoint.pt", "manifest.json"}
