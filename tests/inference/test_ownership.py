import itertools

import numpy as np
import pytest

from mtnet.inference.ownership import Ownership

WINDOW = (16, 16, 16)
GRID = np.array(list(itertools.product((0, 12, 20), (0, 12), (0, 8))), dtype=np.int64)


def owners(starts, points, window=WINDOW, margin=0.0):
    judge = Ownership(starts, window, margin)
    return np.stack([judge.judge(w, points)[0] for w in range(len(starts))])


def test_every_point_that_a_window_holds_belongs_to_exactly_one():
    points = np.random.default_rng(0).uniform([-0.5] * 3, [35.5, 27.5, 23.5], (2000, 3))
    assert (owners(GRID, points).sum(0) == 1).all()


def test_the_owner_is_the_window_with_the_nearest_centre():
    points = np.random.default_rng(1).uniform([-0.5] * 3, [35.5, 27.5, 23.5], (2000, 3))
    centres = GRID + np.array(WINDOW) / 2 - 0.5
    nearest = np.linalg.norm(points[None] - centres[:, None], axis=-1).argmin(0)
    assert (owners(GRID, points).argmax(0) == nearest).all()


def test_a_tie_goes_to_one_window_always_the_first():
    # Window centres along the first axis are 7.5, 19.5 and 27.5: 13.5 and 23.5 lie half way.
    points = np.array([[13.5, 3.0, 3.0], [23.5, 3.0, 3.0], [13.5, 13.5, 11.5]])
    owned = owners(GRID, points)
    assert (owned.sum(0) == 1).all()
    assert GRID[owned.argmax(0)].tolist() == [[0, 0, 0], [12, 0, 0], [0, 0, 0]]


def test_among_the_windows_that_ran_the_next_nearest_takes_over():
    ran = GRID[(GRID != (0, 0, 0)).any(axis=1)]
    owned = owners(ran, np.array([[13.0, 3.0, 3.0]]))
    assert GRID.tolist()[0] == [0, 0, 0]
    assert ran[owned[:, 0].argmax()].tolist() == [12, 0, 0]


def test_a_point_that_no_window_holds_belongs_to_none():
    starts = np.array([[0, 0], [32, 0]])
    assert not owners(starts, np.array([[24.0, 4.0]]), (16, 16)).any()


@pytest.mark.parametrize(("x", "near"), [(13.4, True), (15.4, True), (15.6, False)])
def test_within_the_margin_of_the_seam_a_box_is_near_though_not_owned(x, near):
    judge = Ownership(np.array([[0, 0], [12, 0]]), (16, 16), margin=2.0)
    owned, close = judge.judge(0, np.array([[x, 4.0]]))
    assert close[0] == near
    assert owned[0] == (x < 13.5)
