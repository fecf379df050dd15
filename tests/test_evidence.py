"What the tables of the headline and of the evidence say follows from their rows, and the trade-off from the paths."
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

import evidence
import figures
import headline
import tradeoff
from prograd_viz.evaluate import disagreeing, predictions
from prograd_viz.gradients import cross_entropy, kl_to_teacher
from prograd_viz.maps import Occlusion, foreground
from prograd_viz.runs import Runs, run_name
from prograd_viz.summary import summarise
from prograd_viz.tasks import few_shot
from prograd_viz.training import train


def short(clip, **options) -> Runs:
    "A short training, with a snapshot of every step"
    task = few_shot("pocket", shots=1, seed=2, classes=4, test_per_class=2)
    options = {"epochs": 6, "lr": 0.05, "views": 0, "snapshot_every": 1, "progress": False} | options
    return train(clip, task, lambdas=[0, 0.5, 1], **options)


@pytest.fixture(scope="module")
def runs(clip) -> Runs: return short(clip)


def path(kl, ce): return pd.DataFrame({"step": range(len(kl)), "loss_kl": kl, "loss_ce": ce})


def test_the_cheapest_state_of_a_path_is_found_also_between_snapshots():
    "At the limit itself, where the path crosses it; also where it comes back; NaN where it never is as near"
    assert tradeoff.cheapest(path([0, 1, 2], [3, 2, 1]), "loss_kl", 1.25)["loss_ce"] == pytest.approx(1.75)
    assert tradeoff.cheapest(path([0, 1, 2], [3, 2, 1]), "loss_kl", 9)["loss_ce"] == 1
    back = tradeoff.cheapest(path([0, 4, 1], [3, 2, 0.5]), "loss_kl", 2)
    assert (back["loss_ce"], back["step"]) == (0.5, 2)
    assert np.isnan(tradeoff.cheapest(path([1, 2], [3, 2]), "loss_kl", 0.5)["loss_ce"])


def by_hand(runs):
    "Both losses of every snapshot over all training images, [K, R] each, and the logits of zero-shot CLIP"
    train_set, clip = runs.task.train, runs.clip
    features, labels = train_set.features(clip), torch.as_tensor(train_set.labels)
    teacher = clip.logit_scale * features @ torch.as_tensor(runs.zero_shot).to(features).T
    logits = clip.logit_scale * features @ torch.as_tensor(np.asarray(runs.text_features[:])).to(features).mT
    ce = np.stack([cross_entropy(one, labels).numpy() for one in logits])
    return ce, np.stack([kl_to_teacher(one, teacher).numpy() for one in logits]), teacher


def test_the_tradeoff_compares_prograds_end_with_coops_path(runs):
    "CoOp's lowest loss is among its snapshots that are as near"
    table, (ce, kl, teacher) = tradeoff.tradeoff(runs).set_index("lam"), by_hand(runs)
    labels = torch.as_tensor(runs.task.train.labels)
    assert table.loc[list(runs.lambdas), "train_ce"].tolist() == pytest.approx(ce[-1].tolist(), abs=1e-4)
    assert table.loc[list(runs.lambdas), "train_kl"].tolist() == pytest.approx(kl[-1].tolist(), abs=1e-4)
    assert table["matched_ce"].isna().tolist() == [True, False, True, False]
    assert table["matched_ce"][1.0] == pytest.approx(ce[-1, 2], abs=1e-4)
    near = kl[:, 0] <= kl[-1, 2]
    assert near.any() and table["matched_ce"][0.0] <= ce[near, 0].min() + 1e-4
    zero_shot = table[table.index.isna()].iloc[0]
    assert zero_shot["train_ce"] == pytest.approx(cross_entropy(teacher[None], labels).item(), abs=1e-5)
    assert zero_shot["train_kl"] == 0


def test_the_tradeoff_of_class_specific_contexts_is_that_of_their_own_text_features(clip):
    runs = short(clip, class_specific=True, init="random", n_ctx=2)
    table, (ce, kl, _) = tradeoff.tradeoff(runs).set_index("lam"), by_hand(runs)
    assert runs.contexts.ndim == 5 and len(set(np.round(ce[-1], 6))) == 3, "three contexts per class that differ"
    assert table.loc[list(runs.lambdas), "train_ce"].tolist() == pytest.approx(ce[-1].tolist(), abs=1e-4)
    assert table.loc[list(runs.lambdas), "train_kl"].tolist() == pytest.approx(kl[-1].tolist(), abs=1e-4)


def test_the_evidence_of_a_training_has_every_column_that_its_report_reads(runs, monkeypatch):
    "And its shares are those of `foreground`"
    few = {"": ("GradCAM", 4), "_occlusion": (Occlusion(stride=28), 2)}
    monkeypatch.setattr(evidence, "EXPLAINERS", few)
    monkeypatch.setattr(evidence, "CHANGED", 8)
    table = evidence.looks_and_leans(runs)
    randoms = {f"share_{split}_random{end}" for split in ("same", "shifted") for end in few}
    read = {*evidence.SHARES, *evidence.TRADEOFF, "train_ce", "train_kl", *randoms, "area_same"}
    assert read | {"follows_background", "area_shifted"} <= {*table}
    assert table["lam"].tolist()[1:] == list(runs.lambdas)
    for end, (explainer, images) in few.items():
        looks = foreground(runs, "shifted", images=images, target="predicted", explainer=explainer)
        shares = looks.summary().set_index("method")["share"]
        for row, key in zip(table.to_dict("records"), (None, *runs.keys)):
            assert row[f"share_shifted_predicted{end}"] == pytest.approx(shares[runs.name(key)], nan_ok=True)


