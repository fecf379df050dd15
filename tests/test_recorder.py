"A loop that is not ours: what a Recorder makes of it is what train leaves, and every view works on it."
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from buffers import unpack
from prograd_viz.data import Split, Task
from prograd_viz.explorer import explore
from prograd_viz.maps import foreground
from prograd_viz.plots import (
    plot_accuracy,
    plot_angles,
    plot_cosine,
    plot_gradient_plane,
    plot_maps,
    plot_token_cosines,
)
from prograd_viz.prompts import make_prompts, plain_text_features, teacher_features
from prograd_viz.report import save_report
from prograd_viz.runs import Recorder, load_runs, save_runs
from prograd_viz.screen import explorer_data, runs_buffer, runs_title, set_names
from prograd_viz.tasks import few_shot
from prograd_viz.training import Cancel, epoch_batches, learning_rate, train, train_more
from prograd_viz.words import plot_words

EPOCHS, METHODS = 4, ("CoOp", "ProGrad")
QUICK = {"epochs": EPOCHS, "batch_size": 8, "views": 0, "progress": False}


def their_loop(clip, task, record, methods=METHODS, epochs=EPOCHS):
    """Both methods in one loop, a prompt at a time, with backward() and torch's optimiser; the eight lines of ours are
    marked"""
    prompts, zero_shot = make_prompts(clip, task.classes), teacher_features(clip, task.classes)
    features, labels = task.train.features(clip), torch.as_tensor(task.train.labels)
    contexts = {m: torch.nn.Parameter(prompts.start.clone()) for m in methods}
    sgd = {m: torch.optim.SGD([c], lr=0.002, momentum=0.9, weight_decay=5e-4) for m, c in contexts.items()}
    believed, step = (clip.logit_scale * features @ zero_shot.T).softmax(-1), 0
    for epoch in range(1, epochs + 1):
        for batch in epoch_batches(len(labels), 8, 1, epoch):
            step += 1
            for method, ctx in contexts.items():
                text = plain_text_features(prompts, ctx[None])[0]
                logits = clip.logit_scale * features[batch] @ text.T
                ce = F.cross_entropy(logits, labels[batch])
                kl = F.kl_div(logits.log_softmax(-1), believed[batch], reduction="batchmean")
                (g_d,), (g_g,) = torch.autograd.grad(ce, ctx, retain_graph=True), torch.autograd.grad(kl, ctx)
                d, g = g_d.flatten(), g_g.flatten()
                fights = (d @ g < 0) and g.norm() > 1e-12 * d.norm() and method != "CoOp"
                ctx.grad = (d - (d @ g) / (g @ g) * g if fights else d).view_as(ctx)
                record.log(step, method, loss_ce=ce, loss_kl=kl, g_d=g_d, g_g=g_g, g=ctx.grad, context=ctx,  # 1, 2
                           text_features=text, epoch=epoch, lr=learning_rate(epoch, EPOCHS))  # 3
                sgd[method].param_groups[0]["lr"] = learning_rate(epoch, EPOCHS)
                sgd[method].step()
    ends = torch.stack([contexts[m].detach() for m in methods])  # 4
    record.end(context=ends, text_features=plain_text_features(prompts, ends))  # 5
    return record


@pytest.fixture(scope="module")
def theirs(exact, task, tmp_path_factory):
    "Their loop, recorded in a folder and opened with model and task"
    out = tmp_path_factory.mktemp("their loop") / "run"
    # 6, 7
    with Recorder(task.classes, METHODS, zero_shot=teacher_features(exact, task.classes), out=out) as record:
        their_loop(exact, task, record)
    return load_runs(out, exact, task)  # 8


def test_its_record_is_the_one_of_train(theirs, exact, task):
    ours = train(exact, task, [0, 1], **QUICK)
    assert theirs.methods == ours.methods
    assert theirs.lambdas == ours.lambdas
    assert list(theirs.snapshot_steps) == list(ours.snapshot_steps)
    for column in ("step", "epoch", "conflict", "agree"):
        assert theirs.steps[column].tolist() == ours.steps[column].tolist()
    for column in ("loss_ce", "loss_kl", "cos", "angle_deg", "norm_gd", "norm_g", "norm_update", "cos_step_gd",
                   "cos_step_gg", "lr"):
        np.testing.assert_allclose(theirs.steps[column], ours.steps[column], rtol=1e-5, atol=1e-5, err_msg=column)
    np.testing.assert_allclose(theirs.contexts, ours.contexts, atol=1e-9)
    np.testing.assert_allclose(theirs.text_features, ours.text_features, atol=1e-9)
    np.testing.assert_allclose(theirs.token_cos, ours.token_cos, atol=1e-5)


