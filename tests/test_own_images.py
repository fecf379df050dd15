"A folder of one's own images has no shifted backgrounds: everything falls back to the test set there is."
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from buffers import in_page, unpack
from prograd_viz import plots
from prograd_viz.clip import load_clip
from prograd_viz.data import Split
from prograd_viz.explorer import explore
from prograd_viz.masks import with_masks
from prograd_viz.plots import plot_accuracy, plot_maps
from prograd_viz.pocket import Scene, render
from prograd_viz.prompts import make_prompts
from prograd_viz.report import save_report
from prograd_viz.runs import load_runs
from prograd_viz.tasks import few_shot, folder_task, toy_pets
from prograd_viz.training import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("own") / "animals"
    for noun in ("dog", "cat"):
        (root / noun).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(render(Scene(noun, "sand", seed=i), noise=0.1)[0]).save(root / noun / f"{i}.png")
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
    assert len(plot_maps(runs, images=2).axes) == 2 * 4
    explorer = explore(runs, images=2)
    explorer.wait()
    assert explorer.split == "same" and unpack(explorer.scenes[0])[0]["splits"] == ["train", "same"]
    assert unpack(explorer.scenes[0])[0]["split"] == "same" and len(explorer.data) == 2
    page = save_report(runs, tmp_path / "report.html", images=2).read_text(encoding="utf-8")
    assert page.count("<img ") == 1, "two images and the cosine in one picture"
    assert "<th>same</th>" in page and "<th>shifted</th>" not in page and "<th>new</th>" not in page
    about, sent = in_page(page, "scenes")
    assert (about["split"], len(about["names"]), len(sent["areas"])) == ("same", 2, 2)


def test_a_map_without_a_mask_says_where_it_is_empty(clip, task, monkeypatch):
    bare = replace(task, tests={"same": replace(task.tests["same"], masks=None)})
    runs = train(clip, bare, [0, 1], epochs=1, views=0, progress=False)
    words = lambda: [ax.get_xlabel() for ax in plot_maps(runs, images=1).axes]
    assert not any("empty map" in word for word in words())
    compute = plots.cam_maps
    monkeypatch.setattr(plots, "cam_maps", lambda *args, **options: 0 * compute(*args, **options))
    assert sum("empty map" in word for word in words()) == 3


def test_without_a_test_set_the_training_images_are_shown_and_it_is_said(folder, clip):
    with pytest.warns(UserWarning, match="so there is no test set"): task = few_shot(folder, shots=4)
    assert task.usual_split == "train"
    assert len(plot_maps(train(clip, task, epochs=1, views=0, progress=False), images=2).axes) == 2 * 4


def test_few_images_are_named_by_class(folder):
    with pytest.warns(UserWarning, match="fewer than 9 images for cat, dog"): few_shot(folder, shots=9)


def test_opened_runs_are_those_of_memory(folder, clip, stored):
    opened = load_runs(stored, clip, few_shot(folder, shots=2))
    assert opened.clip is clip and np.array_equal(opened.contexts, load_runs(stored).contexts)


def test_columns_of_a_table_are_taken_by_position(clip, task):
    "A column of pandas keeps the labels of its rows, here of a shuffled table"
    test = task.tests["same"]
    rows = pd.DataFrame({"image": [test.image(i) for i in range(12)], "mask": [test.mask(i) for i in range(12)],
                         "label": test.labels[:12]}).sample(frac=1, random_state=0)[3:]
    split = Split(rows["image"], rows["label"], test.classes, rows["mask"])
    for i, row in enumerate(rows.itertuples()):
        assert split.image(i) == row.image and np.array_equal(split.mask(i), row.mask)
    by_list = Split([*rows["image"]], [*rows["label"]], test.classes)
    assert torch.equal(split.features(clip), by_list.features(clip))


