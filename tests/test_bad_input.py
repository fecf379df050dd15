"Bad input gets an error that names the bad value, or a stated, sensible result; and every parameter says what it is for."
import ast
import hashlib
import io
import json
import math
import os
import tempfile
import tokenize
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import prograd_viz
from prograd_viz.cam import cam_maps, cam_operator, explained_directions, foreground, measure, package_maps, pick_images, run_maps, shown_masks, target_layer
from prograd_viz.checks import check_draw, check_in_range, check_known, check_seed, check_whole
from prograd_viz.cli import on_the_object, spread_steps
from prograd_viz.clip import load_clip, open_clip
from prograd_viz.data import Split, Task, check_classes, few_shot_sample
from prograd_viz.datasets import dataset_split, dataset_task, group_table, published_draw
from prograd_viz.evaluate import accuracy_on, calibration, class_features, group_accuracy, predict, predictions, run_prompts
from prograd_viz.faithful import causal_checks, composites, faithfulness, map_scores, without_object
from prograd_viz.gradients import check_lambdas, project
from prograd_viz.images import class_folders, image_files, mask_of, open_image, open_mask
from prograd_viz.masks import box_mask, folder_masks, grabcut_mask, with_masks
from prograd_viz.plots import plot_accuracy, plot_cosine, plot_foreground, plot_gradient_plane, plot_lambda, plot_maps, plot_shots, plot_token_cosines
from prograd_viz.pocket import Scene, caption, render
from prograd_viz.prompts import make_prompts, teacher_features
from prograd_viz.protocols import base_to_new, cross_dataset, domain_generalisation, few_shot_protocol, paper_table
from prograd_viz.report import report_data, save_report
from prograd_viz.runs import load_runs, save_runs
from prograd_viz.runs import Recorder
from prograd_viz.store import Contents, Folder, Part, PartFile, Writer, read_contents, repair, verify
from prograd_viz.published import export_prompt, load_published, read_context
from prograd_viz.rules import check_strengths, find_rule, steering
from prograd_viz.scenes import Scenes, prepare, scene_parts
from prograd_viz.summary import interval_of, summarise
from prograd_viz.sweep import Sweep, cells_of, load_sweep, sweep
from prograd_viz.tasks import few_shot, folder_task, frame_task, pocket_task, torchvision_task, toy_pets
from prograd_viz.training import Recipe, Training, finished_runs, train, train_more
from prograd_viz.widgets import Dial, Explorer, Gallery, compare, explore, show_maps
from prograd_viz.words import nearest_tokens, plot_words, read_context_words

nan, inf = math.nan, math.inf