def test_every_view_works_on_it(theirs, tmp_path):
    figures = [plot_cosine(theirs), plot_angles(theirs), plot_maps(theirs, images=1),
               plot_gradient_plane(theirs, 1.0, 5)]
    for figure in (*figures, plot_token_cosines(theirs, 1.0), plot_words(theirs, steps=3)): assert figure.axes
    shares = foreground(theirs, images=2, random_directions=2).rows
    assert set(shares["lam"].dropna()) == {0, 1} and shares["share"].notna().any()
    data = explorer_data(theirs, images=1)
    explorer = explore(theirs, data=data)
    explorer.lam, explorer.step = 0.0, 3
    table = explorer.table()
    assert table["method"].tolist() == ["zero-shot CLIP", "CoOp"] and table["step"].unique().tolist() == [3]
    assert table["cos"].tolist() == [theirs.record(0.0)["cos"].iloc[2]] * 2
    assert "CoOp" in save_report(theirs, tmp_path / "report.html", data=data).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="no accuracy on any test set was recorded"): plot_accuracy(theirs)


@pytest.fixture(scope="module")
def bare_method(clip, task):
    "A method of which nothing but its text features is known"
    rng, known = torch.Generator().manual_seed(0), teacher_features(clip, task.classes).double()
    with Recorder(task.classes, "mine", zero_shot=known) as record:
        for step in range(1, 5):
            drift = step * 0.1 * torch.randn(record.zero_shot.shape, generator=rng, dtype=torch.float64)
            record.log(step, loss_ce=1 / step,
                       text_features=F.normalize(torch.as_tensor(record.zero_shot) + drift, dim=-1))
    return record.runs(clip, task)


def test_where_gradients_were_not_logged_it_is_not_known_whether_they_conflict():
    g, record = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)), Recorder(["a", "b"], ["mine", "bare"])
    for step in (1, 2):
        record.log(step, method="mine", g_d=g, g_g=-g)
        record.log(step, method="bare", loss_ce=1.0)
    runs = record.runs()
    assert runs.record("mine")["conflict"].tolist() == [True, True] and runs.record("bare")["conflict"].isna().all()
    assert runs.record("mine")["agree"].tolist() == [False, False] and runs.record("bare")["agree"].isna().all()
    rates = runs.conflicts()["conflict"]
    assert rates["mine"] == 1 and np.isnan(rates["bare"])


@pytest.mark.parametrize("first", ["mine", "bare"])
def test_a_record_without_gradients_joins_one_that_has_them(clip, task, tmp_path, first):
    context, text, runs = make_prompts(clip, task.classes).start, teacher_features(clip, task.classes), {}
    g = torch.randn(context.shape, generator=torch.Generator().manual_seed(0))
    for method, gradients in (("mine", {"g_d": g, "g_g": -g}), ("bare", {})):
        record = Recorder(task.classes, method)
        for step in (1, 2): record.log(step, loss_ce=1.0, context=context, text_features=text, **gradients)
        runs[method] = record.runs(clip, task)
    both = runs[first].join(runs["bare" if first == "mine" else "mine"])
    assert both.record("mine")["conflict"].all() and both.record("bare")["conflict"].isna().all()
    assert np.allclose(both.token_cos[:, both.run("mine")], -1)
    assert np.isnan(both.token_cos[:, both.run("bare")]).all()
    assert explore(both, images=1).table()["method"].tolist() == ["zero-shot CLIP", first, both.methods[1]]
    assert plot_cosine(both).axes and plot_angles(both).axes
    again = load_runs(save_runs(both, tmp_path / "runs"))
    assert again.record("bare")["conflict"].isna().all() and again.record("mine")["conflict"].all()


