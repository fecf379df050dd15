"A training is the published algorithm, the same every time, and survives Ctrl-C."
import contextlib
import inspect
import math
import os
import random
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from prograd_viz import runs, training
from prograd_viz.data import Task
from prograd_viz.prompts import make_prompts, plain_text_features, teacher_features
from prograd_viz.runs import STEP_COLUMNS, Recorder
from prograd_viz.tasks import few_shot
from prograd_viz.training import Recipe, Training, epoch_batches, train, train_more

QUICK = {"epochs": 4, "batch_size": 8, "views": 0, "progress": False}  # three steps an epoch on the fixtures' tasks
ACCURACIES = [f"acc_{s}" for s in ("train", "same", "shifted", "new", "style")]


def timeless(runs): return runs.steps.drop(columns="seconds")


def assert_identical(a, b):
    "Bit for bit, but for the clock"
    pd.testing.assert_frame_equal(timeless(a), timeless(b), check_exact=True)
    for field in ("contexts", "text_features", "token_cos", "snapshot_steps"):
        assert np.array_equal(getattr(a, field), getattr(b, field), equal_nan=True), field


# -- the published trainer, restated ------------------------------------------

class PromptLearner(torch.nn.Module):
    "The published prompt learner with the class token at the end, on open_clip's modules"
    def __init__(self, clip, names, n_ctx, template, start):
        super().__init__()
        embed = lambda texts: clip.model.token_embedding(clip.tokenizer(texts)).detach()
        prefix = " ".join(["X"] * n_ctx)
        if template:
            ctx_init = template.replace(" {}.", "")
            n_words = len(ctx_init.split(" "))
            start = torch.zeros(n_ctx, clip.model.token_embedding.embedding_dim, dtype=clip.dtype)
            start[n_ctx - n_words:] = embed([ctx_init])[0, 1:1 + n_words]
            prefix = " ".join([*["X"] * (n_ctx - n_words), ctx_init])
        self.ctx = torch.nn.Parameter(start.clone())
        self.tokens = clip.tokenizer([f"{prefix} {name}." for name in names])
        embedded = embed([f"{prefix} {name}." for name in names])
        self.sos, self.suffix = embedded[:, :1], embedded[:, 1 + n_ctx:]

    def forward(self):
        ctx = self.ctx if self.ctx.ndim == 3 else self.ctx.expand(len(self.tokens), -1, -1)
        return torch.cat([self.sos, ctx, self.suffix], 1)


class CustomCLIP(torch.nn.Module):
    "Logits of the published student on image features"
    def __init__(self, clip, learner):
        super().__init__()
        self.clip, self.learner = clip.model, learner

    def text(self):
        x = self.learner() + self.clip.positional_embedding
        x = self.clip.ln_final(self.clip.transformer(x, attn_mask=self.clip.attn_mask))
        x = x[torch.arange(len(x)), self.learner.tokens.argmax(-1)] @ self.clip.text_projection
        return x / x.norm(dim=-1, keepdim=True)

    def forward(self, images): return self.clip.logit_scale.exp() * images @ self.text().t()


