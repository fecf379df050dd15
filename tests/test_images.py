"Photographs and annotations are decoded by rules of their own: areas are right, or the ambiguous is refused."
from dataclasses import replace
from functools import partial
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from prograd_viz.cam import pick_images, shown_masks
from prograd_viz.data import Split, Task
from prograd_viz.datasets import dataset_split
from prograd_viz.images import (
    class_folders,
    exif_orientation,
    image_files,
    mask_of,
    open_image,
    open_mask,
    upright_mask,
)
from prograd_viz.maps import foreground
from prograd_viz.masks import box_mask, grabcut_mask, with_masks
from prograd_viz.plots import plot_maps
from prograd_viz.screen import explorer_data
from prograd_viz.tasks import toy_pets
from prograd_viz.training import train

ROWS, COLUMNS = np.mgrid[:80, :100]
DISC = (ROWS - 30) ** 2 + (COLUMNS - 40) ** 2 < 14.45**2  # 0.082 of the image
PHOTO = np.stack([ROWS * 2 + 40, COLUMNS * 2 + 30, 200 - ROWS], -1).astype(np.uint8)


def as_file(array, path, mode=None, palette=None, **options):
    image = Image.fromarray(array, mode) if mode else Image.fromarray(array)
    if palette is not None: image.putpalette([x for colour in palette for x in colour])
    image.save(path, **options)
    return path


