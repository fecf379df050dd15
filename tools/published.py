"""The library beside the published trainer on whole models: RN50 and ViT-B-32 with random weights in OpenAI's layout, 30 steps each.

    python tools/published.py RN50        # 18 trainings, an hour on two cores; writes figures/published/RN50.csv
    python tools/published.py ViT-B-32

A comparison says little where one branch of the rule was hardly taken. So the library's side is trained first, with one seed of batches
after the other, until every run has five steps in conflict and five without; where four seeds do not give that, with twice the epochs.
The column `seed` says which seed it was. Rows that are there are kept: a second call trains only what is missing, or has too few steps of a kind.

tests/test_published.py does the same with small models in seconds; what is compared, and what counts as equal, is said there.
"""
import argparse
import sys
from pathlib import Path

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from test_published import LAMBDAS, RECIPE, SCALES, STARTS, agrees, both_branches, compared, few_images, load_clip, sides  # noqa: E402

TRIES = 4  # seeds of batches with the usual number of epochs, and again with twice as many


def telling(rows):
    "Whether the rows of one comparison are all there, with five steps of each kind"
    return len(rows) == len(LAMBDAS) and rows[["conflict", "no_conflict"]].min(axis=None) >= 5


def tried(clip, task, scale, start, first):
    "Both sides with the first seed that takes both branches often, (seed, runs, published); the last one tried if none does"
    for epochs in (RECIPE["epochs"], 2 * RECIPE["epochs"]):
        for seed in range(first, first + TRIES):
            runs, published = sides(clip, task, scale, start, seed, epochs)
            counts = runs.steps.groupby("run")["conflict"].sum().tolist()
            print(f"scale {scale}, {start}, seed {seed}, {epochs} epochs: {counts} of {runs.steps['step'].max()} steps in conflict", flush=True)
            if both_branches(runs): return seed, runs, published
    return seed, runs, published


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("RN50", "ViT-B-32"))
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 1), metavar=("WEIGHTS", "BATCHES"), help="of the weights, and the first seed of batches that is tried (default: 0 1)")
    parser.add_argument("--fresh", action="store_true", help="train all again, whatever is there")
    opt = parser.parse_args()
    torch.manual_seed(opt.seeds[0])
    clip, out = load_clip(opt.model, "random", quick_gelu=True), ROOT / "figures" / "published" / f"{opt.model}.csv"
    task, keys = few_images(clip.image_size), ["scale", "start"]
    table = pd.DataFrame(columns=keys) if opt.fresh or not out.is_file() else pd.read_csv(out)
    order = [(scale, start) for scale in SCALES for start in STARTS]
    for scale, start in order:
        mine = (table["scale"] == scale) & (table["start"] == start)
        if telling(table[mine]): continue
        seed, runs, published = tried(clip, task, scale, start, opt.seeds[1])
        rows = [compared(runs, lam, *published(lam)) for lam in LAMBDAS]
        rows = pd.DataFrame([{"model": opt.model, "scale": scale, "start": start, "lambda": lam, "seed": seed, **row, "agrees": agrees(row)} for lam, row in zip(LAMBDAS, rows)])
        print(rows.to_string(), flush=True)
        table = pd.concat([table[~mine], rows]) if (~mine).any() else rows
        table = table.sort_values(keys, key=lambda c: c if c.name == "scale" else c.map(list(STARTS).index), kind="stable")
        out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(out, index=False)


if __name__ == "__main__": main()