def published(clip, names, features, labels, batches, *, lam, template=None, start=None, n_ctx=4,
              teacher="a photo of a {}.", epochs=4, lr=0.002,
              momentum=0.9, weight_decay=5e-4, warmup_lr=1e-5, T=1.0, warmup=1, sign=-1, always=False):
    "ProGrad's trainer for one run: contexts [S + 1, ...] and a row per step. The last three arguments break it."
    student = CustomCLIP(clip, PromptLearner(clip, names, n_ctx, template, start))
    zero_shot = clip.model.encode_text(clip.tokenizer([teacher.replace("{}", n) for n in names]))
    zero_shot = zero_shot / zero_shot.norm(dim=-1, keepdim=True)
    ctx = student.learner.ctx
    optimiser = torch.optim.SGD([ctx], lr=lr, momentum=momentum, weight_decay=weight_decay)
    path, rows = [ctx.detach().clone()], []
    for epoch in range(1, epochs + 1):
        rate = warmup_lr if epoch <= warmup else lr * (1 + np.cos(np.pi * (epoch - 1 - warmup) / epochs)) / 2
        for group in optimiser.param_groups: group["lr"] = rate
        for batch in batches(epoch):
            logits, believed = student(features[batch]), clip.model.logit_scale.exp() * features[batch] @ zero_shot.t()
            xe = F.cross_entropy(logits, labels[batch])
            kl = -(F.softmax(believed / T, -1) * F.log_softmax(logits / T, -1)).sum(1).mean() * T * T
            optimiser.zero_grad()
            kl.backward(retain_graph=True)
            b_grad = ctx.grad.clone()
            optimiser.zero_grad()
            xe.backward()
            a_grad = ctx.grad.clone()
            b_unit, a_unit = b_grad / torch.linalg.norm(b_grad), a_grad / torch.linalg.norm(a_grad)
            cos = torch.dot(a_unit.flatten(), b_unit.flatten())
            agree = bool(torch.linalg.norm(b_grad) < 1e-12 * torch.linalg.norm(a_grad))
            if (cos < 0 or always) and not agree:
                ctx.grad = a_grad + sign * lam * torch.dot(a_grad.flatten(), b_unit.flatten()) * b_unit
            optimiser.step()
            path.append(ctx.detach().clone())
            moved = (path[-2] - path[-1]).flatten()
            moved_unit = moved / moved.norm()
            entropy = -(F.softmax(believed / T, -1) * F.log_softmax(believed / T, -1)).sum(1).mean()
            rows.append({"step": len(rows) + 1, "epoch": epoch, "lr": rate, "loss_ce": xe.item(),
                         "cos": np.nan if agree else cos.item(), "agree": agree,
                         "loss_kl": (kl - T * T * entropy).item(),
                         "norm_gd": torch.linalg.norm(a_grad).item(), "norm_gg": torch.linalg.norm(b_grad).item(),
                         "norm_update": moved.norm().item(),
                         "cos_step_gd": torch.dot(moved_unit, a_unit.flatten()).item(),
                         "cos_step_gg": np.nan if agree else torch.dot(moved_unit, b_unit.flatten()).item()})
    return torch.stack(path).numpy(), pd.DataFrame(rows)


LAMBDAS = (0.0, 0.8, 1.0)
STARTS = {"template": {}, "padded template": {"n_ctx": 6}, "random": {"init": "random", "n_ctx": 4},
          "class-specific": {"init": "random", "n_ctx": 3, "class_specific": True},
          "warm teacher": {"temperature": 2.0, "teacher": "a sticker of a {}."}}
# with this seed the gradients conflict at some steps and not at others
RECIPE = {"epochs": 8, "batch_size": 8, "seed": 2}


@pytest.fixture(scope="module")
def model(tiny): return tiny()


@pytest.fixture(scope="module", params=STARTS)
def trained(request, model, bare):
    "Three lambdas trained by the library, and the arguments that make the published trainer do the same"
    options = STARTS[request.param]
    runs = train(model, bare, LAMBDAS, views=0, progress=False, **RECIPE, **options)
    same = {"n_ctx": runs.contexts.shape[-2], "teacher": options.get("teacher", "a photo of a {}."),
            "epochs": RECIPE["epochs"], "T": options.get("temperature", 1.0)}
    same |= {"start": torch.from_numpy(runs.contexts[0, 0])} if "init" in options else {"template": "a photo of a {}."}
    return runs, same


def restated(model, bare, lam, until=RECIPE["epochs"], **options):
    "What it trains, up to some epoch"
    features, labels = bare.train.features(model), torch.as_tensor(bare.train.labels)
    batches = lambda epoch: epoch_batches(len(labels), RECIPE["batch_size"], RECIPE["seed"], epoch)
    return published(model, bare.classes, features, labels,
                     lambda epoch: batches(epoch) if epoch <= until else [], lam=lam, **options)


def gap(runs, lam, path):
    "Largest difference of the contexts at any step, relative to how far the context has moved by then"
    ours = runs.contexts[:len(path), runs.run(lam)]
    moved = np.linalg.norm((path - path[0]).reshape(len(path), -1), axis=1)
    return (np.linalg.norm((ours - path).reshape(len(path), -1), axis=1)[1:] / moved[1:]).max()


@pytest.mark.parametrize("lam", LAMBDAS)
def test_every_step_is_the_published_trainers(trained, model, bare, lam):
    runs, same = trained
    path, rows = restated(model, bare, lam, **same)
    ours = runs.steps[runs.steps["lam"] == lam].reset_index(drop=True)
    assert (ours["conflict"].sum() >= 5) and (~ours["conflict"]).sum() >= 5, "both branches of the rule are taken"
    assert gap(runs, lam, path) < 1e-8
    pd.testing.assert_frame_equal(ours[rows.columns].drop(columns="norm_gg"), rows.drop(columns="norm_gg"),
                                  check_dtype=False, rtol=1e-7, atol=1e-9)
    settled = ~rows["agree"]  # in agreement G_g is nothing but rounding
    np.testing.assert_allclose(ours["norm_gg"][settled], rows["norm_gg"][settled], rtol=1e-7)
    np.testing.assert_allclose(ours["angle_deg"], np.degrees(np.arccos(rows["cos"])), rtol=1e-6)
    assert ours["conflict"].equals(rows["cos"] < 0)


