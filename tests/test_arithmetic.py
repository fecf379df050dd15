"""Frames that are the teacher's sentence, thresholds of the right arithmetic, and NaN that stays NaN."""
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from prograd_viz.cam import mask_scores
from prograd_viz.clip import load_clip
from prograd_viz.data import Task
from prograd_viz.evaluate import Evaluator, accuracy_on, calibration, per_class, predict, predictions
from prograd_viz.maps import foreground
from prograd_viz.prompts import make_prompts, teacher_features, text_features
from prograd_viz.rules import RULES, Signals
from prograd_viz.tasks import few_shot
from prograd_viz.training import train

TEMPLATES = (
    "a photo of a {}, a type of pet.",
    "a photo of a {}",
    "a type of pet, a photo of a {}.",
    "a photo of ({}) here.",
)


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_first_prompt_is_the_teachers_sentence(tiny, template):
    clip = tiny()
    prompts = make_prompts(clip, ["tabby cat", "dog"], template=template)
    assert torch.equal(prompts.tokens, clip.tokenize([template.format(n) for n in prompts.classes]))
    expected = teacher_features(clip, prompts.classes, template)
    torch.testing.assert_close(text_features(prompts, prompts.start[None])[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("position, text", [("front", "tabby cat a type of pet, a photo of a."),
                                            ("middle", "a type of pet tabby cat , a photo of a.")])
def test_a_comma_does_not_tear_the_name(tiny, position, text):
    clip = tiny()
    prompts = make_prompts(clip, ["tabby cat", "dog"], template="a type of pet, a photo of a {}.", position=position)
    assert torch.equal(prompts.tokens[0], clip.tokenize([text])[0])
    moved = clip.token_embedding(prompts.tokens[0, prompts.where[0]])
    assert torch.equal(moved, prompts.start)


@pytest.mark.parametrize("name", ["fox", "dog", "tabby cat", "box"])
@pytest.mark.parametrize("position, text", [("front", "{}s a photo of."), ("middle", "a {}s photo of.")])
def test_letters_behind_the_name_move_with_it(tiny, position, text, name):
    clip = tiny()
    prompts = make_prompts(clip, [name, "lion"], template="a photo of {}s.", position=position)
    assert prompts.n_ctx == 3 and torch.equal(prompts.tokens, clip.tokenize([text.format(n) for n in prompts.classes]))


def test_underscores_are_spaces_and_words_are_not_glued(tiny):
    clip, names = tiny(), ["cat", "dog"]
    ours, spaced = (make_prompts(clip, names, init=i) for i in ("a_photo_of_a", "a photo of a"))
    assert ours.n_ctx == 4 and torch.equal(ours.tokens, spaced.tokens) and torch.equal(ours.start, spaced.start)
    with pytest.raises(ValueError, match="put a space before"): make_prompts(clip, names, template="a photo of a{}.")
    with pytest.raises(ValueError, match="one {} at most"): make_prompts(clip, names, init="a {} of {}")


@cache
def eight_classes(): return Task("bare", few_shot("pocket", shots=4, seed=1, classes=8, test_per_class=1).train, {})


def short(clip, lambdas=(0.0, 1.0), **start):
    "Sixty steps of CoOp and ProGrad on a pocket task"
    options = {"epochs": 15, "batch_size": 8, "views": 0, "seed": 1, "progress": False}
    return train(clip, eight_classes(), lambdas, **options, **start)


def off(runs, truth):
    "How far CoOp and ProGrad end from where they end in float64, relative to the way there"
    way = lambda r, lam: (r.contexts[-1, r.run(lam)] - r.contexts[0, r.run(lam)]).astype(float)
    ways = [(way(runs, lam), way(truth, lam)) for lam in runs.lambdas]
    return [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in ways]


NARROW = ("fp16", "bf16", "amp_bf16")


@pytest.fixture(scope="module")
def truth(exact): return short(exact)


@pytest.mark.parametrize("precision", NARROW)
def test_towers_of_16_bits_agree_with_the_teacher_at_its_own_words_and_not_for_long(truth, precision):
    clip = load_clip("pocket", precision=precision)
    runs = short(clip)
    steps, right = runs.record(1.0), truth.record(1.0)
    assert steps["agree"].iloc[0] and np.isnan(steps["cos"].iloc[0])
    assert right["agree"].tolist() == [True] + 59 * [False]
    assert (steps["norm_gg"] / steps["norm_gd"]).iloc[0] < 2e-6 and (steps["conflict"] == right["conflict"]).sum() >= 50
    wide = short(clip, [1.0], eps_rel=4 * torch.finfo(torch.bfloat16).eps)
    (coop, prograd), (missed,) = off(runs, truth), off(wide, truth)
    assert coop < 0.1 and prograd < 0.75 * missed, "0.06 to 0.55 of it seen, by processor"


def test_autocast_around_it_changes_no_digit(clip):
    plain = short(clip)
    with torch.autocast("cpu", torch.bfloat16):
        around, there = short(clip), predictions(plain, "train")
        seen = predict(plain, [plain.task.train.image(0)], 1.0)
    np.testing.assert_array_equal(around.contexts[-1], plain.contexts[-1])
    columns = ["loss_ce", "loss_kl", "cos", "norm_gd", "norm_gg", "acc_train"]
    pd.testing.assert_frame_equal(around.steps[columns], plain.steps[columns], check_exact=True)
    pd.testing.assert_frame_equal(there, predictions(plain, "train"), check_exact=True)
    pd.testing.assert_frame_equal(seen, predict(plain, [plain.task.train.image(0)], 1.0), check_exact=True)


def test_an_error_of_calibration_is_unknown_where_the_accuracy_is():
    table = pd.DataFrame({"method": "CoOp", "lam": 0.0, "right": [1, 1, np.nan], "confidence": [0.9, 0.95, np.nan]})
    assert calibration(table, 10)[["accuracy", "ece"]].isna().all(axis=None)
    assert calibration(table[:2], 10)["ece"].item() == pytest.approx(0.075)


def test_a_random_start_is_trained_in_16_bits_nearly_as_in_64(exact):
    start = {"init": "random", "n_ctx": 4}
    coop, prograd = off(short(load_clip("pocket", precision="bf16"), **start), short(exact, **start))
    assert coop < 0.05 and prograd < 0.05


@pytest.mark.parametrize("precision", NARROW)
@pytest.mark.parametrize("template", ["a photo of a {}.", "{} in a photo.", "a_photo of a_{}", "photo{}"])
def test_a_teacher_in_16_bits_is_the_sentence(tiny, precision, template):
    clip, names = tiny(precision=precision), ["dog", "cat"]
    expected = clip.encode_text([template.format(n) for n in names])
    got = teacher_features(clip, names, template)
    torch.testing.assert_close(got, expected, rtol=0, atol=0.02)
    assert torch.cdist(got, expected).argmin(1).tolist() == [0, 1]


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e19, 1e30])
def test_agem_takes_gradients_of_any_length(size):
    d, g = torch.tensor([[3.0, 4.0, 0.0]]), torch.tensor([[-4.0, 1.0, 2.0]])
    one, yes = torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)
    got = RULES["agem"].direction(Signals(d * size, g * size, d, d, 0 * one, -one, yes, None))
    torch.testing.assert_close(got / size, d + 8 / 21 * g)


