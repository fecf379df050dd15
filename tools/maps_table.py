"""Where the maps of zero-shot CLIP, CoOp and ProGrad are, by every explainer, and which explainer is faithful.

    python tools/maps_table.py          # four seeds of the pocket world; resumable; writes figures/maps/
    python tools/maps_table.py --draw   # computes nothing; tables and picture of the seeds that are finished

Seeds 3000 to 3003 are used here and nowhere else. The rows of a seed stay in .figures/maps/, a parquet file each; one
takes up to ten minutes on two busy cores.
"""
import argparse
import itertools
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd

from prograd_viz.clip import load_clip
from prograd_viz.faithful import faithfulness, score_summary, stability, weights_check
from prograd_viz.maps import EXPLAINERS, RANDOM, RISE, Explainer, Occlusion
from prograd_viz.plots import plot_faithfulness
from prograd_viz.summary import interval_of, summarise
from prograd_viz.tasks import few_shot
from prograd_viz.training import train

ROOT = Path(__file__).resolve().parent.parent
OUT, KEPT = ROOT / "figures" / "maps", ROOT / ".figures" / "maps"
SEEDS, IMAGES, FLOOR = range(3000, 3004), 16, 5  # images of each test set, random directions
SPLITS, TARGETS = ("same", "shifted"), ("predicted", "true")
ASKED = (*(EXPLAINERS[name] for name in ("GradCAM", "HiResCAM", "LayerCAM", "ScoreCAM", "Occlusion")), RISE(number=300))
PAIRS = {
    "Occlusion, two strides": (Occlusion(patch=16, stride=8), Occlusion(patch=16, stride=16)),
    "RISE, two seeds": (RISE(number=300), RISE(number=300, seed=1)),
}
METHODS = ("zero-shot CLIP", "CoOp", "ProGrad")
SHARES, COLUMNS = ("share", "drop"), ("deletion", "insertion", "share", "drop")
SHOWN, SETTING = ("shifted", "predicted"), ["split", "target", "explainer"]


@dataclass(frozen=True)
class Once(Explainer):
    "An explainer that prepares images once for all prompts and targets, as long as the model is the same"
    of: Explainer
    clip: object
    known: dict = field(default_factory=dict)

    @property
    def name(self): return self.of.name

    def prepare(self, clip, images, **how):
        if clip is not self.clip: return self.of.prepare(clip, images, **how)
        key = hash(images.numpy().tobytes())
        if key not in self.known: self.known[key] = self.of.prepare(clip, images, **how)
        return self.known[key]


