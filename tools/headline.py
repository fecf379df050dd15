"""The numbers and pictures that README quotes: the chosen setting on fresh seeds, and its neighbours.

    python tools/headline.py            # resumable; writes figures/headline/

Seeds 1000 to 1009 are used here and in tools/rivals.py alone.
"""
import argparse
import sys
from functools import partial
from pathlib import Path

import pandas as pd

from prograd_viz.cli import MEASURES, on_the_object, spread_steps
from prograd_viz.clip import load_clip
from prograd_viz.maps import Occlusion, foreground
from prograd_viz.runs import mean_interval
from prograd_viz.summary import summarise
from prograd_viz.sweep import Sweep, cells_of, sweep
from tradeoff import readings, tradeoff

ROOT = Path(__file__).resolve().parent.parent
OUT, KEPT = ROOT / "figures" / "headline", ROOT / ".figures"  # what README quotes, and the run sets behind it
TRIED = ROOT / "figures" / "difficulty" / "difficulty.csv"  # the settings among which the default was chosen
SEEDS = range(1000, 1010)
LAMBDAS = [0.0, 0.25, 0.5, 0.75, 1.0]
SHARES = {  # Column -> its name in the table; the map of the predicted class
    "share_same_predicted": "on object, same (Grad-CAM)", "share_shifted_predicted": "on object, shifted (Grad-CAM)",
    "share_same_predicted_occlusion": "on object, same (Occlusion)",
    "share_shifted_predicted_occlusion": "on object, shifted (Occlusion)",
}
METHODS = ("zero-shot CLIP", "CoOp", "ProGrad")
EVERY = [1, 4, 12, 20, 40]  # Steps between those that are read of CoOp's path: here, in the rivals, in the evidence


def neighbours():
    "Settings around the chosen one: (name, shots, data options, training options)"
    return [
        *((f"{s} shot{'s' * (s > 1)}", s, {}, {}) for s in (1, 2, 4, 8, 16)),
        ("smaller objects", 8, {"size": 0.5}, {}),
        ("objects at full size", 8, {"size": 1.0}, {}),
        ("pixel noise of 0.03", 8, {"noise": 0.03}, {}),
        ("rho = 0.5", 8, {"rho": 0.5}, {}),
        ("no augmentation", 8, {}, {"views": 0}),
        ("16 context vectors", 8, {}, {"n_ctx": 16}),
        ("class-specific contexts", 8, {}, {"class_specific": True, "init": "random", "n_ctx": 4, "lr": 0.02}),
    ]


def swept(name, evaluate=None, **grid):
    "The sweep of a setting over all seeds, and its rows; kept, and resumed"
    grid = {"shots": 8, "seed": SEEDS, "lam": [0.0, 1.0]} | grid
    result = sweep(grid, KEPT / name, workers=2, evaluate=evaluate)
    result = Sweep(result.out, cells_of(grid))
    if not result.table["status"].eq("done").all():
        sys.exit(f"{result}: {result.failures['error'].tolist()[:1] or 'interrupted'}; run it again")
    rows = result.results()
    accuracies = [f"acc_{split}" for split in ("train", "same", "shifted", "new", "style") if f"acc_{split}" in rows]
    kept = [*accuracies, *rows.filter(regex="^(share|preference|empty|area|train|matched)_").columns, "conflict"]
    return result, rows[["seed", "method", "lam", *kept]]


def main_sweep():
    "The chosen setting, with snapshots of every step for the pictures and the trade-off"
    maps = partial(on_the_object, targets=("predicted", "true"), explainers=("GradCAM", Occlusion(stride=16)))
    evaluate = {"maps": maps, "tradeoff": tradeoff}
    return swept("headline", evaluate, lam=LAMBDAS, snapshot_every=1, evaluate_every=12)


def read_coarsely(result):
    "The difference at equal divergence by how many steps of CoOp's path are read, a row per seed and reading"
    each = [readings(runs, EVERY).assign(seed=runs.task.settings["seed"]) for runs in result.runs(load_clip())]
    return pd.concat(each, ignore_index=True)


def shares(many):
    "Foreground over the steps on shifted backgrounds, all seeds"
    each = [foreground(runs, "shifted", steps=spread_steps(runs, 10)).rows for runs in many]
    return pd.concat(each, ignore_index=True)


def cell(mean, half, signed=False): return f"{mean:+.3f} ± {half:.3f}" if signed else f"{mean:.2f} ± {half:.2f}"


