"""What the README says about ProGrad, CoOp and where they look, over seeds, shots, lambdas, contexts and backgrounds.

    python tools/evidence.py            # 3,000 trainings, two and a half hours on two cores; resumable; writes figures/evidence/
    python tools/evidence.py --quick    # shots 1, 4 and 8, rho 0.5 and 1, unified contexts: 600 trainings, half an hour
    python tools/evidence.py --fresh    # computes again also what a clone finds in figures/evidence/records.jsonl.gz
    python tools/evidence.py --again 24 # computes so many of its jobs, drawn at random, a second time, and compares the numbers

Seeds 2000 to 2019 are used here and nowhere else. The run sets stay in evidence/ (under 1 GB); tables and pictures go to figures/evidence/.
"""
import argparse
import gzip
import json
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats

from prograd_viz.cam import EXPLAIN, cam_maps, explained_directions, measure, pick_images, resize_maps, shown_masks
from prograd_viz.faithful import composites
from prograd_viz.plots import colour, figure, label, plot_lambda, plot_shots
from prograd_viz.runs import mean_interval
from prograd_viz.summary import summarise
from prograd_viz.sweep import Job, Sweep, cells_of, jobs_of, sweep

ROOT = Path(__file__).resolve().parent.parent
SEEDS, LAMBDAS = range(2000, 2020), (0, 0.25, 0.5, 0.75, 1)
CONTEXTS = {"unified": {}, "class-specific": {"class_specific": True, "init": "random", "n_ctx": 4, "lr": 0.02}}
MAPS, CHANGED = 24, 48  # images whose maps are measured, and which are changed


def cells(quick):
    "The grid, a row per training"
    shots, rhos, contexts = ((1, 4, 8), (0.5, 1.0), ["unified"]) if quick else ((1, 2, 4, 8, 16), (0.5, 0.8, 1.0), list(CONTEXTS))
    return pd.DataFrame([{"shots": k, "seed": seed, "rho": rho, "lam": lam, "test_per_class": 12, "checkpoint_every": 200, **CONTEXTS[c]} for seed in SEEDS for c in contexts for k in shots for rho in rhos for lam in LAMBDAS])


def trained(grid, out):
    "The sweep of a grid"
    return sweep(grid, out, evaluate={"looks_and_leans": looks_and_leans})


def looks_and_leans(runs):
    "Where the last maps lie, for each kind of explained score, and what becomes of the accuracy when image parts are exchanged"
    texts = torch.as_tensor(np.stack([runs.zero_shot, *runs.text_features[-1]]))
    table = pd.DataFrame({"lam": [np.nan, *runs.lambdas]})
    for split in ("same", "shifted"): table = table.assign(**_shares(runs, split, texts))
    return table.assign(**_accuracies(runs, texts))


def _shares(runs, split, texts):
    "Column -> share of the maps on the object, a value per prompt; all directions in one call"
    clip, test, rows = runs.clip, *pick_images(runs, split, MAPS)
    features, masks = test.features(clip)[rows], shown_masks(clip, test, rows)
    labels = torch.as_tensor(test.labels[rows])
    directions = torch.cat([explained_directions(texts.to(features), features, labels, kind) for kind in EXPLAIN])
    draws = F.normalize(torch.randn(8, 1, directions.shape[-1], generator=torch.Generator().manual_seed(0)), dim=-1).to(features)
    maps = cam_maps(clip, test.tensor(clip, rows), torch.cat([directions, draws.expand(-1, len(rows), -1)]).transpose(0, 1))
    shares = [measure(resize_maps(m, masks.shape[1:]), masks)["share"].mean() for m in maps]
    columns = {f"share_{split}_{kind}": shares[i * len(texts):(i + 1) * len(texts)] for i, kind in enumerate(EXPLAIN)}
    return columns | {f"share_{split}_random": np.nanmean(shares[-8:]), f"area_{split}": masks.double().mean().item()}