BROKEN = {"wrong sign": {"sign": 1}, "no weight decay": {"weight_decay": 0.0},
          "twice the weight decay": {"weight_decay": 1e-3}, "no momentum": {"momentum": 0.0},
          "warm-up one epoch longer": {"warmup": 2}, "no warm-up": {"warmup": 0},
          "another warm-up rate": {"warmup_lr": 1e-4}, "projects without conflict": {"always": True},
          "half the projection": {"sign": -0.5}}


@pytest.mark.parametrize("trained", ["template"], indirect=True)
@pytest.mark.parametrize("broken", BROKEN)
def test_a_trainer_that_differs_in_one_thing_is_told_apart(trained, model, bare, broken):
    "The comparison above sees what it is there to see"
    runs, same = trained
    path, _ = restated(model, bare, 1.0, until=3, **same | BROKEN[broken])
    assert gap(runs, 1.0, path) > 1e-6


@pytest.mark.filterwarnings("ignore:fewer than")
def test_without_options_the_recipe_is_the_published_one(model):
    "One shot: fifty epochs of one batch. Learning rates, momentum, weight decay and start are the defaults of both"
    task = few_shot("pocket", shots=1, seed=2, classes=5, test_per_class=1)
    task = Task("bare", task.train, {})
    features, labels = task.train.features(model), torch.as_tensor(task.train.labels)
    runs = train(model, task, views=0, progress=False)
    assert runs.lambdas == (0.0, 1.0) and runs.steps["step"].max() == 50 and runs.config["teacher"] == task.template
    path, _ = published(model, task.classes, features, labels, lambda epoch: epoch_batches(5, 32, 1, epoch), lam=1.0,
                        template="a photo of a {}.", epochs=50)
    assert gap(runs, 1.0, path) < 1e-8


def test_the_published_recipe_is_in_the_signature():
    defaults = {k: p.default for k, p in inspect.signature(train).parameters.items()}
    assert {k: defaults[k] for k in ("batch_size", "lr", "momentum", "weight_decay", "warmup_lr", "temperature", "init",
                                     "class_specific", "epochs")} == {
        "batch_size": 32, "lr": 0.002, "momentum": 0.9, "weight_decay": 5e-4, "warmup_lr": 1e-5, "temperature": 1.0,
        "init": "template", "class_specific": False, "epochs": None}


@pytest.mark.parametrize("shots, epochs, steps", [(1, 50, 1), (2, 100, 1), (8, 200, 1), (16, 200, 3)])
def test_without_options_the_shots_decide_the_epochs_and_32_images_are_a_batch(model, shots, epochs, steps):
    labels = np.repeat(np.arange(6), shots)
    split = few_shot("pocket", shots=1, seed=2, classes=6, test_per_class=1).train
    split = type(split)([split.images[i] for i in labels], labels, split.classes)
    seen = []

    def stop(step, record):
        seen.append(step)
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match=f"interrupted after 1 of {epochs * steps} steps"):
        runs = train(model, Task("bare", split, {}), [1], views=0, progress=False, callbacks=[stop])
    assert runs.config["epochs"] == epochs and seen == [1]


# -- sameness -----------------------------------------------------------------

TWICE = """
import numpy as np
from prograd_viz.clip import load_clip
from prograd_viz.tasks import few_shot
from prograd_viz.training import train
task = few_shot("pocket", shots=4, seed=3, classes=6, test_per_class=1)
for init in ("template", "random"):
    runs = train(load_clip("pocket"), task, [0, 0.5, 1], epochs=1, batch_size=8, views=2, init=init, n_ctx=5, seed=7,
                 progress=False)
    runs.steps.drop(columns="seconds").to_parquet(f"{init}.parquet")
    np.savez(f"{init}.npz", contexts=runs.contexts, text=runs.text_features, token_cos=runs.token_cos)
"""


