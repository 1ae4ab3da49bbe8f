"""Options and fixtures for all tests."""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest


def pytest_addoption(parser):
    parser.addoption("--run-soak", action="store_true", help="also run what is too long for make test")


def pytest_configure(config):
    config.addinivalue_line("markers", "soak: too long for make test; runs with --run-soak")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--run-soak"):
        return
    left_out = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def same_chance() -> None:
    """Draw the same random numbers in a test whether it runs alone, with others, or again."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data: ``MTNET_DATA``, or the folder beside the clone."""
    folder = Path(os.environ.get("MTNET_DATA", Path(__file__).parents[2] / "shared" / "data"))
    assert folder.is_dir(), f"{folder} is missing: the tests need the real studies; set MTNET_DATA."
    return folder
