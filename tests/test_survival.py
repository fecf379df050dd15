"""A run set survives kills, damage, full disks, second writers and strangers: real processes, real files, fresh seeds.
`make soak` runs the same rows in full."""
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import soak
from prograd_viz import store
from prograd_viz.data import Task
from prograd_viz.report import save_report
from prograd_viz.runs import Recorder, load_runs, prograd_verify, save_runs
from prograd_viz.store import RUN, Folder, Lock, read_contents, repair, sha256, verify
from prograd_viz.training import train, train_more

# fresh each time; set the variable to see a failure again
SEED = int(os.environ.get("PROGRAD_SURVIVAL_SEED", int.from_bytes(os.urandom(4))))
SHORT = 12  # epochs of two steps


class PowerCut(Exception): pass


def cut_at(n):
    "A callback that fails like a machine whose power goes off after a step"
    def cut(step, record):
        if step == n: raise PowerCut
    return cut


def parts_of(folder): return read_contents(Folder.of(folder)).parts


def here(folder): return {RUN, *(part.name for part in parts_of(folder))}


def everything(folder): return {p.name: p.read_bytes() for p in folder.glob("[!.]*")}


@pytest.fixture(scope="session", autouse=True)
def seed_in_the_report(request):
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nseed of the survival tests: {SEED} (PROGRAD_SURVIVAL_SEED={SEED} repeats them)")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "The folder of a short finished training, and what `train` returned"
    folder = tmp_path_factory.mktemp("a run") / "here"
    return folder, train(*soak.world(), **soak.options(SHORT), out=folder)


def rows_of(name, cases, **options):
    "Rows of the soak, all passed"
    rows = list(soak.ROWS[name][0](SEED, cases, **options))
    failed = [row for row in rows if not row["passed"]]
    assert not failed, f"seed {SEED}: {failed[:3]}"
    return rows


# -- the rows of the soak, reduced --------------------------------------------

def test_a_killed_training_resumes_to_the_same_bits():
    assert any(row["inside_a_write"] for row in rows_of("kills", 5, epochs=SHORT))


def test_damage_is_noticed_refused_and_repaired():
    rows = rows_of("damage", 50, epochs=SHORT)
    assert {row["file"] for row in rows} == here(soak.specimen(SHORT)[0])
    assert all(row["repaired"] for row in rows if row["in_a_part"]), "every complete part before the damage is kept"


def test_a_full_disk_loses_nothing_before_the_last_checkpoint(): rows_of("full_disk", 2, epochs=SHORT)


def test_a_second_writer_is_refused_with_the_process_and_host_of_the_first(): rows_of("writers", 1, epochs=SHORT)


def test_hostile_files_are_refused_within_bounded_memory(): rows_of("hostile", 40, epochs=SHORT)


def test_anything_in_run_json_is_refused_by_name(): rows_of("fuzz", 60, epochs=SHORT)


def test_an_interrupted_cell_leaves_runs_that_can_be_used(): rows_of("interrupts", 2, epochs=SHORT)


def test_opening_a_large_run_set_costs_little():
    "However many of its files may stay open"
    rows = rows_of("large", 1, gigabytes=0.2, timed=False, held=(store.MAX_HELD, 0), epochs=SHORT)
    assert len(rows) == 2 and all(row["gb"] >= 0.2 for row in rows), "twice what may be taken"


def test_the_trainers_memory_is_flat_and_the_explorer_opens_what_it_leaves():
    rows_of("long", 1, steps=200, lambdas=3, timed=False, images=1)


# -- what is on disk ----------------------------------------------------------

def test_what_is_written_while_training_is_what_is_trained_in_memory(run):
    folder, out = run
    memory = soak.reference(SHORT)
    assert soak.identical(out, memory) and soak.identical(load_runs(folder), memory) and out.clip is soak.world()[0]
    assert {p.name for p in folder.glob("[!.]*")} == here(folder) and len(parts_of(folder)) > 2


def test_parts_open_in_other_readers(run):
    folder, out = run
    tensors = [load_file(folder / part.name) for part in parts_of(folder)]
    for name in ("contexts", "text_features"):
        assert np.array_equal(np.concatenate([part[name] for part in tensors]), getattr(out, name))
    assert np.array_equal(tensors[0]["zero_shot"], out.zero_shot)
    body = json.loads((folder / RUN).read_text())["run"]
    record = np.concatenate([part["record"] for part in tensors])
    columns = dict(zip(body["about"]["columns"], np.moveaxis(record, -1, 0)))
    assert np.array_equal(columns["loss_ce"].T.ravel(), out.steps["loss_ce"])
    assert list(columns["step"][:, 0]) == list(range(1, 25))
    about, config = body["about"], body["about"]["config"]
    assert about["classes"] == list(out.classes) and config["lambdas"] == [0, 0.5, 1]
    assert [r["method"] for r in about["runs"]] == ["CoOp", "ProGrad 0.5", "ProGrad"]
    assert set(config["hashes"]) == {"model", "data"}
    assert set(config["versions"]) == {"torch", "open_clip_torch", "prograd_viz", "device"}


