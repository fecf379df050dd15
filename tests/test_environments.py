"""The library in environments that are not its own: what `make matrix` runs first in each of them.

Needs nothing but the library, pytest and the shared fixtures; no extra is installed in most of those environments.
"""
import base64
import io
import json
import re
import runpy
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from PIL import Image

import prograd_viz
from prograd_viz import clip as clip_module
from prograd_viz.all import explore, load_clip, save_report, summarise, sweep, train
from prograd_viz.explorer import PHOTOS
from prograd_viz.plots import (
    plot_accuracy,
    plot_angles,
    plot_cosine,
    plot_gradient_plane,
    plot_maps,
    plot_shots,
    plot_token_cosines,
)

ROOT = Path(__file__).resolve().parent.parent
VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def runs(clip, task): return train(clip, task, lambdas=[0, 1], epochs=3, progress=False)


@pytest.fixture(scope="module")
def explorer(runs): return explore(runs, images=2).wait()


def press(explorer, message, buffers=()):
    "What a button in the browser sends, and what comes of it"
    explorer._handle_custom_msg(message, list(buffers))
    return explorer.wait()


# -- what everybody does first ----------------------------------------------------

def test_the_five_lines_give_a_record_of_both_gradients(runs):
    steps = runs.steps
    assert {"lam", "step", "loss_ce", "loss_kl", "cos", "conflict"} <= set(steps) and set(steps["lam"]) == {0.0, 1.0}
    assert steps.groupby("lam").size().nunique() == 1 and steps["cos"].dropna().between(-1, 1).all()


def test_plots_and_the_report_need_no_extra(runs, tmp_path):
    figures = [plot_cosine(runs), plot_angles(runs), plot_accuracy(runs), plot_token_cosines(runs, 1.0)]
    figures += [plot_gradient_plane(runs, 1.0, 1), plot_maps(runs, images=1)]
    for number, figure in enumerate(figures):
        assert isinstance(figure, plt.Figure)
        figure.savefig(tmp_path / f"{number}.png")
        figure.savefig(tmp_path / f"{number}.pdf")
        plt.close(figure)
    assert all(file.stat().st_size > 1000 for file in tmp_path.iterdir())
    page = save_report(runs, tmp_path / "report.html", images=1)
    assert "<html" in Path(page).read_text(encoding="utf-8")


def test_a_run_set_comes_back_from_disk_as_it_was(runs, tmp_path, clip, task):
    runs.save(tmp_path / "runs")
    again = prograd_viz.runs.load_runs(tmp_path / "runs", clip, task)
    pd.testing.assert_frame_equal(again.steps, runs.steps)


def test_a_record_is_exported_to_parquet_and_read_back(runs, tmp_path):
    runs.export(tmp_path / "out")
    again = pd.read_parquet(tmp_path / "out" / "steps.parquet")
    pd.testing.assert_frame_equal(again, runs.steps, check_dtype=False)


def test_a_sweep_over_processes_becomes_a_table_with_intervals(tmp_path):
    grid = {"shots": 2, "seed": [1, 2], "lam": [0, 1], "epochs": 2, "classes": [["dog", "bus", "eye"]],
            "test_per_class": 4, "views": 0, "lr": 0.1}
    result = sweep(grid, tmp_path / "sweep", workers=2, progress=False)
    assert set(result.table["status"]) == {"done"}, result.failures
    text = summarise(result).table("acc_same").to_markdown()
    rows = [line.strip("| ").split("|") for line in text.splitlines()]
    means = result.results().groupby("method")["acc_same"].mean()
    shown = {method.strip(): cell.split()[0] for method, cell in rows[2:]}
    assert shown == {method: f"{100 * accuracy:.1f}" for method, accuracy in means.items()}
    assert isinstance(plot_shots(result.results(), ["acc_same"]), plt.Figure)