def test_of_a_method_with_text_features_alone_all_is_shown_that_can_be(bare_method, tmp_path):
    runs = bare_method
    assert runs.keys == ("mine",) and runs.name("mine", "math") == "mine" and list(runs.snapshot_steps) == [0, 1, 2, 3]
    assert runs.steps[["cos", "conflict", "agree"]].isna().all(axis=None) and runs.conflicts()["conflict"].isna().all()
    assert "conflicts not recorded" in repr(runs)
    assert load_runs(save_runs(runs, tmp_path / "runs")).steps["conflict"].isna().all()
    legend = plot_cosine(runs).legends[0].get_texts()[0].get_text()
    assert plot_maps(runs, images=1).axes and "no cosine recorded" in legend
    shares = foreground(runs, images=2, random_directions=1)
    assert shares.summary()["method"].tolist() == ["zero-shot CLIP", "mine", "random directions"]
    data = explorer_data(runs, images=1)
    explorer = explore(runs, data=data)
    assert explorer.lam == "mine" and explorer.table()["cos"].isna().all()
    about, sent = unpack(runs_buffer([runs]))
    assert [(m["key"], m["name"]) for m in about["sets"][0]["methods"]] == [("mine", "mine")]
    assert np.isnan(sent["0.record"][about["sets"][0]["columns"].index("cos")]).all()
    assert np.isnan(sent["0.arrows"][:, :, :2]).all(), "no gradients, no arrows"
    assert "mine" in save_report(runs, tmp_path / "report.html", data=data).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="hold no contexts, which are needed here"): plot_words(runs)
    runs.save(tmp_path / "saved")
    opened = load_runs(tmp_path / "saved")
    assert opened.methods == ("mine",)
    assert np.array_equal(opened.text_features, runs.text_features)
    assert opened.contexts.shape == (4, 1, 0, 0)


def test_a_lambda_with_more_digits_than_its_name_shows_is_found_again(clip, bare, tmp_path):
    lambdas = [0, 1 / 3, 0.1234567, 1]
    runs = train(clip, bare, lambdas, epochs=1, views=0, progress=False, out=tmp_path / "run")
    for there in (runs, load_runs(tmp_path / "run")):
        assert there.lambdas == tuple(map(float, lambdas)) and [there.run(lam) for lam in lambdas] == [0, 1, 2, 3]
    tiny = train(clip, bare, [0, 1e-9, 1e-8], rule="l2", epochs=1, views=0, progress=False)
    assert [tiny.run(lam) for lam in (0, 1e-9, 1e-8)] == [0, 1, 2]


@pytest.mark.parametrize("kind", (list, tuple, np.array))
def test_numbers_of_each_method_keep_all_their_digits(kind):
    record = Recorder(["cat", "dog"], ["a", "b"])
    record.log(1, text_features=torch.ones(2, 2, 3), acc_same=kind([1 / 3, 2 / 3]))
    assert record.runs().steps["acc_same"].tolist() == [1 / 3, 2 / 3]


def test_a_name_that_ends_in_a_number_has_no_lambda(tmp_path):
    "Names are labels; a lambda is CoOp's, ProGrad's, or given"
    names = ["try 2", "kgcoop 8", "ProGrad 0.5", "CoOp"]
    with Recorder(["cat", "dog"], names, out=tmp_path / "run") as record:
        record.log(1, loss_ce=torch.ones(4), text_features=torch.ones(4, 2, 3))
    runs = load_runs(tmp_path / "run")
    assert runs.methods == tuple(names) and runs.keys == ("try 2", "kgcoop 8", 0.5, 0.0)
    assert [runs.rule(key) for key in runs.keys] == ["try 2", "kgcoop 8", "prograd", "coop"]
    assert [runs.name(key) for key in runs.keys] == names and runs.run("try 2") == 0
    assert runs.steps["lam"].isna().tolist() == [True, True, False, False]
    given = Recorder(["cat", "dog"], ["kgcoop 8", "mine"], lambdas=[8, float("nan")]).runs()
    assert given.keys == (8.0, "mine") and given.rule(8.0) == "kgcoop"


def test_the_lambda_that_a_name_of_ours_says_is_the_one_on_disk(tmp_path):
    with Recorder(["cat", "dog"], ["ProGrad 7"], out=tmp_path / "run") as record:
        record.log(1, text_features=torch.ones(1, 2, 3))
    assert load_runs(tmp_path / "run").lambdas == (7.0,)
    runs = load_runs(tmp_path / "run")
    runs.lambdas = (0.5,)
    runs.save(tmp_path / "other")
    with pytest.raises(ValueError, match="run.json in .* does not describe a run set: 'ProGrad 7' has lambda 0.5"):
        load_runs(tmp_path / "other")


@pytest.mark.parametrize("name", ("lam", "seed", "run"))
def test_a_column_of_the_run_is_no_name_for_a_number_of_the_step(name):
    record = Recorder(["cat", "dog"])
    with pytest.raises(ValueError, match=f"{name} is a column of every record"): record.log(1, **{name: 1.0})


