"""Numbers in prose, written there from the files that hold them.

    python tools/fill.py            # rewrites those that differ, in notebooks and texts

A number with a comment behind it, as in `21<!--ahead acc_shifted-->`, is this tool's: the first word names one of the
functions below, the others are its arguments. No page shows comments. For a new number, write 0 and its mark.
"""
import argparse
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from prograd_viz.runs import mean_interval

root = Path(__file__).resolve().parent.parent
MARK = re.compile(r"(?P<number>[-+]?\d[\d.,]*(?: ± \d[\d.]*)?)<!--(?P<name>\w+)(?P<arguments>(?: [\w-]+)*)-->")


@cache
def rows(name): return pd.read_csv(root/f"figures/{name}.csv")


# -- the chosen setting ----------------------------------------------------------------------------

def chosen(way):
    "The level of a way of making images hard, if no way and level that was tried has a clearer gain on shifted"
    clearest = clearness().idxmax()
    if clearest[0] != way: raise ValueError(f"the clearest gain is by {clearest[0]} at {clearest[1]:g}")
    return f"{clearest[1]:g}"


def gains_of(seeds):
    "Gains of ProGrad on shifted by way and level, on the seeds of the choice (difficulty) or on others (again)"
    wide = rows(f"difficulty/{seeds}").pivot(index=["way", "level", "seed"], columns="method", values="acc_shifted")
    return (wide["ProGrad"] - wide["CoOp"]).groupby(["way", "level"], sort=False)


def clearness(seeds="difficulty"):
    "(way, level) -> the mean gain of ProGrad on shifted, in halves of its interval"
    return gains_of(seeds).agg(lambda gain: np.divide(*mean_interval(gain)))


def gain_again():
    "Of the chosen way and level"
    mean, half = mean_interval(gains_of("again").get_group(clearness().idxmax()))
    return f"{mean:+.3f} ± {half:.3f}"


def clear_again(): return str((clearness("again") > 1).sum())
def rank_again(): return f"{clearness('again').rank(ascending=False)[clearness().idxmax()]:.0f}"
def screened(): return str(len(clearness()))
def logit_scale():
    "Of the pocket model"
    card = json.loads((root/"prograd_viz/assets/pocket_card.json").read_text("utf-8"))
    return f"{card['exam']['logit_scale']:.1f}"


def empty_maps(explainer):
    "How many of a hundred maps of the headline are empty, of the predicted class, three methods and both test sets"
    end = "" if explainer == "GradCAM" else f"_{explainer.lower()}"
    table = rows("headline/headline").query("method in ['zero-shot CLIP', 'CoOp', 'ProGrad']")
    return f"{100 * table[[f'empty_{split}_predicted{end}' for split in ('same', 'shifted')]].mean().mean():.1f}"


# -- benchmarks ----------------------------------------------------------------------------------------

def measured(table, words):
    "The value of the row of a benchmark's table that has all these words"
    found = [r for r in rows(f"bench/{table}").itertuples() if set(words) <= set(re.findall(r"\w+", r.what))]
    if len(found) == 1: return f"{found[0].value:.3g}"
    raise ValueError(f"figures/bench/{table}.csv has {len(found)} rows with the words {' '.join(words)}")


def on_gpu(*words): return measured("gpu", words)
def on_cpu(*words): return measured("cpu_bars", words)


# -- the evidence ----------------------------------------------------------------------------------

def gaps(column, *against):
    "Differences of ProGrad from another method, CoOp if none is named, a row per setting"
    against = " ".join(against) or "CoOp"
    found = rows("evidence/differences").query("method == 'ProGrad' and column == @column and against == @against")
    if len(found): return found
    raise ValueError(f"figures/evidence/differences.csv does not compare ProGrad with {against!r} in {column!r}")


def ahead(column, *against): return str(len(gaps(column, *against).query("decided and mean > 0")))
def behind(column, *against): return str(len(gaps(column, *against).query("decided and mean < 0")))
def ahead_corrected(column, *against): return str(len(gaps(column, *against).query("significant and mean > 0")))
def behind_corrected(column, *against): return str(len(gaps(column, *against).query("significant and mean < 0")))
def counted(context, way, method, column, *against):
    "In how many settings of a kind of context a method is clearly above or below another"
    against = " ".join(against)
    found = rows("evidence/differences").query("method == @method and column == @column and against == @against")
    sure = found[found["decided"] & (found["context"] == context)]
    return str((sure["mean"] > 0).sum() if way == "above" else (sure["mean"] < 0).sum())


