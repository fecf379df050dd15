"""The library beside the published trainer on whole models: RN50 and ViT-B-32 with random weights in OpenAI's layout, 30 steps each.

    python tools/published.py RN50        # 18 trainings, an hour on two cores; writes figures/published/RN50.csv
    python tools/published.py ViT-B-32

tests/test_published.py does the same with small models in seconds; what is compared, and what counts as equal, is said there.
"""
import argparse
import sys
from pathlib import Path

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from test_published import LAMBDAS, SCALES, STARTS, agrees, compared, few_images, load_clip, sides  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("RN50", "ViT-B-32"))
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 1), metavar=("WEIGHTS", "BATCHES"))
    opt = parser.parse_args()
    torch.manual_seed(opt.seeds[0])
    clip, out = load_clip(opt.model, "random", quick_gelu=True), ROOT / "figures" / "published" / f"{opt.model}.csv"
    task, rows = few_images(clip.image_size), []
    for scale in SCALES:
        for start in STARTS:
            runs, published = sides(clip, task, scale, start, opt.seeds[1])
            for lam in LAMBDAS:
                row = compared(runs, lam, *published(lam))
                rows.append({"model": opt.model, "scale": scale, "start": start, "lambda": lam, **row, "agrees": agrees(row)})
                print(rows[-1], flush=True)
                out.parent.mkdir(parents=True, exist_ok=True)
                pd.DataFrame(rows).to_csv(out, index=False)


if __name__ == "__main__": main()