def test_an_exported_run_set_opens_in_other_readers(run, tmp_path):
    import pyarrow.parquet as pq
    out = run[1]
    out.export(tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "steps.parquet"), out.steps, check_exact=True)
    assert pq.read_table(tmp_path / "steps.parquet", page_checksum_verification=True).num_rows == len(out.steps)
    for name in ("contexts", "text_features"):
        assert np.array_equal(load_file(tmp_path / f"{name}.safetensors")[name], getattr(out, name))


def test_run_json_gives_the_place_and_the_hash_of_every_byte(run):
    folder, _ = run
    content = (folder / RUN).read_bytes()
    assert json.loads(content)["sha256"] == sha256(content[83:-2]) and list(json.loads(content)) == ["sha256", "run"]
    for part in parts_of(folder):
        content, at = (folder / part.name).read_bytes(), part.header[0]
        assert part.header[1] == sha256(content[:at])
        for name in sorted(part.tensors, key=lambda name: part.span(name)):
            start, end = part.span(name)
            assert start == at and part.tensors[name][3] == sha256(content[start:end])
            at = end
        assert at == len(content), "no byte is without a hash"
    steps = [step for part in parts_of(folder) for step in part.steps]
    assert steps == sorted(steps) and (steps[0], steps[-1]) == (1, 24)


@pytest.mark.parametrize("options", ({"init": "random", "n_ctx": 3, "class_specific": True}, {"views": "fresh"},
                                     {"momentum": 0.0, "views": 2}),
                                     ids=("class-specific", "fresh views", "no momentum"))
def test_every_kind_of_training_resumes_to_the_same_bits(tmp_path, options):
    recipe = soak.options(4) | options
    with pytest.raises(PowerCut):
        train(*soak.world(), **recipe, out=tmp_path / "run", checkpoint_every=2, callbacks=[cut_at(5)])
    seen = []
    resumed = train(*soak.world(), **recipe, out=tmp_path / "run", resume=True,
                    callbacks=[lambda step, record: seen.append(step)])
    assert seen == [5, 6, 7, 8] and soak.identical(resumed, train(*soak.world(), **recipe))


def test_float64_survives_the_disk(exact, bare, tmp_path):
    options = {"lambdas": [0, 1], "epochs": 2, "views": 0, "batch_size": 8, "progress": False}
    on_disk, memory = train(exact, bare, **options, out=tmp_path / "run"), train(exact, bare, **options)
    assert on_disk.contexts.dtype == np.float64 and soak.identical(on_disk, memory)


# -- resuming -----------------------------------------------------------------

OTHER_RECIPES = [
    ({"lambdas": [0, 1]}, "lambdas: [0.0, 0.5, 1.0] on disk, [0.0, 1.0] given"),
    ({"lr": 0.3}, "(lr: 0.01 on disk, 0.3 given)"),
    ({"seed": 9}, "seed: 1 on disk, 9 given"), ({"epochs": 3}, "epochs: 4 on disk, 3 given"),
    ({"batch_size": 4}, "batch_size: 8 on disk, 4 given"),
    ({"evaluate_every": 3}, "evaluate_every: 7 on disk, 3 given"),
    ({"init": "random", "n_ctx": 4}, "init: template on disk, random given")]


@pytest.mark.parametrize("change, says", OTHER_RECIPES, ids=lambda x: str(x)[:30])
def test_another_recipe_is_refused_with_the_differences(tmp_path, change, says):
    def stop(step, record):
        if step == 3: raise KeyboardInterrupt
    with pytest.warns(UserWarning, match="interrupted after 3 of 8"):
        train(*soak.world(), **soak.options(4), out=tmp_path / "run", callbacks=[stop])
    before = everything(tmp_path / "run")
    with pytest.raises(ValueError) as e:
        train(*soak.world(), **soak.options(4) | change, out=tmp_path / "run", resume=True)
    begins = f"cannot resume {str(tmp_path / 'run')!r}: the configuration differs ("
    assert says in str(e.value) and str(e.value).startswith(begins)
    assert before == everything(tmp_path / "run"), "a refusal changes nothing"


def test_other_data_and_another_model_are_refused_by_their_hashes(run, tiny):
    folder, _ = run
    clip, task = soak.world()
    labels = np.roll(task.train.labels, 1)
    other = Task(task.name, type(task.train)(task.train.images, labels, task.classes, task.train.masks), task.tests,
                 settings=task.settings)
    with pytest.raises(ValueError, match="hashes.data: .* on disk, .* given") as e:
        train(clip, other, **soak.options(SHORT), out=folder, resume=True)
    assert "hashes.model" not in str(e.value)
    with torch.no_grad(): clip.model.ln_final.weight[0] += 1e-3
    try:
        with pytest.raises(ValueError, match="hashes.model: .* on disk, .* given") as e:
            train(clip, task, **soak.options(SHORT), out=folder, resume=True)
        assert "hashes.data" not in str(e.value)
    finally:
        with torch.no_grad(): clip.model.ln_final.weight[0] -= 1e-3


