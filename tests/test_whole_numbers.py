"A check returns the value to use: whole numbers of other types work everywhere, and give what the int gives."
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

from prograd_viz.cam import pick_images
from prograd_viz.checks import check_draw, check_in_range, check_seed, check_whole
from prograd_viz.data import few_shot_sample
from prograd_viz.datasets import published_draw
from prograd_viz.evaluate import calibration
from prograd_viz.faithful import composites, map_scores
from prograd_viz.maps import cam_maps
from prograd_viz.pocket import Scene, contact_sheet, random_scenes, render
from prograd_viz.prompts import make_prompts
from prograd_viz.protocols import _cells
from prograd_viz.tasks import few_shot, pocket_task, table_task, toy_pets
from prograd_viz.training import train
from prograd_viz.words import nearest_tokens

WHOLE = [4, 4.0, np.int64(4), np.uint8(4), np.float32(4), np.array(4), torch.tensor(4), Fraction(4)]
BEYOND = 2**53 + 1  # the first whole number that a float cannot hold


@pytest.mark.parametrize("value", WHOLE, ids=lambda x: type(x).__name__)
def test_whole_numbers_of_every_type_become_the_int(value):
    for found in (check_whole("count", value), check_seed(value), check_draw(value, 1)[0], check_draw(1, value)[1]):
        assert type(found) is int and found == 4


@pytest.mark.parametrize("value", [BEYOND, np.int64(BEYOND), np.uint64(2**64 - 1), 2**64 - 1, 10**17 + 1])
def test_large_whole_numbers_do_not_pass_through_a_float(value): assert check_seed(value) == int(value)


def test_the_ends_of_a_range_are_compared_exactly():
    assert check_whole("count", BEYOND, BEYOND, BEYOND) == BEYOND
    with pytest.raises(ValueError, match=f"count must be {BEYOND}, got {BEYOND - 1}"):
        check_whole("count", BEYOND - 1, BEYOND, BEYOND)
    assert check_in_range("width", np.float32(0.5), 0, 1) == 0.5


NO_COUNT = [2.5, "4", None, np.nan, np.inf, -np.inf, [4], np.array([4, 5]), 4 + 1j, 0, -1, 10**400]


@pytest.mark.parametrize("value", NO_COUNT)
def test_what_is_no_whole_number_in_range_is_refused(value):
    with pytest.raises(ValueError, match="count must be"): check_whole("count", value, 1, 100)


@pytest.mark.parametrize("seed", [2**64, 2**64 + 1, 2.0**64, 10**30, -1])
@pytest.mark.parametrize("call", [
    check_seed, lambda s: few_shot(seed=s), lambda s: pocket_task(1, s), lambda s: few_shot_sample([0, 1], 1, s),
    lambda s: published_draw([0, 1], [], 1, s), lambda s: random_scenes(2, s), lambda s: Scene("dog", "sand", seed=s),
], ids="check_seed few_shot pocket_task few_shot_sample published_draw random_scenes Scene".split())
def test_a_seed_beyond_64_bits_is_refused_with_its_range(call, seed):
    with pytest.raises(ValueError, match="seed must be between 0 and 18446744073709551615, got"): call(seed)


def test_a_seed_beyond_64_bits_is_refused_where_views_and_contexts_are_drawn(clip, bare):
    with pytest.raises(ValueError, match="seed must be between"): bare.train.view_features(clip, 1, 2**64)
    with pytest.raises(ValueError, match="seed must be between"):
        make_prompts(clip, ("dog", "cat"), init="random", seed=2**64)
    given = clip, bare.train.tensor(clip, [0]), torch.rand(1, 4, 4), clip.encode_text(["dog", "cat"]), [0]
    with pytest.raises(ValueError, match="seed must be between"): map_scores(*given, seed=2**64)


def same_tasks(a, b):
    assert a.settings == b.settings and [type(x) for x in a.settings.values()] == [type(x) for x in b.settings.values()]
    assert a.train.fingerprint() == b.train.fingerprint()
    assert {k: s.fingerprint() for k, s in a.tests.items()} == {k: s.fingerprint() for k, s in b.tests.items()}


