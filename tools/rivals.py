"""Does the projection matter? ProGrad against CoOp stopped early and against simpler rules, at the same budget.

    python tools/rivals.py              # 15 minutes on two cores, resumable; writes figures/rivals/
    python tools/rivals.py --seeds 2    # a rehearsal: two seeds of each kind, in rivals/

Every method has the steps, batches, start and learning rate of the chosen setting. Strengths and steps to stop at are
chosen on seeds 0 to 9, for the harmonic mean of the accuracies on same, shifted and new; the chosen ones run once on
the headline's seeds.
"""
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import stats

from evidence import corrected
from headline import KEPT, SEEDS
from prograd_viz.clip import load_clip
from prograd_viz.plots import SPLIT_TITLES, colour, figure
from prograd_viz.rules import RULES, find_rule
from prograd_viz.runs import mean_interval, run_name
from prograd_viz.sweep import cells_of, sweep
from tradeoff import cheapest, path_losses

ROOT = Path(__file__).resolve().parent.parent
SCREENED = range(10)
ZERO_SHOT, PAIR = "zero-shot CLIP", ("CoOp", "ProGrad")
SPLITS = ("same", "shifted", "new")
MEASURES = {**{f"acc_{split}": split for split in SPLITS}, "harmonic": "harmonic mean", "loss_ce": "L_ce",
            "loss_kl": "L_kl"}
STRENGTHS = {  # Rule -> strengths that are tried
    "sum": (0.5, 1, 2, 4, 8), "kgcoop": (2, 4, 8, 16, 32), "pcgrad": (0.25, 0.5, 1), "ConFIG": (1,),
}
FAMILIES = {
    "sum": "distillation, L_ce + s L_kl", "kgcoop": "KgCoOp", "pcgrad": "PCGrad", "ConFIG": "ConFIG of TorchJD",
}


def add_config():
    "ConFIG of TorchJD among the rules, so that a sweep knows it by name"
    from torchjd.aggregation import ConFIG
    RULES["ConFIG"] = find_rule(ConFIG())[1]


def paths_of(grid, name, seeds):
    "The sweep of a grid of (rule, strength), and the path of every run: a row per seed, method and snapshot"
    rows = [{"shots": 8, "seed": seed, "rule": rule, "lam": lam, "snapshot_every": 12, "evaluate_every": 12}
            for seed in seeds for rule, strengths in grid.items() for lam in strengths]
    result, tables = sweep(cells_of(pd.DataFrame(rows)), KEPT / name, workers=2), []
    if len(result.failures): raise SystemExit(f"{result}: {result.failures['error'].iloc[0]}")
    if result.table["status"].ne("done").any(): raise SystemExit(f"{result}: interrupted; run it again")
    clip = load_clip("pocket", cache=result.out / "features")
    for seed in seeds: tables += [path_of(runs, seed) for runs in result.runs(clip, seed=seed)]
    table = pd.concat(tables).drop_duplicates(["seed", "method", "step"])
    wanted = [ZERO_SHOT, *(run_name(rule, lam) for rule, strengths in grid.items() for lam in strengths)]
    return table[table["method"].isin(wanted)].reset_index(drop=True)


def path_of(runs, seed):
    "Both losses over all training images, and accuracies, at the snapshots of a run set"
    contexts = torch.as_tensor(np.asarray(runs.contexts[:]))  # [K, R, M, D]
    losses = path_losses(runs, contexts.flatten(0, 1))
    at = {"step": np.repeat(runs.snapshot_steps, len(runs.methods)),
          "method": list(runs.methods) * len(runs.snapshot_steps)}
    table = losses.assign(**at)
    accuracies = runs.steps[["step", "method", *(f"acc_{split}" for split in SPLITS)]]
    table = table.merge(accuracies, on=["step", "method"]).dropna()
    start = {f"acc_{split}": runs.zero_shot_accuracy[split] for split in SPLITS}  # of the template's own words,
    start |= {"step": 0, "loss_ce": losses["loss_ce"][0], "loss_kl": losses["loss_kl"][0]}  # where all methods start
    table = pd.concat([pd.DataFrame([start | {"method": m} for m in (ZERO_SHOT, *runs.methods)]), table],
                      ignore_index=True)
    harmonic = len(SPLITS) / (1 / table[[f"acc_{split}" for split in SPLITS]]).sum(axis=1)
    return table.assign(seed=seed, harmonic=harmonic)


