"""Where a score is not finite there is no prediction: no class, no accuracy, no map and no word stands for it."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from prograd_viz.cam import NO_PREDICTION, explained_directions
from prograd_viz.faithful import causal_checks, faithfulness
from prograd_viz.plots import plot_maps
from prograd_viz.report import report_data, save_report
from prograd_viz.scenes import EXPLAINED, paint, prepare
from prograd_viz.training import train
from prograd_viz.words import plot_words, read_context_words


@pytest.fixture(scope="module")
def trained(clip, task): return train(clip, task, [0.0, 1.0], epochs=1, progress=False, views=0)


@pytest.fixture(scope="module")
def broken(trained):
    "The same with NaN in the text features of the second run's first class"
    text = trained.text_features.copy()
    text[-1, 1, 0] = np.nan
    return replace(trained, text_features=text)


def rows_of(table): return table[table["lam"] == 1], table[table["lam"] != 1]


def test_causal_checks_of_nan_are_nan(broken, trained):
    of_nan, others = rows_of(causal_checks(broken, images=6))
    assert of_nan["accuracy"].isna().all() and of_nan["follows_background"].isna().all()
    swapped = others["condition"] == "background swapped"
    assert others["accuracy"].notna().all() and others["follows_background"].notna().equals(swapped)
    assert others.equals(rows_of(causal_checks(trained, images=6))[1])


@pytest.mark.parametrize("explain", ["true", "predicted"])
def test_faithfulness_of_nan_is_nan(broken, explain):
    measures = ["deletion", "insertion"]
    of_nan, others = rows_of(faithfulness(broken, images=2, explain=explain, measures=measures, random_directions=1))
    assert of_nan[measures].isna().all(axis=None) and others[measures].notna().all(axis=None)


@pytest.mark.parametrize("explain", ["predicted", "contrast"])
def test_a_direction_of_no_prediction_is_nan(explain):
    text, features = torch.eye(3, 4), torch.tensor([[1.0, 2, 0, 0], [torch.nan, 0, 0, 0]])
    first, second = explained_directions(text, features, torch.tensor([0, 0]), explain)
    assert first.tolist() == ([0, 1, 0, 0] if explain == "predicted" else [1, -1, 0, 0]) and second.isnan().all()


@pytest.mark.parametrize("explain", EXPLAINED)
@pytest.mark.parametrize("label", [1, -1])
def test_a_scene_of_nan_has_no_prediction(broken, explain, label):
    scenes = replace(prepare(broken, images=1), labels=np.array([label]))
    view = scenes.view(0, broken.text(1.0), explain)
    assert view.predicted == view.verdict == NO_PREDICTION and np.isnan(view.probability)
    known = explain == "true class" and label == 1
    assert view.explained == (broken.classes[1] if known else NO_PREDICTION)
    assert np.isfinite(view.cam).all() == known and np.isnan(view.share) != known
    assert np.array_equal(paint(scenes.pictures[0], view.cam * np.nan), paint(scenes.pictures[0], view.cam * 0))


def test_pictures_and_pages_say_that_there_is_no_prediction(broken, tmp_path):
    labels = [ax.get_xlabel() for ax in plot_maps(broken, images=1, explain="predicted").axes]
    assert [label == f"no map\n{NO_PREDICTION}" for label in labels] == [False, False, False, True]
    scenes = prepare(broken, images=1)
    data = report_data(broken, scenes)
    assert [run[0][:2] for run in data["views"][-1]][1] == [-1, None] and data["zero"][0][0] >= 0
    assert f": {NO_PREDICTION}, " in save_report(broken, tmp_path / "page.html", scenes=scenes).read_text()


def test_no_word_is_near_to_nan(trained):
    contexts = trained.contexts.copy()
    contexts[-1, 1, 0] = np.nan
    table = read_context_words(replace(trained, contexts=contexts), 1.0, steps=[0, trained.snapshot_steps[-1]])
    nowhere = (table["step"] > 0) & (table["vector"] == 1)
    assert table["token"].isna().equals(nowhere) and table["distance"].isna().equals(nowhere)
    drawn = plot_words(replace(trained, contexts=contexts), [1.0])
    assert "nan" not in {text.get_text() for ax in drawn.axes for text in ax.texts}
