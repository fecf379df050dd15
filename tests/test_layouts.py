"""Data sets that ask about objects and backgrounds: read from fakes that are laid out file by file as published, their
masks compared pixel by pixel."""
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from fakes import FAKES, SIZE, imagenet_s, numbered, object_mask, picture, put
from prograd_viz.data import Task
from prograd_viz.datasets import DATASETS, dataset_split
from prograd_viz.tasks import few_shot

SIZES = (50, 300, 919)


@pytest.fixture
def written(tmp_path): return lambda name: (tmp_path, FAKES[name](tmp_path))


# -- ImageNet-S ---------------------------------------------------------------

@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("part", ["train", "test"])
def test_the_object_of_imagenet_s_is_what_has_the_number_of_its_class(written, size, part):
    root, truth = written(f"imagenet_s{size}")
    split = dataset_split(f"imagenet_s{size}", root, part=part, masks="own")
    assert split.images == [path for path, _, _ in truth[part]] and split.masks_from
    for i in range(len(split)):
        expected = object_mask(int(split.images[i].stem.split("_")[-1]))
        expected[:, 10] = False  # undecided; column 0 has another class, the rest none
        assert np.array_equal(split.mask(i), expected)


def test_class_numbers_above_255_are_read_from_both_channels(tmp_path):
    names = {f"n{i:08d}": f"thing {i}" for i in range(300)}
    imagenet_s(300, names)(tmp_path)
    split = dataset_split("imagenet_s300", tmp_path)
    expected = object_mask(0)
    expected[:, 10] = False
    for i in (0, 254, 255, 256, 299): assert np.array_equal(split.mask(i), expected)
    path = split.images[299]
    put(path.parents[2] / "validation-segmentation" / path.parent.name / f"{path.stem}.png",
        numbered(np.full(SIZE[::-1], 300 - 256)))  # the same red, another green
    with pytest.warns(UserWarning, match="marks nothing as object"): assert not split.mask(299).any()


def test_images_of_imagenet_s_are_a_task_with_masks(written):
    root, _ = written("imagenet_s50")
    task = few_shot("imagenet_s50", 2, 1, root=root)
    assert {image.parents[1].name for image in task.train.images} == {"train-semi"}
    assert {image.parents[1].name for image in task.tests["same"].images} == {"validation"}
    assert task.train.masked == list(range(6)) and task.train.mask(0).any()
    again = few_shot(task.settings["data"], 2, 1, root=task.settings["root"])
    assert again.train.images == task.train.images


def test_a_class_of_imagenet_s_without_a_folder_is_named(written):
    root, truth = written("imagenet_s50")
    gone = truth["test"][0][0].parent
    shutil.rmtree(gone)
    with pytest.raises(FileNotFoundError, match=f"{gone} does not exist; of [0-9]+ class folders 1 are missing"):
        dataset_split("imagenet_s50", root)


def test_a_missing_mask_and_missing_masks_are_named(written):
    root, _ = written("imagenet_s50")
    split, masks = dataset_split("imagenet_s50", root), root / "imagenet-s/ImageNetS50/validation-segmentation"
    path = masks / split.images[0].parent.name / f"{split.images[0].stem}.png"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"mask not found: {path}"): split.mask(0)
    shutil.rmtree(masks)
    assert dataset_split("imagenet_s50", root).masks is None
    says = f"{masks}, which does not exist; get it from https://github.com/LUSSeg"
    with pytest.raises(FileNotFoundError, match=says): dataset_split("imagenet_s50", root, masks="own")


# -- ImageNet-9 ---------------------------------------------------------------

@pytest.mark.parametrize("part, variant", [("test", "original"), ("mixed_same", "mixed_same"),
                                           ("shifted", "mixed_rand")])
def test_a_mixed_image_has_the_mask_of_its_foreground(written, part, variant):
    root, truth = written("imagenet9")
    split = dataset_split("imagenet9", root, part=part, masks="own")
    assert split.images == [path for path, _, _ in truth[part]]
    assert {image.parents[2].name for image in split.images} == {variant}
    assert split.classes[2] == "wheeled vehicle" and len(split) == 36
    for i in range(len(split)):
        number = int(split.images[i].stem.removeprefix("fg_").split("_")[1])
        assert np.array_equal(split.mask(i), object_mask(split.labels[i] + number))


def test_no_part_of_a_training_image_is_in_a_test_image(written):
    root, truth = written("imagenet9")
    task = few_shot("imagenet9", 1, 1, root=root)
    drawn = {image.stem for image in task.train.images}
    assert len(drawn) == 9 and list(task.tests) == ["same", "mixed_same", "shifted"] and task.usual_split == "shifted"
    expected = {"same": "test", "mixed_same": "mixed_same", "shifted": "shifted"}
    for name, part in expected.items():
        kept = [path for path, _, _ in truth[part] if not any(stem in path.stem for stem in drawn)]
        assert task.tests[name].images == kept and kept and task.tests[name].mask(0).any()


