"The explorer without a browser: what it sends holds the library's numbers, its traits are its state, its work is safe."
import io
import json
import multiprocessing
import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import partialmethod
from html.parser import HTMLParser
from threading import Event

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import traitlets
from PIL import Image
from scipy.special import stdtrit

from buffers import in_page, in_state, some, unpack
from prograd_viz.cam import NO_PREDICTION, TARGETS, find_layer, pick_images
from prograd_viz.data import Task
from prograd_viz.evaluate import predictions
from prograd_viz.explorer import (
    PANELS,
    PHOTOS,
    Explorer,
    explore,
    show_cosine,
    show_gradient_plane,
    show_landscape,
    show_maps,
)
from prograd_viz.landscape import landscape
from prograd_viz.maps import RISE, GradCAM, Occlusion, cam_maps, foreground, run_maps
from prograd_viz.plots import plane_arrows
from prograd_viz.prompts import teacher_features
from prograd_viz.report import SNAPSHOTS, save_report
from prograd_viz.runs import Recorder, load_runs
from prograd_viz.screen import OPERATORS, ExplorerData, explorer_data, plot_view, run_sets, set_names
from prograd_viz.tasks import few_shot
from prograd_viz.training import train

SHORT = {"epochs": 4, "batch_size": 8, "views": 0, "progress": False}
ODD = [1, 0, 0.5]  # lambdas in an order that is not the slider's


@pytest.fixture(scope="module")
def runs(clip, task): return train(clip, task, ODD, **SHORT)


@pytest.fixture(scope="module")
def data(runs): return explorer_data(runs, images=4)


@pytest.fixture(scope="module")
def seeds(runs, clip, task):
    "Three seeds of one recipe"
    return [runs, *(train(clip, task, ODD, seed=seed, **SHORT) for seed in (2, 3))]


@pytest.fixture
def explorer(runs, data):
    view = explore(runs, data=data, images=1)  # of every other split one
    yield view
    view.close()


def scene(explorer): return unpack(explorer.scenes[0])


def work(explorer): return explorer._work["text"], explorer._work["wrong"]


def until(condition, seconds=300):
    "Wait for what another thread or process does, however slow the machine"
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it never came"
        time.sleep(0.05)


def press(explorer, **message):
    "What a button in the browser sends"
    buffers = message.pop("buffers", [])
    explorer._handle_custom_msg(message, buffers)


def states(runs, data, count=30, seed=7):
    "Random (position of a method on the slider, of a snapshot, of an image)"
    rng = np.random.default_rng(seed)
    return zip(*(rng.integers(0, n, count) for n in (len(runs), len(runs.snapshot_steps), len(data))))


# -- the numbers in the buffers --------------------------------------------------

class Library:
    "Maps, shares and predictions by the functions that knew them before there was an explorer"
    def __init__(self, runs, rows):
        self.runs, self.rows = runs, rows
        self.maps = run_maps(runs, images=rows, progress=False)
        steps = runs.snapshot_steps.tolist()
        self.shares = {target: foreground(runs, images=rows, steps=steps, target=target, random_directions=0).rows
                       for target in TARGETS}
        self.said = pd.concat([predictions(runs, step=step).assign(step=step) for step in steps])

    def of(self, table, r, step, i):
        here = (table["method"] == self.runs.methods[r]) & (table["step"] == step) & (table["image"] == i)
        return table[here].iloc[0]

    def explained(self, predicted, label, scores, target):
        "The class that is explained and its rival"
        if target != "contrast": return (predicted if target == "predicted" else label), -1
        return label, int(np.argsort(np.where(np.arange(len(scores)) == label, -np.inf, scores))[-1])


@pytest.fixture(scope="module")
def two(data): return some(data, [0, 3])


@pytest.fixture(scope="module")
def library(runs): return Library(runs, np.asarray(pick_images(runs, images=4)[1])[[0, 3]])


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_sent_is_what_the_library_computes_at_thirty_states(runs, two, library, target):
    about, sent = scene(explore(runs, data=two))
    features = runs.split().features(runs.clip)[library.rows].numpy()
    for n, k, b in states(runs, two):
        r, i, step = runs.run(runs.sorted_keys()[n]), library.rows[b], runs.snapshot_steps[k]
        said, seen = library.of(library.said, r, step, i), library.of(library.shares[target], r, step, i)
        assert about["classes"][sent["predicted"][k, n, b]] == said["predicted"]
        np.testing.assert_allclose(sent["chance"][k, n, b], said["confidence"], rtol=1e-4)
        np.testing.assert_allclose(sent[f"share.{target}"][k, n, b], seen["share"], atol=1e-4)
        predicted, label = (runs.classes.index(said[name]) for name in ("predicted", "label"))
        one, two = library.explained(predicted, label, runs.text_features[k, r] @ features[b], target)
        assert sent[f"explained.{target}"][k, n, b].tolist() == [one, two]
        maps = library.maps.maps[k, r, :, b]
        ours = (maps[one] - (maps[two] if two >= 0 else 0)).relu().numpy()
        theirs = sent[f"maps.{target}"][k, n, b] / 255 * sent[f"top.{target}"][k, n, b]
        np.testing.assert_allclose(theirs, ours, atol=ours.max() / 509)


@pytest.mark.parametrize("target", TARGETS)
def test_zero_shot_clip_is_sent_alike(runs, two, library, target):
    about, sent = scene(explore(runs, data=two))
    table = foreground(runs, images=library.rows, target=target, random_directions=0).rows
    table = table[table["method"] == "zero-shot CLIP"]
    np.testing.assert_allclose(sent[f"zero.share.{target}"].ravel(), table["share"], atol=1e-4)
    said = predictions(runs).iloc[library.rows]
    assert [about["classes"][c] for c in sent["zero.predicted"].ravel()] == said["predicted"].tolist()
    np.testing.assert_allclose(sent["zero.chance"].ravel(), said["confidence"], rtol=1e-4)
    for b, (one, two) in enumerate(sent[f"zero.explained.{target}"].reshape(-1, 2)):
        maps = library.maps.zero_shot[:, b]
        ours = (maps[one] - (maps[two] if two >= 0 else 0)).relu().numpy()
        theirs = sent[f"zero.maps.{target}"].reshape(-1, *ours.shape)[b] / 255 * sent[f"zero.top.{target}"].ravel()[b]
        np.testing.assert_allclose(theirs, ours, atol=ours.max() / 509)


def test_the_table_is_what_is_sent(explorer, data):
    for (n, k, b), target in zip(states(explorer.runs, data, 9), TARGETS * 3):
        runs = explorer.runs
        explorer.lam, explorer.step, explorer.target = runs.sorted_keys()[n], int(runs.snapshot_steps[k]), target
        explorer.image = int(b)
        about, sent = scene(explorer)
        last = explorer.table().iloc[-1]
        assert last["method"] == runs.name(explorer.lam) and last["image"] == data.names[b]
        assert last["predicted"] == about["classes"][sent["predicted"][k, n, b]]
        np.testing.assert_allclose(last[["probability", "share"]].astype(float),
                                   [sent["chance"][k, n, b], sent[f"share.{target}"][k, n, b]], rtol=1e-6)
        row = runs.record(explorer.lam).query("step == @explorer.step")
        known = last[["cos"]].astype(float)
        assert np.array_equal(known, row["cos"] if len(row) else [np.nan], equal_nan=True), "no row at step 0"