def test_a_loop_may_record_the_state_after_every_step(tmp_path):
    states = torch.nn.functional.normalize(torch.arange(1, 25.0).reshape(4, 3, 2), dim=-1)
    with Recorder(["cat", "dog", "bus"], out=tmp_path / "run", snapshot_every=1, checkpoint_every=2) as record:
        for step, state in zip((2, 4, 6, 7), states):
            record.log(step)
            record.end(text_features=state, accuracies={"same": step / 10})
    runs = load_runs(tmp_path / "run")
    assert runs.snapshot_steps.tolist() == [2, 4, 6, 7] and np.array_equal(runs.text_features[:, 0], states)
    assert runs.steps["acc_same"].tolist() == [0.2, 0.4, 0.6, 0.7] and runs.steps["step"].tolist() == [2, 4, 6, 7]


def test_a_state_that_is_recorded_twice_is_one_snapshot():
    record = Recorder(["cat", "dog"], snapshot_every=1)
    for step in (1, 2):
        record.log(step, text_features=torch.eye(3)[[step - 1] * 2])
        record.end(text_features=torch.eye(3)[[step] * 2])
    runs = record.runs()
    assert runs.snapshot_steps.tolist() == [0, 1, 2] and runs.text_features[:, 0, 0].argmax(-1).tolist() == [0, 1, 2]


def test_text_features_of_any_length_are_kept_as_directions():
    text = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    long = text * torch.tensor([[5.0], [12.0], [0.2]])
    kept = []
    for x in (text, text.bfloat16(), long):
        record = Recorder(["cat", "dog", "bus"], zero_shot=x)
        record.log(1, text_features=x)
        record.end(text_features=x)
        runs = record.runs()
        kept.append([torch.as_tensor(runs.text_features[k, 0]) for k in (0, 1)] + [torch.as_tensor(runs.zero_shot)])
    assert all(torch.equal(x, text) for x in kept[0]) and all(torch.equal(x, text.bfloat16().float()) for x in kept[1])
    for x in kept[2]: torch.testing.assert_close(x, text)


def test_what_was_interrupted_is_so_after_a_round_trip(clip, bare, tmp_path):
    def stop(step, record):
        if step == 4: raise Cancel

    options = {"epochs": 3, "batch_size": 8, "views": 0, "progress": False}
    cut = train(clip, bare, callbacks=[stop], **options)
    cut.save(tmp_path / "cut")
    back = load_runs(tmp_path / "cut", clip, bare)
    assert cut.interrupted and back.interrupted and len(back.record(1)) == 4
    more = train_more(back, [0.5], progress=False)
    assert more.methods == ("CoOp", "ProGrad", "ProGrad 0.5") and len(more.record(0.5)) == 4
    other = train(clip, bare, [0.5], lr=0.05, temperature=3.0, callbacks=[stop], **options)
    with pytest.raises(ValueError, match="cannot be joined: their temperature and lr differ"): cut.join(other)


def test_the_last_accuracy_is_that_of_the_last_step_with_one():
    record = Recorder(["cat", "dog"], ["CoOp", "mine"])
    each = {2: [0.1, 0.2], 4: [0.3, 0.4]}  # before the step: after 1 and 3
    for step in range(1, 7):
        accuracies = {"same": each[step], "new": [np.nan, step / 10]} if step in each else None
        record.log(step, loss_ce=[1 / step, 2 / step], accuracies=accuracies)
    record.end(accuracies={"new": [0.9, np.nan]})
    runs = record.runs()
    assert runs.final()["acc_same"].tolist() == [0.3, 0.4] and runs.final()["step"].tolist() == [6, 6]
    assert runs.final()["acc_new"].isna().tolist() == [False, True], "one of the last step is known"
    assert runs.results().set_index("method").loc["mine", ["acc_same", "loss_ce"]].tolist() == [0.4, 2 / 6]
    assert runs.final().columns.equals(runs.steps.columns)


def test_text_features_of_another_model_are_refused(clip, task):
    record = Recorder(task.classes)
    record.log(1, text_features=torch.eye(len(task.classes), 9))
    with pytest.raises(ValueError, match="its features are 128 wide, those recorded 9; load that one"):
        plot_maps(record.runs(clip, task))
    assert record.runs().text_features.shape[-1] == 9