def test_the_same_data_in_another_place_is_the_same_data(run):
    folder, out = run
    clip, task = soak.world()
    assert soak.identical(train(clip, replace(task, settings=task.settings | {"data": "/elsewhere"}),
                                **soak.options(SHORT), out=folder, resume=True), out)


def test_lambdas_are_added_to_a_finished_set_and_only_they_are_trained(tmp_path):
    clip, task = soak.world()
    recipe = {k: v for k, v in soak.options(4).items() if k != "lambdas"}
    first = train(clip, task, [0, 1], **recipe, out=tmp_path / "run")
    trained = []
    both = train(clip, task, [0, 0.25, 1], **recipe, out=tmp_path / "run", resume=True,
                 callbacks=[lambda step, record: trained.append(record["cos"].shape)])
    assert set(trained) == {(1,)} and len(trained) == 8 and both.lambdas == (0.0, 1.0, 0.25)
    assert soak.identical(replace(both, steps=both.steps[both.steps["run"] < 2], methods=first.methods,
                                  **{k: getattr(both, k)[:, :2] for k in ("contexts", "text_features", "token_cos")}),
                                  first), "what was there stays, to the bit"
    assert soak.identical(both, train_more(train(clip, task, [0, 1], **recipe), [0.25], progress=False))
    assert soak.identical(load_runs(tmp_path / "run"), both)
    assert {p.name for p in (tmp_path / "run").glob("*")} == here(tmp_path / "run") | {".lock"}
    assert soak.sound(tmp_path / "run")
    assert not any(part.resumable for part in parts_of(tmp_path / "run"))
    trained.clear()
    again = train(clip, task, [0, 0.25], **recipe, out=tmp_path / "run", resume=True,
                  callbacks=[lambda *seen: trained.append(seen)])
    assert not trained and soak.identical(again, both), "nothing is missing"


def test_a_killed_addition_leaves_the_finished_set_and_goes_on(tmp_path):
    clip, task = soak.world()
    recipe = {k: v for k, v in soak.options(4).items() if k != "lambdas"}
    first = train(clip, task, [0, 1], **recipe, out=tmp_path / "run")
    with pytest.raises(PowerCut):
        train(clip, task, [0, 1, 0.5], **recipe, out=tmp_path / "run", resume=True, checkpoint_every=2,
              callbacks=[cut_at(5)])
    assert soak.identical(load_runs(tmp_path / "run"), first)
    seen = []
    both = train(clip, task, [0, 1, 0.5], **recipe, out=tmp_path / "run", resume=True,
                 callbacks=[lambda step, record: seen.append(step)])
    assert seen == [5, 6, 7, 8] and both.lambdas == (0.0, 1.0, 0.5)


@pytest.mark.parametrize("left", ("a part", "half a part", "half of run.json"))
def test_a_kill_at_the_very_first_writing_is_no_damage(tmp_path, left):
    "Bytes are there, run.json is not yet"
    run = tmp_path / "run"
    with pytest.raises(PowerCut): train(*soak.world(), **soak.options(4), out=run, callbacks=[cut_at(1)])
    (run / RUN).unlink()
    if left != "a part": next(run.glob("part-*")).rename(run / "part-00001.safetensors.tmp")
    if left == "half of run.json": (run / "run.json.tmp").write_bytes(b"{")
    with pytest.raises(FileNotFoundError, match="no run set in"): load_runs(run)
    assert soak.identical(train(*soak.world(), **soak.options(4), out=run, resume=True), soak.reference(4))
    assert set(everything(run)) == here(run), "nothing is left behind"


@pytest.mark.parametrize("at", (1, 2, 3))
def test_ctrl_c_at_an_early_step_resumes_to_the_same_bits(tmp_path, at):
    "Also where no state was written yet"
    def pressed(step, record):
        if step == at: raise KeyboardInterrupt
    with pytest.warns(UserWarning, match=f"interrupted after {at} of 8"):
        left = train(*soak.world(), **soak.options(4), out=tmp_path / "run", callbacks=[pressed])
    assert len(left.token_cos) == at and soak.is_beginning(left, soak.reference(4)) and soak.sound(tmp_path / "run")
    again = train(*soak.world(), **soak.options(4), out=tmp_path / "run", resume=True)
    assert soak.identical(again, soak.reference(4)) and soak.sound(tmp_path / "run")


