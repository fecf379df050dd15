"Every table, figure, sentence and page calls a run by its own rule and strength, and says where its masks come from."
import html
import re
import subprocess
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from buffers import in_page, texts, unpack
from prograd_viz.data import Task
from prograd_viz.evaluate import accuracy_on
from prograd_viz.explorer import explore
from prograd_viz.maps import foreground
from prograd_viz.masks import about_masks, with_masks
from prograd_viz.plots import (
    COOP,
    PROGRAD,
    ZERO_SHOT,
    colour,
    plot_accuracy,
    plot_angles,
    plot_cosine,
    plot_foreground,
    plot_gradient_plane,
    plot_lambda,
    plot_maps,
    plot_shots,
    run_colour,
)
from prograd_viz.report import save_report
from prograd_viz.runs import load_runs, run_name
from prograd_viz.screen import ExplorerData, explorer_data
from prograd_viz.training import train
from prograd_viz.words import plot_words

QUICK = {"epochs": 2, "batch_size": 8, "views": 0, "progress": False}


def mine(x): return x.g_d


CASES = {"kgcoop": ("kgcoop", [2, 8], ["kgcoop 2", "kgcoop 8"]), "sum": ("sum", [0, 1], ["sum 0", "sum 1"]),
         "a function": (mine, [0, 1], ["mine 0", "mine 1"])}


@pytest.fixture(scope="module", params=CASES)
def case(request, clip, task):
    "(runs of another rule, the names they go by)"
    rule, strengths, names = CASES[request.param]
    return train(clip, task, strengths, rule=rule, **QUICK), names


@pytest.fixture(scope="module")
def seen(case):
    "An image and what its maps are made of"
    return explorer_data(case[0], images=1)


def words(figure):
    "All that is written in a figure"
    return "\n".join(t.get_text() for t in figure.findobj(plt.Text))


def assert_own(text, names):
    for name in names: assert name in text, name
    assert "ProGrad" not in text and "CoOp" not in text and "lambda" not in text, text


def test_every_figure_calls_a_run_by_its_own_name(case):
    runs, names = case
    shares = foreground(runs, "same", images=2, steps=[0, int(runs.snapshot_steps[-1])], random_directions=2)
    figures = [plot_cosine(runs), plot_angles(runs), plot_accuracy([runs]), plot_foreground(shares)]
    for figure in (*figures, plot_words(runs, steps=2)): assert_own(words(figure), names)
    assert_own(words(plot_maps(runs, images=1)), names[1:])
    assert_own(words(plot_gradient_plane(runs, runs.lambdas[1], 2)), names[1:])
    assert f"strength of {names[0].split()[0]}" in words(plot_lambda(runs.final().reset_index()))


def test_the_tables_call_a_run_by_its_own_name(case):
    runs, names = case
    rule = names[0].split()[0]
    shares = foreground(runs, "same", images=2, random_directions=1)
    assert shares.rows["method"].unique().tolist() == ["zero-shot CLIP", *names, "random directions"]
    assert shares.summary()["method"].tolist() == ["zero-shot CLIP", *names, "random directions"]
    assert accuracy_on(runs, runs.task.tests["same"])["method"].tolist() == ["zero-shot CLIP", *names]
    assert [run_name(rule, lam) for lam in runs.lambdas] == names and f"2 strengths of {rule}" in repr(runs)


def test_the_explorer_calls_a_run_by_its_own_name_and_words(case, seen):
    runs, names = case
    explorer = explore(runs, data=seen).wait()
    about = unpack(explorer._runs)[0]
    assert [method["name"] for method in about["sets"][0]["methods"]] == names
    for text in (*texts(about), *texts(unpack(explorer.scenes[0])[0])):
        assert not {"ProGrad", "CoOp", "lambda", "\N{GREEK SMALL LETTER LAMDA}"} & set(re.findall(r"\w+", text)), text
    assert explorer.table()["method"].tolist() == ["zero-shot CLIP", *names]
    assert_own(words(explorer.figure()), names)


def test_the_report_calls_a_run_by_its_own_name(case, seen, tmp_path):
    runs, names = case
    page = html.unescape(save_report(runs, tmp_path / "r.html", data=seen).read_text(encoding="utf-8"))
    shown = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    shown = re.sub(r"data:image/[^'\"]*", "", shown)
    about = in_page(page, "_runs")[0]
    assert [method["name"] for method in about["sets"][0]["methods"]] == names
    assert_own(shown, names)


def test_coop_stays_vermillion_prograd_blue_and_the_others_are_neither(case):
    runs, _ = case
    others = [run_colour(runs, lam) for lam in runs.lambdas]
    assert len({*others, COOP, PROGRAD, ZERO_SHOT}) == 5
    assert colour(0).upper() == colour(0, rule="coop").upper() == COOP
    assert colour(1).upper() == PROGRAD and colour(None) == ZERO_SHOT


