"Prompts of the published trainers come in, tuned prompts go out: neither needs this library on the other side."
import copy
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from prograd_viz.clip import load_clip
from prograd_viz.data import Split, Task
from prograd_viz.evaluate import accuracy_on, calibration, class_features, per_class, predict, predictions, run_prompts
from prograd_viz.explorer import Explorer
from prograd_viz.images import open_image
from prograd_viz.landscape import landscape, plot_landscape
from prograd_viz.plots import plot_accuracy, plot_cosine
from prograd_viz.prompts import plain_text_features
from prograd_viz.published import export_prompt, load_published, read_context
from prograd_viz.screen import explorer_data
from prograd_viz.training import train
from prograd_viz.words import plot_words, read_context_words

CLASSES = ("dog", "kiwi bird", "magnifying glass")
CONTEXTS = {"end": {"init": "random", "n_ctx": 3}, "middle": {"init": "random", "n_ctx": 4, "position": "middle"},
            "class-specific": {"init": "random", "n_ctx": 2, "class_specific": True},
            "template": {"init": "template", "n_ctx": 4}}
FILES = ("QuickGELU", "own preprocessing", "OpenAI's format", "in a checkpoint", "archive", "folder", "hub")
SQUASHED = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "resize_mode": "squash", "interpolation": "bilinear"}
PRECISIONS = ("fp16", "bf16", "amp_bf16", "fp64")
PHOTOS = ("turned", "grey of 8 bits in 16", "grey of 12 bits in 16", "grey of 16 bits", "colours of 16 bits", "palette",
          "alpha")
REFUSED = {"dark colours of 16 bits": "values of 12 bits in 16", "32 bits": "holds 32 bits a pixel"}


def state_of(clip): return {k: v.contiguous().clone() for k, v in clip.model.state_dict().items()}


@pytest.fixture(scope="module")
def brought(tiny, tmp_path_factory):
    "(clip, task) of a small model with its weights in a file, and 2 x 3 images in files"
    folder, random = tmp_path_factory.mktemp("brought"), tiny(precision="fp32")
    save_file(state_of(random), folder / "weights.safetensors")
    rng, files = np.random.default_rng(0), []
    for i in range(6):
        files.append(folder / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(files[-1])
    images = Split(files, [0, 1, 2] * 2, CLASSES)
    return load_clip(random.name, str(folder / "weights.safetensors")), Task("brought", images, {"same": images})


class Weights(torch.nn.Module):
    "What a TorchScript archive of OpenAI's holds: weights under CLIP's names, and three numbers"
    def __init__(self, model):
        super().__init__()
        for name, child in model.named_children(): self.add_module(name, child)
        for name, p in model.named_parameters(recurse=False): self.register_parameter(name, p)
        for child in self.children(): child.forward = None  # only the weights are scripted
        for name in ("input_resolution", "context_length", "vocab_size"): self.register_buffer(name, torch.tensor(32))

    def forward(self, x: torch.Tensor): return x * 2


def config_of(clip, folder):
    "A folder, or a repository of the hub, as open_clip loads it"
    folder.mkdir(parents=True)
    means = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    config = {"model_cfg": open_clip.get_model_config(clip.name) | {"quick_gelu": False}, "preprocess_cfg": means}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(state_of(clip), folder / "open_clip_model.safetensors")
    return folder


def from_file(kind, plain, folder):
    "The same weights from another kind of file"
    state, numbers = state_of(plain), {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77)}
    if kind == "folder": return load_clip(f"local-dir:{config_of(plain, folder / 'dir')}")
    if kind == "hub":
        base = Path(os.environ["HF_HOME"], "hub", "models--somebody--exported")
        (base / "refs").mkdir(parents=True)
        (base / "refs" / "main").write_text("0" * 40)
        config_of(plain, base / "snapshots" / ("0" * 40))
        return load_clip("hf-hub:somebody/exported")
    alone = kind in ("QuickGELU", "own preprocessing")
    path = folder / f"{kind}.{'safetensors' if alone else 'pt'}"
    if alone: save_file(state, path)
    if kind == "OpenAI's format": torch.save(state | numbers, path)
    if kind == "in a checkpoint": torch.save({"state_dict": state | numbers, "epoch": 3}, path)
    if kind == "archive": torch.jit.trace(Weights(copy.deepcopy(plain.model)), torch.ones(1)).save(str(path))
    with pytest.MonkeyPatch.context() as patch:
        if kind == "own preprocessing":
            patch.setitem(open_clip.pretrained._PRETRAINED, plain.name, {"published": SQUASHED})
        return load_clip(
            plain.name, str(path), quick_gelu=True if kind == "QuickGELU" else None, trust=kind == "archive"
        )


