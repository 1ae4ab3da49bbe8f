"""What a measurement ran on, and what memory it took."""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import monai
import psutil
import torch

import mtnet

_SAMPLE_SECONDS = 0.005


def describe_machine() -> dict[str, Any]:
    """CPU, cores, memory, load before the measurement, versions, date."""
    return {
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(psutil.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "mtnet": mtnet.__version__,
        "date": datetime.now(tz=timezone.utc).date().isoformat(),
    }


def machine_slug(machine: dict[str, Any]) -> str:
    """A file name for the machine: ``amd-epyc--2-cores--cpu``."""
    name = re.sub(r"[^a-z0-9]+", "-", str(machine["cpu"]).lower()).strip("-")
    return f"{name}--{machine['cores']}-cores--cpu"


def peak_over_base(work: Callable[[], object]) -> int:
    """Bytes of resident memory at the peak of ``work``, over what is resident before it; sampled every 5 ms."""
    process = psutil.Process()
    base = process.memory_info().rss
    peak = [base]
    done = threading.Event()

    def sample() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], process.memory_info().rss)
            time.sleep(_SAMPLE_SECONDS)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        kept = work()
        peak[0] = max(peak[0], process.memory_info().rss)
        del kept
    finally:
        done.set()
        sampler.join()
    return peak[0] - base


def _cpu_name() -> str:
    told = Path("/proc/cpuinfo")
    if told.exists():
        found = re.search(r"model name\s*:\s*(.+)", told.read_text())
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()
