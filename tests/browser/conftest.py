"A browser for the tests in this folder; without one they are skipped, loudly, and never in CI."
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tools")]

import lab


def pytest_collection_modifyitems(items):
    if lab.CHROMIUM or os.environ.get("CI"): return
    for item in items:
        if HERE in Path(item.fspath).parents:
            item.add_marker(pytest.mark.skip(reason="NO BROWSER: install chromium to test the explorer in JupyterLab, "
                                                    "in Voila and as a report"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    "Runs of three lambdas on six classes, and their folder"
    from prograd_viz.clip import load_clip
    from prograd_viz.tasks import few_shot
    from prograd_viz.training import train
    task = few_shot("pocket", shots=4, seed=1, classes=6, test_per_class=5)
    folder = tmp_path_factory.mktemp("trained") / "runs"
    return train(load_clip("pocket"), task, lambdas=[0, 0.5, 1], epochs=30, lr=0.02, progress=False, out=folder), folder

