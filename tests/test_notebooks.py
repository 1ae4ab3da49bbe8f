"""Every notebook runs from its first cell to its last, and is stored without what a run leaves behind."""

from __future__ import annotations

import ast
import base64
import io
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from tests.small_sets import small_busi, small_endotect, small_kvasir, small_lidc

SMALL = "EPOCHS, BATCH, WORKERS = 1, 4, 0"
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run a notebook in a fresh kernel of the interpreter that runs the tests, and give it back with its outputs."""
    from ipykernel.kernelspec import write_kernel_spec
    from nbclient import NotebookClient

    write_kernel_spec(tmp_path / "kernels" / "this-interpreter")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))

    def run(path: Path, parameters: str = "") -> nbformat.NotebookNode:
        notebook = nbformat.read(path, as_version=4)
        if parameters:
            (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
            cell.source = parameters
        resources = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, timeout=500, kernel_name="this-interpreter", resources=resources).execute()
        return notebook

    return run


def summary_of(notebook: nbformat.NotebookNode) -> dict:
    assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o["output_type"] == "error"]
    return ast.literal_eval(notebook.cells[-1].outputs[-1]["data"]["text/plain"])


def texts(notebook: nbformat.NotebookNode, mime: str) -> list[str]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output["data"][mime] for output in outputs if mime in output.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_valid_and_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    assert "widgets" not in notebook.metadata


@pytest.mark.slow
def test_the_way_from_a_study_to_its_findings_runs_and_finds_what_was_drawn(execute):
    (path,) = (path for path in NOTEBOOKS if path.stem == "01_study_to_findings")
    notebook = execute(path)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error"
            # tqdm, which a hub client imports, says so where ipywidgets is not installed.
            if output.get("name") == "stderr":
                assert output["text"].startswith("IProgress not found."), output["text"]
                assert output["text"].count("\n") == 1, output["text"]

    summary = ast.literal_eval(notebook.cells[-1].outputs[-1]["data"]["text/plain"])
    assert summary["drawn"] == 6
    assert summary["found"] >= 4
    assert 0 < summary["dice"] <= 1

    tables = texts(notebook, "text/markdown")
    series = next(table for table in tables if "kernel" in table)
    assert "B30f" in series and "localizer" in series and "secondary_capture" in series
    choices = next(table for table in tables if "| why |" in table)
    assert choices.count("**yes**") == 1 and "kernel" in choices

    (picture,) = texts(notebook, "image/png")
    assert min(Image.open(io.BytesIO(base64.b64decode(picture))).size) > 400


@pytest.mark.slow
@pytest.mark.study
def test_breast_ultrasound_is_prepared_trained_scored_and_shown(execute, data_dir, tmp_path):
    folder = small_busi(data_dir / "BUSI", tmp_path / "BUSI")
    notebook = execute(NOTEBOOKS[1], f"SET = Path({str(folder)!r})\nSIZE = [64, 64]\n{SMALL}")
    summary = summary_of(notebook)
    assert summary["tested"] == 6 and summary["shown"] == 4
    assert 0 <= summary["dice"] <= 1 and 0 <= summary["macro_f1"] <= 1
    (splits,) = (table for table in texts(notebook, "text/markdown") if "| groups |" in table)
    assert "| train | 6 | 6 | 6 |" in splits
    assert len(texts(notebook, "image/png")) == 2


@pytest.mark.slow
@pytest.mark.study
def test_polyps_of_two_sets_are_prepared_trained_scored_and_shown(execute, data_dir, tmp_path):
    kvasir = small_kvasir(data_dir / "Kvasir-SEG", tmp_path / "Kvasir-SEG")
    endotect = small_endotect(data_dir / "EndoTect", tmp_path / "EndoTect")
    sets = f"SETS = dict(endotect=Path({str(endotect)!r}), kvasir_seg=Path({str(kvasir)!r}))"
    notebook = execute(NOTEBOOKS[2], f"{sets}\nSIZE = 64\n{SMALL}")
    summary = summary_of(notebook)
    assert summary["sources"] == ["endotect", "kvasir_seg"] and summary["shown"] >= 2
    assert 0 <= summary["dice"] <= 1 and 0 <= summary["ap50"] <= 1
    (sets_table,) = (table for table in texts(notebook, "text/markdown") if "| without polyp |" in table)
    assert "| 13 |" in sets_table and len(texts(notebook, "image/png")) == 2


@pytest.mark.slow
@pytest.mark.study
def test_lung_nodules_are_prepared_trained_and_held_against_their_crops_shape(execute, data_dir, tmp_path):
    folder = small_lidc(data_dir / "lidc_voi", tmp_path / "lidc_voi")
    notebook = execute(NOTEBOOKS[3], f"SET = Path({str(folder)!r})\n{SMALL}")
    summary = summary_of(notebook)
    assert summary["tested"] > 3 and summary["mae_mm"] > 0
    assert summary["baselines"] == ["diameter_only", "shape_only"]
    assert len(texts(notebook, "image/png")) == 2
