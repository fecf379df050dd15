"What the caller did before a call, or is in the middle of, changes no number and ends in no raw error."
import gc
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from prograd_viz.cam import cam_operator
from prograd_viz.clip import load_clip
from prograd_viz.data import Split, Task
from prograd_viz.explorer import explore
from prograd_viz.faithful import map_scores
from prograd_viz.images import open_image, open_mask
from prograd_viz.maps import cam_maps, foreground, run_maps
from prograd_viz.masks import box_mask, with_masks
from prograd_viz.plots import plot_maps
from prograd_viz.prompts import make_prompts, teacher_features
from prograd_viz.report import save_report
from prograd_viz.runs import load_runs, run_name
from prograd_viz.screen import explorer_data
from prograd_viz.tasks import few_shot, toy_pets
from prograd_viz.training import train


@pytest.mark.parametrize("encoded", [False, True])
def test_a_task_travels_to_another_process(clip, bare, encoded):
    if encoded: bare.train.features(clip)
    there = pickle.loads(pickle.dumps(bare))
    assert torch.equal(there.train.features(clip), bare.train.features(clip))
    assert there.train.fingerprint() == bare.train.fingerprint()


@pytest.mark.parametrize("cached", [False, True])
def test_weights_that_were_changed_in_place_give_new_features(bare, tmp_path, cached):
    clip = load_clip("pocket", cache=tmp_path if cached else None)
    before, name = bare.train.features(clip), clip.image_fingerprint
    with torch.no_grad():
        for weight in clip.model.visual.parameters(): weight.mul_(1.1)
    after = bare.train.features(clip)
    assert clip.image_fingerprint != name and not torch.allclose(before, after, atol=0.1)
    assert torch.equal(after, clip.encode_image(bare.train.tensor(clip)))


def test_a_model_with_another_preprocessing_has_another_fingerprint(clip):
    assert clip.image_fingerprint == clip.image_fingerprint, "remembered"
    other = replace(clip, preprocess=lambda image: clip.preprocess(image) + 1)
    assert other.image_fingerprint != clip.image_fingerprint


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_maps_are_the_same_in_every_mode_of_autograd(clip, bare, mode):
    images, text = bare.train.tensor(clip)[:2], clip.encode_text(["a photo of a dog."])
    calls = [lambda: cam_maps(clip, images, text), lambda: cam_operator(clip, images).maps(text),
             lambda: cam_maps(clip, images, text, explainer="HiResCAM")]
    usual = [call() for call in calls]
    with mode():
        images, text = bare.train.tensor(clip)[:2], clip.encode_text(["a photo of a dog."])
        for call, expected in zip(calls, usual): assert torch.allclose(call(), expected)


def test_what_is_loaded_and_encoded_in_inference_mode_can_be_trained_with(bare):
    with torch.inference_mode():
        clip = load_clip("pocket")
        features = bare.train.features(clip)
    assert not features.is_inference()
    runs = train(clip, bare, epochs=1, views=0, progress=False)
    assert np.isfinite(runs.contexts).all() and np.isfinite(foreground(runs, "train", images=2).rows["area"]).all()


def test_a_global_dtype_changes_neither_model_nor_start(clip, bare):
    usual = make_prompts(clip, bare.classes, init="random").start
    torch.set_default_dtype(torch.float64)
    try:
        again = load_clip("pocket")
        start = make_prompts(again, bare.classes, init="random").start
    finally: torch.set_default_dtype(torch.float32)
    assert again.fingerprint() == clip.fingerprint() and torch.equal(start, usual)


@pytest.mark.parametrize("precision", ["fp64", "bf16", "fp16", "amp_bf16"])
def test_maps_are_scored_in_every_precision(clip, bare, precision):
    other, tables = load_clip("pocket", precision=precision), []
    maps = torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(0))
    for model in (clip, other):
        text = model.encode_text([f"a photo of a {c}." for c in bare.classes])
        tables.append(map_scores(model, bare.train.tensor(model)[:1], maps, text, [0], percentiles=[80]))
    assert np.allclose(*tables, atol=1e-4 if precision == "fp64" else 0.1)