@pytest.fixture(scope="module")
def w(clip, tiny, task, bare, tmp_path_factory):
    "What the bad calls below are about"
    tmp = tmp_path_factory.mktemp("bad")
    pets = tmp / "pets"
    for name in ("cat", "dog"):
        (pets / name).mkdir(parents=True)
        for i in range(3): Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(pets / name / f"{i}.png")
    (tmp / "one" / "cat").mkdir(parents=True)
    (tmp / "hollow" / "cat").mkdir(parents=True), (tmp / "hollow" / "dog").mkdir()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp / "hollow" / "cat" / "a.png")
    (tmp / "void" / "cat").mkdir(parents=True), (tmp / "void" / "dog").mkdir()
    (tmp / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not an image")
    (tmp / "words.jpg").write_text("hello")
    (tmp / "weights.pt").write_text("hello")
    (tmp / "weights.safetensors").write_text("hello")
    (tmp / "weightless").mkdir(), (tmp / "configured").mkdir()
    (tmp / "configured" / "open_clip_config.json").write_text(json.dumps({"model_cfg": open_clip.get_model_config(tiny(precision="fp32").name), "preprocess_cfg": {}}))
    runs = train(clip, task, [0, 1], epochs=2, batch_size=8, views=0, progress=False)
    toy = toy_pets(tmp / "toy", per_class=6)
    for name in ("stored", "torn", "flipped", "headless", "bare"): runs.save(tmp / name)
    first = "part-00001.safetensors"
    at = read_contents(Folder.of(tmp / "stored")).parts[0].span("contexts")[0] + 9
    flip = lambda b: b[:at] + bytes([b[at] ^ 1]) + b[at + 1:]
    for name, file, spoil in (("torn", first, lambda b: b[:-1]), ("flipped", first, flip), ("headless", "run.json", lambda b: b"{}")):
        (tmp / name / file).write_bytes(spoil((tmp / name / file).read_bytes()))
    (tmp / "bare" / first).unlink()
    (tmp / "swept").mkdir(), (tmp / "swept" / "sweep.json").write_text("{}")
    (tmp / "begun").mkdir(), (tmp / "others").mkdir()
    (tmp / "others" / "part-00001.safetensors").write_text("mine")
    (tmp / "linked").mkdir()
    os.symlink("/etc/hostname", tmp / "linked" / "run.json")
    image, mask = render(Scene("dog", "sand"))
    return SimpleNamespace(clip=clip, vit=tiny(precision="fp32"), task=task, bare=bare, tmp=tmp, pets=pets, toy=toy, configured=tmp / "configured", runs=runs, image=image, mask=mask,
                           g=torch.ones(1, 2, 3), names=["dog", "cat"], empty=Task("empty", Split([], [], task.classes), {}))


SHORT = {"epochs": 2, "batch_size": 8, "views": 0, "progress": False}  # as w.runs were trained


def part(w): return read_contents(Folder.of(w.tmp / "stored")).parts[0]


def written(w, call):
    "Try something with a writer of a folder of its own"
    with Writer(Path(tempfile.mkdtemp(dir=w.tmp))) as writer:
        writer.begin({}, 5)
        call(writer)


def block(**changed):
    "One step for `Writer.add`"
    rows = {"record": np.ones((1, 2, 3)), "token_cos": np.ones((1, 2, 4))}
    states = {"contexts": np.ones((1, 2, 4, 3)), "text_features": np.ones((1, 2, 5, 7))} | changed
    return {"steps": [1], "snapshots": [0], "rows": rows, "states": states, "once": {}}


def recorder(**options): return Recorder(["cat", "dog"], ["CoOp", "mine"], **options)


def logged(**options):
    "What a recorder says to a second step"
    record = Recorder(["cat", "dog"], "mine")
    record.log(1, context=torch.zeros(4, 8), g_d=torch.zeros(4, 8), text_features=torch.zeros(2, 6))
    record.log(**{"step": 2} | options)


def sealed(text): return b'{"sha256":"%s","run":%s}\n' % (hashlib.sha256(text).hexdigest().encode(), text)


def own_task(w): return replace(w.bare, train=replace(w.bare.train, labels=[0, 1], images=w.bare.train.images[:2], classes=("cat", "dog"), masks=None), tests={})


def own_runs(w): return replace(w.runs, steps=w.runs.steps.assign(acc_shifted=nan, acc_new=nan, acc_style=nan))


def results(): return pd.DataFrame([{"shots": k, "seed": s, "method": m, "lam": lam, "acc_new": 0.5} for k in (1, 2) for s in (1, 2) for m, lam in (("zero-shot", nan), ("CoOp", 0.0), ("ProGrad 1", 1.0))])


def masked(w, mask): return Split([w.image], [0], ("a", "b"), [mask])


# function -> rows of (call, what its message must say)
BAD = {
    "check_known": [(lambda w: check_known("fruit", "appel", ["apple", "pear"]), "unknown fruit 'appel'; did you mean 'apple'?"),
                    (lambda w: check_known("fruit", "zzz", ["apple", "pear"]), "known: apple, pear")],
    "check_in_range": [(lambda w: check_in_range("width", 3, 0, 1), "width must be in [0, 1], got 3"), (lambda w: check_in_range("width", nan, 0), "nan"),
                       (lambda w: check_in_range("width", "wide", 0), "'wide'"), (lambda w: check_in_range("width", None, 0), "None")],
    "check_whole": [(lambda w: check_whole("count", 2.5), "2.5"), (lambda w: check_whole("count", 0), "got 0"), (lambda w: check_whole("count", "two"), "'two'"),
                    (lambda w: check_whole("count", nan), "nan"), (lambda w: check_whole("count", inf), "inf"), (lambda w: check_whole("count", 7, 1, 5), "got 7")],
    "check_seed": [(lambda w: check_seed(2**64), "seed must be in [0, 18446744073709551615], got 18446744073709551616"),
                   (lambda w: check_seed(1.5), "seed must be a whole number, got 1.5")],
    "check_draw": [(lambda w: check_draw(2.5, 1), "shots must be a whole number, got 2.5"),
                   (lambda w: check_draw("2", 1), "got '2'; 1, 2, 4, 8 and 16 are usual"),
                   (lambda w: check_draw(2, -1), "got -1")],
    "load_clip": [(lambda w: load_clip("RN5O", "openai"), "unknown CLIP architecture 'RN5O'; did you mean 'RN50'"), (lambda w: load_clip("zzzz", "openai"), "'zzzz'"),
                  (lambda w: load_clip("RN50"), "'RN50' needs weights"), (lambda w: load_clip("RN50", "opnai"), "'opnai'; did you mean 'openai'"),
                  (lambda w: load_clip("RN50", w.tmp / "absent.pt"), "absent.pt"), (lambda w: load_clip("RN50", "openai", quick_gelu=False), "quick_gelu=False"),
                  (lambda w: load_clip("pocket", "openai"), "got 'openai'"), (lambda w: load_clip("pocket", str(w.tmp / "absent.safetensors")), "absent.safetensors"),
                  (lambda w: load_clip(precision="fp8"), "'fp8'"), (lambda w: load_clip(w.vit.name, str(w.tmp / "weights.pt")), "weights.pt"),
                  (lambda w: load_clip(w.vit.name, str(w.tmp / "weights.safetensors")), "weights.safetensors"), (lambda w: load_clip("pocket", str(w.tmp / "weights.safetensors")), "weights.safetensors"),
                  (lambda w: load_clip(f"local-dir:{w.tmp / 'absent'}"), "absent"), (lambda w: load_clip(f"local-dir:{w.tmp / 'weightless'}"), "weightless"),
                  (lambda w: load_clip(f"local-dir:{w.configured}"), "configured"), (lambda w: load_clip(f"local-dir:{w.configured}", "openai"), "brings its own weights"),
                  (lambda w: load_clip("hf-hub:nobody/nothing"), "nobody/nothing")],
    "Clip.tokenize": [(lambda w: w.clip.tokenize(["a photo of a dgo."]), "'dgo' in 'a photo of a dgo.'"), (lambda w: w.clip.tokenize(["dog " * 80]), "80 tokens"), (lambda w: w.clip.tokenize([""]), "non-empty string, got ''"),
                      (lambda w: w.clip.tokenize([None]), "got None"), (lambda w: w.vit.tokenize(["word " * 76]), "76 tokens")],
    "Clip.encode_text": [(lambda w: w.clip.encode_text(["a photo of a dgo."]), "'dgo'")],
    "Scene": [(lambda w: Scene("dgo", "sand"), "unknown noun 'dgo'; did you mean"), (lambda w: Scene("dog", "snd"), "'snd'"), (lambda w: Scene("dog", "sand", "rde"), "'rde'"),
              (lambda w: Scene("dog", "sand", style="filed"), "'filed'")],
    "render": [(lambda w: render(Scene("dog", "sand"), noise=-1), "got -1"), (lambda w: render(Scene("dog", "sand"), noise=nan), "nan"), (lambda w: render(Scene("dog", "sand"), size=3), "got 3")],
    "caption": [(lambda w: caption(Scene("dog", "sand"), detail="all"), "'all'")],
    "few_shot": [(lambda w: few_shot("no/such/folder"), "the folder no/such/folder does not exist"), (lambda w: few_shot(w.pets / "birds" / "all"), "pets does"),
                 (lambda w: few_shot(w.tmp / "words.jpg"), "words.jpg is a file"), (lambda w: few_shot("~/no-such-data"), "the folder ~/no-such-data does not exist"),
                 (lambda w: few_shot("oxford_pet"), "did you mean 'oxford_pets'"), (lambda w: few_shot("my_photos"), "no folder 'my_photos' exists"),
                 (lambda w: few_shot(w.pets / "cat"), "3 images but no folders"), (lambda w: few_shot("pockt"), "'pockt'"), (lambda w: few_shot(shots=0), "shots must be at least 1, got 0"), (lambda w: few_shot(shots=-1), "-1"), (lambda w: few_shot(shots=2.5), "2.5"),
                 (lambda w: few_shot(shots=nan), "nan"), (lambda w: few_shot(seed=-1), "-1"), (lambda w: few_shot(w.pets, shots=0), "got 0"),
                 (lambda w: few_shot(shot=4), "unknown option of pocket_task 'shot'"), (lambda w: few_shot(w.pets, root="x"), "unknown option of folder_task 'root'")],
    "pocket_task": [(lambda w: pocket_task(classes=[]), "[]"), (lambda w: pocket_task(classes=["dog"]), "['dog']"), (lambda w: pocket_task(classes=["dog", "dgo"]), "unknown noun 'dgo'; did you mean"),
                    (lambda w: pocket_task(classes=["dog", "dog"]), "['dog']"), (lambda w: pocket_task(classes=1), "got 1"), (lambda w: pocket_task(classes=1000), "got 1000"), (lambda w: pocket_task(rho=1.5), "1.5"),
                    (lambda w: pocket_task(rho=nan), "nan"), (lambda w: pocket_task(noise=5), "got 5"), (lambda w: pocket_task(size=0), "got 0"), (lambda w: pocket_task(test_per_class=0), "got 0"),
                    (lambda w: pocket_task(shots=0), "shots must be at least 1, got 0")],
    "folder_task": [(lambda w: folder_task(w.tmp / "one", 1), "one folder, 'cat'"), (lambda w: folder_task(w.tmp / "hollow", 1), "dog"), (lambda w: folder_task(w.tmp / "void", 1), "no images in"),
                    (lambda w: folder_task(w.tmp / "weightless", 1), "weightless holds neither"), (lambda w: folder_task(w.pets, 1, template="a pet"), "'a pet'"), (lambda w: folder_task(w.pets, 0), "shots must be at least 1, got 0")],
    "few_shot_sample": [(lambda w: few_shot_sample([0, 1], 0, 1), "shots must be at least 1, got 0")],
    "check_classes": [(lambda w: check_classes([]), "[]"), (lambda w: check_classes(["dog"]), "['dog']"), (lambda w: check_classes(["dog", " "]), "' '"), (lambda w: check_classes(["dog", 3]), "3"),
                      (lambda w: check_classes("dog"), "'dog'")],
    "image_files": [(lambda w: image_files(w.tmp / "absent"), "absent")], "class_folders": [(lambda w: class_folders(w.tmp / "absent"), "absent")],
    "open_mask": [(lambda w: open_mask(w.tmp / "absent.png"), "mask not found: "), (lambda w: open_mask(w.tmp / "broken.png"), "broken.png"),
                  (lambda w: open_mask(np.zeros((3, 4, 2), np.uint8)), "(3, 4, 2)")],
    "mask_of": [(lambda w: mask_of(w.tmp / "absent.png", w.image), "absent.png")],
    "folder_masks": [(lambda w: folder_masks(w.pets / "cat", [Path("x/0.jpg"), Path("y/0.jpg")]), "0.png would be the mask of x/0.jpg and of y/0.jpg")],
    "open_image": [(lambda w: open_image(w.tmp / "absent.png"), "absent.png"), (lambda w: open_image(w.tmp / "broken.png"), "broken.png"), (lambda w: open_image(w.tmp / "words.jpg"), "words.jpg"),
                   (lambda w: open_image(w.tmp), "Is a directory"), (lambda w: open_image(np.zeros((3, 4))), "(3, 4)"), (lambda w: open_image(np.zeros((3, 4, 3))), "float64")],
    "Split": [(lambda w: Split([w.image], [0, 1], ("a", "b")), "2 labels"), (lambda w: Split([w.image], [7], ("a", "b")), "7"), (lambda w: Split([w.image], [-1], ("a", "b")), "-1"),
              (lambda w: Split([w.image], [0], ("a",)), "['a']"), (lambda w: Split([w.image], [0], ()), "[]"), (lambda w: Split([w.image], [0], ("a", "b"), []), "0 masks"),
              (lambda w: Split([w.image], [0.5], ("a", "b")), "0.5"), (lambda w: Split([w.image], [0], ("a", "b"), groups=[]), "0 groups")],
    "Split.mask": [(lambda w: masked(w, w.mask[:9]).mask(0), "mask 0 is 9 x 112 but its image is 112 x 112"), (lambda w: masked(w, w.tmp / "absent.png").mask(0), "absent.png"),
                   (lambda w: Split([w.image], [0], ("a", "b")).mask(0), "no masks")],
    "Split.features": [(lambda w: Split([w.tmp / "broken.png"], [0], ("a", "b")).features(w.clip), "broken.png")],
    "Split.view_features": [(lambda w: Split([w.tmp / "words.jpg"], [0], ("a", "b")).view_features(w.clip, 1, 0), "words.jpg")],
    "Task": [(lambda w: Task("x", w.task.train, {"train": w.task.train}), "must not be called 'train'"), (lambda w: Task("x", w.task.train, {}, "a photo"), "'a photo'"), (lambda w: Task("x", w.task.train, {}, "{} {}"), "'{} {}'")],
    "make_prompts": [(lambda w: make_prompts(w.clip, []), "[]"), (lambda w: make_prompts(w.clip, ["dog"]), "['dog']"), (lambda w: make_prompts(w.clip, ["dog", "dgo"]), "'dgo'"),
                     (lambda w: make_prompts(w.clip, w.names, n_ctx=75), "n_ctx=75"), (lambda w: make_prompts(w.vit, w.names, n_ctx=76, init="random"), "n_ctx=76"),
                     (lambda w: make_prompts(w.vit, ["word " * 80, "cat"]), "does not fit"), (lambda w: make_prompts(w.clip, w.names, n_ctx=2), "got 2"),
                     (lambda w: make_prompts(w.clip, w.names, n_ctx=0, init="random"), "got 0"), (lambda w: make_prompts(w.clip, w.names, n_ctx=4.5), "4.5"),
                     (lambda w: make_prompts(w.clip, w.names, class_specific=True), "init='random'"), (lambda w: make_prompts(w.clip, w.names, template="{}"), "'{}'"),
                     (lambda w: make_prompts(w.clip, w.names, init=""), "''"), (lambda w: make_prompts(w.clip, w.names, init="a phtoo of a"), "'phtoo'"),
                     (lambda w: make_prompts(w.clip, w.names, position="begin"), "'begin'")],
    "Prompts.parts": [(lambda w: make_prompts(w.clip, w.names).parts(memory_gb=0), "memory_gb must be at least 0.001, got 0"), (lambda w: make_prompts(w.clip, w.names).parts(memory_gb=float("nan")), "nan")],
    "teacher_features": [(lambda w: teacher_features(w.clip, w.names, []), "[]"), (lambda w: teacher_features(w.clip, w.names, "a photo"), "'a photo'"),
                         (lambda w: teacher_features(w.clip, w.names, ["a {}.", "{} {}"]), "'{} {}'"), (lambda w: teacher_features(w.clip, ["dog"]), "['dog']"),
                         (lambda w: teacher_features(w.clip, w.names, "a phtoo of a {}."), "'phtoo'")],
    "project": [(lambda w: project(w.g, w.g, 1.5), "lambda must be in [0, 1], got 1.5"), (lambda w: project(w.g, w.g, nan), "nan"), (lambda w: project(w.g, w.g, [0.5, -0.1]), "2 lambdas for 1 runs"),
                (lambda w: project(w.g, w.g, -0.1), "-0.1"), (lambda w: project(w.g, w.g, []), "no lambda"), (lambda w: project(w.g, w.g, 1, eps_rel=-1), "-1")],
    "check_lambdas": [(lambda w: check_lambdas([0, 1.5]), "1.5"), (lambda w: check_lambdas([nan]), "nan"), (lambda w: check_lambdas([]), "no lambda"), (lambda w: check_lambdas("much"), "lambda"),
                      (lambda w: check_lambdas(None), "None"), (lambda w: check_lambdas([inf]), "inf")],
    "train": [(lambda w: train(w.task, w.clip), "train(clip, task); got a Task and a Clip"), (lambda w: train("pocket", w.task), "got a str and a Task"), (lambda w: train(w.clip, w.bare, memory_gb="much"), "memory_gb must be at least 0.001, got 'much'"), (lambda w: train(w.clip, w.bare, memory_gb=None), "memory_gb must be at least 0.001, got None"), (lambda w: train(w.clip, w.bare, [1.5]), "1.5"), (lambda w: train(w.clip, w.bare, [nan]), "nan"), (lambda w: train(w.clip, w.bare, []), "no lambda"), (lambda w: train(w.clip, w.bare, -0.5), "-0.5"),
              (lambda w: train(w.clip, w.bare, [0, 0.7, 0.7], epochs=1, views=0), "0.7"),
              (lambda w: train(w.clip, w.bare, epochs=0), "epochs must be at least 1, got 0"), (lambda w: train(w.clip, w.bare, epochs=1.5), "1.5"), (lambda w: train(w.clip, w.bare, batch_size=0), "batch_size must be at least 1, got 0"),
              (lambda w: train(w.clip, w.bare, lr=-1), "lr must be at least 0, got -1"), (lambda w: train(w.clip, w.bare, lr=nan), "nan"), (lambda w: train(w.clip, w.bare, momentum=-1), "momentum must be at least 0, got -1"),
              (lambda w: train(w.clip, w.bare, weight_decay=-1), "weight_decay must be at least 0, got -1"), (lambda w: train(w.clip, w.bare, temperature=0), "temperature must be at least 0.001, got 0"), (lambda w: train(w.clip, w.bare, views=-1), "views must be at least 0, got -1"),
              (lambda w: train(w.clip, w.bare, seed=-1), "seed must be in [0, 18446744073709551615], got -1"), (lambda w: train(w.clip, w.bare, n_ctx=99), "n_ctx=99"), (lambda w: train(w.clip, w.bare, init="random", n_ctx=0), "got 0"),
              (lambda w: train(w.clip, w.bare, class_specific=True), "init='random'"), (lambda w: train(w.clip, w.bare, teacher="a photo"), "'a photo'"), (lambda w: train(w.clip, w.bare, teacher=[]), "[]"),
              (lambda w: train(w.clip, w.bare, eps_rel=-1), "eps_rel must be at least 0, got -1"), (lambda w: train(w.clip, w.bare, evaluate_every=0), "evaluate_every must be at least 1, got 0"), (lambda w: train(w.clip, w.bare, snapshot_every=-2), "-2"),
              (lambda w: train(w.clip, w.bare, snapshot_every=0), "snapshot_every must be at least 1, got 0"), (lambda w: train(w.clip, w.bare, lr=inf), "inf"), (lambda w: train(w.clip, w.bare, warmup_lr=-1), "warmup_lr must be at least 0, got -1"),
              (lambda w: train(w.clip, w.empty), "no training images"), (lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / "weights.pt"), "weights.pt' is a file; name a folder"),
              (lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / "stored"), "stored' holds a run set"), (lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / "others"), "part-00001.safetensors in"),
              (lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / "begun", checkpoint_every=0), "checkpoint_every must be at least 1, got 0"), (lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / "begun", checkpoint_every=2.5), "2.5"),
              (lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / "begun", checkpoint_every=nan), "nan"), (lambda w: train(w.clip, w.bare, **SHORT, out="/proc/none"), "cannot write '/proc/none'"),
              (lambda w: train(w.clip, w.bare, **SHORT, out=w.tmp / ("x" * 300)), "x" * 300), (lambda w: train(w.clip, w.task, **SHORT | {"epochs": 3}, out=w.tmp / "stored", resume=True), "epochs: 2 on disk, 3 given"),
              (lambda w: train(w.clip, w.task, **SHORT, out=w.tmp / "headless", resume=True), "run.json in"), (lambda w: train(w.clip, w.bare, resume=True), "resume=True"), (lambda w: train(w.clip, w.bare, checkpoint_every=7), "checkpoint_every=7"),
              (lambda w: train(w.clip, w.bare, **SHORT, out="memory://x"), "'/x' is not on this machine")],
    "train_more": [(lambda w: train_more(w.runs, [1.5]), "1.5"), (lambda w: train_more(w.runs, []), "no lambda"), (lambda w: train_more(w.runs, [w.runs.lambdas[0]]), "already trained"),
                   (lambda w: train_more(replace(w.runs, clip=None), [0.3]), "no model and task")],
    "Runs.join": [(lambda w: w.runs.join(w.runs), "both hold CoOp"), (lambda w: w.runs.join(replace(w.runs, methods=("a", "b"), classes=("x",))), "'x'")],
    "Runs.record": [(lambda w: w.runs.record(0.3), "0.3"), (lambda w: w.runs.record("min"), "unknown method 'min'")],
    "Runs.export": [(lambda w: w.runs.export(w.tmp / "weights.pt"), "weights.pt")],
    "Runs.run": [(lambda w: w.runs.run(0.3), "0.3"), (lambda w: w.runs.text(nan), "nan")],
    "Runs.save": [(lambda w: w.runs.save(w.tmp / "stored"), "stored' holds a run set"), (lambda w: w.runs.save(w.tmp / "weights.pt"), "weights.pt' is a file"), (lambda w: w.runs.save("zzz://there"), "'zzz://there'"), (lambda w: w.runs.save("/proc/none"), "'/proc/none'"),
                  (lambda w: w.runs.save(w.tmp / "weights.pt" / "below"), "weights.pt/below"), (lambda w: w.runs.save(w.tmp / "others"), "is not of a run set; name an empty folder")],
    "save_runs": [(lambda w: save_runs(replace(w.runs, steps=w.runs.steps.drop(columns="cos")), w.tmp / "none"), "no column 'cos'"), (lambda w: save_runs(replace(w.runs, contexts=w.runs.contexts * nan), w.tmp / "none"), "contexts hold NaN"),
                  (lambda w: save_runs(replace(w.runs, contexts=w.runs.contexts * inf), w.tmp / "nil"), "infinity"), (lambda w: save_runs(replace(w.runs, contexts=w.runs.contexts.astype(np.float16)), w.tmp / "void-16"), "float16")],
    "load_runs": [(lambda w: load_runs(w.tmp / "stored", w.vit), "is not the model of these runs, pocket"), (lambda w: load_runs(w.tmp / "stored", w.clip, own_task(w)), "the task about 2 from 'cat'"),
                  (lambda w: load_runs(w.tmp / "swept"), "is a sweep, not a run set; load_sweep("),
                  (lambda w: load_runs(w.tmp / "absent"), "no run set in"), (lambda w: load_runs(w.tmp / "weightless"), "weightless"), (lambda w: load_runs(w.tmp / "weights.pt"), "weights.pt"), (lambda w: load_runs("memory://nothing"), "nothing"),
                  (lambda w: load_runs("zzz://there"), "'zzz://there'"), (lambda w: load_runs(w.tmp / "torn"), "part-00001.safetensors in"), (lambda w: load_runs(w.tmp / "headless"), "does not match its own hash"), (lambda w: load_runs(w.tmp / "bare"), "it is missing"),
                  (lambda w: np.asarray(load_runs(w.tmp / "flipped").contexts), "its contexts do not match their hash"), (lambda w: load_runs(w.tmp / "linked"), "is not a plain file")],
    "verify": [(lambda w: verify(w.tmp / "absent"), "absent"), (lambda w: verify("zzz://there"), "'zzz://there'")],
    "repair": [(lambda w: repair(w.tmp / "weights.pt"), "it is a file; name its folder"), (lambda w: repair("memory://nothing"), "not on this machine"), (lambda w: repair(w.tmp / "weightless"), "no run set in")],
    "read_contents": [(lambda w: read_contents(Folder.of(w.tmp / "weightless")), "weightless"), (lambda w: read_contents(Folder.of(w.tmp / "linked")), "is not a plain file")],
    "Contents.unseal": [(lambda w: Contents.unseal(b"", "it"), "it is damaged"), (lambda w: Contents.unseal(sealed(b"[]"), "it"), "it does not describe a run set"),
                        (lambda w: Contents.unseal(sealed(b'{"format":9}'), "it"), "format 9"), (lambda w: Contents.unseal(sealed(b"[" * 100_000), "it"), "it does not describe a run set"),
                        (lambda w: Contents.unseal(sealed(b'{"format":3}'), "it"), "'about'")],
    "Folder.of": [(lambda w: Folder.of("zzz://there"), "'zzz://there'")],
    "Folder.size": [(lambda w: Folder.of(w.tmp / "linked").size("run.json"), "run.json in"), (lambda w: Folder.of(w.tmp).size("pets"), "not a plain file")],
    "Folder.read": [(lambda w: Folder.of(w.tmp / "stored").read("absent", 0, 1), "absent")],
    "Folder.held": [(lambda w: Folder.of(w.tmp / "stored").held("absent"), "absent")],
    "PartFile.check": [(lambda w: PartFile(Folder.of(w.tmp / "flipped"), part(w)).check(), "its contexts do not match their hash")],
    "PartFile.tensor": [(lambda w: PartFile(Folder.of(w.tmp / "flipped"), part(w)).tensor("contexts", 0), "its contexts do not match"), (lambda w: PartFile(Folder.of(w.tmp / "torn"), part(w)), "bytes, expected")],
    "Writer.refuse_taken": [(lambda w: Writer(w.tmp / "others").refuse_taken(), "part-00001.safetensors in")],
    "Writer.begin": [(lambda w: Writer(w.tmp / "stored").begin({}), "holds a run set; continue it with resume=True")],
    "Writer.resume": [(lambda w: Writer(w.tmp / "weightless").resume(), "no run set in")],
    "Writer.add": [(lambda w: written(w, lambda writer: writer.add(**block(text_features=np.full((1, 2, 5, 7), nan)))), "text features hold NaN"),
                   (lambda w: written(w, lambda writer: writer.add(**block(contexts=np.ones((1, 2, 4, 3), np.float16)))), "got float16")],
    "Recorder.log": [(lambda w: logged(step=1), "step 1 comes after step 1"), (lambda w: logged(step=0), "got 0"), (lambda w: logged(context=torch.zeros(5, 8)), "context had (4, 8) before"),
                     (lambda w: logged(g_g=torch.zeros(4, 9)), "a gradient had (4, 8) before"), (lambda w: logged(text_features=torch.zeros(3, 6)), "do not fit 2 classes"), (lambda w: logged(method="yours"), "unknown method 'yours'"),
                     (lambda w: logged(loss_ce=torch.zeros(3)), "loss_ce has shape (3,)"), (lambda w: recorder().log(1, context=torch.zeros(3, 4, 8)), "must be the 2 methods CoOp, mine")],
    "Recorder.end": [(lambda w: recorder().end(context=torch.zeros(3, 4, 8)), "must be the 2 methods")],
    "Training.recorder": [(lambda w: Training(w.clip, w.bare, [0], Recipe().checked(w.bare)).recorder(w.tmp / "stored").__enter__(), "holds a run set")],
    "Recipe.checked": [(lambda w: Recipe(batch_size=0).checked(w.bare), "got 0"), (lambda w: Recipe(rule="sun").checked(w.bare), "did you mean 'sum'")],
    "finished_runs": [(lambda w: finished_runs(w.tmp / "stored", Training(w.clip, w.bare, [0, 1], Recipe(lr=3).checked(w.bare))), "lr: 0.002 on disk, 3.0 given"),
                 (lambda w: finished_runs(w.tmp / "headless", None), "run.json in")],
    "Runs.snapshot": [(lambda w: w.runs.snapshot(99), "99"), (lambda w: w.runs.text(1, -1), "-1")],
    "target_layer": [(lambda w: target_layer(w.clip, "trunk.layer4"), "'trunk.layer4'")],
    "cam_operator": [(lambda w: cam_operator(w.vit, torch.zeros(1, 3, 32, 32), "transformer.resblocks.2"), "class token"), (lambda w: cam_operator(w.vit, torch.zeros(1, 3, 32, 32), batch_size=0), "got 0"),
                     (lambda w: cam_operator(w.vit, torch.zeros(1, 3, 32, 32), torch.nn.Linear(2, 2)), "Linear")],
    "cam_maps": [(lambda w: cam_maps(w.vit, torch.zeros(1, 3, 32, 32), torch.ones(1, 24), method="GradCam"), "did you mean 'GradCAM'"), (lambda w: cam_maps(w.vit, torch.zeros(1, 3, 32, 32), torch.ones(1, 24), batch_size=0), "got 0"),
                 (lambda w: cam_maps(w.vit, torch.zeros(1, 3, 32, 32), torch.ones(1, 24), "transformer.resblocks.2"), "class token")],
    "prepare": [(lambda w: prepare(w.runs, "shfted"), "'shfted'"), (lambda w: prepare(w.runs, images=0), "got 0"), (lambda w: prepare(replace(w.runs, clip=None)), "no model and task")],
    "explore": [(lambda w: explore(w.runs, "new"), "classes of its own"), (lambda w: explore(w.runs, images=[999]), "999"), (lambda w: explore(w.runs, images=2, layer="layer9"), "'layer9'")],
    "Scenes.load": [(lambda w: Scenes.load("never.safetensors"), "no scenes at never"),
                    (lambda w: Scenes.load(__file__), "does not hold scenes")],
    "scene_parts": [(lambda w: scene_parts(w.runs, images=[]), "at least one"), (lambda w: scene_parts(w.runs, images=[w.tmp / "absent.png"])[0](), "absent.png"), (lambda w: scene_parts(w.runs, images=[w.tmp / "broken.png"])[0](), "broken.png")],
    "Dial.jump": [(lambda w: Dial(w.runs).jump("back"), "'back'")],
    "Dial.adopt": [(lambda w: Dial(w.runs).adopt(w.runs, 0.3), "0.3")],
    "Gallery.adopt": [(lambda w: Gallery(Dial(w.runs)).adopt(replace(prepare(w.runs, images=2), classes=tuple("abcdef"))), "('a', 'b')")],
    "show_maps": [(lambda w: show_maps(w.runs, split="shfted"), "'shfted'"), (lambda w: show_maps(w.runs, images=0), "got 0")],
    "compare": [(lambda w: compare(w.runs, w.runs, split="shfted"), "'shfted'")],
    "Explorer.train_lambda": [(lambda w: explore(w.runs, images=2).wait().train_lambda(1.5), "got 1.5")],
    "Explorer.wait": [(lambda w: explore(w.runs, images=[w.tmp / "absent.png"]).wait(), "absent.png")],
    "save_report": [(lambda w: save_report(w.runs, "never.html", "shfted"), "'shfted'"), (lambda w: save_report(w.runs, "never.html", images=0), "got 0")],
    "report_data": [(lambda w: report_data(w.runs, prepare(w.runs, images=2), steps=0), "got 0")],
    "run_maps": [(lambda w: run_maps(w.runs, classes=["dgo"], progress=False), "'dgo'"), (lambda w: run_maps(w.runs, steps=[99], progress=False), "99"), (lambda w: run_maps(w.runs, memory_gb=1e-9, progress=False), "memory_gb"),
                 (lambda w: run_maps(w.runs, "new", progress=False), "classes of its own"), (lambda w: run_maps(replace(w.runs, task=None)), "no model and task")],
    "package_maps": [(lambda w: package_maps(w.vit, torch.zeros(1, 3, 32, 32), torch.ones(1, 24), method="GradCAMM"), "'GradCAMM'; did you mean 'GradCAM'"),
                     (lambda w: package_maps(w.vit, torch.zeros(1, 3, 32, 32), torch.ones(1, 24), "transformer.resblocks.2"), "class token")],
    "measure": [(lambda w: measure(torch.ones(1, 4, 4), torch.ones(1, 4, 5)), "(1, 4, 5)"), (lambda w: measure(torch.ones(2, 4, 4), torch.ones(1, 4, 4)), "(1, 4, 4)"),
                (lambda w: measure(torch.ones(1, 4, 9), torch.ones(1, 6, 6)), "(1, 6, 6)")],
    "shown_masks": [(lambda w: shown_masks(w.clip, masked(w, w.mask[:, :9]), [0]), "112 x 9"), (lambda w: shown_masks(w.clip, Split([w.image], [0], ("a", "b")), [0]), "no masks")],
    "explained_directions": [(lambda w: explained_directions(torch.ones(2, 3), torch.ones(1, 3), torch.tensor([0]), "why"), "'why'")],
    "foreground": [(lambda w: foreground(w.runs, "shfted"), "'shfted'; did you mean 'shifted'"), (lambda w: foreground(w.runs, "new"), "classes of its own"), (lambda w: foreground(w.runs, explain="why"), "'why'"),
                   (lambda w: foreground(w.runs, images=0), "got 0"), (lambda w: foreground(w.runs, images=[999]), "999"), (lambda w: foreground(w.runs, steps=[99]), "99"),
                   (lambda w: foreground(w.runs, layer="layer9"), "'layer9'"), (lambda w: foreground(replace(w.runs, task=None)), "no model and task")],
    "pick_images": [(lambda w: pick_images(w.runs, "same", [0, -1]), "-1")],
    "plot_cosine": [(lambda w: plot_cosine(w.runs, lambdas=[0.3]), "0.3")],
    "plot_token_cosines": [(lambda w: plot_token_cosines(w.runs, 0.3), "0.3")],
    "plot_gradient_plane": [(lambda w: plot_gradient_plane(w.runs, 0.3, 1), "0.3"), (lambda w: plot_gradient_plane(w.runs, 1, 99), "99")],
    "plot_maps": [(lambda w: plot_maps(w.runs, lam=0.3), "0.3"), (lambda w: plot_maps(w.runs, split="shfted"), "'shfted'"), (lambda w: plot_maps(w.runs, step=99), "99")],
    "plot_accuracy": [(lambda w: plot_accuracy(own_runs(w), splits=["same", "new"]), "no accuracy on new was recorded; these runs were tested on same"),
                      (lambda w: plot_accuracy(replace(w.runs, steps=w.runs.steps.assign(**{f"acc_{s}": nan for s in ("same", "shifted", "new", "style")}))), "any test set was recorded"),
                      (lambda w: plot_accuracy([w.runs], splits=["sane"]), "'sane'"), (lambda w: plot_accuracy([w.runs], lambdas=[0.3]), "0.3")],
    "plot_foreground": [(lambda w: plot_foreground(pd.DataFrame(), "shares"), "'shares'")],
    "plot_shots": [(lambda w: plot_shots(results()), "'acc_same'"), (lambda w: plot_shots(results().drop(columns="shots"), ["acc_new"]), "'shots'")],
    "cells_of": [(lambda w: cells_of({"shot": [1]}), "unknown column of a grid 'shot'; did you mean 'shots'"), (lambda w: cells_of({"shots": []}), "no cells: {'shots': []}"), (lambda w: cells_of({"lam": [0, 1.5]}), "lambda must be in [0, 1], got 1.5"),
                 (lambda w: cells_of({"rule": [len]}), "give a name"), (lambda w: cells_of({"rule": "sun"}), "did you mean 'sum'"), (lambda w: cells_of(pd.DataFrame({"shots": []})), "this grid has no cells")],
    "sweep": [(lambda w: sweep({"shots": 1}, w.tmp / "sweep", engine="slurm"), "unknown engine 'slurm'"), (lambda w: sweep({"shots": 1}, w.tmp / "sweep", threads=0), "got 0"), (lambda w: sweep(None, w.tmp / "no-sweep"), "no-sweep"),
              (lambda w: sweep({"shots": 1}, w.tmp / "sweep", gpus=1, progress=False), "gpus=1"), (lambda w: sweep({"shots": 1}, w.tmp / "sweep", workers=0, progress=False), "workers must be at least 1, got 0"),
              (lambda w: sweep({"shots": 1}, w.tmp / "sweep", retries=-1, progress=False), "got -1"), (lambda w: sweep({"shots": 1}, w.tmp / "sweep", evaluate=len), "evaluate must be a dict of functions by name")],
    "load_sweep": [(lambda w: load_sweep(w.tmp / "no-sweep"), "begin one with a grid")],
    "Sweep.runs": [(lambda w: Sweep(w.tmp, cells_of({"seed": 1})).runs(sed=1), "'sed'; did you mean 'seed'")],
    "interval_of": [(lambda w: interval_of([1, 2], "u"), "'u'")],
    "summarise": [(lambda w: summarise(results(), interval="z"), "'z'"), (lambda w: summarise(results(), confidence=95), "got 95"), (lambda w: summarise(results().drop(columns="seed")), "'seed'"), (lambda w: summarise(results()[:0]), "no results"),
                  (lambda w: summarise(results(), by=["shot"]), "'shot'; did you mean 'shots'"), (lambda w: summarise(results(), measures=["acc"]), "'acc'"), (lambda w: summarise(pd.concat([results(), results()])), "name what tells them apart"),
                  (lambda w: summarise(results(), against="CoOpp"), "'CoOpp'; did you mean 'CoOp'")],
    "Summary.table": [(lambda w: summarise(results().query("method != 'CoOp'")).table("acc_new", differences=True), "nothing to compare with: summarise found no method that its against= names, only zero-shot, ProGrad 1"),
                      (lambda w: summarise(results()).table("acc_nw"), "'acc_nw'; did you mean 'acc_new'"), (lambda w: summarise(results()).table("acc_new", across="shot"), "'shot'")],
    "plot_lambda": [(lambda w: plot_lambda(pd.DataFrame({"lam": [0, 1], "acc_same": [0, 1]}), ["acc_sane"]), "'acc_sane'")],
    "spread_steps": [(lambda w: spread_steps(w.runs, 0), "n must be at least 1, got 0")],
    "on_the_object": [(lambda w: on_the_object(w.runs, snapshots=0), "got 0"), (lambda w: on_the_object(w.runs, images=0), "got 0"), (lambda w: on_the_object(replace(w.runs, task=None)), "no model and task")],
    "box_mask": [(lambda w: box_mask(w.image, (0, 0, 200, 9)), "(0, 0, 200, 9)"), (lambda w: box_mask(w.image, (9, 0, 9, 9)), "(9, 0, 9, 9)")],
    "grabcut_mask": [(lambda w: grabcut_mask(w.image[:2, :2]), "an image of 2 x 2"), (lambda w: grabcut_mask(w.image, (0, 0, 112, 112)), "(0, 0, 112, 112)"), (lambda w: grabcut_mask(w.image, (-5, 0, 9, 9)), "(-5, 0, 9, 9)"), (lambda w: grabcut_mask(w.image, steps=0), "got 0"), (lambda w: grabcut_mask(w.tmp / "words.jpg"), "words.jpg")],
    "with_masks": [(lambda w: with_masks(w.task.train, "grabcat"), "'grabcat'"), (lambda w: with_masks(w.task.train, w.task.train.masks), "masks_from"), (lambda w: with_masks(w.task.train, [w.mask], "me"), "1 masks")],
    "published_draw": [(lambda w: published_draw([0, 1], [], 0, 1), "got 0")],
    "dataset_split": [(lambda w: dataset_split("oxford_pet", w.toy), "did you mean 'oxford_pets'"), (lambda w: dataset_split("oxford_pets", w.toy, "tset"), "'tset'; did you mean 'test'"), (lambda w: dataset_split("oxford_pets", w.toy, subset="old"), "'old'"),
                      (lambda w: dataset_split("oxford_pets", w.toy, masks="box"), "'box'"), (lambda w: dataset_split("dtd", w.toy), str(Path("dtd") / "split_zhou_DescribableTextures.json")), (lambda w: dataset_split("oxford_pets"), "root=")],
    "dataset_task": [(lambda w: dataset_task("oxford_pets", 0, root=w.toy), "got 0"), (lambda w: dataset_task("oxford_pets", 1, root=w.toy, subset="half"), "'half'"), (lambda w: dataset_task("oxford_pets", 1, root=w.toy, template="pet"), "'pet'"),
                     (lambda w: dataset_task("oxford_pets", 1, root=w.toy, files=["nobody.jpg"]), "nobody.jpg"), (lambda w: dataset_task("oxford_pets", 1, root=w.tmp / "nowhere"), "nowhere")],
    "group_table": [(lambda w: group_table(w.task), "'pocket'")],
    "toy_pets": [(lambda w: toy_pets(w.tmp / "odd", ("cat", "dgo")), "'dgo'")],
    "frame_task": [(lambda w: frame_task([1, 2], 1), "list"), (lambda w: frame_task(pd.DataFrame({"file": ["a"]}), 1), "'path'"), (lambda w: frame_task(pd.DataFrame({"path": ["a", "b"], "label": ["x", None]}), 1), "row 1"),
                   (lambda w: frame_task(pd.DataFrame({"path": ["a"], "label": ["x"]}), 1), "['x']"),
                   (lambda w: frame_task(pd.DataFrame({"path": ["a", "b", "./a"], "label": ["x", "y", "y"]}), 1, root="/r"), "/r/a is in the table with more than one label"),
                   (lambda w: frame_task(pd.DataFrame({"path": ["a", "b"], "label": ["hot_dog", "hot dog"]}), 1), "'hot dog' and 'hot_dog' are both the class 'hot dog'"),
                   (lambda w: frame_task(pd.DataFrame({"path": ["a", "b", "a"], "label": ["x", "y", "x"], "split": ["train", "train", "test"]}), 1, root="/r"), "/r/a is in the table with more than one split"),
                   (lambda w: frame_task(pd.DataFrame({"path": ["a", "b"], "label": ["x", "y"], "split": ["Train", "test"]}), 1), "no row has split 'train', only 'Train', 'test'"), (lambda w: frame_task(pd.DataFrame({"path": ["a", "b"], "label": ["x", "y"]}), 0), "got 0")],
    "torchvision_task": [(lambda w: torchvision_task("torchvision:DTDs", 1, root=w.tmp), "did you mean 'DTD'"), (lambda w: torchvision_task("torchvision:DTD", 1), "root="), (lambda w: torchvision_task("torchvision:DTD", 1, root=w.tmp), "download=True")],
    "accuracy_on": [(lambda w: accuracy_on(replace(w.runs, task=None), w.task.tests["new"]), "no model and task"), (lambda w: accuracy_on(w.runs, Split([], [], ("a", "b"))), "no images"), (lambda w: accuracy_on(w.runs, w.task.tests["new"], "a photo"), "'a photo'")],
    "group_accuracy": [(lambda w: group_accuracy(w.runs, w.task.tests["same"]), "no groups")],
    "few_shot_protocol": [(lambda w: few_shot_protocol(w.clip, "pockt"), "'pockt'"), (lambda w: few_shot_protocol(w.clip, []), "nothing to do"), (lambda w: few_shot_protocol(w.clip, "pocket", 0, progress=False), "got 0"),
                          (lambda w: few_shot_protocol(w.clip, "pocket", 1, 1, [1.5], progress=False), "1.5"), (lambda w: few_shot_protocol(w.clip, "pocket", 1, -1, progress=False), "-1")],
    "base_to_new": [(lambda w: base_to_new(w.clip, str(w.pets), 1, 1, [0], progress=False), "no test set 'new'")],
    "cross_dataset": [(lambda w: cross_dataset(w.clip, "pocket", ["dtds"]), "did you mean 'dtd'"), (lambda w: cross_dataset(w.clip, "pocket", ["dtd"], data={"root": w.toy}), "split_zhou_DescribableTextures.json")],
    "domain_generalisation": [(lambda w: domain_generalisation(w.clip, data={"root": w.toy}), "classnames.txt")],
    "paper_table": [(lambda w: paper_table(pd.DataFrame({"accurcy": [1]})), "'accurcy'")],
    "find_rule": [(lambda w: find_rule("pcgrd"), "unknown rule 'pcgrd'; did you mean 'pcgrad'"), (lambda w: find_rule(lambda a, b: a), "takes 2"), (lambda w: find_rule(3), "3")],
    "check_strengths": [(lambda w: check_strengths("gated", [1.5]), "strength of rule 'gated' must be in [0, 1], got 1.5"), (lambda w: check_strengths("coop", [1]), "got 1"), (lambda w: check_strengths("sum", [-1]), "at least 0, got -1"),
                        (lambda w: check_strengths("sum", []), "no strength of rule 'sum' given"), (lambda w: check_strengths(lambda x: x.g_d, [nan]), "nan"), (lambda w: train(w.clip, w.bare, [2, 2], rule="sum"), "2 is given more than once")],
    "steering": [(lambda w: train(w.clip, w.bare, [1], rule=lambda x: x.g_d[0], epochs=1, views=0, progress=False), "must return a direction for every run"), (lambda w: train(w.clip, w.bare, [1], rule=lambda x: None, epochs=1, views=0, progress=False), "got None"),
                 (lambda w: steering("l3", None, None, None, None), "'l3'; did you mean 'l2'")],
    "read_context": [(lambda w: read_context(w.tmp / "absent"), "absent"), (lambda w: read_context(w.tmp / "words.jpg"), "cannot read"), (lambda w: read_context(w.tmp / "weightless"), "weightless")],
    "load_published": [(lambda w: load_published(w.tmp / "absent", w.clip, w.task), "no model.pth.tar-N"), (lambda w: load_published(w.tmp / "weightless", w.clip, w.task), "OUTPUT_DIR"), (lambda w: load_published({0: w.pets}, w.clip, w.task), "pets")],
    "run_prompts": [(lambda w: run_prompts(replace(w.runs, task=None)), "no model and task"), (lambda w: run_prompts(w.runs, ["dog"]), "['dog']"), (lambda w: run_prompts(w.runs, ["dog", "dgo"]), "'dgo'")],
    "class_features": [(lambda w: class_features(w.runs, 0.3), "0.3"), (lambda w: class_features(w.runs, 1, 99), "99"), (lambda w: class_features(w.runs, None, classes=["dgo", "dog"]), "'dgo'")],
    "predict": [(lambda w: predict(w.runs, [], 1), "no images"), (lambda w: predict(w.runs, [w.tmp / "broken.png"], 1), "broken.png"), (lambda w: predict(w.runs, w.image, 0.3), "0.3"), (lambda w: predict(replace(w.runs, clip=None), w.image, 1), "no model")],
    "predictions": [(lambda w: predictions(w.runs, "shfted"), "'shfted'"), (lambda w: predictions(w.runs, step=99), "99"), (lambda w: predictions(replace(w.runs, task=None)), "no model and task")],
    "calibration": [(lambda w: calibration(pd.DataFrame(), 0), "bins must be at least 1, got 0")],
    "export_prompt": [(lambda w: export_prompt(w.runs, w.tmp / "never", 0.3), "0.3"), (lambda w: export_prompt(w.runs, w.tmp / "never", 1, 99), "99"), (lambda w: export_prompt(replace(w.runs, clip=None), w.tmp / "never", 1), "no model and task")],
    "nearest_tokens": [(lambda w: nearest_tokens(w.clip, torch.zeros(1, 128), 0), "got 0"), (lambda w: nearest_tokens(w.clip, torch.zeros(1, 128), 10**6), "1000000")],
    "read_context_words": [(lambda w: read_context_words(w.runs, 0.3), "0.3"), (lambda w: read_context_words(w.runs, 1, [99]), "99"), (lambda w: read_context_words(w.runs, 1, 0), "got 0"), (lambda w: read_context_words(w.runs, 1, name="dog"), "name='dog'"),
                           (lambda w: read_context_words(replace(w.runs, clip=None), 1), "no model")],
    "plot_words": [(lambda w: plot_words(w.runs, [0.3]), "0.3"), (lambda w: plot_words(w.runs, steps=[99]), "99")],
    "map_scores": [(lambda w: map_scores(w.clip, w.task.train.tensor(w.clip, [0]), torch.ones(1, 2, 2), torch.zeros(6, 128), [0], ["rod"]), "did you mean 'road'"), (lambda w: map_scores(w.clip, None, None, None, None, percentiles=[100]), "got 100")],
    "faithfulness": [(lambda w: faithfulness(w.runs, "shfted"), "'shfted'"), (lambda w: faithfulness(w.runs, explain="contrast"), "'contrast'"), (lambda w: faithfulness(w.runs, step=99), "99"), (lambda w: faithfulness(w.runs, random_directions=-1), "got -1"), (lambda w: faithfulness(w.runs, images=0), "got 0")],
    "without_object": [(lambda w: without_object(w.task.train.image(0), w.mask, -1), "got -1")],
    "composites": [(lambda w: composites(w.task.train, [0]), "two classes or more"), (lambda w: composites(Split([w.image] * 2, [0, 1], ("a", "b")), [0, 1]), "no masks")],
    "causal_checks": [(lambda w: causal_checks(w.runs, "shfted"), "'shfted'"), (lambda w: causal_checks(w.runs, images=[999]), "999"), (lambda w: causal_checks(w.runs, "new"), "classes of its own")],
}
ROWS = [pytest.param(call, says, id=f"{name}-{says[:40]}") for name, rows in BAD.items() for call, says in rows]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call, says", ROWS)
def test_bad_input_is_named_in_the_error(w, call, says):
    with pytest.raises((ValueError, OSError, TypeError)) as e: call(w)
    assert says in str(e.value)


