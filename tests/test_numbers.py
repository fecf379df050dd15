"""Every number that a text claims to have measured can be found where it was measured.

The rule, for README.md:
- tables and paragraphs that are written from figures/ must be what the csv files there give today, row for row;
- every other number in the prose, in digits, is computed from a file by a line of CLAIMS; or it occurs, rounded as
  shown, in a file in figures/ (.md, .csv or .json) that its section names; or it is in KNOWN, with a reason.
For tutorials: a number with a decimal point or a percent sign is in the notebook's own outputs or code, or in a file
that it links to.
"""
import inspect
import json
import re
from functools import cache
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import compare_evidence
import evidence
import headline
from prograd_viz.clip import load_clip
from prograd_viz.pocket import NOUNS, TEXTURES
from prograd_viz.pretrain import _CARD, vocabulary
from prograd_viz.tasks import pocket_task
from prograd_viz.training import train

ROOT = Path(__file__).resolve().parent.parent

FIGURES = ROOT / "figures"
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?(?![\w]*\d)%?")


@cache
def rows(name): return pd.read_csv(FIGURES / f"{name}.csv")


explorer_ms = lambda what: rows("bench/explorer").query("model == 'pocket' and what == @what")["ms"].item()


def chosen():
    "The screened setting with the largest gain on shifted: it is what tasks are by default"
    tried, defaults = rows("headline/screened"), inspect.signature(pocket_task).parameters
    best = tried.loc[tried["gap_shifted"].idxmax()]
    assert (best["noise"], best["size"]) == (defaults["noise"].default, defaults["size"].default)
    return (str(defaults["shots"].default), f"{best['noise']:g}", f"{best['size']:g}", f"{best['logit_scale']:g}",
            *best["seeds"].split("-"), str(len(tried)))


def ahead(measure, against="CoOp"):
    "In how many settings of the evidence ProGrad is clearly ahead of another, clearly behind, and of how many"
    gaps = rows("evidence/differences").query("method == 'ProGrad 1' and measure == @measure and against == @against")
    return tuple(str(n) for n in ((gaps["decided"] & (gaps["mean"] > 0)).sum(),
                                  (gaps["decided"] & (gaps["mean"] < 0)).sum(), len(gaps)))


def where_ahead():
    """Settings in which ProGrad is clearly ahead on shifted: class-specific, unified with many shots; each must be all
    there are, and with fewer shots none"""
    gaps = rows("evidence/differences").query("method == 'ProGrad 1' and measure == 'acc_shifted' and against == "
                                              "'CoOp'")
    own, unified = (gaps[gaps["context"] == kind] for kind in ("class-specific", "unified"))
    many = unified["shots"] >= 8
    holds = (own["decided"].all() and (own["mean"] > 0).all() and unified["decided"].equals(many)
             and (unified["mean"][many] > 0).all())
    return (str(len(own)), str(many.sum())) if holds else ("no", "no")


def same_setting():
    "The gain on shifted of the setting of the headline, on the seeds of the evidence"
    row = rows("evidence/differences").query("method == 'ProGrad 1' and measure == 'acc_shifted' and against == "
                                             "'CoOp' and context == 'unified' and rho == 1 and shots == 8").iloc[0]
    return f"{row['mean']:+.3f}", f"{(row['high'] - row['low']) / 2:.3f}"


def ranks(first, *places):
    "Rank correlations with the drop of accuracy under swapped backgrounds, each with half its interval"
    row = rows("evidence/correlations").query("first == @first and second == 'drop'").iloc[0]
    return tuple(text for place in places for text in (f"{row[place]:+.2f}", f"{row[place + '_half']:.2f}"))


def undecided(first):
    "The rank correlation with setting and lambda held, if its interval holds zero"
    row = rows("evidence/correlations").query("first == @first and second == 'drop'").iloc[0]
    return ranks(first, "within") if abs(row["within"]) < row["within_half"] else ("decided", "decided")


def trained():
    table = rows("evidence/trainings")
    assert table["seed"].nunique() == len(evidence.SEEDS) and table["lam"].notna().sum() == len(evidence.cells(False))
    return ahead("acc_shifted")[2], str(len(evidence.SEEDS)), f"{len(evidence.cells(False)):,}"


