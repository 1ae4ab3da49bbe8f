"""What ``make audit`` and ``make sbom`` conclude from what their tools say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "mtnet" / "results" / "page"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"trust_{name}", ROOT / "environment" / "trust" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(*packages: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": [{"version": "1.0", "vulns": [], **package} for package in packages], "fixes": []}


FOUND = {"name": "a", "vulns": [{"id": "PYSEC-1"}]}
JUDGED = {"id": "PYSEC-1", "package": "a", "reason": "The function is never called."}


def test_a_finding_is_told_until_it_is_judged() -> None:
    judge = loaded("audit").judge
    assert judge(report({"name": "a"}), []) == []
    assert judge(report(FOUND), []) == ["a 1.0: PYSEC-1 is not judged yet."]
    assert judge(report(FOUND), [JUDGED]) == []
    with pytest.raises(ValueError, match="needs id, package and reason"):
        judge(report(FOUND), [{**JUDGED, "reason": " "}])


def test_a_judgement_that_holds_no_longer_is_told() -> None:
    assert loaded("audit").judge(report({"name": "a"}), [JUDGED]) == ["a: PYSEC-1 is found no longer; remove it."]


def test_what_was_not_looked_up_does_not_count_as_good() -> None:
    lines = loaded("audit").judge(report({"name": "a", "skip_reason": "not on PyPI"}, {"name": "b"}), [JUDGED])
    assert len(lines) == 1 and lines[0].startswith("1 of 2 packages were not looked up (a")


def test_the_list_of_findings_is_one_that_can_be_judged() -> None:
    known = json.loads((ROOT / "environment" / "trust" / "known_findings.json").read_text())
    skipped = report({"name": "a", "skip_reason": "not on PyPI"})
    assert len(loaded("audit").judge(skipped, known)) == 1


def test_the_list_of_software_is_about_mtnet_and_has_what_pages_hold() -> None:
    own = {"name": "mtnet", "bom-ref": "mtnet==0", "externalReferences": [{"url": "file:///somewhere"}]}
    document = {
        "metadata": {"tools": {}},
        "components": [{"name": "numpy", "bom-ref": "numpy==2"}, own],
        "dependencies": [{"ref": "mtnet==0", "dependsOn": ["numpy==2"]}, {"ref": "numpy==2"}],
    }
    licences = (PAGE / "niivue.LICENSES.txt").read_text(encoding="utf-8")
    made = loaded("sbom").completed(document, licences, (PAGE / "niivue.js").read_bytes())
    assert made["metadata"]["component"]["name"] == "mtnet" and "file://" not in json.dumps(made)
    npm = {one["name"]: one for one in made["components"] if one.get("purl", "").startswith("pkg:npm/")}
    lock = json.loads((ROOT / "environment" / "niivue" / "package-lock.json").read_text())["packages"]
    for name, one in npm.items():
        assert one["version"] == lock[f"node_modules/{name}"]["version"], name
    assert npm["@niivue/niivue"]["purl"] == f"pkg:npm/%40niivue/niivue@{npm['@niivue/niivue']['version']}"
    assert {"fflate", "gl-matrix", "nifti-reader-js"} <= set(npm)
    refs = {one["bom-ref"] for one in (*made["components"], made["metadata"]["component"])}
    assert {one["ref"] for one in made["dependencies"]} == refs


def test_the_lock_names_no_registry() -> None:
    lock = (ROOT / "environment" / "niivue" / "package-lock.json").read_text()
    assert '"resolved"' not in lock and '"integrity"' in lock