# ---- what is chosen, on the screening seeds

def ends_of(paths): return paths[paths["step"] == paths["step"].max()]


def chosen_strengths(paths):
    "Rule -> the strength with the best harmonic mean at the end, averaged over seeds"
    ends = ends_of(paths).groupby("method")["harmonic"].mean()
    return {rule: max(tried, key=lambda s: ends[run_name(rule, s)]) for rule, tried in STRENGTHS.items()}


def chosen_stop(paths, method):
    "The step, after the start, at which a method has its best harmonic mean, averaged over seeds"
    found = paths[(paths["method"] == method) & (paths["step"] > 0)]
    return int(found.groupby("step")["harmonic"].mean().idxmax())


def strongest(paths, strengths, stop):
    "(when, method) of the rival with the best harmonic mean: at its end, or CoOp where it is stopped"
    ends, coop = ends_of(paths).groupby("method")["harmonic"].mean(), paths[paths["method"] == PAIR[0]]
    rivals = {("at the end", m): ends[m] for m in (PAIR[0], *(run_name(rule, s) for rule, s in strengths.items()))}
    rivals["stopped early", PAIR[0]] = coop.loc[coop["step"] == stop, "harmonic"].mean()
    return max(rivals, key=rivals.get)


# ---- what is compared, on the fresh seeds

def reached(path, column, value):
    "The state at which a path's column first reaches a value, between two snapshots; NaN where it never does"
    path = path.sort_values("step").reset_index(drop=True)
    first = int((path[column] >= value).to_numpy().argmax())
    numbers = path[["step", *MEASURES]]
    if not path[column].iloc[first] >= value: return numbers.iloc[0] * np.nan
    if first == 0: return numbers.iloc[0]
    before, after = numbers.iloc[first - 1], numbers.iloc[first]
    return before + (after - before) * (value - before[column]) / (after[column] - before[column])


def compared(paths, stops):
    "How to stop, method, seed -> the state of the method: at its end, where chosen, and where it meets ProGrad's end"
    rows = []
    for (seed, method), path in paths.groupby(["seed", "method"]):
        mine = paths[(paths["seed"] == seed) & (paths["method"] == PAIR[1])]
        goal, end = mine.loc[mine["step"].idxmax()], path.loc[path["step"].idxmax(), ["step", *MEASURES]]
        found = {"at the end": end}
        if method not in (ZERO_SHOT, PAIR[1]):
            found |= {"at no more divergence": cheapest(path[["step", *MEASURES]], "loss_kl", goal["loss_kl"]),
                      "at equal accuracy on same": reached(path, "acc_same", goal["acc_same"])}
        if method in stops: found["stopped early"] = path.loc[path["step"] == stops[method]].iloc[0][[*end.index]]
        rows += [{"seed": seed, "method": method, "when": when, **state} for when, state in found.items()]
    return pd.DataFrame(rows)


def differences(states):
    "ProGrad, at its end and stopped early, minus each of the others, seed by seed: mean, interval, p, corrected p"
    groups = {key: group.set_index("seed") for key, group in states.groupby(["when", "method"], sort=False)}
    rows = []
    for own in ("at the end", "stopped early"):
        for (when, method), other in groups.items():
            if method == PAIR[1] and (own, when) != ("at the end", "stopped early"): continue
            about = {"prograd": own, "when": when, "method": method, "of": len(other)}
            rows += [about | gap_of(groups[own, PAIR[1]][c] - other[c]) | {"column": c} for c in MEASURES]
    table = pd.DataFrame(rows)
    return table.assign(corrected=corrected(table["p"]))


