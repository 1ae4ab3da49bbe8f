from __future__ import annotations

import json
import sys

import pytest

from mtnet.cli.main import main
from mtnet.hosts.node.ledger import Ledger, Received

CONFIG = """
state = "state"
[[route]]
name = "chest"
bundle = "{bundle}"
destination = "out"
[[destination]]
name = "out"
folder = "out"
"""


@pytest.fixture(name="config")
def _config(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(bundle=tmp_path / "no-bundle"), encoding="utf-8")
    return path


@pytest.fixture(name="queue")
def _queue(tmp_path, config):
    """A queue with one study that was set aside."""
    (tmp_path / "state").mkdir()
    ledger = Ledger(tmp_path / "state")
    one = Received("1.2", "1.2.1", "1.3", "CT", "", "0.dcm", 4, "aa", counts=True)
    ledger.keep([(one, "cafe0123")], most_instances=1, most_bytes=1)
    ledger.close()
    return config


def test_without_a_config_it_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as raised:
        main(["serve"])
    assert raised.value.code == 2
    assert "--config" in capsys.readouterr().err


def test_a_config_that_is_wrong_is_refused_by_its_key(tmp_path, config, capsys):
    config.write_text(config.read_text().replace("state =", "stait ="))
    assert main(["serve", "--config", str(config)]) == 1
    assert "stait is not known" in capsys.readouterr().err


def test_a_queue_that_was_never_there_is_told(config, capsys):
    assert main(["serve", "status", "--config", str(config)]) == 1
    assert "holds no queue" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["serve", "status", "--config", "{}"], ["serve", "--config", "{}", "status"]])
def test_status_tells_the_queue_wherever_the_config_stands(queue, capsys, arguments):
    assert main([text.format(queue) for text in arguments]) == 0
    told = capsys.readouterr().out
    assert "cafe0123  aside (too_large)" in told
    assert "1.2" not in told


def test_status_is_json_for_programs(queue, capsys):
    assert main(["serve", "status", "--json", "--config", str(queue), "cafe"]) == 0
    (study,) = json.loads(capsys.readouterr().out)
    assert (study["study"], study["state"], study["reason"]) == ("cafe0123", "aside", "too_large")


def test_retry_and_forget_mend_the_queue(queue, capsys):
    assert main(["serve", "retry", "--config", str(queue), "1.2"]) == 0
    assert capsys.readouterr().out.startswith("1 thing(s)")
    assert main(["serve", "forget", "--config", str(queue)]) == 1
    assert main(["serve", "forget", "--config", str(queue), "cafe0123"]) == 0
    assert main(["serve", "retry", "--config", str(queue), "cafe0123"]) == 1
    assert "there is no such study" in capsys.readouterr().err
    assert main(["serve", "status", "--config", str(queue)]) == 0
    assert capsys.readouterr().out == "The queue is empty.\n"


def test_a_missing_bundle_stops_it_before_it_listens(config, capsys, monkeypatch):
    import signal

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main(["serve", "--config", str(config)]) == 1
    assert "--bundle" in capsys.readouterr().err


def test_a_missing_extra_is_named(config, capsys, monkeypatch):
    import signal

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    assert main(["serve", "--config", str(config)]) == 1
    assert "pip install 'mtnet[node]'" in capsys.readouterr().err
