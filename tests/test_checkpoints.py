"""Checkpoints that other trainers wrote: whatever follows from what is in them works, everything else is refused with
the reason, and nothing is read in part."""
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from prograd_viz.data import Split, Task
from prograd_viz.evaluate import accuracy_on, per_class, predictions
from prograd_viz.explorer import explore
from prograd_viz.landscape import landscape
from prograd_viz.maps import foreground
from prograd_viz.plots import (
    plot_accuracy,
    plot_angles,
    plot_cosine,
    plot_gradient_plane,
    plot_maps,
    plot_token_cosines,
)
from prograd_viz.prompts import make_prompts
from prograd_viz.protocols import paper_table
from prograd_viz.published import find_published, load_published, published_results, read_context, trained_as
from prograd_viz.report import save_report
from prograd_viz.runs import load_runs
from prograd_viz.screen import explorer_data
from prograd_viz.tasks import few_shot
from prograd_viz.words import plot_words


def learner_state(clip, classes, template="a photo of a {}.", seed=0, n_ctx=4, init="template", own=False):
    "The state dict of CoOp's and ProGrad's prompt learner, in half precision, with a context off its start"
    prompts = make_prompts(clip, classes, n_ctx=n_ctx, init=init, template=template, class_specific=own)
    embedded = clip.token_embedding(prompts.tokens).detach()
    moved = 0.02 * torch.randn(prompts.start.shape, generator=torch.Generator().manual_seed(seed))
    kept = {"ctx": prompts.start + moved, "token_prefix": embedded[:, :1], "token_suffix": embedded[:, 1 + n_ctx:]}
    return {name: tensor.half() for name, tensor in kept.items()}


def write(folder, state, epoch, best=False, name="prompt_learner"):
    "A checkpoint as Dassl writes it"
    (folder / name).mkdir(parents=True, exist_ok=True)
    kept = {"state_dict": state, "epoch": epoch, "optimizer": {"state": {}}, "scheduler": {}}
    torch.save(kept, folder / name / ("model-best.pth.tar" if best else f"model.pth.tar-{epoch}"))
    return folder


KEPT = {"last alone": [50], "tens": [10, 20, 30, 40, 50], "first five": [1, 2, 3, 4, 5], "best alone": "best 37",
        "best and last": "best 37 and 50", "a file": [50], "the best file": "best 37",
        "class-specific": [50]}


def kept_folder(tmp, kind, clip, task):
    "What a training left, and the epochs that can be read from it"
    own = {"own": True, "init": "random"} if kind == "class-specific" else {}
    state = lambda epoch: learner_state(clip, task.classes, task.template, epoch, **own)
    kept = KEPT[kind]
    if isinstance(kept, str):
        folder = write(tmp, state(37), 37, best=True)
        if kept.endswith("50"): write(tmp, state(50), 50)
        epochs = [37, 50] if kept.endswith("50") else [37]
    else:
        epochs = kept
        for epoch in epochs: folder = write(tmp, state(epoch), epoch)
    name = "model-best.pth.tar" if "best" in kind else "model.pth.tar-50"
    return (folder / "prompt_learner" / name if "file" in kind else folder), epochs


@pytest.fixture(params=KEPT, scope="module")
def loaded(request, clip, task, tmp_path_factory):
    "The runs of every kind of folder, and their epochs"
    path, epochs = kept_folder(tmp_path_factory.mktemp("output"), request.param, clip, task)
    with pytest.warns(UserWarning, match="not say which trainer wrote it; it is called 'published prompt' here: name"):
        return load_published(path, clip, task), epochs


def test_whatever_epochs_were_kept_they_are_snapshots(loaded, clip, task):
    runs, epochs = loaded
    assert list(runs.snapshot_steps) == epochs == runs.steps["epoch"].tolist()
    assert runs.steps[["loss_ce", "loss_kl", "cos", "norm_gd", "batch_hash"]].isna().all(axis=None)
    table = accuracy_on(runs, "same").set_index("method")["accuracy"]
    assert table["zero-shot CLIP"] == pytest.approx(runs.zero_shot_accuracy["same"])
    assert runs.methods == ("published prompt",)
    assert table["published prompt"] == pytest.approx(runs.final()["acc_same"][runs.keys[0]])


