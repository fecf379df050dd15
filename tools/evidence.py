"""Evidence for README's claims about ProGrad and CoOp, over seeds, shots, lambdas, contexts and backgrounds.

    python tools/evidence.py            # 900 trainings, resumable
    python tools/evidence.py --quick    # shots 1, 4 and 8, rho 0.5 and 1, unified contexts: 180 trainings
    python tools/evidence.py --fresh    # ignores the results in figures/evidence/records.jsonl.gz and trains everything
    python tools/evidence.py --again 24 # repeats 24 jobs, drawn at random, and compares the numbers

Seeds 2000 to 2009 are used here and nowhere else. Run sets stay in evidence/ (under 1 GB); tables and pictures go to
figures/evidence/.
"""
import argparse
import gzip
import itertools
import json
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import stats

from prograd_viz.cam import pick_images
from prograd_viz.cli import on_the_object
from prograd_viz.faithful import composites
from prograd_viz.maps import Occlusion
from prograd_viz.plots import colour, figure, label, plot_lambda, plot_shots
from prograd_viz.runs import mean_interval
from prograd_viz.summary import summarise
from prograd_viz.sweep import Job, Sweep, cells_of, jobs_of, sweep
from tradeoff import tradeoff

ROOT = Path(__file__).resolve().parent.parent
SEEDS, LAMBDAS = range(2000, 2010), (0, 0.5, 1)
CONTEXTS = {"unified": {}, "class-specific": {"class_specific": True, "init": "random", "n_ctx": 4, "lr": 0.02}}
KINDS = ("predicted", "true", "contrast")  # scores that maps explain
# Ending of a column -> the explainer, and how many images it has; a patch of Occlusion is two sevenths of a side
EXPLAINERS = {"": ("GradCAM", 24), "_occlusion": (Occlusion(stride=16), 12)}
CHANGED = 48  # images whose background is changed
EVERY = {1: 2, 2: 4, 4: 4, 8: 20, 16: 40}  # shots -> steps between snapshots, on which CoOp's path is read


def cells(quick):
    "The grid, a row per training"
    if quick: contexts, shots, rhos = ["unified"], (1, 4, 8), (0.5, 1.0)
    else: contexts, shots, rhos = list(CONTEXTS), (1, 2, 4, 8, 16), (0.5, 0.8, 1.0)
    keys = itertools.product(SEEDS, contexts, shots, rhos, LAMBDAS)
    shared = {"test_per_class": 12, "checkpoint_every": 200}
    return pd.DataFrame([{"shots": k, "seed": seed, "rho": rho, "lam": lam, "snapshot_every": EVERY[k], **shared,
                          **CONTEXTS[context]} for seed, context, k, rho, lam in keys])


def trained(grid, out):
    "The sweep of a grid"
    return sweep(grid, out, evaluate={"looks_and_leans": looks_and_leans})


def looks_and_leans(runs):
    """Shares of the last maps on the object for each explained score, accuracies with parts of the images exchanged,
    and both losses over the training images"""
    table = tradeoff(runs)
    for explainer, images in EXPLAINERS.values():
        found = on_the_object(runs, images, targets=KINDS, explainers=[explainer], random_directions=8)
        new = found.filter(regex="^(share|area|empty)_").columns.difference(table.columns)  # areas are of the first
        table = table.assign(**found[new])
    texts = torch.as_tensor(np.stack([runs.zero_shot, *runs.text_features[-1]]))
    return table.assign(**_accuracies(runs, texts))


def _accuracies(runs, texts):
    "Column -> accuracy under each change of the images, and the rate of answers that name the new background's class"
    clip, test, rows = runs.clip, *pick_images(runs, "same", images=CHANGED)
    changed, donors = composites(test, rows)
    columns = {}
    for name, split in changed.items():
        chosen = (split.features(clip) @ texts.to(split.features(clip)).mT).argmax(-1).numpy()
        columns["acc_" + name.replace(" ", "_")] = (chosen == split.labels).mean(-1)
        if name == "background swapped": columns["follows_background"] = (chosen == donors).mean(-1)
    return columns


# ---- what it says

ZERO_SHOT, PAIR = "zero-shot CLIP", ("CoOp", "ProGrad")
MEASURES = {"acc_same": "same", "acc_shifted": "shifted", "acc_new": "new", "acc_style": "other style"}
NAMES = {"": "Grad-CAM", "_occlusion": "Occlusion"}
SHARES = {f"share_{split}_{kind}{end}": f"{split}, {kind}, {name}"
          for kind in KINDS for split in ("same", "shifted") for end, name in NAMES.items()}