def test_the_same_seed_gives_the_same_bits_in_another_process(tmp_path):
    for name in "12": (tmp_path / name).mkdir()
    with contextlib.chdir(tmp_path / "1"): exec(TWICE, {})
    seed = {**os.environ, "PYTHONHASHSEED": "2"}
    subprocess.run([sys.executable, "-c", TWICE], check=True, env=seed, cwd=tmp_path / "2")
    for init in ("template", "random"):
        a, b = (pd.read_parquet(tmp_path / name / f"{init}.parquet") for name in "12")
        pd.testing.assert_frame_equal(a, b, check_exact=True)
        a, b = (np.load(tmp_path / name / f"{init}.npz") for name in "12")
        assert a["contexts"].shape[:2] == (4, 3) and (a["contexts"][0] != a["contexts"][-1]).any()
        assert all(np.array_equal(a[k], b[k], equal_nan=True) for k in a.files)


def test_the_seed_decides_batches_views_and_the_random_start(clip, bare):
    options = QUICK | {"views": 2, "init": "random", "n_ctx": 4}
    one, again, other = (train(clip, bare, [0, 1], seed=s, **options) for s in (1, 1, 2))
    assert_identical(one, again)
    assert not np.array_equal(one.contexts[0], other.contexts[0])
    assert not set(one.steps["batch_hash"]) & set(other.steps["batch_hash"])


def test_every_run_starts_from_the_same_context_and_sees_the_same_batches(clip, bare):
    for options in ({}, {"init": "random", "n_ctx": 4}, {"init": "random", "n_ctx": 4, "class_specific": True}):
        runs = train(clip, bare, [0, 0.3, 1], **QUICK | {"views": 3}, **options)
        assert all(np.array_equal(runs.contexts[0, 0], runs.contexts[0, r]) for r in (1, 2))
        hashes = [list(run["batch_hash"]) for _, run in runs.steps.groupby("run")]
        assert hashes[0] == hashes[1] == hashes[2] and len(set(hashes[0])) == len(hashes[0]) == 12, ("the same across "
                                                                                                     "runs, another "
                                                                                                     "at every step")


def test_the_first_step_differs_between_lambdas_in_the_update_alone(exact, bare):
    runs = train(exact, bare, [0, 0.5, 1], **QUICK, init="random", n_ctx=4)
    first = runs.steps[runs.steps["step"] == 1]
    assert (first[["loss_ce", "loss_kl", "cos", "norm_gd", "norm_gg"]].std() < 1e-12).all()


@pytest.mark.parametrize("options", ({}, {"init": "random", "n_ctx": 3, "class_specific": True}),
                         ids=("unified", "class-specific"))
def test_side_by_side_is_alone(exact, bare, options):
    together = train(exact, bare, [0, 0.5, 1], **QUICK, **options)
    for lam in together.lambdas:
        alone = train(exact, bare, [lam], **QUICK, **options)
        np.testing.assert_allclose(together.contexts[:, together.run(lam)], alone.contexts[:, 0], rtol=0, atol=1e-12)


def test_coop_does_not_depend_on_which_lambdas_train_beside_it(exact, bare):
    paths = []
    for lambdas in ([0, 1], [0.5, 0, 0.25], [1, 0.9, 0.8, 0]):
        runs = train(exact, bare, lambdas, **QUICK)
        paths.append(runs.contexts[:, runs.run(0)])
    for path in paths[1:]: np.testing.assert_allclose(path, paths[0], rtol=0, atol=1e-12)


def test_lambda_matters(exact, bare):
    runs = train(exact, bare, [0, 0.5, 1], **QUICK | {"epochs": 6})
    ends = runs.contexts[-1]
    assert np.abs(ends[0] - ends[1]).max() > 1e-6 and np.abs(ends[1] - ends[2]).max() > 1e-6
    assert list(runs.steps.groupby("run")["method"].first()) == ["CoOp", "ProGrad 0.5", "ProGrad"]


def test_a_cached_view_is_what_training_sees(exact, bare):
    "With one view there is nothing to draw: training on it is training on its images"
    runs = train(exact, bare, [1.0], **QUICK | {"views": 1}, seed=5)
    features, labels = bare.train.view_features(exact, 1, 5)[0], torch.as_tensor(bare.train.labels)
    path, _ = published(exact, bare.classes, features, labels, lambda epoch: epoch_batches(24, 8, 5, epoch), lam=1.0,
                        template="a photo of a {}.")
    assert gap(runs, 1.0, path) < 1e-8


