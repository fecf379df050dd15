"A folder of one's own images has no shifted backgrounds: everything falls back to the test set there is."
import numpy as np
import pytest
from PIL import Image

from prograd_viz.data import few_shot
from prograd_viz.plots import plot_accuracy, plot_maps
from prograd_viz.pocket import Scene, render
from prograd_viz.report import save_report
from prograd_viz.runs import load_runs
from prograd_viz.training import train
from prograd_viz.widgets import explore


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("own") / "animals"
    for noun in ("dog", "cat"):
        (root / noun).mkdir(parents=True)
        for i in range(4): Image.fromarray(render(Scene(noun, "sand", seed=i), noise=0.1)[0]).save(root / noun / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def stored(folder, clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "runs"
    train(clip, few_shot(folder, shots=2), epochs=2, views=0, progress=False, out=path)
    return path


def test_pictures_and_explorer_take_the_test_set_there_is(folder, clip, stored, tmp_path):
    task = few_shot(folder, shots=2)
    runs = load_runs(stored, clip, task)
    assert task.usual_split == "same" and runs.tested == ["same"]
    assert [ax.get_title() for ax in plot_accuracy(runs).axes] == ["same distribution"]
    assert len(plot_maps(runs, 2).axes) == 2 * 4
    explorer = explore(runs, images=2)
    explorer.work.wait()
    assert explorer.split.value == "same" and explorer.split.options == ("train", "same")
    assert save_report(runs, tmp_path / "report.html", images=2).read_text(encoding="utf-8").count("<figure><img") == 2 + 2, "two images, cosine and accuracy"


def test_without_a_test_set_the_training_images_are_shown_and_it_is_said(folder, clip):
    with pytest.warns(UserWarning, match="nothing is left to test on"): task = few_shot(folder, shots=4)
    assert task.usual_split == "train"
    assert len(plot_maps(train(clip, task, epochs=1, views=0, progress=False), 2).axes) == 2 * 4


def test_few_images_are_named_by_class(folder):
    with pytest.warns(UserWarning, match="fewer than 9 images for cat, dog"): few_shot(folder, shots=9)


def test_opened_runs_are_those_of_memory(folder, clip, stored):
    opened = load_runs(stored, clip, few_shot(folder, shots=2))
    assert opened.clip is clip and np.array_equal(opened.contexts, load_runs(stored).contexts)