def test_accuracies_in_per_cent_are_refused():
    with pytest.raises(ValueError, match="shares between 0 and 1, got 83 for 'same'; divide per cent by 100"):
        Recorder(["cat", "dog"]).log(1, accuracies={"same": 83.0})
    with pytest.raises(ValueError, match="got 61 for 'new'"):
        Recorder(["cat", "dog"], zero_shot_accuracy={"new": 61})


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.bfloat16])
def test_numbers_of_any_type_become_columns_and_missing_ones_stay_missing(kind):
    record = Recorder(["cat", "dog"], ["CoOp", "mine"])
    record.log(np.int64(1), "CoOp", right=torch.tensor(1, dtype=kind), epoch=np.int32(2))
    record.log(1, "mine", loss_ce=1.0)
    steps = record.runs().steps
    assert steps["right"].iloc[0] == 1 and np.isnan(steps["right"].iloc[1]) and steps["epoch"].iloc[0] == 2


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_gradients_in_16_bits_conflict_as_in_32(kind, size):
    draw = torch.Generator().manual_seed(0)
    g_d, noise = torch.randn(2, 4, 64, generator=draw)
    g_g = (0.5 * noise - g_d) / 2
    rows = []
    for x in (torch.float32, kind):
        record = Recorder(["cat", "dog"])
        record.log(1, g_d=(size * g_d).to(x), g_g=(size * g_g).to(x), context=g_d.to(x))
        record.end(context=(g_d - 0.1 * g_g).to(x))
        rows.append(record.runs().steps.iloc[0])
    right, found = rows
    assert found["conflict"] and not found["agree"] and right["cos"] < -0.8
    for column in ("cos", "norm_gd", "norm_gg", "cos_step_gg"):
        assert found[column] == pytest.approx(right[column], rel=0.01)


class Board:
    "What TensorBoard's SummaryWriter does with a number"
    def __init__(self): self.seen = {}

    def add_scalar(self, tag, value, step): self.seen[tag, step] = value


class Run:
    "What a run of W&B does, which refuses to go back"
    def __init__(self): self.seen, self.at = {}, 0

    def log(self, values, step):
        assert step >= self.at
        self.at = step
        self.seen |= {(tag, step): value for tag, value in values.items()}


@pytest.mark.parametrize("kind", [Board, Run])
def test_a_writer_gets_the_numbers_of_the_record(kind, exact, task):
    board = kind()
    record = Recorder(task.classes, METHODS, writer=board)
    runs = their_loop(exact, task, record, epochs=2).runs()
    assert len(runs.steps) == 2 * 6 and runs.steps["lr"].nunique() == 2
    for method in METHODS:
        for column in ("loss_ce", "loss_kl", "cos", "norm_gd", "lr", "norm_update", "cos_step_gd"):
            seen = [board.seen[f"{method}/{column}", step] for step in runs.record(method)["step"]]
            np.testing.assert_array_equal(seen, runs.record(method)[column], err_msg=column)


def test_accuracies_reach_the_writer_at_the_step_after_which_they_hold():
    run = Run()
    record = Recorder(["cat", "dog"], "CoOp", writer=run)
    for step in (1, 2): record.log(step, loss_ce=1.0 / step, accuracies={"same": step / 10})
    record.end(accuracies={"same": 0.7})
    for step in (1, 2): assert run.seen["CoOp/acc_same", step] == record.runs().steps["acc_same"].iloc[step - 1]
    assert record.runs().steps["acc_same"].tolist() == [0.2, 0.7]
    with pytest.raises(ValueError, match="has neither add_scalar"): Recorder(["cat", "dog"], writer=print)


def test_a_loop_that_keeps_underscores_in_names_meets_a_task_without(tmp_path):
    "As CoOp's code does, whose prompts have spaces instead"
    names, out = ("american_bulldog", "pug"), tmp_path / "run"
    record = Recorder(names, "CoOp", out=out)
    record.log(1, text_features=F.normalize(torch.ones(2, 3), dim=-1))
    record.close()
    task = lambda *classes: Task("x", Split([np.zeros((2, 2, 3), np.uint8)] * 2, [0, 1], classes), {})
    spaced = task("american bulldog", "pug")
    assert load_runs(out, task=spaced).classes == record.runs(task=spaced).classes == spaced.classes
    with pytest.raises(ValueError, match="the first difference being 'pug' and 'pugs'; give the task"):
        load_runs(out, task=task("american_bulldog", "pugs"))


def test_text_features_of_every_image_are_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"has shape \(5, 2, 3\): one for every image, an axis that no view here has"):
        Recorder(["cat", "dog"]).log(1, text_features=torch.ones(5, 2, 3))


def test_zero_shot_clip_follows_from_model_and_task_where_the_loop_did_not_pass_it(exact, task, tmp_path):
    "What prediction and maps need beside the method's own text features"
    given = teacher_features(exact, task.classes)
    record = Recorder(task.classes, "mine", out=tmp_path / "run")
    record.log(1, text_features=given.roll(1, 0))
    record.close()
    runs = load_runs(tmp_path / "run", exact, task)
    assert np.array_equal(runs.text(None), given)
    assert plot_maps(runs, images=1).axes
    assert "zero-shot CLIP" in explore(runs, images=1).table()["method"].tolist()
    with pytest.raises(ValueError, match="hold no text features of zero-shot CLIP"):
        load_runs(tmp_path / "run").text(None)


