"""What the README says about ProGrad, CoOp and where they look, over seeds, shots, lambdas, contexts and backgrounds.

    python tools/evidence.py            # 3,000 trainings, about two hours on two cores; resumable; writes figures/evidence/
    python tools/evidence.py --quick    # shots 1, 4 and 8, rho 0.5 and 1, unified contexts: 900 trainings, half an hour

Seeds 2000 to 2019 are used here and nowhere else. The run sets stay in evidence/ (3 GB); tables and pictures go to figures/evidence/.
"""
import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from prograd_viz.cam import EXPLAIN, cam_maps, explained_directions, measure, pick_images, resize_maps, shown_masks
from prograd_viz.faithful import composites
from prograd_viz.sweep import sweep

ROOT = Path(__file__).resolve().parent.parent
SEEDS, LAMBDAS = range(2000, 2020), (0, 0.25, 0.5, 0.75, 1)
CONTEXTS = {"unified": {}, "class-specific": {"class_specific": True, "init": "random", "n_ctx": 4, "lr": 0.02}}
MAPS, CHANGED = 24, 48  # images whose maps are measured, and which are changed


def cells(quick):
    "The grid, a row per training"
    shots, rhos, contexts = ((1, 4, 8), (0.5, 1.0), ["unified"]) if quick else ((1, 2, 4, 8, 16), (0.5, 0.8, 1.0), list(CONTEXTS))
    return pd.DataFrame([{"shots": k, "seed": seed, "rho": rho, "lam": lam, "test_per_class": 12, "checkpoint_every": 200, **CONTEXTS[c]} for seed in SEEDS for rho in rhos for k in shots for c in contexts for lam in LAMBDAS])


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a part of the grid")
    parser.add_argument("--out", type=Path, default=ROOT / "evidence", help="folder of the run sets")
    parser.add_argument("--limit", type=int, default=None, help="stop after so many seeds, to try it")
    opt = parser.parse_args()
    grid = cells(opt.quick)
    if opt.limit: grid = grid[grid["seed"] < SEEDS[0] + opt.limit]
    result = sweep(grid, opt.out, measure=looks_and_leans)
    print(result)


if __name__ == "__main__": sys.exit(main())
