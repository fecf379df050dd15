"""Thirty steps of the published trainer and of the library agree in float32: tests/published.py is the other side.

Here the models keep the layout of RN50 and ViT-B-32 but are small; `python tools/published.py` takes whole ones.
"""
import json
import math

import numpy as np
import open_clip
import pytest
import torch

from prograd_viz.clip import load_clip
from prograd_viz.data import Split, Task
from prograd_viz.explorer import explore
from prograd_viz.runs import Recorder
from prograd_viz.training import epoch_batches, train
from published import apart, train_published

LAMBDAS, SCALES = (1.0, 0.8, 0.0), (14.3, 100.0)
STARTS = {"template": {"n_ctx": 16}, "random": {"init": "random", "n_ctx": 4},
          "class-specific": {"init": "random", "n_ctx": 4, "class_specific": True}}
RECIPE = {"epochs": 6, "batch_size": 4}  # 20 images: five steps an epoch, thirty in all
# of weights and of batches: both branches of the rule are taken often, and the first steps are long beside the last
# digit of a context
SEEDS = {"RN50": (2, 4), "ViT-B-32": (6, 3)}
SMALL = {"RN50": {"layers": [1, 1, 1, 1], "width": 32, "image_size": 64},
         "ViT-B-32": {"layers": 2, "width": 128, "image_size": 64}}