@pytest.mark.parametrize("loaded", ["last alone", "tens", "the best file", "class-specific"], indirect=True)
def test_everything_works_on_them(loaded, clip, task, tmp_path):
    runs, epochs = loaded
    runs.save(tmp_path / "saved")
    again = load_runs(tmp_path / "saved", clip, task)
    assert np.array_equal(again.contexts[:], runs.contexts)
    assert again.final()["acc_same"].tolist() == runs.final()["acc_same"].tolist()
    data = explorer_data(again, images=1)
    explorer = explore(again, data=data)
    for step in epochs:
        explorer.step = step
        assert explorer.table()["step"].unique().tolist() == [step]
    assert "published prompt" in save_report(again, tmp_path / "report.html", data=data).read_text(encoding="utf-8")
    assert foreground(runs, images=2, random_directions=1).rows["share"].notna().any()
    assert len(per_class(predictions(runs))) == 2 * len(task.classes)
    for fig in (plot_cosine(runs), plot_accuracy(runs), plot_maps(runs, images=1)): assert fig.axes
    word = task.classes[0] if runs.config["class_specific"] else None
    assert plot_words(runs, name=word, steps=1).axes


def test_what_was_not_kept_is_absent_with_a_sentence(loaded):
    runs, epochs = loaded
    for draw in (lambda: plot_gradient_plane(runs, "published prompt", epochs[0]), lambda: plot_angles(runs),
                 lambda: plot_token_cosines(runs, "published prompt")):
        with pytest.raises(ValueError, match="no cosine of published prompt was recorded, so there are no"): draw()
    if len(epochs) > 1: return
    with pytest.raises(ValueError, match=f"two steps at least, or two runs; these runs have that of step {epochs[0]}"):
        landscape(runs, size=3, progress=False)


def others(state):
    "Learner -> its state dict, its folder, and what is said of it; the names of tensors are those of its repository"
    width, ones = state["ctx"].shape[-1], lambda *shape: torch.ones(shape, dtype=torch.half)
    whole = {f"prompt_learner.{name}": tensor for name, tensor in state.items()}
    first = {"meta_net.linear1.weight": ones(4, 8), "meta_net.linear1.bias": ones(4)}
    net = lambda out: first | {"meta_net.linear2.weight": ones(out, 4), "meta_net.linear2.bias": ones(out)}
    deep = {"prompt_learner.compound_prompts_text.0": ones(2, width), "prompt_learner.proj.weight": ones(8, width),
            "image_encoder.conv1.weight": ones(2, 3, 4, 4), "logit_scale": ones()}
    vpt = {"image_encoder.VPT": ones(4, 8), "text_encoder.transformer.resblocks.1.VPT_shallow": ones(4, width)}
    return {
        "KgCoOp": (state | {"bias_vectors": ones(1, width)} | first, "prompt_learner", None),
        "a data-parallel CoOp": ({f"module.{k}": v for k, v in state.items()}, "prompt_learner", None),
        "prompt learner within its model": (whole, "prompt_learner", None),
        "CoCoOp": (state | net(width), "prompt_learner", "of CoCoOp: its meta_net moves the context for every image"),
        "TCP": (state | net(4 * width), "prompt_learner", "of TCP: its meta_net writes prompts for the classes"),
        "MaPLe": (whole | deep, "MultiModalPromptLearner", "of MaPLe: its prompts enter deeper layers of both towers"),
        "PromptSRC": (whole | vpt, "VLPromptLearner", r"of PromptSRC, or another learner of deep prompts: its prompts"),
        "whole CLIP": (whole | {"image_encoder.conv1.weight": ones(2, 3, 4, 4)}, "prompt_learner",
                       "of an unknown learner: it keeps prompt_learner.ctx, "),
        "more than a context": (state | {"scale": ones(1)}, "prompt_learner",
                                "of an unknown learner: it keeps scale beside a context"),
        "no context": ({"token_prefix": ones(2, 1, width)}, "prompt_learner", "holds no context"),
        "diverged": (state | {"ctx": state["ctx"] * torch.nan}, "prompt_learner",
                     "holds NaN or infinity: that training diverged; load an earlier epoch"),
        "another width": (state | {"ctx": ones(4, width + 1)}, "prompt_learner", "the context has width"),
    }


OTHERS = [*others({"ctx": torch.zeros(4, 8)})]