def test_a_split_column_of_pandas_text_may_have_gaps(folder):
    table = pd.DataFrame({"path": [str(f) for f in sorted(folder.rglob("*.png"))]})
    table["label"] = [Path(p).parent.name for p in table["path"]]
    table["split"] = ["train", "test"] * (len(table) // 2) + ["train"] * (len(table) % 2)
    table.loc[1, "split"] = None
    for kind in ("object", "string"):
        found = few_shot(table.astype({"split": kind}), 1)
        assert len(found.tests["same"]) == (table["split"] == "test").sum()


# -- folders as they lie on a disk --------------------------------------------

def test_what_a_machine_left_in_a_folder_is_no_class(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "own")
    for junk in ("__MACOSX", ".ipynb_checkpoints"): shutil.copytree(folder / "dog", tmp_path / "own" / junk)
    (tmp_path / "own" / "cat" / "._0.png").write_bytes(b"Mac OS X")
    task, plain = few_shot(tmp_path / "own", 2), few_shot(folder, 2)
    assert task.classes == ("cat", "dog")
    assert [p.name for p in task.train.images] == [p.name for p in plain.train.images]


def test_one_classs_folder_and_a_flat_folder_say_what_to_give(folder, tmp_path):
    one = f"has 4 images but no folders; .*if it is one class of {folder}, pass that"
    with pytest.raises(ValueError, match=one): few_shot(folder / "dog", 2)
    shutil.copytree(folder / "dog", tmp_path / "alone" / "flat")
    flat = "has 4 images but no folders; .*a DataFrame with columns path and label"
    with pytest.raises(ValueError, match=flat): few_shot(tmp_path / "alone" / "flat", 2)


def test_folders_of_folders_point_inside_and_those_of_splits_never_to_the_test_images(folder, tmp_path):
    for part in ("mine", "yours", "train", "test"): shutil.copytree(folder, tmp_path / part)
    says = f"columns path, label and split .train or test., or {tmp_path / 'train'} alone"
    with pytest.raises(ValueError, match=says): few_shot(tmp_path, 2)
    for part in ("train", "test"): shutil.rmtree(tmp_path / part)
    says = f"such as {tmp_path / 'mine' / 'cat'}, hold some: pass {tmp_path / 'mine'} instead"
    with pytest.raises(ValueError, match=says): few_shot(tmp_path, 2)


def test_images_beside_the_folders_are_said_to_be_left_out(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "own")
    shutil.copy(folder / "dog" / "0.png", tmp_path / "own" / "cover.png")
    with pytest.warns(UserWarning, match="cover.png and 0 more images are in no class folder"):
        few_shot(tmp_path / "own", 2)


def test_two_images_never_share_a_mask(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "own")
    (tmp_path / "own" / "masks").mkdir()
    for i in range(4): shutil.copy(folder / "dog" / f"{i}.png", tmp_path / "own" / "masks")
    with pytest.raises(ValueError, match="0.png would be the mask of both .*cat/0.png and .*dog/0.png"):
        few_shot(tmp_path / "own", 2)


def test_masks_are_found_whatever_the_case_of_their_suffix(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "animals")
    for image in sorted(root.rglob("*.png")):
        mask = root / "masks" / image.parent.name / f"{image.stem}.PNG"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("1", Image.open(image).size, 1).save(mask, "PNG")
    assert len(few_shot(root, shots=2).tests["same"].masked) == 4


def test_a_folder_of_masks_that_fit_no_image_is_named(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "animals")
    (root / "masks").mkdir()
    Image.new("1", (8, 8)).save(root / "masks" / "0_mask.png")
    with pytest.warns(UserWarning, match="no mask for .*; name the files in .*masks as their images"):
        assert few_shot(root, shots=2).train.masks is None


def test_spaces_around_a_label_make_no_class(folder):
    files = sorted(folder.rglob("*.png"))
    labels = [f" {p.parent.name}" if p.stem == "1" else f"{p.parent.name}\n" for p in files]
    assert few_shot(pd.DataFrame({"path": files, "label": labels}), shots=2).classes == ("cat", "dog")


def test_the_home_folder_is_meant_by_its_sign(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(tmp_path)
    files = sorted(folder.rglob("*.png"))
    rows = pd.DataFrame({"path": [f"{p.parent.name}/{p.name}" for p in files], "label": [p.parent.name for p in files]})
    task = few_shot(rows, shots=2, root=f"~/{folder.name}")
    assert task.train.image(0).size and folder_task(f"~/{folder.name}", 2).classes == task.classes
    assert with_masks(task, f"~/{folder.name}", "drawn").train.masks == task.train.images
    assert toy_pets("~/toy", per_class=6).is_relative_to(folder.parent) and not list(tmp_path.iterdir())
    save_file(load_clip("ViT-S-32-alt", "random").model.state_dict(), folder.parent / "w.safetensors")
    there = load_clip("ViT-S-32-alt", "~/w.safetensors", quick_gelu=False)
    assert there.pretrained == str(folder.parent / "w.safetensors")


def test_a_home_folder_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert few_shot(f"~/{folder.name}", 2).classes == ("cat", "dog")


# -- test sets of any name ----------------------------------------------------

def test_a_test_set_of_any_name_has_its_column(folder, clip, tmp_path):
    task = few_shot(folder, shots=2)
    own = replace(task, tests={"val": task.tests["same"], "my phone": task.train})
    runs = train(clip, own, epochs=2, views=0, progress=False, out=tmp_path / "runs")
    stored = load_runs(tmp_path / "runs", clip, own)
    for r in (runs, stored):
        assert r.tested == ["val", "my phone"]
        assert r.final()["acc_val"].between(0, 1).all() and (r.final()["acc_my phone"] == r.final()["acc_train"]).all()
    assert [ax.get_title() for ax in plot_accuracy(runs).axes] == ["val", "my phone"]
    save_report(stored, tmp_path / "report.html", images=2)
    explorer = explore(stored, images=2)
    explorer.wait()
    assert unpack(explorer.scenes[0])[0]["splits"] == ["train", "val", "my phone"]
    assert unpack(explorer._runs)[0]["sets"][0]["tested"] == ["val", "my phone"]


# -- classes that are one prompt ----------------------------------------------

ONE_PROMPT = [("dog", "Dog"), ("hot dog", "hot_dog"), ("missile", "missile_"), ("a&amp;b", "a&b"), ("dog", "dog "),
              ("big  dog", "big dog")]


@pytest.mark.parametrize("pair", ONE_PROMPT)
def test_names_that_are_one_prompt_are_named(clip, pair):
    whole = replace(clip, trained_ids=None)
    with pytest.warns(UserWarning, match=re.escape(f"{pair[0]!r} and {pair[1]!r} have the same tokens")):
        make_prompts(whole, [pair[0], "cat", pair[1]])


def test_names_that_differ_for_the_model_are_not_warned_of(clip):
    whole = replace(clip, trained_ids=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_prompts(whole, ["dog", "dogs", "hot dog", "hot-dog", "a&b"])


def test_many_pairs_are_counted(clip):
    names = ["dog", "cat", "owl", "bee", "cow"]
    with pytest.warns(UserWarning, match=r"'owl' and 'OWL' \(and 2 more pairs\)"):
        make_prompts(replace(clip, trained_ids=None), [*names, *(n.upper() for n in names)])