def test_a_map_that_ranks_nothing_has_no_score(clip, bare):
    images, text = bare.train.tensor(clip)[:3], clip.encode_text(["a photo of a dog.", "a photo of a cat."])
    ranked = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
    maps = torch.stack([torch.zeros(7, 7), ranked, torch.full((7, 7), torch.nan)])
    table = map_scores(clip, images, maps, text, [0, 1, 0], columns=["deletion", "insertion"])
    assert table.isna().all(axis=1).tolist() == [True, False, True]


def test_groups_may_be_numbers_and_must_not_hide_a_column():
    images = [np.zeros((8, 8, 3), np.uint8)] * 2
    assert Split(images, [0, 1], ("a", "b"), groups=[0, np.int64(1)]).groups == ["0", "1"]
    with pytest.raises(ValueError, match="a group must not be called 'worst'"):
        Split(images, [0, 1], ("a", "b"), groups=["worst", "best"])


def test_labels_are_one_whole_number_per_image():
    images = [np.zeros((8, 8, 3), np.uint8)] * 2
    for labels in ([[0], [1]], 0):
        with pytest.raises(ValueError, match="labels must be one whole number per image"):
            Split(images, labels, ("a", "b"))
    for labels in (["0", "1"], [None, 1], [np.nan, 1.0], [0.5, 1], [np.inf, 1]):
        with pytest.raises(ValueError, match="labels must be whole numbers, got"): Split(images, labels, ("a", "b"))
    for labels in ([True, False], np.array([1, 0], object), torch.tensor([1.0, 0.0])):
        assert Split(images, labels, ("a", "b")).labels.tolist() == [1, 0]


def test_class_names_may_come_in_any_sequence(clip, bare):
    listed = Split(bare.train.images, bare.train.labels, list(bare.classes))
    task = Task("listed", listed, {"same": Split(bare.train.images, bare.train.labels, np.array(bare.classes))})
    assert task.usual_split == "same" and task.tests["same"].classes == bare.classes
    runs = train(clip, task, epochs=1, views=0, progress=False)
    assert runs.zero_shot_accuracy["same"] == runs.zero_shot_accuracy["train"]


@pytest.mark.parametrize("template", ["a {photo} of {}", "a {0} {}", "a photo, {, of {}"])
def test_braces_of_a_template_are_shown_as_they_are(clip, template):
    anything = replace(clip, trained_ids=None)
    texts = [template.replace("{}", name) for name in ("cat", "dog")]
    found = teacher_features(anything, ["cat", "dog"], template)
    assert torch.allclose(found, anything.encode_text(texts), atol=1e-6)


NO_IMAGES = [(torch.zeros(3, 8, 8), "Tensor"), (None, "NoneType"), (float("nan"), "float"), (b"\xff", "bytes")]


@pytest.mark.parametrize("source, kind", NO_IMAGES)
def test_what_is_neither_array_nor_image_nor_path_is_named_by_its_kind(source, kind):
    with pytest.raises(ValueError, match=f"an image must be an array, a PIL image or a path, got {kind}$"):
        open_image(source)
    with pytest.raises(ValueError, match=f"a mask must be an array, a PIL image or a path, got {kind}$"):
        open_mask(source)


def test_boxes_are_whole_pixels_one_for_each_image(bare):
    picture = np.zeros((10, 20, 3), np.uint8)
    assert [box_mask(picture, (x, 0, x + 2, 1)).any(0).argmax() for x in (0.4, 0.5, 1.5, 2.5)] == [0, 1, 2, 3]
    assert all(box_mask(picture, (x, 0, x + 2, 1)).sum() == 2 for x in (0.5, 1.5, 2.5))
    with pytest.raises(ValueError, match="multiply fractions by the image's width and height"):
        box_mask(picture, (0.1, 0.2, 0.8, 0.9))
    few = Split([picture] * 2, [0, 1], ("a", "b"))
    with pytest.raises(ValueError, match="2 images but 3 masks"): with_masks(few, [(0, 0, 5, 5)] * 3)
    with pytest.raises(ValueError, match="masks_from is required"):
        with_masks(few, [(0, 0, 5, 5), np.ones((10, 20), bool)])
    mixed = with_masks(few, [(0, 0, 5, 5), np.ones((10, 20), bool)], "a box and a drawing")
    assert [mixed.mask(i).sum() for i in (0, 1)] == [25, 200]
    assert with_masks(few, torch.tensor([[0, 0, 5, 5]] * 2)).mask(1).sum() == 25