def test_a_missing_foreground_is_named_and_a_pickled_one_is_refused(written):
    root, _ = written("imagenet9")
    split = dataset_split("imagenet9", root, part="shifted")
    first, second = (root / "bg_challenge/fg_mask/val/00_dog" / f"n02000000_0000{i}.npy" for i in range(2))
    first.unlink()
    np.save(second, np.array([{}], object), allow_pickle=True)
    with pytest.raises(FileNotFoundError, match=f"mask not found: {first}"): split.mask(0)
    with pytest.raises(ValueError, match=f"cannot read mask {second}: Object arrays"): split.mask(1)
    second.write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match=f"cannot read mask {second}"): split.mask(1)


# -- CounterAnimal ------------------------------------------------------------

def test_counteranimal_has_common_and_rarer_backgrounds_in_the_order_of_its_numbers(written):
    root, truth = written("counteranimal")
    for part, kind in (("test", "common"), ("shifted", "counter")):
        split = dataset_split("counteranimal", root, part=part)
        assert split.classes == ("ostrich", "brambling", "ice bear") and split.masks is None
        assert [(p, y) for p, y in zip(split.images, split.labels)] == [(p, y) for p, y, _ in truth[part]]
        assert {image.parent.name.split("-")[0] for image in split.images} == {kind}


def test_a_task_of_counteranimal_learns_common_backgrounds_alone(written):
    root, truth = written("counteranimal")
    task = few_shot("counteranimal", 2, 1, root=root)
    common = {path for path, _, _ in truth["test"]}
    assert len(task.train) == 6 and task.usual_split == "shifted" and isinstance(task, Task)
    assert set(task.train.images) | set(task.tests["same"].images) == common
    assert not set(task.train.images) & set(task.tests["same"].images)
    assert task.tests["shifted"].images == [path for path, _, _ in truth["shifted"]]
    assert few_shot("counteranimal", 2, 2, root=root).train.images != task.train.images


def test_a_class_without_a_kind_of_background_is_named(written):
    root, _ = written("counteranimal")
    shutil.rmtree(root / "LAION-final/296 ice bear/counter-grass")
    with pytest.raises(FileNotFoundError, match="296 ice bear has no folder counter-..., such as counter-snow"):
        dataset_split("counteranimal", root)


@pytest.mark.parametrize("name, folder", [("counteranimal", "LAION-final/ice bear"), ("counteranimal", "LAION-final/7"),
                                          ("imagenet9", "bg_challenge/original/val/dog")])
def test_a_folder_that_is_no_class_is_named(written, name, folder):
    root, _ = written(name)
    put(root / folder / "common-snow" / "1.jpg", picture(1, "jpg"))
    with pytest.raises(ValueError, match=f"{folder} is not a class folder"): dataset_split(name, root)


# -- Pets, CUB, Waterbirds ----------------------------------------------------

def test_a_pixel_is_bird_where_three_of_five_annotators_say_so(written):
    root, _ = written("cub200")
    split = dataset_split("cub200", root)
    image = split.images[0]
    votes = np.repeat(np.uint8([0, 51, 102, 153, 204, 255]), 4)[None].repeat(18, 0)
    Image.fromarray(votes).save(root / "CUB_200_2011/segmentations" / image.parent.name / f"{image.stem}.png")
    assert np.array_equal(split.mask(0), votes >= 153) and split.mask(0).shape == SIZE[::-1]


def test_every_value_of_a_trimap_has_its_meaning(written):
    root, _ = written("oxford_pets")
    from fakes import ANNOTATIONS
    split = dataset_split("oxford_pets", root)
    ANNOTATIONS["oxford_pets"]([(image, 0, "") for image in split.images], root)
    split = dataset_split("oxford_pets", root)
    trimap = np.repeat(np.uint8([1, 2, 3]), 8)[None].repeat(18, 0)  # animal, background, undecided
    Image.fromarray(trimap).save(root / "oxford_pets/annotations/trimaps" / f"{split.images[0].stem}.png")
    assert np.array_equal(split.mask(0), trimap != 2)


def test_waterbirds_have_every_group_in_the_whole_test_set(written):
    root, _ = written("waterbirds")
    groups = dataset_split("waterbirds", root).groups
    assert set(groups) == {f"{bird} on {place}" for bird in ("landbird", "waterbird") for place in ("land", "water")}


def test_every_set_of_this_kind_is_described():
    for name in (*(f"imagenet_s{size}" for size in SIZES), "imagenet9"):
        assert DATASETS[name].mask_files and DATASETS[name].masks_from
        assert all(source.startswith("https://") for source in DATASETS[name].files.values())
