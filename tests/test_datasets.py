"""Data sets: read from their real layout, drawn as the published code draws, and whatever is missing or damaged is
named."""
import json
import math
import pickle
import random
import shutil
import struct
import warnings
import zlib
from collections import defaultdict
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

from fakes import ANNOTATIONS, COUNTS, FAKES, NEEDED, SIZE, object_mask, picture, put
from prograd_viz.data import Split, augmentation
from prograd_viz.datasets import COOP_BENCHMARK, DATASETS, IMAGENET_VARIANTS, base_and_new, dataset_split, group_table
from prograd_viz.images import open_image
from prograd_viz.masks import grabcut_mask, with_masks
from prograd_viz.prompts import make_prompts
from prograd_viz.tasks import TORCHVISION, few_shot, toy_pets

# a listing of folders knows no missing files
LISTINGS = {"imagenet9", "counteranimal", *(f"imagenet_s{size}" for size in (50, 300, 919))}
LEARNABLE = sorted(set(FAKES) - set(IMAGENET_VARIANTS) - LISTINGS)


@pytest.fixture(scope="session")
def fake(tmp_path_factory):
    "name -> (root, truth); each fake is written once"
    made = {}

    def make(name):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            truth = FAKES[name](root)
            if name in ANNOTATIONS: ANNOTATIONS[name]([item for part in truth.values() for item in part], root)
            made[name] = root, truth
        return made[name]

    return make


# -- reading ------------------------------------------------------------------

def test_the_fakes_cover_every_data_set():
    assert set(FAKES) | {"flowers102"} == set(DATASETS) and set(COOP_BENCHMARK) | set(IMAGENET_VARIANTS) < set(DATASETS)


def plain(name): return " ".join(name.replace("_", " ").split())


@pytest.mark.parametrize("name", sorted(FAKES))
def test_every_image_of_the_layout_is_read_with_its_class(fake, name):
    root, truth = fake(name)
    for part, items in truth.items():
        if not items: continue
        split = dataset_split(name, root, part=part)
        read = [(p, split.classes[y].strip("_")) for p, y in zip(split.images, split.labels)]
        assert read == [(p, plain(k)) for p, _, k in items]
        assert split.labels.tolist() == [y for _, y, _ in items] and split.image(0).size == SIZE


