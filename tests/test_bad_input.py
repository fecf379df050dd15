"Bad input gets an error that names the bad value, or a stated, sensible result; every parameter has a description."
import ast
import hashlib
import io
import itertools
import json
import math
import os
import tempfile
import tokenize
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image

import prograd_viz
from prograd_viz.attention import reading
from prograd_viz.cam import (
    cam_operator,
    check_explainer,
    explained_classes,
    explained_directions,
    explained_names,
    find_layer,
    grad_cam_maps,
    mask_scores,
    package_maps,
    pick_images,
    shown_masks,
)
from prograd_viz.checks import (
    check_draw,
    check_in_range,
    check_known,
    check_runs,
    check_seed,
    check_table,
    check_whole,
)
from prograd_viz.cli import on_the_object, spread_steps
from prograd_viz.clip import load_clip
from prograd_viz.data import Split, Task, check_classes, few_shot_sample
from prograd_viz.datasets import dataset_split, dataset_task, group_table, published_draw
from prograd_viz.evaluate import (
    accuracy_on,
    calibration,
    class_features,
    disagreeing,
    group_accuracy,
    per_class,
    predict,
    predictions,
    run_prompts,
)
from prograd_viz.explorer import Explorer, explore, show_landscape, show_maps
from prograd_viz.faithful import (
    causal_checks,
    composites,
    faithfulness,
    map_curves,
    map_scores,
    score_summary,
    stability,
    weights_check,
    with_shuffled_weights,
    without_object,
)
from prograd_viz.gradients import check_lambdas, project
from prograd_viz.images import class_folders, image_files, mask_of, open_image, open_mask
from prograd_viz.landscape import context_losses, landscape, plot_landscape, plot_tradeoff
from prograd_viz.maps import RISE, LeGrad, Occlusion, cam_maps, find_explainer, foreground, methods_at, run_maps
from prograd_viz.masks import box_mask, folder_masks, grabcut_mask, with_masks
from prograd_viz.plots import (
    for_print,
    plane_arrows,
    plot_accuracy,
    plot_cosine,
    plot_faithfulness,
    plot_foreground,
    plot_gradient_plane,
    plot_lambda,
    plot_maps,
    plot_shots,
    plot_token_cosines,
)
from prograd_viz.pocket import Scene, caption, render
from prograd_viz.prompts import make_prompts, teacher_features
from prograd_viz.protocols import base_to_new, cross_dataset, domain_generalisation, few_shot_protocol, paper_table
from prograd_viz.published import export_prompt, find_published, load_published, published_results, read_context
from prograd_viz.report import save_report
from prograd_viz.rules import check_strengths, find_rule, steering
from prograd_viz.runs import Recorder, load_runs, save_runs
from prograd_viz.screen import ExplorerData, explorer_data, plot_view, preparation, run_sets
from prograd_viz.store import Contents, Folder, NotFinite, PartFile, Writer, read_contents, repair, verify
from prograd_viz.summary import interval_of, summarise
from prograd_viz.sweep import Sweep, cells_of, load_sweep, sweep
from prograd_viz.tasks import few_shot, folder_task, pocket_task, table_task, torchvision_task, toy_pets
from prograd_viz.training import Recipe, Training, finished_runs, train, train_more
from prograd_viz.words import nearest_tokens, plot_words, read_context_words

nan, inf = math.nan, math.inf