def test_the_table_of_bad_calls_is_long_and_every_row_is_another(): assert len({r.values[0].__code__ for r in ROWS}) == len(ROWS) >= 260


# -- bad input with a stated, sensible result ---------------------------------

def test_more_shots_than_there_are_takes_all_with_a_warning(w):
    with pytest.warns(UserWarning, match="fewer than 5 images for cat, dog: taking all"): task = few_shot(w.pets, shots=5)
    assert len(task.train) == 6 and task.tests == {}
    with pytest.warns(UserWarning, match="fewer than 3 images for b"): drawn = few_shot_sample(["a", "b", "a", "a", "a"], 3, 1)
    assert len(drawn) == 4 and drawn[-1] == 1 and set(drawn) <= {0, 1, 2, 3, 4}


def test_an_all_zero_mask_is_nan_and_counted_as_empty(w):
    table = measure(torch.ones(1, 4, 4), torch.zeros(1, 4, 4))
    assert table["empty"].all() and table[["share", "preference", "hit", "iou"]].isna().all().all() and table["area"].item() == 0
    hidden = Split(w.task.train.images, w.task.train.labels, w.task.classes, [np.zeros((112, 112), bool), *w.task.train.masks[1:]])
    table = foreground(replace(w.runs, task=Task("hidden", hidden, {})), "train", images=[0, 5], random_directions=2)
    first = table["image"] == 0
    assert table.loc[first, "empty"].all() and table.loc[first, "share"].isna().all() and not table.loc[~first, "empty"].any() and table.loc[~first, "share"].between(0, 1).all()


