"Properties that hold for any input: the projection, the schedule, the draws, the measures."
import math
import random
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prograd_viz.cam import explained_directions, mask_scores, resize_maps
from prograd_viz.data import few_shot_sample
from prograd_viz.gradients import kl_to_teacher, project, prompt_gradients
from prograd_viz.prompts import make_prompts, plain_text_features, teacher_features
from prograd_viz.runs import mean_interval
from prograd_viz.training import epoch_batches, learning_rate, published_epochs

lambdas = st.floats(0, 1)


@st.composite
def gradients(draw, conflict=None):
    "(G_d, G_g) of a few runs, of any shape and scale; `conflict` fixes the sign of every cosine"
    shape = draw(st.one_of(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 16)),
                           st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(2, 8))))
    rng, dtype = (
        np.random.default_rng(draw(st.integers(0, 2**32))),
        draw(st.sampled_from((torch.float32, torch.float64))),
    )
    d, g = torch.from_numpy(rng.standard_normal((2, *shape)))
    dot = (d * g).flatten(1).sum(1)
    if conflict is not None: g = g * (torch.sign(dot) * (-1 if conflict else 1)).reshape(-1, *[1] * (d.ndim - 1))
    near = draw(st.sampled_from((0.0, 0.9, 0.999)))  # from any angle to nearly parallel
    g = (1 - near) * g + near * d * (g.norm() / d.norm()) * (-1 if conflict else 1)
    d, g = d * 10.0 ** draw(st.integers(-5, 5)), g * 10.0 ** draw(st.integers(-5, 5))
    d, g = d.to(dtype), g.to(dtype)
    assume(conflict is None or (((d * g).flatten(1).sum(1) < 0) == conflict).all())
    return d, g


def dots(a, b): return (a.double() * b.double()).flatten(1).sum(1)


def norms(a): return a.double().flatten(1).norm(dim=1)


def rounding(d, g): return 200 * torch.finfo(d.dtype).eps * norms(d) * norms(g)


# -- the projection -----------------------------------------------------------

@given(gradients())
def test_lambda_zero_returns_the_domain_gradient_bit_for_bit(pair):
    d, g = pair
    assert torch.equal(project(d, g, 0.0).g, d)


@given(gradients(conflict=False), lambdas)
def test_without_conflict_the_domain_gradient_returns_bit_for_bit(pair, lam):
    d, g = pair
    out = project(d, g, lam, eps_rel=0)
    assert torch.equal(out.g, d) and not out.conflict.any()


@given(gradients(conflict=True))
def test_full_projection_is_orthogonal_to_the_general_gradient(pair):
    d, g = pair
    out = project(d, g, 1.0, eps_rel=0)
    assert out.conflict.all() and (dots(out.g, g).abs() <= rounding(d, g)).all()


@given(gradients(conflict=True), lambdas)
def test_in_conflict_one_minus_lambda_of_the_conflict_remains(pair, lam):
    d, g = pair
    remains = dots(project(d, g, lam, eps_rel=0).g, g)
    assert ((remains - (1 - lam) * dots(d, g)).abs() <= rounding(d, g)).all()


@given(gradients(conflict=True), lambdas)
def test_the_projection_only_moves_along_the_general_gradient(pair, lam):
    d, g = pair
    moved = project(d, g, lam, eps_rel=0).g.double() - d.double()
    along = (dots(moved, g) / norms(g) ** 2).reshape(-1, *[1] * (d.ndim - 1)) * g.double()
    assert (norms(moved - along) <= 200 * torch.finfo(d.dtype).eps * norms(d)).all()


@given(gradients(), lambdas)
def test_the_projection_never_lengthens_the_gradient(pair, lam):
    d, g = pair
    assert (norms(project(d, g, lam).g) <= norms(d) * (1 + 200 * torch.finfo(d.dtype).eps)).all()