def test_a_class_is_explained_when_it_is_chosen(explorer, runs, data):
    assert unpack(explorer.scenes[0])[0]["targets"] == list(TARGETS)
    name = runs.classes[2]
    explorer.target = name
    about, sent = scene(explorer)
    assert about["targets"] == [*TARGETS, name] and (sent[f"explained.{name}"][..., 0] == 2).all()
    shares = [data.view(b, runs.text(1), name).share for b in range(4)]
    np.testing.assert_allclose(sent[f"share.{name}"][-1, -1], shares, rtol=1e-6)


def test_the_record_is_sent_in_the_order_of_the_slider(runs):
    about, sent = unpack(explore(runs, images=1)._runs)
    one = about["sets"][0]
    assert [m["key"] for m in one["methods"]] == [0, 0.5, 1] and one["reference"] == 0
    assert [m["name"] for m in one["methods"]] == ["CoOp", "ProGrad 0.5", "ProGrad"]
    assert len({m["colour"] for m in one["methods"]} | {about["zero"]["colour"]}) == 4
    for n, key in enumerate(runs.sorted_keys()):
        mine = runs.record(key)
        for c, column in enumerate(one["columns"]):
            assert np.array_equal(sent["0.record"][c, n], mine[column].to_numpy(float), equal_nan=True), column
        arrows = plane_arrows(runs, key)
        assert np.array_equal(sent["0.arrows"][n], arrows.astype(np.float32)) and np.isfinite(arrows).all()
        assert np.array_equal(sent["0.tokens"][n], runs.token_cos[:, runs.run(key)].astype(np.float32), equal_nan=True)
    assert sent["0.snapshots"].tolist() == runs.snapshot_steps.tolist()
    assert one["tested"] == runs.tested and one["zero"] == pytest.approx(runs.zero_shot_accuracy)
    assert [m["rule"] for m in one["methods"]] == ["coop", "prograd", "prograd"]
    assert about["trainable"] and about["able"]


def test_pictures_and_masks_are_sent_as_they_are(explorer, data):
    about, sent = scene(explorer)
    for b, picture in enumerate(data.pictures):
        assert np.array_equal(sent["pictures"][b], picture)
    bits = np.unpackbits(sent["masks"], axis=1, count=data.masks[0].size).reshape(data.masks.shape)
    assert np.array_equal(bits, data.masks) and np.array_equal(sent["areas"], data.areas)
    assert about["labels"] == data.labels.tolist() and about["names"] == list(data.names)


# -- run sets that are not like the others ----------------------------------------

def recorded(task, clip, methods, steps=4, **what):
    "A record by hand of methods whose text features drift away from zero-shot CLIP"
    rng, zero = torch.Generator().manual_seed(0), torch.as_tensor(teacher_features(clip, task.classes)).double()
    record = Recorder(task.classes, methods, zero_shot=zero)
    for step in range(1, steps + 1):
        drift = torch.randn(len(methods), *zero.shape, generator=rng, dtype=torch.float64)
        text = {"text_features": F.normalize(zero + 0.05 * step * drift, dim=-1)} if what.get("text", True) else {}
        record.log(step, loss_ce=1 / step, **text)
    return record.runs(clip, task)


def assert_sent(explorer):
    "Whatever the run set is like: at every method, snapshot and image the buffer has what `view` says"
    runs, seen, (about, sent) = explorer.runs, explorer.data, scene(explorer)
    for n, k, b in states(runs, seen, 12):
        key, step = runs.sorted_keys()[n], int(runs.snapshot_steps[k])
        for target in TARGETS:
            view = seen.view(b, runs.text(key, step), target)
            p = sent["predicted"][k, n, b]
            assert view.predicted == (about["classes"][p] if p >= 0 else NO_PREDICTION)
            np.testing.assert_allclose(sent["chance"][k, n, b], view.probability, rtol=1e-5)
            np.testing.assert_allclose(sent[f"share.{target}"][k, n, b], view.share, rtol=1e-5)
            top = view.cam.max() if np.isfinite(view.cam).all() else np.nan
            np.testing.assert_allclose(sent[f"top.{target}"][k, n, b], top, rtol=1e-5)
            theirs = sent[f"maps.{target}"][k, n, b] / 255 * np.nan_to_num(top)
            np.testing.assert_allclose(theirs, np.nan_to_num(view.cam), atol=np.nan_to_num(top) / 509 + 1e-12)
    assert plt.fignum_exists(explorer.figure().number) is False and len(explorer.table())


def test_methods_without_lambda_are_chosen_by_name(clip, task):
    runs = recorded(task, clip, ["theirs", "mine"])
    explorer = explore(runs, images=1).wait()
    assert_sent(explorer)
    about = unpack(explorer._runs)[0]
    assert not about["trainable"]
    assert [m["key"] for m in about["sets"][0]["methods"]] == ["theirs", "mine"] and explorer.lam == "mine"
    explorer.lam = "theirs"
    assert explorer.here()[0] == "theirs" and explorer.table()["method"].iloc[-1] == "theirs"
    with pytest.raises(ValueError, match="unknown method 'nobody'; known: theirs, mine"): explorer.lam = "nobody"
    assert explorer.lam == "theirs"


def test_a_score_that_is_no_number_has_no_prediction(runs, data):
    text = runs.text_features.copy()
    text[-1, runs.run(1)] = np.nan
    explorer = explore(replace(runs, text_features=text), data=data)
    assert_sent(explorer)
    table = explorer.table()
    assert table["predicted"].iloc[-1] == NO_PREDICTION and NO_PREDICTION not in table["predicted"].tolist()[:-1]
    assert table[["probability", "share", "preference"]].iloc[-1].isna().all()


def test_without_masks_there_are_no_shares(runs, data):
    explorer = explore(runs, data=replace(data, masks=np.zeros_like(data.masks), masks_from="none"))
    assert_sent(explorer)
    about, sent = scene(explorer)
    assert not sent["masks"].any() and not sent["areas"].any() and np.isnan(sent["share.predicted"]).all()
    assert about["masks"] == "" and set(explorer.table()["masks"]) == {"none"}


def test_one_image_one_lambda_and_one_snapshot_are_enough(runs, clip, task):
    alone = train(clip, task, [0.5], **SHORT)
    last = {name: getattr(alone, name)[-1:] for name in ("snapshot_steps", "contexts", "text_features")}
    explorer = explore(replace(alone, **last), images=1).wait()
    assert_sent(explorer)
    assert explorer.here() == (0.5, int(alone.snapshot_steps[-1])) and len(explorer.table()) == 2
    assert unpack(explorer._runs)[0]["sets"][0]["reference"] == 0


def test_a_record_without_text_features_has_everything_but_maps(clip, task):
    runs = recorded(task, clip, ["mine"], text=False)
    assert not len(runs.snapshot_steps)
    explorer = explore(replace(runs, clip=None, task=None), panels=["cosine", "accuracy"])
    about, sent = unpack(explorer._runs)
    column = about["sets"][0]["columns"].index("loss_ce")
    assert sent["0.record"][column, 0].tolist() == [1, 0.5, 1 / 3, 0.25] and sent["0.snapshots"].size == 0
    assert explorer.here() == ("mine", 4) and explorer.scenes == []
    with pytest.raises(ValueError, match="these runs hold no text features"): explore(runs, images=1).wait().table()