LEANS = {"drop": "drop of accuracy when backgrounds are swapped",
         "follows_background": "answers that name the new background's class"}
SETTING = ["context", "rho", "shots"]
TRADEOFF = {"matched_ce": "L_ce at no more divergence"}
SHOWN = ("train_ce", "train_kl", "conflict")  # not compared: what the rule itself changes
ACCURACIES = ("acc_same", "acc_shifted", "acc_new")


def prepared(results):
    "Results with the kind of context and derived columns, in a fixed order"
    kind = results["class_specific"] if "class_specific" in results else pd.Series(False, results.index)
    drop = results["acc_as_is"] - results["acc_background_swapped"]
    table = results.assign(context=np.where(kind.eq(True), "class-specific", "unified"), drop=drop)
    first = [*SETTING, "seed", "method", "lam"]
    table, order = table[[*first, *sorted({*table} - {*first})]], [*SETTING, "seed", "lam"]
    return table.sort_values(order, ascending=[False, *[True] * 4], na_position="first", ignore_index=True)


def settings(table, against="CoOp"):
    columns = [*MEASURES, *SHARES, *LEANS, *TRADEOFF, *SHOWN]
    return summarise(table, by=SETTING, columns=columns, against=against)


def accuracy_md(table, summary):
    "Accuracies of the three prompts, and the difference seed by seed, a row per setting"
    lines = ["| context | rho | shots | zero-shot CLIP | CoOp | ProGrad | ProGrad - CoOp, same | shifted | new "
             "| conflict, ProGrad |", "|---" * 10 + "|"]
    index = [*SETTING, "method", "column"]
    means, gaps = summary.means.set_index(index)["mean"], summary.differences.set_index(index)
    known = table[SETTING].drop_duplicates().sort_values(SETTING, ascending=[False, True, True])
    for key in known.itertuples(index=False):
        context, rho, shots = key
        triples = [_triple(means, key, method) for method in (ZERO_SHOT, *PAIR)]
        at = [(*key, PAIR[1], m) for m in ACCURACIES]
        gap = [_gap(gaps.loc[place]) if place in gaps.index else "–" for place in at]
        conflict = means.get((*key, PAIR[1], "conflict"), np.nan)
        lines.append(" | ".join([f"| {context}", f"{rho:g}", f"{shots:g}", *triples, *gap, f"{conflict:.2f} |"]))
    return lines


def _triple(means, key, method):
    "Mean accuracies of a method in a setting"
    found = [means.get((*key, method, m), np.nan) for m in ACCURACIES]
    return " / ".join("–" if np.isnan(mean) else f"{mean:.2f}" for mean in found)


def _gap(row):
    bold = "**" if row["decided"] else ""
    return f"{bold}{row['mean']:+.3f} ± {(row['high'] - row['low']) / 2:.3f}{bold}"


def corrected(p):
    "The p values of many tests after Benjamini and Hochberg's correction; NaN stays"
    found, known = p.copy(), p.notna()
    found[known] = stats.false_discovery_control(p[known])
    return found


def with_p(differences):
    "Differences with the p of a paired t test, alone and corrected for all settings and columns of the two methods"
    differences = differences[~differences["column"].isin(SHOWN)]
    degrees, half = differences["seeds"] - 1, (differences["high"] - differences["low"]) / 2
    t = differences["mean"].abs() / half * stats.t.ppf(0.975, degrees)
    table = differences.assign(p=2 * stats.t.sf(t, degrees))
    table["corrected"] = table.groupby(["method", "against"])["p"].transform(corrected)
    return table.assign(significant=table["corrected"] < 0.05)


def tally_md(differences, measures, method=PAIR[1], against=PAIR[0]):
    "In how many settings one is clearly ahead of the other: the interval leaves out 0, alone and corrected"
    gaps = differences[(differences["method"] == method) & (differences["against"] == against)]
    lines = [f"| {method} - {against} | higher | lower | undecided | corrected: higher | lower | undecided "
             "| mean over settings |", "|---" * 8 + "|"]
    for m, name in measures.items():
        rows = gaps[gaps["column"] == m]
        counts = [count for sure in ("decided", "significant") for count in _counts(rows[sure], rows["mean"])]
        if len(rows): lines.append(f"| {name} | {' | '.join(map(str, counts))} | {rows['mean'].mean():+.3f} |")
    return lines


