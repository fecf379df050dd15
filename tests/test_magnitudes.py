"""Gradients of any length have the cosine and the projection of the same gradients at length one."""

import pytest
import torch

from prograd_viz.gradients import project
from prograd_viz.rules import along


@pytest.mark.parametrize("size", [1e-36, 1e-30, 1e-20, 1e-3, 1e10, 1e19, 1e30])
def test_no_length_reads_as_agreement(size):
    pair = torch.tensor([[3.0, 4.0, 0.0]]), torch.tensor([[-4.0, 1.0, 2.0]])
    got = project(*(x * size for x in pair), 1.0)
    assert not got.agree.any() and got.conflict.all()
    torch.testing.assert_close(got.cos, torch.tensor([-8 / (5 * 21**0.5)]))
    torch.testing.assert_close(got.norm_gd / size, torch.tensor([5.0]))
    torch.testing.assert_close(got.g / size, pair[0] + 8 / 21 * pair[1])
    torch.testing.assert_close(along(*(x * size for x in pair)) / size, -8 / 21 * pair[1])
