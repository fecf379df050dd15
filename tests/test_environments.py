"""The library in environments that are not its own: what `make matrix` runs first in each of them.

Needs nothing but the library, pytest and the shared fixtures; no extra is installed in most of those environments.
"""
import io
import re
import runpy
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import prograd_viz
import pytest
from PIL import Image
from prograd_viz import clip as clip_module
from prograd_viz import widgets as widgets_module
from prograd_viz.all import explore, load_clip, save_report, sweep, train
from prograd_viz.plots import plot_accuracy, plot_cosine, plot_gradient_plane, plot_maps
from prograd_viz.widgets import _uploaded

ROOT = Path(__file__).resolve().parent.parent
VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def runs(clip, task): return train(clip, task, lambdas=[0, 1], epochs=3, progress=False)


@pytest.fixture(scope="module")
def explorer(runs): return explore(runs, images=2).wait()


# -- what everybody does first ----------------------------------------------------

def test_the_five_lines_give_a_record_of_both_gradients(runs):
    steps = runs.steps
    assert {"lam", "step", "loss_ce", "loss_kl", "cos", "conflict"} <= set(steps) and set(steps["lam"]) == {0.0, 1.0}
    assert steps.groupby("lam").size().nunique() == 1 and steps["cos"].dropna().between(-1, 1).all()


def test_plots_and_the_report_need_no_extra(runs, tmp_path):
    figures = plot_cosine(runs), plot_accuracy(runs), plot_maps(runs, images=1), plot_gradient_plane(runs, 1.0, 1)
    for figure in figures:
        assert isinstance(figure, plt.Figure)
        plt.close(figure)
    page = save_report(runs, tmp_path / "report.html", images=1)
    assert "<html" in Path(page).read_text(encoding="utf-8")


def test_a_run_set_comes_back_from_disk_as_it_was(runs, tmp_path, clip, task):
    runs.save(tmp_path / "runs")
    again = prograd_viz.runs.load_runs(tmp_path / "runs", clip, task)
    pd.testing.assert_frame_equal(again.steps, runs.steps)


def test_nothing_that_an_extra_brings_is_imported():
    code = ("import sys\n"
            "for name in ('jupyterlab', 'ray', 'transformers', 'torchjd', 'marimo'): sys.modules[name] = None\n"
            "from prograd_viz.all import *\nprint(train.__name__)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "train", done.stderr[-2000:]


# -- the explorer under ipywidgets 7 and 8, and in marimo ------------------------

def test_the_explorer_shows_itself_as_a_widget(explorer):
    bundle = explorer._repr_mimebundle_()
    assert bundle[VIEW] == {"version_major": 2, "version_minor": 0, "model_id": explorer.ui.model_id}
    assert "open this notebook in JupyterLab" in bundle["text/plain"]


def test_its_sliders_and_buttons_work(explorer):
    before = explorer.gallery.table()
    explorer.dial.lam.value, explorer.dial.step.index = 0.0, 0
    assert not explorer.gallery.table().equals(before)
    explorer.dial.lam.value, explorer.dial.step.index = 1.0, len(explorer.dial.step.options) - 1
    explorer.train_lambda(0.5)
    explorer.wait()
    assert sorted(explorer.runs.lambdas) == [0.0, 0.5, 1.0] and explorer.dial.lam.value == 0.5


def test_files_of_an_upload_are_read_from_either_ipywidgets():
    file = {"name": "a.png", "content": memoryview(b"1")}
    assert _uploaded((file,)) == [file]
    assert _uploaded({"a.png": {"metadata": {"size": 1}, "content": b"1"}}) == [{"name": "a.png", "content": b"1"}]
    assert _uploaded({}) == [] == _uploaded(())


def test_an_upload_of_ipywidgets_7_becomes_a_split(explorer):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    explorer._upload(_uploaded({"mine.png": {"metadata": {}, "content": file.getvalue()}}))
    explorer.wait()
    assert explorer.split.value == widgets_module._PHOTOS


def test_marimo_is_told_where_to_go(explorer, runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "marimo", SimpleNamespace(running_in_notebook=lambda: True))
    said = r"marimo does not show ipywidgets; .*save_report\(runs, 'report.html'\)"
    with pytest.warns(UserWarning, match=said): explore(runs, images=1)
    assert set(explorer._repr_mimebundle_()) == {"text/plain"}
    assert re.search(said, explorer._repr_mimebundle_()["text/plain"])
    monkeypatch.setitem(sys.modules, "marimo", SimpleNamespace(running_in_notebook=lambda: False))
    assert VIEW in explorer._repr_mimebundle_()


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
    monkeypatch.setattr(clip_module.open_clip, "create_model", fail)
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