# what the prose says, with its numbers in groups -> what they must be
CLAIMS = [
    (r"\((\d+) shots, pixel noise ([\d.]+), objects at ([\d.]+) of their full size, logit scale ([\d.]+)\) was chosen "
     r"on seeds (\d+) to (\d+), among (\d+) choices", chosen),
    (r"Each of (\d+) classes lives", lambda: (str(len(load_pocket_task().classes)),)),
    (r"takes (\d+) ms at the median in JupyterLab", lambda: (f"{explorer_ms('key to frame, median'):.0f}",)),
    (r"Over (\d+) settings", lambda: ahead("acc_shifted")[2:]),
    (r"or always: (\d+) settings, (\d+) seeds each, ([\d,]+) trainings", trained),
    (r"clearly ahead of CoOp in (\d+) of (\d+) settings and behind in (\d+):",
     lambda: ahead("acc_shifted")[::2] + ahead("acc_shifted")[1:2]),
    (r"contexts in all (\d+), with unified ones in all (\d+) of 8 and 16 shots and in none of fewer", where_ahead),
    (r"On \*new\* it is ahead in (\d+) of (\d+) and behind in (\d+)",
     lambda: ahead("acc_new")[::2] + ahead("acc_new")[1:2]),
    (r"its gain on \*shifted\* is ([-+]?\d+\.\d+) ± (\d+\.\d+)", same_setting),
    (r"on \*same\*: behind in (\d+) settings, ahead in (\d+)\. On outlines it is behind in (\d+) and ahead in (\d+)",
     lambda: ahead("acc_same")[1::-1] + ahead("acc_style")[1::-1]),
    (r"clearly below it in (\d+) settings and above it in (\d+); on \*new\*, below in (\d+) and above in (\d+)",
     lambda: ahead("acc_shifted", "zero-shot")[1::-1] + ahead("acc_new", "zero-shot")[1::-1]),
    (r"swapped backgrounds is ([-+]?\d+\.\d+) ± (\d+\.\d+) with unified contexts and ([-+]?\d+\.\d+) ± (\d+\.\d+) "
     r"with class-specific ones; pooled, ([-+]?\d+\.\d+) ± (\d+\.\d+)",
     lambda: ranks("conflict", "unified", "class_specific", "pooled")),
    (r"nothing is decided: ([-+]?\d+\.\d+) ± (\d+\.\d+)", lambda: undecided("conflict")),
    (r"the larger that drop, ([-+]?\d+\.\d+) ± (\d+\.\d+) and ([-+]?\d+\.\d+) ± (\d+\.\d+); pooled, ([-+]?\d+\.\d+) ± "
     r"(\d+\.\d+)", lambda: ranks("share_same_true", "unified", "class_specific", "pooled")),
    (r"decided here either: ([-+]?\d+\.\d+) ± (\d+\.\d+)", lambda: undecided("share_same_true")),
    (r"under ProGrad than under CoOp in (\d+) settings, less in (\d+)", lambda: ahead("share_shifted_predicted")[:2]),
    (r"lies less on it in (\d+), more in (\d+)", lambda: ahead("share_shifted_contrast")[1::-1]),
    (r"learn at a rate of ([\d.]+); unified ones start at the words of the template and learn at ([\d.]+)\.",
     lambda: (f"{evidence.CONTEXTS['class-specific']['lr']:g}",
              f"{inspect.signature(train).parameters['lr'].default:g}")),
    (r"the same sentences: (\d+) of ([\d,]+) verdicts",
     lambda: re.search(r"- (\d+) of ([\d,]+) verdicts",
                       (FIGURES / "evidence/compared.md").read_text(encoding="utf-8")).groups()),
    (r"the first picture ([\d.]+) s", lambda: (f"{explorer_ms('first picture') / 1000:.1f}",)),
]
CLAIMS = [(said, cache(expected)) for said, expected in CLAIMS]
# numbers that are no measurements
KNOWN = {
    r"Intervals are 95%|a 95% interval": "a convention", r"77 tokens": "CLIP's context length",
    r"Python 3\.1[0-3]\b": "a version", r"resolve for 3\.12 and 3\.13": "versions", r"pandas 3": "a version",
    r"IJCV 2022": "a year", r"3 GB of disk": "an environment of 2.6 GB, rounded up",
    r"over 1, 2, 4, 8 and 16 shots": "the published shots", r"from 8 shots on": "the table of settings",
    r"Apache-2\.0": "a licence", r"ICCV 2023": "a year",
}


