from __future__ import annotations

import argparse

import pytest

from mtnet.cli import infer
from mtnet.inference.runtimes import RUNTIMES


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    infer.add_parser(parser.add_subparsers())
    return parser.parse_args(["infer", "STUDY", "OUT", "--bundle", "chest_ct_multitask", *options])


def test_every_runtime_of_the_engine_can_be_chosen():
    assert parsed().runtime == "eager"
    assert [parsed("--runtime", name).runtime for name in RUNTIMES] == list(RUNTIMES)


def test_the_memory_limit_is_in_mebibytes():
    assert parsed().memory_limit is None
    assert parsed("--memory-limit", "512").memory_limit == 512 * 2**20


@pytest.mark.parametrize("text", ["0", "-5", "much"])
def test_a_memory_limit_that_is_none_is_wrong_usage(text, capsys):
    with pytest.raises(SystemExit) as error:
        parsed("--memory-limit", text)
    assert error.value.code == 2
    assert "--memory-limit" in capsys.readouterr().err