def test_methods_of_several_rules_have_a_colour_each(case):
    "And the same one in every figure"
    runs, names = case
    shares = foreground(runs, "same", images=2, random_directions=1)
    drawn = {line.get_label(): line.get_color() for line in plot_foreground(shares).axes[0].lines}
    assert [drawn[name] for name in names] == [run_colour(runs, lam) for lam in runs.lambdas]
    both = runs.join(train(runs.clip, runs.task, [1], rule="pcgrad", **QUICK))
    swapped = train(runs.clip, runs.task, [1], rule="pcgrad", **QUICK).join(runs)
    assert [run_colour(both, m) for m in both.methods] == [run_colour(swapped, m) for m in both.methods]
    known = {"ProGrad": 1, "kgcoop 8": 8, "sum 1": 1, "mine": float("nan"), "zero-shot CLIP": float("nan")}
    table = pd.DataFrame([{"method": m, "lam": lam, "shots": shots, "seed": 1, "acc_new": 0.5}
                          for m, lam in known.items() for shots in (1, 2)])
    colours = {line.get_color() for line in plot_shots(table, ["acc_new"]).axes[0].lines}
    assert len(colours) == len(known) and {PROGRAD.lower(), ZERO_SHOT} <= colours


def test_prograds_own_names_are_as_they_were(clip, task):
    runs = train(clip, task, [0, 1], **QUICK)
    names = lambda lam: [run_name(runs.rule(lam), lam, style) for style in ("plain", "words", "math")]
    assert names(0) == ["CoOp", "CoOp", "CoOp ($\\lambda=0$)"]
    assert names(1) == ["ProGrad", "ProGrad, lambda 1", "ProGrad ($\\lambda=1$)"]
    methods = {"zero-shot CLIP", "CoOp", runs.name(1), "random directions"}
    assert set(foreground(runs, images=2, random_directions=1).rows["method"]) == methods


def test_a_folder_that_calls_it_prograd_1_holds_prograd(clip, task, tmp_path):
    "Older folders do: they are opened, asked by either name, and continued"
    runs, place = train(clip, task, [0, 1], **QUICK, out=tmp_path / "today"), tmp_path / "runs"
    replace(runs, methods=("CoOp", "ProGrad 1")).save(place)
    assert '"ProGrad 1"' in (place / "run.json").read_text()
    there = load_runs(place)
    assert there.methods == ("CoOp", "ProGrad") and set(there.steps["method"]) == {"CoOp", "ProGrad"}
    assert there.run("ProGrad 1") == there.run("ProGrad") == there.run(1) == 1
    wider = train(clip, task, [0, 0.5, 1], **QUICK, out=place, resume=True)
    assert wider.methods == ("CoOp", "ProGrad", "ProGrad 0.5") and "ProGrad 1" not in (place / "run.json").read_text()


def test_strengths_beyond_1_can_be_opened_again(case, tmp_path):
    runs, names = case
    runs.save(tmp_path / "runs")
    there = load_runs(tmp_path / "runs")
    assert [there.name(lam) for lam in there.lambdas] == names and there.lambdas == runs.lambdas


# -- where masks come from ----------------------------------------------------

def test_masks_that_are_not_exact_are_named_below_every_number(clip, task, tmp_path):
    runs = train(clip, task, [0, 1], **QUICK)
    guessed = replace(task.tests["same"], masks_from="")
    tests = {"same": with_masks(task.tests["same"], "grabcut"),
             "shifted": with_masks(task.tests["shifted"], [(20, 20, 90, 90)] * len(task.tests["shifted"])),
             "unsaid": guessed}
    runs = replace(runs, task=Task("others", task.train, tests))
    for split, says in (("same", "masks: GrabCut from a centred box: guessed, not annotated"),
                        ("shifted", "masks: boxes"), ("unsaid", "masks: source unknown")):
        shares = foreground(runs, split, images=1, random_directions=1)
        assert set(shares.rows["masks"]) == {tests[split].masks_from or "not said"}
        assert says in words(plot_foreground(shares))
        assert says in words(plot_maps(runs, split, images=1))
        data = explorer_data(runs, split, images=1)
        explorer = explore(runs, data=data)
        assert says in unpack(explorer.scenes[0])[0]["masks"] and says in words(explorer.figure())
        assert set(explorer.table()["masks"]) == {tests[split].masks_from or "not said"}
        page = save_report(runs, tmp_path / "r.html", data=data).read_text(encoding="utf-8")
        assert html.escape(says) in page and says in in_page(page, "scenes")[0]["masks"]
        assert about_masks(ExplorerData.load(data.save(tmp_path / "s.safetensors")).masks_from) == says


def test_exact_masks_need_no_line(clip, task):
    runs = train(clip, task, [0, 1], **QUICK)
    shares = foreground(runs, images=2, random_directions=1)
    explorer = explore(runs, data=explorer_data(runs, images=1))
    assert set(shares.rows["masks"]) == {"exact: rendered with their images"}
    assert "masks" not in words(plot_maps(runs, images=2)) + words(plot_foreground(shares))
    assert unpack(explorer.scenes[0])[0]["masks"] == "" and "masks" not in words(explorer.figure())


def test_names_need_no_torch():
    light = "import sys; from prograd_viz.runs import run_name; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light]).returncode == 0