def test_gradients_that_were_not_recorded_are_nan(clip, task):
    explorer = explore(recorded(task, clip, ["mine"]), images=1).wait()
    about, sent = unpack(explorer._runs)
    for name in ("cos", "angle_deg", "norm_gd", "norm_gg"):
        assert np.isnan(sent["0.record"][about["sets"][0]["columns"].index(name)]).all()
    assert np.isnan(sent["0.arrows"][:, :, :2]).all() and explorer.table()["cos"].isna().all()


def test_without_zero_shot_clip_and_its_model_the_methods_stand_alone(clip, task):
    "With model and task in memory its text features follow from them"
    whole = recorded(task, clip, ["mine"])
    runs = replace(whole, zero_shot=None, clip=None, task=None)
    explorer = explore(runs, data=explorer_data(whole, images=1)).wait()
    assert_sent(explorer)
    assert explorer.table()["method"].tolist() == ["mine"] and not [k for k in scene(explorer)[1] if "zero" in k]


def many_classes(runs, data, names):
    "The same with other, perhaps many more, classes"
    count = -(-len(names) // len(runs.classes))
    tiled = lambda x: np.concatenate([x] * count, axis=-2)[..., :len(names), :]
    wide = replace(runs, classes=names, text_features=tiled(runs.text_features), zero_shot=tiled(runs.zero_shot),
                   clip=None, task=None)
    return wide, replace(data, classes=names, masks_from="")


def test_a_thousand_classes_fit(runs, data):
    wide, seen = many_classes(runs, data, tuple(f"class {i}" for i in range(1000)))
    explorer = explore(wide, data=seen)
    assert_sent(explorer)
    explorer.target = "class 999"
    about, sent = scene(explorer)
    assert len(about["classes"]) == 1000 and (sent["explained.class 999"][..., 0] == 999).all()


HOSTILE = ("<script>window.hurt = 1</script>", "x" * 200, "\u98ce\u7b5d", "\u0639\u0646\u0643\u0628\u0648\u062a",
           "' onerror='window.hurt = 1", "</script><script>window.hurt = 1</script>")


@pytest.fixture
def hostile(runs, data):
    names = tuple(f"{n}: {name}" for n, name in enumerate(HOSTILE[:len(data)], 1))
    runs, data = many_classes(runs, data, HOSTILE)
    return runs, replace(data, names=names)


def test_names_are_data_whatever_they_say(hostile, tmp_path):
    runs, data = hostile
    explorer = explore(runs, data=data)
    assert_sent(explorer)
    about = scene(explorer)[0]
    assert about["classes"] == list(HOSTILE) and about["names"] == list(data.names)
    for name in HOSTILE:
        explorer.target = name
        assert explorer.table()["explained"].unique().tolist() == [name]
    assert pd.read_csv(explorer.save(tmp_path / "odd")[2])["explained"].unique().tolist() == [HOSTILE[-1]]


# -- traits are the state ---------------------------------------------------------

def test_it_opens_at_the_end_of_the_training(explorer, runs):
    assert (explorer.lam, explorer.step, explorer.image) == (1.0, runs.snapshot_steps[-1], 0)
    assert explorer.target == "predicted"
    assert (explorer.split, explorer.target_layer, explorer.pins) == (runs.task.usual_split, "default", [])


WRONG = {"lam": ("ProGrad 2", "method"), "step": ("last", "step"), "image": (-1, "image"), "pins": (3, "pins"),
         "target": ("predict", "target"), "split": ("shfted", "split"), "set": (-1, "set"),
         "target_layer": ("layer9", "layer"), "explainer": ("GradCam", "explainer")}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_by_name_and_changes_nothing(explorer, name):
    before, seen, (wrong, word) = getattr(explorer, name), explorer.table(), WRONG[name]
    with pytest.raises((ValueError, traitlets.TraitError)) as error: setattr(explorer, name, wrong)
    assert str(wrong) in str(error.value) and word in str(error.value)
    assert getattr(explorer, name) == before and explorer.table().equals(seen)


def test_values_beyond_the_record_find_the_nearest(explorer, runs):
    explorer.lam, explorer.step, explorer.image, explorer.set = 0.7, 10**6, 99, 7
    assert explorer.here() == (0.5, runs.snapshot_steps[-1])
    assert explorer.table()["image"].unique() == [explorer.data.names[-1]]
    explorer.lam, explorer.step, explorer.pins = -3.0, -1, [2, 0, 2]
    assert explorer.here() == (0.0, 0)
    assert explorer.table()["image"].unique().tolist() == [explorer.data.names[b] for b in (3, 2, 0)]
    assert len(explorer.figure().axes) >= 3 * 3 + 1


def test_lam_is_a_number_or_a_method(explorer):
    for number in (1, np.float32(0.5), np.int64(0), np.float64(0.5)):
        explorer.lam = number
        assert explorer.here()[0] == number and json.dumps(explorer.get_state("lam"))
    for wrong in (None, float("nan"), [1], {}):
        with pytest.raises((ValueError, traitlets.TraitError), match="lam"): explorer.lam = wrong
    assert explorer.here()[0] == 0.5


def test_steps_and_images_may_be_numpys_numbers(explorer, runs):
    explorer.step, explorer.image = runs.snapshot_steps[3], np.int64(1)
    assert explorer.here()[1] == runs.snapshot_steps[3] and json.dumps(explorer.get_state(["step", "image"]))


def test_its_words_are_short(explorer): assert len(repr(explorer)) < 300


def test_a_pin_is_seen_where_there_is_such_an_image(explorer):
    explorer.pins = [99, 1]
    assert explorer.table()["image"].unique().tolist() == [explorer.data.names[b] for b in (0, 1)]
    with pytest.raises(traitlets.TraitError, match="-1"): explorer.pins = [-1]


def test_the_state_is_observed_and_sent_to_the_browser(explorer):
    seen = []
    explorer.observe(lambda change: seen.append((change["name"], change["new"])), ["lam", "step", "pins"])
    explorer.lam, explorer.step, explorer.pins = 0.5, 3, [1]
    assert seen == [("lam", 0.5), ("step", 3), ("pins", [1])]
    state = explorer.get_state()
    assert (state["lam"], state["step"], state["pins"]) == (0.5, 3, [1])
    assert {"target", "split", "target_layer", "image", "set", "explainer"} <= set(state)


def test_other_widgets_lead_and_follow(explorer):
    slider, step = ipywidgets.FloatSlider(value=0, min=0, max=1), ipywidgets.IntSlider(value=2, max=12)
    traitlets.link((slider, "value"), (explorer, "lam"))
    traitlets.link((step, "value"), (explorer, "step"))
    assert explorer.here() == (0.0, 2)
    slider.value, step.value = 1.0, 5
    assert explorer.here() == (1.0, 5) and explorer.table()["step"].unique().tolist() == [5]
    explorer.lam, explorer.step = 0.5, 7
    assert (slider.value, step.value) == (0.5, 7)
    choice = ipywidgets.Dropdown(options=TARGETS)
    traitlets.link((choice, "value"), (explorer, "target"))
    choice.value = "contrast"
    assert explorer.target == "contrast"


def test_an_arrow_stays_where_rounding_takes_the_cosine_beyond_one(runs):
    for cos in (1 + 2e-7, -1 - 2e-7):
        g_d = plane_arrows(replace(runs, steps=runs.steps.assign(cos=cos)), 1.0)[:, 1]
        assert np.array_equal(g_d[:, 0], 0 * g_d[:, 0]) and np.array_equal(g_d[:, 1], cos * runs.record(1.0)["norm_gd"])


def test_it_stands_in_boxes_with_others(explorer, runs):
    other = show_cosine(runs)
    box = ipywidgets.VBox([ipywidgets.HBox([explorer, other]), ipywidgets.Label("two")])
    assert box.children[0].children == (explorer, other)
    names = [f"IPY_MODEL_{one.model_id}" for one in (explorer, other)]
    assert list(box.children[0].get_state()["children"]) in (names, [explorer, other])
    traitlets.link((explorer, "step"), (other, "step"))
    explorer.step = 4
    assert other.step == 4 and other.here()[1] == 4


def test_parts_stand_alone(runs, data):
    alone = {"cosine": show_cosine(runs), "plane": show_gradient_plane(runs), "landscape": show_landscape(runs),
             "maps": show_maps(runs, data=data)}
    for name, view in alone.items():
        assert view._panels == [name] and bool(view.scenes) == (name == "maps")
        if name != "maps":
            with pytest.raises(ValueError, match=f"this explorer of {name} has no maps; explore"): view.table()
    for name in set(PANELS) - {"maps", "landscape"}: assert Explorer(runs, panels=[name]).figure().axes


# -- what the kernel does beside -------------------------------------------------------

def test_a_lambda_beyond_the_range_is_refused(explorer):
    press(explorer, ask="train", lam=1.5)
    with pytest.raises(ValueError, match=r"lambda must be between 0 and 1, got 1.5"): explorer.wait()
    assert "lambda must be between 0 and 1, got 1.5" in work(explorer)[0] and work(explorer)[1]
    assert len(explorer.runs) == 3


def test_a_trained_lambda_is_not_trained_again(explorer):
    explorer.train_lambda(0.5)
    with pytest.raises(ValueError, match="ProGrad 0.5 was already trained"): explorer.wait()
    assert "already trained" in work(explorer)[0] and work(explorer)[1] and len(explorer.runs) == 3


def test_another_lambda_is_trained_as_the_others_were(runs, data, clip, task):
    explorer = explore(runs, data=data)
    explorer.train_lambda(0.25)
    assert explorer.wait().lam == 0.25 and work(explorer) == ("", False)
    assert [m["key"] for m in unpack(explorer._runs)[0]["sets"][0]["methods"]] == [0, 0.25, 0.5, 1]
    assert scene(explorer)[1]["predicted"].shape == (len(runs.snapshot_steps), 4, 4)
    assert_sent(explorer)
    other = train(clip, task, [0.25], **SHORT)
    assert np.array_equal(explorer.runs.text_features[:, explorer.runs.run(0.25)], other.text_features[:, 0])
    assert len(runs) == 3, "the runs that were given stay as they were"


@pytest.fixture
def waiting(runs, monkeypatch):
    "An explorer that waits for its maps, and what they wait for"
    go, prepare = Event(), GradCAM.prepare
    monkeypatch.setattr(GradCAM, "prepare", lambda *args, **options: go.wait(60) and prepare(*args, **options))
    explorer = explore(runs, images=1)
    while not explorer.scenes and explorer.work._thread.is_alive(): explorer.work._thread.join(0.05)
    return explorer, go


def test_pictures_and_predictions_come_before_their_maps(waiting):
    explorer, go = waiting
    _, first = unpack(explorer.scenes[0])
    assert explorer.work.what and np.isnan(first["top.predicted"]).all()
    go.set()
    _, last = unpack(explorer.wait().scenes[0])
    assert (last["top.predicted"] > 0).any()
    for name in ("pictures", "masks", "areas", "predicted", "chance", "zero.predicted"):
        assert np.array_equal(first[name], last[name]), name
    assert explorer.data.operator.shape[1] > 1, "the draft is not kept"


def test_a_choice_made_while_the_first_maps_are_prepared_is_taken_back(waiting):
    explorer, go = waiting
    before = explorer.split
    explorer.split = "same"
    assert explorer.split == before and "not now" in work(explorer)[0]
    go.set()
    assert unpack(explorer.wait().scenes[0])[0]["split"] == before


def test_where_the_first_maps_were_cancelled_the_pictures_stay_and_maps_can_be_asked_for(runs, waiting):
    explorer, go = waiting
    press(explorer, ask="cancel")
    go.set()
    explorer.wait()
    _, shown = unpack(explorer.scenes[0])
    assert "cancelled" in work(explorer)[0] and np.isnan(shown["top.predicted"]).all()
    assert explorer.data is None, "a draft is not kept, saved or tabulated"
    with pytest.raises(ValueError, match="no maps"): explorer.table()
    for split in ("same", runs.task.usual_split):
        explorer.split = split
        about, shown = unpack(explorer.wait().scenes[0])
        assert about["split"] == split and np.isfinite(shown["top.predicted"]).all() and len(explorer.data) == 1


def test_cancelling_leaves_what_was(runs, data):
    explorer = explore(runs, data=data)
    before, said = (explorer._runs, explorer.scenes[0], explorer.table()), []

    def cancel(change):
        said.append(change["new"]["done"])
        if change["new"]["done"]: press(explorer, ask="cancel")

    explorer.observe(cancel, "_work")
    explorer.train_lambda(0.25)
    explorer.wait()
    assert work(explorer) == ("cancelled: training 0.25", False) and said[0] == 0 and len(explorer.runs) == 3
    assert (explorer._runs, explorer.scenes[0]) == before[:2] and explorer.table().equals(before[2])
    explorer.unobserve_all("_work")
    explorer.train_lambda(0.25)
    assert explorer.wait().lam == 0.25, "and it can begin again"


def test_a_training_that_fails_is_named(runs, data, monkeypatch):
    def broken(step, record): raise RuntimeError("the disk is full")

    explorer, true = explore(runs, data=data), sys.modules["prograd_viz.explorer"].train_more
    monkeypatch.setattr("prograd_viz.explorer.train_more",
                        lambda *a, callbacks, **k: true(*a, callbacks=[*callbacks, broken], **k))
    explorer.train_lambda(0.25)
    with pytest.raises(RuntimeError, match="the disk is full"): explorer.wait()
    assert work(explorer) == ("training 0.25 failed: the disk is full", True) and len(explorer.runs) == 3


def mine(x): return x.g_d


def test_a_rule_of_ones_own_cannot_be_trained_on_and_it_is_said(clip, task):
    explorer = explore(train(clip, task, [0, 1], rule=mine, **SHORT), images=1).wait()
    about = unpack(explorer._runs)[0]
    assert about["sets"][0]["methods"][0]["rule"] == "mine" and not about["trainable"]
    explorer.train_lambda(0.5)
    with pytest.raises(ValueError, match="these runs followed your own rule 'mine'"): explorer.wait()
    assert work(explorer)[1] and "followed your own rule 'mine'" in work(explorer)[0]


def test_one_thing_at_a_time_is_under_way(explorer):
    held, go = Event(), Event()
    explorer.work.start("waiting", lambda tick: held.set() or go.wait(), lambda result: None)
    held.wait()
    explorer.train_lambda(0.25)
    assert work(explorer) == ("not now: waiting is under way; wait, or cancel it", True)
    assert explorer._work["done"] == -1, "the bar and its button stay"
    go.set()
    assert explorer.wait().table() is not None and len(explorer.runs) == 3


def photo(colour, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(file, kind)
    return file.getvalue()


def test_photos_that_cannot_be_read_are_named_and_the_others_shown(explorer):
    files = {"a.png": photo("red"), "notes.txt": b"hello", "b.jpg": photo("blue", "JPEG"), "empty.png": b""}
    press(explorer, ask="photos", names=list(files), buffers=[memoryview(content) for content in files.values()])
    explorer.wait()
    assert work(explorer) == ("not an image that can be read: notes.txt, empty.png; use PNG or JPEG", True)
    assert explorer.split == PHOTOS and PHOTOS in scene(explorer)[0]["splits"]
    assert explorer.data.names == ("1: a.png", "2: b.jpg")
    assert explorer.table()["share"].isna().all() and set(explorer.table()["masks"]) == {"none"}
    assert (explorer.data.labels == -1).all() and np.isfinite(explorer.table()["probability"]).all()
    explorer.split = "same"
    assert explorer.wait().data.masks is not None and scene(explorer)[0]["split"] == "same"
    explorer.split = PHOTOS
    assert explorer.data.names == ("1: a.png", "2: b.jpg"), "at once, from memory"


def test_photos_alone_that_cannot_be_read_change_nothing(explorer):
    before = explorer.scenes
    explorer.show_photos({"notes.txt": b"hello"})
    assert work(explorer) == ("not an image that can be read: notes.txt; use PNG or JPEG", True)
    assert explorer.scenes == before and explorer.split != PHOTOS


def test_photos_by_path_or_image_are_a_split(runs, tmp_path):
    (tmp_path / "a.png").write_bytes(photo("red"))
    explorer = explore(runs, [tmp_path / "a.png", Image.new("RGB", (50, 50), "blue")]).wait()
    assert explorer.split == PHOTOS and explorer.data.names == ("1: a.png", "2: photo")
    explorer.show_photos({"b.png": photo("blue")})
    assert explorer.wait().data.names == ("1: b.png",)


def test_a_split_of_ones_own_can_be_left_and_seen_again(runs):
    own = replace(runs.task.tests["same"], masks_from="drawn by hand")
    explorer = explore(runs, own, images=1).wait()
    mine, about = explorer.table(), scene(explorer)[0]
    assert explorer.split == "your split" in about["splits"] and set(mine["masks"]) == {"drawn by hand"}
    explorer.split = "train"
    assert not explorer.wait().table()["share"].equals(mine["share"]) and scene(explorer)[0]["split"] == "train"
    explorer.split = "your split"
    assert explorer.table().equals(mine)


def test_another_layer_reads_other_maps(runs):
    explorer = explore(runs, images=1).wait()
    layers, before = scene(explorer)[0]["layers"], explorer.table()
    assert len(layers) > 1 and runs.clip.model.visual.get_submodule(layers[0]) is find_layer(runs.clip)
    explorer.target_layer = layers[1]
    after = explorer.wait().table()
    expected = explorer_data(runs, images=1, target_layer=layers[1]).view(0, runs.text(1))
    assert scene(explorer)[0]["layer"] == layers[1]
    assert after["share"].iloc[-1] == expected.share != before["share"].iloc[-1]


@pytest.mark.parametrize("name", ["GradCAM", "HiResCAM", Occlusion(stride=16), RISE(number=60)], ids=str)
def test_every_operator_gives_the_librarys_maps(runs, name):
    rows, text = pick_images(runs, images=2)[1], runs.text(1)
    data = explorer_data(runs, images=2, explainer=name)
    maps = cam_maps(runs.clip, runs.split().tensor(runs.clip, rows), torch.as_tensor(text), explainer=name).relu()
    for b in range(2):
        for target in ("predicted", data.classes[2]):
            view = data.view(b, text, target)
            ours = maps[data.classes.index(view.explained), b].numpy()
            np.testing.assert_allclose(view.cam, ours, atol=1e-4 * ours.max())


def test_another_explainer_is_chosen_and_kept(runs, tmp_path):
    explorer = explore(runs, images=1).wait()
    assert scene(explorer)[0]["explainers"] == OPERATORS and scene(explorer)[0]["explainer"] == "GradCAM"
    before = explorer.table()
    explorer.explainer = "Occlusion"
    after = explorer.wait().table()
    expected = explorer_data(runs, images=1, explainer="Occlusion")
    assert scene(explorer)[0]["explainer"] == "Occlusion" and scene(explorer)[0]["layer"] == ""
    assert after["share"].iloc[-1] == expected.view(0, runs.text(1)).share != before["share"].iloc[-1]
    assert set(after["explainer"]) == {"Occlusion"} and set(before["explainer"]) == {"GradCAM"}
    explorer.explainer = "GradCAM"
    pd.testing.assert_frame_equal(explorer.table(), before)
    again = ExplorerData.load(expected.save(tmp_path / "data.safetensors"))
    assert again.explainer == "Occlusion" and explore(runs, data=again).explainer == "Occlusion"
    page = save_report(runs, tmp_path / "page.html", data=again).read_text()
    assert "The maps (Occlusion) show" in page


def test_an_explainer_with_options_is_named_with_them(runs):
    explorer = explore(runs, images=1, explainer=Occlusion(stride=16)).wait()
    assert explorer.explainer == scene(explorer)[0]["explainer"] == "Occlusion(stride=16)"
    again = explore(runs, data=explorer.data)
    assert again.explainer == explorer.explainer and scene(again)[0]["explainer"] == explorer.explainer
    assert explorer.data.operator.shape[1] < explorer_data(runs, images=1, explainer="Occlusion").operator.shape[1]


def test_an_explainer_that_cannot_be_had_is_refused_with_the_reason(runs):
    with pytest.raises(ValueError, match="LayerCAM are not linear in the text.*the explorer has GradCAM, HiResCAM"):
        explore(runs, explainer="LayerCAM")
    with pytest.raises(ValueError, match="'pocket' has no attention"): explore(runs, explainer="MaskCLIP")
    explorer = explore(runs, images=1).wait()
    with pytest.raises(ValueError, match="unknown explainer 'GradCam'; did you mean"): explorer.explainer = "GradCam"
    explorer.explainer = "MaskCLIP"
    assert explorer.explainer == scene(explorer)[0]["explainer"] == "GradCAM"
    assert "'pocket' has no attention" in work(explorer)[0] and work(explorer)[1]


def test_the_landscape_is_computed_beside(explorer, runs):
    shares = []
    explorer.observe(lambda change: shares.append(change["new"]["done"]), "_work")
    explorer.show_landscape(size=5)
    about, sent = unpack(explorer.wait().land)
    ours = landscape(runs, size=5, progress=False)
    for name in ("loss_ce", "loss_kl", "accuracy"):
        np.testing.assert_allclose(sent[name], ours.values[name], rtol=1e-5)
    paths = [ours.paths[key] for key in runs.sorted_keys()]
    np.testing.assert_allclose(sent["paths"], paths, atol=1e-5)
    assert about == {"set": 0, "ends": list(ours.ends)} and sent["steps"].tolist() == runs.snapshot_steps.tolist()
    assert shares[0] == 0 and shares[:-1] == sorted(shares[:-1]) and shares[-1] is None


def test_a_large_model_s_landscape_waits_until_it_is_asked_for(explorer):
    explorer.work.alone = False
    press(explorer, ask="landscape", unasked=True)
    assert explorer.land == b"" and not explorer.work.what


# -- trainings that are still under way ----------------------------------------------

def test_a_recorder_is_followed_while_it_is_written(clip, task):
    zero = torch.as_tensor(teacher_features(clip, task.classes))
    with Recorder(task.classes, "mine", zero_shot=zero) as record:
        record.log(1, loss_ce=1.0, text_features=zero)
        explorer = explore(record, images=1, clip=clip, task=task).wait()
        assert explorer.step <= 1 and len(scene(explorer)[1]["predicted"]) == 1
        record._told = time.time() + 60
        for step in (2, 3):
            record.log(step, loss_ce=1 / step, text_features=F.normalize(zero + 0.1 * step, dim=-1))
        assert len(unpack(explorer._runs)[1]["0.snapshots"]) == 1, "at most once a second"
        record._told = 0.0
        record.log(4, loss_ce=0.25, text_features=zero)
        assert len(unpack(explorer._runs)[1]["0.snapshots"]) == 4
    assert unpack(explorer._runs)[1]["0.record"].shape[-1] == 4 and explorer.step == 3
    assert_sent(explorer)


def test_a_recorder_that_has_begun_nothing_is_followed_from_its_first_step(clip, task):
    zero = torch.as_tensor(teacher_features(clip, task.classes))
    with Recorder(task.classes, ["a", "b"], zero_shot=zero) as record:
        explorer = explore(record, images=1, clip=clip, task=task)
        for step in range(1, 4): record.log(step, loss_ce=torch.ones(2) / step, text_features=zero.expand(2, -1, -1))
    explorer.wait()
    assert explorer.table()["method"].tolist() == ["zero-shot CLIP", "a", "b"] and explorer.step == 2
    assert_sent(explorer)


def test_the_folder_of_another_process_is_followed_until_it_has_ended(clip, task, tmp_path, monkeypatch):
    monkeypatch.setattr(Explorer, "_follow", partialmethod(Explorer._follow, wait=0.1))
    out, fork = tmp_path / "run", multiprocessing.get_context("fork")
    at, go_on = fork.Value("i", 0), {4: fork.Event(), 7: fork.Event()}  # it waits there until it is told

    def pause(step, record):
        at.value = step
        if step in go_on: go_on[step].wait(300)

    for split in (task.train, *task.tests.values()): split.features(clip)
    process = fork.Process(target=train, args=(clip, task, [0, 1]), kwargs={
        **SHORT, "epochs": 3, "out": out, "checkpoint_every": 2, "callbacks": [pause]})
    process.start()
    try:
        until(lambda: at.value == 4 or not process.is_alive())
        begun = load_runs(out, clip, task)
        assert begun.interrupted and len(begun.steps)
        explorer, counts = explore(begun, images=1, follow=out).wait(), []
        explorer.observe(lambda change: counts.append(len(unpack(change["new"])[1]["0.snapshots"])), "_runs")
        go_on[4].set()
        until(lambda: counts or process.exitcode)
        assert explorer.runs.interrupted and len(begun.snapshot_steps) < counts[0]
        go_on[7].set()
        until(lambda: not explorer.runs.interrupted or process.exitcode)
    finally:
        for event in go_on.values(): event.set()
        process.join(300)
    assert process.exitcode == 0
    ended = load_runs(out, clip, task)
    assert not explorer.runs.interrupted and explorer.runs.snapshot_steps.tolist() == ended.snapshot_steps.tolist()
    until(lambda: counts[-1:] == [len(ended.snapshot_steps)])  # the page is told a moment after the explorer knows
    assert counts == sorted(counts) and len(counts) > 1
    explorer.wait()
    assert explorer.step == ended.snapshot_steps[-1]
    assert_sent(explorer)


def test_a_folder_that_is_not_there_is_not_followed(runs, data, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run set in"):
        explore(replace(runs, interrupted=True), data=data, follow=tmp_path / "nowhere")


def test_a_folder_that_can_no_longer_be_read_is_said(runs, data, tmp_path, monkeypatch):
    def gone(*args): raise OSError("the server is gone")

    runs.save(tmp_path / "run")
    explorer = explore(replace(runs, interrupted=True), data=data)
    monkeypatch.setattr("prograd_viz.explorer.load_runs", gone)
    explorer._follow(tmp_path / "run", wait=0.05)
    until(lambda: explorer._work)
    assert "the server is gone" in explorer._work.get("text", "") and work(explorer)[1] and len(explorer.table())
    explorer.close()


def test_another_state_of_the_record_drops_the_landscape(explorer, runs):
    explorer.show_landscape(size=3)
    assert explorer.wait().land
    explorer.show_runs(replace(runs, **{name: getattr(runs, name)[:4] for name in
                                        ("snapshot_steps", "contexts", "text_features")}))
    assert explorer.land == b"" and explorer.step == runs.snapshot_steps[3]
    assert_sent(explorer)


# -- several run sets -----------------------------------------------------------------

def test_seeds_of_one_recipe_are_seen_together(seeds, data):
    explorer = explore(seeds, data=data)
    about, sent = unpack(explorer._runs)
    assert not about["compare"] and [one["name"] for one in about["sets"]] == [f"seed {seed}" for seed in (1, 2, 3)]
    assert about["t"] == pytest.approx(stdtrit(2, 0.975)) and explorer.title.endswith("seeds 1, 2, 3")
    for s, runs in enumerate(seeds):
        cos = sent[f"{s}.record"][about["sets"][s]["columns"].index("cos"), 2]
        assert np.array_equal(cos, runs.record(1.0)["cos"], equal_nan=True) and np.isfinite(cos).any()
        explorer.set = s
        k = explorer.runs.snapshot_steps.tolist().index(explorer.step)
        assert explorer.runs is runs
        np.testing.assert_allclose(explorer.table()["share"].iloc[-1],
                                   unpack(explorer.scenes[s])[1]["share.predicted"][k, -1, 0], rtol=1e-6)


def test_a_seed_may_be_shorter_and_may_be_trained_further(seeds, data):
    short = replace(seeds[1], steps=seeds[1].steps[seeds[1].steps["step"] <= 5], interrupted=True,
                    **{name: getattr(seeds[1], name)[:6] for name in ("snapshot_steps", "contexts", "text_features")})
    explorer = explore([seeds[0], short, seeds[2]], data=data)
    assert unpack(explorer._runs)[1]["1.record"].shape[-1] == 5
    explorer.set = 1
    assert explorer.here() == (1.0, 5)
    explorer.set, explorer.step = 2, 12
    explorer.train_lambda(0.25)
    explorer.wait()
    keys = [[m["key"] for m in one["methods"]] for one in unpack(explorer._runs)[0]["sets"]]
    assert keys == [[0, 0.5, 1], [0, 0.5, 1], [0, 0.25, 0.5, 1]] and explorer.here() == (0.25, 12)
    explorer.set = 0
    assert explorer.here() == (0.0, 12) and len(explorer.table()) == 2 and len(seeds[2]) == 3


def test_seeds_with_other_methods_are_no_seeds_of_one_recipe(seeds, clip, task):
    fewer = train(clip, task, [0, 1], seed=4, **SHORT)
    assert run_sets(seeds)[1] is False and run_sets([seeds[0], fewer])[1] is True
    with pytest.raises(ValueError, match="^3 run sets that are not seeds of one recipe"):
        explore([*seeds[:2], fewer])


def test_two_recipes_are_compared_and_three_refused(runs, data, clip, task):
    others = [train(clip, task, ODD, lr=lr, **SHORT) for lr in (0.01, 0.5)]
    explorer = explore([runs, others[0]], data=data)
    about, sent = unpack(explorer._runs)
    assert about["compare"] and len(about["sets"]) == 2 and explorer.title == "two recipes"
    assert not np.array_equal(sent["0.record"], sent["1.record"])
    explorer.set = 1
    assert explorer.runs is others[0]
    with pytest.raises(ValueError, match="^3 run sets that are not seeds of one recipe"):
        explore([runs, *others])


def test_other_classes_cannot_be_seen_together(runs):
    with pytest.raises(ValueError, match="or two recipes with the same classes"):
        explore([runs, replace(runs, classes=tuple("abcdef"))])


# -- without model and images ----------------------------------------------------------

def test_saved_data_is_explored_without_a_model(runs, data, tmp_path):
    runs.save(tmp_path / "runs")
    alone, seen = load_runs(tmp_path / "runs"), ExplorerData.load(data.save(tmp_path / "data.safetensors"))
    explorer = explore(alone, data=seen)
    pd.testing.assert_frame_equal(explorer.table(), explore(runs, data=data).table())
    assert not explorer.able and not unpack(explorer._runs)[0]["able"] and explorer.figure().axes
    with pytest.raises(ValueError, match="these runs have no model and task in memory"): explore(alone)
    explorer.train_lambda(0.25)
    with pytest.raises(ValueError, match="these runs have no model and task in memory"): explorer.wait()
    with pytest.raises(ValueError, match="unknown split 'new'"): explorer.split = "new"
    press(explorer, ask="landscape")
    with pytest.raises(ValueError, match="these runs have no model and task in memory"): explorer.wait()
    assert work(explorer)[1] and "these runs have no model and task in memory" in work(explorer)[0]
    before = explorer.scenes
    press(explorer, ask="photos", names=["a.png"], buffers=[photo("red")])
    assert work(explorer)[1] and "no model" in work(explorer)[0] and explorer.scenes == before
    page = save_report(alone, tmp_path / "page.html", data=seen).read_text(encoding="utf-8")
    assert np.array_equal(in_page(page, "scenes")[1]["maps.true"], scene(explorer)[1]["maps.true"])


def test_data_that_does_not_fit_is_refused(runs, data, tmp_path):
    narrow = replace(data, operator=data.operator[..., :64], features=data.features[..., :64])
    for show in (lambda data: explore(runs, data=data), lambda data: save_report(runs, tmp_path / "r.html", data=data)):
        with pytest.raises(ValueError, match="^the data"): show(narrow)
        with pytest.raises(ValueError, match="^the data shows"): show(replace(data, classes=tuple("abcdef")))


# -- what is kept ------------------------------------------------------------------------

def test_a_figure_for_print_has_fonts_that_print(explorer, tmp_path):
    explorer.pins = [2]
    figure = explorer.figure()
    figure.savefig(tmp_path / "seen.pdf")
    content = (tmp_path / "seen.pdf").read_bytes()
    assert b"/Type3" not in content and b"/CIDFontType2" in content and b"/FontFile2" in content


@pytest.mark.parametrize("part", ["pictures", "masks", "labels", "names", "operator", "features"])
def test_saved_data_of_which_a_part_lacks_an_image_are_refused_by_its_name(data, tmp_path, part):
    path = replace(data, **{part: getattr(data, part)[:-1]}).save(tmp_path / "data.safetensors")
    named = "masks" if part == "pictures" else part  # the pictures say how many there are
    with pytest.raises(ValueError, match=rf"no data of an explorer \('{named}' has shape .*, expected .*save\(path\)"):
        ExplorerData.load(path)


def test_a_figure_is_saved_at_the_style_s_resolution(explorer, tmp_path):
    with plt.rc_context({"savefig.dpi": 30, "savefig.bbox": "standard"}):
        figure = explorer.figure()
        figure.savefig(tmp_path / "seen.png")
    with Image.open(tmp_path / "seen.png") as image:
        assert image.info["dpi"][0] == pytest.approx(160, abs=0.5)
        assert image.width == pytest.approx(160 * figure.get_figwidth(), rel=0.1)


def test_save_writes_a_figure_twice_and_the_table(explorer, tmp_path):
    explorer.lam, explorer.step, explorer.pins = 0.5, 3, [1]
    files = explorer.save(tmp_path / "new folder" / "seen.v2")
    assert [file.name for file in files] == ["seen.v2.pdf", "seen.v2.png", "seen.v2.csv"]
    assert sorted(files) == sorted((tmp_path / "new folder").iterdir())
    assert files[0].read_bytes().startswith(b"%PDF") and Image.open(files[1]).width > 500
    pd.testing.assert_frame_equal(pd.read_csv(files[2]), explorer.table(), check_dtype=False)


def test_the_button_saves_under_a_name_that_says_what_it_shows(explorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explorer.lam, explorer.step, explorer.image = 0.5, 3, 1
    press(explorer, ask="save")
    names = [f"explorer-lambda0.5-step3-image2.{kind}" for kind in ("csv", "pdf", "png")]
    assert sorted(file.name for file in tmp_path.iterdir()) == names and work(explorer)[0].startswith("saved ")
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError): explorer.save(tmp_path / "taken" / "seen")


def test_a_name_with_dollars_is_no_formula_in_the_figure(runs, data):
    images = replace(data, names=tuple(f"{n}: $x_{n}$" for n in range(1, 5)))
    figure = plot_view(*many_classes(runs, images, ("$a$", "$$", "b$", "_", "^", "x")))
    figure.canvas.draw()
    assert sum("$" in text.get_text() and not text.get_parse_math() for text in figure.findobj(plt.Text)) >= 4


# -- the page ----------------------------------------------------------------------------

def as_long_as_the_demo(runs, steps=600):
    "Two methods of a record, repeated to the demo's number of steps and snapshots"
    rows, places = np.arange(steps) % (len(runs.steps) // len(runs)), np.arange(steps + 1) % len(runs.snapshot_steps)
    parts = [runs.record(key).iloc[rows].assign(step=range(1, steps + 1)) for key in runs.keys[:2]]
    two = lambda x: x[:][places][:, :2]
    return replace(runs, steps=pd.concat(parts, ignore_index=True), snapshot_steps=np.arange(steps + 1),
                   text_features=two(runs.text_features), contexts=two(runs.contexts), methods=runs.methods[:2],
                   lambdas=runs.lambdas[:2], token_cos=runs.token_cos[rows][:, :2])


def test_a_page_of_the_demo_s_three_seeds_takes_at_most_5_mb(seeds, data, tmp_path):
    long = [as_long_as_the_demo(one) for one in seeds]
    path = save_report(long, tmp_path / "page.html", data=some(data, [0, 1, 2, 3] * 2))
    assert path.stat().st_size <= 5e6
    (about, sent), (seen, maps) = (in_page(path.read_text(encoding="utf-8"), name) for name in ("_runs", "scenes"))
    assert len(about["sets"]) == 3 and len(seen["names"]) == 8 and sent["2.record"].shape[-1] == 600
    few = long[0].thinned(SNAPSHOTS)
    kept = few.snapshot_steps.tolist()
    assert sent["0.snapshots"].tolist() == kept and (kept[0], kept[-1], len(kept)) == (0, 600, SNAPSHOTS)
    assert np.array_equal(few.text_features[7], long[0].text_features[kept[7]])
    assert maps["share.true"].shape[:2] == (SNAPSHOTS, 2)


def test_a_page_holds_the_explorer_s_numbers(runs, data, tmp_path):
    land = landscape(runs, size=4, progress=False)
    path = save_report(runs, tmp_path / "page.html", data=data, land=land, title="my <title>")
    page = path.read_text(encoding="utf-8")
    explorer = explore(runs, data=data)
    mine, theirs = scene(explorer), in_page(page, "scenes")
    assert all(np.array_equal(mine[1][name], x, equal_nan=x.dtype.kind == "f") for name, x in theirs[1].items())
    assert np.array_equal(in_page(page, "_runs")[1]["0.record"], unpack(explorer._runs)[1]["0.record"], equal_nan=True)
    np.testing.assert_allclose(in_page(page, "land")[1]["loss_ce"], land.values["loss_ce"], rtol=1e-6)
    assert "<title>my &lt;title&gt;</title>" in page
    cells = re.findall("<t[hd]>(.*?)</t[hd]>", page)
    final = runs.final()
    for key, name in ((0.0, "CoOp"), (0.5, "ProGrad 0.5"), (1.0, "ProGrad")):
        at = cells.index(name)
        assert f"{final.loc[key, 'acc_same']:.0%}" in cells[at + 1:at + 8]
        assert f"{final.loc[key, 'loss_ce']:.2f}" in cells[at + 1:at + 8]
    for b, name in enumerate(data.names):
        view = data.view(b, runs.text(1))
        row = [name, "ProGrad", view.predicted, f"{view.probability:.0%}"]
        assert any(cells[n:n + 4] == row for n in range(len(cells)))


def test_a_page_has_no_column_for_a_test_set_that_is_not_there(clip, task, tmp_path):
    few = train(clip, Task("few", task.train, {"same": task.tests["same"]}), [0, 1], **SHORT)
    page = save_report(few, tmp_path / "page.html", images=1).read_text(encoding="utf-8")
    heads = re.findall("<th>(.*?)</th>", page)
    assert heads[:heads.index("image")] == ["method", "same", "cross-entropy", "divergence", "steps in conflict"]
    none = train(clip, Task("none", task.train, {}), [0, 1], **SHORT)
    page = save_report(none, tmp_path / "page.html", images=1).read_text(encoding="utf-8")
    heads = re.findall("<th>(.*?)</th>", page)
    assert heads[:heads.index("image")] == ["method", "cross-entropy", "divergence", "steps in conflict"]
    assert in_page(page, "_runs")[0]["sets"][0]["tested"] == [] and "Test sets:" not in page


def test_run_sets_of_other_methods_alone_have_names_of_their_own(runs):
    "As two loops of a reader's own, whose records say nothing else"
    mine, yours = (replace(runs, methods=names, config={}) for names in (("a", "b", "c"), ("a", "b", "d")))
    assert set_names([mine, yours]) == ["seed 1; methods a, b, c", "seed 1; methods a, b, d"]


def test_a_setting_that_one_recipe_leaves_open_is_told_apart(runs):
    ours, theirs = (replace(runs, config=runs.config | {"eps_rel": eps}) for eps in (None, 0.0))
    assert set_names([ours, theirs]) == ["seed 1; eps_rel none", "seed 1; eps_rel 0.0"]
    assert run_sets([ours, theirs])[1], "they are compared"


class Tags(HTMLParser):
    "The tags of a page as a browser reads them, and its text"
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attributes): self.tags.append((tag, dict(attributes)))

    def handle_data(self, text): self.text.append(text)


def test_names_in_a_page_are_text_whatever_they_say(hostile, tmp_path):
    runs, data = hostile
    title = "</title><script>window.hurt = 1</script>"
    path = save_report(runs, tmp_path / "page.html", data=data, target=HOSTILE[-1], title=title)
    page = path.read_text(encoding="utf-8")
    found = Tags()
    found.feed(page)
    assert [a.get("id") for tag, a in found.tags if tag == "script"] == ["state", None]
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert title in found.text and "window.hurt" not in re.findall('<script type="module">(.*)</script>', page, re.S)[0]
    assert in_page(page, "scenes")[0]["classes"] == list(HOSTILE)
    assert in_state(page)["target"] == HOSTILE[-1]


def test_a_choice_that_fails_or_is_refused_is_taken_back(runs, monkeypatch):
    explorer = explore(runs, images=1).wait()
    at = explorer.split, explorer.target_layer
    monkeypatch.setattr("prograd_viz.screen.shown_image", lambda clip, image: 1 / 0)
    explorer.split = "same"
    with pytest.raises(ZeroDivisionError): explorer.wait()
    assert (explorer.split, explorer.target_layer) == at and "failed" in explorer._work["text"]
    explorer.work.what = "something else"
    explorer.split = "same"
    assert (explorer.split, explorer.target_layer) == at
    assert explorer._work["text"].startswith("not now: something else")


def test_seeds_with_classes_of_their_own_have_images_of_their_own(clip):
    tasks = [few_shot("pocket", shots=1, seed=seed, classes=3, test_per_class=1) for seed in (1, 2)]
    sets = [train(clip, task, epochs=2, seed=n, views=0, progress=False) for n, task in enumerate(tasks, 1)]
    assert sets[0].classes != sets[1].classes
    explorer = explore(sets, images=1).wait()
    assert not explorer.compare
    assert [unpack(x)[0]["classes"] for x in explorer.scenes] == [list(r.classes) for r in sets]
    for n, runs in enumerate(sets):
        explorer.set = n
        assert explorer.runs is runs and explorer.data.classes == runs.classes
        assert set(explorer.table()["predicted"]) <= {*runs.classes}


def test_a_process_that_ends_while_images_are_prepared_ends_well(tmp_path):
    code = """from prograd_viz.clip import load_clip
from prograd_viz.explorer import explore
from prograd_viz.tasks import few_shot
from prograd_viz.training import train
task = few_shot("pocket", shots=1, classes=3, test_per_class=1)
explore(train(load_clip("pocket"), task, epochs=1, views=0, progress=False))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr  # from the first import on
