from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from mtnet.cases import Case, ReadOptions
from mtnet.hosts.batch.sources import content
from mtnet.hosts.batch.stages import Places, Stages, reason_of
from mtnet.hosts.batch.tasks import Input, Outcome, Reason, Task
from mtnet.predictor import Answers, Predictor, Progress
from mtnet.study_folder import WriteOptions
from tests.bundles import blob_predictor
from tests.hosts.batch.studies import write_study

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")


@pytest.fixture(scope="module", name="predictor")
def _predictor() -> Predictor:
    return blob_predictor()


class Run:
    """Stages over some folders, with what they told."""

    def __init__(self, predictor: Predictor, places: Path, known: dict[str, Outcome] | None = None) -> None:
        self.told: list[tuple[str, int, str, bool]] = []
        self.outcomes: list[Outcome] = []
        self.places = Places(places / "studies", places / "work")
        for folder in (self.places.studies, self.places.work):
            folder.mkdir(parents=True, exist_ok=True)
        self._stages = Stages(
            predictor,
            ReadOptions(),
            WriteOptions(capture=False),
            self.places,
            known or {},
            told=lambda *what: self.told.append(what),
            done=self.outcomes.append,
        )

    def __call__(self, *tasks: Task) -> list[Outcome]:
        for task in (*tasks, None):
            self._stages.tasks.put(task)
        self._stages.run()
        return self.outcomes


def task(folder: Path, **how: Any) -> Task:
    return Task(Input.of(folder.name, str(folder)), "seen", **how)


def test_every_stage_of_every_item_is_told_and_results_appear_whole(predictor: Predictor, tmp_path: Path) -> None:
    write_study(tmp_path / "in" / "a", 1)
    write_study(tmp_path / "in" / "b", 2)
    run = Run(predictor, tmp_path)
    (outcome,) = run(task(tmp_path / "in"))
    assert [(item.number, item.state) for item in outcome.items] == [(1, "answered"), (2, "answered")]
    assert outcome.content == content(str(tmp_path / "in")) and outcome.seen == "seen"
    for number in (1, 2):
        mine = [(stage, begins) for _, item, stage, begins in run.told if item == number]
        assert mine == [(stage, begins) for stage in ("read", "network", "write") for begins in (True, False)]
        assert outcome.items[number - 1].seconds.keys() == {"read", "network", "write"}
        findings = run.places.studies / outcome.folder / str(number) / "findings.json"
        assert json.loads(findings.read_text())["lesions"] is not None
    assert list(run.places.work.iterdir()) == []


def test_what_is_known_is_not_read_and_what_is_to_be_left_out_is_not_tried(
    predictor: Predictor, tmp_path: Path
) -> None:
    write_study(tmp_path / "in" / "a", 1)
    write_study(tmp_path / "in" / "b", 2)
    before = Outcome("other", "", content(str(tmp_path / "in" / "a")), [], "other")
    run = Run(predictor, tmp_path, {before.content: before})
    (known,) = run(task(tmp_path / "in" / "a"))
    assert known.known and known.folder == "other" and {stage for _, _, stage, _ in run.told} == {"find"}
    reason = Reason("set_aside", "time_limit", "It took too long.")
    (outcome,) = Run(predictor, tmp_path)(task(tmp_path / "in", without={1: reason}, alone=True))
    assert [item.state for item in outcome.items] == ["set_aside", "answered"]
    assert outcome.items[0].code == "time_limit" and outcome.state == "set_aside"
    assert [path.name for path in (tmp_path / "studies" / outcome.folder).iterdir()] == ["2"]


class Failing(Predictor):
    """Fails in the network."""

    def __init__(self, error: Exception) -> None:
        vars(self).update(vars(blob_predictor()))
        self._error = error

    def infer(self, case: Case, progress: Progress | None = None) -> Answers:
        raise self._error


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (RuntimeError("of SECRET"), "failed", "unexpected"),
        (MemoryError("SECRET"), "set_aside", "memory_limit"),
        (OSError(errno.ENOSPC, "No space left on device", "SECRET"), "failed", "files"),
    ],
)
def test_whatever_fails_is_told_without_what_may_be_secret(
    tmp_path: Path, error: Exception, state: str, code: str
) -> None:
    write_study(tmp_path / "in")
    (outcome,) = Run(Failing(error), tmp_path)(task(tmp_path / "in"))
    (item,) = outcome.items
    assert (item.state, item.code, outcome.folder) == (state, code, "")
    assert "SECRET" not in item.message
    assert list((tmp_path / "studies").iterdir()) == list((tmp_path / "work").iterdir()) == []


def test_the_first_of_two_that_answer_one_input_stays(predictor: Predictor, tmp_path: Path) -> None:
    write_study(tmp_path / "in")
    (first,) = Run(predictor, tmp_path)(task(tmp_path / "in"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "studies").rglob("*")}
    (second,) = Run(predictor, tmp_path)(task(tmp_path / "in"))
    assert (second.state, second.folder) == ("answered", first.folder)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "studies").rglob("*")} == before
    assert list((tmp_path / "work").iterdir()) == []


def test_results_that_cannot_be_put_in_place_are_a_failure(predictor: Predictor, tmp_path: Path) -> None:
    write_study(tmp_path / "in")
    run = Run(predictor, tmp_path)
    run.places.studies.rmdir()
    (outcome,) = run(task(tmp_path / "in"))
    assert (outcome.state, outcome.items[0].code, outcome.folder) == ("failed", "cannot_write", "")


def test_a_reason_names_the_place_of_what_was_not_expected() -> None:
    try:
        {}["SECRET"]  # type: ignore[index]
    except KeyError as error:
        reason = reason_of(error)
    assert reason.message.startswith("It failed unexpectedly (KeyError in test_a_reason")