def gap_of(gap):
    "Mean, interval and p of paired differences"
    gap = gap.dropna()
    mean, half = mean_interval(gap)
    equal = len(gap) < 2 or gap.abs().max() < 1e-9  # the column in which two methods are matched, up to rounding
    p = np.nan if equal else stats.ttest_1samp(gap, 0).pvalue
    return {"mean": mean, "half": half, "p": p, "seeds": len(gap)}


def title(method):
    "A method in words"
    rule = method.rsplit(" ", 1)[0]
    return f"{FAMILIES[rule]}, s = {method.rsplit(' ', 1)[1]}" if rule in FAMILIES else method


REPORT = """\
# Does the projection matter?

Written by `make rivals`: the headline's setting ({steps} steps), ProGrad with lambda 1. Strengths and \
steps to stop at were chosen on seeds {screened} for the harmonic mean H of the accuracies on same, shifted and new; \
the tables are of seeds {seeds}. Differences are ProGrad at its end minus the rival, seed by seed, with 95% intervals \
(Student t); bold where the p of a paired t test is below 0.05 after Benjamini and Hochberg's correction for all \
{tests} differences ({raw} without it, {kept} with it; `differences.csv` also has those of ProGrad stopped early).

## At the same budget

{ends}

**{verdict}**

## Stopped where they meet ProGrad's end

Each method where its cross-entropy over the training images, L_ce, is lowest while its divergence from zero-shot \
CLIP, L_kl over the same images, is no more than that of ProGrad's end; and where its accuracy on same first equals \
that of ProGrad's end. Paths are read every 12 steps, and linearly between them where they cross. A \
method that never reaches it in a seed is left out of the difference; the last column counts.

{meetings}
"""


def cell(row, digits=3):
    "A difference with its interval"
    if row["seeds"] < 2: return "–"
    text = f"{row['mean']:+.{digits}f} ± {row['half']:.{digits}f}"
    return f"**{text}**" if row["corrected"] < 0.05 else text


def ends_md(states, gaps):
    "A row per rival that spends the budget, or stops early"
    lines = ["| method | same | shifted | new | H | L_ce | L_kl | ProGrad - it: same | shifted | new | H |",
             "|---" * 11 + "|"]
    shown = states[states["when"].isin(["at the end", "stopped early"])]
    means = shown.groupby(["when", "method"])[[*MEASURES]].mean()
    gaps = gaps[gaps["prograd"] == "at the end"].set_index(["when", "method", "column"])
    for (when, method), row in means.sort_values("harmonic", ascending=False).iterrows():
        at = int(shown[(shown["when"] == when) & (shown["method"] == method)]["step"].iloc[0])
        name = title(method) + (f", stopped at step {at}" if when == "stopped early" else "")
        own = method == PAIR[1] and when == "at the end"
        found = [""] * 4 if own else [cell(gaps.loc[(when, method, c)]) for c in [*MEASURES][:4]]
        lines.append(f"| {name} | {' | '.join([f'{x:z.2f}' for x in row] + found)} |")
    return "\n".join(lines)


def meetings_md(gaps):
    "A row per method and meeting"
    lines = ["| method | where | ProGrad - it: same | shifted | new | H | L_ce | L_kl | seeds |", "|---" * 9 + "|"]
    meetings = ["at no more divergence", "at equal accuracy on same"]
    shown = gaps[(gaps["prograd"] == "at the end") & gaps["when"].isin(meetings)]
    for (when, method), rows in shown.groupby(["when", "method"], sort=False):
        cells = [cell(row) for row in rows.to_dict("records")]
        lines.append(f"| {title(method)} | {when} | {' | '.join(cells)} | {rows['seeds'].iloc[0]} of "
                     f"{rows['of'].iloc[0]} |")
    return "\n".join(lines)