def test_an_all_zero_map_is_nan_and_counted_as_empty():
    table = measure(torch.zeros(2, 4, 4), torch.ones(2, 4, 4))
    assert table["empty"].all() and table["share"].isna().all()


def test_an_unknown_token_can_be_let_through_with_a_warning(w):
    with pytest.warns(UserWarning, match="never trained on 'dgo'"): assert w.clip.tokenize(["a photo of a dgo."], allow_unknown=True).shape == (1, 77)


def test_one_lambda_as_a_number_is_one_run(w): assert train(w.clip, w.bare, 0.5, epochs=1, views=0, progress=False).lambdas == (0.5,)


def test_a_set_smaller_than_a_batch_is_one_batch(w): assert train(w.clip, w.bare, [1], epochs=2, batch_size=1000, views=0, progress=False).steps["step"].max() == 2


def test_a_task_without_tests_trains_and_says_nan(w):
    runs = train(w.clip, w.bare, [1], epochs=1, views=0, progress=False)
    assert runs.steps[["acc_same", "acc_shifted", "acc_new", "acc_style"]].isna().all().all() and runs.steps["acc_train"].notna().any()


def test_class_specific_contexts_say_nothing_about_new_classes(w):
    runs = train(w.clip, w.task, [1], epochs=1, init="random", n_ctx=4, class_specific=True, views=0, progress=False)
    assert runs.steps["acc_new"].isna().all() and runs.steps["acc_same"].notna().any()


