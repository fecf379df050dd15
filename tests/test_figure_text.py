"What people and vocabularies write is shown as it is written, and a figure is upright in anybody's style."
import io
import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

import prograd_viz.plots as plots_module
import prograd_viz.words as words_module
from prograd_viz.data import Split, Task
from prograd_viz.explorer import show_cosine
from prograd_viz.landscape import landscape, plot_tradeoff
from prograd_viz.plots import (
    clearest_conflict,
    for_print,
    plot_accuracy,
    plot_angles,
    plot_cosine,
    plot_lambda,
    plot_maps,
    plot_token_cosines,
)
from prograd_viz.runs import Recorder
from prograd_viz.training import train
from prograd_viz.words import plot_words

NAMES = ("$$", "a$b$c", "50% \\alpha")


@pytest.fixture(scope="module")
def runs(clip, task):
    rows = np.flatnonzero(task.train.labels < len(NAMES))
    take = lambda values: [values[i] for i in rows]
    images, masks = take(task.train.images), take(task.train.masks)
    train_split = Split(images, task.train.labels[rows], NAMES, masks, "cost: $5 to $6, $$")
    anything = replace(clip, trained_ids=None)
    return train(anything, Task("dollars", train_split, {}), epochs=1, views=0, progress=False)


def test_class_names_and_sources_of_masks_are_no_formulas(runs):
    figure = plot_maps(runs, images=[0, 4, 8], split="train")
    figure.canvas.draw()
    shown = [t for t in figure.findobj(plt.Text) if t.get_text().split("\n")[0] in NAMES or "$5" in t.get_text()]
    assert len(shown) == len(NAMES) + 1 and not any(t.get_parse_math() for t in shown)


def test_letters_that_the_first_font_lacks_come_from_another_that_is_installed(monkeypatch):
    @plots_module.figure
    def drawn():
        fig, ax = plt.subplots()
        ax.set_title("cos \u2208 [\u22121, 1]")
        return fig

    monkeypatch.setattr(plots_module, "_MORE_FONTS", ("No Such Sans", "STIXGeneral"))
    with plt.rc_context({"font.family": ["cmss10"]}):  # Latin letters and little else
        figure = drawn()
    assert figure.axes[0].title.get_fontfamily() == ["cmss10", "STIXGeneral"]
    with warnings.catch_warnings(action="error"): figure.savefig(io.BytesIO(), format="pdf")
    assert plt.rcParams["font.family"] == plt.rcParamsDefault["font.family"]


def test_tokens_are_no_formulas(runs, monkeypatch):
    monkeypatch.setattr(words_module, "token_texts", lambda clip, ids: ["$$"] * len(ids))
    plot_words(runs, steps=2).canvas.draw()


def test_a_caller_s_style_turns_no_picture_round(runs):
    with plt.rc_context({"image.origin": "lower", "text.usetex": True}):
        figure = plot_maps(runs, images=[0], split="train")
    assert all(ax.yaxis_inverted() for ax in figure.axes)
    assert not any(t.get_usetex() for ax in figure.axes for t in (ax.xaxis.label, ax.title))


def test_a_dark_style_leaves_no_text_without_contrast(runs):
    with plt.style.context("dark_background"):
        figure = plot_cosine(runs)
    ax = figure.axes[0]
    for paper in (figure, ax): assert to_hex(paper.get_facecolor()) == "#ffffff"
    for ink in (ax.xaxis.label, ax.title, *ax.get_xticklabels(), *figure.legends[0].get_texts()):
        assert max(to_rgb(ink.get_color())) < 0.5


def test_accuracies_are_drawn_to_one_and_only_where_they_are_known(task):
    table = pd.DataFrame({"seed": [1, 2] * 2, "lam": [0, 0, 1, 1], "acc_same": [0.7, 0.9, 0.6, 0.9], "loss": 3.0})
    assert plot_lambda(table, ["acc_same"]).axes[0].get_ylim() == (0, 1.02)
    assert plot_lambda(table, ["loss"], ylabel="loss").axes[0].get_ylim()[1] > 3
    record = Recorder(task.classes)
    for step in (1, 2): record.log(step, loss_ce=1.0, accuracies={"same": 0.5})
    runs = record.runs()
    assert plot_accuracy(runs).axes[0].get_legend_handles_labels()[1] == ["mine"]
    record = Recorder(task.classes, zero_shot_accuracy={"new": 0.4})  # known on the second panel alone
    record.log(1, loss_ce=1.0)
    record.end(accuracies={"same": 0.5, "new": 0.5})
    legend, = plot_accuracy(record.runs(), ["same", "new"]).legends
    assert {text.get_text() for text in legend.get_texts()} == {"mine", "zero-shot CLIP"}


