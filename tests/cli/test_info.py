from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from mtnet import __version__
from mtnet.cli import main


def test_json_tells_versions_devices_and_bundles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny" / "configs").mkdir(parents=True)
    (tmp_path / "tiny" / "configs" / "metadata.json").write_text('{"name": "tiny", "version": "3.2.1"}')
    monkeypatch.setenv("MTNET_BUNDLES", str(tmp_path))
    assert main.main(["info", "--json"]) == 0
    account = json.loads(capsys.readouterr().out)
    assert account["packages"]["mtnet"] == __version__
    for name in ("torch", "monai", "pydicom", "highdicom"):
        assert account["packages"][name] == metadata.version(name)
    assert account["devices"][0]["name"] == "cpu" and "threads" in account["devices"][0]["description"]
    assert {"name": "tiny", "version": "3.2.1"} in account["bundles"]


def test_a_package_that_is_not_installed_is_told_as_such(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtnet.cli.info.PACKAGES", ("mtnet", "no-such-package"))
    assert main.main(["info"]) == 0
    told = capsys.readouterr().out
    assert "not installed" in told and "cpu" in told
    assert main.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"]["no-such-package"] is None