def few_images(px):
    "Four noisy images of each of five classes, and a template with a comma"
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(5), 4)
    colours = rng.integers(0, 256, (5, 1, 1, 3))
    coarse = [(colours[i] + rng.integers(0, 256, (8, 8, 3))) // 2 for i in labels]
    images = [c.astype(np.uint8).repeat(px // 8, 0).repeat(px // 8, 1) for c in coarse]
    return Task("images of five classes", Split(images, labels,
                                                ("tabby cat", "golden retriever", "sunflower", "steam locomotive",
                                                 "kite")), {}, "a type of thing, a photo of a {}.")


def sides(clip, task, scale, start, seed, epochs=RECIPE["epochs"], lambdas=LAMBDAS):
    "The library's runs with all lambdas, and a function that trains one lambda as published"
    clip.model.logit_scale.data.fill_(math.log(scale))
    runs = train(clip, task, lambdas, views=0, progress=False, eps_rel=0.0, seed=seed, **(RECIPE | {"epochs": epochs}),
                 **STARTS.get(start, {}))
    state = {k: v.detach() for k, v in clip.model.state_dict().items()}
    features, labels = task.train.features(clip), torch.as_tensor(task.train.labels)
    batches = lambda epoch: epoch_batches(len(labels), RECIPE["batch_size"], seed, epoch)
    first = None if STARTS.get(start, {}).get("init") is None else torch.from_numpy(runs.contexts[0, 0])
    own = runs.config["n_ctx"], task.template, first, epochs
    return runs, lambda lam, state=state, **broken: train_published(
        state, clip.tokenizer, task.classes, features, labels, batches, lam, *own, **broken)


def compared(runs, lam, path, record):
    """Both sides of one run in numbers: displacements apart, losses apart, steps in conflict and not

    Losses are absolute below 1 and relative above; at a logit scale of 100 below 10, since a logit is 100 cosines
    of seven digits.
    """
    r = runs.run(lam)
    steps = runs.steps[runs.steps["run"] == r]
    losses, theirs = steps[["loss_ce", "loss_kl"]].to_numpy(), record[:, :2].numpy()
    return {"displacement": apart(torch.from_numpy(runs.contexts[:, r]), path).max().item(),
            "losses": (np.abs(losses - theirs) / np.maximum(max(1, runs.clip.logit_scale.item() / 10), theirs)).max(),
            "steps": len(steps), "epochs": steps["epoch"].max(),
            "conflict": int(steps["conflict"].sum()), "no_conflict": int((~steps["conflict"]).sum()),
            "same_branch": bool((steps["conflict"].to_numpy() == (record[:, 2] < 0).numpy()).all())}


def both_branches(runs):
    "Whether every run took each branch of the rule five times at least, so that both are compared"
    return all(min(conflict.sum(), (~conflict).sum()) >= 5 for _, conflict in runs.steps.groupby("run")["conflict"])


def agrees(row): return row["displacement"] <= 1e-4 and row["losses"] <= 1e-5 and row["same_branch"]


def small_model(name, folder):
    "A small random model in the layout of a published one, with its QuickGELU, and the seed of its batches"
    config = open_clip.get_model_config(name)
    config["vision_cfg"] |= SMALL[name]
    config["text_cfg"] |= {"width": 128, "heads": 2, "layers": 2}
    path = folder / f"small-{name}.json"
    path.write_text(json.dumps(config | {"quick_gelu": True}))
    open_clip.add_model_config(path)
    with torch.random.fork_rng():
        torch.manual_seed(SEEDS[name][0])
        return load_clip(path.stem, "random"), SEEDS[name][1]


def recorded(runs, published, lam):
    "The published trainer with the lines that the tutorial on one's own loop puts into it, and what it computes"
    record = Recorder(runs.task.classes, runs.name(lam), zero_shot=runs.zero_shot)
    path, known = published(lam, seen=lambda step, ce, kl, g_d, g_g, context, text: record.log(
        step, loss_ce=ce, loss_kl=kl, g_d=g_d, g_g=g_g, context=context, text_features=text))
    record.end(context=path[-1], text_features=runs.text_features[-1, runs.run(lam)])
    return record.runs(runs.clip, runs.task), path, known


@pytest.fixture(scope="module", params=SMALL)
def model(request, tmp_path_factory): return small_model(request.param, tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def task(): return few_images(64)


# every start with every model, and each of the two scales with every start and with every model
CROSSED = [(model, start, SCALES[(i + j) % 2]) for i, model in enumerate(SMALL) for j, start in enumerate(STARTS)]


@pytest.mark.parametrize("model, start, scale", CROSSED, indirect=["model"])
def test_thirty_steps_are_the_published_trainers(model, task, scale, start):
    runs, published = sides(model[0], task, scale, start, model[1])
    for lam in LAMBDAS:
        row = compared(runs, lam, *published(lam))
        assert row["steps"] == 30
        assert row["epochs"] >= 4
        assert both_branches(runs)
        assert min(row["conflict"], row["no_conflict"]) >= 5
        assert agrees(row), row


BROKEN = {"nothing": {}, "wrong sign": {"sign": 1}, "no weight decay": {"weight_decay": 0},
          "warm-up one epoch longer": {"warmup": 2}, "less momentum": {"momentum": 0.8}}


@pytest.mark.parametrize("model", ["ViT-B-32"], indirect=True)
def test_a_published_trainer_broken_in_one_place_fails_the_comparison(model, task):
    runs, published = sides(model[0], task, SCALES[0], "random", model[1], lambdas=[1.0])
    rows = {name: compared(runs, 1.0, *published(1.0, **broken)) for name, broken in BROKEN.items()}
    assert [name for name, row in rows.items() if agrees(row)] == ["nothing"]


@pytest.mark.parametrize("model", ["ViT-B-32"], indirect=True)
def test_the_published_trainer_with_a_recorder_leaves_what_it_computes(model, task):
    runs, published = sides(model[0], task, SCALES[0], "random", model[1], lambdas=[1.0])
    theirs, path, known = recorded(runs, published, 1.0)
    np.testing.assert_allclose(theirs.steps[["loss_ce", "loss_kl", "cos"]], known, atol=1e-6)
    assert np.array_equal(theirs.contexts[:, 0], path) and len(theirs.steps) == 30
    explorer = explore(theirs, "train", images=2)
    explorer.step = 17
    assert explorer.table()["cos"].iloc[-1] == theirs.steps["cos"].iloc[16]


@pytest.mark.parametrize("model", ["ViT-B-32"], indirect=True)
def test_with_the_templates_own_words_both_trainers_follow_noise(model, task):
    """No equality is claimed there: last digits of the weights move the published trainer as far as the library is from
    it"""
    near = {k: v * (1 + 1e-7) if v.is_floating_point() else v for k, v in model[0].model.state_dict().items()}
    apart_by = {"itself": [], "the library": []}
    for seed in (1, 3):
        runs, published = sides(model[0], task, SCALES[0], "own words", seed, lambdas=[1.0])
        path = published(1.0)[0]
        apart_by["itself"].append(apart(published(1.0, state=near)[0], path).max().item())
        apart_by["the library"].append(apart(torch.from_numpy(runs.contexts[:, 0]), path).max().item())
    assert all(max(each) > 1e-2 for each in apart_by.values()), apart_by