def image_folders(tmp):
    "Folders of images as a person would give them, most of them wrong in one thing"
    for folder in ("pets/cat", "pets/dog", "one/cat", "hollow/cat", "hollow/dog", "void/cat", "void/dog"):
        (tmp / folder).mkdir(parents=True)
    for name in ("cat", "dog"):
        for i in range(3):
            Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(tmp / "pets" / name / f"{i}.png")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp / "hollow" / "cat" / "a.png")
    (tmp / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not an image")
    (tmp / "words.jpg").write_text("hello")


def weight_files(tmp, clip):
    "Files and folders that are no weights"
    (tmp / "weights.pt").write_text("hello")
    (tmp / "weights.safetensors").write_text("hello")
    for name in ("weightless", "configured"): (tmp / name).mkdir()
    config = {"model_cfg": open_clip.get_model_config(clip.name), "preprocess_cfg": {}}
    (tmp / "configured" / "open_clip_config.json").write_text(json.dumps(config))


def run_folders(tmp, runs):
    "A stored run set, damaged copies of it, and folders that hold something else"
    for name in ("stored", "torn", "flipped", "headless", "bare"): runs.save(tmp / name)
    first = "part-00001.safetensors"
    at = read_contents(Folder.of(tmp / "stored")).parts[0].span("contexts")[0] + 9
    whole = (tmp / "stored" / first).read_bytes()
    (tmp / "torn" / first).write_bytes(whole[:-1])
    (tmp / "flipped" / first).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
    (tmp / "headless" / "run.json").write_bytes(b"{}")
    (tmp / "bare" / first).unlink()
    for name in ("swept", "begun", "others", "linked"): (tmp / name).mkdir()
    (tmp / "swept" / "sweep.json").write_text("{}")
    (tmp / "others" / first).write_text("mine")
    os.symlink("/etc/hostname", tmp / "linked" / "run.json")


@pytest.fixture(scope="module")
def w(clip, tiny, task, bare, tmp_path_factory):
    "What the bad calls below use"
    tmp, vit = tmp_path_factory.mktemp("bad"), tiny(precision="fp32")
    image_folders(tmp)
    weight_files(tmp, vit)
    runs = train(clip, task, [0, 1], **SHORT)
    toy = toy_pets(tmp / "toy", per_class=6)
    run_folders(tmp, runs)
    image, mask = render(Scene("dog", "sand"))
    return SimpleNamespace(
        clip=clip, vit=vit, task=task, bare=bare, tmp=tmp, pets=tmp / "pets", toy=toy, configured=tmp / "configured",
        runs=runs, image=image, mask=mask, g=torch.ones(1, 2, 3), names=["dog", "cat"],
        empty=Task("empty", Split([], [], task.classes), {}),
    )


SHORT = {"epochs": 2, "batch_size": 8, "views": 0, "progress": False}  # as w.runs were trained
HERE = os.path.relpath(__file__)  # names of tests are printed, and hold no path of a machine


def part(w): return read_contents(Folder.of(w.tmp / "stored")).parts[0]


def written(w, call):
    "Try something with a writer of a folder of its own"
    with Writer(Path(tempfile.mkdtemp(dir=w.tmp))) as writer:
        writer.begin({}, 5)
        call(writer)


def block(**changed):
    "One step for `Writer.add`"
    tensors = {"record": np.ones((1, 2, 3)), "token_cos": np.ones((1, 2, 4)),
               "contexts": np.ones((1, 2, 4, 3)), "text_features": np.ones((1, 2, 5, 7))} | changed
    return {"steps": [1], "snapshots": [0], "tensors": tensors}


def recorder(**options): return Recorder(["cat", "dog"], ["CoOp", "mine"], **options)


def logged(**options):
    "What a recorder says to a second step"
    record = Recorder(["cat", "dog"], "mine")
    record.log(1, context=torch.zeros(4, 8), g_d=torch.zeros(4, 8), text_features=torch.zeros(2, 6))
    record.log(**{"step": 2} | options)


def sealed(text): return b'{"sha256":"%s","run":%s}\n' % (hashlib.sha256(text).hexdigest().encode(), text)


def own_task(w):
    two = replace(w.bare.train, labels=[0, 1], images=w.bare.train.images[:2], classes=("cat", "dog"), masks=None)
    return replace(w.bare, train=two, tests={})


def other_seed(w): return replace(w.task, settings=w.task.settings | {"seed": w.task.settings["seed"] + 1})


def own_runs(w): return replace(w.runs, steps=w.runs.steps.assign(acc_shifted=nan, acc_new=nan, acc_style=nan))


def results():
    methods = [("zero-shot CLIP", nan), ("CoOp", 0.0), ("ProGrad", 1.0)]
    keys = itertools.product((1, 2), (1, 2), methods)
    return pd.DataFrame([{"shots": k, "seed": s, "method": m, "lam": lam, "acc_new": 0.5} for k, s, (m, lam) in keys])


def masked(w, mask): return Split([w.image], [0], ("a", "b"), [mask])


@dataclass(frozen=True)
class Case:
    "A call with one thing wrong, and the error that it gets"
    name: str  # of the function
    call: Callable  # takes what the fixture `w` has
    begins: str  # how the message begins; TMP is the folder of the fixture
    error: type = ValueError  # exactly this type


BLOCK = "transformer.resblocks.2"  # the last

BAD = [
    Case("check_known", lambda w: check_known("fruit", "appel", ["apple", "pear"]),
         "unknown fruit 'appel'; did you mean 'apple'?"),
    Case("check_known", lambda w: check_known("fruit", "zzz", ["apple", "pear"]),
         "unknown fruit 'zzz'; known: apple, pear"),
    Case("check_in_range", lambda w: check_in_range("width", 3, 0, 1), "width must be between 0 and 1, got 3"),
    Case("check_in_range", lambda w: check_in_range("width", nan, 0), "width must be at least 0, got nan"),
    Case("check_in_range", lambda w: check_in_range("width", "wide", 0),
         "width must be a number, at least 0, got 'wide'"),
    Case("check_in_range", lambda w: check_in_range("width", None, 0), "width must be a number, at least 0, got None"),
    Case("check_whole", lambda w: check_whole("count", 2.5), "count must be a whole number, got 2.5"),
    Case("check_whole", lambda w: check_whole("count", 0), "count must be at least 1, got 0"),
    Case("check_whole", lambda w: check_whole("count", "two"), "count must be a number, at least 1, got 'two'"),
    Case("check_whole", lambda w: check_whole("count", nan), "count must be at least 1, got nan"),
    Case("check_whole", lambda w: check_whole("count", inf), "count must be at least 1, got inf"),
    Case("check_whole", lambda w: check_whole("count", 7, 1, 5), "count must be between 1 and 5, got 7"),
    Case("check_seed", lambda w: check_seed(2**64),
         "seed must be between 0 and 18446744073709551615, got 18446744073709551616"),
    Case("check_seed", lambda w: check_seed(1.5), "seed must be a whole number, got 1.5"),
    Case("check_draw", lambda w: check_draw(2.5, 1), "shots must be a whole number, got 2.5"),
    Case("check_draw", lambda w: check_draw("2", 1),
         "shots must be a number, at least 1, got '2'; 1, 2, 4, 8 and 16 are usual"),
    Case("check_draw", lambda w: check_draw(2, -1), "seed must be between 0 and 18446744073709551615, got -1"),
    Case("check_runs", lambda w: check_runs("runs"), "Runs are expected, got 'runs'; open it with load_runs('runs')",
         TypeError),
    Case("check_table", lambda w: check_table(w.runs, "predictions(runs)"),
         "a table is expected, got a Runs", TypeError),
    Case("load_clip", lambda w: load_clip("RN5O", "openai"),
         "unknown CLIP architecture 'RN5O'; did you mean 'RN50' or 'RN50x4' or 'RN50x64'?"),
    Case("load_clip", lambda w: load_clip("zzzz", "openai"), "unknown CLIP architecture 'zzzz'"),
    Case("load_clip", lambda w: load_clip("RN50"), "'RN50' needs weights"),
    Case("load_clip", lambda w: load_clip("RN50", "opnai"),
         "unknown tag or checkpoint file for 'RN50' 'opnai'; did you mean 'openai'?"),
    Case("load_clip", lambda w: load_clip("RN50", w.tmp / "absent.pt"),
         "no file TMP/absent.pt; pretrained is a checkpoint file, a tag or 'random'", FileNotFoundError),
    Case("load_clip", lambda w: load_clip("pocket", device="gpu"), "unknown device 'gpu'; known: 'cpu', 'cuda'"),
    Case("load_clip", lambda w: load_clip("RN50", "openai", quick_gelu=False),
         "'RN50' with 'openai' was trained with QuickGELU, got quick_gelu=False"),
    Case("load_clip", lambda w: load_clip("pocket", "openai"),
         "the pocket model has one set of weights; pretrained must be None, 'random' or a file, got 'openai'"),
    Case("load_clip", lambda w: load_clip("pocket", str(w.tmp / "absent.safetensors")),
         "the pocket model has one set of weights; pretrained must be None, 'random' or a file, got "
         "'TMP/absent.safetensors'"),
    Case("load_clip", lambda w: load_clip(precision="fp8"), "unknown precision 'fp8'"),
    Case("load_clip", lambda w: load_clip(w.vit.name, str(w.tmp / "weights.pt")),
         "TMP/weights.pt is damaged or no checkpoint of 'TINY'; give a state dict"),
    Case("load_clip", lambda w: load_clip(w.vit.name, str(w.tmp / "weights.safetensors")),
         "TMP/weights.safetensors is damaged or no checkpoint of 'TINY'; give a state dict"),
    Case("load_clip", lambda w: load_clip("pocket", str(w.tmp / "weights.safetensors")),
         "cannot read weights from TMP/weights.safetensors"),
    Case("load_clip", lambda w: load_clip(f"local-dir:{w.tmp / 'absent'}"),
         "no weights for 'local-dir:TMP/absent'", OSError),
    Case("load_clip", lambda w: load_clip(f"local-dir:{w.tmp / 'weightless'}"),
         "no weights for 'local-dir:TMP/weightless'", OSError),
    Case("load_clip", lambda w: load_clip(f"local-dir:{w.configured}"),
         "no weights for 'local-dir:TMP/configured'", OSError),
    Case("load_clip", lambda w: load_clip(f"local-dir:{w.configured}", "openai"),
         "'local-dir:TMP/configured' has its own weights, got pretrained='openai' as well"),
    Case("load_clip", lambda w: load_clip("hf-hub:nobody/nothing"),
         "no weights for 'hf-hub:nobody/nothing': they are not on this machine", OSError),
    Case("Clip.tokenize", lambda w: w.clip.tokenize(["a photo of a dgo."]),
         "the model 'pocket' was never trained on 'dgo' in 'a photo of a dgo.'"),
    Case("Clip.tokenize", lambda w: w.clip.tokenize(["dog " * 80]),
         "text has 80 tokens, but at most 75 fit"),
    Case("Clip.tokenize", lambda w: w.clip.tokenize([""]), "a text must be a non-empty string, got ''"),
    Case("Clip.tokenize", lambda w: w.clip.tokenize([None]), "a text must be a non-empty string, got None"),
    Case("Clip.tokenize", lambda w: w.vit.tokenize(["word " * 76]),
         "text has 76 tokens, but at most 75 fit"),
    Case("Clip.encode_text", lambda w: w.clip.encode_text(["a photo of a dgo."]),
         "the model 'pocket' was never trained on 'dgo' in 'a photo of a dgo.'"),
    Case("Scene", lambda w: Scene("dgo", "sand"), "unknown noun 'dgo'; did you mean 'dragon' or 'dog' or 'door'?"),
    Case("Scene", lambda w: Scene("dog", "snd"), "unknown texture 'snd'"),
    Case("Scene", lambda w: Scene("dog", "sand", "rde"), "unknown colour 'rde'"),
    Case("Scene", lambda w: Scene("dog", "sand", style="filed"), "unknown style 'filed'"),
    Case("render", lambda w: render(Scene("dog", "sand"), noise=-1), "noise must be between 0 and 1, got -1"),
    Case("render", lambda w: render(Scene("dog", "sand"), noise=nan), "noise must be between 0 and 1, got nan"),
    Case("render", lambda w: render(Scene("dog", "sand"), size=3), "size must be between 0.1 and 1.2, got 3"),
    Case("caption", lambda w: caption(Scene("dog", "sand"), detail="all"),
         "detail must be 'object', 'texture' or 'full', got 'all'"),
    Case("few_shot", lambda w: few_shot("no/such/folder"),
         "the folder HERE/no/such/folder does not exist; only HERE does", FileNotFoundError),
    Case("few_shot", lambda w: few_shot(w.pets / "birds" / "all"),
         "the folder TMP/pets/birds/all does not exist; only TMP/pets does",
         FileNotFoundError),
    Case("few_shot", lambda w: few_shot(w.tmp / "words.jpg"), "TMP/words.jpg is a file", NotADirectoryError),
    Case("few_shot", lambda w: few_shot("~/no-such-data"),
         "the folder HOME/no-such-data does not exist", FileNotFoundError),
    Case("few_shot", lambda w: few_shot("oxford_pet"),
         "unknown data set 'oxford_pet'; did you mean 'oxford_pets' or 'oxford_flowers'?"),
    Case("few_shot", lambda w: few_shot("my_photos"),
         "unknown data set 'my_photos'; known: pocket, caltech101, dtd, eurosat, fgvc_aircraft, food101, "
         "oxford_flowers, oxford_pets, ...; and the working directory has no folder 'my_photos'"),
    Case("few_shot", lambda w: few_shot(w.pets / "cat"), "TMP/pets/cat has 3 images but no folders"),
    Case("few_shot", lambda w: few_shot("pockt"), "unknown data set 'pockt'"),
    Case("few_shot", lambda w: few_shot(shots=0), "shots must be at least 1, got 0"),
    Case("few_shot", lambda w: few_shot(shots=-1), "shots must be at least 1, got -1"),
    Case("few_shot", lambda w: few_shot(shots=2.5), "shots must be a whole number, got 2.5"),
    Case("few_shot", lambda w: few_shot(shots=nan), "shots must be at least 1, got nan"),
    Case("few_shot", lambda w: few_shot(seed=-1), "seed must be between 0 and 18446744073709551615, got -1"),
    Case("few_shot", lambda w: few_shot(w.pets, shots=0), "shots must be at least 1, got 0"),
    Case("few_shot", lambda w: few_shot(shot=4), "unknown pocket_task option 'shot'"),
    Case("few_shot", lambda w: few_shot(w.pets, root="x"), "unknown folder_task option 'root'"),
    Case("pocket_task", lambda w: pocket_task(classes=[]), "a task needs at least two classes, got []"),
    Case("pocket_task", lambda w: pocket_task(classes=["dog"]), "a task needs at least two classes, got ['dog']"),
    Case("pocket_task", lambda w: pocket_task(classes=["dog", "dgo"]),
         "unknown noun 'dgo'; did you mean 'dragon' or 'dog' or 'door'?"),
    Case("pocket_task", lambda w: pocket_task(classes=["dog", "dog"]),
         "class names must differ, but these occur more than once: ['dog']"),
    Case("pocket_task", lambda w: pocket_task(classes=1), "classes must be between 2 and 82, got 1"),
    Case("pocket_task", lambda w: pocket_task(classes=1000), "classes must be between 2 and 82, got 1000"),
    Case("pocket_task", lambda w: pocket_task(rho=1.5), "rho must be between 0 and 1, got 1.5"),
    Case("pocket_task", lambda w: pocket_task(rho=nan), "rho must be between 0 and 1, got nan"),
    Case("pocket_task", lambda w: pocket_task(noise=5), "noise must be between 0 and 1, got 5"),
    Case("pocket_task", lambda w: pocket_task(size=0), "size must be between 0.1 and 1.2, got 0"),
    Case("pocket_task", lambda w: pocket_task(test_per_class=0), "test_per_class must be at least 1, got 0"),
    Case("pocket_task", lambda w: pocket_task(shots=0), "shots must be at least 1, got 0"),
    Case("folder_task", lambda w: folder_task(w.tmp / "one", 1), "TMP/one has only one folder, 'cat'"),
    Case("folder_task", lambda w: folder_task(w.tmp / "hollow", 1), "no images in TMP/hollow/dog"),
    Case("folder_task", lambda w: folder_task(w.tmp / "void", 1), "no images in TMP/void/cat"),
    Case("folder_task", lambda w: folder_task(w.tmp / "weightless", 1),
         "TMP/weightless has neither folders nor images"),
    Case("folder_task", lambda w: folder_task(w.pets, 1, template="a pet"),
         "a template needs exactly one {}, got 'a pet'"),
    Case("folder_task", lambda w: folder_task(w.pets, 0), "shots must be at least 1, got 0"),
    Case("few_shot_sample", lambda w: few_shot_sample([0, 1], 0, 1), "shots must be at least 1, got 0"),
    Case("check_classes", lambda w: check_classes([]), "a task needs at least two classes, got []"),
    Case("check_classes", lambda w: check_classes(["dog"]), "a task needs at least two classes, got ['dog']"),
    Case("check_classes", lambda w: check_classes(["dog", " "]),
         "class names must be non-empty strings, got ' ' at index 1"),
    Case("check_classes", lambda w: check_classes(["dog", 3]),
         "class names must be non-empty strings, got 3 at index 1"),
    Case("check_classes", lambda w: check_classes("dog"),
         "class names must be a list of strings, got the single string 'dog'"),
    Case("image_files", lambda w: image_files(w.tmp / "absent"),
         "[Errno 2] No such file or directory: 'TMP/absent'", FileNotFoundError),
    Case("class_folders", lambda w: class_folders(w.tmp / "absent"),
         "[Errno 2] No such file or directory: 'TMP/absent'", FileNotFoundError),
    Case("open_mask", lambda w: open_mask(w.tmp / "absent.png"), "mask not found: TMP/absent.png", FileNotFoundError),
    Case("open_mask", lambda w: open_mask(w.tmp / "broken.png"), "cannot read mask TMP/broken.png"),
    Case("open_mask", lambda w: open_mask(np.zeros((3, 4, 2), np.uint8)),
         "a mask array must be [H, W], or [H, W, 3] uint8, got (3, 4, 2) uint8"),
    Case("mask_of", lambda w: mask_of(w.tmp / "absent.png", w.image),
         "mask not found: TMP/absent.png", FileNotFoundError),
    Case("folder_masks", lambda w: folder_masks(w.pets / "cat", [Path("x/0.jpg"), Path("y/0.jpg")]),
         "TMP/pets/cat/0.png would be the mask of both x/0.jpg and y/0.jpg"),
    Case("open_image", lambda w: open_image(w.tmp / "absent.png"),
         "image not found: TMP/absent.png", FileNotFoundError),
    Case("open_image", lambda w: open_image(w.tmp / "broken.png"), "cannot read image TMP/broken.png"),
    Case("open_image", lambda w: open_image(w.tmp / "words.jpg"), "cannot read image TMP/words.jpg"),
    Case("open_image", lambda w: open_image(w.tmp), "cannot read image TMP: [Errno 21] Is a directory"),
    Case("open_image", lambda w: open_image(np.zeros((3, 4))),
         "an image array must be [H, W, 3] uint8, got (3, 4) float64"),
    Case("open_image", lambda w: open_image(np.zeros((3, 4, 3))),
         "an image array must be [H, W, 3] uint8, got (3, 4, 3) float64"),
    Case("Split", lambda w: Split([w.image], [0, 1], ("a", "b")), "1 images but 2 labels"),
    Case("Split", lambda w: Split([w.image], [7], ("a", "b")), "labels must be indices from 0 to 1, got 7 to 7"),
    Case("Split", lambda w: Split([w.image], [-1], ("a", "b")), "labels must be indices from 0 to 1, got -1 to -1"),
    Case("Split", lambda w: Split([w.image], [0], ("a",)), "a task needs at least two classes, got ['a']"),
    Case("Split", lambda w: Split([w.image], [0], ()), "a task needs at least two classes, got []"),
    Case("Split", lambda w: Split([w.image], [0], ("a", "b"), []), "1 images but 0 masks"),
    Case("Split", lambda w: Split([w.image], [0.5], ("a", "b")), "labels must be whole numbers, got [0.5]"),
    Case("Split", lambda w: Split([w.image], [0], ("a", "b"), groups=[]), "1 images but 0 groups"),
    Case("Split.mask", lambda w: masked(w, w.mask[:9]).mask(0),
         "mask 0 is 9 x 112 but its image is 112 x 112 (rows x columns)"),
    Case("Split.mask", lambda w: masked(w, w.tmp / "absent.png").mask(0),
         "mask not found: TMP/absent.png", FileNotFoundError),
    Case("Split.mask", lambda w: Split([w.image], [0], ("a", "b")).mask(0), "this split has no masks"),
    Case("Split.features", lambda w: Split([w.tmp / "broken.png"], [0], ("a", "b")).features(w.clip),
         "cannot read image TMP/broken.png"),
    Case("Split.view_features", lambda w: Split([w.tmp / "words.jpg"], [0], ("a", "b")).view_features(w.clip, 1, 0),
         "cannot read image TMP/words.jpg"),
    Case("Task", lambda w: Task("x", w.task.train, {"train": w.task.train}),
         "a test set must not be called 'train', the name of the training set; rename it"),
    Case("Task", lambda w: Task("x", w.task.train, {}, "a photo"), "a template needs exactly one {}, got 'a photo'"),
    Case("Task", lambda w: Task("x", w.task.train, {}, "{} {}"), "a template needs exactly one {}, got '{} {}'"),
    Case("make_prompts", lambda w: make_prompts(w.clip, []), "a task needs at least two classes, got []"),
    Case("make_prompts", lambda w: make_prompts(w.clip, ["dog"]), "a task needs at least two classes, got ['dog']"),
    Case("make_prompts", lambda w: make_prompts(w.clip, ["dog", "dgo"]),
         "the model 'pocket' was never trained on 'dgo' in 'a photo of a dgo.'"),
    Case("make_prompts", lambda w: make_prompts(w.clip, w.names, n_ctx=75), "n_ctx=75 is too many"),
    Case("make_prompts", lambda w: make_prompts(w.vit, w.names, n_ctx=76, init="random"), "n_ctx=76 is too many"),
    Case("make_prompts", lambda w: make_prompts(w.vit, ["word " * 80, "cat"]), "the class name 'word word"),
    Case("make_prompts", lambda w: make_prompts(w.clip, w.names, n_ctx=2), "n_ctx must be at least 4, got 2"),
    Case("make_prompts", lambda w: make_prompts(w.clip, w.names, n_ctx=0, init="random"),
         "n_ctx must be at least 1, got 0"),
    Case("make_prompts", lambda w: make_prompts(w.clip, w.names, n_ctx=4.5), "n_ctx must be a whole number, got 4.5"),
    Case("make_prompts", lambda w: make_prompts(w.clip, w.names, class_specific=True),
         "class-specific contexts need init='random', got init='template'"),
    Case("make_prompts", lambda w: make_prompts(w.clip, w.names, template="{}"), "no words to start from in '{}'"),
    Case("make_prompts", lambda w: make_prompts(w.clip, w.names, init=""), "no words to start from in ''"),
    Case("make_prompts", lambda w: make_prompts(w.clip, w.names, init="a phtoo of a"),
         "the model 'pocket' was never trained on 'phtoo' in 'a phtoo of a dog.'"),
    Case("make_prompts", lambda w: make_prompts(w.clip, w.names, position="begin"),
         "unknown position of the class name 'begin'"),
    Case("Prompts.parts", lambda w: make_prompts(w.clip, w.names).parts(memory_gb=0),
         "memory_gb must be at least 0.001, got 0"),
    Case("Prompts.parts", lambda w: make_prompts(w.clip, w.names).parts(memory_gb=float("nan")),
         "memory_gb must be at least 0.001, got nan"),
    Case("teacher_features", lambda w: teacher_features(w.clip, w.names, []),
         "teacher templates need exactly one {} each, got []"),
    Case("teacher_features", lambda w: teacher_features(w.clip, w.names, "a photo"),
         "teacher templates need exactly one {} each, got ['a photo']"),
    Case("teacher_features", lambda w: teacher_features(w.clip, w.names, ["a {}.", "{} {}"]),
         "teacher templates need exactly one {} each, got ['a {}.', '{} {}']"),
    Case("teacher_features", lambda w: teacher_features(w.clip, ["dog"]),
         "a task needs at least two classes, got ['dog']"),
    Case("teacher_features", lambda w: teacher_features(w.clip, w.names, "a phtoo of a {}."),
         "the model 'pocket' was never trained on 'phtoo' in 'a phtoo of a dog.'"),
    Case("project", lambda w: project(w.g, w.g, 1.5), "lambda must be between 0 and 1, got 1.5"),
    Case("project", lambda w: project(w.g, w.g, nan), "lambda must be between 0 and 1, got nan"),
    Case("project", lambda w: project(w.g, w.g, [0.5, -0.1]), "2 lambdas for 1 runs"),
    Case("project", lambda w: project(w.g, w.g, -0.1), "lambda must be between 0 and 1, got -0.1"),
    Case("project", lambda w: project(w.g, w.g, []), "no lambda given"),
    Case("project", lambda w: project(w.g, w.g, 1, eps_rel=-1), "eps_rel must be at least 0, got -1"),
    Case("check_lambdas", lambda w: check_lambdas([0, 1.5]), "lambda must be between 0 and 1, got 1.5"),
    Case("check_lambdas", lambda w: check_lambdas([nan]), "lambda must be between 0 and 1, got nan"),
    Case("check_lambdas", lambda w: check_lambdas([]), "no lambda given"),
    Case("check_lambdas", lambda w: check_lambdas("much"), "lambda must be a number, between 0 and 1, got 'much'"),
    Case("check_lambdas", lambda w: check_lambdas(None), "lambda must be a number, between 0 and 1, got None"),
    Case("check_lambdas", lambda w: check_lambdas([inf]), "lambda must be between 0 and 1, got inf"),
    Case("train", lambda w: train(w.task, w.clip),
         "train takes a model and a task, from load_clip and few_shot: train(clip, task); got a Task and a Clip",
         TypeError),
    Case("train", lambda w: train("pocket", w.task),
         "train takes a model and a task, from load_clip and few_shot: train(clip, task); got a str and a Task",
         TypeError),
    Case("train", lambda w: train(w.clip, w.bare, memory_gb="much"),
         "memory_gb must be a number, at least 0.001, got 'much'"),
    Case("train", lambda w: train(w.clip, w.bare, memory_gb=None),
         "memory_gb must be a number, at least 0.001, got None"),
    Case("train", lambda w: train(w.clip, w.bare, [1.5]), "lambda must be between 0 and 1, got 1.5"),
    Case("train", lambda w: train(w.clip, w.bare, [nan]), "lambda must be between 0 and 1, got nan"),
    Case("train", lambda w: train(w.clip, w.bare, []), "no lambda given"),
    Case("train", lambda w: train(w.clip, w.bare, -0.5), "lambda must be between 0 and 1, got -0.5"),
    Case("train", lambda w: train(w.clip, w.bare, [0, 0.7, 0.7], epochs=1, views=0),
         "lambda 0.7 is given more than once"),
    Case("train", lambda w: train(w.clip, w.bare, epochs=0), "epochs must be at least 1, got 0"),
    Case("train", lambda w: train(w.clip, w.bare, epochs=1.5), "epochs must be a whole number, got 1.5"),
    Case("train", lambda w: train(w.clip, w.bare, batch_size=0), "batch_size must be at least 1, got 0"),
    Case("train", lambda w: train(w.clip, w.bare, lr=-1), "lr must be at least 0, got -1"),
    Case("train", lambda w: train(w.clip, w.bare, lr=nan), "lr must be at least 0, got nan"),
    Case("train", lambda w: train(w.clip, w.bare, momentum=-1), "momentum must be at least 0, got -1"),
    Case("train", lambda w: train(w.clip, w.bare, weight_decay=-1), "weight_decay must be at least 0, got -1"),
    Case("train", lambda w: train(w.clip, w.bare, temperature=0), "temperature must be at least 0.001, got 0"),
    Case("train", lambda w: train(w.clip, w.bare, views=-1), "views must be at least 0, got -1"),
    Case("train", lambda w: train(w.clip, w.bare, seed=-1), "seed must be between 0 and 18446744073709551615, got -1"),
    Case("train", lambda w: train(w.clip, w.bare, n_ctx=99), "n_ctx=99 is too many"),
    Case("train", lambda w: train(w.clip, w.bare, init="random", n_ctx=0), "n_ctx must be at least 1, got 0"),
    Case("train", lambda w: train(w.clip, w.bare, class_specific=True),
         "class-specific contexts need init='random', got init='template'"),
    Case("train", lambda w: train(w.clip, w.bare, teacher="a photo"),
         "teacher templates need exactly one {} each, got ['a photo']"),
    Case("train", lambda w: train(w.clip, w.bare, teacher=[]), "teacher templates need exactly one {} each, got []"),
    Case("train", lambda w: train(w.clip, w.bare, eps_rel=-1), "eps_rel must be at least 0, got -1"),
    Case("train", lambda w: train(w.clip, w.bare, evaluate_every=0), "evaluate_every must be at least 1, got 0"),
    Case("train", lambda w: train(w.clip, w.bare, snapshot_every=-2), "snapshot_every must be at least 1, got -2"),
    Case("train", lambda w: train(w.clip, w.bare, snapshot_every=0), "snapshot_every must be at least 1, got 0"),
    Case("train", lambda w: train(w.clip, w.bare, lr=inf), "lr must be at least 0, got inf"),
    Case("train", lambda w: train(w.clip, w.bare, warmup_lr=-1), "warmup_lr must be at least 0, got -1"),
    Case("train", lambda w: train(w.clip, w.empty), "the task has no training images"),
    Case("train", lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / "weights.pt"),
         "[Errno 20] 'TMP/weights.pt' is a file; name a folder", NotADirectoryError),
    Case("train", lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / "stored"),
         "[Errno 17] 'TMP/stored' holds a run set", FileExistsError),
    Case("train", lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / "others"),
         "[Errno 17] part-00001.safetensors in 'TMP/others' belongs to no run set", FileExistsError),
    Case("train", lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / "begun", checkpoint_every=0),
         "checkpoint_every must be at least 1, got 0"),
    Case("train", lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / "begun", checkpoint_every=2.5),
         "checkpoint_every must be a whole number, got 2.5"),
    Case("train", lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / "begun", checkpoint_every=nan),
         "checkpoint_every must be at least 1, got nan"),
    Case("train", lambda w: train(w.clip, w.bare, **SHORT, out="/proc/none"),
         "[Errno 2] cannot write '/proc/none'", FileNotFoundError),
    Case("train", lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / ("x" * 300)),
         "[Errno 36] cannot write 'TMP/", OSError),
    Case("train", lambda w: train(w.clip, w.task, **SHORT | {"epochs": 3}, out=w.tmp / "stored", resume=True),
         "cannot resume 'TMP/stored': the configuration differs (epochs: 2 on disk, 3 given"),
    Case("train", lambda w: train(w.clip, w.task, **SHORT, out=w.tmp / "headless", resume=True),
         "run.json in 'TMP/headless' is damaged"),
    Case("train", lambda w: train(w.clip, w.bare, resume=True),
         "resume=True and checkpoint_every=None need out=, the folder to write to"),
    Case("train", lambda w: train(w.clip, w.bare, checkpoint_every=7),
         "resume=False and checkpoint_every=7 need out=, the folder to write to"),
    Case("train", lambda w: train(w.clip, w.bare, **SHORT, out="memory://x"), "'/x' is not on this machine"),
    Case("train_more", lambda w: train_more(w.runs, [1.5]), "lambda must be between 0 and 1, got 1.5"),
    Case("train_more", lambda w: train_more(w.runs, []), "no lambda given"),
    Case("train_more", lambda w: train_more(w.runs, [w.runs.lambdas[0]]), "CoOp was already trained"),
    Case("train_more", lambda w: train_more(replace(w.runs, clip=None), [0.3]),
         "these runs have no model and task in memory"),
    Case("Runs.join", lambda w: w.runs.join(w.runs), "these run sets cannot be joined: both hold CoOp, ProGrad"),
    Case("Runs.join", lambda w: w.runs.join(replace(w.runs, methods=("a", "b"), classes=("x",))),
         "these run sets cannot be joined: their classes differ; train both"),
    Case("Runs.record", lambda w: w.runs.record(0.3), "lambda 0.3 was not trained"),
    Case("Runs.record", lambda w: w.runs.record("min"), "unknown method 'min'"),
    Case("Runs.export", lambda w: w.runs.export(w.tmp / "weights.pt"),
         "[Errno 17] File exists: 'TMP/weights.pt'", FileExistsError),
    Case("Runs.run", lambda w: w.runs.run(0.3), "lambda 0.3 was not trained"),
    Case("Runs.run", lambda w: w.runs.text(nan), "lambda nan was not trained"),
    Case("Runs.save", lambda w: w.runs.save(w.tmp / "stored"),
         "[Errno 17] 'TMP/stored' holds a run set", FileExistsError),
    Case("Runs.save", lambda w: w.runs.save(w.tmp / "weights.pt"),
         "[Errno 20] 'TMP/weights.pt' is a file", NotADirectoryError),
    Case("Runs.save", lambda w: w.runs.save("zzz://there"), "cannot use the address 'zzz://there'"),
    Case("Runs.save", lambda w: w.runs.save("/proc/none"), "[Errno 2] cannot write '/proc/none'", FileNotFoundError),
    Case("Runs.save", lambda w: w.runs.save(w.tmp / "weights.pt" / "below"),
         "[Errno 20] cannot write 'TMP/weights.pt/below'", NotADirectoryError),
    Case("Runs.save", lambda w: w.runs.save(w.tmp / "others"),
         "[Errno 17] part-00001.safetensors in 'TMP/others' belongs to no run set; name an empty folder",
         FileExistsError),
    Case("save_runs", lambda w: save_runs(replace(w.runs, steps=w.runs.steps.drop(columns="cos")), w.tmp / "none"),
         "the record has no column 'cos'"),
    Case("save_runs", lambda w: save_runs(replace(w.runs, contexts=w.runs.contexts * nan), w.tmp / "none"),
         "the contexts hold NaN or infinity", NotFinite),
    Case("save_runs", lambda w: save_runs(replace(w.runs, contexts=w.runs.contexts * inf), w.tmp / "nil"),
         "the contexts hold NaN or infinity", NotFinite),
    Case("save_runs",
         lambda w: save_runs(replace(w.runs, contexts=w.runs.contexts.astype(np.float16)), w.tmp / "void-16"),
         "the contexts are float32 or float64 on disk, got float16"),
    Case("load_runs", lambda w: load_runs(w.tmp / "stored", w.bare, w.clip),
         "clip and task are swapped; the model comes first: load_runs(path, clip, task)", TypeError),
    Case("Recorder", lambda w: recorder().runs(w.bare, w.clip),
         "clip and task are swapped; the model comes first: record.runs(clip, task)", TypeError),
    Case("Runs.split", lambda w: w.runs.split(HERE), f"split={HERE!r} is a file; explore and save_report take"),
    Case("cam_maps", lambda w: cam_maps(w.clip, np.zeros((112, 112, 3), np.uint8), torch.zeros(1, 128)),
         "images must be preprocessed, a tensor [B, 3, H, W], got ndarray of shape (112, 112, 3)", TypeError),
    Case("summarise", lambda w: summarise(w.runs), "a table is expected, got a Runs", TypeError),
    Case("load_runs", lambda w: load_runs(w.tmp / "stored", w.vit),
         "Clip('TINY', 'random': 1.7M parameters, 32 px, float32, cpu) is not the model of these runs, pocket"),
    Case("load_runs", lambda w: load_runs(w.tmp / "stored", w.clip, other_seed(w)),
         "these runs were trained on a task with seed=3, this one has 4; give the same, or check=False"),
    Case("load_runs", lambda w: load_runs(w.tmp / "stored", w.clip, own_task(w)),
         "the runs are about 6 classes from 'umbrella', the task about 2 from 'cat'"),
    Case("load_runs", lambda w: load_runs(w.tmp / "swept"),
         "'TMP/swept' is a sweep, not a run set; load_sweep('TMP/swept') opens it", FileNotFoundError),
    Case("load_runs", lambda w: load_runs(w.tmp / "absent"), "no run set in 'TMP/absent'", FileNotFoundError),
    Case("load_runs", lambda w: load_runs(w.tmp / "weightless"), "no run set in 'TMP/weightless'", FileNotFoundError),
    Case("load_runs", lambda w: load_runs(w.tmp / "weights.pt"), "'TMP/weights.pt' is a file", FileNotFoundError),
    Case("load_runs", lambda w: load_runs("memory://nothing"), "no run set in '/nothing'", FileNotFoundError),
    Case("load_runs", lambda w: load_runs("zzz://there"), "cannot use the address 'zzz://there'"),
    Case("load_runs", lambda w: load_runs(w.tmp / "torn"), "part-00001.safetensors in 'TMP/torn' is damaged"),
    Case("load_runs", lambda w: load_runs(w.tmp / "headless"),
         "run.json in 'TMP/headless' is damaged: it does not match its own hash"),
    Case("load_runs", lambda w: load_runs(w.tmp / "bare"),
         "part-00001.safetensors in 'TMP/bare' is missing; to see what can be saved, run"),
    Case("load_runs", lambda w: np.asarray(load_runs(w.tmp / "flipped").contexts),
         "part-00001.safetensors in 'TMP/flipped' is damaged: its contexts do not match their hash"),
    Case("load_runs", lambda w: load_runs(w.tmp / "linked"),
         "run.json in 'TMP/linked' is a link or a folder, not a file"),
    Case("verify", lambda w: verify(w.tmp / "absent"), "no run set in 'TMP/absent'", FileNotFoundError),
    Case("verify", lambda w: verify("zzz://there"), "cannot use the address 'zzz://there'"),
    Case("repair", lambda w: repair(w.tmp / "weights.pt"),
         "'TMP/weights.pt' is a file; give the folder of a run set", FileNotFoundError),
    Case("repair", lambda w: repair("memory://nothing"), "'/nothing' is not on this machine"),
    Case("repair", lambda w: repair(w.tmp / "weightless"), "no run set in 'TMP/weightless'", FileNotFoundError),
    Case("read_contents", lambda w: read_contents(Folder.of(w.tmp / "weightless")),
         "no run set in 'TMP/weightless'", FileNotFoundError),
    Case("read_contents", lambda w: read_contents(Folder.of(w.tmp / "linked")),
         "run.json in 'TMP/linked' is a link or a folder, not a file"),
    Case("Contents.unseal", lambda w: Contents.unseal(b"", "it"), "it is damaged"),
    Case("Contents.unseal", lambda w: Contents.unseal(sealed(b"[]"), "it"), "it does not describe a run set"),
    Case("Contents.unseal", lambda w: Contents.unseal(sealed(b'{"format":9}'), "it"),
         "it does not describe a run set: ValueError, it has format 9"),
    Case("Contents.unseal", lambda w: Contents.unseal(sealed(b"[" * 100_000), "it"), "it does not describe a run set"),
    Case("Contents.unseal", lambda w: Contents.unseal(sealed(b'{"format":3}'), "it"),
         "it does not describe a run set: KeyError, 'about'"),
    Case("Folder.of", lambda w: Folder.of("zzz://there"), "cannot use the address 'zzz://there'"),
    Case("Folder.size", lambda w: Folder.of(w.tmp / "linked").size("run.json"),
         "run.json in 'TMP/linked' is a link or a folder, not a file"),
    Case("Folder.size", lambda w: Folder.of(w.tmp).size("pets"), "pets in 'TMP' is a link or a folder, not a file"),
    Case("Folder.read", lambda w: Folder.of(w.tmp / "stored").read("absent", 0, 1),
         "[Errno 2] No such file or directory: 'TMP/stored/absent'", FileNotFoundError),
    Case("Folder.held", lambda w: Folder.of(w.tmp / "stored").held("absent", 1),
         "[Errno 2] No such file or directory: 'TMP/stored/absent'", FileNotFoundError),
    Case("PartFile.check", lambda w: PartFile(Folder.of(w.tmp / "flipped"), part(w)).check(),
         "part-00001.safetensors in 'TMP/flipped' is damaged: its contexts do not match their hash"),
    Case("PartFile.tensor", lambda w: PartFile(Folder.of(w.tmp / "flipped"), part(w)).tensor("contexts", 0),
         "part-00001.safetensors in 'TMP/flipped' is damaged: its contexts do not match their hash"),
    Case("PartFile.tensor", lambda w: PartFile(Folder.of(w.tmp / "torn"), part(w)),
         "part-00001.safetensors in 'TMP/torn' is damaged: it has 77,439 bytes, expected 77,440"),
    Case("Writer.begin", lambda w: Writer(w.tmp / "others").begin({}),
         "[Errno 17] part-00001.safetensors in 'TMP/others' belongs to no run set", FileExistsError),
    Case("Writer.begin", lambda w: Writer(w.tmp / "stored").begin({}),
         "[Errno 17] 'TMP/stored' holds a run set; continue it with resume=True", FileExistsError),
    Case("Writer.check_free", lambda w: Writer(w.tmp / "stored").check_free(),
         "[Errno 17] 'TMP/stored' holds a run set; continue it with resume=True", FileExistsError),
    Case("Writer.resume", lambda w: Writer(w.tmp / "weightless").resume(),
         "no run set in 'TMP/weightless'", FileNotFoundError),
    Case("Writer.add",
         lambda w: written(w, lambda writer: writer.add(**block(text_features=np.full((1, 2, 5, 7), nan)))),
         "the text features hold NaN or infinity", NotFinite),
    Case("Writer.add",
         lambda w: written(w, lambda writer: writer.add(**block(contexts=np.ones((1, 2, 4, 3), np.float16)))),
         "the contexts are float32 or float64 on disk, got float16"),
    Case("Recorder", lambda w: recorder(out=w.tmp / "stored"),
         "[Errno 17] 'TMP/stored' holds a run set; continue it with resume=True", FileExistsError),
    Case("Recorder", lambda w: recorder(out=w.tmp / "stored", resume=True),
         "'TMP/stored' holds CoOp, ProGrad on 6 classes; record other methods or classes in another folder"),
    Case("Recorder", lambda w: recorder(zero_shot=torch.ones(3, 8)),
         "zero_shot has shape (3, 8), but there are 2 classes"),
    Case("Recorder.log", lambda w: Recorder(["cat", "dog"], zero_shot=torch.ones(2, 8)).log(
        1, text_features=torch.ones(2, 9)), "text_features has shape (2, 9), zero_shot has (2, 8)"),
    Case("Recorder.log", lambda w: logged(accuracy={"same": 0.5}), "accuracy must be a number or an array of numbers, "
         "got {'same': 0.5}; accuracies={...} takes one for each split", TypeError),
    Case("Recorder.log", lambda w: logged(note="good"), "note must be a number or an array of numbers, got 'good'",
         TypeError),
    Case("Recorder", lambda w: recorder(zero_shot=["a cat."]),
         "zero_shot must be the text features of zero-shot CLIP, an array [C, E], got ['a cat.']", TypeError),
    Case("Recorder", lambda w: Recorder("cat"), "classes must be a list of names, got 'cat'", TypeError),
    Case("Recorder", lambda w: Recorder(["cat"], None), "method must be a list of names, got None", TypeError),
    Case("Recorder.log", lambda w: logged(accuracies=0.5), "accuracies are a dict, split -> accuracy", TypeError),
    Case("Recorder.log", lambda w: Recorder(["cat", "dog"]).log(1, context=torch.zeros(8)),
         "context has shape (8,); it must be [M, D]"),
    Case("Recorder.log", lambda w: Recorder(
        ["cat", "dog"]).log(1, context=torch.zeros(4, 8), g_d=torch.zeros(16, 8)),
         "g_d has shape (16, 8), context (4, 8); it is a gradient with respect to this context"),
    Case("Recorder.log", lambda w: logged(step=1), "step 1 comes after step 1"),
    Case("Recorder.log", lambda w: logged(step=0), "step must be at least 1, got 0"),
    Case("Recorder.log", lambda w: logged(text_feature=torch.zeros(3, 6)),
         "unknown tensor 'text_feature'; did you mean 'text_features'?"),
    Case("Recorder.log", lambda w: logged(context=torch.zeros(5, 8)),
         "context has shape (5, 8), context had (4, 8) before"),
    Case("Recorder.log", lambda w: logged(g_g=torch.zeros(4, 9)), "g_g has shape (4, 9), a gradient had (4, 8) before"),
    Case("Recorder.log", lambda w: logged(text_features=torch.zeros(3, 6)),
         "text_features has shape (3, 6), but there are 2 classes"),
    Case("Recorder.log", lambda w: logged(method="yours"), "unknown method 'yours'"),
    Case("Recorder.log", lambda w: logged(loss_ce=torch.zeros(3)), "loss_ce has shape (3,)"),
    Case("Recorder.log", lambda w: recorder().log(1, context=torch.zeros(3, 4, 8)),
         "context has shape (3, 4, 8); its first axis must be the 2 methods CoOp, mine"),
    Case("Recorder.end", lambda w: recorder().end(context=torch.zeros(3, 4, 8)),
         "context has shape (3, 4, 8); its first axis must be the 2 methods CoOp, mine"),
    Case("Training.recorder",
         lambda w: Training(w.clip, w.bare, [0], Recipe().checked(w.bare)).recorder(w.tmp / "stored"),
         "[Errno 17] 'TMP/stored' holds a run set", FileExistsError),
    Case("Recipe.checked", lambda w: Recipe(batch_size=0).checked(w.bare), "batch_size must be at least 1, got 0"),
    Case("Recipe.checked", lambda w: Recipe(rule="sun").checked(w.bare), "unknown rule 'sun'; did you mean 'sum'?"),
    Case("finished_runs",
         lambda w: finished_runs(w.tmp / "stored", Training(w.clip, w.bare, [0, 1], Recipe(lr=3).checked(w.bare))),
         "cannot resume 'TMP/stored': the configuration differs (epochs: 2 on disk, 100 given; batch_size: 8 on "
         "disk, 32 given; lr: 0.002 on disk, 3.0 given"),
    Case("finished_runs", lambda w: finished_runs(w.tmp / "headless", None), "run.json in 'TMP/headless' is damaged"),
    Case("Runs.snapshot", lambda w: w.runs.snapshot(99), "no snapshot at step 99"),
    Case("Runs.snapshot", lambda w: w.runs.text(1, -1), "no snapshot at step -1"),
    Case("find_layer", lambda w: find_layer(w.clip, "trunk.layer4"),
         "unknown layer of the image tower 'trunk.layer4'"),
    Case("cam_operator", lambda w: cam_operator(w.vit, torch.zeros(1, 3, 32, 32), target_layer=BLOCK),
         "the score does not depend on the patches at this layer: only the class token"),
    Case("cam_operator", lambda w: cam_operator(w.vit, torch.zeros(1, 3, 32, 32), batch_size=0),
         "batch_size must be at least 1, got 0"),
    Case("cam_operator", lambda w: cam_operator(w.vit, torch.zeros(1, 3, 32, 32), target_layer=torch.nn.Linear(2, 2)),
         "target_layer Linear(in_features=2"),
    Case("grad_cam_maps",
         lambda w: grad_cam_maps(w.vit, torch.zeros(1, 3, 32, 32), torch.ones(1, 24), batch_size=0),
         "batch_size must be at least 1, got 0"),
    Case("grad_cam_maps",
         lambda w: grad_cam_maps(w.vit, torch.zeros(1, 3, 32, 32), torch.ones(1, 24), target_layer=BLOCK,
                                 per_cell=True),
         "the score does not depend on the patches at this layer: only the class token"),
    Case("check_explainer", lambda w: check_explainer("AblationCAM", ["GradCAM"]),
         "AblationCAM is not offered: it exchanges a layer of the model"),
    Case("find_explainer", lambda w: find_explainer("Ocluson"),
         "unknown explainer 'Ocluson'; did you mean 'Occlusion'"),
    Case("find_explainer", lambda w: find_explainer("EigenCAM"), "EigenCAM is not offered: it reads activations alone"),
    Case("Explainer.prepare", lambda w: RISE().prepare(w.vit, torch.zeros(1, 3, 32, 32), target_layer=BLOCK),
         "RISE reads no layer, got target_layer='transformer.resblocks.2'; leave it out"),
    Case("Explainer.prepare", lambda w: RISE(number=0).prepare(w.vit, torch.zeros(1, 3, 32, 32)),
         "number must be at least 2, got 0"),
    Case("Explainer.prepare", lambda w: Occlusion(10, 4).prepare(w.vit, torch.zeros(1, 3, 32, 32)),
         "patch must be a multiple of stride, got 10 and 4"),
    Case("Explainer.prepare", lambda w: Occlusion(64).prepare(w.vit, torch.zeros(1, 3, 32, 32)),
         "patch must be between 1 and 32, got 64"),
    Case("Explainer.prepare", lambda w: Occlusion(fill="gray").prepare(w.vit, torch.zeros(1, 3, 32, 32)),
         "unknown fill 'gray'; known: blur, mean, noise"),
    Case("Explainer.prepare", lambda w: LeGrad(9).prepare(w.vit, torch.zeros(1, 3, 32, 32)).maps(torch.ones(1, 24)),
         "blocks must be between 1 and 3, got 9"),
    Case("reading", lambda w: reading(w.clip, torch.zeros(1, 3, 112, 112)),
         "'pocket' has no attention over all cells of an image; Occlusion works for every tower"),
    Case("cam_maps", lambda w: cam_maps(w.vit, torch.zeros(1, 3, 32, 32), torch.ones(1, 24), explainer="GradCam"),
         "unknown explainer 'GradCam'; did you mean 'GradCAM' or 'XGradCAM' or 'EigenGradCAM'?"),
    Case("cam_maps", lambda w: cam_maps(w.vit, torch.zeros(1, 3, 32, 32), torch.ones(1, 24), batch_size=0),
         "batch_size must be at least 1, got 0"),
    Case("cam_maps", lambda w: cam_maps(w.vit, torch.zeros(1, 3, 32, 32), torch.ones(1, 24), target_layer=BLOCK),
         "the score does not depend on the patches at this layer: only the class token"),
    Case("explorer_data", lambda w: explorer_data(w.runs, "shfted"), "unknown split 'shfted'"),
    Case("foreground", lambda w: foreground(replace(w.runs, task=w.bare), "same"),
         "no split 'same': this task has training images alone ('train'); with fewer shots, or more images, some"),
    Case("explorer_data", lambda w: explorer_data(w.runs, images=0), "images must be at least 1, got 0"),
    Case("explorer_data", lambda w: explorer_data(replace(w.runs, clip=None)),
         "these runs have no model and task in memory"),
    Case("explore", lambda w: explore(w.runs, "new"), "the split 'new' has classes of its own"),
    Case("explore", lambda w: explore(w.runs, images=[999]), "image must be between 0 and 23, got 999"),
    Case("explore", lambda w: explore(w.runs, images=2, target_layer="layer9"),
         "unknown layer of the image tower 'layer9'"),
    Case("explore", lambda w: explore("runs"), "Runs are expected, got 'runs'; open it with load_runs('runs')",
         TypeError),
    Case("explore", lambda w: explore([]), "no run set to explore; give one, or a list"),
    Case("explore", lambda w: explore(w.runs, target="predict"), "unknown target 'predict'; did you mean 'predicted'?"),
    Case("explore", lambda w: explore(w.runs, panels=["map"]), "unknown panel 'map'; did you mean 'maps'?"),
    Case("explore", lambda w: explore(w.runs, data=replace(explorer_data(w.runs, images=2), classes=tuple("abcdef"))),
         "the data shows ('a', 'b')... with features of width 128, these runs were trained on ('umbrella', 'hand')..."),
    Case("run_sets", lambda w: run_sets([w.runs, replace(w.runs, classes=tuple("abcdef"))]),
         "2 run sets that are not seeds of one recipe; give runs that differ in train(seed=) and "
         "few_shot(seed=) alone, or two recipes with the same classes, or one by one"),
    Case("run_sets", lambda w: run_sets([w.runs, w.runs, w.runs]),
         "3 run sets that are not seeds of one recipe; give runs that differ in train(seed=)"),
    Case("ExplorerData.load", lambda w: ExplorerData.load("never.safetensors"),
         "no file never.safetensors; write one with explorer_data(runs).save(path)", FileNotFoundError),
    Case("ExplorerData.load", lambda w: ExplorerData.load(w.tmp / "words.jpg"),
         "TMP/words.jpg holds no data of an explorer (Error while deserializing header"),
    Case("preparation", lambda w: preparation(w.runs, images=[]), "no images given; name at least one by its position"),
    Case("preparation", lambda w: preparation(w.runs, []), "the split 'own' has no images"),
    Case("preparation", lambda w: preparation(w.runs, [w.tmp / "absent.png"])(),
         "image not found: TMP/absent.png", FileNotFoundError),
    Case("preparation", lambda w: preparation(w.runs, [w.tmp / "broken.png"])(),
         "cannot read image TMP/broken.png"),
    Case("plot_view", lambda w: plot_view(w.runs, explorer_data(w.runs, images=1), step=99), "no snapshot at step 99"),
    Case("plot_view", lambda w: plot_view(w.runs, explorer_data(w.runs, images=1), lam=0.3),
         "lambda 0.3 was not trained"),
    Case("plot_view", lambda w: plot_view(w.runs, explorer_data(w.runs, images=1), target="predict"),
         "unknown target 'predict'; did you mean 'predicted'?"),
    Case("ExplorerData.views", lambda w: explorer_data(w.runs, images=1).views(w.runs.text(1)[None], "predict"),
         "unknown target 'predict'; did you mean 'predicted'?"),
    Case("show_maps", lambda w: show_maps(w.runs, split="shfted"), "unknown split 'shfted'"),
    Case("show_maps", lambda w: show_maps(w.runs, images=0), "images must be at least 1, got 0"),
    Case("explore", lambda w: explore([w.runs, w.runs], "shfted"), "unknown split 'shfted'"),
    Case("Explorer.train_lambda", lambda w: (e := explore(w.runs, images=2).wait()).train_lambda(1.5) or e.wait(),
         "lambda must be between 0 and 1, got 1.5"),
    Case("Explorer.wait", lambda w: explore(w.runs, [w.tmp / "absent.png"]).wait(),
         "image not found: TMP/absent.png", FileNotFoundError),
    Case("save_report", lambda w: save_report(w.runs, "never.html", "shfted"), "unknown split 'shfted'"),
    Case("save_report", lambda w: save_report(w.runs, "never.pdf", images=1),
         "a report is an .html file, got 'never.pdf'; name it so"),
    Case("save_report", lambda w: save_report(w.runs, w.tmp, images=1), "'TMP' is a folder; name a file in it",
         IsADirectoryError),
    Case("save_report", lambda w: save_report(w.runs, "never.html", images=0), "images must be at least 1, got 0"),
    Case("save_report", lambda w: save_report(w.runs, "never.html", images=1, target="predict"),
         "unknown target 'predict'; did you mean 'predicted'?"),
    Case("save_report", lambda w: save_report([w.runs, w.runs, w.runs], "never.html", images=1),
         "3 run sets that are not seeds of one recipe; give runs that differ in train(seed=)"),
    Case("save_report",
         lambda w: save_report(w.runs, w.tmp / "never.html",
                               data=replace(explorer_data(w.runs, images=2), classes=tuple("abcdef"))),
         "the data shows ('a', 'b')... with features of width 128, these runs were trained on ('umbrella', 'hand')..."),
    Case("show_landscape", lambda w: show_landscape("runs"),
         "Runs are expected, got 'runs'; open it with load_runs('runs')", TypeError),
    Case("Explorer.show_landscape",
         lambda w: (e := Explorer(replace(w.runs, clip=None), panels=["cosine"])).show_landscape() or e.wait(),
         "these runs have no model and task in memory"),
    Case("Explorer.show_runs", lambda w: Explorer(w.runs, panels=["cosine"]).show_runs("runs"),
         "Runs are expected, got 'runs'; open it with load_runs('runs')", TypeError),
    Case("Explorer.show_photos", lambda w: Explorer(replace(w.runs, clip=None), panels=["cosine"]).show_photos({}),
         "these runs have no model and task in memory"),
    Case("Explorer.table", lambda w: Explorer(w.runs, panels=["cosine"]).table(),
         "this explorer of cosine has no maps; explore(runs) prepares them"),
    Case("plane_arrows", lambda w: plane_arrows("runs", 1), "Runs are expected, got 'runs'", TypeError),
    Case("run_maps", lambda w: run_maps(w.runs, classes=["dgo"], progress=False), "unknown class 'dgo'"),
    Case("run_maps", lambda w: run_maps(w.runs, steps=[99], progress=False), "no snapshot at step 99"),
    Case("run_maps", lambda w: run_maps(w.runs, memory_gb=1e-9, images=1, progress=False),
         "size of all maps in GB must be between 0 and 1e-09, got 1.6464e-05"),
    Case("run_maps", lambda w: run_maps(w.runs, "new", progress=False), "the split 'new' has classes of its own"),
    Case("run_maps", lambda w: run_maps(replace(w.runs, task=None)), "these runs have no model and task in memory"),
    Case("package_maps", lambda w: package_maps(w.vit, torch.zeros(1, 3, 32, 32), torch.ones(1, 24),
                                                explainer="GradCAMM"),
         "unknown explainer 'GradCAMM'; did you mean 'GradCAM' or 'XGradCAM' or 'EigenGradCAM'?"),
    Case("package_maps",
         lambda w: package_maps(w.vit, torch.zeros(1, 3, 32, 32), torch.ones(1, 24), target_layer=BLOCK),
         "the score does not depend on the patches at this layer: only the class token"),
    Case("mask_scores", lambda w: mask_scores(torch.ones(1, 4, 4), torch.ones(1, 4, 5)),
         "maps and masks differ in shape: (1, 4, 4) and (1, 4, 5)"),
    Case("mask_scores", lambda w: mask_scores(torch.ones(2, 4, 4), torch.ones(1, 4, 4)),
         "maps and masks differ in shape: (2, 4, 4) and (1, 4, 4)"),
    Case("mask_scores", lambda w: mask_scores(torch.ones(1, 4, 9), torch.ones(1, 6, 6)),
         "maps and masks differ in shape: (1, 4, 9) and (1, 6, 6)"),
    Case("shown_masks", lambda w: shown_masks(w.clip, masked(w, w.mask[:, :9]), [0]),
         "mask 0 is 112 x 9 but its image is 112 x 112 (rows x columns)"),
    Case("shown_masks", lambda w: shown_masks(w.clip, Split([w.image], [0], ("a", "b")), [0]),
         "this split has no masks"),
    Case("explained_classes", lambda w: explained_classes(torch.ones(1, 2), torch.zeros(1), "predict", ("a", "b")),
         "unknown target 'predict'; did you mean 'predicted'?"),
    Case("explained_names",
         lambda w: explained_names(torch.ones(2, 3), torch.ones(1, 3), torch.tensor([0]), "why", ("dog", "cat")),
         "unknown target 'why'"),
    Case("explained_directions",
         lambda w: explained_directions(torch.ones(2, 3), torch.ones(1, 3), torch.tensor([0]), "why"),
         "unknown target 'why'"),
    Case("foreground", lambda w: foreground(w.runs, "shfted"),
         "unknown split 'shfted'; did you mean 'shifted' or 'style'?"),
    Case("foreground", lambda w: foreground(w.runs, "new"), "the split 'new' has classes of its own"),
    Case("foreground", lambda w: foreground(w.runs, target="why"), "unknown target 'why'"),
    Case("foreground", lambda w: foreground(w.runs, images=0), "images must be at least 1, got 0"),
    Case("foreground", lambda w: foreground(w.runs, images=[999]), "image must be between 0 and 23, got 999"),
    Case("foreground", lambda w: foreground(w.runs, steps=[99]), "no snapshot at step 99"),
    Case("foreground", lambda w: foreground(w.runs, target_layer="layer9"),
         "unknown layer of the image tower 'layer9'"),
    Case("foreground", lambda w: foreground(replace(w.runs, task=None)), "these runs have no model and task in memory"),
    Case("Foreground.summary", lambda w: foreground(w.runs, images=1, random_directions=0).summary("shre"),
         "unknown column 'shre'; did you mean 'share'?"),
    Case("Foreground.summary", lambda w: foreground(w.runs, images=1, random_directions=0).summary(step=99),
         "no rows of step 99; there are [0, "),
    Case("pick_images", lambda w: pick_images(w.runs, "same", images=[0, -1]),
         "image must be between 0 and 23, got -1"),
    Case("plot_cosine", lambda w: plot_cosine(w.runs, lambdas=[0.3]), "lambda 0.3 was not trained"),
    Case("plot_cosine", lambda w: plot_cosine(Recorder(["cat"]).runs()),
         "these runs hold no step yet, so there is nothing to draw; log or train one first"),
    Case("plot_cosine", lambda w: plot_cosine(w.runs, window=0), "window must be at least 1, got 0"),
    Case("plot_token_cosines", lambda w: plot_token_cosines(w.runs, 0.3), "lambda 0.3 was not trained"),
    Case("plot_gradient_plane", lambda w: plot_gradient_plane(w.runs, 0.3, 1), "lambda 0.3 was not trained"),
    Case("plot_gradient_plane", lambda w: plot_gradient_plane(w.runs, 1, 99), "no step 99"),
    Case("plot_maps", lambda w: plot_maps(w.runs, lam=0.3), "lambda 0.3 was not trained"),
    Case("plot_maps", lambda w: plot_maps(w.runs, split="shfted"), "unknown split 'shfted'"),
    Case("plot_maps", lambda w: plot_maps(w.runs, step=99), "no snapshot at step 99"),
    Case("plot_accuracy", lambda w: plot_accuracy(own_runs(w), splits=["same", "new"]),
         "no accuracy on new was recorded; these runs were tested on same"),
    Case("plot_accuracy",
         lambda w: plot_accuracy(replace(w.runs,
             steps=w.runs.steps.assign(**{f"acc_{s}": nan for s in ("same", "shifted", "new", "style")}))),
         "no accuracy on any test set was recorded"),
    Case("plot_accuracy", lambda w: plot_accuracy([w.runs], splits=["sane"]), "unknown split 'sane'"),
    Case("plot_accuracy", lambda w: plot_accuracy([w.runs], lambdas=[0.3]), "lambda 0.3 was not trained"),
    Case("plot_foreground", lambda w: plot_foreground(pd.DataFrame(), "shares"), "unknown column 'shares'"),
    Case("plot_foreground", lambda w: plot_foreground(w.runs),
         "a table is expected, got a Runs; make one with foreground(runs)", TypeError),
    Case("foreground", lambda w: foreground(pd.DataFrame()),
         "Runs are expected, got a DataFrame; give the runs that this table was made of", TypeError),
    Case("plot_cosine", lambda w: plot_cosine("runs"),
         "Runs are expected, got 'runs'; open it with load_runs('runs')", TypeError),
    Case("plot_shots", lambda w: plot_shots(results()),
         "the table has no column 'acc_same', only shots, seed, method, lam, acc_new"),
    Case("plot_shots", lambda w: plot_shots(results().drop(columns="shots"), ["acc_new"]),
         "the table has no column 'shots', only seed, method, lam, acc_new"),
    Case("cells_of", lambda w: cells_of({"shot": [1]}),
         "unknown column of a grid 'shot'; did you mean 'shots' or 'rho' or 'root'?"),
    Case("cells_of", lambda w: cells_of({"shots": []}), "this grid has no cells: {'shots': []}"),
    Case("cells_of", lambda w: cells_of({"lam": [0, 1.5]}), "lambda must be between 0 and 1, got 1.5"),
    Case("cells_of", lambda w: cells_of({"rule": [len]}),
         "rule=<built-in function len> cannot be part of a sweep, whose cells are stored as JSON"),
    Case("cells_of", lambda w: cells_of({"rule": "sun"}), "unknown rule 'sun'; did you mean 'sum'?"),
    Case("cells_of", lambda w: cells_of(pd.DataFrame({"shots": []})), "this grid has no cells"),
    Case("sweep", lambda w: sweep(w.clip, w.task), "a grid is a dict or a DataFrame, got a Clip; such as sweep({",
         TypeError),
    Case("for_print", lambda w: for_print(w.runs), "for_print takes a figure, got a Runs; such as for_print(plot_",
         TypeError),
    Case("sweep", lambda w: sweep({"shots": 1}, w.tmp / "sweep", engine="slurm"), "unknown engine 'slurm'"),
    Case("sweep", lambda w: sweep({"shots": 1}, w.tmp / "sweep", threads=0), "threads must be at least 1, got 0"),
    Case("sweep", lambda w: sweep(None, w.tmp / "no-sweep"), "no sweep in 'TMP/no-sweep'", FileNotFoundError),
    Case("sweep", lambda w: sweep({"shots": 1}, w.tmp / "sweep", gpus=1, progress=False),
         "gpus=1 is for engine='ray', which assigns GPUs"),
    Case("sweep", lambda w: sweep({"shots": 1}, w.tmp / "sweep", workers=0, progress=False),
         "workers must be at least 1, got 0"),
    Case("sweep", lambda w: sweep({"shots": 1}, w.tmp / "sweep", retries=-1, progress=False),
         "retries must be at least 0, got -1"),
    Case("sweep", lambda w: sweep({"shots": 1}, w.tmp / "sweep", evaluate=len),
         "evaluate must be a dict of functions by name, got <built-in function len>"),
    Case("load_sweep", lambda w: load_sweep(w.tmp / "no-sweep"),
         "no sweep in 'TMP/no-sweep': it has no sweep.json; sweep(grid, out) starts one",
         FileNotFoundError),
    Case("Sweep.runs", lambda w: Sweep(w.tmp, cells_of({"seed": 1})).runs(sed=1),
         "unknown column 'sed'; did you mean 'seed'?"),
    Case("interval_of", lambda w: interval_of([1, 2], "u"), "unknown interval 'u'"),
    Case("summarise", lambda w: summarise(results(), interval="z"), "unknown interval 'z'"),
    Case("summarise", lambda w: summarise(results(), confidence=95),
         "confidence must be between 0.5 and 0.9999, got 95"),
    Case("summarise", lambda w: summarise(results().drop(columns="seed")),
         "the table has no column 'seed', only shots, method, lam, acc_new"),
    Case("summarise", lambda w: summarise(results()[:0]), "there are no results to summarise"),
    Case("summarise", lambda w: summarise(results(), by=["shot"]), "unknown column 'shot'; did you mean 'shots'?"),
    Case("summarise", lambda w: summarise(results(), columns=["acc"]), "unknown column 'acc'"),
    Case("summarise", lambda w: summarise(pd.concat([results(), results()])),
         "12 values share shots, method, seed, column with another, such as {'shots': 1, 'method': 'zero-shot CLIP', "
         "'seed': 1, 'column': 'acc_new'}; add the column that distinguishes"),
    Case("summarise", lambda w: summarise(results(), against="CoOpp"), "unknown method 'CoOpp'; did you mean 'CoOp'?"),
    Case("Summary.table", lambda w: summarise(results().query("method != 'CoOp'")).table("acc_new", differences=True),
         "no differences: the results have only"),
    Case("Summary.table", lambda w: summarise(results()).table("acc_nw"),
         "unknown column 'acc_nw'; did you mean 'acc_new'?"),
    Case("Summary.table", lambda w: summarise(results()).table("acc_new", across="shot"), "unknown column 'shot'"),
    Case("for_print", lambda w: for_print(plot_cosine(w.runs), width=0), "width must be between 1 and 40, got 0"),
    Case("for_print", lambda w: for_print(plot_accuracy(w.runs)),
         "the 3 panels of this figure do not fit into 3.3 inches: give it the page, width=6.9"),
    Case("plot_lambda", lambda w: plot_lambda(pd.DataFrame({"lam": [0, 1], "acc_same": [0, 1]}), ["acc_sane"]),
         "the table has no column 'acc_sane', only lam, acc_same"),
    Case("disagreeing", lambda w: disagreeing(w.runs, images=0), "images must be at least 1, got 0"),
    Case("spread_steps", lambda w: spread_steps(w.runs, 0), "n must be at least 1, got 0"),
    Case("on_the_object", lambda w: on_the_object(w.runs, random_directions=-1),
         "random_directions must be at least 0, got -1"),
    Case("on_the_object", lambda w: on_the_object(w.runs, explainers=["Occlusio"]),
         "unknown explainer 'Occlusio'; did you mean 'Occlusion'?"),
    Case("on_the_object", lambda w: on_the_object(w.runs, explainers=[Occlusion(stride=8), Occlusion(stride=16)]),
         "explainers are Occlusion, Occlusion: two of one kind would share columns; take one of each"),
    Case("on_the_object", lambda w: on_the_object(w.runs, images=0), "images must be at least 1, got 0"),
    Case("on_the_object", lambda w: on_the_object(replace(w.runs, task=None)),
         "these runs have no model and task in memory"),
    Case("box_mask", lambda w: box_mask(w.image, (0, 0, 200, 9)),
         "a box must be (left, top, right, bottom) inside its image of 112 x 112 pixels, got (0, 0, 200, 9)"),
    Case("box_mask", lambda w: box_mask(w.image, (9, 0, 9, 9)),
         "a box must be (left, top, right, bottom) inside its image of 112 x 112 pixels, got (9, 0, 9, 9)"),
    Case("grabcut_mask", lambda w: grabcut_mask(w.image[:2, :2]),
         "GrabCut needs at least 16 pixels inside and outside its box, got (0, 0, 2, 2) in an image of 2 x 2"),
    Case("grabcut_mask", lambda w: grabcut_mask(w.image, (0, 0, 112, 112)),
         "GrabCut needs at least 16 pixels inside and outside its box, got (0, 0, 112, 112)"),
    Case("grabcut_mask", lambda w: grabcut_mask(w.image, (-5, 0, 9, 9)),
         "a box must be (left, top, right, bottom) inside its image of 112 x 112 pixels, got (-5, 0, 9, 9)"),
    Case("grabcut_mask", lambda w: grabcut_mask(w.image, steps=0), "steps must be at least 1, got 0"),
    Case("grabcut_mask", lambda w: grabcut_mask(w.tmp / "words.jpg"), "cannot read image TMP/words.jpg"),
    Case("with_masks", lambda w: with_masks(w.task.train, "grabcat"),
         "masks must be 'grabcut', a folder or a list, got 'grabcat', which is not a folder"),
    Case("with_masks", lambda w: with_masks(w.task.train, w.task.train.masks), "masks_from is required"),
    Case("with_masks", lambda w: with_masks(w.task.train, [w.mask], "me"), "24 images but 1 masks"),
    Case("published_draw", lambda w: published_draw([0, 1], [], 0, 1), "shots must be at least 1, got 0"),
    Case("dataset_split", lambda w: dataset_split("oxford_pet", w.toy),
         "unknown data set 'oxford_pet'; did you mean 'oxford_pets' or 'oxford_flowers'?"),
    Case("dataset_split", lambda w: dataset_split("oxford_pets", w.toy, part="tset"),
         "unknown part 'tset'; did you mean 'test'?"),
    Case("dataset_split", lambda w: dataset_split("oxford_pets", w.toy, subset="old"), "unknown subset 'old'"),
    Case("dataset_split", lambda w: dataset_split("oxford_pets", w.toy, masks="box"), "unknown kind of masks 'box'"),
    Case("dataset_split", lambda w: dataset_split("dtd", w.toy),
         "'dtd' needs TMP/toy/dtd/split_zhou_DescribableTextures.json, which does not exist", FileNotFoundError),
    Case("dataset_split", lambda w: dataset_split("oxford_pets"), "'oxford_pets' needs root="),
    Case("dataset_task", lambda w: dataset_task("oxford_pets", 0, root=w.toy), "shots must be at least 1, got 0"),
    Case("dataset_task", lambda w: dataset_task("oxford_pets", 1, root=w.toy, subset="half"), "unknown subset 'half'"),
    Case("dataset_task", lambda w: dataset_task("oxford_pets", 1, root=w.toy, template="pet"),
         "a template needs exactly one {}, got 'pet'"),
    Case("dataset_task", lambda w: dataset_task("oxford_pets", 1, root=w.toy, files=["nobody.jpg"]),
         "'oxford_pets' has no training image 'nobody.jpg'"),
    Case("dataset_task", lambda w: dataset_task("oxford_pets", 1, root=w.tmp / "nowhere"),
         "'oxford_pets' needs TMP/nowhere/oxford_pets/split_zhou_OxfordPets.json", FileNotFoundError),
    Case("group_table", lambda w: group_table(w.task), "the task 'pocket' has no groups"),
    Case("toy_pets", lambda w: toy_pets(w.tmp / "odd", ("cat", "dgo")), "unknown noun 'dgo'"),
    Case("table_task", lambda w: table_task([1, 2], 1), "data must be a name, a folder or a DataFrame, got list"),
    Case("table_task", lambda w: table_task(pd.DataFrame({"file": ["a"]}), 1),
         "the table has no column 'path', only ['file']"),
    Case("table_task", lambda w: table_task(pd.DataFrame({"path": ["a", "b"], "label": ["x", None]}), 1),
         "the column 'label' has an empty cell in row 1"),
    Case("table_task", lambda w: table_task(pd.DataFrame({"path": ["a"], "label": ["x"]}), 1),
         "a task needs at least two classes, got ['x']"),
    Case("table_task",
         lambda w: table_task(pd.DataFrame({"path": ["a", "b", "./a"], "label": ["x", "y", "y"]}), 1, root="/r"),
         "/r/a has more than one label in the table"),
    Case("table_task", lambda w: table_task(pd.DataFrame({"path": ["a", "b"], "label": ["hot_dog", "hot dog"]}), 1),
         "'hot dog' and 'hot_dog' both read as the class 'hot dog'"),
    Case("table_task",
         lambda w: table_task(pd.DataFrame({"path": ["a", "b", "a"], "label": ["x", "y", "x"],
             "split": ["train", "train", "test"]}), 1, root="/r"),
         "/r/a has more than one split in the table"),
    Case("table_task",
         lambda w: table_task(pd.DataFrame({"path": ["a", "b"], "label": ["x", "y"], "split": ["Train", "test"]}), 1),
         "no row has split 'train', only 'Train', 'test'"),
    Case("table_task", lambda w: table_task(pd.DataFrame({"path": ["a", "b"], "label": ["x", "y"]}), 0),
         "shots must be at least 1, got 0"),
    Case("torchvision_task", lambda w: torchvision_task("torchvision:DTDs", 1, root=w.tmp),
         "unknown torchvision data set 'DTDs'; did you mean 'DTD'?"),
    Case("torchvision_task", lambda w: torchvision_task("torchvision:DTD", 1), "'torchvision:DTD' needs root="),
    Case("torchvision_task", lambda w: torchvision_task("torchvision:DTD", 1, root=w.tmp),
         "torchvision cannot load DTD from TMP: Dataset not found. You can use download=True", OSError),
    Case("accuracy_on", lambda w: accuracy_on(replace(w.runs, task=None), w.task.tests["new"]),
         "these runs have no model and task in memory"),
    Case("accuracy_on", lambda w: accuracy_on(w.runs, Split([], [], ("a", "b"))), "the split has no images to test on"),
    Case("accuracy_on", lambda w: accuracy_on(w.runs, w.task.tests["new"], template="a photo"),
         "teacher templates need exactly one {} each, got ['a photo']"),
    Case("group_accuracy", lambda w: group_accuracy(w.runs, w.task.tests["same"]), "this split has no groups"),
    Case("few_shot_protocol", lambda w: few_shot_protocol(w.clip, "pockt"),
         "unknown data set or folder of images 'pockt'"),
    Case("few_shot_protocol", lambda w: few_shot_protocol(w.clip, []),
         "names, shots, seeds and lambdas need at least one value each, got []"),
    Case("few_shot_protocol", lambda w: few_shot_protocol(w.clip, "pocket", 0, progress=False),
         "shots must be at least 1, got 0"),
    Case("few_shot_protocol", lambda w: few_shot_protocol(w.clip, "pocket", 1, 1, [1.5], progress=False),
         "lambda must be between 0 and 1, got 1.5"),
    Case("few_shot_protocol", lambda w: few_shot_protocol(w.clip, "pocket", 1, -1, progress=False),
         "seed must be between 0 and 18446744073709551615, got -1"),
    Case("base_to_new", lambda w: base_to_new(w.clip, str(w.pets), 1, 1, [0], progress=False),
         "unknown data set with base and new classes 'TMP/pets'; known: pocket, caltech101"),
    Case("cross_dataset", lambda w: cross_dataset(w.clip, "pocket", ["dtds"]),
         "unknown target data set 'dtds'; did you mean 'dtd'?"),
    Case("cross_dataset", lambda w: cross_dataset(w.clip, "pocket", ["dtd"], data={"root": w.toy}),
         "'dtd' needs TMP/toy/dtd/split_zhou_DescribableTextures.json, which does not exist", FileNotFoundError),
    Case("domain_generalisation", lambda w: domain_generalisation(w.clip, data={"root": w.toy}),
         "'imagenetv2' needs TMP/toy/imagenetv2/classnames.txt, which does not exist", FileNotFoundError),
    Case("paper_table", lambda w: paper_table(pd.DataFrame({"accurcy": [1]})),
         "the table has no column 'dataset', only accurcy; give the table of a protocol"),
    Case("paper_table", lambda w: paper_table(w.runs), "a table is expected, got a Runs", TypeError),
    Case("find_rule", lambda w: find_rule("pcgrd"), "unknown rule 'pcgrd'; did you mean 'pcgrad' or 'prograd'?"),
    Case("find_rule", lambda w: find_rule(lambda a, b: a),
         "rule '<lambda>' must take one argument, the Signals of a step, such as lambda s: s.g_d + 0.5 * s.g_g; it "
         "takes 2"),
    Case("find_rule", lambda w: find_rule(3), "unknown rule 3"),
    Case("check_strengths", lambda w: check_strengths("gated", [1.5]),
         "strength of rule 'gated' must be between 0 and 1, got 1.5"),
    Case("check_strengths", lambda w: check_strengths("coop", [1]), "strength of rule 'coop' must be 0, got 1"),
    Case("check_strengths", lambda w: check_strengths("sum", [-1]),
         "strength of rule 'sum' must be at least 0, got -1"),
    Case("check_strengths", lambda w: check_strengths("sum", []), "no strength of rule 'sum' given"),
    Case("check_strengths", lambda w: check_strengths(lambda x: x.g_d, [nan]),
         "strength of rule '<lambda>' must be at least -inf, got nan"),
    Case("check_strengths", lambda w: train(w.clip, w.bare, [2, 2], rule="sum"), "lambda 2 is given more than once"),
    Case("steering", lambda w: train(w.clip, w.bare, [1], rule=lambda x: x.g_d[0], epochs=1, views=0, progress=False),
         "rule '<lambda>' must return a direction for every run"),
    Case("steering", lambda w: train(w.clip, w.bare, [1], rule=lambda x: None, epochs=1, views=0, progress=False),
         "rule '<lambda>' must return a direction for every run, a tensor of shape (1, 4, 128), got None"),
    Case("steering", lambda w: steering("l3", None, None, None, None), "unknown rule 'l3'; did you mean 'l2'?"),
    Case("read_context", lambda w: read_context(w.tmp / "absent"), "no checkpoint at TMP/absent", FileNotFoundError),
    Case("read_context", lambda w: read_context(w.tmp / "words.jpg"), "cannot read TMP/words.jpg"),
    Case("read_context", lambda w: read_context(w.tmp / "weightless"), "cannot read TMP/weightless"),
    Case("load_published", lambda w: load_published(w.tmp / "absent", w.clip, w.task),
         "no file or folder TMP/absent; give the OUTPUT_DIR of a training", FileNotFoundError),
    Case("load_published", lambda w: load_published(w.tmp / "weightless", w.clip, w.task),
         "no model.pth.tar-N in TMP/weightless; give the OUTPUT_DIR", FileNotFoundError),
    Case("load_published", lambda w: load_published({0: w.pets}, w.clip, w.task),
         "no model.pth.tar-N in TMP/pets", FileNotFoundError),
    Case("find_published", lambda w: find_published(w.tmp / "absent"),
         "no model.pth.tar-N below TMP/absent; give the folder output/", FileNotFoundError),
    Case("published_results", lambda w: published_results(w.tmp / "absent", w.clip),
         "no model.pth.tar-N below TMP/absent; give the folder output/", FileNotFoundError),
    Case("run_prompts", lambda w: run_prompts(replace(w.runs, task=None)),
         "these runs have no model and task in memory"),
    Case("run_prompts", lambda w: run_prompts(w.runs, ["dog"]), "a task needs at least two classes, got ['dog']"),
    Case("run_prompts", lambda w: run_prompts(w.runs, ["dog", "dgo"]),
         "the model 'pocket' was never trained on 'dgo' in 'a photo of a dgo.'"),
    Case("class_features", lambda w: class_features(w.runs, 0.3), "lambda 0.3 was not trained"),
    Case("class_features", lambda w: class_features(w.runs, 1, step=99), "no snapshot at step 99"),
    Case("class_features", lambda w: class_features(w.runs, None, classes=["dgo", "dog"]),
         "the model 'pocket' was never trained on 'dgo' in 'a photo of a dgo.'"),
    Case("class_features", lambda w: class_features("runs/mine", 1),
         "Runs are expected, got 'runs/mine'; open it with load_runs('runs/mine')", TypeError),
    Case("predict", lambda w: predict("runs/mine", w.image, 1), "Runs are expected, got 'runs/mine'", TypeError),
    Case("predict", lambda w: predict(w.runs, [], 1), "no images to predict"),
    Case("predict", lambda w: predict(w.runs, [w.tmp / "broken.png"], 1), "cannot read image TMP/broken.png"),
    Case("predict", lambda w: predict(w.runs, w.image, 0.3), "lambda 0.3 was not trained"),
    Case("predict", lambda w: predict(replace(w.runs, clip=None), w.image, 1), "these runs have no model in memory"),
    Case("predictions", lambda w: predictions(w.runs, "shfted"), "unknown split 'shfted'"),
    Case("predictions", lambda w: predictions(w.runs, step=99), "no snapshot at step 99"),
    Case("predictions", lambda w: predictions(replace(w.runs, task=None)),
         "these runs have no model and task in memory"),
    Case("predictions", lambda w: predictions(results()), "Runs are expected, got a DataFrame", TypeError),
    Case("accuracy_on", lambda w: accuracy_on(w.tmp), "Runs are expected, got 'TMP'; open it", TypeError),
    Case("group_accuracy", lambda w: group_accuracy([w.runs]), "Runs are expected, got a list", TypeError),
    Case("calibration", lambda w: calibration(pd.DataFrame(), 0), "bins must be at least 1, got 0"),
    Case("calibration", lambda w: calibration(w.runs), "a table is expected, got a Runs", TypeError),
    Case("per_class", lambda w: per_class(results()), "the table has no column 'label', only shots, seed, method"),
    Case("Runs.split", lambda w: w.runs.split("shfted"), "unknown split 'shfted'"),
    Case("Runs.split", lambda w: w.runs.split(12), "split must be a name (train, ", TypeError),
    Case("explore", lambda w: explore(w.runs, 12), "split must be a name (train, ", TypeError),
    Case("landscape", lambda w: landscape(w.runs, "shfted"), "unknown split 'shfted'"),
    Case("export_prompt", lambda w: export_prompt(w.runs, w.tmp / "never", 0.3), "lambda 0.3 was not trained"),
    Case("export_prompt", lambda w: export_prompt(w.runs, w.tmp / "never", 1, step=99), "no snapshot at step 99"),
    Case("export_prompt", lambda w: export_prompt(replace(w.runs, clip=None), w.tmp / "never", 1),
         "these runs have no model and task in memory"),
    Case("context_losses", lambda w: context_losses(w.runs, torch.zeros(1, 4, 128), memory_gb=0),
         "memory_gb must be at least 0.001, got 0"),
    Case("landscape", lambda w: landscape(w.runs, size=1), "size must be at least 2, got 1"),
    Case("landscape", lambda w: landscape(results()), "Runs are expected, got a DataFrame", TypeError),
    Case("plot_landscape", lambda w: plot_landscape(w.runs, columns=["loss"]), "unknown column 'loss'"),
    Case("plot_tradeoff", lambda w: plot_tradeoff(w.runs, "loss_c"),
         "unknown column 'loss_c'; did you mean 'loss_ce'"),
    Case("plot_tradeoff", lambda w: plot_tradeoff(w.runs, window=0), "window must be at least 1, got 0"),
    Case("nearest_tokens", lambda w: nearest_tokens(w.clip, torch.zeros(1, 128), top=0),
         "top must be between 1 and 243, got 0"),
    Case("nearest_tokens", lambda w: nearest_tokens(w.clip, torch.zeros(1, 128), top=10**6),
         "top must be between 1 and 243, got 1000000"),
    Case("read_context_words", lambda w: read_context_words(w.runs, 0.3), "lambda 0.3 was not trained"),
    Case("read_context_words", lambda w: read_context_words(w.runs, 1, steps=[99]), "no snapshot at step 99"),
    Case("read_context_words", lambda w: read_context_words(w.runs, 1, steps=0), "steps must be at least 1, got 0"),
    Case("read_context_words", lambda w: read_context_words(w.runs, 1, name="dog"),
         "a unified context has no class of its own: leave name at None, got name='dog'"),
    Case("read_context_words", lambda w: read_context_words(replace(w.runs, clip=None), 1),
         "these runs have no model in memory"),
    Case("plot_words", lambda w: plot_words(w.runs, [0.3]), "lambda 0.3 was not trained"),
    Case("plot_words", lambda w: plot_words(w.runs, steps=[99]), "no snapshot at step 99"),
    Case("map_scores",
         lambda w: map_scores(w.clip, w.task.train.tensor(w.clip, [0]), torch.ones(1, 2, 2), torch.zeros(6, 128), [0],
             columns=["rod"]),
         "unknown column 'rod'; did you mean 'road'?"),
    Case("map_scores", lambda w: map_scores(w.clip, None, None, None, None, percentiles=[100]),
         "percentile must be between 1 and 99, got 100"),
    Case("map_curves", lambda w: map_curves(w.clip, None, None, None, None, parts=1),
         "parts must be at least 2, got 1"),
    Case("score_summary", lambda w: score_summary(w.runs.final()), "the table has no column 'split'"),
    Case("plot_faithfulness", lambda w: plot_faithfulness(w.runs.final()), "the table has no column 'split'"),
    Case("with_shuffled_weights", lambda w: with_shuffled_weights(w.clip, ["trunk.stem.conv.wieght"]),
         "unknown weight of the image tower 'trunk.stem.conv.wieght'; did you mean 'trunk.stem.conv.weight'"),
    Case("weights_check", lambda w: weights_check(w.runs, stages=99),
         "stages must be between 1 and 6, got 99; the image tower has 6 blocks"),
    Case("stability", lambda w: stability(w.runs, explainers=["GradCAM"]), "stability compares two explainers, got 1"),
    Case("methods_at", lambda w: methods_at(w.runs, [99]), "no snapshot at step 99"),
    Case("faithfulness", lambda w: faithfulness(w.runs, "shfted"), "unknown split 'shfted'"),
    Case("faithfulness", lambda w: faithfulness(w.runs, target="contrast"), "unknown target 'contrast'"),
    Case("faithfulness", lambda w: faithfulness(w.runs, step=99), "no snapshot at step 99"),
    Case("faithfulness", lambda w: faithfulness(w.runs, random_directions=-1),
         "random_directions must be at least 0, got -1"),
    Case("faithfulness", lambda w: faithfulness(w.runs, images=0), "images must be at least 1, got 0"),
    Case("without_object", lambda w: without_object(w.task.train.image(0), w.mask, -1),
         "rim must be at least 0, got -1"),
    Case("composites", lambda w: composites(w.task.train, [0]),
         "backgrounds are swapped between classes, but all 1 images are of class 'umbrella'; give images of two "
         "classes or more"),
    Case("composites", lambda w: composites(Split([w.image] * 2, [0, 1], ("a", "b")), [0, 1]),
         "this split has no masks"),
    Case("causal_checks", lambda w: causal_checks(w.runs, "shfted"), "unknown split 'shfted'"),
    Case("causal_checks", lambda w: causal_checks(w.runs, images=[999]), "image must be between 0 and 23, got 999"),
    Case("causal_checks", lambda w: causal_checks(w.runs, "new"), "the split 'new' has classes of its own"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", BAD, ids=lambda c: f"{c.name}-{c.begins[:40]}")
def test_what_is_wrong_is_named_in_the_error(w, case):
    with pytest.raises(case.error) as e: case.call(w)
    assert type(e.value) is case.error
    begins = case.begins
    for word, meant in {"TMP": w.tmp, "TINY": w.vit.name, "HERE": Path.cwd(), "HOME": Path.home()}.items():
        begins = begins.replace(word, str(meant))
    assert str(e.value).startswith(begins)


def test_the_table_of_bad_calls_is_long_and_every_row_is_another():
    assert len({case.call.__code__ for case in BAD}) == len(BAD) >= 260


# -- bad input with a stated, sensible result ---------------------------------

def test_more_shots_than_there_are_takes_all_with_a_warning(w):
    with pytest.warns(UserWarning, match="fewer than 5 images for cat, dog: using all"):
        task = few_shot(w.pets, shots=5)
    assert len(task.train) == 6 and task.tests == {}
    with pytest.warns(UserWarning, match="fewer than 3 images for b"):
        drawn = few_shot_sample(["a", "b", "a", "a", "a"], 3, 1)
    assert len(drawn) == 4 and drawn[-1] == 1 and set(drawn) <= {0, 1, 2, 3, 4}


def test_an_all_zero_mask_is_nan_and_counted_as_empty(w):
    table = mask_scores(torch.ones(1, 4, 4), torch.zeros(1, 4, 4))
    assert table["empty"].all() and table[["share", "preference", "hit", "iou"]].isna().all().all()
    assert table["area"].item() == 0
    data = w.task.train
    hidden = Split(data.images, data.labels, w.task.classes, [np.zeros((112, 112), bool), *data.masks[1:]])
    table = foreground(replace(w.runs, task=Task("hidden", hidden, {})), "train", images=[0, 5],
                       explainer=Occlusion(stride=16), random_directions=2).rows
    first = table["image"] == 0
    assert table.loc[first, "empty"].all() and table.loc[first, "share"].isna().all()
    assert not table.loc[~first, "empty"].any() and table.loc[~first, "share"].between(0, 1).all()


def test_an_all_zero_map_is_nan_and_counted_as_empty():
    table = mask_scores(torch.zeros(2, 4, 4), torch.ones(2, 4, 4))
    assert table["empty"].all() and table["share"].isna().all()


def test_an_unknown_token_can_be_let_through_with_a_warning(w):
    with pytest.warns(UserWarning, match="never trained on 'dgo'"):
        assert w.clip.tokenize(["a photo of a dgo."], allow_unknown=True).shape == (1, 77)


def test_one_lambda_as_a_number_is_one_run(w):
    assert train(w.clip, w.bare, 0.5, epochs=1, views=0, progress=False).lambdas == (0.5,)


def test_a_set_smaller_than_a_batch_is_one_batch(w):
    runs = train(w.clip, w.bare, [1], **SHORT | {"batch_size": 1000})
    assert runs.steps["step"].max() == 2


def test_a_task_without_tests_trains_and_says_nan(w):
    runs = train(w.clip, w.bare, [1], epochs=1, views=0, progress=False)
    assert runs.steps[["acc_same", "acc_shifted", "acc_new", "acc_style"]].isna().all().all()
    assert runs.steps["acc_train"].notna().any()


def test_class_specific_contexts_say_nothing_about_new_classes(w):
    runs = train(w.clip, w.task, [1], epochs=1, init="random", n_ctx=4, class_specific=True, views=0, progress=False)
    assert runs.steps["acc_new"].isna().all() and runs.steps["acc_same"].notna().any()


# -- documentation ------------------------------------------------------------

MODULES = sorted(p for p in Path(prograd_viz.__file__).parent.glob("*.py") if not p.name.startswith("_"))


def named(nodes, *kinds): return [n for n in nodes if isinstance(n, kinds) and not n.name.startswith("_")]


def public(path):
    "(name, node) of the public functions and classes of a module, and of the public methods of its public classes"
    for node in named(ast.parse(path.read_text(encoding="utf-8")).body, ast.FunctionDef, ast.ClassDef):
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{n.name}", n) for n in named(node.body, ast.FunctionDef))


def is_property(node):
    names = [d.id for d in node.decorator_list if isinstance(d, ast.Name)]
    return "property" in names or "cached_property" in names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_every_public_function_and_class_has_a_docstring(path):
    assert not [name for name, node in public(path) if not is_property(node) and not ast.get_docstring(node)]


def comment_lines(path):
    "Lines of a module that have a comment"
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    return {t.start[0] for t in tokens if t.type == tokenize.COMMENT and len(t.string) > 2}


def parameters(name, node):
    "(full name, node) of the parameters of a function or the fields of a class"
    if isinstance(node, ast.ClassDef):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and not n.target.id.startswith("_")]
        return [(f"{name}.{n.target.id}", n) for n in fields]
    a = node.args
    every = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
    return [(f"{name}({p.arg})", p) for p in every if p.arg not in ("self", "cls")]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_every_public_parameter_and_field_has_a_comment(path):
    "A docment: the rest of the line after a parameter or a dataclass field says what it is"
    commented = comment_lines(path)
    every = [pair for name, node in public(path) for pair in parameters(name, node)]
    assert not [name for name, node in every if node.end_lineno not in commented]