def note(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


# -- annotations --------------------------------------------------------------

VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (64, 0, 0)]
ARRAYS = {  # name -> an array, saved as PNG, whose object is the disc
    "bool": DISC, "0 and 1": DISC.astype(np.uint8), "0 and 255": DISC * np.uint8(255),
    "ids of one byte": DISC * (1 + COLUMNS // 40).astype(np.uint8),
    "16-bit ids below 256": DISC * np.uint16(3), "16-bit ids": DISC * (300 + ROWS // 20).astype(np.uint16),
    "16-bit ids beyond half": DISC * np.where(COLUMNS < 40, 26001, 40002).astype(np.uint16),
    "16-bit levels": DISC * np.uint16(65535), "soft background": np.where(DISC, 252, 3).astype(np.uint8),
    "low alpha": np.dstack([PHOTO, np.where(DISC, 255, 2).astype(np.uint8)]),
    "cut-out": np.dstack([PHOTO, DISC * np.uint8(255)]), "colours": DISC[..., None] * np.uint8([0, 64, 128]),
    "grey cut-out": np.dstack([PHOTO[..., 0], DISC * np.uint8(255)]),
    "dark colours": DISC[..., None] * np.uint8([5, 0, 0]),
    "opaque black and white": np.dstack([DISC * np.uint8(255)] * 3 + [np.full(DISC.shape, 255, np.uint8)]),
    "white in three channels": np.dstack([DISC * np.uint8(255)] * 3),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_the_object_is_found_to_the_pixel(tmp_path, kind):
    path = as_file(ARRAYS[kind], tmp_path / "mask.png")
    assert np.array_equal(open_mask(path), DISC)
    with Image.open(path) as image: assert np.array_equal(open_mask(image), DISC)
    if ARRAYS[kind].ndim == 2 or ARRAYS[kind].shape[2] > 2: assert np.array_equal(open_mask(ARRAYS[kind]), DISC)


PALETTES = [(VOC, 1), (VOC, 3), ([(255, 255, 255), (200, 30, 30)], 1), ([(0, 0, 0), (255, 255, 255)], 1),
            ([(9, 9, 9), (1, 2, 3), (255, 0, 0)], 2)]


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("palette, index", PALETTES)
def test_a_palettes_index_counts_not_its_colour(tmp_path, palette, index):
    assert np.array_equal(open_mask(as_file(DISC * np.uint8(index), tmp_path / "mask.png", "P", palette)), DISC)
    assert np.array_equal(open_mask(as_file(DISC * np.uint8(index), tmp_path / "mask.gif", "P", palette)), DISC)


NUMBERS = [DISC * 0.99 + 0.01 * ~DISC, DISC * 1.0, DISC * 255.0, DISC * 7.0, np.where(DISC, 250.5, 2.5), DISC * 3,
           DISC * np.int64(100_000)]


@pytest.mark.parametrize("values", NUMBERS)
def test_numbers_of_any_type_are_read_by_the_same_rule(values):
    assert np.array_equal(open_mask(values), DISC)
    assert np.array_equal(open_mask(values.astype(values.dtype.newbyteorder(">"))), DISC)


def test_float_tiffs_are_read_as_fractions(tmp_path):
    assert np.array_equal(open_mask(as_file((DISC * 0.98 + 0.01).astype(np.float32), tmp_path / "mask.tif")), DISC)


@pytest.mark.parametrize("quality", [10, 40, 75, 95])
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_noise_of_a_format_that_loses_detail_is_no_object(tmp_path, quality, suffix):
    path = as_file(np.dstack([DISC * np.uint8(255)] * 3), tmp_path / f"mask.{suffix}", quality=quality)
    grey = np.asarray(Image.open(path).convert("L"))
    assert (grey > 0).mean() > 0.09 or quality == 95, "read as numbers, the noise around the object would count"
    assert abs(open_mask(path).mean() - DISC.mean()) < 0.002
    again = as_file(grey, tmp_path / "again.png")
    assert abs(open_mask(again).mean() - DISC.mean()) < 0.002, "and saved again without loss, the noise stays noise"


def test_soft_edges_are_cut_in_the_middle():
    fine = np.kron(DISC, np.ones((4, 4))) > 0
    soft = np.asarray(Image.fromarray(fine * np.uint8(255)).resize((100, 80), Image.Resampling.BILINEAR))
    assert len(np.unique(soft)) > 5 and np.array_equal(open_mask(soft), DISC)


AMBIGUOUS = {
    "an inverted palette": (
        lambda p: as_file(DISC.astype(np.uint8), p, "P", [(255, 255, 255), (0, 0, 0)]),
        "index 0 as \\(255, 255, 255\\) and index 1 as its black"),
    "a palette with black among colours": (
        lambda p: as_file(DISC.astype(np.uint8), p, "P", [(255, 0, 0), (0, 0, 0)]),
        "index 0 as \\(255, 0, 0\\)"),
    "numbers beside a white border": (
        lambda p: as_file(np.where(COLUMNS < 3, 255, DISC * 15).astype(np.uint8), p),
        "areas of 15 beside areas of 0 and of more than 127"),
    "black and white with transparency": (
        lambda p: as_file(np.dstack([DISC * np.uint8(255)] * 3 + [(COLUMNS < 90) * np.uint8(255)]), p),
        "both look like a mask"),
    "no image": (lambda p: p.write_bytes(b"hello") and p, "holds no image"),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_with_the_way_out(tmp_path, kind):
    write, says = AMBIGUOUS[kind]
    path = write(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=says) as e: open_mask(path)
    assert str(path) in str(e.value) and "boolean array" in str(e.value)


NO_MASKS = [(-1.0 * DISC, "negative"), (DISC * np.nan, "NaN"), (DISC * 300.5, "300.5"), (np.array([["a"]]), "numbers"),
            (np.zeros((2, 3, 4, 5)), "\\(2, 3, 4, 5\\)")]


@pytest.mark.parametrize("values, says", NO_MASKS)
def test_arrays_that_are_no_masks_are_refused(values, says):
    with pytest.raises(ValueError, match=says): open_mask(values)


@pytest.mark.parametrize("value, says", [(0, "marks nothing"), (2, "marks everything")])
def test_a_mask_of_nothing_or_of_everything_is_warned_of(tmp_path, value, says):
    split = Split([PHOTO], [0], ("a", "b"), [as_file(np.full(DISC.shape, value, np.uint8), tmp_path / "mask.png")])
    with pytest.warns(UserWarning, match=f"mask.png\\) {says} as object"): split.mask(0)


def test_a_photograph_as_its_own_mask_is_warned_of(tmp_path):
    photo = as_file(PHOTO, tmp_path / "photo.png")
    with pytest.warns(UserWarning, match="marks everything"): Split([photo], [0], ("a", "b"), [photo]).mask(0)


def test_a_cut_out_is_its_own_mask(tmp_path):
    path = as_file(ARRAYS["cut-out"], tmp_path / "dog.png")
    assert np.array_equal(Split([path], [0], ("a", "b"), [path]).mask(0), DISC)


# -- photographs --------------------------------------------------------------

@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_photographs_of_16_bits_keep_their_brightness(tmp_path, bits, suffix):
    values = (PHOTO[..., 0].astype(np.uint16) << (bits - 8)) + (2**(bits - 8) - 1)
    values[0, 0] = 2**bits - 1
    path = as_file(values, tmp_path / f"photo.{suffix}")
    if bits == 16: opened = open_image(path)
    else:
        with pytest.warns(UserWarning, match=f"it is read as {bits}-bit"): opened = open_image(path)
    assert np.array_equal(np.asarray(opened)[1:, :, 0], PHOTO[1:, :, 0]) and opened.mode == "RGB"


def test_colours_of_16_bits_that_would_be_black_are_refused(tmp_path):
    import cv2
    cv2.imwrite(str(tmp_path / "photo.png"), PHOTO.astype(np.uint16) * 8)  # PIL keeps the upper eight bits: 0 to 7
    with pytest.raises(ValueError, match="photo.png: it has 16 bits a channel"): open_image(tmp_path / "photo.png")
    cv2.imwrite(str(tmp_path / "whole.png"), PHOTO.astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(open_image(tmp_path / "whole.png")), PHOTO[..., ::-1])


# -- a mask on its photograph -------------------------------------------------

@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_stored_pixels_is_turned_with_its_photograph(tmp_path, orientation):
    photo = as_file(PHOTO, tmp_path / "photo.png", exif=note(orientation))
    noted = Image.open(as_file(DISC, tmp_path / "with note.png", exif=note(orientation)))
    upright = np.asarray(ImageOps.exif_transpose(noted))
    assert exif_orientation(photo) == orientation and np.array_equal(upright_mask(DISC, photo), upright)
    read = lambda mask: Split([photo], [0], ("a", "b"), [mask]).mask(0)
    assert np.array_equal(read(tmp_path / "with note.png"), upright), "its own note counts"
    assert np.array_equal(read(lambda: upright), upright), "a function gives the mask of the upright photograph"
    assert np.array_equal(read(partial(upright_mask, DISC, photo)), upright)
    bare = as_file(DISC, tmp_path / "mask.png")
    if orientation == 1 or orientation > 4:
        assert np.array_equal(read(bare), upright) and np.array_equal(read(DISC), upright)
        assert np.array_equal(read(np.ascontiguousarray(upright)), upright), "and one that was drawn upright stays"
    else:
        with pytest.raises(ValueError, match=f"orientation \\({orientation}\\).*upright_mask"): read(bare)


def test_a_square_photograph_that_is_turned_needs_a_word(tmp_path):
    photo = as_file(PHOTO[:, :80], tmp_path / "photo.jpg", exif=note(6))
    with pytest.raises(ValueError, match="photo.jpg is turned .* and the ndarray fits it turned or not"):
        mask_of(DISC[:, :80], photo)
    centred = np.zeros((80, 80), bool)
    centred[20:60, 20:60] = True
    assert np.array_equal(mask_of(centred, photo), centred), "where turning changes nothing, nothing needs to be known"


def test_a_photograph_in_memory_is_turned_as_well():
    out = BytesIO()
    Image.fromarray(PHOTO).save(out, "PNG", exif=note(8))
    assert np.array_equal(mask_of(DISC, Image.open(out)), np.rot90(DISC))


def test_annotations_of_the_data_sets_are_in_stored_pixels(tmp_path):
    root = toy_pets(tmp_path, per_class=6)
    split = dataset_split("oxford_pets", root, part="train")
    before, photo = split.mask(0), split.images[0]
    with Image.open(photo) as image: image.save(photo, exif=note(3))
    assert np.array_equal(split.mask(0), before[::-1, ::-1])
    assert box_mask(photo, (0, 0, 96, 10))[:10].all(), "boxes count on the upright photograph"
    assert grabcut_mask(photo).shape == open_image(photo).size[::-1]


# -- images without a mask among images with one ------------------------------

@pytest.fixture(scope="module")
def partly(clip, task):
    "Runs whose test set lacks the masks of its first and its fourth image"
    test = task.tests["same"]
    masks = [None if i in (0, 3) else mask for i, mask in enumerate(test.masks)]
    own = Task("partly", task.train, {"same": replace(test, masks=masks)})
    return train(clip, own, [0, 1], epochs=1, batch_size=8, views=0, progress=False)


def test_images_without_a_mask_are_left_out_of_the_foreground(partly, task):
    test = partly.task.tests["same"]
    assert test.masked == [i for i in range(len(test)) if i not in (0, 3)]
    table = foreground(partly, "same", images=10**6, random_directions=1).rows
    assert sorted(set(table["image"])) == test.masked and table["share"].notna().any()
    every = replace(partly, task=Task("whole", task.train, {"same": task.tests["same"]}))
    whole = foreground(every, "same", images=test.masked, random_directions=1).rows
    assert table.equals(whole), "and all others are as they would be without the gap"
    with pytest.raises(ValueError, match="image 3 .* has no mask"): foreground(partly, "same", images=[1, 3])
    assert pick_images(partly, "same", images=10**6)[1] == list(range(len(test)))


def test_pictures_say_where_there_is_no_mask(partly):
    assert not shown_masks(partly.clip, partly.task.tests["same"], [0]).any()
    texts = [ax.get_xlabel() for ax in plot_maps(partly, images=[0, 1]).axes]
    assert sum("no mask" in text for text in texts) == 1 and sum("of the image" in text for text in texts) == 1


def test_the_explorer_s_images_have_no_share_where_there_is_no_mask(partly):
    data = explorer_data(partly, "same", images=[0, 1])
    shares = [data.view(b, partly.text(1)).share for b in (0, 1)]
    assert np.isnan(shares[0]) and 0 <= shares[1] <= 1


def test_boxes_may_be_missing_too(task):
    test = task.tests["same"]
    boxes = with_masks(test, [None] + [(0, 0, 50, 60)] * (len(test) - 1))
    assert boxes.masked == list(range(1, len(test))) and boxes.mask(1).sum() == 3000


# -- folders ------------------------------------------------------------------

def test_files_that_a_machine_left_are_neither_classes_nor_images(tmp_path):
    left = ("__MACOSX", ".ipynb_checkpoints", "__pycache__", "@eaDir", ".git", "lost+found")
    for name in ("dog", "cat_2", *left): (tmp_path / name).mkdir()
    for name in ("b.JPG", "a.png", "._a.png", "Thumbs.db", "notes.txt", ".DS_Store"):
        (tmp_path / "dog" / name).write_bytes(b"x")
    (tmp_path / "dog" / "folder.png").mkdir()
    assert [p.name for p in class_folders(tmp_path)] == ["cat_2", "dog"]
    assert [p.name for p in image_files(tmp_path / "dog")] == ["a.png", "b.JPG"]


def test_features_do_not_depend_on_who_opened_the_photograph(clip, tmp_path):
    path = as_file(PHOTO, tmp_path / "photo.png")
    with Image.open(path) as image:
        features = [Split([x], [0], ("dog", "cat")).features(clip) for x in (path, image, PHOTO)]
    assert torch.equal(features[0], features[1]) and torch.equal(features[0], features[2])