def photo_of(kind, folder):
    "A photograph of a kind, in a file"
    values, path = np.random.default_rng(0).integers(0, 2**16, (40, 50, 3), dtype=np.uint16), folder / f"{kind}.png"
    small = Image.fromarray((values >> 8).astype(np.uint8))
    if kind == "turned":
        exif, path = Image.Exif(), path.with_suffix(".jpg")
        exif[0x0112] = 6
        small.save(path, exif=exif)
    elif kind.startswith("grey"):
        Image.fromarray(values[..., 0] >> {"8": 8, "12": 4, "16": 0}[kind.split()[2]]).save(path)
    elif kind == "palette": small.quantize(16).save(path)
    elif kind == "alpha": small.convert("RGBA").save(path)
    elif kind == "32 bits": Image.fromarray(values[..., 0].astype(np.float32)).save(path := path.with_suffix(".tiff"))
    else: path.write_bytes(png_of_16_bits(values >> 4 if kind.startswith("dark") else values))
    return path


def png_of_16_bits(values):
    "A PNG of 16 bits a channel [H, W, 3], which PIL reads and does not write"
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


ALONE = """
import sys, json, torch, io, contextlib, glob, importlib.util
for file in glob.glob(importlib.util.find_spec("torchvision").submodule_search_locations[0] + "/_C*"):
    with contextlib.suppress(OSError): torch.ops.load_library(file)
if not hasattr(torch.ops.torchvision, "nms"):  # compiled for another torch
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"): library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import open_clip
sys.modules["prograd_viz"] = None  # whoever imports it now fails
open_clip.add_model_config(sys.argv[1])
said = {}
for kind, (script, photo) in json.loads(sys.argv[2]).items():
    sys.argv[1:] = [photo]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try: exec(compile(open(script).read(), script, "exec"), {"__name__": "__main__"})
        except SystemExit as e: print(e)
    said[kind] = out.getvalue()
print(json.dumps(said))
"""


def tuned(clip, task, **options):
    "A short training that moves the context"
    options = {"init": "random", "n_ctx": 3, "epochs": 2, "lr": 0.1, "batch_size": 3, "views": 0} | options
    return train(clip, task, [0, 1], progress=False, **options)


