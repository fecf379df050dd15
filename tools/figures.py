"""The pictures of README and tutorials again, from tables in figures/ and from run sets kept in .figures/.

    python tools/figures.py             # all of them; trains ten seeds first (ten minutes on 2 cores; resumable)
    python tools/figures.py --list      # which picture comes from where

Pictures that are measurements or screenshots have commands of their own; figures/README.md names one for each.
"""
import argparse
import re
from functools import cache
from pathlib import Path

import pandas as pd

from headline import KEPT, OUT, SHARES, main_sweep, shares
from prograd_viz.clip import load_clip
from prograd_viz.evaluate import disagreeing
from prograd_viz.plots import (
    clearest_conflict,
    plot_accuracy,
    plot_cosine,
    plot_foreground,
    plot_gradient_plane,
    plot_lambda,
    plot_maps,
)

root = Path(__file__).resolve().parent.parent


def rows(): return pd.read_csv(OUT/"headline.csv")


@cache
def ten():
    "The run sets of all seeds, after a look whether they say what the table says"
    result, ours = main_sweep()
    if (gap := apart(ours, rows())) > 0.02:
        raise SystemExit(f"the runs in {KEPT.name}/ and headline.csv differ by {gap:.3f} in an accuracy: "
                         f"run tools/headline.py, or remove {KEPT.name}/")
    return result.runs(load_clip("pocket"))


def apart(
    ours:pd.DataFrame, # Rows of the sweep
    table:pd.DataFrame, # The headline's rows
)->float:
    "The largest difference of a mean accuracy between runs and table"
    columns = ["acc_same", "acc_shifted", "acc_new"]
    means = [t.dropna(subset="lam").groupby("lam")[columns].mean() for t in (ours, table)]
    return float((means[0] - means[1]).abs().max().max())


# -- the pictures ------------------------------------------------------------------------

PICTURES = {
    "headline/lambda.png": lambda: plot_lambda(rows().dropna(subset="lam")),
    "headline/lambda_share.png": lambda: plot_lambda(rows().dropna(subset="lam").rename(columns=SHARES),
                                                     list(SHARES.values()), ylabel="share of the map on the object"),
    "headline/maps.png": lambda: plot_maps(ten()[0], "shifted", explainer="Occlusion",
                                           images=disagreeing(ten()[0], "shifted", images=3)),
    "headline/cosine.png": lambda: plot_cosine(ten()[0], [0.0, 1.0]),
    "headline/gradient_plane.png": lambda: plot_gradient_plane(ten()[0], 1.0, clearest_conflict(ten()[0], 1.0)),
    "headline/accuracy.png": lambda: plot_accuracy(ten()),
    "headline/foreground.png": lambda: plot_foreground(shares(ten())),
}


def commands()->dict: # Picture, from figures/ -> command
    "What figures/README.md says of each picture"
    text = (root/"figures/README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| \[[^]]+\]\(([^)]+\.png)\) \| `([^`]+)` \|", text, re.M))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("pictures", nargs="*",
                   help=f"some of them, such as headline/lambda.png; default: all {len(PICTURES)}")
    p.add_argument("--list", action="store_true", help="say where each picture comes from, and draw nothing")
    p.add_argument("--out", type=Path, default=root/"figures")
    a = p.parse_args()
    if a.list: return print(*(f"{picture:32} {command}" for picture, command in commands().items()), sep="\n")
    if unknown := set(a.pictures) - set(PICTURES):
        raise SystemExit(f"no picture {sorted(unknown)[0]!r}; these can be drawn: {', '.join(PICTURES)}")
    for name in a.pictures or PICTURES:
        (a.out/name).parent.mkdir(parents=True, exist_ok=True)
        PICTURES[name]().savefig(a.out/name)
        print(a.out/name, flush=True)


if __name__ == "__main__": main()