@given(gradients(), lambdas, st.integers(-8, 8))
def test_scaling_the_general_gradient_by_a_power_of_two_changes_no_bit(pair, lam, power):
    d, g = pair
    one, scaled = project(d, g, lam, eps_rel=0), project(d, g * 2.0**power, lam, eps_rel=0)
    assert (
        torch.equal(one.g, scaled.g) and torch.equal(one.cos, scaled.cos) and torch.equal(one.conflict, scaled.conflict)
    )


@given(gradients(), lambdas, st.floats(1e-3, 1e3))
def test_scaling_the_general_gradient_changes_nothing_but_rounding(pair, lam, factor):
    d, g = pair
    one, scaled = project(d, g, lam, eps_rel=0), project(d, g * factor, lam, eps_rel=0)
    assume(
        torch.equal(one.conflict, scaled.conflict)
    )  # a right angle may round to either side, where both projections are nothing
    assert (norms(one.g - scaled.g) <= 200 * torch.finfo(d.dtype).eps * norms(d)).all()


@given(gradients(), lambdas, st.floats(1e-3, 1e3))
def test_scaling_the_domain_gradient_scales_the_update(pair, lam, factor):
    d, g = pair
    one, scaled = project(d, g, lam, eps_rel=0), project(d * factor, g, lam, eps_rel=0)
    assume(torch.equal(one.conflict, scaled.conflict))
    assert (norms(one.g * factor - scaled.g) <= 400 * torch.finfo(d.dtype).eps * factor * norms(d)).all()


@given(gradients())
def test_cosine_and_norms_are_those_of_the_whole_context(pair):
    d, g = pair
    out, eps = project(d, g, 1.0, eps_rel=0), torch.finfo(d.dtype).eps
    torch.testing.assert_close(out.norm_gd.double(), norms(d), rtol=100 * eps, atol=0)
    torch.testing.assert_close(out.norm_gg.double(), norms(g), rtol=100 * eps, atol=0)
    torch.testing.assert_close(out.cos.double(), dots(d, g) / (norms(d) * norms(g)), rtol=0, atol=100 * eps)
    assert torch.equal(out.conflict, out.cos < 0)


@given(st.lists(lambdas, min_size=2, max_size=4), st.data())
def test_each_run_is_projected_with_its_own_lambda_and_no_other(lams, data):
    d, g = data.draw(gradients(conflict=True))
    d, g = (x[:1].expand(len(lams), *x.shape[1:]) for x in (d, g))
    together = project(d, g, lams, eps_rel=0).g
    for r, lam in enumerate(lams):
        torch.testing.assert_close(together[r : r + 1], project(d[:1], g[:1], lam, eps_rel=0).g, rtol=1e-6, atol=0)


@given(gradients(), st.floats(1e-6, 1e-1), st.sampled_from((0.5, 2.0)), lambdas)
def test_a_general_gradient_below_the_threshold_is_agreement_and_above_is_not(pair, eps_rel, times, lam):
    d, g = pair
    shape = (-1, *[1] * (d.ndim - 1))
    g = (g.double() / norms(g).reshape(shape) * (times * eps_rel * norms(d)).reshape(shape)).to(d.dtype)
    out = project(d, g, lam, eps_rel)
    assert (out.agree == (times < 1)).all()
    assert torch.equal(out.cos.isnan(), out.agree) and not (out.agree & out.conflict).any()
    if times < 1: assert torch.equal(out.g, d)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_by_default_a_hundred_machine_epsilons_are_agreement(dtype):
    d, eps = torch.tensor([[3.0, 4.0]], dtype=dtype), torch.finfo(dtype).eps
    conflicting = lambda norm: torch.tensor([[0.0, -norm]], dtype=dtype)
    assert (
        project(d, conflicting(5 * 99 * eps), 1.0).agree.item()
        and not project(d, conflicting(5 * 101 * eps), 1.0).agree.item()
    )
    assert not project(d, conflicting(5 * 1e-3 * eps), 1.0, eps_rel=0).agree.item(), "0 is the published behaviour"


