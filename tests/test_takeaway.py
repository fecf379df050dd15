"Prompts of the published trainers come in, tuned prompts go out: neither needs this library on the other side."
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from prograd_viz.clip import load_clip
from prograd_viz.data import Split, Task
from prograd_viz.plots import plot_accuracy, plot_cosine
from prograd_viz.evaluate import accuracy_on, calibration, class_features, per_class, predict, predictions
from prograd_viz.published import export_prompt, load_published, read_context
from prograd_viz.training import train
from prograd_viz.scenes import prepare
from prograd_viz.widgets import Explorer

CONFIGS = {"end": {"init": "random", "n_ctx": 3}, "middle": {"init": "random", "n_ctx": 4, "position": "middle"}, "class-specific": {"init": "random", "n_ctx": 2, "class_specific": True}, "template": {}}


@pytest.fixture(scope="module")
def brought(tiny, tmp_path_factory):
    "(clip, task) of a small model with its weights in a file, and 2 x 3 images in files"
    folder, random = tmp_path_factory.mktemp("brought"), tiny(precision="fp32")
    save_file({k: v.contiguous() for k, v in random.model.state_dict().items()}, folder / "weights.safetensors")
    rng, files = np.random.default_rng(0), []
    for i in range(6):
        files.append(folder / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(files[-1])
    clip = load_clip(random.name, str(folder / "weights.safetensors"))
    return clip, Task("brought", Split(files, [0, 1, 2] * 2, ("dog", "kiwi bird", "magnifying glass")), {"same": Split(files, [0, 1, 2] * 2, ("dog", "kiwi bird", "magnifying glass"))})


ALONE = """
import sys, json, torch
library = torch.library.Library("torchvision", "DEF")
for schema in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor", "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):
    try: library.define(schema)
    except RuntimeError: pass
import open_clip
sys.modules["prograd_viz"] = None  # whoever imports it now fails
open_clip.add_model_config(sys.argv.pop(1))
script = sys.argv.pop(1)
exec(compile(open(script).read(), script, "exec"))
"""


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_an_exported_prompt_says_the_same_with_nothing_but_open_clip(brought, tmp_path, options):
    clip, task = brought
    runs = train(clip, task, [0, 1], epochs=3, lr=0.1, batch_size=3, views=0, progress=False, **options)
    script = export_prompt(runs, tmp_path / "tuned", 1.0)
    assert len(script.read_text().splitlines()) <= 12 and "prograd" not in script.read_text().split("\n", 1)[1]
    from open_clip.factory import _MODEL_CONFIG_PATHS
    (config,) = [p for p in _MODEL_CONFIG_PATHS if p.stem == clip.name]
    out = subprocess.run([sys.executable, "-I", "-c", ALONE, config, script, task.train.images[4]], cwd=tmp_path, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert out.returncode == 0, out.stderr[-1500:]
    said = {line.split(" ", 1)[1]: float(line.split(" ", 1)[0]) for line in out.stdout.splitlines() if line[:2] in ("0.", "1.")}
    ours = predict(runs, [task.train.images[4]], 1.0).iloc[0]
    assert set(said) == set(task.classes) and all(abs(said[c] - ours[c]) < 2e-4 for c in said)


def said_alone(clip, script, photo):
    "Class -> probability, as an exported script prints them"
    from open_clip.factory import _MODEL_CONFIG_PATHS
    (config,) = [p for p in _MODEL_CONFIG_PATHS if p.stem == clip.name]
    command = [sys.executable, "-I", "-c", ALONE, config, script, photo]
    out = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert out.returncode == 0, out.stderr[-1500:]
    lines = [line.split(" ", 1) for line in out.stdout.splitlines() if line[:2] in ("0.", "1.")]
    return {name: float(p) for p, name in lines}


@pytest.mark.parametrize("kind", ["safetensors", "QuickGELU", "OpenAI's format", "in a checkpoint"])
def test_script_and_library_agree_to_a_millionth_for_every_kind_of_file_and_a_turned_photo(brought, tmp_path, kind):
    plain, task = brought
    state, path = {k: v.clone() for k, v in plain.model.state_dict().items()}, tmp_path / "weights.pt"
    numbers = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77)}
    if kind == "OpenAI's format": torch.save(state | numbers, path)
    elif kind == "in a checkpoint": torch.save({"state_dict": state | numbers, "epoch": 3}, path)
    else: save_file(state, path := tmp_path / "weights.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clip = load_clip(plain.name, str(path), quick_gelu=True if kind == "QuickGELU" else None)
    runs = train(clip, task, [0], epochs=2, lr=0.1, batch_size=3, views=0, progress=False, init="random", n_ctx=3)
    exif, photo = Image.Exif(), tmp_path / "turned.jpg"
    exif[0x0112] = 6
    Image.open(task.train.images[1]).save(photo, exif=exif)
    ours = predict(runs, [photo], 0).iloc[0]
    said = said_alone(clip, export_prompt(runs, tmp_path / "tuned", 0), photo)
    assert set(said) == set(task.classes) and all(abs(said[c] - ours[c]) < 1e-6 for c in said)


def write(folder, context, epoch, **state):
    "A checkpoint of the published trainers, with the objects that their scheduler drags along"
    vectors = torch.nn.Parameter(context.clone())
    optimiser = torch.optim.SGD([vectors], lr=0.002, momentum=0.9)
    vectors.grad = torch.ones_like(vectors)
    optimiser.step()  # now it holds momenta
    (folder / "prompt_learner").mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {"ctx": context, **state}, "epoch": epoch, "optimizer": optimiser.state_dict(), "scheduler": {"successor": torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 9)}}, folder / "prompt_learner" / f"model.pth.tar-{epoch}")


