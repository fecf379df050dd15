"""The numbers and pictures that README quotes: the chosen setting on fresh seeds, and its neighbours.

    python tools/headline.py            # resumable; writes figures/headline/

Seeds 1000 to 1009 are used here and nowhere else.
"""
import argparse
import sys
from functools import partial
from pathlib import Path

import pandas as pd

from prograd_viz.cam import foreground
from prograd_viz.tasks import few_shot
from prograd_viz.cli import MEASURES, on_the_object, spread_steps
from prograd_viz.runs import mean_interval
from prograd_viz.summary import summarise
from prograd_viz.sweep import Sweep, cells_of, sweep

ROOT = Path(__file__).resolve().parent.parent
OUT, KEPT = ROOT / "figures" / "headline", ROOT / ".figures"  # what README quotes, and the run sets behind it
SEEDS = range(1000, 1010)
LAMBDAS = [0.0, 0.25, 0.5, 0.75, 1.0]
SHARES = ("share_same", "share_shifted")
NAMES = {"zero-shot CLIP": "zero-shot", "CoOp": "CoOp", "ProGrad 1": "ProGrad"}  # as the tables call them


def neighbours(noise):
    "Settings around the chosen one: (name, shots, data options, training options)"
    shots = [(f"{s} shot{'s' * (s > 1)}", s, {}, {}) for s in (1, 2, 4, 8, 16)]
    return shots + [("half the noise", 8, {"noise": noise / 2}, {}), ("twice the noise", 8, {"noise": noise * 2}, {}), ("backgrounds half as telling", 8, {"rho": 0.5}, {}),
                    ("objects at full size", 8, {"size": 1.0}, {}), ("no augmentation", 8, {}, {"views": 0}), ("16 context vectors", 8, {}, {"n_ctx": 16}),
                    ("class-specific contexts", 8, {}, {"class_specific": True, "init": "random", "n_ctx": 4, "lr": 0.02})]


def swept(name, images, snapshots, **grid):
    "The sweep of a setting over all seeds, and its rows; kept, and resumed"
    measure = partial(on_the_object, images=images, snapshots=snapshots)
    grid = {"shots": 8, "seed": SEEDS, "lam": [0.0, 1.0]} | grid
    result = sweep(grid, KEPT / name, workers=2, evaluate={"maps": measure})
    result = Sweep(result.out, cells_of(grid))
    if not result.table["status"].eq("done").all(): sys.exit(f"{result}: {result.failures['error'].tolist()[:1] or 'interrupted'}; run it again")
    rows = result.results()
    accuracies = [f"acc_{split}" for split in ("train", "same", "shifted", "new", "style") if f"acc_{split}" in rows]
    kept = [f"{m}_{split}" for m in ("share", "preference", "area") for split in ("same", "shifted")]
    return result, rows[["seed", "method", "lam", *accuracies, *kept, "empty_maps", "conflict"]]


def main_sweep():
    "The chosen setting, with snapshots of every step for the pictures"
    return swept("headline", 60, 10, lam=LAMBDAS, snapshot_every=1, evaluate_every=12)


def shares(many):
    "Foreground over the steps on shifted backgrounds, all seeds"
    return pd.concat([foreground(runs, "shifted", 60, spread_steps(runs, 10)).assign(seed=runs.config["seed"]) for runs in many], ignore_index=True)


def cell(mean, half, signed=False): return f"{mean:+.3f} ± {half:.3f}" if signed else f"{mean:.2f} ± {half:.2f}"


def headline_md(rows):
    "The main table, and the paired differences"
    columns = {**MEASURES, "acc_style": "other style", "conflict": "steps in conflict"}
    summary, area, seeds = summarise(rows, measures=[*columns]), rows["area_shifted"].mean(), rows["seed"].nunique()
    numbers = lambda table, method, m: next(((r.mean, (r.high - r.low) / 2) for r in table.itertuples() if (r.method, r.measure) == (method, m)), None)
    lines = ["| prompt | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for method, name in NAMES.items():
        found = [numbers(summary.means, method, m) for m in columns]
        lines.append(f"| {name} | " + " | ".join("" if pair is None else cell(*pair) for pair in found) + " |")
    gaps = ("acc_same", "acc_shifted", "acc_new", *SHARES)
    said = [f"{columns[m]} {cell(*numbers(summary.differences, 'ProGrad 1', m), signed=True)}" for m in gaps]
    screened = pd.read_csv(OUT / "screened.csv")
    lines += ["", f"ProGrad minus CoOp, seed by seed: {'; '.join(said)}.", "",
              f"The object covers {area:.0%} of an image on average: a map without preference scores that. {seeds} seeds ({SEEDS[0]} to {SEEDS[-1]}), 8 shots; {len(screened)} settings were tried before, on seeds {' or '.join(sorted(set(screened['seeds'])))} (`screened.csv`)."]
    return "\n".join(lines) + "\n"


def neighbours_md(rows):
    "Accuracies of the neighbours, with the paired differences"
    lines = ["| setting | zero-shot same / shifted / new | CoOp same / shifted / new | ProGrad same / shifted / new | ProGrad - CoOp on same | on shifted | on new |", "|---" * 7 + "|"]
    for name, group in rows.groupby("setting", sort=False):
        wide = group.pivot(index="seed", columns="method")
        triple = lambda p: " / ".join("–" if wide[f"acc_{s}", p].isna().all() else f"{wide[f'acc_{s}', p].mean():.2f}" for s in ("same", "shifted", "new"))
        gap = lambda s: "–" if wide[f"acc_{s}", "CoOp"].isna().all() else cell(*mean_interval(wide[f"acc_{s}", "ProGrad 1"] - wide[f"acc_{s}", "CoOp"]), signed=True)
        lines.append(f"| {name} | {triple('zero-shot CLIP')} | {triple('CoOp')} | {triple('ProGrad 1')} | {gap('same')} | {gap('shifted')} | {gap('new')} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    _, rows = main_sweep()
    rows.to_csv(OUT / "headline.csv", index=False)
    (OUT / "headline.md").write_text(headline_md(rows))
    from figures import PICTURES  # which draws from what is written above
    for name, draw in PICTURES.items(): draw().savefig(OUT / Path(name).name)
    done, path = [], OUT / "neighbours.csv"
    for name, shots, data, training in neighbours(few_shot("pocket", 1, 0).settings["noise"]):
        _, rows = swept(name.replace(" ", "-"), 24, 2, shots=shots, **data, **training)
        done.append(rows.assign(setting=name))
        pd.concat(done).to_csv(path, index=False)
        print(name, flush=True)
    (OUT / "neighbours.md").write_text(neighbours_md(pd.concat(done)))


if __name__ == "__main__": sys.exit(main())
