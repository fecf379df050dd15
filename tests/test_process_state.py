"What belongs to the whole process is left as it was: after trainings and pictures, and after errors inside them."
import logging
import random
import signal
import warnings

import matplotlib
import numpy as np
import pytest
import pytorch_grad_cam.metrics.road  # noqa: F401  its import, not the library, draws numbers and adds filters
import torch
from huggingface_hub import constants

from prograd_viz.clip import load_clip
from prograd_viz.faithful import faithfulness
from prograd_viz.plots import plot_cosine, plot_maps
from prograd_viz.report import save_report
from prograd_viz.store import undisturbed
from prograd_viz.training import train


def state():
    "Everything process-wide that the library, or what it imports, might touch, by name"
    generators = {"torch": torch.get_rng_state().tolist(), "numpy": repr(np.random.get_state())}
    counts = {"threads": torch.get_num_threads(), "dtype": torch.get_default_dtype(), "grad": torch.is_grad_enabled(),
              "deterministic": torch.are_deterministic_algorithms_enabled(), "errors": np.geterr()}
    handlers = {s.name: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    generators["random"] = random.getstate()
    shown = {"filters": list(warnings.filters), "style": dict(matplotlib.rcParams), "backend": matplotlib.get_backend()}
    spoken = {"logging": logging.root.manager.disable, "level": logging.root.level, "offline": constants.HF_HUB_OFFLINE}
    return generators | counts | handlers | shown | spoken


@pytest.fixture(autouse=True)
def untouched(monkeypatch, clip, task):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    before = state()
    yield
    after = state()
    assert [name for name in before if before[name] != after[name]] == []


def broken(*args): raise RuntimeError("broken")


def test_trainings_pictures_and_pages(clip, task, tmp_path):
    runs = train(clip, task, [0.0, 1.0], epochs=1, views=2, progress=False, out=tmp_path / "runs")
    plot_cosine(runs), plot_maps(runs, images=1)
    save_report(runs, tmp_path / "page.html", images=1)
    faithfulness(runs, images=1, columns=["road"], random_directions=1)


def test_loading_weights_draws_no_random_number():
    state = torch.get_rng_state()
    load_clip("pocket")
    assert torch.equal(torch.get_rng_state(), state)


def test_models_that_are_built_or_cannot_be_had(monkeypatch):
    monkeypatch.setattr("prograd_viz.clip._hub_answers", lambda: False)
    with torch.random.fork_rng(): load_clip("pocket", "random")  # initial weights follow torch.manual_seed
    with pytest.raises(OSError, match="no weights for"): load_clip("hf-hub:nobody/here")


def test_errors_inside(clip, task, tmp_path, monkeypatch):
    options = {"epochs": 1, "views": 2, "progress": False}
    with pytest.raises(RuntimeError, match="broken"):
        train(clip, task, callbacks=[broken], out=tmp_path / "a", **options)
    with pytest.raises(RuntimeError, match="broken"): train(clip, task, rule=broken, **options)
    with pytest.raises(RuntimeError, match="broken"), undisturbed(): broken()
    runs = train(clip, task, **options)
    monkeypatch.setattr("prograd_viz.plots.run_colour", broken)
    with pytest.raises(RuntimeError, match="broken"): plot_cosine(runs)
    monkeypatch.setattr("pytorch_grad_cam.metrics.road.ROADCombined", broken)
    with pytest.raises(RuntimeError, match="broken"): faithfulness(runs, images=1, columns=["road"])