def _counts(sure, mean):
    "Of how many rows a mean is surely above 0, surely below, and neither"
    up, down = (sure & (mean > 0)).sum(), (sure & (mean < 0)).sum()
    return up, down, len(mean) - up - down


def compared_md(differences):
    "How many comparisons of the two methods there are, and how many intervals leave out 0"
    pair = (differences["method"] == PAIR[1]) & (differences["against"] == PAIR[0])
    rows = differences[pair & differences["p"].notna()]
    columns, places = rows["column"].nunique(), len(rows[SETTING].drop_duplicates())
    return (f"Of {len(rows):,} comparisons of {PAIR[1]} and {PAIR[0]} ({columns} columns of accuracies, shares, "
            f"reliance on the background and the loss at equal divergence, in up to {places} settings each), "
            f"{(rows['p'] < 0.05).sum():,} have a p below 0.05, {rows['significant'].sum():,} after the correction.")


def tradeoff_md(differences, summary):
    "The losses of CoOp and ProGrad, and the difference at equal divergence, a row per setting"
    lines = ["| context | rho | shots | CoOp at the end: L_ce / L_kl | ProGrad at the end: L_ce / L_kl "
             "| L_ce over the seeds counted: CoOp's lowest at no more L_kl / ProGrad's "
             "| ProGrad - CoOp at equal divergence | corrected p | seeds |", "|---" * 9 + "|"]
    means = summary.means.set_index([*SETTING, "method", "column"])["mean"]
    pair = (differences["method"] == PAIR[1]) & (differences["against"] == PAIR[0])
    rows = differences[pair & (differences["column"] == "matched_ce")]
    for row in rows.sort_values(SETTING, ascending=[False, True, True]).to_dict("records"):
        key = tuple(row[c] for c in SETTING)
        ends = [" / ".join(f"{means[(*key, m, c)]:.2f}" for c in ("train_ce", "train_kl")) for m in PAIR]
        lowest = means[(*key, PAIR[0], "matched_ce")]
        known = [key[0], f"{key[1]:g}", f"{key[2]:g}", *ends, f"{lowest:.2f} / {lowest + row['mean']:.2f}"]
        p = "–" if np.isnan(row["corrected"]) else f"{row['corrected']:.3f}"
        lines.append(f"| {' | '.join([*known, _gap(row), p, str(int(row['seeds']))])} |")
    return lines


def collapsed_md(table):
    "The trainings with less than half of the accuracy on same that another seed reached with the same setting"
    best = table.groupby([*SETTING, "method"])["acc_same"].transform("max")
    low = table[table["acc_same"] < 0.5 * best]
    if low.empty: return "No training collapsed, to less than half of the accuracy on same that another seed reached."
    lines = [f"{len(low)} trainings collapsed, to less than half of the accuracy on same that another seed reached; "
             "they stay in the means:", "", "| context | rho | shots | method | seed | same | best |", "|---" * 7 + "|"]
    for row, top in zip(low.to_dict("records"), best[low.index]):
        known = [row["context"], *(f"{row[c]:g}" for c in SETTING[1:]), row["method"], str(row["seed"])]
        lines.append(f"| {' | '.join(known)} | {row['acc_same']:.2f} | {top:.2f} |")
    return "\n".join(lines)


def shares_md(table):
    "Mean shares on the object over all settings, beside those of random text and of an even map"
    by = table.groupby("method")[list(SHARES)].mean()
    lines = ["| share on the object | zero-shot CLIP | CoOp | ProGrad | random text | area of the object |",
             "|---|---|---|---|---|---|"]
    for share, name in SHARES.items():
        split, end = share.split("_")[1], next(end for end in reversed(NAMES) if share.endswith(end))
        found = [by.loc[method, share] for method in (ZERO_SHOT, *PAIR)]
        found += [table[f"share_{split}_random{end}"].mean(), table[f"area_{split}"].mean()]
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in found)} |")
    return lines


PLACES = {"pooled": "all", "unified": "unified", "class_specific": "class-specific", "within": "within a setting"}