def settings_of(context, column): return str((gaps(column)["context"] == context).sum())
def mean_gap(column): return f"{gaps(column)['mean'].mean():+.3f}"
def random_share(split, *explainer):
    "The mean share of maps of random text on the object"
    return f"{rows('evidence/trainings')['_'.join(['share', split, 'random', *explainer])].mean():.2f}"


def mean_share(method, *words):
    "The mean share of a method's maps on the object, over all trainings of the evidence"
    return f"{rows('evidence/trainings').groupby('method')['_'.join(['share', *words])].mean()[method]:.2f}"


def settings(column="acc_shifted"): return str(len(gaps(column)))
def seeds(): return str(rows("evidence/trainings")["seed"].nunique())
def trainings(): return f"{rows('evidence/trainings')['lam'].notna().sum():,}"


def wins(context, shots):
    "How many settings have this context and so many shots or more, if ProGrad is ahead on shifted in just these"
    found = gaps("acc_shifted").query("context == @context")
    many = found["shots"] >= int(shots)
    if not (found["decided"] == many).all() or (found["mean"][many] < 0).any():
        raise ValueError(f"with {context} contexts ProGrad is not ahead in all settings of {shots} shots or more and "
                         "undecided in the others, as the text says: rewrite its sentence")
    return str(many.sum())


def gain(column):
    "The gain in the setting of the headline, on the seeds of the evidence"
    row = gaps(column).query("context == 'unified' and rho == 1 and shots == 8").iloc[0]
    return f"{row['mean']:+.3f} ± {(row['high'] - row['low']) / 2:.3f}"


def largest(column):
    "The same, if no other setting has a larger one"
    found = gain(column)
    if float(found.split(" ")[0]) == round(gaps(column)["mean"].max(), 3): return found
    raise ValueError(f"the gain in the setting of the headline, {found}, is not the largest: rewrite its sentence")


def at_equal_divergence(every):
    "ProGrad minus CoOp in cross-entropy at equal divergence, where CoOp's path is read every so many steps"
    read = rows("headline/readings").query(f"every == {every}")
    mean, half = mean_interval(read["matched_ce"])
    return f"{mean:+.3f} ± {half:.3f}"


def headline_gain(column):
    "The gain on the seeds of the headline"
    wide = rows("headline/headline").pivot(index="seed", columns="method", values=column)
    mean, half = mean_interval(wide["ProGrad"] - wide["CoOp"])
    return f"{mean:+.3f} ± {half:.3f}"


def neighbours_above(column):
    "How many of the headline's neighbours have a larger mean gain"
    wide = rows("headline/neighbours").pivot(index=["setting", "seed"], columns="method", values=column)
    gains = (wide["ProGrad"] - wide["CoOp"]).groupby("setting").mean()
    return str((gains > float(headline_gain(column).split(" ")[0])).sum())


def correlation(first, place):
    "The rank correlation of a column with the drop of accuracy under swapped backgrounds"
    row = rows("evidence/correlations").query("first == @first and second == 'drop'").iloc[0]
    return f"{row[place]:+.2f} ± {row[place + '_half']:.2f}"


def undecided(first):
    "The same with setting and lambda held, if its interval holds 0"
    found = correlation(first, "within")
    mean, half = found.split(" ± ")
    if abs(float(mean)) < float(half): return found
    raise ValueError(f"the correlation of {first} within a setting is {found}, not undecided: rewrite its sentence")


def spaced(name): return name.replace("-", " ").replace("zero shot", "zero-shot")


def against(rival, when, column):
    "ProGrad at its end minus a rival, and half the interval; hyphens in the names stand for spaces"
    found = rows("rivals/differences").set_index(["prograd", "method", "when", "column"]).sort_index()
    row = found.loc[("at the end", spaced(rival), spaced(when), column)]
    return f"{row['mean']:+.3f} ± {row['half']:.3f}"