@cache
def load_pocket_task():
    from prograd_viz.tasks import few_shot
    return few_shot("pocket", shots=1, seed=1, test_per_class=1)


def prose_of(text):
    "Markdown without code, formulas, addresses and comments"
    text = re.sub(r"<!--.*?-->|```.*?```|\$\$.*?\$\$", " ", text, flags=re.S)
    return re.sub(r"(?m)^    .*$|`[^`\n]*`|\$[^$\n]+\$|\]\([^)]*\)", " ", text)


def cost_table():
    "README's table of costs, from the csv"
    return [f"| {r.what} | {r.peers:.3g} s | {r.ours:.3g} s | {float(f'{r.value:.3g}'):,g} |"
            for r in rows("bench/cpu_bars").itertuples() if str(r.bar).startswith(">=")]


@cache
def vouched_lines():
    "Lines that commands wrote from measurements"
    return {*cost_table(), *(line for f in FIGURES.rglob("*.md") for line in f.read_text(encoding="utf-8").split("\n"))}


@cache
def values_in(file):
    "All numbers in a file, as floats"
    text = file.read_text(encoding="utf-8")
    found = NUMBER.findall(text.replace(",", " ") if file.suffix == ".csv" else text)
    return [float(re.sub(r"[%,]", "", n)) for n in found if n.count(".") < 2]  # a version is no number


def occurs(number, files):
    "A number, rounded as it is shown, among those of files; a percentage also as a fraction"
    digits = re.sub(r"[%,+]", "", number)
    places, shown = len(digits.partition(".")[2]), float(digits)
    return any(round(v * k, places) == shown for f in files for v in values_in(f)
               for k in ((1, 100) if "%" in number else (1,)))


def linked(section):
    "Measurements that a section links to or names"
    names = re.findall(r"figures/[\w./-]+", section)
    paths = {FIGURES.parent / n.rstrip(".") for n in names}
    return sorted(p for p in paths if p.suffix in (".md", ".csv", ".json") and p.is_file())


def problems(text):
    "Numbers of a front page that nobody vouches for"
    lines, wrong = vouched_lines(), []
    for section in re.split(r"(?m)^## ", text):
        left = "\n".join("" if line in lines else line for line in section.split("\n"))
        wrong += [f"no command writes this row: {line}" for line in left.split("\n") if line.startswith("|")
                  and NUMBER.search(prose_of(re.sub(r"\[[^]]*\]\([^)]*\)", "", line)))]
        left = prose_of(re.sub(r"(?m)^\|.*$", "", left))
        for pattern, expected in CLAIMS:
            for m in re.finditer(pattern, left):
                if m.groups() != expected(): wrong.append(f"{m[0]!r} should say {expected()}")
        for pattern in [p for p, _ in CLAIMS] + list(KNOWN): left = re.sub(pattern, " ", left)
        wrong += [f"nobody vouches for {n} in {section[:30]!r}" for n in NUMBER.findall(left)
                  if not occurs(n, linked(section))]
    return wrong


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_number_on_the_front_page_was_measured(): assert not problems(README)


def test_all_claims_are_made(): assert not [p for p, _ in CLAIMS if not re.search(p, prose_of(README))]


def test_a_changed_number_is_noticed():
    "Every number of the table of results, of the neighbours, of the costs and of the claims, one at a time"
    text, changed = README, 0
    spots = [m for m in NUMBER.finditer(text)
             if (line := text[text.rfind("\n", 0, m.start()) + 1:text.find("\n", m.end())]) in vouched_lines()
             and (line.startswith("|") or "ProGrad minus CoOp" in line)]
    spots += [m for p, _ in CLAIMS for c in re.finditer(p, text)
              for m in [re.search(re.escape(c[1]), text[c.start():])]
              for m in NUMBER.finditer(text, c.start(1), c.end(1))]
    for m in spots:
        digit = next(i for i in range(m.end() - 1, m.start() - 1, -1) if text[i].isdigit())
        other = text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1:]
        if problems_near(other, digit): changed += 1
        else: pytest.fail(f"{text[m.start() - 40:m.end() + 10]!r} can be changed unnoticed")
    assert changed == len(spots) > 200


