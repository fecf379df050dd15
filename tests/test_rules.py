"Every rule trains through the same step, and ProGrad's own path is untouched by the others."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torchjd import aggregation

from prograd_viz.gradients import project, prompt_gradients
from prograd_viz.plots import gradient_arrows
from prograd_viz.prompts import make_prompts, plain_text_features, teacher_features
from prograd_viz.rules import RULES, Signals, find_rule
from prograd_viz.sweep import sweep
from prograd_viz.training import epoch_batches, learning_rate, train, train_more

QUICK = {"epochs": 3, "batch_size": 8, "views": 0, "progress": False}


@pytest.fixture(scope="module")
def problem(exact, bare):
    "(prompts, features, labels, teacher's text features) of the library's own objects"
    return lambda **options: (make_prompts(exact, bare.classes, **options), bare.train.features(exact),
                              torch.as_tensor(bare.train.labels), teacher_features(exact, bare.classes))


def walk(prompts, features, labels, teacher, direction, start):
    """SGD by hand along direction(grads, context), one tensor operation after the other, as torch's SGD does them; the
    contexts, [S + 1, R, ...]"""
    context, momentum, path = start.clone(), None, [start]
    for epoch in range(1, QUICK["epochs"] + 1):
        for batch in epoch_batches(len(labels), QUICK["batch_size"], 1, epoch):
            grads = prompt_gradients(prompts, context, features[batch], labels[batch],
                                     prompts.clip.logit_scale * features[batch] @ teacher.T)
            g = direction(grads, context).add(context, alpha=5e-4)
            momentum = g.clone() if momentum is None else momentum.mul(0.9).add(g)
            context = context.add(momentum, alpha=-learning_rate(epoch, QUICK["epochs"]))
            path.append(context)
    return torch.stack(path).numpy()


@pytest.mark.parametrize("options", ({}, {"init": "random", "n_ctx": 3, "class_specific": True}),
                         ids=("unified", "class-specific"))
def test_prograd_is_bit_for_bit_two_gradients_one_projection_and_sgd(exact, bare, problem, options):
    lambdas = [0.0, 0.5, 1.0]
    prompts, features, labels, teacher = problem(**options)
    start = prompts.start[None].repeat(3, *[1] * prompts.start.ndim)
    path = walk(prompts, features, labels, teacher, lambda grads,
                _: project(grads.g_d, grads.g_g, torch.tensor(lambdas, dtype=torch.float64)).g, start)
    for runs in (train(exact, bare, lambdas, **QUICK, **options),
                 train(exact, bare, lambdas, rule="prograd", **QUICK, **options)):
        assert np.array_equal(runs.contexts, path)
        assert list(map(runs.rule, runs.keys)) == ["coop", "prograd", "prograd"] and runs.config["rule"] == "prograd"


def test_projects_handed_in_as_a_function_are_prograd_bit_for_bit(exact, bare):
    "A function of the user's goes another way through the step and arrives at the same bits"
    def mine(x): return project(x.g_d, x.g_g, x.strength.flatten()).g
    ours, theirs = train(exact, bare, [0, 0.5, 1], **QUICK), train(exact, bare, [0, 0.5, 1], rule=mine, **QUICK)
    assert np.array_equal(ours.contexts, theirs.contexts) and set(map(theirs.rule, theirs.keys)) == {"mine"}
    same = [c for c in ours.steps if c not in ("method", "seconds")]
    assert ours.steps[same].equals(theirs.steps[same])


def plain(name, s, d, g, away, far):
    "The equations of the papers for one run, in numpy, without a word from the library"
    dot, bad = float((d * g).sum()), float((d * g).sum()) < 0
    if name == "coop": return d
    if name == "prograd": return d - s * dot / (g * g).sum() * g if bad else d
    if name == "sum": return d + s * g
    if name == "distil": return s * g
    if name == "pcgrad": return (d - dot / (g * g).sum() * g) + s * (g - dot / (d * d).sum() * d) if bad else d + s * g
    if name == "agem": return d + max(s, -dot / (g * g).sum()) * g if bad else d  # GEM's code solves nothing else
    if name == "gated": return (1 - s) * d if bad else d
    if name == "l2": return d + s * away
    if name == "kgcoop": return d + s * far


STRENGTHS = {"coop": [0], "prograd": [0.5, 1], "sum": [0.5, 3], "distil": [1, 2], "pcgrad": [1, 0.5], "agem": [0, 3],
             "gated": [1, 0.5], "l2": [0.5, 5], "kgcoop": [8, 1]}


UNIFIED, OWN = {"init": "random", "n_ctx": 4}, {"init": "random", "n_ctx": 3, "class_specific": True}