def correlations(table, pairs):
    "Spearman's rank correlations of pairs of columns, a row per pair: mean and half the interval over seeds"
    return pd.DataFrame([_correlation(table.dropna(subset="lam"), *pair) for pair in pairs])


def _correlation(tuned, a, b):
    "A pair over all trainings of a seed, over those of each kind of context, and within settings"
    row = {"first": a, "second": b}
    parts = [tuned, *(tuned[tuned["context"] == kind] for kind in CONTEXTS)]
    values = [[_spearman(g[a], g[b]) for _, g in part.groupby("seed")] for part in parts] + [_within(tuned, a, b)]
    for place, found in zip(PLACES, values): row[place], row[f"{place}_half"] = mean_interval(found)
    return row | {"trainings": int(tuned[[a, b]].notna().all(axis=1).sum())}


def _within(tuned, a, b):
    """The contribution of each seed to the rank correlation between seeds with setting and lambda held: products of
    standardised ranks, averaged over settings"""
    held = ["context", "rho", "shots", "lam"]
    both = tuned.dropna(subset=[a, b])
    ranks = both.groupby(held)[[a, b]].rank()
    grouped = ranks.groupby([both[c] for c in held])
    scores = (ranks - grouped.transform("mean")) / grouped.transform("std", ddof=0)
    return (scores[a] * scores[b]).replace([np.inf, -np.inf], np.nan).groupby(both["seed"]).mean().tolist()


def _spearman(a, b):
    both = a.notna() & b.notna()
    a, b = a[both], b[both]
    if len(a) < 3 or a.nunique() < 2 or b.nunique() < 2: return np.nan
    return stats.spearmanr(a, b).statistic


def correlations_md(found):
    lines = [f"| | | {' | '.join(PLACES.values())} |", "|---" * (2 + len(PLACES)) + "|"]
    for r in found.to_dict("records"):
        cells = ["–" if np.isnan(r[place]) else f"{r[place]:+.2f} ± {r[f'{place}_half']:.2f}" for place in PLACES]
        lines.append(f"| {_words(r['first'])} | {_words(r['second'])} | {' | '.join(cells)} |")
    return lines


def _words(column):
    if column in SHARES: return f"share of the map on the object ({SHARES[column]})"
    return {**LEANS, "conflict": "steps in conflict"}.get(column, column)


@figure
def plot_against(table, firsts, second):
    "Trainings as points: a row for each kind of context, a column for each measure of `firsts`; the colour is lambda"
    tuned, kinds = table.dropna(subset="lam"), list(table["context"].unique())
    size = 3.2 * len(firsts), 2.7 * len(kinds)
    fig, axes = plt.subplots(len(kinds), len(firsts), figsize=size, squeeze=False, sharey=True, sharex="col")
    for kind, row in zip(kinds, axes):
        for first, ax in zip(firsts, row):
            for lam, group in tuned[tuned["context"] == kind].groupby("lam"):
                look = {"s": 7, "alpha": 0.45, "lw": 0, "color": colour(lam), "label": label(lam)}
                ax.scatter(group[first], group[second], **look)
            ax.set_title(f"{kind} contexts", fontsize=9)
    for first, ax in zip(firsts, axes[-1]): ax.set_xlabel(textwrap.fill(_words(first), 34))
    fig.supylabel(_words(second), fontsize=10)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, markerscale=2.5)
    return fig


PAIRS = [("conflict", "drop"), ("conflict", "follows_background")]
PAIRS += [(share, "drop") for share in SHARES if "same" in share]


REPORT = """\
# Evidence

Written by `make evidence`: {trained:,} of {planned:,} planned trainings, {seeds}, rho {rhos}, shots {shots}, \
{contexts} contexts. {apart} {interval}. torch {torch}, one thread a training. All settings keep the size of \
the objects and the logit scale of the one that was chosen before, on other seeds, for its gap.

## Accuracy

Zero-shot CLIP, CoOp and ProGrad (lambda 1): accuracy on same / shifted / new; then the difference seed by seed, bold \
where its interval leaves out 0.

{accuracy}

How far a prompt relies on the background is read on {changed} images of *same*, each put on the background \
of another class's image.

{compared} The correction is that of Benjamini and Hochberg for the p values of paired t tests, over all settings and \
columns of two methods.

In how many settings the interval of a difference leaves out 0; then how many stand when corrected:

{tallies}

{collapsed}

## Where the maps lie

Share of the map on the object, for the predicted class's score, the true class's, and true minus its strongest rival \
(contrast), by Grad-CAM ({gradcam} images a split) and by Occlusion ({occlusion} images), which hides patches of two \
sevenths of a side; maps with no positive evidence are left out. Means over all settings:

{shares}

{share_tally}

## At equal divergence

Cross-entropy L_ce and divergence from zero-shot CLIP L_kl over all training images, in nats. ProGrad's last L_ce is \
compared with CoOp's lowest while CoOp's L_kl is no higher than ProGrad's last, seed by seed; a seed in which CoOp is \
never as near is left out, and the last column counts the others. Negative: ProGrad has the lower cross-entropy.

{tradeoff}

{tradeoff_tally}

## What conflict and maps have to do with the background

Spearman's rank correlation over {tuned:,} tuned prompts, mean and 95% interval over seeds. First over all trainings \
of a seed, then over those of one kind of context: settings and lambdas differ. In the last column they are held, and \
only the seed differs.

{correlations}
"""


