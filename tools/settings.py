"""How the demo's settings were chosen: every setting that was tried, on seeds 0 to 19 only.

    python tools/settings.py            # resumable; writes figures/headline/tried.csv

The choice itself is the defaults of `prograd_viz.data.pocket_task` and `prograd_viz.training.train`.
Seeds from 1000 on are for `tools/headline.py`, which reports the chosen setting once.
"""
import itertools
import json
import sys
from pathlib import Path

import pandas as pd
import torch
from joblib import Parallel, delayed

from prograd_viz.clip import load_clip
from prograd_viz.runs import mean_interval
from prograd_viz.study import study

OUT = Path(__file__).parent.parent / "figures" / "headline"
SEEDS = range(20)
TRIED = [{"noise": noise, "n_ctx": n_ctx, "views": views} for noise, n_ctx, views in itertools.product((0.05, 0.08, 0.12), (4, 16), (0, 8))]


def one_seed(setting, seed):
    "Rows of one setting and seed"
    torch.set_num_threads(1)
    training = {k: v for k, v in setting.items() if k not in ("noise", "size", "rho")}
    data = {k: v for k, v in setting.items() if k in ("noise", "size", "rho")}
    return study(load_clip("pocket"), [seed], 8, [0.0, 1.0], data, images=24, snapshots=2, progress=False, **training).rows


def row(setting, rows):
    "Means, and the paired difference on shifted backgrounds"
    wide = rows.pivot(index="seed", columns="prompt")
    out = dict(setting, seeds=len(wide))
    for prompt in ("zero-shot", "CoOp", "ProGrad 1"):
        out |= {f"{prompt} {split}": wide[f"acc_{split}", prompt].mean() for split in ("same", "shifted", "new")} | {f"{prompt} share": wide["share_shifted", prompt].mean()}
    gap, half = mean_interval(wide["acc_shifted", "ProGrad 1"] - wide["acc_shifted", "CoOp"])
    return out | {"gap_shifted": gap, "half": half, "conflict": wide["conflict", "CoOp"].mean()}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "tried.csv"
    done = pd.read_csv(path).to_dict("records") if path.exists() else []
    for setting in TRIED:
        if any(all(str(d.get(k)) == str(v) or d.get(k) == v for k, v in setting.items()) for d in done): continue
        rows = pd.concat(Parallel(2)(delayed(one_seed)(setting, seed) for seed in SEEDS))
        done.append(row(setting, rows))
        pd.DataFrame(done).to_csv(path, index=False)
        print(json.dumps(done[-1]), flush=True)


if __name__ == "__main__": sys.exit(main())