def test_every_view_is_drawn_from(exact, bare):
    "The first of two views is the only one of one: training differs because the second is drawn too"
    both, first = (bare.train.view_features(exact, n, 1) for n in (2, 1))
    assert torch.equal(both[0], first[0]) and not torch.allclose(both[0], both[1], atol=1e-3)
    two, one = (train(exact, bare, [1.0], **QUICK | {"views": n}) for n in (2, 1))
    assert not np.allclose(two.steps["loss_ce"], one.steps["loss_ce"], rtol=1e-6)
    assert not set(two.steps["batch_hash"]) & set(one.steps["batch_hash"])


# -- the record ---------------------------------------------------------------

@pytest.fixture(scope="module")
def full(exact, task):
    "Everything kept at every step"
    return train(exact, task, [0, 1], **QUICK, evaluate_every=1, lr=0.05)


def test_the_record_has_the_columns_of_the_design(full):
    assert list(full.steps.columns) == list(STEP_COLUMNS) == [
        "run", "method", "lam", "seed", "step", "epoch", "lr", "loss_ce", "loss_kl", "cos", "angle_deg", "conflict",
        "agree", "norm_gd", "norm_gg", "norm_g", "norm_update",
        "cos_step_gd", "cos_step_gg", *ACCURACIES, "batch_hash", "seconds"]
    assert len(full.steps) == 2 * 12
    assert list(full.steps["step"]) == [*range(1, 13)] * 2
    assert list(full.steps["epoch"])[:12] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert full.token_cos.shape == (12, 2, 4)
    assert full.steps["seconds"].groupby(full.steps["run"]).apply(lambda s: s.is_monotonic_increasing).all()