def _apart():
    "The options in which the contexts differ"
    own = ", ".join(f"{k} {v}" for k, v in CONTEXTS["class-specific"].items() if k != "class_specific")
    return f"Class-specific contexts have {own}; unified ones what `train` does unless told."


def report(table, summary, differences, found, planned):
    "The text of evidence.md"
    seeds, block = table["seed"], "\n".join
    listed = lambda column: ", ".join(f"{value:g}" for value in sorted(table[column].unique()))
    pairs = (PAIR[::-1], (PAIR[1], ZERO_SHOT), (PAIR[0], ZERO_SHOT))
    return REPORT.format(
        trained=int(table["lam"].notna().sum()), planned=planned, rhos=listed("rho"), shots=listed("shots"),
        seeds=f"{seeds.nunique()} seeds ({seeds.min()} to {seeds.max()})",
        contexts=" and ".join(table["context"].unique()), apart=_apart(), interval=summary.interval,
        torch=torch.__version__.split("+")[0], accuracy=block(accuracy_md(table, summary)),
        tallies="\n\n".join(block(tally_md(differences, MEASURES | LEANS, *pair)) for pair in pairs), changed=CHANGED,
        compared=compared_md(differences), collapsed=collapsed_md(table.dropna(subset="lam")),
        gradcam=EXPLAINERS[""][1], occlusion=EXPLAINERS["_occlusion"][1],
        tradeoff=block(tradeoff_md(differences, summary)), tradeoff_tally=block(tally_md(differences, TRADEOFF)),
        shares=block(shares_md(table)), share_tally=block(tally_md(differences, SHARES)),
        tuned=found["trainings"].max(), correlations=block(correlations_md(found)))


CONSTANT = ("model", "data", "checkpoint_every", "snapshot_every",
            "class_specific", "init", "n_ctx", "lr")  # these are known from the context


def write(result, out, planned):
    "Tables and pictures"
    out.mkdir(parents=True, exist_ok=True)
    table = prepared(result.results())
    summary, found = settings(table), correlations(table, PAIRS)
    differences = with_p(pd.concat([summary.differences, settings(table, ZERO_SHOT).differences], ignore_index=True))
    table.drop(columns=[c for c in CONSTANT if c in table]).round(5).to_csv(out / "trainings.csv", index=False)
    differences.round(5).to_csv(out / "differences.csv", index=False)
    found.round(4).to_csv(out / "correlations.csv", index=False)
    (out / "evidence.md").write_text(report(table, summary, differences, found, planned))
    draw(table, out)


def draw(table, out):
    "The pictures of the evidence"
    low, high = table["rho"].min(), table["rho"].max()
    shown = table[table["lam"].isin([0, 0.5, 1, np.nan])]
    for kind, rho in itertools.product(table["context"].unique(), (low, high)):
        mine = shown[(shown["context"] == kind) & (shown["rho"] == rho)]
        splits = [c for c in ACCURACIES if mine.loc[mine["lam"] == 0, c].notna().any()]
        plot_shots(mine, splits, title=f"{kind} contexts, rho = {rho:g}").savefig(out / f"shots-{kind}-rho{rho:g}.png")
    strongest = table[(table["context"] == "unified") & (table["rho"] == high) & (table["shots"] == 8)]
    plot_lambda(strongest.dropna(subset="lam"),
                title=f"unified contexts, rho = {high:g}, 8 shots").savefig(out / "lambda.png")
    shares = ["conflict", "share_same_predicted", "share_same_predicted_occlusion"]
    plot_against(table, shares, "drop").savefig(out / "background.png")


