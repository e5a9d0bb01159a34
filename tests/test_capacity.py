"""How many trials fit on nodes."""

import pytest

from ablate.run.capacity import Node, num_fitting


@pytest.mark.parametrize(
    ("nodes", "trial", "num"),
    [
        ([Node(8)], Node(1), 8),
        ([Node(8)], Node(3), 2),
        ([Node(1)], Node(0.1), 10),
        ([Node(4), Node(4)], Node(3), 2),  # not 8 // 3: a trial stays on one node
        ([Node(8, 2)], Node(1, 1), 2),
        ([Node(8, 2)], Node(1, 0.5), 4),
        ([Node(8, 2)], Node(1, 0.4), 4),  # not 5: a part of a GPU is a part of one GPU
        ([Node(8, 1)], Node(1, 0.1), 8),
        ([Node(8, 3)], Node(1, 2), 1),
        ([Node(8, 3), Node(8, 1), Node(8)], Node(1, 2), 1),
        ([Node(8)], Node(1, 0.5), 0),
        ([], Node(1), 0),
    ],
)
def test_as_many_trials_fit_as_ray_can_place(nodes, trial, num):
    assert num_fitting(nodes, trial) == num
