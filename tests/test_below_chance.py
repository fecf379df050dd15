"Zero-shot CLIP that does worse than guessing is a sign of wrong weights, names or labels: a warning says so."
import warnings

import numpy as np
import pytest

from prograd_viz.data import Split, Task
from prograd_viz.evaluate import Evaluator
from prograd_viz.prompts import make_prompts, teacher_features


def mislabelled(clip, split):
    "A split whose labels are all one class beside what zero-shot CLIP says: accuracy 0"
    said = (split.features(clip) @ teacher_features(clip, split.classes, "a photo of a {}.").T).argmax(-1).numpy()
    return Split(split.images, (said + 1) % len(split.classes), split.classes)


def evaluator(clip, task): return Evaluator(clip, task, make_prompts(clip, task.classes), task.template)


def warned(clip, task):
    "The evaluator, and the warnings of making it"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        made = evaluator(clip, task)
    return made, [str(w.message) for w in seen if "guessing" in str(w.message)]


def test_good_labels_warn_of_nothing(clip, task):
    made, said = warned(clip, task)
    assert said == [] and min(made.zero_shot.values()) >= 1 / 6


def test_labels_that_are_all_one_class_off_are_named_once_with_accuracy_and_chance(clip, task):
    wrong = {name: mislabelled(clip, task.tests[name]) for name in ("same", "new")}
    made, said = warned(clip, Task("wrong", task.train, wrong | {"style": task.tests["style"]}))
    assert len(said) == 1 and "check that the weights" in said[0] and "labels" in said[0] and "template" in said[0]
    assert made.zero_shot["same"] == 0 and "0.000 on 'same' (chance 0.167), 0.000 on 'new' (chance 0.167)" in said[0]
    assert "'train'" not in said[0] and "'style'" not in said[0]


def test_chance_is_that_of_each_splits_own_classes(clip, task):
    image = task.train.images[0]
    two = Split([image] * 16, [1] * 12 + [0] * 4, (task.classes[0], task.classes[1]))
    made, said = warned(clip, Task("two", task.train, {"two": two, "same": mislabelled(clip, task.tests["same"])}))
    assert made.zero_shot["two"] == 0.25 and "0.250 on 'two' (chance 0.500)" in said[0]


def test_exactly_chance_and_no_images_warn_of_nothing(clip, task):
    image = task.train.images[0]
    half = Split([image] * 2, [0, 1], (task.classes[0], task.classes[1]))
    made, said = warned(clip, Task("half", task.train, {"half": half, "empty": Split([], [], task.classes)}))
    assert made.zero_shot["half"] == 0.5 and np.isnan(made.zero_shot["empty"]) and said == []


def test_a_few_wrong_answers_less_than_chance_may_be_luck_and_warn_of_nothing(clip, task):
    image = task.train.images[0]
    two = Split([image] * 16, [1] * 10 + [0] * 6, (task.classes[0], task.classes[1]))
    made, said = warned(clip, Task("luck", task.train, {"two": two}))
    assert made.zero_shot["two"] == 0.375 and said == []


def test_the_warning_reaches_whoever_trains(clip, task):
    from prograd_viz.training import train
    wrong = Task("wrong", mislabelled(clip, task.train), {})
    with pytest.warns(UserWarning, match="less often than guessing: .* on 'train'"):
        train(clip, wrong, [1], epochs=1, views=0, progress=False)