@pytest.mark.parametrize("learner", OTHERS)
def test_a_checkpoint_is_read_whole_or_refused_by_name(learner, clip, task, tmp_path):
    state = learner_state(clip, task.classes, task.template)
    kept, name, problem = others(state)[learner]
    folder = write(tmp_path, kept, 50, name=name)
    if problem is None:
        runs = load_published({learner: folder}, clip, task)
        assert runs.methods == (learner,)
        assert np.array_equal(runs.contexts[0, 0], state["ctx"].float())
        return
    for path in (folder, folder / name / "model.pth.tar-50"):
        with pytest.raises(ValueError, match=problem): load_published(path, clip, task)


def named_task(*names, template="a photo of a {}."):
    images = [np.zeros((8, 8, 3), np.uint8)] * len(names)
    return Task("x", Split(images, list(range(len(names))), names), {}, template)


SUFFIXES = {  # classes and template of the training, those of the task, what is quoted
    "2 of 2": (("cat", "dog"), "a photo of a {}.", ("car", "bus"), r"'cat ?\.', 'dog ?\.' where .* 'car ?\.', "),
    "3 of 2": (("cat", "dog", "car"), "a photo of a {}.", ("car", "bus"), r"'cat ?\.', 'dog ?\.' where .* 'car"),
    "5 of 4": (("cat", "dog", "car", "bus", "fish"), "a photo of a {}.", ("cat", "dog", "car", "tree"), None),
    "another order": (("cat", "dog"), "a photo of a {}.", ("dog", "cat"), r"'cat ?\.', 'dog ?\.' where .* 'dog ?\.'"),
}


@pytest.mark.parametrize("kind", SUFFIXES)
def test_words_of_other_classes_or_of_another_template_are_quoted(kind, clip, tmp_path):
    classes, template, others, quoted = SUFFIXES[kind]
    folder = write(tmp_path, learner_state(clip, classes, template, n_ctx=8), 50)
    number = "" if len(classes) == len(others) else rf"{len(classes)} classes \(this task has {len(others)}\)"
    words = f"{' and ' if number else ''}other words behind its context: {quoted}" if quoted else r"\. Give the task"
    with pytest.raises(ValueError, match=f"trained with {number}{words}") as e:
        load_published(folder, clip, named_task(*others))
    assert "accuracy_on(runs, split)" in str(e.value) and "init=" in str(e.value)


@pytest.fixture(scope="module")
def wordy(tiny):
    "A random model that takes any word"
    return tiny(precision="fp32")


def pets(model, template="a type of pet, a photo of a {}."):
    px = model.image_size
    images = [np.full((px, px, 3), 50 * i, np.uint8) for i in range(2)]
    return Task("x", Split(images, [0, 1], ("pug", "ragdoll")), {}, template)


def test_a_word_that_the_template_leaves_frozen_is_quoted(wordy, tmp_path):
    folder = write(tmp_path, learner_state(wordy, ("pug", "ragdoll"), pets(wordy).template, n_ctx=16), 50)
    with pytest.raises(ValueError, match=r"'a pug ?\.', 'a ragdoll ?\.' where this task has 'pug ?\.', 'ragdoll ?\.'"):
        load_published(folder, wordy, pets(wordy, "a photo of a {}."))


def test_the_words_that_were_kept_show_the_start(wordy, tmp_path):
    "With a comma in the template, a random start leaves no word frozen before the class name"
    clip, task = wordy, pets(wordy)
    for init in ("template", "random"):
        folder = write(tmp_path / init, learner_state(clip, task.classes, task.template, n_ctx=16, init=init), 50)
        assert load_published(folder, clip, task).config["init"] == init
    with pytest.raises(ValueError, match="other words behind its context: 'pug"):
        load_published(folder, clip, task, init="template")


def test_another_models_embeddings_are_refused(clip, tmp_path):
    state = learner_state(clip, ("cat", "dog"))
    folder = write(tmp_path, state | {"token_suffix": state["token_suffix"] + 1}, 50)
    with pytest.raises(ValueError, match="other token embeddings than those of 'pocket'; load the model of that"):
        load_published(folder, clip, named_task("cat", "dog"))


def test_the_position_is_read_from_the_folder_and_another_one_is_refused(clip, task, tmp_path):
    folder = tmp_path / "output/pocket/CoOp/rn50_8shots/nctx4_cscFalse_ctpmiddle/seed1"
    write(folder, learner_state(clip, task.classes, task.template), 50)
    with pytest.warns(UserWarning, match="class name in the middle"):
        assert load_published(folder, clip, task).config["position"] == "middle"
    with pytest.raises(ValueError, match="was trained with the class name at position 'middle', got position='end'"):
        load_published(folder / "prompt_learner" / "model.pth.tar-50", clip, task, position="end")