# -- documentation ------------------------------------------------------------

MODULES = sorted(p for p in Path(prograd_viz.__file__).parent.glob("*.py") if not p.name.startswith("_"))


def public(path):
    "(name, node) of the public functions and classes of a module, and of the public methods of its public classes"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"): continue
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{n.name}", n) for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_"))


def is_property(node): return any(isinstance(d, ast.Name) and d.id in ("property", "cached_property") for d in node.decorator_list)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_every_public_function_and_class_has_a_docstring(path):
    assert not [name for name, node in public(path) if not is_property(node) and not ast.get_docstring(node)]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_every_public_parameter_and_field_has_a_comment(path):
    "A docment: the rest of the line after a parameter or a dataclass field says what it is"
    commented = {t.start[0] for t in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline) if t.type == tokenize.COMMENT and len(t.string) > 2}
    missing = []
    for name, node in public(path):
        if isinstance(node, ast.ClassDef):
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and not n.target.id.startswith("_")]
            missing += [f"{name}.{n.target.id}" for n in fields if n.end_lineno not in commented]
        else:
            a = node.args
            every = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
            missing += [f"{name}({p.arg})" for p in every if p.arg not in ("self", "cls") and p.end_lineno not in commented]
    assert not missing


def test_the_library_was_there_to_be_read():
    assert {"training", "gradients", "clip", "data"} <= {p.stem for p in MODULES} and sum(1 for p in MODULES for _ in public(p)) > 60