def test_no_column_is_left_out():
    table = pd.DataFrame({"seed": [1, 2] * 2, "lam": [0, 0, 1, 1]} | {f"acc_{i}": 0.1 * i for i in range(7)})
    columns = [f"acc_{i}" for i in range(7)]
    figure = plot_lambda(table, columns[:6])
    assert len({line.get_color() for line in figure.axes[0].lines if len(line.get_xdata()) == 2}) >= 6
    with pytest.raises(ValueError, match="7 columns are too many to tell apart; give at most 6"):
        plot_lambda(table, columns)


def test_cosines_of_tokens_stand_at_their_steps():
    record = Recorder(["cat", "dog"])
    for step in (10, 20, 40): record.log(step, g_d=torch.ones(3, 8), g_g=torch.ones(3, 8) * (1 + step))
    runs = record.runs()
    ax = plot_token_cosines(runs, "mine").axes[0]
    assert ax.collections[0].get_coordinates()[0, :, 0].tolist() == [5, 15, 30, 50] and ax.get_xlim()[1] == 50
    assert clearest_conflict(runs, "mine") == 10, "the first step, where none is in conflict"
    assert clearest_conflict(Recorder(["cat", "dog"]).runs(), "mine") == 1, "also before the first"


@pytest.mark.parametrize("seed", (1, 2, 3, 4))
def test_the_landscape_of_one_run_has_its_end_on_the_right(clip, bare, seed):
    one = train(clip, bare, [0], seed=seed, epochs=3, batch_size=8, views=0, init="random", n_ctx=4, progress=False)
    x, y = landscape(one, "train", size=2, progress=False).paths[0.0][-1]
    assert x > 0 and y >= 0


def test_a_mean_over_steps_is_over_steps_where_accuracies_are_rare():
    record = Recorder(["cat", "dog"], "CoOp")
    for step in range(1, 31):
        record.log(step, loss_ce=float(step), accuracies={"same": step / 100} if step % 10 == 1 else None)
    record.end(accuracies={"same": 0.3})
    line = plot_tradeoff(record.runs(), x="acc_same", y="loss_ce", window=5).axes[0].lines[0]
    assert line.get_ydata().tolist() == [8.0, 18.0, 28.0], "means of 6 to 10, 16 to 20 and 26 to 30"


def test_bars_are_printed_at_a_readable_height(clip, task):
    figure = for_print(plot_angles(train(clip, task, epochs=2, progress=False)), width=3.3)
    figure.draw_without_rendering()
    assert figure.axes[0].get_window_extent().height >= 0.95 * figure.dpi


def test_one_lambda_needs_no_list(clip, task):
    runs = train(clip, task, lambdas=[0, 1], epochs=1, progress=False)
    one, other = (plot_cosine(runs, lambdas=lambdas).axes[0].get_legend_handles_labels()[1] for lambdas in (1, "CoOp"))
    assert one != other and any("ProGrad" in text for text in one) and any("CoOp" in text for text in other)


@pytest.mark.parametrize("plot", [plot_cosine, plot_angles])
def test_the_legend_of_three_runs_is_no_wider_than_its_figure(clip, task, plot):
    figure = plot(train(clip, task, lambdas=[0, 0.5, 1], epochs=2, progress=False))
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.x1
    assert legend.y0 >= max(ax.get_tightbbox().y1 for ax in figure.axes)


def test_a_recorded_picture_says_so_where_nothing_else_stands(clip, task, monkeypatch):
    saved = []
    monkeypatch.setattr(plt.Figure, "savefig", lambda figure, *args, **options: saved.append(figure))
    show_cosine(train(clip, task, lambdas=[0, 0.5, 1], epochs=1, progress=False))._repr_mimebundle_()
    figure = saved[-1]
    figure.draw_without_rendering()
    note, = [text for text in figure.texts if "a recorded picture" in text.get_text()]
    others = [*figure.legends, *figure.axes]
    assert note.get_window_extent().y0 >= max(other.get_tightbbox().y1 for other in others)


def test_a_mean_over_lambdas_never_mixes_rules():
    methods = {"method": ["ProGrad", "sum 1"] * 2, "acc_same": [0.9, 0.1] * 2}
    table = pd.DataFrame({"seed": [1, 1, 2, 2], "lam": 1.0} | methods)
    with pytest.raises(ValueError, match=r"several rows have \{'seed': 1.*'lam': 1.*choose one rule"):
        plot_lambda(table, ["acc_same"])
    line = plot_lambda(table[table["method"] == "sum 1"], ["acc_same"]).axes[0].lines[0]
    assert np.allclose(line.get_ydata().astype(float), 0.1)
