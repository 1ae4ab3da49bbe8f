from __future__ import annotations

import mmap
import threading
import time

import numpy as np
import pytest

from mtnet.inference.cost import CostMeter


def test_stages_stand_in_the_order_in_which_they_ended_with_their_seconds():
    meter = CostMeter()
    with meter.stage("read"):
        time.sleep(0.05)
    with meter.stage("network"), meter.stage("inner"):
        pass
    assert [cost.stage for cost in meter.costs] == ["read", "inner", "network"]
    # A sleep never ends early; how late it ends is the machine's affair.
    assert meter.costs[0].seconds >= 0.05


def test_memory_that_was_given_back_before_the_end_still_counts():
    meter = CostMeter()
    size = 200 * 2**20
    with meter.stage("nothing"):
        pass
    # Pages of its own: an allocator may keep freed memory, and answer from what it kept.
    with meter.stage("large"), mmap.mmap(-1, size) as block:
        np.frombuffer(block, dtype=np.uint8)[:] = 1
        time.sleep(0.3)
    assert meter.costs[1].peak_memory_bytes - meter.costs[0].peak_memory_bytes > 0.8 * size


def test_a_stage_that_fails_is_recorded_and_its_sampler_ends():
    meter = CostMeter()
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="broken"), meter.stage("read"):
        raise RuntimeError("broken")
    assert [cost.stage for cost in meter.costs] == ["read"]
    assert threading.active_count() == before
