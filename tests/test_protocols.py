"The papers' protocols: what is trained, where it is tested, and what the tables say."
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fakes import FAKES
from prograd_viz.data import Split
from prograd_viz.datasets import dataset_split
from prograd_viz.evaluate import accuracy_on, class_features, group_accuracy
from prograd_viz.prompts import make_prompts, plain_text_features, teacher_features
from prograd_viz.protocols import (
    base_to_new,
    cross_dataset,
    domain_generalisation,
    few_shot_protocol,
    harmonic_mean,
    paper_table,
    published_lambda,
    published_numbers,
)
from prograd_viz.tasks import few_shot, toy_pets
from prograd_viz.training import train

# the template of Pets has 8 words
FAST = {"n_ctx": 8, "epochs": 2, "lr": 0.1, "views": 0, "batch_size": 8, "progress": False}


@pytest.fixture(scope="module")
def vit(tiny): return tiny(precision="fp32")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "A root with a toy of Oxford Pets and fakes of DTD, ImageNet and its variants"
    root = toy_pets(tmp_path_factory.mktemp("world"))
    for name in ("dtd", "imagenet", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"): FAKES[name](root)
    return root


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def by_hand(runs, split, r):
    "Accuracy of the r-th run's last text features"
    scores = split.features(runs.clip).numpy() @ runs.text_features[-1, r].T
    return (scores.argmax(-1) == split.labels).mean()


def test_few_shots_have_a_row_per_data_set_shots_seed_and_method_and_the_right_numbers(vit, world):
    table = few_shot_protocol(vit, ["oxford_pets", "dtd"], [1, 2], [1, 2], [0, 0.5], {"root": world}, **FAST)
    assert len(table) == 2 * 2 * 2 * 3
    assert set(table["method"]) == {"zero-shot CLIP", "CoOp", "ProGrad 0.5"}
    assert not table.isna().drop(columns="lam").any().any()
    task = few_shot("oxford_pets", 2, 2, root=world)
    runs = train(vit, task, [0, 0.5], seed=2, **FAST)
    mine = table.query("dataset == 'oxford_pets' and shots == 2 and seed == 2").set_index("method")["accuracy"]
    assert np.allclose(mine[["CoOp", "ProGrad 0.5"]], [by_hand(runs, task.tests["same"], r) for r in range(2)])
    assert np.isclose(mine["zero-shot CLIP"], runs.zero_shot_accuracy["same"])
    folded = paper_table(table)
    assert list(folded) == ["oxford_pets", "dtd", "average"]
    assert np.isclose(folded.loc[(2, "CoOp"), "oxford_pets"],
                      100 * table.query("dataset == 'oxford_pets' and shots == 2 and method == "
                                        "'CoOp'")["accuracy"].mean())
    assert np.allclose(folded["average"], folded[["oxford_pets", "dtd"]].mean(axis=1))


def test_base_to_new_learns_base_and_tests_both_halves(vit, world):
    table = base_to_new(vit, ["oxford_pets", "dtd"], 2, [1, 2], [0, 1], {"root": world}, **FAST)
    task = few_shot("oxford_pets", 2, 1, root=world, subset="base")
    runs = train(vit, task, [0, 1], seed=1, **FAST)
    row = table.query("dataset == 'oxford_pets' and seed == 1 and method == 'ProGrad'").iloc[0]
    assert np.isclose(row["base"], runs.final().loc[1, "acc_same"])
    assert np.isclose(row["new"], runs.final().loc[1, "acc_new"])
    assert np.isclose(row["H"], harmonic_mean(row["base"], row["new"]))
    folded = paper_table(table)
    pets, mean = folded.loc[("oxford_pets", 2, "CoOp")], folded.loc[("average", 2, "CoOp")]
    for row in (pets, mean): assert np.isclose(row["H"], harmonic_mean(row["base"], row["new"])), "H of the means"
    assert np.isclose(mean["new"], (pets["new"] + folded.loc[("dtd", 2, "CoOp"), "new"]) / 2)


def test_the_harmonic_mean_is_low_where_one_half_is():
    assert harmonic_mean(0.8, 0.8) == pytest.approx(0.8)
    assert harmonic_mean(1.0, 0.0) == 0
    assert harmonic_mean(0.0, 0.0) == 0
    assert harmonic_mean(82.69, 63.22) == pytest.approx(71.66, abs=0.005)


def test_domain_generalisation_tests_imagenet_and_its_four_variants(vit, world):
    table = domain_generalisation(vit, 2, 1, [0, 1], {"root": world}, **FAST)
    assert list(dict.fromkeys(table["target"])) == ["imagenet", "imagenetv2", "imagenet_sketch", "imagenet_a",
                                                    "imagenet_r"]
    assert set(table["source"]) == {"imagenet"}
    assert len(table) == 5 * 3
    folded = paper_table(table)
    assert np.isclose(folded.loc[("imagenet", 2, "CoOp"), "average"],
                      folded.loc[("imagenet", 2, "CoOp")][["imagenetv2", "imagenet_sketch", "imagenet_a",
                                                           "imagenet_r"]].mean()), ("the source is no part of the "
                                                                                    "average")


def test_another_data_set_is_tested_with_its_own_names_and_teacher(vit, world):
    table = cross_dataset(vit, "dtd", ["oxford_pets"], 2, 1, [0], {"root": world}, **FAST)
    runs = train(vit, few_shot("dtd", 2, 1, root=world), [0], seed=1, **FAST)
    task = few_shot("oxford_pets", 2, 1, root=world)
    right = lambda text: (task.tests["same"].features(vit) @ text.T).argmax(-1).numpy() == task.tests["same"].labels
    shown = {frame: make_prompts(vit, task.classes, n_ctx=8, template=template)
             for frame, template in (("source", "a texture of {}."), ("target", "a type of pet, a photo of a {}."))}
    frozen = [[vit.tokenizer.decoder[i].removesuffix("</w>") for i in prompts.tokens[0, 9:12].tolist()]
              for prompts in shown.values()]
    assert frozen[0][0] != "a" and frozen[1][0] == "a", ("behind the context of Pets' template its last word stays "
                                                         "frozen")
    frame = shown["target"]
    expected = {"zero-shot CLIP": right(teacher_features(vit, task.classes, "a type of pet, a photo of a {}.")).mean(),
                "CoOp": right(plain_text_features(frame, torch.as_tensor(runs.contexts[-1]))[0].detach()).mean()}
    assert table.query("target == 'oxford_pets'").set_index("method")["accuracy"].to_dict() == pytest.approx(expected)
    texts = {frame: class_features(runs, 0, classes=task.classes, template=template)
             for frame, template in (("source", None), ("target", "a type of pet, a photo of a {}."))}
    for name, prompts in shown.items():
        assert np.allclose(texts[name], plain_text_features(prompts, torch.as_tensor(runs.contexts[-1]))[0].detach(),
                           atol=1e-5), name
    assert np.abs(texts["source"] - texts["target"]).max() > 1e-3, "the words differ in effect"
    kept = cross_dataset(vit, "dtd", ["oxford_pets"], 2, 1, [0], {"root": world}, template_from="source",
                         **FAST).query("target == 'oxford_pets'").set_index("method")["accuracy"]
    assert kept["CoOp"] == pytest.approx(right(torch.as_tensor(texts["source"])).mean())
    assert kept["zero-shot CLIP"] == pytest.approx(expected["zero-shot CLIP"])


def test_the_words_around_a_context_are_the_targets_only_where_the_context_started_from_a_template(vit, world):
    task, pets = few_shot("dtd", 1, 1, root=world), few_shot("oxford_pets", 1, 1, root=world).tests["same"]
    for start, differs in (("template", True), ("random", False), ("a texture of", False)):
        runs = train(vit, task, [0], init=start, **FAST)
        source, target = (class_features(runs, 0, classes=pets.classes, template=template)
                          for template in (None, "a type of pet, a photo of a {}."))
        assert bool(np.abs(source - target).max() > 1e-3) == differs, start
    runs = train(vit, task, [0], **FAST)
    by_default = accuracy_on(runs, pets)
    assert accuracy_on(runs, pets, template_from="source").equals(by_default), "the words of the training are kept"
    with pytest.raises(ValueError, match="'traget'; did you mean 'target'"):
        accuracy_on(runs, pets, template_from="traget")


def test_a_template_that_does_not_fit_the_context_is_named_before_training(vit, world, monkeypatch):
    monkeypatch.setattr("prograd_viz.sweep.train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ValueError,
                       match="n_ctx=4 is too small for the template of 'oxford_pets', which has 8 words.*n_ctx=8 or "
                             "more, or template_from='source'"):
        cross_dataset(vit, "dtd", ["oxford_pets"], 2, 1, [0], {"root": world}, **FAST | {"n_ctx": 4})


def test_without_lambdas_the_published_ones_are_trained(vit, world):
    table = few_shot_protocol(vit, ["dtd", "oxford_pets"], [4, 8], 1, None, {"root": world}, **FAST)
    trained = table[table["method"] == "ProGrad"].set_index(["dataset", "shots"])["lam"]
    assert trained.to_dict() == {("dtd", 4): 1.0, ("dtd", 8): 0.8, ("oxford_pets", 4): 1.0, ("oxford_pets", 8): 1.0}
    assert published_lambda("flowers102", 16) == published_lambda("eurosat", 8) == 0.8
    assert published_lambda("eurosat", 4) == published_lambda("caltech101", 16) == 1.0


def test_published_options_are_the_defaults_and_can_be_changed(vit, world, monkeypatch):
    seen = []
    monkeypatch.setattr("prograd_viz.sweep.train", lambda clip, task, lams,
                        **options: seen.append(options)
                        or train(clip, task, lams, **options | {"epochs": 1, "views": 0}))
    few_shot_protocol(vit, ["imagenet", "dtd"], 1, 1, [0], {"root": world}, progress=False)
    few_shot_protocol(vit, "imagenet", 1, 1, [0], {"root": world}, progress=False, epochs=3, n_ctx=5)
    assert [(o["n_ctx"], o.get("epochs")) for o in seen] == [(16, 50), (16, None), (5, 3)]


def test_test_images_are_encoded_once_for_all_shots_and_seeds(vit, world, monkeypatch):
    rows, encode = [], Split._encoded
    monkeypatch.setattr(Split, "_encoded", lambda self, *args,
                        **kwargs: rows.append(len(self)) or encode(self, *args, **kwargs))
    few_shot_protocol(vit, "oxford_pets", [1, 2], [1, 2], [0], {"root": world}, **FAST)
    assert rows.count(16) == 1 and len(rows) == 1 + 4, "one test set of 16 images, four training sets"


def test_ctrl_c_returns_the_rows_so_far_and_the_same_call_goes_on(vit, world, tmp_path, monkeypatch):
    calls = []
    def stop(step, record):
        calls.append(step)
        if len(calls) == 5: raise KeyboardInterrupt
    monkeypatch.setattr("prograd_viz.sweep.train", lambda *given, **options: train(*given, callbacks=[stop], **options))
    run = lambda: few_shot_protocol(vit, "oxford_pets", 1, [1, 2, 3], [0], {"root": world}, tmp_path, **FAST)
    with pytest.warns(UserWarning, match="interrupted: finished jobs are kept"): table = run()
    assert set(table["seed"]) == {1, 2} and len(table) == 2 * 2
    before, whole = len(calls), run()
    assert len(calls) - before < 4 and len(whole) == 3 * 2, "the third seed alone is continued"
    pd.testing.assert_frame_equal(whole[whole["seed"] < 3].reset_index(drop=True), table)


def test_a_folder_is_resumed_and_another_target_trains_nothing_again(vit, world, tmp_path, monkeypatch):
    run = lambda targets, **more: cross_dataset(vit, "dtd", targets, 1, [1, 2], [0], {"root": world}, tmp_path,
                                                **FAST | more)
    first = run(["oxford_pets"])
    trained = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.safetensors")}
    monkeypatch.setattr("prograd_viz.sweep.train", lambda *_, **__: pytest.fail("opened again"))
    pd.testing.assert_frame_equal(run(["oxford_pets"]), first)
    monkeypatch.undo()
    both = run(["oxford_pets", "imagenet_a"])
    assert list(dict.fromkeys(both["target"])) == ["dtd", "oxford_pets", "imagenet_a"]
    assert both["accuracy"].notna().all()
    pd.testing.assert_frame_equal(both[both["target"] != "imagenet_a"].reset_index(drop=True), first)
    assert trained == {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.safetensors")}


def test_what_fails_is_named_and_the_rest_is_in_the_table(vit, world, tmp_path):
    with pytest.warns(UserWarning, match="cells failed, the first with .*EuroSAT"):
        table = few_shot_protocol(vit, ["oxford_pets", "eurosat"], 1, 1, [0], {"root": world}, **FAST)
    assert set(table["dataset"]) == {"oxford_pets"} and len(table) == 2


def test_progress_names_what_is_trained(vit, world, capsys):
    few_shot_protocol(vit, "oxford_pets", 1, 1, [0], {"root": world}, **FAST | {"progress": True})
    assert "jobs" in capsys.readouterr().err


def test_a_split_of_other_classes_cannot_be_tested_with_class_specific_contexts(vit, world):
    runs = train(vit, few_shot("dtd", 1, 1, root=world), [0], init="random", class_specific=True, **FAST | {"n_ctx": 2})
    with pytest.raises(ValueError, match="class-specific"):
        accuracy_on(runs, few_shot("oxford_pets", 1, 1, root=world).tests["same"])


def test_zero_shot_is_tested_with_the_template_of_the_target(clip, task):
    runs = train(clip, task, [0], epochs=1, views=0, progress=False)
    test = task.tests["new"]
    zero_shot = lambda template: accuracy_on(runs, test, template=template)["accuracy"][0]

    def by_hand(template):
        scores = test.features(clip) @ teacher_features(clip, test.classes, template).T
        return (scores.argmax(-1).numpy() == test.labels).mean()

    own, other = "a photo of a {}.", "sand sand sand water water {} sand red blue."
    assert by_hand(own) != by_hand(other), "the templates differ in effect"
    assert zero_shot(None) == zero_shot(own) == pytest.approx(by_hand(own))
    assert zero_shot(other) == pytest.approx(by_hand(other))


@pytest.mark.parametrize("position", ["front", "middle", "end"])
def test_other_class_names_stand_where_the_trained_ones_stood(vit, world, position):
    runs = train(vit, few_shot("dtd", 1, 1, root=world), [0, 1], init="random", position=position, **FAST)
    names = ("tabby cat", "dog")
    frame = make_prompts(vit, names, n_ctx=8, init="random", position=position)
    by_hand = plain_text_features(frame, torch.as_tensor(runs.contexts[-1])).detach()
    for lam, text in zip(runs.lambdas, by_hand):
        assert np.allclose(class_features(runs, lam, classes=names), text, atol=1e-5)


def test_the_worst_group_is_the_lowest_of_the_groups_by_hand(vit, tmp_path):
    FAKES["waterbirds"](tmp_path)
    runs = train(vit, few_shot("waterbirds", 2, 1, root=tmp_path), [0, 1], **FAST)
    test = dataset_split("waterbirds", tmp_path)
    table = group_accuracy(runs, test).set_index("method")
    for r, method in enumerate(("CoOp", "ProGrad")):
        hits = (test.features(vit).numpy() @ runs.text_features[-1, r].T).argmax(-1) == test.labels
        expected = pd.Series(hits).groupby(test.groups).mean()
        assert table.loc[method, list(expected.index)].to_dict() == pytest.approx(expected.to_dict())
        assert table.loc[method, "worst"] == pytest.approx(expected.min())
    sizes = pd.Series(test.groups).value_counts()
    together = (table[list(sizes.index)] * sizes).sum(axis=1) / len(test)
    assert together.tolist() == pytest.approx(accuracy_on(runs, test)["accuracy"].tolist()), "groups add up to all"


def test_class_specific_contexts_are_tested_on_their_own_classes(vit, world):
    task = few_shot("dtd", 1, 1, root=world)
    runs = train(vit, task, [0], init="random", class_specific=True, **FAST)
    assert accuracy_on(runs, task.tests["same"])["accuracy"][1] == pytest.approx(runs.final().loc[0, "acc_same"])


def test_a_table_of_no_protocol_is_refused():
    with pytest.raises(ValueError, match="no column 'dataset', only x; give the table of a protocol"):
        paper_table(pd.DataFrame({"x": [1]}))


@pytest.mark.parametrize("kind", ["shots", "target", "halves"])
def test_an_average_is_over_all_data_sets_or_there_is_none(kind):
    "90 beside 61 was the mean over the one data set that a method had, beside a mean over two"
    rows = [("easy", "CoOp", 0.9), ("hard", "CoOp", 0.3), ("easy", "ProGrad", 0.92)]
    table = pd.DataFrame(rows, columns=["dataset", "method", "accuracy"]).assign(shots=4, seed=1)
    if kind == "target": table = table.rename(columns={"dataset": "target"}).assign(source="imagenet")
    if kind == "halves": table = table.rename(columns={"accuracy": "base"}).assign(new=0.5)
    with pytest.warns(UserWarning, match="no average for .*4 ProGrad: no result on hard"): folded = paper_table(table)
    average = folded.loc["average"] if kind == "halves" else folded["average"]
    average = (average["base"] if kind == "halves" else average).groupby("method").first()
    assert average["CoOp"] == pytest.approx(60) and np.isnan(average["ProGrad"])
    whole = pd.concat([table, table.tail(1).assign(**{"target" if kind == "target" else "dataset": "hard"})])
    with warnings.catch_warnings(action="error"): assert not paper_table(whole).isna().any(axis=None)


def made_up(model="RN50", **more):
    "Rows as few_shot_protocol writes them: two methods, three seeds"
    rows = [{"dataset": "caltech101", "shots": 16, "seed": seed, "method": method, "lam": lam, "accuracy": accuracy,
             "model": model, "pretrained": "openai", "template": "a photo of a {}.", "init": "template", "n_ctx": 16,
             "epochs": 200}
            for method, lam, accuracies in (("CoOp", 0, (0.9, 0.92, 0.91)), ("ProGrad", 1, (0.92, 0.93, 0.94)))
            for seed, accuracy in enumerate(accuracies, 1)]
    return pd.DataFrame(rows).assign(**more)


def test_every_row_says_what_was_trained(vit, world):
    table = few_shot_protocol(vit, ["oxford_pets", "dtd"], 1, 1, [0], {"root": world}, **FAST)
    assert table[["model", "pretrained"]].drop_duplicates().to_numpy().tolist() == [[vit.name, vit.pretrained]]
    assert table.groupby("dataset")["template"].unique().map(list).to_dict() == {
        "oxford_pets": ["a type of pet, a photo of a {}."], "dtd": ["a texture of {}."]}
    assert {tuple(x) for x in table[["init", "n_ctx", "epochs"]].to_numpy()} == {("template", 8, 2)}


def test_tables_of_two_models_are_not_averaged():
    both = paper_table(pd.concat([made_up(), made_up("ViT-B-16", accuracy=0.95)]))
    assert both.index.names == ["shots", "model", "method"]
    assert both.loc[(16, "RN50", "CoOp"), "caltech101"] == pytest.approx(91)
    assert both.loc[(16, "ViT-B-16", "CoOp"), "caltech101"] == pytest.approx(95)


def test_trainings_of_different_length_are_not_averaged_and_the_same_twice_is_refused():
    both = paper_table(pd.concat([made_up(), made_up(epochs=50, accuracy=0.5)]))
    assert both.index.names == ["shots", "epochs", "method"]
    assert both["caltech101"].tolist() == pytest.approx([91, 93, 50, 50])
    few = made_up(shots=1, epochs=50)  # as published: another length for every number of shots
    assert paper_table(pd.concat([made_up(), few])).index.names == ["shots", "method"]
    with pytest.raises(ValueError, match="6 values share dataset, shots, method, seed with another"):
        paper_table(pd.concat([made_up(), made_up()]))


def test_means_over_other_seeds_than_those_beside_them_are_named():
    with pytest.warns(UserWarning, match="caltech101, 16, ProGrad lacks seed 1, 3, which another method"):
        paper_table(made_up().drop([3, 5]))


def test_base_to_new_refuses_a_folder_before_it_trains(vit, tmp_path, monkeypatch):
    (tmp_path / "dogs").mkdir()
    monkeypatch.setattr("prograd_viz.protocols.sweep", lambda *args, **options: pytest.fail("it trained"))
    with pytest.raises(ValueError, match="unknown data set with base and new classes"):
        base_to_new(vit, tmp_path / "dogs", 1, 1, [0], **FAST)


def test_a_folder_without_test_images_is_named(vit, tmp_path):
    for noun in ("dog", "cat"):
        (tmp_path / noun).mkdir()
        Image.new("RGB", (40, 40), noun == "dog" and "red" or "blue").save(tmp_path / noun / "1.png")
    with pytest.raises(ValueError, match="comes without the test set 'same' of this protocol"):
        few_shot_protocol(vit, tmp_path, 1, 1, [0], **FAST)


def test_published_numbers_stand_beside_ours_with_their_source():
    wide = paper_table(made_up("RN50-quickgelu"), beside="published")
    names = wide.index.get_level_values("method").tolist()
    assert names == ["CoOp", "ProGrad", "CoOp, published (KaiyangZhou/CoOp, COOP.md)"]
    assert wide["caltech101"].tolist() == pytest.approx([91, 93, 92])
    halves = made_up("ViT-B-16", dataset="dtd").assign(base=0.8, new=0.6).drop(columns="accuracy")
    halves = paper_table(pd.concat([halves, halves.assign(dataset="eurosat")]), beside="published")
    found = halves.loc[("average", 16, "ProGrad, published (htyao89/KgCoOp, readme.md)")]
    assert found.round(2).tolist() == [82.48, 70.75, 76.17]


def test_where_nothing_was_published_that_is_said():
    with pytest.warns(UserWarning, match="no published number for these models, data sets and shots"):
        assert len(paper_table(made_up("RN101"), beside="published")) == 2
    with pytest.raises(ValueError, match="unknown beside 'papers'; known: published"): paper_table(made_up(), "papers")


def test_every_published_number_names_its_source():
    known = published_numbers()
    assert known["source"].str.match(r"[\w.-]+/[\w.-]+, \S+").all()
    assert known[["accuracy", "base", "new"]].stack().dropna().between(10, 100).all()
    assert (known["accuracy"].notna() == known["base"].isna()).all()


def test_a_collapsed_seed_is_named():
    table = made_up()
    table.loc[table["seed"] == 2, "accuracy"] = 0.12
    with pytest.warns(UserWarning, match=r"2 trainings collapsed, .*: caltech101 16 CoOp 2 with 12.0%, \.\.\."):
        paper_table(table)
