"""Frames that are the teacher's sentence, thresholds of the right arithmetic, and NaN that stays NaN."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from prograd_viz.cam import foreground, measure
from prograd_viz.evaluate import Evaluator, accuracy_on, calibration, per_class, predict, predictions
from prograd_viz.gradients import agreement_eps
from prograd_viz.prompts import make_prompts, teacher_features, text_features
from prograd_viz.rules import RULES, Signals, steering
from prograd_viz.training import train

TEMPLATES = ("a photo of a {}, a type of pet.", "a photo of a {}", "a type of pet, a photo of a {}.", "a photo of ({}) here.")


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


def test_underscores_are_spaces_and_words_are_not_glued(tiny):
    clip, names = tiny(), ["cat", "dog"]
    ours, spaced = (make_prompts(clip, names, init=i) for i in ("a_photo_of_a", "a photo of a"))
    assert ours.n_ctx == 4 and torch.equal(ours.tokens, spaced.tokens) and torch.equal(ours.start, spaced.start)
    with pytest.raises(ValueError, match="put a space before"): make_prompts(clip, names, template="a photo of a{}.")
    with pytest.raises(ValueError, match="one {} at most"): make_prompts(clip, names, init="a {} of {}")


@pytest.mark.parametrize("precision, threshold", [("fp64", 100 * 2**-52), ("fp32", 100 * 2**-23), ("fp16", 2**-10),
                                                  ("bf16", 2**-7), ("amp_bf16", 2**-7)])
def test_the_threshold_follows_the_towers(tiny, precision, threshold):
    assert agreement_eps(tiny(precision=precision)) == threshold


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
    table = predictions(broken)
    mine = table[table["lam"] == 1]
    assert mine[["predicted", "right", "confidence"]].isna().all(axis=None)
    assert table[table["lam"] != 1][["predicted", "right", "confidence"]].notna().all(axis=None)
    assert accuracy_on(broken, task.tests["same"])["accuracy"].isna().tolist() == [False, False, True]
    classes, calibrated = per_class(table), calibration(table)
    assert classes["accuracy"].isna().equals(classes["lam"] == 1)
    assert calibrated[["accuracy", "confidence", "ece"]].isna().all(axis=1).tolist() == [False, False, True]
    assert predict(broken, [task.train.image(0)], 1.0).isna().all(axis=None)
    prompts = make_prompts(clip, task.classes)
    got = Evaluator(clip, task, prompts, task.template).accuracies(prompts.start[None], torch.full((1, 6, text.shape[-1]), torch.nan))
    assert np.isnan(got["same"]).all() and np.isnan(got["train"]).all()
    shares = foreground(replace(runs, text_features=np.full_like(text, np.nan)), images=2, random_directions=1)
    tuned = shares["lam"].notna()
    assert shares.loc[tuned, ["share", "hit"]].isna().all(axis=None) and not shares.loc[tuned, "empty"].any()
    assert shares.loc[~tuned, "share"].isna().equals(shares.loc[~tuned, "empty"]), "others are NaN where their map is empty alone"


def test_a_map_of_nan_has_no_measure():
    table = measure(torch.full((1, 4, 4), torch.nan), torch.eye(4, dtype=torch.bool)[None])
    assert table[["share", "preference", "hit", "iou"]].isna().all(axis=None) and not table["empty"].item()