@pytest.mark.parametrize("lam, step", [(None, None), (0.5, 5), (1, 3)])
def test_the_first_image_of_each_class_on_which_the_methods_disagree_comes_first(runs, lam, step):
    table = predictions(runs, "shifted", step=step)
    said = table.pivot(index="image", columns="method", values="predicted")
    apart = said[["zero-shot CLIP", "CoOp", runs.name(lam or 1)]].nunique(axis=1) > 1
    label, expected = table.groupby("image")["label"].first(), []
    for group in (said.index[apart], said.index[~apart]):
        by_class = [[i for i in group if label[i] == c] for c in sorted(set(label))]
        expected += [i for turn in itertools.zip_longest(*by_class) for i in sorted(j for j in turn if j is not None)]
    assert disagreeing(runs, "shifted", images=999, step=step, lam=lam) == expected
    assert disagreeing(runs, "shifted", images=6, step=step, lam=lam) == expected[:6]


# ---- tables, from rows that are drawn at random

def rows_of(seeds, lambdas, columns, **setting):
    "A row per seed and method, with numbers in every column; ProGrad has 0.2 more, and a lower matched loss"
    draw, rows = np.random.default_rng(0), []
    for seed, lam in itertools.product(seeds, [np.nan, *lambdas]):
        method = run_name(None, None) if np.isnan(lam) else run_name("prograd", lam)
        numbers = dict(zip(columns, 0.3 + 0.2 * (lam == 1) + 0.01 * draw.random(len(columns))))
        rows.append({"seed": seed, "method": method, "lam": lam, **setting, **numbers})
    table = pd.DataFrame(rows)
    known = table["lam"].isin([0, 1])
    matched = np.where(table["lam"] == 1, 0.5, 1.5 + table["acc_same"])
    return table.assign(matched_ce=np.where(known, matched, np.nan))


def test_the_headline_shows_both_explainers_the_floor_and_the_tradeoff():
    randoms = [name.replace("predicted", "random") for name in headline.SHARES]
    columns = [*evidence.MEASURES, "conflict", "area_shifted", *headline.SHARES, *randoms]
    table = rows_of(headline.SEEDS, headline.LAMBDAS, columns)
    read = pd.DataFrame({"every": headline.EVERY * 2, "matched_ce": [-0.1, -0.2, -0.3, -0.4, -0.5] * 2})
    text = headline.headline_md(table, read)
    assert "favours ProGrad: -0.200 ± 0.000 at every 4th, -0.300 ± 0.000 at every 12th," in text
    titles = text.splitlines()[0].split(" | ")
    assert [t for t in titles if "on object" in t] == list(headline.SHARES.values())
    (floor,) = [line for line in text.splitlines() if line.startswith("| random text |")]
    assert floor.count("±") == len(headline.SHARES)
    gap = summarise(table, columns=["matched_ce"]).differences.set_index("method")["mean"]["ProGrad"]
    assert gap < 0 and f"no higher than ProGrad's last, {gap:+.3f} ± " in text
    assert "seeds; in the others" not in text
    one = (table["seed"] == headline.SEEDS[0]) & (table["lam"] == 0)
    assert f"nats ({len(headline.SEEDS) - 1} seeds; in the others" in headline.headline_md(
        table.assign(matched_ce=table["matched_ce"].mask(one)), read)


def test_the_report_of_the_evidence_counts_its_comparisons():
    randoms = [f"share_{split}_random{end}" for split in ("same", "shifted") for end in evidence.NAMES]
    columns = [*evidence.MEASURES, *evidence.SHARES, *randoms, "area_same", "area_shifted", "acc_as_is", "conflict",
               "acc_background_swapped", "follows_background", "train_ce", "train_kl"]
    parts = [rows_of(range(2000, 2004), evidence.LAMBDAS, columns, shots=shots, rho=1.0, class_specific=kind)
             for shots, kind in itertools.product((1, 8), (False, True))]
    table = evidence.prepared(pd.concat(parts, ignore_index=True))
    summary, found = evidence.settings(table), evidence.correlations(table, evidence.PAIRS)
    both = [summary.differences, evidence.settings(table, "zero-shot CLIP").differences]
    differences = evidence.with_p(pd.concat(both, ignore_index=True))
    text = evidence.report(table, summary, differences, found, 99)
    pair = differences.query("method == 'ProGrad' and against == 'CoOp'")
    asked = {*evidence.MEASURES, *evidence.SHARES, *evidence.LEANS, *evidence.TRADEOFF}
    assert set(pair["column"]) == asked and len(pair) == 4 * len(asked)
    assert f"Of {pair['p'].notna().sum():,} comparisons of ProGrad and CoOp" in text
    section = text.split("## At equal divergence")[1].split("## What")[0]
    assert section.count("| unified |") == section.count("| class-specific |") == 2
    assert "| L_ce at no more divergence | 0 | 4 | 0 | 0 | 4 | 0 |" in section
    assert list(evidence.SHARES)[0] == "share_same_predicted"


def test_the_pictures_of_the_headline_are_of_images_on_which_the_methods_disagree(runs, monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures, "ten", lambda: [runs])
    monkeypatch.setattr(figures, "plot_maps", lambda runs, split, **options: drawn.update(options, split=split))
    figures.PICTURES["headline/maps.png"]()
    assert drawn == {"split": "shifted", "images": disagreeing(runs, "shifted", images=3), "explainer": "Occlusion"}