def test_a_zero_gradient_has_no_angle_and_is_returned():
    zero, one = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    for d, g in ((zero, one), (one, zero), (zero, zero)):
        out = project(d, g, 1.0)
        assert torch.equal(out.g, d) and out.cos.isnan().all() and not out.conflict.any()
        assert out.agree.item() == (not g.any())


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), lam=lambdas)
def test_projection_never_increases_kl_to_first_order(tiny, seed, lam):
    "The divergence changes by -<G, G_g>: it never rises at lambda 1, and by 1 - lambda times CoOp's rise below"
    clip, classes = tiny(), ["dog", "kiwi bird", "anchor"]
    g = torch.Generator().manual_seed(seed)
    prompts = make_prompts(clip, classes, n_ctx=2, init="random")
    v = 0.5 * torch.randn(1, *prompts.start.shape, generator=g, dtype=clip.dtype)
    images = torch.nn.functional.normalize(torch.randn(4, 24, generator=g, dtype=clip.dtype), dim=-1)
    teacher = clip.logit_scale * images @ teacher_features(clip, classes).T
    grads = prompt_gradients(prompts, v, images, torch.randint(3, (4,), generator=g), teacher)
    update = project(grads.g_d, grads.g_g, lam)
    kl = lambda x: kl_to_teacher(clip.logit_scale * images @ plain_text_features(prompts, x).mT, teacher).item()
    rise = lambda direction, h=1e-5: (kl(v - h * direction) - kl(v + h * direction)) / (2 * h)
    scale = norms(grads.g_d).item() * norms(grads.g_g).item()
    assert rise(update.g / scale) <= ((1 - lam) * max(0.0, rise(grads.g_d / scale))) + 1e-5
    if update.conflict: assert rise(grads.g_d / scale) > -1e-5, "where they conflict, CoOp's step raises it"


# -- the schedule -------------------------------------------------------------

@given(st.integers(2, 300), st.floats(1e-4, 1.0), st.floats(1e-6, 1e-3))
def test_the_learning_rate_is_one_epoch_of_warm_up_then_torchs_cosine(epochs, lr, warmup):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    expected = [warmup]
    for _ in range(epochs - 1):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step(), cosine.step()
    assert [learning_rate(e, epochs, lr, warmup) for e in range(1, epochs + 1)] == pytest.approx(
        expected, rel=1e-9, abs=1e-12 * lr
    )


@pytest.mark.parametrize(
    "epoch, expected",
    [
        (1, 1e-5),
        (2, 0.002),
        (3, 0.001 * (1 + math.cos(math.pi / 50))),
        (27, 0.001),
        (50, 0.001 * (1 + math.cos(math.pi * 48 / 50))),
    ],
)
def test_the_published_schedule_of_fifty_epochs(epoch, expected):
    assert learning_rate(epoch, 50) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shots, epochs", [(1, 50), (2, 100), (4, 100), (8, 200), (16, 200)])
def test_published_epochs(shots, epochs): assert published_epochs(shots) == epochs


# -- the draws ----------------------------------------------------------------

def published_draw(labels, shots, seed):
    "Dassl's `generate_fewshot_dataset` on (position, label) pairs, with the global stream it uses"
    random.seed(seed)
    tracker, output = defaultdict(list), []
    for item in enumerate(labels): tracker[item[1]].append(item)
    for _, items in tracker.items():
        output.extend(random.sample(items, shots) if len(items) >= shots else items)
    return [position for position, _ in output]


@pytest.mark.filterwarnings("ignore:fewer than")
@given(st.lists(st.integers(0, 7), min_size=1, max_size=80), st.integers(1, 16), st.integers(1, 10**6))
def test_the_few_shots_are_those_of_the_published_sampler(labels, shots, seed):
    assert few_shot_sample(labels, shots, seed) == published_draw(labels, shots, seed)