def test_a_rule_that_returns_nan_is_named(clip, bare):
    def broken(x): return x.g_d / 0

    with pytest.raises(FloatingPointError, match="rule 'broken' returned NaN or infinity for run 0"):
        train(clip, bare, [1.0], rule=broken, epochs=1, progress=False, views=0)


def test_features_that_are_not_finite_are_evaluated_as_nan(clip, task):
    runs = train(clip, task, [0.0, 1.0], epochs=1, progress=False, views=0)
    text = runs.text_features.copy()
    text[-1, 1, 0] = np.nan  # one class of the second run
    broken = replace(runs, text_features=text)
    table = predictions(broken, "same")
    mine = table[table["lam"] == 1]
    assert mine[["predicted", "right", "confidence"]].isna().all(axis=None)
    assert table[table["lam"] != 1][["predicted", "right", "confidence"]].notna().all(axis=None)
    assert accuracy_on(broken, task.tests["same"])["accuracy"].isna().tolist() == [False, False, True]
    classes, calibrated = per_class(table), calibration(table)
    assert classes["accuracy"].isna().equals(classes["lam"] == 1)
    assert calibrated[["accuracy", "confidence", "ece"]].isna().all(axis=1).tolist() == [False, False, True]
    assert predict(broken, [task.train.image(0)], 1.0).isna().all(axis=None)
    prompts = make_prompts(clip, task.classes)
    got = Evaluator(clip, task, prompts, task.template).accuracies(
        prompts.start[None], torch.full((1, 6, text.shape[-1]), torch.nan)
    )
    assert np.isnan(got["same"]).all() and np.isnan(got["train"]).all()
    shares = foreground(replace(runs, text_features=np.full_like(text, np.nan)), images=2, random_directions=1).rows
    tuned = shares["lam"].notna()
    assert shares.loc[tuned, ["share", "hit"]].isna().all(axis=None) and not shares.loc[tuned, "empty"].any()
    assert shares.loc[~tuned, "share"].isna().equals(shares.loc[~tuned, "empty"]), (
        "others are NaN where their map is empty alone"
    )


def test_a_method_without_a_lambda_is_compared_with_zero_shot_clip_too(clip, task):
    runs = train(clip, task, [0.0, 1.0], epochs=2, lr=0.05, progress=False, views=0)
    mine = replace(runs, methods=("CoOp", "mine"), lambdas=(0.0, np.nan))
    for table in (per_class, calibration):
        known, got = (table(predictions(r, "same")) for r in (runs, mine))
        renamed = known["method"].replace("ProGrad", "mine")
        pd.testing.assert_frame_equal(got.drop(columns="lam"), known.assign(method=renamed).drop(columns="lam"))
    assert per_class(predictions(mine, "same")).query("method == 'zero-shot CLIP'")["change"].eq(0).all()


def test_a_map_of_nan_has_no_measure():
    table = mask_scores(torch.full((1, 4, 4), torch.nan), torch.eye(4, dtype=torch.bool)[None])
    assert table[["share", "preference", "hit", "iou"]].isna().all(axis=None) and not table["empty"].item()