def test_contexts_of_two_lengths_are_not_stacked(clip, task, tmp_path):
    folders = {n: write(tmp_path / str(n), learner_state(clip, task.classes, task.template, n_ctx=4 + n), 50)
               for n in (0, 1)}
    with pytest.raises(ValueError, match=r"contexts of several shapes, \(4, \d+\), \(5, \d+\), in .*one by one"):
        load_published(folders, clip, task)


LOG = """** Config **
DATASET:
  NAME: Pocket
  NUM_SHOTS: 2
  SUBSAMPLE_CLASSES: all
LOSS:
  ALPHA: 0.0
  LAMBDA: 0.8
  NAME: prograd
SEED: 2
TRAINER:
  COOP:
    CLASS_TOKEN_POSITION: end
    CSC: False
    CTX_INIT: True
    N_CTX: 4
  NAME: ProGrad
"""


FEW = {"test_per_class": 1, "classes": 4}


def output_tree(top, clip):
    "Trainings of two learners, two shots, two seeds, in the folders of the published scripts, and one base to new"
    tasks = {seed: few_shot("pocket", shots=1, seed=seed, **FEW) for seed in (1, 2)}  # the seed draws the classes
    for trainer, shots, seed in itertools.product(("CoOp", "ProGrad"), (1, 2), (1, 2)):
        folder = top / f"pocket/{trainer}/rn50_ep50_{shots}shots/nctx4_cscFalse_ctpend/seed{seed}"
        write(folder, learner_state(clip, tasks[seed].classes, tasks[seed].template, seed), 50)
    return folder


def test_a_tree_of_output_folders_becomes_a_table_over_seeds_and_shots(clip, tmp_path):
    (output_tree(tmp_path, clip) / "log.txt").write_text(LOG)
    found = find_published(tmp_path)
    assert len(found) == 8 and found["dataset"].unique().tolist() == ["pocket"]
    assert found.groupby("trainer")["lam"].apply(lambda x: x.dropna().tolist()).to_dict() == {
        "CoOp": [], "ProGrad": [0.8]}
    assert {tuple(x) for x in found["epochs"]} == {(50,)} and set(found["config"]) == {"rn50_ep50"}
    table = published_results(found, clip, data=FEW, progress=False)
    assert table.groupby("method").size().to_dict() == {"CoOp": 4, "ProGrad": 3, "ProGrad 0.8": 1, "zero-shot CLIP": 4}
    task = few_shot("pocket", shots=2, seed=1, **FEW)
    one = table[(table["method"] == "CoOp") & (table["shots"] == 2) & (table["seed"] == 1)].iloc[0]
    runs = load_published({0: one["folder"]}, clip, task)
    assert one["accuracy"] == runs.final()["acc_same"].iloc[0]
    assert (one["model"], one["epochs"], one["n_ctx"], one["template"]) == ("pocket", 50, 4, task.template)
    wide = paper_table(table)
    assert wide.loc[(1, "CoOp"), "pocket"] == pytest.approx(
        100 * table.query("method == 'CoOp' and shots == 1")["accuracy"].mean())


def test_a_training_that_cannot_be_read_is_named_and_the_others_stay(clip, tmp_path):
    folder = output_tree(tmp_path, clip).parent
    write(folder / "seed1", learner_state(clip, ("cat", "dog")), 50)
    with pytest.warns(UserWarning, match=r"1 of 2 trainings are left out: .*seed1: .*other words behind its context"):
        table = published_results(folder, clip, data=FEW, progress=False)
    assert table["seed"].tolist() == [2, 2]
    with pytest.raises(FileNotFoundError, match="no model.pth.tar-N below"): find_published(tmp_path / "nowhere")