def test_the_few_shots_depend_on_the_seed_and_leave_the_global_stream_alone():
    labels = [0] * 30 + [1] * 30
    random.seed(5)
    before = random.getstate()
    assert few_shot_sample(labels, 4, 1) != few_shot_sample(labels, 4, 2) and random.getstate() == before


@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 1000), st.integers(1, 200))
def test_an_epoch_shows_full_batches_of_different_images(n, batch_size, seed, epoch):
    batches = epoch_batches(n, batch_size, seed, epoch)
    seen = np.concatenate(batches)
    assert len(np.unique(seen)) == len(seen) and set(seen) <= set(range(n))
    if n < batch_size: assert [len(b) for b in batches] == [n], "a set smaller than a batch is one batch"
    else: assert [len(b) for b in batches] == [batch_size] * (n // batch_size), "the last, smaller batch is dropped"
    assert all(np.array_equal(a, b) for a, b in zip(batches, epoch_batches(n, batch_size, seed, epoch)))


@given(st.integers(24, 100), st.integers(0, 1000), st.integers(1, 200))
def test_the_order_changes_with_seed_and_epoch(n, seed, epoch):
    order = lambda *key: np.concatenate(epoch_batches(n, n, *key)).tolist()
    assert order(seed, epoch) != order(seed, epoch + 1) and order(seed, epoch) != order(seed + 1, epoch)


# -- the measures -------------------------------------------------------------

@st.composite
def maps_and_masks(draw):
    "Non-negative maps with something in them, and masks with both object and background, [N, H, W]"
    shape = draw(st.tuples(st.integers(1, 4), st.integers(2, 8), st.integers(2, 8)))
    cams = draw(hnp.arrays(np.float64, shape, elements=st.floats(0, 100, width=32)))
    masks = draw(hnp.arrays(bool, shape))
    assume(
        (cams.reshape(len(cams), -1).sum(1) > 1e-3).all() and masks.any((1, 2)).all() and not masks.all((1, 2)).any()
    )
    return torch.from_numpy(cams), torch.from_numpy(masks)


@given(maps_and_masks())
def test_shares_of_a_mask_and_of_its_complement_sum_to_one(pair):
    cams, masks = pair
    on, off = mask_scores(cams, masks), mask_scores(cams, ~masks)
    assert on["share"].between(0, 1).all() and np.allclose(on["share"] + off["share"], 1)
    assert np.allclose(on["area"] + off["area"], 1) and np.allclose(on["hit"] + off["hit"], 1)
    assert on["iou"].between(0, 1).all() and not on["empty"].any()


@given(maps_and_masks(), st.integers(-20, 20))
def test_measures_do_not_depend_on_the_scale_of_a_map(pair, power):
    cams, masks = pair
    np.testing.assert_allclose(
        mask_scores(cams * 2.0**power, masks).to_numpy(float), mask_scores(cams, masks).to_numpy(float), rtol=1e-12
    )


@given(maps_and_masks(), st.floats(1e-3, 1e3))
def test_a_uniform_map_has_the_share_of_the_area_and_no_preference(pair, level):
    cams, masks = pair
    table = mask_scores(torch.full_like(cams, level), masks)
    assert (
        np.allclose(table["share"], table["area"])
        and np.allclose(table["preference"], 1)
        and np.allclose(table["iou"], table["area"])
    )


@given(maps_and_masks())
def test_preference_is_the_share_over_the_area_of_the_object(pair):
    cams, masks = pair
    table = mask_scores(cams, masks)
    assert np.allclose(table["area"], masks.double().mean((1, 2))) and np.allclose(
        table["preference"] * table["area"], table["share"]
    )


@given(maps_and_masks(), st.floats(0.05, 0.95))
def test_hit_and_iou_are_read_where_the_map_is_high(pair, threshold):
    cams, masks = pair
    table = mask_scores(cams, masks, threshold=threshold)
    for i, (cam, mask) in enumerate(zip(cams.numpy(), masks.numpy())):
        above = cam >= threshold * cam.max()
        assert table["iou"][i] == pytest.approx((above & mask).sum() / (above | mask).sum())
        assert table["hit"][i] == pytest.approx(mask[cam == cam.max()].mean())


@given(maps_and_masks(), st.sampled_from([(1,), (2,), (1, 2)]))
def test_measures_of_a_mirrored_image_are_the_same(pair, turn):
    cams, masks = resize_maps(pair[0], (24, 24)), resize_maps(pair[1], (24, 24)) > 0.5
    expected, got = mask_scores(cams, masks), mask_scores(cams.flip(turn), masks.flip(turn))
    np.testing.assert_allclose(got.to_numpy(float), expected.to_numpy(float), rtol=1e-12)


def test_a_maximum_at_the_right_border_is_tested_as_one_at_the_left():
    cams, masks = torch.zeros(1, 7, 7), torch.zeros(1, 112, 112, dtype=torch.bool)
    cams[0, 3, 0], masks[..., 4:60] = 1, True
    big = resize_maps(cams, (112, 112))  # its highest pixels are the 8 outermost, 4 of them on the object
    assert mask_scores(big, masks)["hit"].item() == mask_scores(big.flip(-1), masks.flip(-1))["hit"].item() == 0.5


@given(maps_and_masks())
def test_an_empty_map_or_mask_is_nan_and_counted(pair):
    cams, masks = pair
    for table in (mask_scores(torch.zeros_like(cams), masks), mask_scores(cams, torch.zeros_like(masks))):
        assert table[["share", "preference", "hit", "iou"]].isna().all().all() and table["empty"].all()


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
        elements=st.floats(-10, 10, width=32),
    ),
    st.integers(1, 3),
)
def test_resized_maps_are_rectified_first_then_interpolated(maps, times):
    h, w = maps.shape[1] * (2 * times + 1), maps.shape[2] * (2 * times + 1)
    big = resize_maps(torch.from_numpy(maps), (h, w)).numpy()
    positive = maps.clip(0)
    assert big.shape == (len(maps), h, w) and (big >= 0).all() and big.max() <= positive.max() * (1 + 1e-6)
    np.testing.assert_allclose(
        big[:, times :: 2 * times + 1, times :: 2 * times + 1], positive, rtol=1e-5, atol=1e-5
    )  # the middle of each cell