def _accuracies(runs, texts):
    "Column -> accuracy under each change of the images, a value per prompt, and how often the answer is the new background's class"
    clip, test, rows = runs.clip, *pick_images(runs, "same", CHANGED)
    changed, donors = composites(test, rows)
    columns = {}
    for name, split in changed.items():
        chosen = (split.features(clip) @ texts.to(split.features(clip)).mT).argmax(-1).numpy()
        columns["acc_" + name.replace(" ", "_")] = (chosen == split.labels).mean(-1)
        if name == "background swapped": columns["follows_background"] = (chosen == donors).mean(-1)
    return columns


# ---- what it says

PAIR = ("CoOp", "ProGrad 1")
NAMES = {"zero-shot CLIP": "zero-shot"}  # in these tables
MEASURES = {"acc_same": "same", "acc_shifted": "shifted", "acc_new": "new", "acc_style": "other style"}
SHARES = {f"share_{split}_{kind}": f"{split}, {kind}" for split in ("same", "shifted") for kind in EXPLAIN}
LEANS = {"drop": "drop of accuracy when backgrounds are swapped", "follows_background": "answers that name the new background's class"}


def prepared(results):
    "Results with the context's kind, and what is derived from columns, in an order of their own"
    kind = results["class_specific"] if "class_specific" in results else pd.Series(False, results.index)
    table = results.replace({"method": NAMES}).assign(context=np.where(kind.eq(True), "class-specific", "unified"), drop=results["acc_as_is"] - results["acc_background_swapped"])
    table = table[[*(first := ["context", "rho", "shots", "seed", "method", "lam"]), *sorted({*table} - {*first})]]
    return table.sort_values(["context", "rho", "shots", "seed", "lam"], ascending=[False, True, True, True, True], na_position="first", ignore_index=True)


def settings(table, against="CoOp"): return summarise(table, ["context", "rho", "shots"], [*MEASURES, *SHARES, *LEANS, "conflict"], against=against)


def accuracy_md(table, summary):
    "Accuracies of the three prompts, and the difference seed by seed, a row per setting"
    lines = ["| context | rho | shots | zero-shot | CoOp | ProGrad | ProGrad - CoOp, same | shifted | new | conflict, ProGrad |", "|---" * 10 + "|"]
    means, gaps = summary.means.set_index(["context", "rho", "shots", "method", "measure"]), summary.differences.set_index(["context", "rho", "shots", "method", "measure"])
    for key in table[["context", "rho", "shots"]].drop_duplicates().sort_values(["context", "rho", "shots"], ascending=[False, True, True]).itertuples(index=False):
        get = lambda method, m: means["mean"].get((*key, method, m), np.nan)
        triple = lambda method: " / ".join("–" if np.isnan(get(method, m)) else f"{get(method, m):.2f}" for m in ("acc_same", "acc_shifted", "acc_new"))
        gap = [_gap(gaps.loc[(*key, PAIR[1], m)]) if (*key, PAIR[1], m) in gaps.index else "–" for m in ("acc_same", "acc_shifted", "acc_new")]
        lines.append(f"| {key[0]} | {key[1]:g} | {key[2]:g} | {triple('zero-shot')} | {triple(PAIR[0])} | {triple(PAIR[1])} | {' | '.join(gap)} | {get(PAIR[1], 'conflict'):.2f} |")
    return lines


def _gap(row):
    bold = "**" if row["decided"] else ""
    return f"{bold}{row['mean']:+.3f} ± {(row['high'] - row['low']) / 2:.3f}{bold}"


def tally_md(differences, measures, method=PAIR[1], against=PAIR[0]):
    "In how many settings one is clearly ahead of the other: the interval leaves out 0"
    gaps = differences[(differences["method"] == method) & (differences["against"] == against)]
    lines = [f"| {method.removesuffix(' 1')} - {against} | higher | lower | undecided | mean over settings |", "|---|---|---|---|---|"]
    for m, name in measures.items():
        rows = gaps[gaps["measure"] == m]
        up, down = (rows["decided"] & (rows["mean"] > 0)).sum(), (rows["decided"] & (rows["mean"] < 0)).sum()
        if len(rows): lines.append(f"| {name} | {up} | {down} | {len(rows) - up - down} | {rows['mean'].mean():+.3f} |")
    return lines


