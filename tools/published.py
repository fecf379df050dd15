"""Compare the library with the published trainer on RN50 and ViT-B-32, random weights in OpenAI's layout, 30 steps.

    python tools/published.py RN50        # 18 trainings, an hour on two cores; writes figures/published/RN50.csv
    python tools/published.py ViT-B-32

A comparison needs steps in both branches of the rule. So the library trains first, over seeds of batches, until every
run has five steps in conflict and five without; if four seeds are not enough, with twice the epochs. The column `seed`
is the seed that was used. Finished rows are kept: a second call trains only those that are missing or have too few
steps in one branch.

tests/test_published.py does the same with small models in seconds, and defines what is compared and what is equal.
"""
import argparse
import sys
from pathlib import Path

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import prograd_viz.torchvision_ops  # noqa: E402,F401  before open_clip, as the tests have it
from test_published import (  # noqa: E402  its folder is added above
    LAMBDAS,
    RECIPE,
    SCALES,
    STARTS,
    agrees,
    both_branches,
    compared,
    few_images,
    load_clip,
    sides,
)

TRIES = 4  # seeds of batches with the usual number of epochs, and again with twice as many


def complete(rows):
    "Whether one comparison has all rows, with five steps in each branch"
    return len(rows) == len(LAMBDAS) and rows[["conflict", "no_conflict"]].min(axis=None) >= 5


def tried(clip, task, scale, start, first):
    "(seed, runs, published) for the first seed that takes both branches often, or the last one tried if none does"
    for epochs in (RECIPE["epochs"], 2 * RECIPE["epochs"]):
        for seed in range(first, first + TRIES):
            runs, published = sides(clip, task, scale, start, seed, epochs)
            counts = runs.steps.groupby("run")["conflict"].sum().tolist()
            steps = f"{counts} of {runs.steps['step'].max()} steps in conflict"
            print(f"scale {scale}, {start}, seed {seed}, {epochs} epochs: {steps}", flush=True)
            if both_branches(runs): return seed, runs, published
    return seed, runs, published


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("RN50", "ViT-B-32"), help="architecture")
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 1), metavar=("WEIGHTS", "BATCHES"),
                        help="seed of the weights, and the first seed of batches (default: 0 1)")
    parser.add_argument("--fresh", action="store_true", help="train everything again")
    opt = parser.parse_args()
    torch.manual_seed(opt.seeds[0])
    clip, out = load_clip(opt.model, "random", quick_gelu=True), ROOT / "figures" / "published" / f"{opt.model}.csv"
    task, keys = few_images(clip.image_size), ["scale", "start"]
    table = pd.DataFrame(columns=keys) if opt.fresh or not out.is_file() else pd.read_csv(out)
    order = [(scale, start) for scale in SCALES for start in STARTS]
    for scale, start in order:
        mine = (table["scale"] == scale) & (table["start"] == start)
        if complete(table[mine]): continue
        seed, runs, published = tried(clip, task, scale, start, opt.seeds[1])
        where, rows = {"model": opt.model, "scale": scale, "start": start}, []
        for lam in LAMBDAS:
            row = compared(runs, lam, *published(lam))
            rows.append({**where, "lambda": lam, "seed": seed, **row, "agrees": agrees(row)})
        rows = pd.DataFrame(rows)
        print(rows.to_string(), flush=True)
        table = pd.concat([table[~mine], rows]) if (~mine).any() else rows
        in_order = lambda c: c if c.name == "scale" else c.map(list(STARTS).index)
        table = table.sort_values(keys, key=in_order, kind="stable")
        out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(out, index=False)
    write_page(out.parent)


def write_page(folder):
    "Both tables on one page: of each model, logit scale and start the largest differences over its lambdas"
    table = pd.concat(map(pd.read_csv, sorted(folder.glob("*.csv"))))
    each = table.groupby(["model", "scale", "start"], sort=False)
    rows = each.agg({"displacement": "max", "losses": "max", "steps": "max", "conflict": ["min", "max"]})
    shown = [[*at, f"{row[0]:.1e}", f"{row[1]:.1e}", f"{row[2]:g}", f"{row[3]:g} to {row[4]:g}"]
             for at, row in zip(rows.index, rows.to_numpy())]
    heads = ["model", "logit scale", "start", "apart", "losses apart", "steps", "of them in conflict"]
    lambdas = ", ".join(f"{lam:g}" for lam in LAMBDAS)
    says = f"""# The path of a context beside the published trainer's

{table["agrees"].sum()} of {len(table)} runs agree: whole models with random weights in OpenAI's layout, 20 noisy images
of 5 classes, float32, lambda {lambdas} for each row. `tests/published.py` is the published trainer, written
out again; `python tools/published.py RN50` and `ViT-B-32` write this page. *Apart* is the largest difference of both
displacements from the start at any step, in parts of the way (bar: 1e-4); losses are compared in parts of their size,
small ones as they are (bar: 1e-5); both must take the same branch of the rule at every step.

"""
    page = pd.DataFrame(shown, columns=heads).to_markdown(index=False, disable_numparse=True)
    (folder / "published.md").write_text(says + page + "\n", encoding="utf-8")


if __name__ == "__main__": main()