def rows_of(seed):
    "Every row of a seed, with a column `kind`: faithful, weights or stability"
    clip, task = load_clip("pocket"), few_shot("pocket", seed=seed)
    runs, tables = train(clip, task, [0.0, 1.0], seed=seed, progress=False), []
    for explainer in (Once(explainer, clip) for explainer in ASKED):
        for split, target in itertools.product(SPLITS, TARGETS):
            columns = COLUMNS if (split, target) == SHOWN else SHARES
            tables.append(faithfulness(runs, split, images=IMAGES, target=target, explainer=explainer, columns=columns,
                                       random_directions=FLOOR).assign(kind="faithful"))
        checked = weights_check(runs, SHOWN[0], images=IMAGES // 2, target=SHOWN[1], explainer=explainer, stages=1)
        tables.append(checked.assign(kind="weights"))
    for name, pair in PAIRS.items():
        table = stability(runs, SHOWN[0], images=IMAGES, target=SHOWN[1], explainers=pair)
        tables.append(table.assign(kind="stability", explainer=name))
    return pd.concat(tables, ignore_index=True)


def computed(seeds):
    "Compute the seeds that have no file"
    KEPT.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        path, began = KEPT / f"seed-{seed}.parquet", time.time()
        if path.is_file(): continue
        table = rows_of(seed)
        table.to_parquet(path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
        print(f"seed {seed}: {len(table):,} rows in {time.time() - began:.0f} s", flush=True)


# ---- the report

REPORT = """\
# Which map is right, and what do the maps show?

Written by `make maps-table`: {seeds} seeds ({first} to {last}) of the default pocket world, {images} \
images of each test set, step {step}. Intervals are 95%, Student's t over seeds; so few seeds make them wide. The \
pocket model has a convolutional image tower: explainers of transformers are not in this table.

## Does CoOp look at the background, and ProGrad less?

Share of the map on the object. A uniform map has the object's area, {area}; maps of random text directions are the \
baseline. If they have the same share as the methods, the share shows where the image is sensitive, not the effect of \
the text. Differences are seed by seed; bold: the interval excludes 0.

{shares}

{tally}

## Which explainer is faithful?

Maps of the predicted class on *shifted*. Insertion and deletion are areas under curves, here of zero-shot CLIP's maps \
and, behind the slash, of maps of random text directions under the same probabilities. The margin is insertion less \
deletion, less that of the random directions; bold: its interval excludes 0, so the text matters. *Agreement* is \
the rank correlation over images between the share of a map off the object and the probability that is lost when the \
background is swapped, a mean over the three methods, beside random directions. *Left after shuffling* is the rank \
correlation with the original map once all weights of the image tower are shuffled; 0: the map depends on the model.

{truth}

![Scores of the explainers](maps.png)

## How much of this is noise of the explainer?

The same maps with other settings that should not matter: rank correlation, and the mean absolute difference of the \
two shares on the object.

{stable}
"""


def shown_of(table): return table[(table["split"] == SHOWN[0]) & (table["target"] == SHOWN[1])]


def by_seed(rows):
    "A row per seed, method, split, target and explainer: means over the images"
    keys = ["method", "lam", "seed", *SETTING]
    return rows.groupby(keys, dropna=False, sort=False)[[*COLUMNS, "area"]].mean().reset_index()


def cell(row, signed=False):
    "Mean and half the width of the interval; bold where a difference leaves out 0"
    text = f"{row['mean']:{'+' if signed else ''}.3f} ± {(row['high'] - row['low']) / 2:.3f}"
    return f"**{text}**" if signed and row["decided"] else text


def shares_md(means):
    "Shares on the object and their differences, a row per setting"
    summary = partial(summarise, means, by=SETTING, columns=["share"])
    level = summary().means.set_index([*SETTING, "method"])
    gaps = {base: summary(against=base).differences.set_index([*SETTING, "method"]) for base in METHODS[:2]}
    lines = [f"| {' | '.join([*SETTING, *METHODS, RANDOM])} | CoOp - zero-shot CLIP | ProGrad - CoOp |",
             "|---" * (len(SETTING) + 6) + "|"]
    for key in means[SETTING].drop_duplicates().sort_values(SETTING).itertuples(index=False):
        values = [cell(level.loc[(*key, method)]) for method in (*METHODS, RANDOM)]
        values += [cell(gaps[base].loc[(*key, method)], True) for base, method in zip(METHODS, METHODS[1:])]
        lines.append(f"| {' | '.join([*key, *values])} |")
    return lines, gaps


def tally_md(gaps):
    "In how many settings a difference leaves out 0"
    lines = []
    for base, method in zip(METHODS, METHODS[1:]):
        rows = gaps[base].xs(method, level="method")
        for split, part in rows.groupby(level="split"):
            up, down = (part["decided"] & (part["mean"] > 0)).sum(), (part["decided"] & (part["mean"] < 0)).sum()
            lines.append(f"- {method} minus {base} on *{split}*: higher in {up}, lower in {down}, undecided in "
                         f"{len(part) - up - down} of {len(part)} pairs of explainer and target.")
    return lines


def truth_md(means, summary, weights):
    "Scores of each explainer, beside those of random directions"
    means, left = shown_of(means), weights.groupby("explainer")["correlation"].mean()
    agreement = summary[summary["column"] == "agreement"]
    lines = ["| explainer | insertion | deletion | margin over random text | agreement | left after shuffling |",
             "|---|---|---|---|---|---|"]
    for explainer, rows in means.groupby("explainer", sort=False):
        ours, floor = (rows[rows["method"] == method].set_index("seed") for method in (METHODS[0], RANDOM))
        margin = (ours["insertion"] - ours["deletion"]) - (floor["insertion"] - floor["deletion"])
        pairs = [f"{ours[c].mean():.3f} / {floor[c].mean():.3f}" for c in ("insertion", "deletion")]
        mean, low, high = interval_of(margin)
        text = cell({"mean": mean, "low": low, "high": high, "decided": low > 0 or high < 0}, True)
        mine = agreement[agreement["explainer"] == explainer].set_index("method")["mean"]
        both = f"{mine[list(METHODS)].mean():+.2f} / {mine[RANDOM]:+.2f}"
        lines.append(f"| {' | '.join([explainer, *pairs, text, both, f'{left[explainer]:.2f}'])} |")
    return lines


def stable_md(rows):
    "Two settings of an explainer beside each other"
    lines = ["| | rank correlation | difference of the shares |", "|---|---|---|"]
    for name, part in rows.groupby("explainer", sort=False):
        gap = (part["share"] - part["other_share"]).abs().mean()
        lines.append(f"| {name} | {part['correlation'].mean():.2f} | {gap:.3f} |")
    return lines


def write(rows):
    "Table, picture and report"
    OUT.mkdir(parents=True, exist_ok=True)
    kinds = {kind: part.dropna(axis=1, how="all") for kind, part in rows.groupby("kind")}
    faithful, means, block = kinds["faithful"], by_seed(kinds["faithful"]), "\n".join
    summary, (shares, gaps) = score_summary(faithful), shares_md(means)
    summary.round(4).to_csv(OUT / "maps.csv", index=False)
    shown = shown_of(summary)
    seeds = faithful["seed"].nunique()
    title = f"Maps of the predicted class on shifted backgrounds, {seeds} seeds"
    plot_faithfulness(shown, title=title).savefig(OUT / "maps.png")
    areas = means.groupby("split")["area"].mean()
    (OUT / "maps.md").write_text(REPORT.format(
        seeds=seeds, first=faithful["seed"].min(), last=faithful["seed"].max(),
        images=faithful["image"].nunique(), step=faithful["step"].max(),
        area=" and ".join(f"{area:.3f} on *{split}*" for split, area in areas.items()), shares=block(shares),
        tally=block(tally_md(gaps)), truth=block(truth_md(means, shown, kinds["weights"])),
        stable=block(stable_md(kinds["stability"]))), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="compute nothing; draw the finished seeds")
    opt = parser.parse_args()
    if not opt.draw: computed(SEEDS)
    files = sorted(KEPT.glob("seed-*.parquet"))
    if not files: sys.exit("no seed is finished; run this command without --draw")
    write(pd.concat(map(pd.read_parquet, files), ignore_index=True))


if __name__ == "__main__": sys.exit(main())