def shares_md(table):
    "Mean shares on the object over all settings, beside what a direction without meaning and a map without preference score"
    by = table.groupby("method")[list(SHARES)].mean()
    lines = ["| share on the object | zero-shot | CoOp | ProGrad | a random direction | area of the object |", "|---|---|---|---|---|---|"]
    for share, name in SHARES.items():
        split = share.split("_")[1]
        lines.append(f"| {name} | {' | '.join(f'{by.loc[method, share]:.3f}' for method in ('zero-shot', *PAIR))} | {table[f'share_{split}_random'].mean():.3f} | {table[f'area_{split}'].mean():.3f} |")
    return lines


PLACES = {"pooled": "all", "unified": "unified", "class_specific": "class-specific", "within": "within a setting"}


def correlations(table, pairs):
    "Spearman's rank correlation, mean and half the interval over seeds: over all trainings of a seed, those of a kind of context, and within settings"
    tuned, rows = table.dropna(subset="lam"), []
    for a, b in pairs:
        over = lambda part: mean_interval([_spearman(g[a], g[b]) for _, g in part.groupby("seed")])
        found = [over(tuned), *(over(tuned[tuned["context"] == kind]) for kind in CONTEXTS), mean_interval(_within(tuned, a, b))]
        rows.append({"first": a, "second": b, **{key: value for place, pair in zip(PLACES, found) for key, value in zip((place, f"{place}_half"), pair)}, "trainings": int(tuned[[a, b]].notna().all(axis=1).sum())})
    return pd.DataFrame(rows)


def _within(tuned, a, b):
    "What each seed adds to the rank correlation between seeds, setting and lambda held: products of standardised ranks, averaged over settings"
    held = ["context", "rho", "shots", "lam"]
    both = tuned.dropna(subset=[a, b])
    ranks = both.groupby(held)[[a, b]].rank()
    grouped = ranks.groupby([both[c] for c in held])
    scores = (ranks - grouped.transform("mean")) / grouped.transform("std", ddof=0)
    return (scores[a] * scores[b]).replace([np.inf, -np.inf], np.nan).groupby(both["seed"]).mean().tolist()


def _spearman(a, b):
    both = a.notna() & b.notna()
    return stats.spearmanr(a[both], b[both]).statistic if both.sum() > 2 and a[both].nunique() > 1 and b[both].nunique() > 1 else np.nan


def correlations_md(found):
    lines = [f"| | | {' | '.join(PLACES.values())} |", "|---" * (2 + len(PLACES)) + "|"]
    for r in found.to_dict("records"):
        cells = ["–" if np.isnan(r[place]) else f"{r[place]:+.2f} ± {r[f'{place}_half']:.2f}" for place in PLACES]
        lines.append(f"| {_words(r['first'])} | {_words(r['second'])} | {' | '.join(cells)} |")
    return lines


def _words(column): return LEANS.get(column) or (f"share of the map on the object ({SHARES[column]})" if column in SHARES else {"conflict": "steps in conflict"}.get(column, column))


@figure
def plot_against(table, firsts, second):
    "Trainings as points: a row for each kind of context, a column for each measure of `firsts`; the colour is lambda"
    tuned, kinds = table.dropna(subset="lam"), list(table["context"].unique())
    fig, axes = plt.subplots(len(kinds), len(firsts), figsize=(3.2 * len(firsts), 2.7 * len(kinds)), squeeze=False, sharey=True, sharex="col")
    for kind, row in zip(kinds, axes):
        for first, ax in zip(firsts, row):
            for lam, group in tuned[tuned["context"] == kind].groupby("lam"): ax.scatter(group[first], group[second], s=7, alpha=0.45, lw=0, color=colour(lam), label=label(lam))
            ax.set_title(f"{kind} contexts", fontsize=9)
    for first, ax in zip(firsts, axes[-1]): ax.set_xlabel(textwrap.fill(_words(first), 34))
    fig.supylabel(_words(second), fontsize=10)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, markerscale=2.5)
    return fig