@pytest.mark.parametrize("name, gone", [(name, gone) for name, paths in NEEDED.items() for gone in paths])
def test_a_missing_file_is_named_with_its_path_and_source(fake, tmp_path, name, gone):
    shutil.copytree(fake(name)[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match="https?://") as e: dataset_split(name, tmp_path)
    assert str(tmp_path / gone.split("/")[0]) in str(e.value) and (str(path) in str(e.value) or gone == "stanford_cars")


@pytest.mark.parametrize("name", sorted(FAKES))
def test_a_corrupt_image_is_named_when_it_is_needed(fake, clip, tmp_path, name):
    truth = FAKES[name](tmp_path)
    part = "train" if truth["train"] else "test"
    path = truth[part][1][0]
    path.write_bytes(path.read_bytes()[:300])
    split = dataset_split(name, tmp_path, part=part)
    assert split.image(0).mode == "RGB"
    with pytest.raises(ValueError, match="cannot read image") as e: split.features(clip)
    assert str(path) in str(e.value)


@pytest.mark.parametrize("name", LEARNABLE)
def test_a_missing_training_image_is_named_before_training(tmp_path, name):
    truth = FAKES[name](tmp_path)
    for path, label, _ in truth["train"]:
        if label == 0: path.unlink()
    # a listing knows no missing files; the class must not be empty
    if name == "imagenet": put(truth["train"][0][0].parent / "other.JPEG", picture(0, "JPEG"))
    if name == "imagenet": assert any(p.name == "other.JPEG" for p in quiet_few_shot(name, 1, 1, tmp_path).train.images)
    else:
        with pytest.raises(FileNotFoundError, match="which does not exist"): quiet_few_shot(name, 1, 1, tmp_path)


@pytest.mark.parametrize("content, says", [("not json", "cannot read"), (json.dumps({"train": []}), "KeyError: 'val'"),
                                           (json.dumps({"train": [["a.jpg", 0, "cat"], ["b.jpg", 0, "dog"]], "val": [],
                                                        "test": []}), "both 'cat' and 'dog'"),
                                           (json.dumps({"train": [["a.jpg", 0, "cat"], ["b.jpg", 2, "dog"]], "val": [],
                                                        "test": []}), "none with label 1"),
                                                        (json.dumps({"train": [["a.jpg"]], "val": [], "test": []}),
                                                         "cannot read")])
def test_a_damaged_split_file_is_named(tmp_path, content, says):
    put(tmp_path / "oxford_pets" / "images" / "a.jpg",
        picture(0, "jpg")), put(tmp_path / "oxford_pets" / "split_zhou_OxfordPets.json", content)
    with pytest.raises(ValueError, match=says): few_shot("oxford_pets", 1, root=tmp_path)


def test_lists_that_contradict_each_other_are_named(tmp_path):
    FAKES["fgvc_aircraft"](tmp_path)
    put(tmp_path / "fgvc_aircraft" / "variants.txt", "707-320\n")
    with pytest.raises(ValueError, match="contradict each other"): few_shot("fgvc_aircraft", 1, root=tmp_path)


def test_a_name_that_occurs_twice_makes_two_classes_with_one_prompt(fake, clip):
    split = dataset_split("imagenetv2", fake("imagenetv2")[0])
    assert split.classes[2:4] == ("missile", "missile_")
    tokens = make_prompts(replace(clip, trained_ids=None), split.classes).tokens
    assert torch.equal(tokens[2], tokens[3])


def put_names(root, lines):
    "An ImageNetV2 of four classes with a file of class names"
    put(root / "imagenetv2" / "classnames.txt", lines)
    for i in range(4):
        put(root / "imagenetv2" / "imagenetv2-matched-frequency-format-val" / str(i) / "a.jpeg", picture(i, "JPEG"))


@pytest.mark.parametrize("between, mark", [(" ", ""), ("\t", ""), ("   ", "\ufeff")])
def test_class_names_may_be_separated_by_tabs(tmp_path, between, mark):
    names = ("tench", "great white shark", "missile", "missile")
    put_names(tmp_path, mark + "".join(f"n{i:08d}{between}{name}\n" for i, name in enumerate(names)))
    assert dataset_split("imagenetv2", tmp_path).classes == ("tench", "great white shark", "missile", "missile_")


def test_of_several_names_the_first_is_taken_and_it_is_said(tmp_path):
    put_names(tmp_path, "n0 tench, Tinca tinca\nn1 goldfish, Carassius auratus\nn2 great white shark\nn3 hen\n")
    with pytest.warns(UserWarning, match="several names for n0 .'tench, Tinca tinca'. and 1 more classes"):
        assert dataset_split("imagenetv2", tmp_path).classes == ("tench", "goldfish", "great white shark", "hen")


@pytest.mark.parametrize("lines, says", [("n0 tench\nn1\n", "line 2 of .*classnames.txt is 'n1'"),
                                         ("n0 a\nn1 b\nn0 c\n", "line 3 of .*classnames.txt repeats n0")])
def test_a_line_without_a_name_or_with_a_known_folder_is_named(tmp_path, lines, says):
    put_names(tmp_path, lines)
    with pytest.raises(ValueError, match=says): dataset_split("imagenetv2", tmp_path)


@pytest.mark.parametrize("name, file", [("fgvc_aircraft", "fgvc_aircraft/images_variant_train.txt"),
                                        ("cub200", "CUB_200_2011/image_class_labels.txt")])
def test_other_lists_with_half_a_line_are_named_too(tmp_path, name, file):
    FAKES[name](tmp_path)
    put(tmp_path / file, (tmp_path / file).read_text() + "0099\n")
    with pytest.raises(ValueError, match=f"line [0-9]+ of .*{file.split('/')[1]} is '0099'"):
        dataset_split(name, tmp_path)


def test_folders_that_a_machine_left_are_no_classes_of_imagenet(tmp_path):
    FAKES["imagenet"](tmp_path)
    for junk in ("__MACOSX", ".ipynb_checkpoints"):
        put(tmp_path / "imagenet" / "images" / "train" / junk / "a.JPEG", b"")
    folder = next((tmp_path / "imagenet" / "images" / "train").glob("n*"))
    for junk in ("._a.JPEG", "Thumbs.db"): put(folder / junk, b"")
    split = dataset_split("imagenet", tmp_path, part="train")
    assert all(split.image(i).mode == "RGB" for i in range(len(split))) and len(split.classes) == 5


def test_folders_that_are_numbers_are_counted_not_spelled(tmp_path):
    put(tmp_path / "imagenetv2" / "classnames.txt", "".join(f"n{i:08d} class {i}\n" for i in range(12)))
    for i in range(12):
        put(tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val" / str(i) / "a.jpeg", picture(i, "JPEG"))
    split = dataset_split("imagenetv2", tmp_path)
    read = [(p.parent.name, split.classes[y]) for p, y in zip(split.images, split.labels)]
    assert read == [(str(i), f"class {i}") for i in range(12)]


def test_the_root_may_come_from_the_environment(fake, monkeypatch):
    root, truth = fake("dtd")
    with pytest.raises(ValueError, match="PROGRAD_VIZ_DATA"): few_shot("dtd", 1)
    monkeypatch.setenv("PROGRAD_VIZ_DATA", str(root))
    assert len(few_shot("dtd", 1).train) == 5


# -- the published draw, restated ---------------------------------------------

def published(truth, shots, seed, subset):
    """The published few-shot data, from the description of the algorithm: one random stream, all classes, then the
    subset"""
    random.seed(seed)

    def draw(items, n):
        groups = defaultdict(list)
        for item in items: groups[item[1]].append(item)
        return [item for group in groups.values() for item in (random.sample(group, n) if len(group) >= n else group)]

    few = [draw(truth["train"], shots), draw(truth["val"], min(shots, 4)), truth["test"]]
    labels = sorted({y for _, y, _ in few[0]})
    middle = math.ceil(len(labels) / 2)
    kept = {"all": labels, "base": labels[:middle], "new": labels[middle:]}[subset]
    return [[(path, kept.index(y), plain(k)) for path, y, k in items if y in kept] for items in few]


def quiet_few_shot(name, shots, seed, root, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return few_shot(name, shots, seed, root=root, **options)


def items_of(split): return [(p, y, plain(split.classes[y])) for p, y in zip(split.images, split.labels.tolist())]


@pytest.mark.parametrize("name", COOP_BENCHMARK)
def test_few_shots_are_the_published_ones_for_all_seeds_shots_and_subsets(fake, name):
    root, truth = fake(name)
    before = random.getstate()
    for seed in (1, 2, 3):
        for shots in (1, 2, 4, 8, 16):
            for subset in ("all", "base", "new"):
                task = quiet_few_shot(name, shots, seed, root, subset=subset, val=True)
                ours = [items_of(task.train), items_of(task.tests["val"]), items_of(task.tests["same"])]
                random.setstate(before)
                assert ours == published(truth, shots, seed, subset), (seed, shots, subset)
                if subset == "base": assert items_of(task.tests["new"]) == published(truth, shots, seed, "new")[2]
    random.setstate(before)


def test_the_draw_leaves_pythons_own_random_alone(fake):
    before = random.getstate()
    quiet_few_shot("dtd", 4, 1, fake("dtd")[0])
    assert random.getstate() == before


def test_another_seed_draws_other_images(fake):
    root, _ = fake("dtd")
    assert quiet_few_shot("dtd", 2, 1, root).train.images != quiet_few_shot("dtd", 2, 2, root).train.images


def test_half_of_an_odd_number_of_classes_rounds_up_to_base():
    assert base_and_new([4, 3, 2, 1, 0, 0]) == {"base": [0, 1, 2], "new": [3, 4], "all": [0, 1, 2, 3, 4]}


class Bomb:
    def __reduce__(self): return (open, (str(Bomb.target), "w"))


def test_a_pickled_draw_is_named_and_never_opened(fake, tmp_path):
    shutil.copytree(fake("dtd")[0], tmp_path, dirs_exist_ok=True)
    Bomb.target = tmp_path / "opened"
    put(tmp_path / "dtd" / "split_fewshot" / "shot_2-seed_1.pkl", pickle.dumps(Bomb()))
    with pytest.warns(UserWarning, match="shot_2-seed_1.pkl"): task = few_shot("dtd", 2, 1, root=tmp_path)
    assert not Bomb.target.exists()
    assert [p.name for p in task.train.images] == [p.name
                                                   for p in few_shot("dtd", 2, 1, root=fake("dtd")[0]).train.images]


def test_seed_0_and_imagenet_say_what_cannot_be_had_again(fake):
    with pytest.warns(UserWarning, match="never applies seed 0"): few_shot("dtd", 1, 0, root=fake("dtd")[0])
    with pytest.warns(UserWarning, match="unsorted directory listing"):
        few_shot("imagenet", 1, 1, root=fake("imagenet")[0])


def test_an_explicit_list_decides_what_imagenet_draws_from(fake):
    root, truth = fake("imagenet")
    listed = [f"{p.parent.name}/{p.name}" for p, _, _ in truth["train"]][::-1]
    task = quiet_few_shot("imagenet", 2, 1, root, files=listed)
    assert items_of(task.train) == published(truth | {"train": truth["train"][::-1]}, 2, 1, "all")[0]
    with pytest.raises(ValueError, match="n0/none.JPEG"): quiet_few_shot("imagenet", 1, 1, root, files=["n0/none.JPEG"])


def test_a_file_in_two_parts_of_a_split_is_warned_of(fake, tmp_path):
    shutil.copytree(fake("dtd")[0], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "dtd" / "split_zhou_DescribableTextures.json"
    parts = json.loads(file.read_text())
    parts["test"] += parts["train"][:2]
    file.write_text(json.dumps(parts))
    with pytest.warns(UserWarning, match="is in train and in test, and 1 more files"): few_shot("dtd", 1, root=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few_shot("dtd", 1, root=fake("dtd")[0])


def test_an_explicit_list_names_each_image_once(fake):
    root, truth = fake("imagenet")
    path = truth["train"][0][0]
    listed = [f"{path.parent.name}/{path.name}"] * 2
    with pytest.raises(ValueError, match=f"{path.name}' more than once"):
        quiet_few_shot("imagenet", 1, 1, root, files=listed)


@pytest.mark.parametrize("name", IMAGENET_VARIANTS)
def test_a_test_set_is_no_task(fake, name):
    with pytest.raises(ValueError, match="is only a test set"): few_shot(name, 1, root=fake(name)[0])


def test_templates_are_the_published_ones():
    assert {k: DATASETS[k].template for k in COOP_BENCHMARK if DATASETS[k].template != "a photo of a {}."} == {
        "oxford_pets": "a type of pet, a photo of a {}.", "oxford_flowers": "a type of flower, a photo of a {}.",
        "fgvc_aircraft": "a type of aircraft, a photo of a {}.", "dtd": "a texture of {}.",
        "eurosat": "a centered satellite photo of {}.", "food101": "a type of food, a photo of {}.",
        "ucf101": "a photo of a person doing {}."}


# -- masks --------------------------------------------------------------------

@pytest.mark.parametrize("name", sorted(ANNOTATIONS))
def test_annotations_become_the_masks_they_were_drawn_from(fake, name):
    root, truth = fake(name)
    split, every = dataset_split(name, root, part="train",
                                 masks="own"), [item for part in truth.values() for item in part]
    for i in (0, 1, 2, 40):
        expected = object_mask(every.index(truth["train"][i]))
        if name == "oxford_pets": expected[:, 20] = True  # the border counts as animal
        wrong = (split.mask(i) != expected).sum()
        assert wrong == 0 if name != "oxford_flowers" else wrong < 0.15 * expected.sum(), ("a JPEG blurs the edge of a "
                                                                                           "flower")
    assert split.masks_from == DATASETS[name].masks_from


def test_birds_are_where_most_annotators_say(fake):
    for name in ("cub200", "waterbirds"):
        split = dataset_split(name, fake(name)[0], part="train")
        numbers = [int(p.stem.split("_")[-2]) for p in split.images]
        assert all(np.array_equal(split.mask(i), object_mask(n)) for i, n in enumerate(numbers))
        assert "segmentations" in split.masks_from


@pytest.mark.parametrize("name, folder", [("oxford_pets", "annotations"), ("oxford_flowers", "segmim"),
                                          ("caltech101", "Annotations")])
def test_without_annotations_there_are_no_masks_and_asking_for_them_names_the_path(fake, tmp_path, name, folder):
    shutil.copytree(fake(name)[0], tmp_path, dirs_exist_ok=True)
    gone = tmp_path / DATASETS[name].folder / folder
    shutil.rmtree(gone)
    split = dataset_split(name, tmp_path)
    assert split.masks is None and split.masks_from == ""
    with pytest.raises(FileNotFoundError, match=str(gone)): dataset_split(name, tmp_path, masks="own")


def test_one_missing_mask_is_named(fake, tmp_path):
    shutil.copytree(fake("oxford_pets")[0], tmp_path, dirs_exist_ok=True)
    split = dataset_split("oxford_pets", tmp_path)
    path = tmp_path / "oxford_pets" / "annotations" / "trimaps" / f"{split.images[0].stem}.png"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=str(path)): split.mask(0)


def test_masks_from_a_box_a_folder_and_grabcut_say_where_they_come_from(fake, tmp_path):
    split = dataset_split("dtd", fake("dtd")[0])
    boxes = with_masks(split, [(2, 3, 10, 12)] * len(split))
    assert boxes.mask(0).sum() == 8 * 9 and boxes.mask(0)[3:12, 2:10].all() and boxes.masks_from == "boxes"
    for image in split.images:
        put(tmp_path / image.parent.name / f"{image.stem}.png",
            (lambda out: (Image.fromarray(object_mask(1)).save(out, "PNG"), out.getvalue())[1])(BytesIO()))
    assert np.array_equal(with_masks(split, tmp_path).mask(1), object_mask(1))
    assert with_masks(split, tmp_path).masks_from == f"files in {tmp_path.name}"
    guessed = dataset_split("dtd", fake("dtd")[0], masks="grabcut")
    assert "guessed" in with_masks(split, "grabcut").masks_from == guessed.masks_from
    next(tmp_path.rglob("*.png")).unlink()
    with pytest.raises(FileNotFoundError, match="no mask for"): with_masks(split, tmp_path)


def test_all_splits_of_a_task_take_masks_at_once(fake):
    task = quiet_few_shot("dtd", 1, 1, fake("dtd")[0], subset="base")
    guessed = with_masks(task, "grabcut")
    assert {s.masks_from for s in (guessed.train,
                                   *guessed.tests.values())} == {"GrabCut from a centred box: guessed, not annotated"}
    assert guessed.train.images is task.train.images


def test_a_folder_with_some_masks_missing_says_so(tmp_path):
    for c in ("a", "b"):
        for i in range(3):
            put(tmp_path / c / f"{i}.png", picture(i, "png")), put(tmp_path / "masks" / c / f"{i}.png",
                                                                   picture(i, "png"))
    assert few_shot(tmp_path, 1).train.masks_from == f"files in {tmp_path.name}/masks"  # no machine's path in a picture
    (tmp_path / "masks" / "b" / "1.png").unlink()
    with pytest.warns(UserWarning, match="no mask for .*1.png and 0 more of 6 images"): task = few_shot(tmp_path, 1)
    splits = (task.train, task.tests["same"])
    assert sum(len(s.masked) for s in splits) == 5 and all(s.masks_from
                                                           for s in splits), "one mask is missing, five are there"
    bare = next(s for s in splits if len(s.masked) < len(s))
    with pytest.raises(ValueError, match="1.png\\) has no mask"): bare.mask(bare.masks.index(None))


def test_grabcut_finds_an_object_on_a_plain_ground():
    pixels = np.random.default_rng(0).integers(0, 60, (60, 80, 3)).astype(np.uint8)
    pixels[20:40, 30:55] += 150
    expected = np.zeros((60, 80), bool)
    expected[20:40, 30:55] = True
    assert np.array_equal(grabcut_mask(pixels), expected)
    assert np.array_equal(grabcut_mask(pixels, (25, 15, 60, 45)), expected)


def test_grabcut_is_the_same_whatever_was_drawn_before():
    "Its colour models start from a random clustering, which decides where there are many flat colours"
    import cv2
    pixels = np.random.default_rng(1).integers(0, 256, (8, 10, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    masks = []
    for seed in range(1, 7):
        cv2.setRNGSeed(seed)
        masks.append(grabcut_mask(pixels))
    assert all(np.array_equal(masks[0], m) for m in masks)
    assert len({_unseeded(cv2, pixels, seed).tobytes()
                for seed in range(1, 7)}) > 1, "the seed decides here, or this compares nothing"


def _unseeded(cv2, pixels, seed):
    "GrabCut as OpenCV does it after another seed"
    marks, (height, width) = np.zeros(pixels.shape[:2], np.uint8), pixels.shape[:2]
    box = [int(round(x)) for x in (width / 10, height / 10, width * 9 / 10, height * 9 / 10)]
    cv2.setRNGSeed(seed)
    cv2.grabCut(pixels, marks, (box[0], box[1], box[2] - box[0], box[3] - box[1]), np.zeros((1, 65)), np.zeros((1, 65)),
                5, cv2.GC_INIT_WITH_RECT)
    return (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)


def test_waterbirds_carry_their_groups(fake):
    root, _ = fake("waterbirds")
    task = quiet_few_shot("waterbirds", 2, 1, root)
    assert set(task.tests["same"].groups) == {"landbird on land", "waterbird on water"}
    assert set(task.tests["shifted"].groups) == {"landbird on water", "waterbird on land"}
    table = pd.read_csv(root / "waterbird_complete95_forest2water2" / "metadata.csv")
    test = table[table["split"] == 2]
    assert group_table(task)["shifted"].sum() == (test["y"] != test["place"]).sum()
    assert group_table(task)["same"].sum() == (test["y"] == test["place"]).sum()
    assert group_table(task).loc["waterbird on land", "shifted"] == ((test["y"] == 1) & (test["place"] == 0)).sum()


# -- images of every kind -----------------------------------------------------

GREY = np.linspace(0, 255, 20 * 30).reshape(20, 30).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)
KINDS = {  # name -> (how to make it, suffix, what its RGB must be, tolerance)
    "grey": (lambda: Image.fromarray(GREY), "png", np.repeat(GREY[..., None], 3, -1), 0),
    "one bit": (lambda: Image.fromarray(GREY > 127), "png", np.repeat((GREY[..., None] > 127) * np.uint8(255), 3, -1),
                0),
    "palette": (lambda: Image.fromarray(COLOUR).quantize(256), "png", COLOUR, 60),
    "palette with transparency": (lambda: Image.fromarray(COLOUR).quantize(256), "gif", COLOUR, 60),
    "alpha": (lambda: Image.fromarray(np.dstack([COLOUR, GREY])), "png", COLOUR, 0),
    "grey with alpha": (lambda: Image.fromarray(np.dstack([GREY, GREY[::-1]]), "LA"), "png",
                        np.repeat(GREY[..., None], 3, -1), 0),
    "print": (lambda: Image.fromarray(COLOUR).convert("CMYK"), "tif", COLOUR, 2),
    "print as JPEG": (lambda: Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).convert("CMYK"), "jpg",
                      np.full((20, 30, 3), 90, np.uint8), 4),
    "16 bit": (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), "png", np.repeat(GREY[..., None], 3, -1), 0),
    "16 bit TIFF": (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), "tif", np.repeat(GREY[..., None], 3, -1), 0),
    "webp": (lambda: Image.fromarray(COLOUR), "webp", COLOUR, 60),
    "bmp": (lambda: Image.fromarray(COLOUR), "bmp", COLOUR, 0),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_become_rgb(tmp_path, kind):
    make, suffix, expected, tolerance = KINDS[kind]
    path = tmp_path / f"image.{suffix}"
    make().save(path)
    opened = open_image(path)
    assert opened.mode == "RGB" and np.abs(np.asarray(opened).astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("orientation, turned",
                         [(2, lambda x: x[:, ::-1]), (3, lambda x: x[::-1, ::-1]), (4, lambda x: x[::-1]),
                          (6, lambda x: np.rot90(x, -1)), (8, lambda x: np.rot90(x, 1))])
def test_an_image_turned_by_its_exif_data_stands_upright(tmp_path, orientation, turned):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(COLOUR).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(np.asarray(open_image(tmp_path / "turned.png")), turned(COLOUR))
    with Image.open(tmp_path / "turned.png") as lazy:
        assert np.array_equal(np.asarray(open_image(lazy)), turned(COLOUR))


def make_refused(kind, path):
    Image.fromarray(COLOUR).save(path / "whole.png"), Image.fromarray(COLOUR).save(path / "whole.jpg")
    if kind == "truncated PNG": put(path / "x.png", (path / "whole.png").read_bytes()[:-40])
    if kind == "truncated JPEG": put(path / "x.png", (path / "whole.jpg").read_bytes()[:-100])
    if kind == "empty": put(path / "x.png", b"")
    if kind == "32 bit": Image.fromarray(GREY.astype(np.int32) * 1000).save(path / "x.png", "TIFF")
    if kind == "float": Image.fromarray(GREY.astype(np.float32)).save(path / "x.png", "TIFF")
    for name, width in (("enormous", 10_000), ("a bomb", 400_000)):
        if kind == name: put(path / "x.png", resized_header((path / "whole.png").read_bytes(), width, 9_000))


def resized_header(png, width, height):
    "A PNG that says it is larger than its data, with a valid check sum: what a bomb looks like before it is unpacked"
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind, says", [("truncated PNG", "cannot read"), ("truncated JPEG", "(?i)truncated"),
                                        ("empty", "holds no image"), ("32 bit", "32 bits a pixel"),
                                        ("float", "32 bits a pixel"),
                                        ("enormous", "10000 x 9000"), ("a bomb", "decompression bomb")])
def test_what_cannot_be_trusted_is_refused_by_name(tmp_path, kind, says):
    make_refused(kind, tmp_path)
    with pytest.raises(ValueError, match=says) as e: open_image(tmp_path / "x.png")
    assert str(tmp_path / "x.png") in str(e.value)


def test_an_image_is_read_whole_or_not_at_all_whatever_byte_is_lost(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "whole.jpg")
    content, read = (tmp_path / "whole.jpg").read_bytes(), 0
    for end in range(0, len(content), 29):
        put(tmp_path / "cut.jpg", content[:end])
        try: read += open_image(tmp_path / "cut.jpg").size == (30, 20)
        except ValueError as e: assert "cut.jpg" in str(e)
    assert read < 3


def test_other_images_never_inherit_the_features_of_those_they_replace(clip):
    draw = np.random.default_rng(0)
    split = Split([draw.integers(0, 255, (40, 50, 3)).astype(np.uint8) for _ in range(3)], [0, 1, 0], ("dog", "cat"))
    first, fewer = split.features(clip), replace(split, images=split.images[1:], labels=split.labels[1:])
    assert torch.allclose(fewer.features(clip), first[1:], atol=1e-5) and split.features(clip) is first


def test_features_in_batches_are_those_of_all_images_at_once(clip):
    draw = np.random.default_rng(0)
    split = Split([draw.integers(0, 255, (40, 50, 3)).astype(np.uint8) for _ in range(150)], [0] * 150, ("dog", "cat"))
    assert torch.equal(split.features(clip), clip.encode_image(split.tensor(clip)))
    torch.manual_seed(5)
    transform = augmentation(clip)
    assert torch.equal(split.view_features(clip, 1, 5)[0],
                       clip.encode_image(torch.stack([transform(split.image(i)) for i in range(150)])))


# -- tables, folders, torchvision ---------------------------------------------

def test_a_table_makes_a_task(fake, tmp_path):
    root, truth = fake("dtd")
    frame = pd.DataFrame([{"path": p.relative_to(root), "label": k, "group": f"g{y % 2}"}
                          for p, y, k in truth["train"]])
    task = few_shot(frame, 2, 1, root=root)
    assert len(task.train) == 10
    assert len(task.tests["same"]) == sum(COUNTS["train"]) - 10
    assert task.classes == tuple(sorted({k for _, _, k in truth["train"]}))
    assert set(task.train.images).isdisjoint(task.tests["same"].images)
    assert set(task.train.groups) == {"g0", "g1"}
    assert task.train.masks is None
    split = few_shot(frame.assign(split=["train", "test"] * (len(frame) // 2), mask=frame["path"]), 1, 1, root=root)
    assert len(split.tests["same"]) == len(frame) // 2 and split.train.masks_from and len(split.train) == 5
    ours = quiet_few_shot(frame, 4, 2, root).train
    random.seed(2)
    groups = defaultdict(list)
    for path, k in zip(frame["path"], frame["label"]): groups[k].append(root / path)
    assert ours.images == [p for g in groups.values() for p in (random.sample(g, 4) if len(g) >= 4 else g)]


def test_a_table_with_each_path_twice_counts_each_file_once(fake):
    root, truth = fake("dtd")
    frame = pd.DataFrame([{"path": p.relative_to(root), "label": k} for p, _, k in truth["train"]])
    once = quiet_few_shot(frame, 2, 1, root)
    spelled = frame.assign(path=["./" + str(p) for p in frame["path"]])
    for twice in (pd.concat([frame, frame]), pd.concat([frame, spelled], ignore_index=True)):
        with pytest.warns(UserWarning,
                          match=f"{len(frame)} of {2 * len(frame)} rows repeat the file of an earlier row"):
            task = few_shot(twice, 2, 1, root=root)
        assert task.train.images == once.train.images and task.tests["same"].images == once.tests["same"].images
        assert set(task.train.images).isdisjoint(task.tests["same"].images)


def test_a_copy_of_a_training_image_in_the_test_set_is_warned_of(tmp_path):
    for c in ("a", "b"):
        for i in range(3): put(tmp_path / c / f"{i}.png", picture(i + 3 * (c == "b"), "png"))
    for i in range(3): shutil.copy(tmp_path / "b" / f"{i}.png", tmp_path / "b" / f"{i} copy.png")
    with pytest.warns(UserWarning, match="is a copy of the training image .*, and [0-9] more test images"):
        few_shot(tmp_path, 1)
    frame = pd.DataFrame([{"path": p, "label": p.parent.name, "split": "test" if "copy" in p.stem else "train"}
                          for p in sorted(tmp_path.glob("*/*.png"))])
    with pytest.warns(UserWarning, match="0 copy.png is a copy of .*b/0.png, and 2 more"): few_shot(frame, 4)


def test_a_row_without_a_mask_takes_no_others_mask(fake):
    root, truth = fake("dtd")
    frame = pd.DataFrame([{"path": p.relative_to(root), "label": k, "mask": p.relative_to(root)}
                          for p, _, k in truth["train"]])
    frame.loc[[0, 3], "mask"] = [None, " "]
    with pytest.warns(UserWarning, match=f"2 of {len(frame)} rows have no mask"):
        task = few_shot(frame, 2, 1, root=root)
    assert len(task.train.masked) + len(task.tests["same"].masked) == len(frame) - 2
    assert {s.masks_from for s in (task.train, task.tests["same"])} == {"files named in the table"}


def test_rows_that_nobody_uses_are_said(fake):
    root, truth = fake("dtd")
    frame = pd.DataFrame([{"path": p.relative_to(root), "label": k, "split": s}
                          for (p, _, k), s in zip(truth["train"], ["train", "test", "val"] * 99)])
    with pytest.warns(UserWarning, match="rows with split 'val' are ignored"): few_shot(frame, 1, 1, root=root)
    lost = frame.assign(split=["test" if k == frame["label"].iloc[0] else "train" for k in frame["label"]])
    with pytest.warns(UserWarning, match=f"no training rows for {frame['label'].iloc[0]}: "):
        few_shot(lost, 1, 1, root=root)


def torchvision_fake(kind, root):
    "Three images of each of two classes in torchvision's layout"
    names = {"OxfordIIITPet": ("Abyssinian", "american_bulldog"), "RenderedSST2": ("negative", "positive"),
             "Imagenette": ("n01440764", "n02102040"), "FGVCAircraft": ("707-320", "A310"),
             "EuroSAT": ("AnnualCrop", "Forest")}.get(kind, ("apple_pie", "waffles"))
    places = {"OxfordIIITPet": "oxford-iiit-pet/images/{c}_{i}.jpg", "Flowers102": "flowers-102/jpg/image_{n:05d}.jpg",
              "Food101": "food-101/images/{c}/{i}.jpg", "DTD": "dtd/dtd/images/{c}/{c}_{i}.jpg",
              "FGVCAircraft": "fgvc-aircraft-2013b/data/images/{n}.jpg", "Country211": "country211/{part}/{c}/{i}.jpg",
              "RenderedSST2": "rendered-sst2/{part}/{c}/{i}.png", "Imagenette": "imagenette2/{part}/{c}/{i}.JPEG",
              "EuroSAT": "eurosat/2750/{c}/{i}.jpg"}
    items = [(part, c, i, 100 * (part == "test") + 10 * k + i) for part in ("train", "test")
             for k, c in enumerate(names) for i in range(1, 4) if kind != "EuroSAT" or part == "train"]
    for part, c, i, n in items:
        i = i if part == "train" else i + 50
        folder = "val" if kind == "Imagenette" and part == "test" else part
        place = places[kind].format(c=c, i=i, n=n, part=folder)
        put(root / place, picture(n, place.split(".")[-1]))
    of_pet = lambda c, i, n: f"{c}_{i} {names.index(c) + 1} 1 1"
    lists = {"OxfordIIITPet": ("oxford-iiit-pet/annotations/{part}.txt", of_pet),
             "DTD": ("dtd/dtd/labels/{part}1.txt", lambda c, i, n: f"{c}/{c}_{i}.jpg"),
             "FGVCAircraft": ("fgvc-aircraft-2013b/data/images_variant_{part}.txt", lambda c, i, n: f"{n} {c}")}
    if kind in lists:
        file, line = lists[kind]
        for part in ("train", "test"):
            mine = [line(c, i if part == "train" else i + 50, n) for p, c, i, n in items if p == part]
            for alias in (part, "trainval") if part == "train" else (part,):
                put(root / file.format(part=alias), "\n".join(mine) + "\n")
    if kind == "FGVCAircraft": put(root / "fgvc-aircraft-2013b/data/variants.txt", "\n".join(names) + "\n")
    if kind == "Food101":
        for part, extra in (("train", 0), ("test", 50)):
            put(root / f"food-101/meta/{part}.json",
                json.dumps({c: [f"{c}/{i + extra}" for i in range(1, 4)] for c in names}))
    return items


@pytest.mark.parametrize("kind", sorted(set(TORCHVISION) - {"Flowers102"}))
def test_what_torchvision_loads_makes_a_task(tmp_path, kind):
    torchvision_fake(kind, tmp_path)
    task = few_shot(f"torchvision:{kind}", 2, 1, root=tmp_path)
    assert len(task.classes) == 2
    assert len(task.train) == 4
    assert len(task.tests["same"]) == (2 if kind == "EuroSAT" else 6)
    assert all(s.image(i).size == SIZE for s in (task.train, *task.tests.values()) for i in range(len(s)))
    if kind == "EuroSAT":
        assert task.classes[0] == "Annual Crop Land" and task.template == "a centered satellite photo of {}."
    next(p for p in tmp_path.rglob("*") if p.is_file() and p == task.train.images[0]).write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot read image"): task.train.image(0)


def test_torchvisions_flowers_make_a_task_once_their_hashes_are_right(tmp_path, monkeypatch):
    from scipy.io import savemat
    torchvision_fake("Flowers102", tmp_path)
    folder = tmp_path / "flowers-102"
    images = sorted(int(p.stem.split("_")[1]) for p in (folder / "jpg").iterdir())
    labels = np.ones((1, max(images)), np.uint8)
    labels[0, [n - 1 for n in images if n // 10 % 10 == 1]] = 2
    savemat(folder / "imagelabels.mat", {"labels": labels})
    savemat(folder / "setid.mat", {"trnid": [[n for n in images if n < 100]], "valid": [[]],
                                   "tstid": [[n for n in images if n >= 100]]})
    with pytest.raises(OSError, match="Dataset not found or corrupted"):
        few_shot("torchvision:Flowers102", 2, root=tmp_path)
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
    with monkeypatch.context() as m:  # torchvision 0.21 knows no names
        m.delattr(torchvision.datasets.Flowers102, "classes", raising=False)
        with pytest.raises(ValueError, match="has no class names for Flowers102; install torchvision 0.22 or newer"):
            few_shot("torchvision:Flowers102", 2, root=tmp_path)
        m.setattr(torchvision.datasets.Flowers102, "classes", ["pink primrose", "hard-leaved pocket orchid"],
                  raising=False)
        task = few_shot("torchvision:Flowers102", 2, 1, root=tmp_path)
    assert task.classes == ("hard-leaved pocket orchid", "pink primrose") and len(task.tests["same"]) == 6


@pytest.mark.parametrize("kind", sorted(TORCHVISION))
def test_what_torchvision_cannot_find_is_named(tmp_path, kind):
    with pytest.raises(OSError, match=f"cannot load {kind} from {tmp_path}"):
        few_shot(f"torchvision:{kind}", 1, root=tmp_path)


def test_the_toy_has_the_layout_of_oxford_pets(tmp_path, fake):
    root = toy_pets(tmp_path, per_class=6)
    task = few_shot("oxford_pets", 2, 1, root=root)
    shape = lambda base: {"/".join(p.relative_to(base).parts[:-1]) for p in base.rglob("*") if p.is_file()}
    assert shape(root) == shape(fake("oxford_pets")[0]) and task.train.mask(0).any() and len(task.tests["same"]) == 8


# -- exact lists of others, mirrors, wrong places -----------------------------

def pets_in(root):
    FAKES["oxford_pets"](root)
    return dataset_split("oxford_pets", root, part="train")


@pytest.mark.parametrize("form", ["list", "csv", "jsonl", "others' paths"])
def test_an_exact_list_of_few_shots_is_used_in_its_order(tmp_path, form):
    train = pets_in(tmp_path)
    chosen = [str(train.images[i].relative_to(tmp_path / "oxford_pets" / "images")) for i in (40, 3, 17)]
    few = chosen
    if form == "csv":
        few = tmp_path / "few.csv"
        few.write_text("path,label\n" + "".join(f"{path},x\n" for path in chosen))
    if form == "jsonl":
        few = tmp_path / "few.jsonl"
        few.write_text("".join(json.dumps({"impath": f"/data/oxford_pets/images/{path}"}) + "\n" for path in chosen))
    if form == "others' paths": few = [f"/somebody/pets/{path}" for path in chosen]
    task = few_shot("oxford_pets", shots=1, seed=1, root=tmp_path, few=few)
    assert [path.name for path in task.train.images] == [Path(path).name for path in chosen]
    assert list(task.train.labels) == [train.labels[i] for i in (40, 3, 17)]
    assert len(task.tests["same"]) == 12


def test_a_list_with_an_unknown_image_or_without_paths_is_refused(tmp_path):
    pets_in(tmp_path)
    load = lambda few: few_shot("oxford_pets", shots=1, seed=1, root=tmp_path, few=few)
    with pytest.raises(ValueError, match="few= names 'nobody.jpg', which is no training image of 'oxford_pets'"):
        load(["nobody.jpg"])
    (tmp_path / "few.csv").write_text("file\nx.jpg\n")
    with pytest.raises(ValueError, match=r"few.csv has no column 'path', only \['file'\]"): load(tmp_path / "few.csv")
    with pytest.raises(FileNotFoundError, match="no file .*absent.csv; few= takes paths"): load(tmp_path / "absent.csv")


def test_a_missing_data_set_names_mirrors_that_nobody_tried(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mirrors: https://\S+kaggle.com/\S+, .*koorye/.*not tried by"):
        few_shot("stanford_cars", shots=1, root=tmp_path)


def test_a_data_set_one_folder_too_high_or_too_deep_is_recognised(tmp_path):
    pets_in(tmp_path / "deep" / "oxford_pets")
    with pytest.raises(FileNotFoundError, match="oxford_pets/oxford_pets contains it: move its content to .*oxford_"):
        few_shot("oxford_pets", shots=1, root=tmp_path / "deep")
    pets_in(tmp_path / "high")
    with pytest.raises(FileNotFoundError, match="high/oxford_pets contains it: give root='.*high'"):
        few_shot("oxford_pets", shots=1, root=tmp_path / "high" / "oxford_pets")