def reached(rival, when):
    "Of how many seeds a difference between ProGrad at its end and a rival is a mean"
    row = rows("rivals/differences").query("prograd == 'at the end' and method == @rival and when == @spaced(@when)")
    return str(row["seeds"].iloc[0])


def state(method, when, column):
    "The mean of a column over seeds, for a method at its end or where it is stopped; hyphens stand for spaces"
    found = rows("rivals/states").groupby(["method", "when"])[column].mean()
    return f"{found[spaced(method), spaced(when)]:.2f}"


# -- the explorer and the models -------------------------------------------------------------------

def explorer_ms(what): return rows("bench/explorer").query("model == 'pocket' and what == @what")["ms"].max()
def key_to_frame(): return f"{explorer_ms('key to frame, median'):.0f}"
def first_picture(): return f"{explorer_ms('first picture') / 1000:.1f}"
def landscape_seconds(side):
    found = rows("bench/cpu_landscape")
    return f"{found.loc[found['what'].str.startswith(f'landscape of {side} x'), 'value'].item():.0f}"
def map_time(model, explainer, what):
    found = rows("bench/cpu_maps").set_index("what")["value"]
    return found[f"2500 maps of one image, {model}, {explainer}: {what}"]
def two_digits(x): return f"{float(f'{x:.2g}'):g}"  # 130, not 1.3e+02
def preparation(model, explainer): return two_digits(map_time(model, explainer, "preparation"))
def further(model, explainer): return two_digits(1e6 * map_time(model, explainer, "each further map"))
def architectures(): return str(len(rows("models/models")))
def refused(): return str((rows("models/models")["works"] == "refused").sum())


NUMBERS = (chosen, screened, gain_again, clear_again, rank_again, logit_scale, empty_maps, ahead, behind,
           ahead_corrected, behind_corrected, counted, settings, settings_of, mean_gap, random_share, mean_share,
           seeds, trainings, wins, gain, largest, headline_gain, at_equal_divergence, neighbours_above, correlation,
           undecided, against, reached, state, key_to_frame, first_picture, landscape_seconds, preparation, further,
           architectures, refused, on_gpu, on_cpu)
NUMBERS = {f.__name__: f for f in NUMBERS}


# -- filling in ------------------------------------------------------------------------------------

def value(
    mark:re.Match, # Of MARK
)->str:
    "What the file of a mark says today"
    if mark["name"] not in NUMBERS:
        raise ValueError(f"{mark[0]}: no number is called {mark['name']!r}; there are: {', '.join(NUMBERS)}")
    try: return NUMBERS[mark["name"]](*mark["arguments"].split())
    except (LookupError, TypeError, ValueError) as e: raise ValueError(f"{mark[0]}: {e}") from e


def filled(text): return MARK.sub(lambda mark: mark[0].replace(mark["number"], value(mark), 1), text)
def unmarked(text): return re.sub(MARK, lambda mark: mark["number"], text)


def texts()->list: # Notebooks and Markdown that are written by hand
    "The files whose marks are filled"
    found = [*(root/"nbs").rglob("*.ipynb"), *root.glob("*.md"), root/"figures/README.md"]
    return sorted(f for f in found if ".ipynb_checkpoints" not in f.parts and not f.name.startswith("README."))


def stale()->list: # (file, what is wrong)
    "Numbers that are not what their files say"
    found = [(f.relative_to(root).as_posix(), mark) for f in texts() for mark in MARK.finditer(f.read_text("utf-8"))]
    return [(name, says) for name, mark in found if (says := problem(mark))]


def problem(mark):
    "What is wrong with a number; nothing if it is what its file says"
    try: today = value(mark)
    except ValueError as e: return str(e)
    return f"{mark[0]} should be {today}" if mark["number"] != today else ""


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.parse_args()
    for name in sorted({name for name, _ in stale()}):
        try: (root/name).write_text(filled((root/name).read_text("utf-8")), "utf-8")
        except ValueError as e: raise SystemExit(f"{name}: {e}") from e
        print(name)


if __name__ == "__main__": main()