def test_the_library_was_there_to_be_read():
    assert {"training", "gradients", "clip", "data"} <= {p.stem for p in MODULES}
    assert sum(len(list(public(p))) for p in MODULES) > 60


# These take tensors, tables or paths that the library made itself, or nothing that can be wrong
INNER = """
    Clip.arithmetic Clip.encode_image Clip.fingerprint Clip.unrounded Contents.check Contents.seal DirectMaps.by_text
    DirectMaps.maps Evaluator.accuracies Evaluator.teacher_logits Explainer.check Explorer.figure Explorer.here
    Explorer.save ExplorerData.save ExplorerData.view Folder.version Job.part Lock.release MapOperator.by_text
    MapOperator.maps Part.check Part.encode Part.span Recorder.close Recorder.runs Runs.check_contexts Runs.check_model
    Runs.conflicts Runs.ends Runs.final Runs.name Runs.results Runs.rule Runs.shown Runs.sorted_keys Runs.strength
    Runs.text Runs.thinned ScoreCAM.check Split.fingerprint Split.fresh_features Split.image Split.tensor Sweep.results
    Task.fingerprint Trace.maps Training.accuracies Training.batches Training.config Training.descend Training.final
    Training.restore Training.state Work.start Work.stop Work.wait Writer.publish about_masks along at_cells attend
    augmentation base_and_new blank blocks_of buffer build_pocket check_once check_reader clearest_conflict colour
    contact_sheet cross_entropy declare_missing demo_explainer directions_of draw_cosine draw_image draw_map draw_note
    draw_rows each_image encoded epoch_batches exif_orientation explainer_table feature_distance feature_gradient figure
    gradient_arrows harmonic_mean has_fast_path in_this_thread is_archive jobs_of kl_to_teacher label land_buffer
    layer_names learning_rate listed map_agreement mean_interval named_lambda new_file open_parts openai_state plain
    plain_text_features plot_angles prompt_gradients published_epochs published_lambda published_numbers random_scenes
    readable report resize_maps rule_of run_colour run_name runs_buffer runs_title save_demo scene_buffer set_names
    sha256 shown_image split_name square_safe steps_table text_features token_grid token_texts tower_blocks trace
    trained_as undisturbed unusual_preprocessing upright_mask usual_name with_random without_bars without_waiting
    write_whole
""".split()
ELSEWHERE = ["prograd_demo", "prograd_verify"]  # test_cli.py, test_survival.py


def test_every_public_function_that_takes_what_a_person_types_has_a_bad_call():
    found = [pair for path in MODULES if path.stem != "pretrain" for pair in public(path)]
    every = {name for name, node in found if isinstance(node, ast.FunctionDef) and not is_property(node)}
    assert every - {case.name for case in BAD} == {*INNER, *ELSEWHERE}