@pytest.fixture(scope="module")
def exported(brought, clip, tmp_path_factory):
    "kind -> (runs, script, photograph), of every kind of context, file, precision and photograph"
    (plain, task), folder = brought, tmp_path_factory.mktemp("exported")
    first, runs = task.train.images[4], {kind: tuned(plain, task, **o) for kind, o in CONTEXTS.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs |= {kind: tuned(from_file(kind, plain, folder), task) for kind in FILES}
        runs |= {p: tuned(load_clip(plain.name, plain.pretrained, precision=p), task) for p in PRECISIONS}
    known = Split(task.train.images, task.train.labels, ("dog", "cat", "cup"))
    runs["pocket"] = tuned(clip, Task("pocket", known, {}), **CONTEXTS["template"])
    out = {kind: (r, export_prompt(r, folder / f"tuned {i}", 1.0), first) for i, (kind, r) in enumerate(runs.items())}
    return out | {kind: (*out["end"][:2], photo_of(kind, folder)) for kind in (*PHOTOS, *REFUSED)}


@pytest.fixture(scope="module")
def said(brought, exported):
    "kind -> what its script prints, all in one process that has no part of this library"
    from open_clip.factory import _MODEL_CONFIG_PATHS
    (config,) = [p for p in _MODEL_CONFIG_PATHS if p.stem == brought[0].name]
    jobs = json.dumps({kind: (str(script), str(photo)) for kind, (_, script, photo) in exported.items()})
    kept = {k: os.environ[k] for k in ("PATH", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")}
    out = subprocess.run([sys.executable, "-I", "-c", ALONE, config, jobs], capture_output=True, text=True, env=kept)
    assert out.returncode == 0, out.stderr[-1500:]
    return json.loads(out.stdout.splitlines()[-1])


def shares(text): return {n: float(p) for p, n in (line.split(" ", 1) for line in text.splitlines())}


@pytest.mark.parametrize("kind", [*CONTEXTS, *FILES, "fp64", "pocket", *PHOTOS])
def test_script_and_library_agree_to_a_millionth(exported, said, kind):
    runs, _, photo = exported[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the bits that a grey photograph uses
        ours = predict(runs, [photo], 1.0).iloc[0]
    theirs = shares(said[kind])
    assert set(theirs) == set(runs.classes) and all(abs(theirs[c] - ours[c]) < 1e-6 for c in theirs)


@pytest.mark.parametrize("kind", ["fp16", "bf16", "amp_bf16"])
def test_a_script_computes_in_the_precision_of_the_model(exported, said, kind):
    runs, _, photo = exported[kind]
    clip, prompts, k = runs.clip, run_prompts(runs), runs.snapshot(None)
    context = torch.from_numpy(runs.contexts[k, [runs.run(1.0)]])
    text, image = plain_text_features(prompts, context)[0], clip.encode_image(clip.preprocess(open_image(photo))[None])
    same = (clip.logit_scale * image @ text.T).softmax(-1)[0].tolist()
    theirs, ours = shares(said[kind]), predict(runs, [photo], 1.0).iloc[0]
    rounding = 4 * clip.logit_scale.item() * torch.finfo(clip.autocast or clip.dtype).eps  # of four features' cosines
    for name, p in zip(runs.classes, same):
        assert abs(theirs[name] - p) < 1e-6, "the same operations"
        assert abs(theirs[name] - ours[name]) < rounding, "the library packs the prompts otherwise"


@pytest.mark.parametrize(("kind", "sentence"), REFUSED.items())
def test_a_photo_that_the_library_refuses_is_refused_by_the_script(exported, said, kind, sentence):
    with pytest.raises(ValueError, match="bits"): predict(exported[kind][0], [exported[kind][2]], 1.0)
    assert sentence in said[kind] and len(said[kind].splitlines()) == 1


def test_others_may_read_what_is_written(clip, task, tmp_path):
    "As a new file of this process: features in a shared cache, exported arrays and prompts"
    (tmp_path / "usual").write_text("")
    runs = train(replace(clip, cache=tmp_path / "cache"), task, [0, 1], epochs=1, progress=False)
    runs.export(tmp_path / "arrays")
    export_prompt(runs, tmp_path / "prompt", 1.0)
    files = [*tmp_path.rglob("*.safetensors")]
    assert len(files) >= 5
    assert {file.stat().st_mode for file in files} == {(tmp_path / "usual").stat().st_mode}


def test_a_script_is_short_and_names_nothing_of_this_library(exported, said):
    _, script, photo = exported["end"]
    own = [line for line in script.read_text().splitlines() if not line.startswith(("prompt = ", "model, _, "))]
    assert len(own) <= 40 and max(map(len, own)) <= 120 and not any("prograd" in line for line in own)


def test_a_model_of_random_weights_is_refused_before_anything_is_written(tiny, brought, tmp_path):
    for clip in (tiny(precision="fp32"), load_clip("pocket", "random")):
        runs = tuned(clip, brought[1], epochs=1)
        with pytest.raises(ValueError, match="has random weights, which no script can load; train"):
            export_prompt(runs, tmp_path / "never", 1.0)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_gone_are_named(brought, tmp_path):
    plain, task = brought
    runs = tuned(replace(plain, pretrained=str(tmp_path / "gone.pt")), task, epochs=1)
    with pytest.raises(ValueError, match="gone.pt"): export_prompt(runs, tmp_path / "never", 1.0)


def write(folder, context, epoch, **state):
    "A checkpoint of the published trainers, with the objects that their scheduler drags along"
    vectors = torch.nn.Parameter(context.clone())
    optimiser = torch.optim.SGD([vectors], lr=0.002, momentum=0.9)
    vectors.grad = torch.ones_like(vectors)
    optimiser.step()  # now it holds momenta
    (folder / "prompt_learner").mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "state_dict": {"ctx": context, **state},
            "epoch": epoch,
            "optimizer": optimiser.state_dict(),
            "scheduler": {"successor": torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 9)},
        },
        folder / "prompt_learner" / f"model.pth.tar-{epoch}",
    )


def test_published_checkpoints_become_a_run_set_with_the_accuracies_of_their_contexts(clip, task, tmp_path):
    runs = train(clip, task, [0, 1], epochs=4, lr=0.05, batch_size=8, views=0, evaluate_every=1, progress=False)
    for r, lam in enumerate((0, 1)):
        for epoch in (2, 4):
            write(
                tmp_path / str(lam),
                torch.from_numpy(runs.contexts[runs.snapshot(3 * epoch), r]),
                epoch,
                token_prefix=torch.zeros(6, 1, 128),
            )
    write(tmp_path / "1", torch.zeros(4, 128), 7)  # an epoch that the other did not keep
    loaded = load_published({0: tmp_path / "0", 1: tmp_path / "1"}, clip, task)
    assert (
        loaded.snapshot_steps.tolist() == [2, 4]
        and loaded.lambdas == (0.0, 1.0)
        and loaded.methods == ("CoOp", "ProGrad")
    )
    for lam in (0.0, 1.0):
        for epoch in (2, 4):
            np.testing.assert_allclose(loaded.text(lam, epoch), runs.text(lam, 3 * epoch), atol=1e-6)
            ours = runs.steps[(runs.steps["lam"] == lam) & (runs.steps["step"] == 3 * epoch)].iloc[0]
            theirs = loaded.steps[(loaded.steps["lam"] == lam) & (loaded.steps["step"] == epoch)].iloc[0]
            for split in ("train", "same", "shifted", "new", "style"):
                assert theirs[f"acc_{split}"] == ours[f"acc_{split}"]
    assert loaded.steps[["cos", "loss_ce", "loss_kl", "norm_gd"]].isna().all().all(), (
        "what was not recorded is not made up"
    )
    for run_set, known in ((loaded, False), (runs, True)):  # the start, which published code does not keep
        assert read_context_words(run_set, 0.0, top=1)["drift"].notna().all() == known
        land = landscape(run_set, size=2, progress=False)
        names = [text.get_text() for text in plot_landscape(land).legends[0].get_texts()]
        assert ("start" in names) == known and ("CoOp at step 2" in names) != known
        assert len({line.get_color() for line in plot_landscape(land).axes[0].lines if len(line.get_xdata()) > 1}) == 2


def test_a_single_point_is_drawn(clip, task, tmp_path):
    write(tmp_path, 0.02 * torch.randn(4, 128, generator=torch.Generator().manual_seed(3)), 5)
    loaded = load_published(tmp_path, clip, task)
    for fig in (plot_accuracy(loaded), plot_words(loaded)):
        of_run = [line for line in fig.axes[0].lines if len(line.get_xdata()) == 1]
        assert of_run and all(line.get_marker() == "o" for line in of_run)


def test_a_published_run_set_is_tested_anywhere_with_the_accuracies_of_its_record(clip, task, tmp_path):
    write(tmp_path, 0.02 * torch.randn(4, 128, generator=torch.Generator().manual_seed(3)), 5)
    loaded = load_published(tmp_path, clip, task)
    for split in ("same", "new", "style"):  # new has other classes
        expected = [loaded.zero_shot_accuracy[split], *loaded.final()[f"acc_{split}"]]
        assert accuracy_on(loaded, task.tests[split])["accuracy"].tolist() == expected
        assert predictions(loaded, split).groupby("method", sort=False)["right"].mean().tolist() == expected


def test_a_published_run_set_can_be_explored_and_drawn(clip, task, tmp_path):
    for epoch in (1, 2):
        write(tmp_path, 0.02 * torch.randn(16, 128, generator=torch.Generator().manual_seed(epoch)), epoch)
    loaded = load_published(tmp_path, clip, task, init="random")
    assert loaded.contexts.shape == (2, 1, 16, 128)
    explorer = Explorer(loaded, data=explorer_data(loaded, images=1, explainer="Occlusion"))
    explorer.step = 2
    table = explorer.table()
    assert table["step"].unique().tolist() == [2] and table["method"].tolist() == ["zero-shot CLIP", loaded.methods[0]]
    assert table["share"].notna().all() and plot_accuracy(loaded).axes and plot_cosine(loaded).axes


def test_class_specific_contexts_are_read_for_as_many_classes(clip, task, tmp_path):
    write(tmp_path, 0.02 * torch.randn(6, 4, 128), 5)
    assert load_published(tmp_path, clip, task, init="random").contexts.shape == (1, 1, 6, 4, 128)
    few = Task("few", Split(task.train.images[:2], [0, 1], ("dog", "cat")), {})
    with pytest.raises(ValueError, match="6 classes, the task has 2"):
        load_published(tmp_path, clip, few, init="random")


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
    assert list(table.columns) == list(test.classes) and (
        table.to_numpy().argmax(1) == test.labels
    ).mean() == pytest.approx(runs.final().loc[1.0, "acc_new"])
    np.testing.assert_allclose(class_features(runs, 1.0, step=3, classes=runs.classes), runs.text(1.0, 3), atol=1e-6)


def test_calibration_and_class_accuracies_follow_from_the_predictions(clip, task):
    runs = train(clip, task, [0, 1], epochs=3, lr=0.05, batch_size=8, views=0, progress=False)
    table = predictions(runs, "same")
    for lam in runs.lambdas:
        assert table.loc[table["lam"] == lam, "right"].mean() == pytest.approx(runs.final().loc[lam, "acc_same"])
    mine, ece = table[table["lam"] == 1], 0
    for low in np.arange(10) / 10:
        inside = mine[(mine["confidence"] > low) & (mine["confidence"] <= low + 0.1)]
        if len(inside): ece += len(inside) / len(mine) * abs(inside["right"].mean() - inside["confidence"].mean())
    assert calibration(table, 10).set_index("lam").loc[1, "ece"] == pytest.approx(ece, abs=1e-6)
    changes = per_class(table)
    one = changes[(changes["lam"] == 1) & (changes["label"] == task.classes[2])].iloc[0]
    right = lambda prompt_rows: prompt_rows.loc[prompt_rows["label"] == task.classes[2], "right"].mean()
    assert one["change"] == pytest.approx(right(mine) - right(table[table["method"] == "zero-shot CLIP"]))


@pytest.mark.parametrize("position", ["front", "middle"])
def test_a_torn_name_is_read_as_coops_code_trained_it(brought, tmp_path, position):
    "In CoOp's forward pass, as many tokens as the name has are cut from behind the context, frozen words first"
    clip, template = brought[0], "a type of pet, a photo of a {}."
    task = Task("pets", Split(brought[1].train.images, [0, 1, 2] * 2, ("tabby cat", "dog", "kiwi bird")), {}, template)
    context = torch.randn(8, clip.token_embedding.embedding_dim, generator=torch.Generator().manual_seed(0))
    write(tmp_path, context, 1)
    with pytest.warns(UserWarning, match="tears the name; these prompts are read as they were trained"):
        runs = load_published(tmp_path, clip, task, position=position)
    tokens, rows = clip.tokenize([template.format(n) for n in task.classes]), []
    half = {"front": 0, "middle": 4}[position]
    for row, name in zip(clip.token_embedding(tokens), task.classes):
        n, behind = len(clip.tokenizer.encode(name)), row[9:]
        rows.append(torch.cat([row[:1], context[:half], behind[:n], context[half:], behind[n:]]))
    with torch.no_grad():
        x = torch.stack(rows) + clip.model.positional_embedding
        x = clip.model.ln_final(clip.model.transformer(x, attn_mask=clip.model.attn_mask))
        x = x[torch.arange(3), tokens.argmax(-1)] @ clip.model.text_projection
    torch.testing.assert_close(torch.from_numpy(runs.text("published prompt")), F.normalize(x, dim=-1))
    assert run_prompts(runs).tokens[0, 1 + half].item() == clip.tokenizer.encode("a")[0], "a frozen word in its place"