def test_a_kill_while_a_resumed_training_replaces_parts_is_no_damage(tmp_path):
    "A part that run.json lists is never overwritten: the folder is whole after every single write"
    run = tmp_path / "run"
    def pressed(step, record):
        if step == 7: raise KeyboardInterrupt
    with pytest.warns(UserWarning):
        train(*soak.world(), **soak.options(4), out=run, checkpoint_every=3, callbacks=[pressed])
    assert not parts_of(run)[-1].resumable, "the last part will be written anew"
    seen, real = [], store.write_whole

    def write(path, content):
        real(path, content)
        seen.append((path.name, soak.sound(run)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "write_whole", write)
        train(*soak.world(), **soak.options(4), out=run, resume=True, checkpoint_every=1)
    assert len(seen) > 3 and all(whole for _, whole in seen), seen


def test_a_run_set_that_is_replaced_while_it_is_opened_is_opened_again(run, tmp_path, monkeypatch):
    "Between the reading of run.json and the opening of its parts another process replaces both"
    folder = tmp_path / "run"
    save_runs(run[1], folder)
    real = store.read_contents

    def slow(where):
        found = real(where)
        if where.path == str(folder) and not replaced:
            replaced.append(where)
            save_runs(run[1], folder, replaces=True)
        return found
    replaced = []
    monkeypatch.setattr(store, "read_contents", slow)
    assert soak.identical(load_runs(folder), run[1]) and replaced


def test_a_run_set_is_read_while_it_is_trained(tmp_path):
    whole, seen = soak.reference(4), []

    def look(step, record):
        if not (tmp_path / "run" / RUN).exists(): return
        now = load_runs(tmp_path / "run")
        assert now.interrupted and soak.is_beginning(now, whole) and soak.sound(tmp_path / "run")
        seen.append(len(now.token_cos))
    train(*soak.world(), **soak.options(4), out=tmp_path / "run", checkpoint_every=1, callbacks=[look])
    assert seen == sorted(seen) and seen[-1] == 7


def test_ctrl_c_before_the_first_step_leaves_the_folder_free(tmp_path, monkeypatch):
    "No lock stays behind in a kernel that goes on"
    from prograd_viz import training
    real = training.epoch_batches
    calls = []

    def pressed(*args):
        calls.append(args)
        if len(calls) == 2: raise KeyboardInterrupt  # the first asks how many batches there are
        return real(*args)
    monkeypatch.setattr(training, "epoch_batches", pressed)
    with pytest.warns(UserWarning, match="interrupted after 0 of 8"):
        nothing = train(*soak.world(), **soak.options(4), out=tmp_path / "run")
    assert nothing.interrupted and len(nothing.steps) == 0
    assert soak.identical(train(*soak.world(), **soak.options(4), out=tmp_path / "run", resume=True), soak.reference(4))


@pytest.mark.parametrize("on_disk", [False, True])
def test_ctrl_c_while_a_training_ends_returns_all_of_it(tmp_path, monkeypatch, on_disk):
    "A real Ctrl-C after the last step, while the last accuracies are computed"
    end = Recorder.end

    def pressed(self, **known):
        os.kill(os.getpid(), signal.SIGINT)
        end(self, **known)

    monkeypatch.setattr(Recorder, "end", pressed)
    folder = {"out": tmp_path / "run"} if on_disk else {}
    with pytest.warns(UserWarning, match="interrupted after 8 of 8"):
        runs = train(*soak.world(), **soak.options(4), **folder)
    assert not runs.interrupted and soak.identical(runs, soak.reference(4))


def test_a_finished_set_without_resume_is_never_overwritten(run):
    folder, out = run
    before = everything(folder)
    for call in (lambda: train(*soak.world(), **soak.options(SHORT), out=folder), lambda: out.save(folder),
                 lambda: save_runs(out, f"file://{folder}")):
        with pytest.raises(FileExistsError, match="holds a run set; continue it with resume=True"): call()
    assert before == everything(folder)


def test_a_damaged_state_means_the_part_before_and_the_same_bits(tmp_path, caplog):
    run = tmp_path / "run"
    with pytest.raises(PowerCut):
        train(*soak.world(), **soak.options(4), out=run, checkpoint_every=2, callbacks=[cut_at(7)])
    states = [part for part in parts_of(run) if part.resumable]
    assert [part.steps for part in states] == [[1, 1], [2, 2], [3, 4], [5, 6]]
    flip(run / states[-1].name, states[-1].span("state.context")[0])
    assert load_runs(run).steps["step"].max() == 6, "the record is whole without it"
    seen = []
    again = lambda: train(*soak.world(), **soak.options(4), out=run, resume=True,
                          callbacks=[lambda step, record: seen.append(step)])
    with caplog.at_level(logging.WARNING, "prograd_viz"): resumed = again()
    assert seen == [5, 6, 7, 8] and f"{states[-1].name} is damaged; continuing before it" in caplog.text
    assert soak.identical(resumed, soak.reference(4))


def test_a_first_part_that_is_damaged_means_the_first_step(tmp_path, caplog):
    run = tmp_path / "run"
    with pytest.raises(PowerCut):
        train(*soak.world(), **soak.options(4), out=run, checkpoint_every=2, callbacks=[cut_at(7)])
    flip(run / parts_of(run)[0].name, -1)
    with caplog.at_level(logging.WARNING, "prograd_viz"):
        resumed = train(*soak.world(), **soak.options(4), out=run, resume=True)
    assert "starting again at the first step" in caplog.text and soak.identical(resumed, soak.reference(4))


def flip(path, at):
    "One bit of a file is another"
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


# -- places -------------------------------------------------------------------

ODD_NAMES = {"spaces": "with spaces", "Chinese": "中文 目录", "quotes": "quote's \"and\" $x;",
             "250 characters": "a" * 250, "deep": "/".join(["b" * 60] * 4)}


@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_any_path_will_do(tmp_path, run, name):
    run[1].save(tmp_path / name)
    assert soak.identical(load_runs(tmp_path / name), run[1])
    prograd_verify([str(tmp_path / name)])


@pytest.mark.parametrize("scheme", ("memory://", "file://"))
def test_run_sets_are_written_and_read_through_fsspec(run, tmp_path, scheme):
    address = f"{scheme}{tmp_path}/run"
    run[1].save(address)
    opened = load_runs(address)
    assert soak.identical(opened, run[1])
    assert type(opened.contexts).__name__ == "Lazy"
    assert not any(f.problem for f in verify(address))
    if scheme == "memory://":
        fs, inside = fsspec.core.url_to_fs(address)
        part = parts_of(address)[0]
        content = bytearray(fs.cat_file(f"{inside}/{part.name}"))
        content[part.span("contexts")[0]] ^= 1
        fs.pipe_file(f"{inside}/{part.name}", bytes(content))
        with pytest.raises(ValueError, match=f"{part.name} .* is damaged: its contexts"):
            np.asarray(load_runs(address).contexts)
        assert soak.identical(replace(load_runs(address), contexts=run[1].contexts), run[1]), "all else can be read"
        with pytest.raises(ValueError, match="not on this machine"): repair(address)


def test_a_folder_that_is_a_file_or_cannot_be_written_is_named(tmp_path, run):
    (tmp_path / "file").write_text("precious")
    for out, error, says in ((tmp_path / "file", NotADirectoryError, "is a file; name a folder"),
                             (tmp_path / "file" / "below", OSError, "cannot write"),
                             (Path("/proc/no/such"), OSError, "cannot write"),
                             (tmp_path / ("c" * 300), OSError, "cannot write")):
        with pytest.raises(error) as trained: train(*soak.world(), **soak.options(2), out=out)
        with pytest.raises(error) as saved: run[1].save(out)
        for e in (trained, saved): assert says in str(e.value) and str(out) in str(e.value)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_read_only_folder_is_refused_before_training(tmp_path, run):
    "As an ordinary user; root may write anywhere"
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    code = ("import os\nfrom pathlib import Path\nfrom prograd_viz.store import Writer\n"
            f"if os.geteuid() == 0: os.setuid(65534)\nWriter(Path({str(locked)!r}) / 'run')")
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/") and not parent.stat().st_mode & 1:
            os.chmod(parent, parent.stat().st_mode | 0o11)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "PermissionError" in out.stderr
    assert f"cannot write '{locked}/run': Permission denied; name a folder that can be written" in out.stderr


@pytest.mark.parametrize("name, says", [("part-00001.safetensors",
                                         "part-00001.safetensors in .* belongs to no run set; name an empty folder"),
                                        ("run.json", "holds a run set")])
def test_files_of_others_are_never_overwritten(tmp_path, run, name, says):
    (tmp_path / name).write_text("mine")
    for _ in range(2):
        with pytest.raises(FileExistsError, match=says): run[1].save(tmp_path)
    assert everything(tmp_path) == {name: b"mine"}


def test_files_of_others_beside_a_run_set_stay(tmp_path, run):
    for name in ("notes.tmp", "part-mine.safetensors", "part-1.safetensors.bak"): (tmp_path / name).write_text("mine")
    run[1].save(tmp_path)
    for name in ("notes.tmp", "part-mine.safetensors", "part-1.safetensors.bak"):
        assert (tmp_path / name).read_text() == "mine"


def test_a_folder_that_is_not_there_is_not_made_by_looking_at_it(tmp_path):
    for look in (verify, repair, load_runs):
        with pytest.raises(FileNotFoundError, match="no run set in"): look(tmp_path / "none")
    assert not list(tmp_path.iterdir())


# -- strangers ----------------------------------------------------------------

EVIL = ("../../x", "<script>alert(1)</script>", "/etc/passwd", "a\"b'c", "日本")


@pytest.fixture
def evil(run, tmp_path):
    "A run set whose classes have names that would like to be something else"
    folder = tmp_path / "deep" / "inside" / "run"
    save_runs(replace(run[1], classes=EVIL[:4], config={"teacher": "<img src=x onerror=alert(1)>"}), folder)
    return folder


def test_names_from_files_are_never_paths(evil, tmp_path, monkeypatch):
    "A class called ../../x writes nothing outside"
    from buffers import in_page, unpack
    from prograd_viz.explorer import Explorer
    from prograd_viz.screen import explorer_data
    runs = load_runs(evil)
    assert runs.classes == EVIL[:4]
    clip, task = soak.world()
    named = lambda split: type(split)(split.images, split.labels, EVIL[:4], split.masks)
    known = replace(runs, clip=clip, task=Task("../../y", named(task.train), {"shifted": named(task.tests["shifted"])}))
    (tmp_path / "deep" / "inside" / "work").mkdir()
    monkeypatch.chdir(tmp_path / "deep" / "inside" / "work")
    data = explorer_data(known, images=1)
    explorer = Explorer(runs, data=data)
    explorer._asked(explorer, {"ask": "save"}, [])
    assert explorer._work["text"].startswith("saved ") and not explorer._work["wrong"]
    page = Path(save_report(runs, "report.html", data=data)).read_text()
    assert "<script>alert" not in page
    assert "onerror=alert" not in page.replace("&lt;img src=x onerror=alert(1)&gt;", "")
    for about in (unpack(explorer.scenes[0])[0], in_page(page, "scenes")[0]): assert about["classes"] == list(EVIL[:4])
    written = {p.relative_to(tmp_path).parts[:3] for p in tmp_path.rglob("*") if p.is_file()}
    assert written == {("deep", "inside", "run"), ("deep", "inside", "work")}


def test_nothing_unpickles_or_evaluates():
    "No pickle, no eval, no torch.load without weights_only in the library"
    import re
    for path in soak.LIBRARY.glob("*.py"):
        text = path.read_text()
        unsafe = (r"\b(?:import|from) c?pickle\b", r"\bpickle\.", r"\bjoblib\.load", "allow_pickle=True", r"\bexec\(",
                  r"os\.system", "shell=True", r"yaml\.load\(")
        assert not [pattern for pattern in unsafe if re.search(pattern, text)], path.name
        assert not re.search(r"(?<![.\w])eval\(", text), path.name
        assert all("weights_only=True" in call for call in re.findall(r"torch\.load\([^)]*\)", text)), path.name


def test_the_library_is_quiet_until_it_is_asked(tmp_path):
    "Nothing on stderr by default; every checkpoint with logging switched on"
    def job():
        with (tmp_path / "stderr").open("w") as file: os.dup2(file.fileno(), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        logging.root.handlers.clear()  # those of pytest
        warnings.resetwarnings()
        options = soak.options(2) | {"checkpoint_every": 2}
        train(*soak.world(), **options, out=tmp_path / "quiet")
        print("now aloud", file=sys.stderr)
        logging.basicConfig(level="INFO", force=True)
        train(*soak.world(), **options, out=tmp_path / "loud")

    soak.world()
    assert os.waitpid(soak.forked(job), 0)[1] == 0
    quiet, loud = (tmp_path / "stderr").read_text().split("now aloud")
    assert quiet == "" and loud.count("INFO:prograd_viz:") >= 2 and "checkpoint after step 2" in loud
    assert any(isinstance(h, logging.NullHandler) for h in logging.getLogger("prograd_viz").handlers)


def test_verify_is_a_command_that_needs_no_torch(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    ninth = next(part for part in parts_of(folder) if part.steps and part.steps[0] > 8)
    code = """import json, os, sys
from prograd_viz.runs import prograd_verify
folder, damaged, content = sys.argv[1:]
for args in ([folder], [folder], [folder, "--repair"], [folder]):
    try: prograd_verify(args)
    except SystemExit as e: print(chr(0), e.code, chr(0), sep="", end="")
    else: print(chr(0), 0, chr(0), sep="", end="")
    if os.path.exists(content): os.replace(content, damaged)
assert "torch" not in sys.modules"""
    shutil.copy(folder / ninth.name, tmp_path / "broken")
    flip(tmp_path / "broken", ninth.span("record")[0] + 5)
    files = len(list(folder.glob("[!.]*")))
    done = subprocess.run([sys.executable, "-c", code, folder, folder / ninth.name, tmp_path / "broken"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    whole, before, broken, between, mended, after, _, again, _ = done.stdout.split("\0")
    assert before == "0" and whole.count(": ok, ") == files
    says = f"{ninth.name}: its record do not match their hash; from step {ninth.steps[0]} on nothing can be saved"
    assert between == "1" and says in broken and ", behind a damaged part" in broken
    last = ninth.steps[0] - 1
    assert after == "0" and f"steps {last + 1} to 24 were dropped" in mended and again == "0"
    left = load_runs(folder)
    assert left.steps["step"].max() == last and soak.is_beginning(left, run[1])
    assert list(left.snapshot_steps) == [s for part in parts_of(folder) for s in part.snapshots]
    code = ("import sys\nfrom prograd_viz.runs import prograd_verify\n"
            "try: prograd_verify(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules")
    nothing = subprocess.run([sys.executable, "-c", code, tmp_path / "none"], capture_output=True, text=True)
    assert nothing.returncode == 1
    assert nothing.stderr.startswith("prograd_verify: no run set in")
    assert nothing.stderr.count("\n") == 1


# -- lazy ---------------------------------------------------------------------

def test_rows_are_read_and_checked_when_they_are_asked_for_and_not_before(run, tmp_path):
    save_runs(run[1], tmp_path / "run")
    opened = load_runs(tmp_path / "run")
    part = parts_of(tmp_path / "run")[0]
    with open(tmp_path / "run" / part.name, "r+b") as file:
        file.seek(part.span("text_features")[0] + 1)
        file.write(b"!")
    with pytest.raises(ValueError, match="part-00001.safetensors .* is damaged: its text_features"):
        opened.text_features[0]
    (tmp_path / "run" / part.name).unlink()
    assert np.array_equal(opened.contexts[-1], run[1].contexts[-1]), "what was opened stays readable"
    pd.testing.assert_frame_equal(opened.steps, run[1].steps, check_exact=True)


@pytest.mark.parametrize("files", [store.MAX_HELD, 0])
def test_open_runs_stay_readable_when_a_lambda_is_added_however_many_are_open(run, tmp_path, monkeypatch, files):
    "Beyond the files that may stay open, their bytes are kept"
    monkeypatch.setattr(store, "MAX_HELD", files)
    save_runs(run[1], tmp_path)
    opened = load_runs(tmp_path)
    save_runs(run[1].join(replace(run[1], methods=("a", "b", "c"), lambdas=None)), tmp_path,
              replaces=True)
    assert soak.identical(opened, run[1]) and len(load_runs(tmp_path)) == 6


@pytest.mark.parametrize("address", ["{}/run", "memory://replaced"])
def test_beyond_what_is_held_other_numbers_under_the_same_name_are_never_read(run, tmp_path, monkeypatch, address):
    monkeypatch.setattr(store, "MAX_HELD", 0)
    monkeypatch.setattr(store, "MAX_KEPT", 0)
    folder = store.Folder.of(save_runs(run[1], address.format(tmp_path)))
    opened = load_runs(address.format(tmp_path))
    assert np.array_equal(opened.contexts[:], run[1].contexts)
    folder.fs.rm(folder.path, recursive=True)
    with pytest.raises(ValueError, match="part-00001.safetensors .* was removed or replaced after it was opened"):
        opened.contexts[0]
    save_runs(replace(run[1], contexts=run[1].contexts[:] + 1), address.format(tmp_path))
    with pytest.raises(ValueError, match="part-00001.safetensors .* is damaged: its contexts do not match their hash"):
        opened.contexts[0]
    assert np.array_equal(opened.text_features[:], run[1].text_features), "these bytes are the same"
    folder.fs.rm(folder.path, recursive=True)


def test_many_open_run_sets_of_many_parts_keep_few_files_open(run, tmp_path):
    "Each of 30 run sets has 24 parts; a process may open 1024 files, often 256"
    import psutil
    train(*soak.world(), **soak.options(SHORT), out=tmp_path / "run", checkpoint_every=1)
    assert len(parts_of(tmp_path / "run")) >= 24
    before = psutil.Process().num_fds()
    opened = [load_runs(tmp_path / "run") for _ in range(30)]
    assert psutil.Process().num_fds() - before <= store.MAX_HELD
    assert all(np.array_equal(one.contexts, run[1].contexts) for one in opened)
    del opened
    assert psutil.Process().num_fds() <= before


def test_a_lazy_array_goes_to_another_process_as_an_array(run):
    import pickle
    there = pickle.loads(pickle.dumps(run[1].contexts))
    assert type(there) is np.ndarray and np.array_equal(there, run[1].contexts)


def test_a_lazy_array_is_indexed_like_the_array(run):
    lazy, array = run[1].contexts, np.asarray(run[1].contexts)
    rng = np.random.default_rng(SEED)
    for key in (0, -1, slice(2, 9, 3), slice(None, None, -1), [3, 1, 1], rng.integers(len(array), size=(2, 3)),
                rng.random(len(array)) < 0.5, (slice(None), 1), (2, 0, slice(1)), (..., 0), (None, 0),
                (slice(1, 3), ..., [0, 5])):
        assert np.array_equal(lazy[key], array[key]), key
    with pytest.raises(IndexError): lazy[len(array)]
    assert len(lazy) == len(array)
    assert lazy.ndim == array.ndim
    assert np.array_equal(lazy - lazy[:1], array - array[:1])
    assert np.array_equal(np.concatenate([lazy, array], 1), np.concatenate([array, array], 1))


# -- Ctrl-C around the lock ---------------------------------------------------

@contextlib.contextmanager
def pressed_at(n):
    """A real Ctrl-C, which Python hears at the n-th place, a call or a line of the library that is reached for the
    first time; yields a list with an entry when it was sent"""
    sent, places, library = [], set(), str(soak.LIBRARY)

    def trace(frame, event, arg):
        if os.path.dirname(frame.f_code.co_filename) != library: return None
        if event in ("call", "line"): places.add((frame.f_code, frame.f_lineno, event))
        if len(places) == n and not sent: signal.raise_signal(sent.append(event) or signal.SIGINT)
        return trace
    sys.settrace(trace)
    try: yield sent
    finally: sys.settrace(None)


@pytest.mark.parametrize("resume", (False, True))
def test_ctrl_c_while_a_folder_is_taken_leaves_it_free(tmp_path, resume):
    "Whoever keeps the traceback, as IPython does, keeps no lock: the same process writes there again"
    features, told, n = torch.eye(2, 3), [], 0
    if resume:
        with Recorder(["cat", "dog"], out=tmp_path / "run") as record: record.log(1, text_features=features)
    while True:
        out, n = tmp_path / ("run" if resume else f"run {n}"), n + 1
        try:
            with pressed_at(n) as sent, Recorder(["cat", "dog"], out=out, resume=resume): sys.settrace(None)
        except KeyboardInterrupt as e: told.append(e)  # with all its frames
        if not sent: break
        if out.exists():
            with Lock(out): pass
    assert len(told) > 90, "it was pressed at every place"


def test_ctrl_c_while_a_run_set_is_begun_leaves_the_folder_free(tmp_path):
    told, n = [], 0
    while True:
        out, n = tmp_path / f"run {n}", n + 1
        try:
            with pressed_at(n) as sent, store.Writer(out): sys.settrace(None)
        except KeyboardInterrupt as e: told.append(e)
        if not sent: break
        if out.exists():
            with Lock(out): pass
    assert len(told) > 15


# -- the size of run.json -----------------------------------------------------

def test_a_run_json_that_nobody_could_read_is_not_written(tmp_path, monkeypatch):
    """Each part takes half a kilobyte there: the limit is met with a checkpoint per step, and what is on disk stays
    whole"""
    features = torch.eye(2, 3)
    monkeypatch.setattr(store, "MAX_RUN", 6000)
    says = r"6,\d+ bytes for \d+ parts are more than 6,000; write fewer and larger parts with checkpoint_every="
    often = Recorder(["cat", "dog"], out=tmp_path / "run", checkpoint_every=1)
    with pytest.raises(ValueError, match=says), often as record:
        for step in range(1, 100): record.log(step, text_features=features)
    left = load_runs(tmp_path / "run")
    assert 4 <= len(left.steps) < 20 and not any(finding.problem for finding in verify(tmp_path / "run"))
    monkeypatch.undo()
    with Recorder(["cat", "dog"], out=tmp_path / "run", resume=True, checkpoint_every=50, steps=100) as record:
        assert record.done == len(left.steps)


def test_what_is_first_logged_late_is_refused_and_not_written_as_another_shape(tmp_path):
    "Parts of one run set have the same shapes"
    for name in ("context", "g_d", "text_features"):
        late = {name: torch.zeros(2, 3)}
        says = f"{name} has shape .* had none before; shapes must not change"
        with pytest.raises(ValueError, match=says), Recorder(["cat", "dog"], out=tmp_path / name) as record:
            for step in (1, 2): record.log(step, loss_ce=1.0)  # after the second the first is on disk
            record.log(3, loss_ce=0.5, **late)
        assert len(load_runs(tmp_path / name).steps) == 2


def test_a_recorder_that_resumes_and_logs_nothing_leaves_a_run_set_that_opens(tmp_path):
    "So does one that goes on without what was logged before"
    options = {"classes": ["cat", "dog"], "out": tmp_path / "run", "resume": True}
    known = {"context": torch.zeros(2, 3), "g_d": torch.ones(2, 3), "g_g": torch.ones(2, 3),
             "text_features": torch.eye(2)}
    with Recorder(**options) as record: record.log(1, **known)
    for step in (2, 3):
        with Recorder(**options): pass
        with Recorder(**options) as record: record.log(step, loss_ce=1.0)
    left = load_runs(tmp_path / "run")
    assert list(left.steps["step"]) == [1, 2, 3]
    assert left.token_cos.shape == (3, 1, 2)
    assert left.contexts.shape == (1, 1, 2, 3)
    says = r"context has shape \(4, 3\), context had \(2, 3\) before"
    with pytest.raises(ValueError, match=says), Recorder(**options) as record:
        record.log(4, context=torch.zeros(4, 3))