PAIRS = [("conflict", "drop"), ("conflict", "follows_background"), *((share, "drop") for share in SHARES if "same" in share)]


def _apart():
    "How the contexts differ, apart from what they share"
    own = ", ".join(f"{k} {v}" for k, v in CONTEXTS["class-specific"].items() if k != "class_specific")
    return f"Class-specific contexts have {own}; unified ones what `train` does unless told."


def write(result, out, planned):
    "Tables and pictures"
    out.mkdir(parents=True, exist_ok=True)
    table = prepared(result.results())
    summary, found = settings(table), correlations(table, PAIRS)
    differences = pd.concat([summary.differences, settings(table, "zero-shot").differences])
    table.drop(columns=[c for c in ("model", "data", "checkpoint_every", "class_specific", "init", "n_ctx", "lr") if c in table]).round(5).to_csv(out / "trainings.csv", index=False)
    differences.round(5).to_csv(out / "differences.csv", index=False)
    found.round(4).to_csv(out / "correlations.csv", index=False)
    n = table["seed"].nunique()
    lines = ["# Evidence", "", f"Written by `make evidence`: {len(result.cells):,} of {planned:,} planned trainings, {n} seeds ({table['seed'].min()} to {table['seed'].max()}), rho {', '.join(f'{r:g}' for r in sorted(table['rho'].unique()))}, shots {', '.join(f'{k:g}' for k in sorted(table['shots'].unique()))}, {' and '.join(table['context'].unique())} contexts. {_apart()} {summary.interval}. torch {torch.__version__.split('+')[0]}, one thread a training. All settings keep the noise, the size of the objects and the logit scale of the one that was chosen before, on other seeds, for its gap.", "",
             "## Accuracy", "", "Zero-shot, CoOp and ProGrad (lambda 1): accuracy on same / shifted / new; then the difference seed by seed, bold where its interval leaves out 0.", "", *accuracy_md(table, summary), "", "In how many settings the interval of a difference leaves out 0 (not corrected for their number):", "", *(line for pair in (PAIR[::-1], (PAIR[1], "zero-shot"), (PAIR[0], "zero-shot")) for line in (*tally_md(differences, MEASURES, *pair), "")),
             "## Where the maps lie", "", "Share of the Grad-CAM map on the object, for the class's own score (true), the predicted class's, and true minus its strongest rival (contrast); maps with no positive evidence are left out. Means over all settings:", "", *shares_md(table), "", *tally_md(differences, SHARES), "",
             "## What conflict and maps have to do with the background", "", f"Spearman's rank correlation over {found['trainings'].max():,} tuned prompts, mean and 95% interval over seeds. First over all trainings of a seed, then over those of one kind of context: settings and lambdas differ. In the last column they are held, and only the seed differs.", "", *correlations_md(found), ""]
    (out / "evidence.md").write_text("\n".join(lines))
    for kind in table["context"].unique():
        for rho in (table["rho"].min(), table["rho"].max()):
            mine = table[(table["context"] == kind) & (table["rho"] == rho) & table["lam"].isin([0, 0.5, 1, np.nan])]
            splits = [c for c in ("acc_same", "acc_shifted", "acc_new") if mine.loc[mine["lam"] == 0, c].notna().any()]
            plot_shots(mine, splits, title=f"{kind} contexts, rho = {rho:g}").savefig(out / f"shots-{kind}-rho{rho:g}.png")
    strongest = table[(table["context"] == "unified") & (table["rho"] == table["rho"].max()) & (table["shots"] == 8)]
    plot_lambda(strongest.dropna(subset="lam"), title=f"unified contexts, rho = {table['rho'].max():g}, 8 shots").savefig(out / "lambda.png")
    plot_against(table, ["conflict", "share_same_true", "share_same_contrast"], "drop").savefig(out / "background.png")


# ---- records: what is finished need not be computed again in a fresh clone