def test_a_loop_that_names_its_teacher_and_keeps_no_contexts_opens_with_its_model(exact, tiny, task, tmp_path):
    given = teacher_features(exact, task.classes, task.template)
    for name, known in (("with", {"zero_shot": given}), ("without", {})):
        record = Recorder(task.classes, "mine", out=tmp_path / name, config={"teacher": task.template}, **known)
        record.log(1, text_features=given.roll(1, 0))
        record.close()
        assert load_runs(tmp_path / name, exact).clip is exact
    with pytest.raises(ValueError, match="is not the model of these runs"): load_runs(tmp_path / "with", tiny())


def test_a_task_of_other_images_is_refused_and_one_with_more_tests_is_not(clip, task, tmp_path):
    train(clip, task, epochs=1, views=0, progress=False, out=tmp_path / "run")
    opened = lambda **options: load_runs(tmp_path / "run", clip, few_shot(**task.settings | options))
    assert len(opened(test_per_class=5).split("same")) == 5 * len(task.classes)
    for option in ("seed", "shots"):
        with pytest.raises(ValueError, match=f"a task with {option}={task.settings[option]}, this one has"):
            opened(**{option: task.settings[option] + 1})
    other = few_shot(**task.settings | {"seed": 9})
    assert load_runs(tmp_path / "run", clip, other, check=False).task is other


def steps_by_hand(seed, n=150, runs=2, shape=(4, 16)):
    "Arguments of `Recorder.log`: gradients that fight now and then, and steps that lack one of them or the context"
    rng, context, found = torch.Generator().manual_seed(seed), torch.zeros(runs, *shape), []
    for step in range(1, n + 1):
        g_d, g_g, move = (torch.randn(runs, *shape, generator=rng) for _ in range(3))
        given = {"g_d": g_d, "g_g": g_g, "g": g_d + g_g, "context": context.clone()}
        left_out = {20: ["g_g"], 21: ["g_g", "g"], 90: ["g_d", "g_g", "g"], 91: ["context"]}.get(step, ())
        found.append({k: x for k, x in given.items() if k not in left_out})
        context += 0.1 * move
    return found, context


def test_angles_of_many_steps_at_once_are_those_of_each_step():
    (given, end), nothing = steps_by_hand(0), torch.full((2,), torch.nan)
    record, at_once = Recorder(["cat", "dog"], ["a", "b"]), {}
    for step, values in enumerate(given, 1):
        record.log(step, **values)
        at_once[step] = record.last.get("cos", nothing)
    record.end(context=end)
    runs = record.runs()
    contexts = [values.get("context") for values in given] + [end]
    for step, values in enumerate(given, 1):
        now, d, g = runs.steps[runs.steps["step"] == step], values.get("g_d"), values.get("g_g")
        both = d is not None and g is not None
        cos = F.cosine_similarity(d.flatten(1), g.flatten(1)) if both else nothing
        within = F.cosine_similarity(d, g, dim=-1) if both else nothing[:, None].expand(2, 4)
        before, after = contexts[step - 1:step + 1]
        moved = (before - after).flatten(1) if before is not None and after is not None else None
        np.testing.assert_allclose(now["cos"], cos, atol=1e-6)
        np.testing.assert_array_equal(now["cos"], at_once[step])
        np.testing.assert_allclose(runs.token_cos[step - 1], within, atol=1e-6)
        np.testing.assert_allclose(now["norm_gg"], nothing if g is None else g.flatten(1).norm(dim=1), rtol=1e-6)
        np.testing.assert_allclose(now["norm_g"], values["g"].flatten(1).norm(dim=1) if "g" in values else nothing,
                                   rtol=1e-6)
        np.testing.assert_allclose(now["norm_update"], nothing if moved is None else moved.norm(dim=1), rtol=1e-6)
        np.testing.assert_allclose(now["cos_step_gd"], nothing if moved is None or d is None else
                                   F.cosine_similarity(moved, d.flatten(1)), atol=1e-6)