@given(st.integers(0, 2**32))
def test_the_contrast_is_the_true_class_minus_its_strongest_rival(seed):
    g = torch.Generator().manual_seed(seed)
    text, features, labels = (
        torch.randn(2, 5, 8, generator=g),
        torch.randn(6, 8, generator=g),
        torch.randint(5, (6,), generator=g),
    )
    true, predicted, contrast = (
        explained_directions(text, features, labels, e) for e in ("true", "predicted", "contrast")
    )
    for r in range(2):
        scores = torch.nn.functional.normalize(features, dim=-1) @ text[r].T
        for b in range(6):
            rival = max((c for c in range(5) if c != labels[b]), key=lambda c: scores[b, c].item())
            assert torch.equal(true[r, b], text[r, labels[b]]) and torch.equal(
                predicted[r, b], text[r, scores[b].argmax()]
            )
            assert torch.equal(contrast[r, b], text[r, labels[b]] - text[r, rival])


# -- the intervals ------------------------------------------------------------

def test_the_interval_of_five_seeds_is_students_t():
    mean, half = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3 and half == pytest.approx(
        2.7764451 * math.sqrt(2.5) / math.sqrt(5), rel=1e-6
    )  # a printed table's t for 4 degrees of freedom


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.integers(0, 5))
def test_missing_seeds_are_left_out_of_the_interval(values, missing):
    assert mean_interval(values + [math.nan] * missing) == mean_interval(values)


def test_one_seed_has_a_mean_and_no_interval():
    mean, half = mean_interval([0.5])
    assert mean == 0.5 and math.isnan(half)
    assert all(math.isnan(x) for x in mean_interval([]))