def test_nothing_that_an_extra_brings_is_imported():
    code = ("import sys\n"
            "for name in ('jupyterlab', 'ray', 'transformers', 'torchjd', 'marimo'): sys.modules[name] = None\n"
            "from prograd_viz.all import *\nprint(train.__name__)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "train", done.stderr[-2000:]


def test_the_notebook_for_colab_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "nbs/tutorials/colab.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    assert code[0].startswith("#| eval: false\n%pip install") and code[2].endswith("explore(runs)")
    here = {}
    for cell in code[1:]: exec(compile(cell, "colab.ipynb", "exec"), here)
    assert set(here["runs"].lambdas) == {0.0, 0.5, 1.0} and here["runs"].final()["acc_same"].between(0.5, 1).all()


# -- the explorer where a kernel runs it, in marimo, and where nobody can move a slider -----

def bundle(explorer):
    "What a notebook is given to show; widgets may return metadata beside it"
    found = explorer._repr_mimebundle_(include=None, exclude=None)
    return found[0] if isinstance(found, tuple) else found


@pytest.fixture
def kernel(monkeypatch):
    "As if a notebook ran this"
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.delenv("PROGRAD_VIZ_STILL", raising=False)


def test_the_explorer_shows_itself_as_a_widget(explorer, kernel):
    view = bundle(explorer)[VIEW]
    assert (view["version_major"], view["model_id"]) == (2, explorer.model_id)


def test_without_a_kernel_it_is_a_picture_that_says_how_to_get_one(explorer):
    shown = bundle(explorer)
    assert set(shown) == {"image/png", "text/plain"} and "run this notebook to move the sliders" in shown["text/plain"]
    assert Image.open(io.BytesIO(base64.b64decode(shown["image/png"]))).width > 1000


def test_documentation_may_ask_for_pictures_although_there_is_a_kernel(explorer, kernel, monkeypatch):
    monkeypatch.setenv("PROGRAD_VIZ_STILL", "1")
    assert set(bundle(explorer)) == {"image/png", "text/plain"}


def test_its_sliders_and_buttons_work(explorer):
    before = explorer.table()
    explorer.lam, explorer.step = 0.0, 0
    assert not explorer.table().equals(before)
    explorer.lam, explorer.step = 1.0, int(explorer.runs.snapshot_steps[-1])
    assert explorer.table().equals(before)
    press(explorer, {"ask": "train", "lam": 0.5})
    assert sorted(explorer.runs.lambdas) == [0.0, 0.5, 1.0] and explorer.lam == 0.5
    assert explorer._work == {"text": "", "wrong": False, "done": None}


def test_files_that_are_dropped_become_a_split(explorer):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    press(explorer, {"ask": "photos", "names": ["mine.png"]}, [memoryview(file.getvalue())])
    assert explorer.split == PHOTOS and explorer.data.names == ("1: mine.png",)


def test_marimo_shows_it_and_lends_it_a_thread(explorer, runs, monkeypatch):
    began = []

    class TheirThread(Thread):
        def start(self):
            began.append(self)
            super().start()

    for notebook in (True, False):
        marimo = SimpleNamespace(running_in_notebook=lambda notebook=notebook: notebook, Thread=TheirThread)
        monkeypatch.setitem(sys.modules, "marimo", marimo)
        explore(runs, images=1).wait()
        assert len(began) == 1 and (VIEW in bundle(explorer)) == notebook


# -- what is missing says which extra to install --------------------------------

def test_a_sweep_on_ray_without_ray_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"engine='ray' needs Ray: pip install 'prograd_viz\[ray\]'"):
        sweep({"shots": [1], "epochs": [1]}, tmp_path / "sweep", engine="ray", progress=False)


def test_a_hugging_face_tower_without_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = r"'roberta-ViT-B-32' is a Hugging Face model: it needs `pip install prograd_viz\[hf\]`"
    with pytest.raises(OSError, match=said):
        load_clip("roberta-ViT-B-32", "random")


@pytest.mark.parametrize("error", [TypeError("unexpected 'depth'"), AttributeError("no 'pool'")], ids=repr)
def test_a_mistaken_call_is_not_reported_as_missing_weights(error, monkeypatch):
    def fail(*args, **kwargs): raise error
    monkeypatch.setattr("open_clip.create_model", fail)
    with pytest.raises(type(error), match=re.escape(str(error))): clip_module._create("ViT-B-32", "openai")


def test_python_3_10_is_refused_with_one_line(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13, "final", 0))
    with pytest.raises(ImportError, match=r"^prograd_viz needs Python 3\.11 or newer, this is 3\.10$"):
        runpy.run_path(prograd_viz.__file__)


# -- what is asked for ------------------------------------------------------------

def asked():
    "Lines of the requirements in settings.ini, without comments"
    cfg = ConfigParser()
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    return cfg["DEFAULT"]["requirements"].split()


def test_every_requirement_is_a_range_that_begins_at_a_version_that_was_run():
    exact = [r for r in asked() if "==" in r]
    assert [r.partition("==")[0] for r in exact] == ["fontawesomefree"]
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+(,<[\d.]+)?", r) for r in asked() if r not in exact)


def test_every_requirement_has_its_reason_above_it():
    lines = (ROOT / "settings.ini").read_text(encoding="utf-8").splitlines()
    for r in asked(): assert lines[lines.index(f"    {r}") - 1].startswith("    # "), r


def test_jupyterlab_is_an_extra_and_ipywidgets_is_not():
    names = {re.split("[=<>]", r)[0] for r in asked()}
    assert "ipywidgets" in names and not names & {"jupyterlab", "ray", "transformers", "torchjd"}