@pytest.mark.parametrize("runs", (1, 2))
def test_bits_of_a_record_do_not_depend_on_where_it_was_cut(tmp_path, runs):
    "Several steps at once, and the same ones one by one"
    given, end = steps_by_hand(1, 30, runs, (8, 512))
    methods, whole = ["a", "b"][:runs], []
    for cuts in ((), (1, 2, 9, 26)):
        out = tmp_path / f"{len(cuts)}"
        for first, last in zip((0, *cuts), (*cuts, len(given))):
            with Recorder(["cat", "dog"], methods, out=out, resume=True, checkpoint_every=4 + len(cuts)) as record:
                for step in range(first, last): record.log(step + 1, **given[step])
                record.end(context=end if last == len(given) else given[last]["context"])
        whole.append(load_runs(out))
    columns = ["cos", "norm_gd", "norm_gg", "norm_g", "norm_update", "cos_step_gd", "cos_step_gg"]
    np.testing.assert_array_equal(*(record.steps[columns] for record in whole))
    np.testing.assert_array_equal(*(record.token_cos for record in whole))


def test_a_number_of_any_name_is_kept_and_tensors_are_a_state(tmp_path):
    with Recorder(["cat", "dog"], out=tmp_path / "run", checkpoint_every=1) as record:
        for step in (1, 2, 3):
            record.log(step, context=torch.ones(2, 3), g_d=torch.ones(2, 3), g_g=-torch.ones(2, 3), after=step / 2,
                       state=lambda: {"momentum": torch.ones(1, requires_grad=True)})
    runs = load_runs(tmp_path / "run")
    assert runs.steps["after"].tolist() == [0.5, 1, 1.5] and runs.steps["cos"].tolist() == pytest.approx([-1] * 3)


def test_gradients_are_held_for_a_bounded_number_of_steps():
    record, given = Recorder(["cat", "dog"]), torch.zeros(256, 1024)
    for step in range(1, 40): record.log(step, g_d=given + step, g_g=given + 1)
    held = sum(x.nbytes for row in record._rows.values() for x in row.values())
    assert held < 16e6, "a gradient takes 1 MB"
    assert record.runs().steps["norm_gd"].tolist() == pytest.approx([512 * step for step in range(1, 40)])


def test_after_the_end_of_a_loop_without_with_its_folder_shows_every_step(tmp_path):
    "As README writes it; the loop may go on"
    (given, last), records = steps_by_hand(2, runs=1, shape=(2, 4)), []
    for out in (None, tmp_path / "run"):
        record = Recorder(["cat", "dog"], out=out)
        for first, end in ((0, 140), (140, 150)):
            for step in range(first, end): record.log(step + 1, **{k: x[0] for k, x in given[step].items()})
            record.end(context=last[0] if end == 150 else given[end]["context"][0])
            runs = record.runs()
            assert runs.steps["step"].tolist() == list(range(1, end + 1)) and not runs.interrupted
            assert np.isfinite(runs.steps["norm_update"].iloc[-1]) and runs.snapshot_steps[-1] == end
        record.close()
        records.append((load_runs(out) if out else runs).steps.drop(columns="seconds"))
    pd.testing.assert_frame_equal(*records, check_exact=True)


def test_gradients_that_are_logged_from_some_step_on_are_unknown_before(tmp_path):
    "As in a loop whose first epochs follow the cross-entropy alone"
    found = []
    for out in (None, tmp_path / "run"):
        with Recorder(["cat", "dog"], out=out, checkpoint_every=1) as record:
            for step in range(1, 5):
                record.log(step, context=torch.ones(2, 3), loss_ce=1.0)
            record.log(5, context=torch.ones(2, 3), g_d=torch.ones(2, 3), g_g=-torch.ones(2, 3))
        found.append(load_runs(out) if out else record.runs())
    for runs in found:
        assert runs.steps["cos"].tolist() == pytest.approx([np.nan] * 4 + [-1], nan_ok=True)
        assert np.isnan(runs.token_cos[:4]).all() and runs.token_cos[4, 0] == pytest.approx([-1, -1])
    with pytest.raises(ValueError, match=r"g_d has shape \(3, 3\), context \(2, 3\)"):
        Recorder(["cat", "dog"]).log(1, context=torch.ones(2, 3), g_d=torch.ones(3, 3))
    record = Recorder(["cat", "dog"])
    record.log(1, context=torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"g_d has shape \(3, 3\), context \(2, 3\)"):
        record.log(2, g_d=torch.ones(3, 3))


@pytest.mark.parametrize("kind", ["flat", "of another width", "after a start without contexts"])
def test_late_gradients_that_would_not_fit_the_folder_are_refused_at_once(tmp_path, kind):
    "Every part of a folder has cosines of the same context vectors"
    context = {} if "without" in kind else {"context": torch.ones(2, 3)}
    late = torch.ones({"flat": (6,), "of another width": (3, 2)}.get(kind, (2, 3)))
    with Recorder(["cat", "dog"], out=tmp_path / "run", checkpoint_every=1) as record:
        for step in (1, 2, 3): record.log(step, loss_ce=1.0, **context)
    with (pytest.raises(ValueError, match="a gradient had none before; shapes must not change"),
          Recorder(["cat", "dog"], out=tmp_path / "run", resume=True) as record):
        record.log(4, loss_ce=1.0, **context)
        record.log(5, g_d=late, g_g=-late)
    assert load_runs(tmp_path / "run").steps["step"].tolist() == [1, 2, 3, 4]


