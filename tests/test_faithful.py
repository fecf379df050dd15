"""Measures of explainers: each equals what it says, recomputed plainly, and leaves the model as it was."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation
from scipy.stats import spearmanr

import prograd_viz.faithful as faithful
from prograd_viz.data import Split, Task
from prograd_viz.faithful import (
    SCORES,
    composites,
    faithfulness,
    map_agreement,
    map_curves,
    map_scores,
    score_summary,
    stability,
    tower_blocks,
    weights_check,
    with_shuffled_weights,
)
from prograd_viz.maps import RANDOM, Occlusion
from prograd_viz.plots import SCORE_TITLES, plot_faithfulness
from prograd_viz.pocket import Scene, render
from prograd_viz.training import train


@pytest.fixture(scope="module")
def runs(clip, task): return train(clip, task, [0.0, 1.0], epochs=2, progress=False, views=0)


@pytest.fixture(scope="module")
def given(clip, task):
    "Images, maps in which no two pixels are equal, text features and classes"
    test = task.tests["shifted"]
    images = test.tensor(clip, [0, 5, 10])
    noise = torch.rand(3, *clip.image_shape, generator=torch.Generator().manual_seed(0))
    text = clip.encode_text([f"a photo of a {c}." for c in test.classes])
    return images, noise, text, test.labels[[0, 5, 10]].tolist()


@pytest.fixture(scope="module")
def table(runs):
    "Two explainers on all scores but ROAD"
    columns = [c for c in SCORES if c != "road"]
    each = [faithfulness(runs, "shifted", images=6, explainer=explainer, columns=columns, parts=4)
            for explainer in ("GradCAM", "HiResCAM")]
    return pd.concat(each, ignore_index=True)


# -- curves -------------------------------------------------------------------

def test_curves_are_those_of_the_grad_cam_package(clip, given):
    from pytorch_grad_cam.metrics import perturbation_confidence as package
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    images, noise, text, labels = given
    curves = map_curves(clip, images, noise, text, labels, parts=4)
    targets = [ClassifierOutputTarget(i) for i in labels]
    blank = lambda image, keep: image * keep
    classifier = faithful._Probability(clip, text)
    for k in range(1, 4):  # the highest-ranked quarters are gone, or are all there is
        removers = package.RemoveMostRelevantFirst(100 - 25 * k, blank), package.RemoveLeastRelevantFirst(25 * k, blank)
        for curve, remover in zip(curves, removers):
            metric = package.PerturbationConfidenceMetric(remover)
            theirs = metric(images, noise.numpy(), targets, classifier, return_diff=False)
            assert np.allclose(curve[:, k].numpy(), theirs, atol=1e-5)


def test_curves_begin_and_end_with_the_whole_image_and_an_empty_one(clip, given):
    images, noise, text, labels = given
    leaving, returning = map_curves(clip, images, noise, text, labels, parts=3)
    p = lambda x: (clip.logit_scale * clip.encode_image(x) @ text.T).softmax(-1)[range(3), labels]
    assert torch.allclose(leaving[:, 0], p(images)) and torch.allclose(returning[:, -1], p(images))
    assert torch.allclose(leaving[:, -1], p(0 * images)) and torch.allclose(returning[:, 0], p(0 * images))


def test_a_score_is_the_mean_height_of_its_curve(clip, given):
    images, noise, text, labels = given
    curves = map_curves(clip, images, noise, text, labels, parts=5).numpy()
    scores = map_scores(clip, images, noise, text, labels, columns=["insertion", "deletion"], parts=5)
    for column, curve in zip(("deletion", "insertion"), curves):
        assert np.allclose(scores[column], (curve[:, 1:] + curve[:, :-1]).mean(1) / 2)


def test_equal_pixels_leave_in_an_order_that_prefers_no_place():
    maps = torch.zeros(1, 10, 10)
    maps[0, 0, 0] = 1.0
    ranks, flat = faithful._ranks(maps, (10, 10), 0)
    assert ranks[0, 0, 0] == 0 and not flat.any() and ranks.flatten().unique().numel() == 100
    top, bottom = ranks[0, :5].mean(), ranks[0, 5:].mean()
    assert abs(top - bottom) < 0.15 and not torch.equal(ranks, faithful._ranks(maps, (10, 10), 1)[0])


def test_an_image_has_the_same_scores_alone_and_in_a_batch(clip, given):
    images, noise, text, labels = given
    together = map_scores(clip, images, noise, text, labels, percentiles=[50])
    for i in range(3):
        alone = map_scores(clip, images[i:i + 1], noise[i:i + 1], text, labels[i:i + 1], percentiles=[50])
        for column in ("deletion", "insertion"): assert np.isclose(together[column][i], alone[column][0], atol=1e-5)


def test_a_map_of_what_the_answer_depends_on_beats_its_opposite(clip, given, task):
    images, _, text, labels = given
    masks = torch.stack([torch.from_numpy(task.tests["shifted"].mask(i)) for i in (0, 5, 10)]).float()
    on, off = (map_scores(clip, images, m, text, labels, columns=["deletion", "insertion"]).mean()
               for m in (masks, 1 - masks))
    assert on["insertion"] - on["deletion"] > off["insertion"] - off["deletion"]


# -- tables -------------------------------------------------------------------

def test_a_table_has_a_row_per_method_explainer_and_image(runs, table, task):
    assert list(table)[:8] == ["method", "lam", "seed", "step", "split", "target", "explainer", "image"]
    counts = table.groupby(["explainer", "method"]).size().unstack()
    assert (counts[["zero-shot CLIP", "CoOp", "ProGrad"]] == 6).all(axis=None) and (counts[RANDOM] == 18).all()
    assert set(table["seed"]) == set(runs.steps["seed"]) and set(table["split"]) == {"shifted"}
    own = replace(task.tests["shifted"])
    assert set(faithfulness(runs, own, images=2, columns=["hit"], random_directions=0)["split"]) == {"own"}


def test_scores_of_masks_are_left_out_without_masks(runs, task):
    bare = replace(task.tests["shifted"], masks=None)
    table = faithfulness(runs, bare, images=1, random_directions=0, parts=2, percentiles=[50])
    assert [c for c in table if c in SCORES] == ["deletion", "insertion", "road"]
    with pytest.raises(ValueError, match="this split has no masks"):
        faithfulness(runs, bare, images=1, columns=["share"])


def test_a_drop_is_what_the_explained_class_loses_on_other_backgrounds(runs, task, clip):
    rows = [0, 5, 10, 15]
    table = faithfulness(runs, "shifted", images=rows, target="true", columns=["drop"], random_directions=0)
    text, test = torch.as_tensor(runs.text(1.0)), task.tests["shifted"]
    p = lambda f: (clip.logit_scale * f @ text.T).softmax(-1)[range(4), test.labels[rows]]
    swapped = [composites(test, rows, seed)[0]["background swapped"].features(clip) for seed in range(4)]
    expected = p(test.features(clip)[rows]) - torch.stack([p(f) for f in swapped]).mean(0)
    assert np.allclose(table.loc[table["method"] == "ProGrad", "drop"], expected.numpy(), atol=1e-6)


def test_images_of_one_class_have_no_background_to_swap(runs):
    table = faithfulness(runs, "shifted", images=[0, 1], columns=["drop", "share"], random_directions=0)
    assert table["drop"].isna().all() and table["share"].notna().any()


def test_a_background_keeps_no_shadow_of_its_object():
    scenes = [Scene("dog", "clouds", seed=1), Scene("apple", "clouds", "blue", seed=2)]
    pairs, empty = zip(*((render(s, size=0.55), render(replace(s, noun=""))[0].astype(int)) for s in scenes))
    images, masks = zip(*pairs)
    without = composites(Split(images, [0, 1], ("dog", "apple"), masks), [0, 1])[0]["object removed"]
    for image, mask, bare, found in zip(images, masks, empty, without.images):
        near, far = (binary_dilation(mask, np.ones((3, 3)), iterations=n) for n in (3, 9))
        assert np.abs(image - bare)[~far].max() <= 1 and np.array_equal(found[~far], image[~far])
        shadow, left = ((bare - picture)[far & ~near] for picture in (image, found))
        assert shadow.mean() > 2 and abs((left * shadow).sum()) < 0.5 * (shadow**2).sum()


# -- summaries ----------------------------------------------------------------

def test_intervals_are_over_images_of_one_seed_and_over_seeds_of_several(table):
    one = score_summary(table)
    assert set(one["over"]) == {"images"}
    mine = table[(table["method"] == "CoOp") & (table["explainer"] == "GradCAM")]
    row = one[(one["method"] == "CoOp") & (one["explainer"] == "GradCAM") & (one["column"] == "deletion")].iloc[0]
    assert row["mean"] == pytest.approx(mine["deletion"].mean()) and row["low"] < row["mean"] < row["high"]
    other = table.assign(seed=table["seed"] + 1, deletion=table["deletion"] + 0.5)
    both = score_summary(pd.concat([table, other]))
    found = both[(both["method"] == "CoOp") & (both["explainer"] == "GradCAM") & (both["column"] == "deletion")].iloc[0]
    assert set(both["over"]) == {"seeds"} and found["number"] == 2
    assert found["mean"] == pytest.approx(row["mean"] + 0.25)


@pytest.mark.parametrize("sign", [1, -1])
def test_agreement_is_positive_where_maps_off_the_object_go_with_a_drop(table, sign):
    drop = np.random.default_rng(0).normal(size=len(table))
    made = table.assign(drop=drop, share=-sign * drop)
    found = score_summary(made)
    assert np.allclose(found.loc[found["column"] == "agreement", "mean"], sign)


def test_agreement_is_spearmans(table):
    found = score_summary(table)
    for method in ("zero-shot CLIP", "CoOp", "ProGrad"):
        mine = table[(table["method"] == method) & (table["explainer"] == "HiResCAM")].dropna(subset="share")
        row = found[(found["method"] == method) & (found["explainer"] == "HiResCAM") & (found["column"] == "agreement")]
        assert row["mean"].item() == pytest.approx(spearmanr(1 - mine["share"], mine["drop"]).statistic)


def test_the_picture_has_a_panel_per_score_and_a_point_per_method(table):
    summary = score_summary(table)
    fig = plot_faithfulness(summary, ["insertion", "share", "agreement"])
    panels = [ax for ax in fig.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == [SCORE_TITLES[c] for c in ("insertion", "share", "agreement")]
    drawn = {text.get_text() for text in fig.legends[0].get_texts()}
    assert drawn == {"zero-shot CLIP", "CoOp", "ProGrad", "random text directions", "uniform map (object's area)"}
    with pytest.raises(ValueError, match="several splits or targets"):
        plot_faithfulness(pd.concat([summary, summary.assign(split="same")]))


# -- shuffled weights ---------------------------------------------------------

def test_blocks_are_all_weights_from_the_top_down(clip, tiny):
    for model, first, last in ((clip, "head.proj.weight", "trunk.stem"), (tiny(), "proj", "class_embedding")):
        blocks = tower_blocks(model)
        names = [name for block in blocks for name in block]
        assert sorted(names) == sorted(name for name, _ in model.model.visual.named_parameters())
        assert blocks[0][0] == first and blocks[-1][0].startswith(last) and len(blocks) > 4
    order = [block[0].split(".")[2] for block in tower_blocks(tiny()) if "resblocks" in block[0]]
    assert order == ["2", "1", "0"]


def test_shuffled_weights_are_the_same_numbers_in_another_place_of_a_copy(clip):
    before, names = clip.fingerprint(), tower_blocks(clip)[1]
    twin = with_shuffled_weights(clip, names, seed=1)
    ours, theirs = (dict(m.model.visual.named_parameters()) for m in (clip, twin))
    for name in ours:
        assert torch.equal(ours[name].flatten().sort().values, theirs[name].flatten().sort().values)
        assert torch.equal(ours[name], theirs[name]) == (name not in names) or ours[name].unique().numel() == 1
    assert clip.fingerprint() == before and twin.fingerprint() != before
    assert twin.token_embedding is clip.token_embedding, "only the image tower is copied"
    again = with_shuffled_weights(clip, names, seed=1)
    assert again.fingerprint() == twin.fingerprint() != with_shuffled_weights(clip, names, seed=2).fingerprint()


def test_maps_of_shuffled_weights_are_others_and_the_model_stays_as_it_was(runs, clip, monkeypatch):
    before = clip.fingerprint()
    table = weights_check(runs, "shifted", images=6, stages=2)
    assert table["stage"].value_counts().to_dict() == {1: 18, 2: 18} and table["shuffled"].max() == 1
    assert table["correlation"].between(-1, 1).all() and table["correlation"].abs().mean() < 0.6
    assert clip.fingerprint() == before
    failing = lambda model, *args, **options: faithful.map_agreement if model is clip else 1 / 0
    monkeypatch.setattr(faithful, "cam_maps", failing)
    with pytest.raises(ZeroDivisionError): weights_check(runs, "shifted", images=2)
    assert clip.fingerprint() == before


def test_agreement_of_maps_is_a_rank_correlation_on_the_finer_grid():
    first, second = (torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(i)) for i in range(2))
    found = map_agreement(first, second)
    expected = [[spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(*pair)] for pair in zip(first, second)]
    assert np.allclose(found, expected) and np.allclose(map_agreement(first, first), 1)
    assert np.allclose(map_agreement(first, 2 - 3 * first), -1)
    coarse = F.avg_pool2d(first, 2)
    large = F.interpolate(coarse, (6, 6), mode="bilinear")
    assert np.allclose(map_agreement(first, coarse), map_agreement(first, large))
    assert np.isnan(map_agreement(first, torch.zeros_like(first))).all()


@pytest.mark.parametrize("explainer", ["Rollout", "GradECLIP", "LeGrad", "GAE"])
def test_explainers_of_transformers_are_measured_too(tiny, task, explainer):
    vit = tiny(precision="fp32")
    runs = train(vit, Task("few", task.train, {"shifted": task.tests["shifted"]}), [0.0, 1.0], epochs=1, views=0,
                 init="random", progress=False)
    columns = ["share", "deletion"]
    table = faithfulness(runs, "shifted", images=[0, 5, 10], explainer=explainer, columns=columns, parts=3)
    assert set(table["explainer"]) == {explainer} and table["share"].notna().any()
    if explainer == "Rollout":
        assert (table.groupby("image")["share"].nunique() == 1).all(), "a map without text is every method's"
    assert weights_check(runs, "shifted", images=3, explainer=explainer, stages=1)["correlation"].abs().max() <= 1


def test_stability_compares_two_maps_and_their_shares(runs):
    same = stability(runs, "shifted", images=4, explainers=("GradCAM", "GradCAM"))
    assert np.allclose(same["correlation"], 1) and np.allclose(same["share"], same["other_share"], equal_nan=True)
    pair = Occlusion(patch=28, stride=14), Occlusion(patch=28, stride=28)
    other = stability(runs, "shifted", images=4, explainers=pair)
    assert other["correlation"].between(0.5, 0.999).all()
    assert set(other["explainer"]) == {"Occlusion(patch=28, stride=14) | Occlusion(patch=28, stride=28)"}