@pytest.mark.parametrize("name, options", [*((name, UNIFIED) for name in RULES), ("pcgrad", OWN), ("kgcoop", OWN)],
                         ids=lambda x: x if isinstance(x, str) else "class-specific" if x is OWN else "unified")
def test_a_training_follows_the_equation_of_its_rule(exact, bare, problem, name, options):
    prompts, features, labels, teacher = problem(**options)
    runs = train(exact, bare, STRENGTHS[name], rule=name, **QUICK, **options)
    assert set(STRENGTHS) == set(RULES) and set(map(runs.rule, runs.keys)) == {name} and runs.config["rule"] == name
    for r, s in enumerate(STRENGTHS[name]):
        def direction(grads, context, s=s):
            c = context.detach().requires_grad_()
            far = c
            if name == "kgcoop":  # the one rule that looks at it
                text = plain_text_features(prompts, c)[0]
                (far,) = torch.autograd.grad(1 - torch.nn.functional.cosine_similarity(text, teacher).mean(), c)
            return torch.from_numpy(plain(name, s, *(x.detach().numpy() for x in (grads.g_d, grads.g_g,
                                                                                  context - prompts.start, far))))
        path = walk(prompts, features, labels, teacher, direction, prompts.start[None])[:, 0]
        moved = np.linalg.norm((path - path[0]).reshape(len(path), -1), axis=1)[1:]
        apart = np.linalg.norm((runs.contexts[:, r] - path).reshape(len(path), -1), axis=1)[1:]
        assert (apart <= 1e-8 * moved).all(), (apart / moved).max()
    conflicts = runs.steps["conflict"]
    if name != "distil": assert 0 < conflicts.mean() < 1, "both branches are taken"


def test_rules_differ(exact, bare):
    options = {"init": "random", "n_ctx": 4} | QUICK  # strengths at which no rule is another: agem at 0 is ProGrad
    ends = {name: train(exact, bare, s[-1:], rule=name, **options).contexts[-1, 0] for name, s in STRENGTHS.items()}
    names = list(ends)
    assert all(np.abs(ends[a] - ends[b]).max() > 1e-6 for i, a in enumerate(names) for b in names[i + 1:])


def test_a_sweep_over_rules_has_a_row_per_rule_and_strength_beside_zero_shot(clip, task, tmp_path):
    """Each is trained as `train` does alone, so A-GEM at the strength of its source ends where ProGrad does: it is
    ProGrad"""
    data = {"shots": 4, "seed": 3, "classes": 6, "test_per_class": 4, "epochs": 2, "batch_size": 8,
            "views": 0}
    cells = pd.DataFrame([{"rule": rule, "lam": RULES[rule].usual} | data
                          for rule in ("coop", "prograd", "agem", "l2")])
    result = sweep(cells, tmp_path, workers=1, progress=False, clip=clip)
    table = result.results().drop_duplicates("method").set_index("method")
    assert list(table.index) == ["zero-shot CLIP", "CoOp", "ProGrad", "agem 0", "l2 0.1"]
    assert table["lam"].tolist()[1:] == [0, 1, 0, 0.1]
    for rule, lam, method in (("prograd", 1, "ProGrad"), ("l2", 0.1, "l2 0.1")):
        runs = train(clip, task, [lam], rule=rule, seed=3, epochs=2, batch_size=8, views=0, progress=False)
        for column in ("acc_same", "acc_new", "loss_ce", "loss_kl"):
            assert table.loc[method, column] == pytest.approx(runs.final()[column].item()), column
    assert table.loc["zero-shot CLIP", "acc_same"] == runs.zero_shot_accuracy["same"]
    (prograd,), (agem,) = (result.runs(rule=rule) for rule in ("prograd", "agem"))
    moved = np.linalg.norm(prograd.contexts[-1] - prograd.contexts[0])
    assert np.linalg.norm(prograd.contexts[-1] - agem.contexts[-1]) < 1e-3 * moved


def test_more_strengths_join_a_run_set_of_another_rule(clip, bare):
    runs = train_more(train(clip, bare, [1], rule="sum", **QUICK), [3], progress=False)
    assert runs.lambdas == (1.0, 3.0) and set(map(runs.rule, runs.keys)) == {"sum"}
    with pytest.raises(ValueError, match="at least 0, got -1"): train_more(runs, [-1])