FOLDERS = {
    "output/oxford_pets/CoOp/rn50_ep50_1shots/nctx16_cscTrue_ctpfront/seed3":
        {"dataset": "oxford_pets", "trainer": "CoOp", "config": "rn50_ep50", "shots": 1, "n_ctx": 16,
         "class_specific": True, "position": "front", "seed": 3},
    "output/base2new/train_base/dtd/shots_4/ProGrad/rn50_ep100/seed1":
        {"dataset": "dtd", "trainer": "ProGrad", "config": "rn50_ep100", "shots": 4, "subset": "base", "seed": 1},
    "output/imagenet/CoCoOp/vit_b16_c4_ep10_batch1_ctxv1_16shots/seed2":
        {"dataset": "imagenet", "trainer": "CoCoOp", "config": "vit_b16_c4_ep10_batch1_ctxv1", "shots": 16, "seed": 2},
    "mine/run7": {},
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_names_of_output_folders_say_what_was_trained(folder, tmp_path):
    assert trained_as(tmp_path / folder) == FOLDERS[folder]


def test_the_log_decides(tmp_path):
    folder = tmp_path / "output/pocket/CoOp/rn50_8shots/nctx4_cscFalse_ctpmiddle/seed1"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text(LOG)
    facts = trained_as(folder)
    assert [facts[k] for k in ("trainer", "position", "shots", "seed", "lam")] == ["ProGrad", "end", 2, 2, 0.8]


def test_a_base_to_new_training_is_tested_on_both_halves(clip, tmp_path, monkeypatch):
    "With a data set that has halves; the pocket world has a test set of new classes"
    import prograd_viz.published as published
    monkeypatch.setattr(published, "few_shot", lambda data, shots, seed, subset="all", **options:
                        few_shot(data, shots, seed, **options))
    task = few_shot("pocket", shots=4, seed=1, **FEW)
    write(tmp_path / "base2new/train_base/pocket/shots_4/CoOp/rn50/seed1",
          learner_state(clip, task.classes, task.template), 200)
    table = published_results(tmp_path, clip, data=FEW, progress=False)
    assert table["method"].tolist() == ["zero-shot CLIP", "CoOp"]
    expected = load_published({0: table["folder"].iloc[-1]}, clip, task).final()
    assert table[["base", "new"]].iloc[1].tolist() == expected[["acc_same", "acc_new"]].iloc[0].tolist()
    assert isinstance(paper_table(table), pd.DataFrame)


def test_a_context_alone_is_read(clip, task, tmp_path):
    path = tmp_path / "mine.pt"
    torch.save({"ctx": torch.zeros(4, clip.token_embedding.embedding_dim)}, path)
    assert read_context(path)[0].shape == (4, clip.token_embedding.embedding_dim)
    assert load_published(path, clip, task).steps["step"].tolist() == [1]


@pytest.mark.parametrize("trainer, method", [("CoOp", "CoOp"), ("ProGrad", "ProGrad"), ("KgCoOp", "KgCoOp")])
def test_the_folder_names_the_method(trainer, method, clip, task, tmp_path):
    folder = tmp_path / f"output/pocket/{trainer}/rn50_8shots/nctx4_cscFalse_ctpend/seed1"
    write(folder, learner_state(clip, task.classes, task.template), 50)
    runs = load_published(folder, clip, task)
    assert runs.methods == (method,)
    assert runs.config["init"] == ("random" if trainer == "CoOp" else "template")
    with pytest.raises(FileNotFoundError, match="holds 1 trainings, such as .*seed1; name one, .*published_results"):
        load_published(tmp_path / "output", clip, task)


@pytest.mark.parametrize("written, init", [("True", "template"), ("False", "random"), ("", "random"),
                                           ("a_photo_of_a", "a photo of a")])
def test_the_log_says_how_the_context_began(written, init, tmp_path):
    (tmp_path / "log.txt").write_text(LOG.replace("CTX_INIT: True", f"CTX_INIT: {written}"))
    assert trained_as(tmp_path)["init"] == init


def test_trainings_without_a_common_epoch_are_seen_side_by_side(clip, task, tmp_path):
    "CoOp's last epoch is 200 and ProGrad's 100, say"
    folders = [write(tmp_path / f"output/pocket/{trainer}/rn50_8shots/nctx4_cscFalse_ctpend/seed1",
                     learner_state(clip, task.classes, task.template, seed=epoch), epoch)
               for trainer, epoch in (("CoOp", 200), ("ProGrad", 100))]
    with pytest.raises(ValueError, match=r"no epoch was kept in all of .*; load them one by one and see both"):
        load_published(dict(enumerate(folders)), clip, task)
    both = explore([load_published(folder, clip, task) for folder in folders], images=1)
    assert both.compare and [runs.methods for runs in both.sets] == [("CoOp",), ("ProGrad",)]