def test_the_table_of_bad_calls_knows_every_public_function_that_takes_what_a_person_types():
    "What is not in the table takes tensors, tables or paths that the library made itself, or nothing that can be wrong"
    inner = {"in_this_thread", "unusual_preprocessing", "is_archive", "openai_state", "Clip.encode_image", "Clip.arithmetic", "Split.fingerprint", "Split.fresh_features", "Scenes.view", "Gallery.views", "Gallery.prompts", "Gallery.refresh", "Gallery.shown", "Gallery.sheet", "Gallery.table", "Gallery.turn_pin", "Dial.observe", "Dial.still", "Dial.where", "Panel.refresh", "Screen.refresh", "plane_panel", "step_panels", "show_cosine", "show_gradient_plane",
             "Work.say", "Work.start", "Work.soon", "Work.stop", "Work.wait", "Explorer.refresh", "Explorer.save", "Strip.at", "strips", "paint_plane", "gradient_arrows", "join_scenes", "layer_names", "Scenes.save", "resized", "paint", "beside", "encode", "build_pocket", "Split.image", "Split.tensor", "augmentation", "plain_text_features", "has_fast_path", "text_features", "cross_entropy", "kl_to_teacher",
             "prompt_gradients", "Evaluator.teacher_logits", "Evaluator.accuracies", "learning_rate", "published_epochs", "epoch_batches", "without_bars", "Runs.text", "Runs.rule", "Runs.name", "Runs.final", "Runs.conflicts", "mean_interval", "CamOperator.maps", "resize_maps",
             "shown_image", "readable", "save_demo", "report", "colour", "label", "figure", "clearest_conflict", "along", "feature_distance", "feature_gradient", "per_class", "token_texts", "plot_angles", "random_scenes", "contact_sheet", "declare_missing", "base_and_new", "published_lambda", "harmonic_mean",
             "write_whole", "plain", "sha256", "undisturbed", "open_parts", "Contents.wrong", "Part.encode", "Part.span", "Part.wrong", "Contents.seal", "Writer.publish", "named_lambda", "rule_of", "Runs.sorted_keys", "Runs.ends", "Runs.check_contexts", "Runs.check_model", "Recorder.close", "Training.restore", "Recorder.runs", "Training.batches", "Training.descend", "Training.accuracies", "Training.state", "Training.final", "Training.config", "Task.fingerprint", "Lock.owner", "Lock.release", "side_by_side", "Writer.close", "frame",
             "about_masks", "exif_orientation", "upright_mask", "square_safe", "Clip.fingerprint", "Scenes.about_masks", "run_name", "run_colour", "jobs_of", "Job.part", "Sweep.results"}
    elsewhere = {"prograd_demo", "prograd_verify"}  # in test_cli.py and test_survival.py
    every = {name for p in MODULES if p.stem != "pretrain" for name, node in public(p) if isinstance(node, ast.FunctionDef) and not is_property(node)}
    assert every - set(BAD) == inner | elsewhere