def unpack(archive, out):
    "Lay the records of finished trainings into a folder that lacks them"
    if not archive.is_file(): return
    (out / "results").mkdir(parents=True, exist_ok=True)
    for line in gzip.open(archive, "rt"):
        record = json.loads(line)
        path = out / "results" / f"{Job(record['options'], ()).name}.json"
        held = {"": {"version": 1, "rows": record["rows"]}}
        held["looks_and_leans"] = {"version": 1, "rows": [{"lam": lam} for lam in record["lambdas"]]}  # its numbers are in the rows
        about = {k: record[k] for k in ("options", "seconds", "threads")}
        if not path.exists(): path.write_text(json.dumps(about | {"error": None, "trained": True, "parts": held}))


def numbers(record):
    "The rows of a record with what was evaluated beside them, as the archive keeps them"
    more = {row["lam"]: row for row in record["parts"]["looks_and_leans"]["rows"]}
    return [row | more.get(row["lam"], {}) | {"method": NAMES.get(row["method"], row["method"])} for row in record["parts"][""]["rows"]]


def pack(sweep, archive):
    "All records of finished trainings, one a line, in an order of their own"
    records = [json.loads(path.read_text()) for job in jobs_of(sweep.cells) if (path := sweep.out / "results" / f"{job.name}.json").is_file()]
    kept = lambda r: {k: r[k] for k in ("options", "seconds", "threads")} | {"rows": (rows := numbers(r)), "lambdas": [row["lam"] for row in rows[1:]]}
    lines = sorted(json.dumps(kept(r), sort_keys=True) for r in records if not r["error"])
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def again(archive, n):
    "Jobs of the archive, computed a second time; how many give other numbers"
    records = [json.loads(line) for line in gzip.open(archive, "rt")]
    drawn = [records[i] for i in np.random.default_rng().permutation(len(records))[:n]]
    with tempfile.TemporaryDirectory() as folder:
        second = trained(pd.DataFrame([r["options"] | {"lam": lam} for r in drawn for lam in r["lambdas"]]), folder)
        new = {job.name: numbers(json.loads((second.out / "results" / f"{job.name}.json").read_text())) for job in jobs_of(second.cells)}
    other = [r for r in drawn if new[Job(r["options"], ()).name] != r["rows"]]
    print(f"{len(drawn)} jobs of {len(records)} a second time: {len(drawn) - len(other)} give the same numbers to the last digit, {len(other)} do not")
    for r in other: print(" ", r["options"])
    return len(other)


def complete(sweep):
    "The cells of those seeds whose trainings are all done"
    done = sweep.table.groupby("seed")["status"].agg(lambda s: s.eq("done").all())
    return sweep.cells[sweep.cells["seed"].isin(done.index[done])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a part of the grid; writes figures/evidence/quick/")
    parser.add_argument("--fresh", action="store_true", help="compute all again, also what figures/evidence/records.jsonl.gz holds")
    parser.add_argument("--again", type=int, metavar="N", help="compute N jobs a second time and compare")
    parser.add_argument("--draw", action="store_true", help="train nothing: tables and pictures of what is finished")
    parser.add_argument("--out", type=Path, default=ROOT / "evidence", help="folder of the run sets")
    opt = parser.parse_args()
    figures, grid = ROOT / "figures" / "evidence", cells(opt.quick)
    if opt.again: return again(figures / "records.jsonl.gz", opt.again)
    if not opt.fresh: unpack(figures / "records.jsonl.gz", opt.out)
    result = Sweep(opt.out, cells_of(grid))
    if not opt.draw:
        trained(grid, opt.out)
        if len(result.failures): sys.exit(f"{len(result.failures)} trainings failed:\n{result.failures['traceback'].iloc[0]}")
        if not opt.quick: pack(result, figures / "records.jsonl.gz")
    ready = complete(result)
    if ready.empty: sys.exit("no seed is complete yet; call again to go on")
    write(Sweep(opt.out, ready), figures / ("quick" if opt.quick else ""), len(grid))


if __name__ == "__main__": sys.exit(main())