def test_tasks_of_other_number_types_are_the_tasks_of_ints(tmp_path):
    sizes = {"classes": 3, "test_per_class": 2, "px": 48}
    others = {k: np.float64(v) for k, v in sizes.items()}
    same_tasks(few_shot("pocket", 2, 3, **sizes), few_shot("pocket", 2.0, np.int64(3), **others))
    same_tasks(pocket_task(2, 3, **sizes), pocket_task(np.int32(2), 3.0, **others))
    root = toy_pets(tmp_path, ("cat", "dog"), 6.0, np.int64(48))
    same_tasks(few_shot("oxford_pets", 2, 3, root=root), few_shot("oxford_pets", 2.0, np.int64(3), root=root))
    labels = ["cat"] * 4 + ["dog"] * 4
    table = pd.DataFrame({"path": [f"{label}_{i % 4 + 1}.jpg" for i, label in enumerate(labels)], "label": labels})
    images = root / "oxford_pets" / "images"
    same_tasks(table_task(table, 2, 3, root=images), table_task(table, 2.0, np.int64(3), root=images))


def test_draws_of_other_number_types_are_the_draws_of_ints():
    labels = [0, 1] * 8
    assert few_shot_sample(labels, 3, 5) == few_shot_sample(labels, 3.0, np.int64(5))
    assert published_draw(labels, labels, 3, 5) == published_draw(labels, labels, np.int64(3), 5.0)
    assert random_scenes(3, 5) == random_scenes(3.0, np.int64(5))
    a, b = render(Scene("dog", "sand", seed=5), 48), render(Scene("dog", "sand", seed=np.int64(5)), 48.0)
    assert np.array_equal(a[0], b[0])
    assert np.array_equal(contact_sheet(1, 10, 16), contact_sheet(1.0, 10.0, np.int64(16)))


def test_views_and_starts_of_other_number_types_are_those_of_ints(clip, bare):
    assert torch.equal(bare.train.view_features(clip, 2, 5), bare.train.view_features(clip, 2.0, np.int64(5)))
    start = lambda n, seed: make_prompts(clip, ("dog", "cat"), n_ctx=n, init="random", seed=seed).start
    assert torch.equal(start(4, 5), start(4.0, np.int64(5)))


def test_pictures_and_words_of_other_number_types_are_those_of_ints(clip, task):
    images, directions = task.train.tensor(clip, [0, 1, 2]), torch.eye(128)[:2]
    a, b = (cam_maps(clip, images, directions, batch_size=size) for size in (2, 2.0))
    assert torch.equal(a, b)
    a, b = (nearest_tokens(clip, clip.token_embedding.weight[:2], top=top) for top in (3, 3.0))
    assert all(map(torch.equal, a, b))
    (a, _), (b, _) = composites(task.train, [0, 5, 9], 1), composites(task.train, [0, 5, 9], 1.0)
    assert {k: s.fingerprint() for k, s in a.items()} == {k: s.fingerprint() for k, s in b.items()}


def test_numbers_of_images_and_bins_may_be_floats(clip, task):
    runs = train(clip, task, epochs=1, views=0, progress=False)
    a, b, c = (pick_images(runs, "same", images=images)[1] for images in (5, 5.0, np.int64(5)))
    assert a == b == c
    rows = pick_images(runs, "same", images=[np.int64(3), 2.0])[1]
    assert rows == [3, 2] and {type(r) for r in rows} == {int}
    said = {"right": [True, False, True], "confidence": [1.0, 0.3, 0.6]}
    table = pd.DataFrame({"method": "zero-shot CLIP", "lam": np.nan, **said})
    pd.testing.assert_frame_equal(calibration(table, 5), calibration(table, 5.0))


def test_a_protocol_takes_one_number_or_many_of_any_type():
    def asked(shots, seeds):
        return [(c["data"], c["shots"], c["seed"]) for c in _cells("pocket", shots, seeds, [1], {}, None)]

    assert asked(np.int64(2), 1.0) == [("pocket", 2, 1)]
    assert asked(np.array([1, 2]), range(1, 3)) == [("pocket", k, s) for k in (1, 2) for s in (1, 2)]
    with pytest.raises(ValueError, match="shots must be"): asked([2, 2.5], 1)