# ---- records: a fresh clone need not compute again what is finished

def records_of(archive):
    with gzip.open(archive, "rt") as file: return [json.loads(line) for line in file]


def unpack(archive, out):
    "Write the records of finished trainings into a folder that lacks them"
    if not archive.is_file(): return
    (out / "results").mkdir(parents=True, exist_ok=True)
    for record in records_of(archive):
        path = out / "results" / f"{Job(record['options'], ()).name}.json"
        held = {"": {"version": 1, "rows": record["rows"]}}
        # its numbers are in the rows already
        held["looks_and_leans"] = {"version": 1, "rows": [{"lam": lam} for lam in record["lambdas"]]}
        about = {k: record[k] for k in ("options", "seconds", "threads")}
        if not path.exists(): path.write_text(json.dumps(about | {"error": None, "trained": True, "parts": held}))


def numbers(record):
    "The rows of a record with what was evaluated beside them, as the archive keeps them"
    more = {row["lam"]: row for row in record["parts"]["looks_and_leans"]["rows"]}
    return [row | more.get(row["lam"], {}) for row in record["parts"][""]["rows"]]


def packed(record):
    "A record as a line of the archive"
    rows = numbers(record)
    kept = {k: record[k] for k in ("options", "seconds", "threads")}
    return json.dumps(kept | {"rows": rows, "lambdas": [row["lam"] for row in rows[1:]]}, sort_keys=True)


def pack(sweep, archive):
    "Write the records of all finished trainings, one a line, sorted"
    paths = [sweep.out / "results" / f"{job.name}.json" for job in jobs_of(sweep.cells)]
    records = [json.loads(path.read_text()) for path in paths if path.is_file()]
    lines = sorted(packed(r) for r in records if not r["error"])
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def again(archive, n):
    "Compute jobs of the archive a second time; returns how many give other numbers"
    records = records_of(archive)
    drawn = [records[i] for i in np.random.default_rng().permutation(len(records))[:n]]
    with tempfile.TemporaryDirectory() as folder:
        second = trained(pd.DataFrame([r["options"] | {"lam": lam} for r in drawn for lam in r["lambdas"]]), folder)
        paths = {job.name: second.out / "results" / f"{job.name}.json" for job in jobs_of(second.cells)}
        new = {name: numbers(json.loads(path.read_text())) for name, path in paths.items()}
    other = [r for r in drawn if new[Job(r["options"], ()).name] != r["rows"]]
    same = len(drawn) - len(other)
    print(f"{len(drawn)} jobs of {len(records)} repeated: {same} give the same numbers, {len(other)} do not")
    for r in other: print(" ", r["options"])
    return len(other)


def complete(sweep):
    "The cells of the seeds whose trainings are all done"
    done = sweep.table.groupby("seed")["status"].agg(lambda s: s.eq("done").all())
    return sweep.cells[sweep.cells["seed"].isin(done.index[done])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="train a part of the grid; writes figures/evidence/quick/")
    parser.add_argument("--fresh", action="store_true", help="ignore the results in figures/evidence/records.jsonl.gz")
    parser.add_argument("--again", type=int, metavar="N", help="compute N jobs a second time and compare")
    parser.add_argument("--draw", action="store_true", help="train nothing; draw from finished seeds")
    parser.add_argument("--out", type=Path, default=ROOT / "evidence", help="folder of the run sets")
    opt = parser.parse_args()
    figures, grid = ROOT / "figures" / "evidence", cells(opt.quick)
    if opt.again: return again(figures / "records.jsonl.gz", opt.again)
    if not opt.fresh: unpack(figures / "records.jsonl.gz", opt.out)
    result = Sweep(opt.out, cells_of(grid))
    if not opt.draw:
        trained(grid, opt.out)
        if n := len(result.failures): sys.exit(f"{n} trainings failed:\n{result.failures['traceback'].iloc[0]}")
        if not opt.quick: pack(result, figures / "records.jsonl.gz")
    ready = complete(result)
    if ready.empty: sys.exit("no seed is complete yet; run this command again to resume")
    write(Sweep(opt.out, ready), figures / ("quick" if opt.quick else ""), len(grid))


if __name__ == "__main__": sys.exit(main())
