"""Where a score is not finite there is no prediction: no class, no accuracy, no map and no word stands for it."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from buffers import unpack
from prograd_viz.cam import NO_PREDICTION, TARGETS, explained_directions
from prograd_viz.faithful import causal_checks, faithfulness
from prograd_viz.plots import plot_maps
from prograd_viz.report import save_report
from prograd_viz.screen import explorer_data, plot_view, scene_buffer
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
    pd.testing.assert_frame_equal(others, rows_of(causal_checks(trained, images=6))[1])


@pytest.mark.parametrize("target", ["true", "predicted"])
def test_faithfulness_of_nan_is_nan(broken, target):
    columns = ["deletion", "insertion"]
    of_nan, others = rows_of(faithfulness(broken, images=2, target=target, columns=columns, random_directions=1))
    assert of_nan[columns].isna().all(axis=None) and others[columns].notna().all(axis=None)


@pytest.mark.parametrize("target", ["predicted", "contrast"])
def test_a_direction_of_no_prediction_is_nan(target):
    text, features = torch.eye(3, 4), torch.tensor([[1.0, 2, 0, 0], [torch.nan, 0, 0, 0]])
    first, second = explained_directions(text, features, torch.tensor([0, 0]), target)
    assert first.tolist() == ([0, 1, 0, 0] if target == "predicted" else [1, -1, 0, 0]) and second.isnan().all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("label", [1, -1])
def test_an_image_under_a_prompt_of_nan_has_no_prediction(broken, target, label):
    data = replace(explorer_data(broken, images=1), labels=np.array([label]))
    view = data.view(0, broken.text(1.0), target)
    assert view.predicted == NO_PREDICTION and np.isnan(view.probability)
    known = target == "true" and label == 1
    assert view.explained == (broken.classes[1] if known else NO_PREDICTION)
    assert np.isfinite(view.cam).all() == known and np.isnan(view.share) != known
    drawn = plot_view(broken, data, target=target).axes[3].images[-1].get_array()
    assert np.isfinite(drawn).all() and drawn.any() == known, "a map of NaN is drawn as a map of zeros"


def test_pictures_and_pages_say_that_there_is_no_prediction(broken, tmp_path):
    labels = [ax.get_xlabel() for ax in plot_maps(broken, images=1, target="predicted").axes]
    assert [label == f"no map\n{NO_PREDICTION}" for label in labels] == [False, False, False, True]
    data = explorer_data(broken, images=1)
    _, sent = unpack(scene_buffer(broken, data))
    assert sent["predicted"][-1, :, 0].tolist()[1:] == [-1] and sent["predicted"][-1, 0, 0] >= 0
    assert np.isnan(sent["chance"][-1, 1, 0]) and sent["zero.predicted"].min() >= 0
    for target in TARGETS:  # the image is of the class whose text features are NaN
        assert np.isnan(sent[f"top.{target}"][-1, 1]).all() and not sent[f"maps.{target}"][-1, 1].any()
        assert np.isnan(sent[f"share.{target}"][-1, 1]).all() and np.isfinite(sent[f"top.{target}"][-1, 0]).all()
    texts = [ax.get_xlabel() for ax in plot_view(broken, data).axes[:4]]
    assert [text.startswith(NO_PREDICTION) for text in texts] == [False, False, False, True]
    assert f"<td>{NO_PREDICTION}</td>" in save_report(broken, tmp_path / "page.html", data=data).read_text()


def test_no_word_is_near_to_nan(trained):
    contexts = trained.contexts.copy()
    contexts[-1, 1, 0] = np.nan
    table = read_context_words(replace(trained, contexts=contexts), 1.0, steps=[0, trained.snapshot_steps[-1]])
    nowhere = (table["step"] > 0) & (table["vector"] == 1)
    assert table["token"].isna().equals(nowhere) and table["distance"].isna().equals(nowhere)
    drawn = plot_words(replace(trained, contexts=contexts), [1.0])
    assert "nan" not in {text.get_text() for ax in drawn.axes for text in ax.texts}