def test_a_rule_of_ones_own_goes_on_if_it_is_handed_in_again(clip, bare, tmp_path):
    def mine(x): return x.g_d + x.strength * x.g_g
    runs, together = train(clip, bare, [1], rule=mine, **QUICK), train(clip, bare, [1, 3], rule=mine, **QUICK)
    more = train_more(runs, [3], progress=False, rule=mine)
    assert more.lambdas == (1.0, 3.0)
    assert set(map(more.rule, more.keys)) == {"mine"}
    assert np.array_equal(more.contexts[:, :1], runs.contexts)
    np.testing.assert_allclose(more.contexts[:, 1], together.contexts[:, 1], rtol=0, atol=1e-6)
    with pytest.raises(ValueError,
                       match=r"followed your own rule 'mine'.*train_more\(runs, lambdas, rule=mine\)"):
        train_more(runs, [3], progress=False)
    with pytest.raises(ValueError, match="followed the rule 'mine', got rule 'sum'"):
        train_more(runs, [3], progress=False, rule="sum")
    with pytest.raises(ValueError, match="followed the rule 'sum', got rule 'mine'"):
        train_more(train(clip, bare, [1], rule="sum", **QUICK), [3], progress=False, rule=mine)
    for strengths in ([1], [1, 3]):
        kept = train(clip, bare, strengths, rule=mine, out=tmp_path / "runs", resume=True, **QUICK)
    assert kept.lambdas == (1.0, 3.0) and np.array_equal(kept.contexts,
                                                         more.contexts), "a folder takes further strengths of it too"


@pytest.mark.parametrize("name, s", [("prograd", 1), ("prograd", 0.5), ("coop", 0), ("sum", 2), ("distil", 1),
                                     ("pcgrad", 1), ("agem", 0.5), ("gated", 0.5), ("l2", 1), ("kgcoop", 8)])
def test_the_gradient_plane_shows_what_the_rule_made_of_the_two_gradients(exact, bare, name, s):
    "Without weight decay the first step is the learning rate times G"
    for seed in (1, 2, 3):
        runs = train(exact, bare, [s], rule=name, init="random", n_ctx=4, seed=seed, weight_decay=0,
                     **QUICK | {"epochs": 1})
        row = runs.steps.iloc[0]
        ((_, _, _), (g_d, _, _), (g, _, says), (real, _, _)), _, _ = gradient_arrows(runs, s, 1)
        if name in ("l2", "kgcoop"): assert not g.any() and "leaves" in says
        else:
            assert np.linalg.norm(g) == pytest.approx(row["norm_update"] / row["lr"], rel=1e-5)
            np.testing.assert_allclose(real, g, rtol=1e-4, atol=1e-4 * np.linalg.norm(g_d))


def pair_signals(n=1000):
    "Random pairs of gradients as `steering` hands them to a rule"
    rng = torch.Generator().manual_seed(7)
    g_d, g_g = (torch.randn(n, 4, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    found = project(g_d, g_g, 0.0)
    each = lambda x: x.view(-1, 1, 1)
    return Signals(g_d, g_g, g_d, g_d, torch.ones(n, 1, 1, dtype=torch.float64), each(found.cos), each(found.conflict),
                   None)


def test_pcgrad_is_torchjds_on_a_thousand_pairs():
    pairs = pair_signals()
    theirs = find_rule(aggregation.PCGrad())[1].direction(pairs)
    assert 400 < pairs.conflict.sum() < 600
    assert torch.allclose(theirs, RULES["pcgrad"].direction(pairs), rtol=0, atol=1e-12)


def test_an_aggregator_trains_as_the_rule_that_it_equals(exact, bare):
    "From a random start: at the template's own words an aggregator takes the rounding noise of G_g for a gradient"
    ours = train(exact, bare, [0.5, 1], rule="pcgrad", **QUICK, **UNIFIED)
    theirs = train(exact, bare, [0.5, 1], rule=aggregation.PCGrad(), **QUICK, **UNIFIED)
    np.testing.assert_allclose(theirs.contexts, ours.contexts, atol=1e-9)
    assert theirs.methods == ("PCGrad 0.5", "PCGrad 1")


def test_every_run_has_its_own_copy_of_an_aggregator_that_remembers():
    "Running means within the aggregator: two runs side by side are two runs alone"
    pairs, alone = pair_signals(2), []
    both = find_rule(aggregation.GradVac())[1].direction
    each = [find_rule(aggregation.GradVac())[1].direction for _ in range(2)]
    one = lambda r: replace(pairs, **{name: getattr(pairs, name)[r:r + 1] for name in ("g_d", "g_g", "strength")})
    for _ in range(3): together, alone = both(pairs), [f(one(r)) for r, f in enumerate(each)]
    assert torch.equal(together, torch.cat(alone))


def test_a_class_is_not_an_aggregator():
    with pytest.raises(ValueError, match=r"rule 'MGDA' is a class; call it: MGDA\(\)"): find_rule(aggregation.MGDA)