def test_published_checkpoints_become_a_run_set_with_the_accuracies_of_their_contexts(clip, task, tmp_path):
    runs = train(clip, task, [0, 1], epochs=4, lr=0.05, batch_size=8, views=0, evaluate_every=1, progress=False)
    for r, lam in enumerate((0, 1)):
        for epoch in (2, 4): write(tmp_path / str(lam), torch.from_numpy(runs.contexts[runs.snapshot(3 * epoch), r]), epoch, token_prefix=torch.zeros(6, 1, 128))
    write(tmp_path / "1", torch.zeros(4, 128), 7)  # an epoch that the other did not keep
    loaded = load_published({0: tmp_path / "0", 1: tmp_path / "1"}, clip, task)
    assert loaded.snapshot_steps.tolist() == [2, 4] and loaded.lambdas == (0.0, 1.0) and set(loaded.steps["rule"]) == {"coop", "prograd"}
    for lam in (0.0, 1.0):
        for epoch in (2, 4):
            np.testing.assert_allclose(loaded.text(lam, epoch), runs.text(lam, 3 * epoch), atol=1e-6)
            ours = runs.steps[(runs.steps["lam"] == lam) & (runs.steps["step"] == 3 * epoch)].iloc[0]
            theirs = loaded.steps[(loaded.steps["lam"] == lam) & (loaded.steps["step"] == epoch)].iloc[0]
            for split in ("train", "same", "shifted", "new", "style"): assert theirs[f"acc_{split}"] == ours[f"acc_{split}"]
    assert loaded.steps[["cos", "loss_ce", "loss_kl", "norm_gd"]].isna().all().all(), "what was not recorded is not made up"


def test_a_published_run_set_is_tested_anywhere_with_the_accuracies_of_its_record(clip, task, tmp_path):
    write(tmp_path, 0.02 * torch.randn(4, 128, generator=torch.Generator().manual_seed(3)), 5)
    loaded = load_published(tmp_path, clip, task)
    for split in ("same", "new", "style"):  # new has other classes
        expected = [loaded.zero_shot_accuracy[split], *loaded.final()[f"acc_{split}"]]
        assert accuracy_on(loaded, task.tests[split])["accuracy"].tolist() == expected
        assert predictions(loaded, split).groupby("method", sort=False)["right"].mean().tolist() == expected


def test_a_published_run_set_can_be_explored_and_drawn(clip, task, tmp_path):
    for epoch in (1, 2): write(tmp_path, 0.02 * torch.randn(16, 128, generator=torch.Generator().manual_seed(epoch)), epoch)
    loaded = load_published(tmp_path, clip, task, init="random")
    assert loaded.contexts.shape == (2, 1, 16, 128)
    explorer = Explorer(loaded, prepare(loaded, images=2))
    explorer.dial.step.value = 2
    assert len(explorer.gallery.table()) and plot_accuracy(loaded).axes and plot_cosine(loaded).axes


def test_class_specific_contexts_are_read_for_as_many_classes(clip, task, tmp_path):
    write(tmp_path, 0.02 * torch.randn(6, 4, 128), 5)
    assert load_published(tmp_path, clip, task, init="random").contexts.shape == (1, 1, 6, 4, 128)
    few = Task("few", Split(task.train.images[:2], [0, 1], ("dog", "cat")), {})
    with pytest.raises(ValueError, match="6 classes, the task has 2"): load_published(tmp_path, clip, few, init="random")


class Bomb:
    def __reduce__(self): return Path.touch, (Path("exploded"),)


def test_a_checkpoint_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"ctx": torch.ones(2, 3)}, "scheduler": Bomb()}, "model.pth.tar-1")
    try: context, _ = read_context("model.pth.tar-1")
    except ValueError: context = None
    assert not Path("exploded").exists()
    assert context is None or torch.equal(context, torch.ones(2, 3))


def test_new_names_and_new_images_get_the_features_of_the_context(clip, task):
    runs, test = train(clip, task, [0, 1], epochs=3, lr=0.05, batch_size=8, views=0, progress=False), task.tests["new"]
    table = predict(runs, [test.image(i) for i in range(len(test))], 1.0, classes=test.classes)
    assert list(table.columns) == list(test.classes) and (table.to_numpy().argmax(1) == test.labels).mean() == pytest.approx(runs.final().loc[1.0, "acc_new"])
    np.testing.assert_allclose(class_features(runs, 1.0, 3, classes=runs.classes), runs.text(1.0, 3), atol=1e-6)


def test_calibration_and_class_accuracies_follow_from_the_predictions(clip, task):
    runs = train(clip, task, [0, 1], epochs=3, lr=0.05, batch_size=8, views=0, progress=False)
    table = predictions(runs, "same")
    for lam in runs.lambdas: assert table.loc[table["lam"] == lam, "right"].mean() == pytest.approx(runs.final().loc[lam, "acc_same"])
    mine, ece = table[table["lam"] == 1], 0
    for low in np.arange(10) / 10:
        inside = mine[(mine["confidence"] > low) & (mine["confidence"] <= low + 0.1)]
        if len(inside): ece += len(inside) / len(mine) * abs(inside["right"].mean() - inside["confidence"].mean())
    assert calibration(table, 10).set_index("lam").loc[1, "ece"] == pytest.approx(ece, abs=1e-6)
    changes = per_class(table)
    one = changes[(changes["lam"] == 1) & (changes["label"] == task.classes[2])].iloc[0]
    right = lambda prompt_rows: prompt_rows.loc[prompt_rows["label"] == task.classes[2], "right"].mean()
    assert one["change"] == pytest.approx(right(mine) - right(table[table["method"] == "zero-shot CLIP"]))