def test_cosines_of_tokens_are_those_of_each_context_vector(exact, bare):
    for options in ({}, {"init": "random", "n_ctx": 3, "class_specific": True}):
        runs = train(exact, bare, [0, 1], **QUICK, **options)
        prompts = make_prompts(exact, bare.classes, **options)
        features, labels = bare.train.features(exact), torch.as_tensor(bare.train.labels)
        believed = exact.logit_scale * features @ teacher_features(exact, bare.classes).T
        for step in (4, 9):
            v = torch.from_numpy(runs.contexts[step - 1, 1:]).requires_grad_()
            batch = epoch_batches(24, 8, 1, (step + 2) // 3)[(step - 1) % 3]
            logits = exact.logit_scale * features[batch] @ plain_text_features(prompts, v)[0].T
            losses = (F.cross_entropy(logits, labels[batch]),
                      F.kl_div(logits.log_softmax(-1), believed[batch].softmax(-1), reduction="batchmean"))
            grads = [torch.autograd.grad(loss, v, retain_graph=True)[0][0] for loss in losses]
            d, g = (x.reshape(-1, prompts.n_ctx, 128).transpose(0, 1).flatten(1) for x in grads)  # a row per token
            np.testing.assert_allclose(runs.token_cos[step - 1, 1], F.cosine_similarity(d, g).numpy(), rtol=1e-6)


def test_accuracies_are_those_of_the_context_on_each_split(full, exact, task):
    for split, test in {"train": task.train, **task.tests}.items():
        prompts = make_prompts(exact, test.classes)
        for k, step in list(enumerate(full.snapshot_steps))[3::3]:
            text = plain_text_features(prompts, torch.from_numpy(full.contexts[k]))
            right = (test.features(exact) @ text.mT).argmax(-1).numpy() == test.labels
            recorded = full.steps.loc[full.steps["step"] == step, f"acc_{split}"]
            assert list(recorded) == pytest.approx(list(right.mean(1)))
        zero_shot = (test.features(exact) @ teacher_features(exact, test.classes).T).argmax(-1).numpy() == test.labels
        assert full.zero_shot_accuracy[split] == pytest.approx(zero_shot.mean())
    assert full.steps[ACCURACIES].nunique().min() > 1 or full.steps[ACCURACIES].std().max() > 0, ("something was "
                                                                                                  "learned, or this "
                                                                                                  "compares constants")


def test_text_features_are_those_of_the_snapshots(full, exact, task):
    prompts = make_prompts(exact, task.classes)
    for k in range(len(full.snapshot_steps)):
        np.testing.assert_allclose(full.text_features[k],
                                   plain_text_features(prompts, torch.from_numpy(full.contexts[k])).numpy(), atol=1e-12)
    np.testing.assert_allclose(full.zero_shot, teacher_features(exact, task.classes).numpy(), atol=1e-12)
    assert np.array_equal(full.text(0, 5), full.text_features[5, 0])
    assert np.array_equal(full.text(1), full.text_features[-1, 1])


@pytest.mark.parametrize("every, kept", [(1, list(range(13))), (5, [0, 5, 10, 12]), (4, [0, 4, 8, 12]), (100, [0, 12])])
def test_snapshots_are_kept_at_the_start_every_so_often_and_at_the_end(exact, task, full, every, kept):
    runs = train(exact, task, [0, 1], **QUICK, snapshot_every=every, evaluate_every=every, lr=0.05)
    assert list(runs.snapshot_steps) == kept and np.array_equal(runs.contexts, full.contexts[kept])
    evaluated = runs.steps.loc[runs.steps["acc_same"].notna(), "step"]
    assert sorted(set(evaluated)) == [s for s in kept if s], "accuracies likewise, and at the end"
    same = [c for c in timeless(runs).columns if c not in ACCURACIES]
    pd.testing.assert_frame_equal(runs.steps[same], full.steps[same], check_exact=True)
    at = runs.steps["step"].isin(kept)
    pd.testing.assert_frame_equal(runs.steps.loc[at, ACCURACIES], full.steps.loc[at, ACCURACIES])


def test_callbacks_see_every_step_and_what_is_recorded(exact, bare):
    seen = []
    runs = train(exact, bare, [0, 1], **QUICK,
                 callbacks=[lambda step, record: seen.append((step, record["cos"].tolist())), lambda step,
                            record: None])
    assert [s for s, _ in seen] == list(range(1, 13))
    np.testing.assert_array_equal([c for _, c in seen],
                                  np.stack([run["cos"] for _, run in runs.steps.groupby("run")], 1))


def test_one_run_wins_by_its_lambda_not_by_its_place(exact, bare):
    runs = train(exact, bare, [1, 0.25, 0], **QUICK)
    for r, lam in enumerate((1, 0.25, 0)):
        assert runs.run(lam) == r
        assert (runs.steps.loc[runs.steps["run"] == r, "lam"] == lam).all()
        assert runs.final().loc[lam, "run"] == r
    assert runs.conflicts()["conflict"].to_dict() == {lam: runs.steps.loc[runs.steps["lam"] == lam, "conflict"].mean()
                                          for lam in (1, 0.25, 0)}


# -- Ctrl-C -------------------------------------------------------------------

def assert_is_the_beginning(partial, full):
    "What an interrupted training returns is the uninterrupted one, up to some step"
    done = len(partial.steps) // 2
    assert partial.interrupted
    assert len(partial.steps) == 2 * done
    assert len(partial.token_cos) == done
    assert partial.snapshot_steps[-1] == done
    expected = full.steps[full.steps["step"] <= done].reset_index(drop=True)
    same = [c for c in timeless(full).columns if c not in ACCURACIES]
    if done: pd.testing.assert_frame_equal(partial.steps[same], expected[same], check_exact=True)
    for name in ACCURACIES:
        evaluated = partial.steps[name].notna()
        assert partial.steps.loc[evaluated, name].equals(expected.loc[evaluated, name])
        assert partial.steps.loc[partial.steps["step"] == done, name].notna().all()
    assert np.array_equal(partial.contexts, full.contexts[partial.snapshot_steps])
    assert np.array_equal(partial.text_features, full.text_features[partial.snapshot_steps])
    return done


@pytest.mark.parametrize("stop", random.Random(0).sample(range(1, 12), 4) + [12])
@pytest.mark.parametrize("every", (1, 5))
def test_ctrl_c_after_a_step_returns_all_until_then(exact, task, full, stop, every):
    def press(step, record):
        if step == stop: raise KeyboardInterrupt
    with pytest.warns(UserWarning, match=f"interrupted after {stop} of 12"):
        partial = train(exact, task, [0, 1], **QUICK, callbacks=[press], snapshot_every=every, evaluate_every=every,
                        lr=0.05)
    assert assert_is_the_beginning(partial, full) == stop
    assert repr(partial) and len(partial.final()) == 2 and partial.text(1).shape == full.text(1).shape


@contextlib.contextmanager
def pressed(at):
    """Raise KeyboardInterrupt before the at-th line of training.py or runs.py that runs inside the training loop;
    yields the places passed, as (function, line)"""
    places, files = [], {training.__file__, runs.__file__}
    loops = {train.__code__: loop_lines(train, "for batch in")}

    def in_loop(frame):
        while frame and frame.f_code not in loops: frame = frame.f_back
        return frame and loops[frame.f_code][0] <= frame.f_lineno <= loops[frame.f_code][1]

    def trace(frame, event, arg):
        if frame.f_code.co_filename not in files: return None
        if event == "line" and in_loop(frame):
            places.append((frame.f_code.co_name, frame.f_lineno))
            if len(places) == at: raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try: yield places
    finally: sys.settrace(before)


def loop_lines(function, head):
    "First and last line of what stands under a line"
    lines, start = inspect.getsourcelines(function)
    first = next(i for i, line in enumerate(lines) if head in line)
    indent = len(lines[first]) - len(lines[first].lstrip())
    last = first + 1
    while len(lines[last + 1]) - len(lines[last + 1].lstrip()) > indent: last += 1
    return start + first + 1, start + last


def test_ctrl_c_at_any_line_of_the_loop_returns_whole_steps(tiny, task, monkeypatch):
    "A signal arrives between any two lines: a step is kept with its record, its context and its place, or not at all"
    clip = tiny()
    known = {classes: teacher_features(clip, classes, task.template)
             for classes in {split.classes for split in task.splits.values()}}
    # a hundred trainings of one frozen model need its teacher once
    monkeypatch.setattr("prograd_viz.evaluate.teacher_features", lambda clip, classes, templates: known[classes])
    options = QUICK | {"epochs": 2, "lr": 0.05}
    full = train(clip, task, [0, 1], **options, evaluate_every=1)
    options |= {"snapshot_every": 4, "evaluate_every": 3}
    with pressed(at=None) as places: train(clip, task, [0, 1], **options)
    within = ("train", "descend", "log", "_append", "_reach")
    lines = {name: len({p for p in places if p[0] == name}) for name in within}
    assert lines["train"] >= 8 and lines["descend"] == 3 and lines["log"] >= 10, lines
    assert lines["_append"] + lines["_reach"] >= 6, lines
    everywhere = {p: i for i, p in reversed(list(enumerate(places, 1)))}  # the first time each line runs
    later = random.Random(0).sample(range(len(places) // 3, len(places)), 10)
    broken, ways = set(), {}
    for at in sorted({*everywhere.values(), *later}):
        try:
            with warnings.catch_warnings(action="ignore"), pressed(at): partial = train(clip, task, [0, 1], **options)
            ways[assert_is_the_beginning(partial, full)] = partial
        except (Exception, KeyboardInterrupt) as e: broken.add("{}, line {}: {}".format(*places[at - 1], repr(e)[:200]))
    assert not broken, ("interrupted before one of these, a training returns half a step or "
                        "nothing:\n") + "\n".join(sorted(broken))
    assert min(ways) == 0 and len(ways) > 3
    for done, partial in ways.items():
        assert repr(partial) and len(partial.final()) == (2 if done else 0)
        assert partial.text(1).shape == full.text(1).shape


# -- lightness ----------------------------------------------------------------

@pytest.mark.parametrize("module", ("prograd_viz", "prograd_viz.runs", "prograd_viz.checks"))
def test_a_record_opens_without_torch(module, tmp_path):
    heavy = {"torch", "open_clip", "torchvision", "nbdev", "fastcore"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.strip() == "[]"


def test_the_star_import_leaves_what_takes_a_second_until_it_is_used(tmp_path):
    heavy = {"torchvision", "open_clip", "timm", "cv2", "sklearn", "scipy.stats", "pytorch_grad_cam", "torch._dynamo"}
    code = (f"import sys; from prograd_viz.all import *; print(sorted({heavy} & set(sys.modules)))\n"
            "import torchvision; print(torchvision.__name__)  # whatever build of torch is beside it")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.split("\n")[:2] == ["[]", "torchvision"]


def test_fresh_views_are_new_at_each_step_and_the_same_again_with_the_same_seed(clip, bare):
    "On-the-fly augmentation: no two epochs see the same pixels, two trainings with one seed see exactly the same"
    seen = lambda seed, *at: bare.train.fresh_features(clip, [0, 1], [seed, *at])
    assert torch.equal(seen(1, 2, 0), seen(1, 2, 0))
    assert not torch.equal(seen(1, 2, 0), seen(1, 3, 0))
    assert not torch.equal(seen(1, 2, 0), seen(2, 2, 0))
    options = {"lambdas": [0, 1], "epochs": 3, "progress": False}
    one, other, cached = (train(clip, bare, views=views, **options) for views in ("fresh", "fresh", 2))
    np.testing.assert_array_equal(one.contexts, other.contexts)
    assert not np.array_equal(one.contexts[1:], cached.contexts[1:])
    assert one.steps["batch_hash"].nunique() == len(one.steps) / 2


def test_parts_of_the_classes_train_the_same_prompts(exact, bare):
    whole, parts = (train(exact, bare, [0, 1], epochs=3, views=0, memory_gb=gb, progress=False) for gb in (2.0, 1e-3))
    assert len(make_prompts(exact, bare.classes).parts(2, 1e-3)) > 1
    np.testing.assert_allclose(parts.contexts, whole.contexts, rtol=0, atol=1e-12)


def test_a_class_name_in_the_middle_is_trained_and_judged_there(exact, task):
    runs = train(exact, task, [0, 1], epochs=2, views=0, position="middle", progress=False)
    prompts = make_prompts(exact, task.classes, position="middle")
    np.testing.assert_allclose(runs.text_features[-1],
                               plain_text_features(prompts, torch.from_numpy(runs.contexts[-1])).numpy(), atol=1e-12)
    new = task.tests["new"]
    text = plain_text_features(make_prompts(exact, new.classes, position="middle"), torch.from_numpy(runs.contexts[-1]))
    right = ((new.features(exact) @ text.mT).argmax(-1) == torch.as_tensor(new.labels)).double().mean(-1)
    np.testing.assert_allclose(runs.final()["acc_new"], right)


def test_a_step_reads_nothing_back_from_the_device(clip, bare):
    "What a GPU would have to stop for: turning a tensor into a Python number, or a shape that depends on data"
    waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal.default")
    read = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            read.extend(w for w in waits if w in str(func))
            return func(*args, **(kwargs or {}))

    training = Training(clip, bare, [0.0, 1.0], Recipe(views=0).checked(bare))
    assert training.prompts.packing is not None  # decided once, before the watch
    [batch], record = list(training.batches())[:1], training.recorder()
    with Watch():
        for step in (1, 2):
            grads = training.gradients(training.context, batch.images, batch.labels, batch.teacher_logits)
            direction = training.steer(grads.g_d, grads.g_g, training.context.detach().clone())
            record.log(step, loss_ce=grads.loss_ce, loss_kl=grads.loss_kl, g_d=grads.g_d, g_g=grads.g_g, g=direction,
                       context=training.context, text_features=grads.text, lr=batch.lr, batch_hash=batch.hash)
            training.descend(direction, batch)
        assert not read
        training.context.sum().item()
    assert read == ["_local_scalar_dense"], "the watch works"


def test_runs_of_another_loop_cannot_get_further_lambdas(clip, bare):
    record = Recorder(bare.classes, "mine")
    record.log(1, text_features=torch.ones(len(bare.classes), 4))
    runs = record.runs(clip, bare)
    with pytest.raises(ValueError, match="the runs mine were not recorded by train"): train_more(runs, [0.5])


def test_memory_without_a_limit_is_kept_as_json_and_resumed(clip, bare, tmp_path):
    options = {"epochs": 1, "batch_size": 8, "views": 0, "memory_gb": math.inf, "progress": False}
    whole = train(clip, bare, [0, 1], out=tmp_path / "run", **options)
    assert whole.config["memory_gb"] == 1e9
    again = train(clip, bare, [0, 1], out=tmp_path / "run", resume=True, **options)
    limited = train(clip, bare, [0, 1], **options | {"memory_gb": 1.0})
    assert np.array_equal(again.contexts, whole.contexts) and np.array_equal(limited.contexts, whole.contexts)


def test_lambdas_left_over_from_a_kill_are_removed_once_they_are_in_the_folder(clip, bare, tmp_path):
    "A kill between the replacing of a run set and the removal of the folder inside it"
    options = {"epochs": 1, "batch_size": 8, "views": 0, "progress": False}
    folder, inside = tmp_path / "run", tmp_path / "run" / ".more"
    train(clip, bare, [0, 0.5, 1], out=folder, **options)
    train(clip, bare, [0.5], out=inside, **options)
    runs = train(clip, bare, [0, 0.25, 0.5, 1], out=folder, resume=True, **options)
    assert sorted(runs.lambdas) == [0, 0.25, 0.5, 1] and not inside.exists()
    alone = train(clip, bare, [0, 0.25, 0.5, 1], **options)
    for lam in (0, 0.25, 0.5, 1): assert np.allclose(runs.text(lam), alone.text(lam), atol=1e-5)