def problems_near(text, at):
    "Problems of the section around a place, which is all that a change there can cause"
    start = text.rfind("\n## ", 0, at) + 1
    end = text.find("\n## ", at)
    return problems(text[start:end if end > 0 else None])


# -- the tables, from the rows they were written from ------------------------------------

def test_the_table_of_results_follows_from_its_csv():
    table = rows("headline/headline")
    seeds = sorted(table["seed"].unique())
    assert (seeds[0], seeds[-1], len(seeds)) == (headline.SEEDS[0], headline.SEEDS[-1], len(headline.SEEDS))
    assert headline.headline_md(table) == (FIGURES / "headline/headline.md").read_text(encoding="utf-8")


def test_the_table_of_neighbours_follows_from_its_csv():
    written = (FIGURES / "headline/neighbours.md").read_text(encoding="utf-8")
    assert headline.neighbours_md(rows("headline/neighbours")) == written


def test_two_computations_of_the_evidence_are_compared(monkeypatch):
    """An archive beside itself differs nowhere; beside another processor's and an earlier version's, everywhere in the
    last digits, and the verdicts are compared"""
    monkeypatch.setattr(evidence, "SEEDS", range(2000, 2002))
    archive, other = (FIGURES / "evidence" / name for name in ("records.jsonl.gz", "records-avx512.jsonl.gz"))
    itself, beside = (compare_evidence.report(archive, b) for b in (archive, other))
    assert "- 60 of 60 jobs" in itself
    assert "mean over seeds is 0.0000" in itself
    assert "- 0 of" in itself
    assert "differ by 0.0000 at most" in itself
    assert "- 0 of 60 jobs" in beside and "mean over seeds is 0.0000" not in beside and "over the 2 seeds" in beside
    assert re.search(r"(?m)^\| accuracy, new \| (\d+ / ){2}\d+ \| (\d+ / ){2}\d+ \|$", beside)
    assert re.search(r"(?m)^\| accuracy, new \| [1-9]\d* of 210 \| 0\.\d{3} \|$", beside)


def test_the_model_card_follows_from_its_json():
    assets = ROOT / "prograd_viz/assets"
    card = json.loads((assets / "pocket_card.json").read_text())
    recipe, seconds = card["recipe"], card["seconds"]
    text = _CARD.format(**card["exam"], **seconds, total=sum(seconds.values()) / 60, images_pool=recipe["images"],
                        epochs=recipe["epochs"], steps=recipe["align_steps"],
                        nouns=len(NOUNS), textures=len(TEXTURES), rows=len(vocabulary()), **card["machine"])
    assert text == (assets / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{float(load_clip('pocket').logit_scale):.1f}" == f"{card['exam']['logit_scale']:.1f}"


# -- tutorials ------------------------------------------------------------------------------

TUTORIALS = sorted(f for d in ("tutorials", "zh") for f in (ROOT / "nbs" / d).glob("*.ipynb") if f.stem != "index")


def strangers(nb, at):
    "Numbers in a tutorial's prose that are neither its outputs, nor its code, nor in files it links to"
    outputs = "\n".join("".join(o.get("text", "")
                                or "".join(v for k, v in o.get("data", {}).items() if k.startswith("text/")))
                                for c in nb.cells if c.cell_type == "code" for o in c.outputs)
    own = outputs + "\n".join(c.source for c in nb.cells if c.cell_type == "code")
    have = {f"{float(n.rstrip('%').replace(',', '')):g}" for n in NUMBER.findall(own)}
    files = [f for c in nb.cells for f in linked(c.source)]
    said = [n for c in nb.cells if c.cell_type == "markdown" for n in NUMBER.findall(prose_of(c.source)) if "." in n
            or "%" in n]
    return [n for n in said if n not in ("95%",) and f"{float(n.rstrip('%').replace(',', '')):g}" not in have
            and not occurs(n, files)]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_number_of_a_tutorial_is_shown_in_it(path):
    nb = nbformat.read(path, as_version=4)
    assert not strangers(nb, path)
    nb.cells.append(nbformat.v4.new_markdown_cell("CoOp reaches 0.123457."))
    assert strangers(nb, path) == ["0.123457"]