HEADLINE = """\
{table}

ProGrad minus CoOp, seed by seed: {gaps}.

At equal divergence: ProGrad's last cross-entropy over the training images minus CoOp's lowest while CoOp's divergence \
from zero-shot CLIP over them is no higher than ProGrad's last, {matched} nats{counted}. \
CoOp's path is read at every step; a coarser reading misses its lowest points, and favours ProGrad: {coarse}.

*On object* is the share of the predicted class's map that lies on the object. The object covers {area:.0%} of an \
image on average, which an even map scores. {seeds} seeds ({first} to {last}), 8 shots; {tried} \
settings (ways of making images hard, and how hard) were tried before, on seeds {screened} (`figures/difficulty/`).
"""


def headline_md(rows, read):
    "The main table, and the paired differences"
    columns = {c: name for c, name in MEASURES.items() if c.startswith("acc_")} | SHARES
    columns |= {"acc_style": "other style", "conflict": "steps in conflict"}
    summary, tried = summarise(rows, columns=[*columns, "matched_ce"]), pd.read_csv(TRIED)
    means, gaps = (intervals(table) for table in (summary.means, summary.differences))
    lines = ["| method | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for method in METHODS:
        cells = [cell(*means[method, m]) if (method, m) in means else "" for m in columns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines.append(f"| random text | {' | '.join(floor_of(rows, c) for c in columns)} |")
    compared = ("acc_same", "acc_shifted", "acc_new", *SHARES)
    said = [f"{columns[m]} {cell(*gaps['ProGrad', m], signed=True)}" for m in compared]
    seeds = int(summary.differences.set_index(["method", "column"]).loc[("ProGrad", "matched_ce"), "seeds"])
    counted = "" if seeds == rows["seed"].nunique() else f" ({seeds} seeds; in the others CoOp is never as near)"
    by_reading = {n: mean_interval(group["matched_ce"]) for n, group in read.groupby("every")}
    coarse = ", ".join(f"{cell(*by_reading[n], signed=True)} at every {n}th" for n in EVERY[1:])
    return HEADLINE.format(
        coarse=coarse,
        matched=cell(*gaps["ProGrad", "matched_ce"], signed=True), counted=counted, table="\n".join(lines),
        gaps="; ".join(said), area=rows["area_shifted"].mean(), seeds=rows["seed"].nunique(),
        first=SEEDS[0], last=SEEDS[-1], tried=len(tried[["way", "level"]].drop_duplicates()),
        screened=f"{tried['seed'].min()} to {tried['seed'].max()}")


def floor_of(rows, column):
    "The share of maps of random text directions, beside that of the predicted class"
    floor = column.replace("_predicted", "_random")
    if column not in SHARES: return ""
    return cell(*mean_interval(rows.groupby("seed")[floor].first()))


def intervals(table):
    "(method, column) -> mean and half the interval"
    return {(r.method, r.column): (r.mean, (r.high - r.low) / 2) for r in table.itertuples()}


def neighbours_md(rows):
    "Accuracies of the neighbours, with the paired differences"
    triple = "same / shifted / new"
    lines = [f"| setting | zero-shot CLIP {triple} | CoOp {triple} | ProGrad {triple} "
             "| ProGrad - CoOp on same | on shifted | on new |", "|---" * 7 + "|"]
    for name, group in rows.groupby("setting", sort=False):
        wide = group.pivot(index="seed", columns="method")
        triples = [" / ".join(mean_of(wide, split, method) for split in SPLITS) for method in METHODS]
        lines.append(" | ".join([f"| {name}", *triples, *(gap_of(wide, split) for split in SPLITS)]) + " |")
    return "\n".join(lines) + "\n"


SPLITS = ("same", "shifted", "new")


def mean_of(wide, split, method):
    "The mean accuracy of a method"
    found = wide[f"acc_{split}", method]
    return "–" if found.isna().all() else f"{found.mean():.2f}"


def gap_of(wide, split):
    "The paired difference of ProGrad and CoOp"
    coop, ours = (wide[f"acc_{split}", method] for method in ("CoOp", "ProGrad"))
    return "–" if coop.isna().all() else cell(*mean_interval(ours - coop), signed=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    result, rows = main_sweep()
    rows.to_csv(OUT / "headline.csv", index=False)
    read = read_coarsely(result)
    read.to_csv(OUT / "readings.csv", index=False)
    (OUT / "headline.md").write_text(headline_md(rows, read))
    from figures import PICTURES  # drawn from the tables that were written above
    for name, draw in PICTURES.items(): draw().savefig(OUT / Path(name).name)
    done, path = [], OUT / "neighbours.csv"
    for name, shots, data, training in neighbours():
        _, rows = swept(name.replace(" ", "-"), shots=shots, **data, **training)
        done.append(rows.assign(setting=name))
        pd.concat(done).to_csv(path, index=False)
        print(name, flush=True)
    (OUT / "neighbours.md").write_text(neighbours_md(pd.concat(done)))


if __name__ == "__main__": sys.exit(main())
