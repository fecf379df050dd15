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


def test_a_gradient_of_millions_of_numbers_keeps_its_digits():
    "As class-specific contexts of a thousand classes have it; one number after another, its length would lose 2e-4"
    draw = torch.Generator().manual_seed(0)
    g_d, g_g = torch.randn(2, 1, 8_000_000, generator=draw)
    g_d -= 0.5 * g_g
    got, d, g = project(g_d, g_g, 1.0), g_d.double(), g_g.double()
    assert got.norm_gd.item() == pytest.approx(d.norm().item(), rel=1e-6)
    assert got.norm_gg.item() == pytest.approx(g.norm().item(), rel=1e-6)
    assert got.cos.item() == pytest.approx(((d * g).sum() / (d.norm() * g.norm())).item(), rel=1e-6)
    left = (got.g.double() * g).sum() / (got.g.double().norm() * g.norm())
    assert abs(left) < 1e-6, "what fights G_g is gone"
    left = (d - along(g_d, g_g)).double()
    assert abs((left * g).sum() / (left.norm() * g.norm())) < 1e-6