def verdict(rival, gaps):
    "What the table says of the strongest rival (when, method), in two sentences"
    when, method = rival
    rows = gaps[(gaps["when"] == when) & (gaps["method"] == method) & (gaps["column"] == "harmonic")]
    end, early = (standing(rows[rows["prograd"] == own].iloc[0]) for own in ("at the end", "stopped early"))
    name = title(method) + (" stopped early" if when == "stopped early" else "")
    return (f"The strongest simple rival, by the seeds of the choice, is {name}; in the harmonic mean ProGrad {end}. "
            f"Stopped at a step that is chosen likewise, ProGrad {early}.")


def standing(row):
    "Where ProGrad stands, in words"
    word = "is ahead of it" if row["mean"] > 0 else "is behind it"
    if not row["corrected"] < 0.05: word = "is not distinguishable from it"
    return f"{word} ({cell(row).strip('*')})"


@figure
def plot_paths(paths, states):
    "The losses against each other, and accuracy on same against shifted: CoOp's and ProGrad's paths, the others' ends"
    fig, axes = plt.subplots(1, 2, figsize=(9.6, 4.4))
    pairs = [("loss_kl", "loss_ce"), ("acc_same", "acc_shifted")]
    for ax, (x, y) in zip(axes, pairs):
        for lam, method in enumerate(PAIR):
            mine, look = paths[paths["method"] == method], {"color": colour(float(lam))}
            for _, path in mine.groupby("seed"): ax.plot(path[x], path[y], lw=0.6, alpha=0.35, **look)
            mean = mine.groupby("step")[[x, y]].mean()
            ax.plot(mean[x], mean[y], lw=2.4, label=method, **look)
            ax.plot(mean[x].iloc[-1], mean[y].iloc[-1], "o", ms=8, mec="white", zorder=4, **look)
        ends = states[(states["when"] == "at the end") & ~states["method"].isin([ZERO_SHOT, *PAIR])]
        for marker, (method, group) in zip("s^Dv", ends.groupby("method", sort=False)):
            ax.plot(group[x].mean(), group[y].mean(), marker, color="0.25", ms=7, mec="white", label=title(method),
                    zorder=5, ls="")
    axes[0].set(xlabel="$L_{kl}$ to zero-shot CLIP (nats)", ylabel="$L_{ce}$ on the shots (nats)")
    axes[1].set(xlabel=f"accuracy, {SPLIT_TITLES['same']}", ylabel=f"accuracy, {SPLIT_TITLES['shifted']}")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, help="a rehearsal on that many seeds of each kind")
    opt = parser.parse_args()
    out = ROOT / "rivals" if opt.seeds else ROOT / "figures" / "rivals"
    screened, fresh = SCREENED[:opt.seeds], SEEDS[:opt.seeds]
    add_config()
    pair = {"prograd": (0, 1)}
    tried = paths_of(pair | STRENGTHS, "rivals-screened", screened)
    best, stops = chosen_strengths(tried), {method: chosen_stop(tried, method) for method in PAIR}
    paths = paths_of(pair | {rule: (s,) for rule, s in best.items()}, "rivals", fresh)
    states = compared(paths, stops)
    gaps, sure = differences(states), lambda p: int((p < 0.05).sum())
    out.mkdir(parents=True, exist_ok=True)
    ends_of(tried).round(5).to_csv(out / "screened.csv", index=False)
    paths.to_parquet(out / "paths.parquet", index=False)
    states.round(5).to_csv(out / "states.csv", index=False)
    gaps.round(6).to_csv(out / "differences.csv", index=False)
    listed = lambda seeds: f"{seeds[0]} to {seeds[-1]}"
    (out / "rivals.md").write_text(REPORT.format(
        steps=paths["step"].max(), screened=listed(screened), seeds=listed(fresh), tests=gaps["p"].notna().sum(),
        raw=sure(gaps["p"]), kept=sure(gaps["corrected"]), ends=ends_md(states, gaps),
        verdict=verdict(strongest(tried, best, stops[PAIR[0]]), gaps),
        meetings=meetings_md(gaps)))
    plot_paths(paths, states).savefig(out / "paths.png")
    print((out / "rivals.md").read_text())


if __name__ == "__main__": main()