def test_a_writer_gets_each_number_once_however_often_a_loop_ends(tmp_path):
    "And Ctrl-C in it costs nothing of the record"
    class Counts(Run):
        def __init__(self, press=None):
            super().__init__()
            self.count, self.calls, self.press = {}, 0, press

        def log(self, values, step):
            super().log(values, step)
            for tag in values: self.count[tag, step] = self.count.get((tag, step), 0) + 1
            self.calls += 1
            if self.calls == self.press: raise KeyboardInterrupt

    def loop(record):
        given = {"g_d": torch.ones(2, 3), "g_g": -torch.ones(2, 3)}
        for first in (1, 4):
            for step in (first, first + 1, first + 2):
                record.log(step, context=torch.full((2, 3), 1.0 * step), accuracies={"same": step / 10}, **given)
            for _ in range(2): record.end(context=torch.full((2, 3), step + 1.0), accuracies={"same": 0.9})

    board = Counts()
    record = Recorder(["cat", "dog"], writer=board)
    loop(record)
    assert set(board.count.values()) == {1}
    assert {("mine/norm_update", step) for step in range(1, 7)} <= board.count.keys()
    whole = record.runs().steps["norm_update"]
    for press in range(1, board.calls):
        with pytest.warns(UserWarning, match="interrupted"), Recorder(["cat", "dog"], writer=Counts(press)) as record:
            loop(record)
        left = record.runs()
        assert len(left.steps) and left.snapshot_steps[-1] >= left.steps["step"].max() - 1
        assert np.allclose(left.steps["norm_update"].iloc[:-1], whole[:len(left.steps) - 1])


def test_a_step_in_double_precision_changes_no_other_step():
    "Steps are computed several at once"
    (given, _), records = steps_by_hand(5, runs=1, shape=(4, 8)), []
    for last in (torch.float32, torch.float64):
        record = Recorder(["cat", "dog"])
        for step, values in enumerate(given[:6], 1):
            kind = last if step == 6 else torch.float32
            record.log(step, **{k: values[k][0].to(kind) for k in ("g_d", "g_g") if k in values})
        records.append(record.runs().steps[["cos", "norm_gd", "norm_gg"]].iloc[:5])
    pd.testing.assert_frame_equal(*records, check_exact=True)


def test_an_angle_of_ones_own_is_kept():
    record = Recorder(["cat", "dog"])
    record.log(1, angle_deg=70.0)
    record.log(2, angle_deg=70.0, g_d=torch.ones(2, 3), g_g=-torch.ones(2, 3))
    record.log(3, g_d=torch.ones(2, 3), g_g=-torch.ones(2, 3))
    assert record.runs().steps["angle_deg"].tolist() == pytest.approx([70, 70, 180], abs=0.1)


def test_before_the_first_step_and_with_other_classes_the_recorder_says_so(exact, task, tmp_path):
    record = Recorder(["cat", "dog"])
    with pytest.raises(ValueError, match="no step is in memory; log one first"): print(record.last)
    with pytest.raises(ValueError, match=r"context has shape \(3, 4, 8\).* with a row for each of 2 classes"):
        record.log(1, context=torch.ones(3, 4, 8))
    for out in (None, tmp_path / "run"):
        with Recorder(task.classes[::-1], out=out) as record: record.log(1, loss_ce=1.0)
        with pytest.raises(ValueError, match="the first difference being .*; give the task they were trained on"):
            record.runs(exact, task)


def test_a_title_names_the_methods_or_the_folder_of_the_images_and_no_seed_that_is_unknown():
    def titles(**known):
        record = Recorder(["cat", "dog"], "mine", **known)
        record.log(1, loss_ce=1.0)
        return runs_title([record.runs()]), *set_names([record.runs()])

    assert titles() == ("mine", "seed unknown")
    assert titles(seed=3) == ("seed 3", "seed 3")
    assert titles(config={"task": {"data": "/data/my photos", "shots": 4}}) == ("my photos, 4 shots", "seed unknown")
    many = Recorder(["cat", "dog"], ["a", "b", "c", "d"])
    many.log(1, loss_ce=torch.ones(4))
    assert runs_title([many.runs()]) == "a, b, c, ..."