def test_a_change_of_the_working_directory_loses_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_pets("data", per_class=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tasks = [few_shot("oxford_pets", 1, root="data"), few_shot(sorted_pets("data/oxford_pets"), 1)]
        rows = pd.DataFrame({"path": ["cat_1.jpg", "dog_1.jpg"], "label": ["cat", "dog"]})
        named = few_shot(rows, 1, root="data/oxford_pets/images")
    clip = load_clip("pocket", cache="features")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    for task in (*tasks, named): assert task.train.features(clip).isfinite().all()
    assert tasks[0].train.mask(0).any()
    assert list((tmp_path / "features").iterdir()) and not list((tmp_path / "elsewhere").iterdir())


def sorted_pets(folder):
    "Copies of the toy's images in a folder per class"
    for image in Path(folder, "images").iterdir():
        place = Path(folder, "sorted", image.stem.split("_")[0])
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, place)
    return place.parent


def test_a_split_without_images_or_masks_is_named(clip, bare):
    empty, blind = Split([], [], bare.classes), replace(bare.train, masks=[None] * len(bare.train), masks_from="nobody")
    task = Task("gaps", bare.train, {"new": empty, "blind": blind})
    runs = train(clip, task, epochs=1, views=0, progress=False)
    for call in (lambda: foreground(runs, "new"), lambda: run_maps(runs, "new"), lambda: plot_maps(runs, split="new")):
        with pytest.raises(ValueError, match="the split 'new' has no images; name another"): call()
    with pytest.raises(ValueError, match="the split 'blind' has no images with a mask"): foreground(runs, "blind")
    with pytest.raises(ValueError, match="no images given"): foreground(runs, "train", images=[])
    for call in (lambda: empty.features(clip), lambda: empty.view_features(clip, 2, 1)):
        with pytest.raises(ValueError, match="there are no images to encode"): call()


def test_a_training_in_inference_mode_is_the_same_training(clip, bare):
    options = {"epochs": 1, "views": 0, "progress": False}
    outside = train(clip, bare, **options)
    with torch.inference_mode(): inside = train(clip, bare, **options)
    assert np.array_equal(inside.contexts, outside.contexts) and np.ptp(inside.contexts[:, 1]) > 0


def test_runs_on_disk_travel_and_answer_as_those_in_memory_do(clip, bare, tmp_path):
    options = {"epochs": 2, "views": 0, "progress": False}
    memory, disk = train(clip, bare, **options), train(clip, bare, out=tmp_path / "runs", **options)
    there = pickle.loads(pickle.dumps(load_runs(tmp_path / "runs")))
    assert np.array_equal(there.contexts, memory.contexts) and there.steps["loss_ce"].equals(memory.steps["loss_ce"])
    for ask in (lambda x: x.mean(), lambda x: x.astype(float).sum(), lambda x: x.copy().max(), lambda x: x.tobytes()):
        assert ask(disk.contexts) == ask(memory.contexts)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        runs = load_runs(tmp_path / "runs")
        assert runs.text(0.0).shape == memory.text(0.0).shape
        del runs
        gc.collect()
    assert not [w for w in said if w.category is ResourceWarning], "every file that was opened is closed"


def test_a_row_without_a_group_is_named(tmp_path):
    toy_pets(tmp_path, per_class=6)
    rows = pd.DataFrame({"path": ["cat_1.jpg", "dog_1.jpg"], "label": ["cat", "dog"], "group": ["lawn", None]})
    with pytest.raises(ValueError, match="the column 'group' has an empty cell in row 1"):
        few_shot(rows, 1, root=tmp_path / "oxford_pets/images")


def test_a_tilde_is_the_home_folder_wherever_something_is_written(clip, bare, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    runs = train(clip, bare, epochs=1, views=0, progress=False)
    save_report(runs, "~/page.html", images=1)
    runs.export("~/tables")
    explorer_data(runs, images=1).save("~/data.safetensors")
    explore(runs, images=1).save("~/seen")
    written = {path.name for path in tmp_path.iterdir()}
    assert {"page.html", "tables", "data.safetensors", "seen.pdf", "seen.png", "seen.csv"} <= written


def test_a_method_of_ones_own_is_no_formula_in_a_legend():
    assert run_name("a$b$c", None, "math") == r"a\$b\$c" and run_name("a$b$c", None) == "a$b$c"
