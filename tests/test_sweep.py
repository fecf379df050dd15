"""Sweeps: the same numbers on any engine, what is finished stays finished, what fails is told, what is lost is done
again."""
import json
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import ray
from PIL import Image

from prograd_viz.pocket import Scene, render
from prograd_viz.protocols import few_shot_protocol
from prograd_viz.sweep import Sweep, cells_of, load_sweep, sweep
from soak import forked

SMALL = {"classes": 3, "test_per_class": 2, "views": 0, "batch_size": 4, "lr": 0.1}
# 24 cells in 8 jobs
GRID = {"shots": [2, 4], "seed": [1, 2], "rho": [0.5, 1.0], "lam": [0, 0.5, 1],
        "epochs": 4} | SMALL | {"classes": [["dog", "bus", "eye"]]}
HALF = GRID | {"shots": 2}  # 12 of them in 4 jobs
PART = HALF | {"rho": 1.0}  # 6 in 2 jobs


def numbers(result):
    "Everything that was measured, in one order, as bits"
    table = result.results()
    return table.sort_values([c for c in ("data", "shots", "seed", "rho", "lam") if c in table],
                             na_position="first").reset_index(drop=True)


def same_bits(a, b):
    "Equal tables, and equal contexts and records in every folder"
    pd.testing.assert_frame_equal(numbers(a), numbers(b), check_exact=True)
    for one, other in zip(a.runs(), b.runs(), strict=True):
        assert np.array_equal(one.contexts, other.contexts) and np.array_equal(one.text_features, other.text_features)
        pd.testing.assert_frame_equal(one.steps.drop(columns="seconds"), other.steps.drop(columns="seconds"),
                                      check_exact=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory): return sweep(GRID, tmp_path_factory.mktemp("local"), workers=1, progress=False)


def test_the_grid_is_24_cells_and_all_are_done(local):
    assert len(local.cells) == 24 and set(local.table["status"]) == {"done"} and set(local.table["threads"]) == {1}
    assert local.results()["method"].value_counts().to_dict() == {"zero-shot CLIP": 8, "CoOp": 8, "ProGrad 0.5": 8,
                                                                  "ProGrad": 8}
    assert local.results().query("method == 'CoOp'")["acc_same"].nunique() > 1  # something was learned


def test_a_seed_joins_then_a_lambda_and_the_rest_stays_done(local, tmp_path):
    grid = {"shots": 2, "seed": [1]} | {k: GRID[k] for k in ("lam", "epochs", *SMALL)}
    sweep(grid, tmp_path, workers=1, progress=False)
    first = {p: p.stat().st_mtime_ns for p in (tmp_path / "results").glob("*.json")}
    sweep(grid | {"seed": [1, 2]}, tmp_path, workers=1, progress=False)
    assert first.items() <= {p: p.stat().st_mtime_ns for p in (tmp_path / "results").glob("*.json")}.items()
    wider = sweep(grid | {"seed": [1, 2], "lam": [0, 0.25, 0.5, 1]}, tmp_path, workers=1, progress=False)
    assert set(wider.table["status"]) == {"done"}
    assert [set(runs.lambdas) for runs in wider.runs()] == [{0, 0.25, 0.5, 1}] * 2
    one = local.results().query("seed == 2 and shots == 2 and rho == 1 and method == 'CoOp'")["loss_ce"].item()
    assert wider.results().query("seed == 2 and method == 'CoOp'")["loss_ce"].item() == one


def test_a_record_that_calls_it_prograd_1_is_one_of_prograd(local, tmp_path):
    shutil.copytree(local.out, tmp_path / "older")
    for file in (tmp_path / "older/results").glob("*.json"):
        file.write_text(file.read_text().replace('"ProGrad"', '"ProGrad 1"'))
    pd.testing.assert_frame_equal(Sweep(tmp_path / "older", local.cells).results(), local.results())


def test_a_driver_that_is_killed_goes_on_where_it_was(local, tmp_path):
    driver = forked(lambda: sweep(GRID, tmp_path, workers=1, progress=False))
    untouched = killed_driver(driver, tmp_path, 8)
    same_bits(local, sweep(None, tmp_path, workers=1, progress=False))
    untouched()


def killed_driver(driver, out, jobs):
    "SIGKILL to a sweep that has finished some jobs; what it returns asserts that those are not done again"
    written = lambda: {p: p.stat().st_mtime_ns for p in (out / "results").glob("*.json")}
    wait_for(lambda: written() or os.waitpid(driver, os.WNOHANG)[0])
    os.kill(driver, signal.SIGKILL)
    os.waitpid(driver, 0)
    done = written()
    assert 1 <= len(done) < jobs

    def untouched(): assert done.items() <= written().items()

    return untouched


def wait_for(condition, seconds=600):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it never came"
        time.sleep(0.02)


def kill_a_worker(out):
    "SIGKILL to a process that is training: it says in its folder that it writes there; its number"
    pids = []

    def one():
        for note in (out / "runs").glob("*/.writer"):
            try: pids.append(int(note.read_text().split()[1]))  # process 123 on ...
            except (FileNotFoundError, IndexError): continue  # it has just ended, or has just begun
            return True

    wait_for(one)
    os.kill(pids[0], signal.SIGKILL)
    return pids[0]


# joblib keeps idle workers for ten seconds, so these four share theirs

def test_two_processes_give_the_same_bits_as_one(local, tmp_path):
    same_bits(Sweep(local.out, cells_of(PART)), sweep(PART, tmp_path, workers=2, progress=False))


def test_a_protocol_in_two_processes_gives_the_table_of_one(clip):
    options = {"epochs": 1, "views": 0, "n_ctx": 4, "progress": False, "data": {"classes": 3, "test_per_class": 2}}
    one, two = (few_shot_protocol(clip, "pocket", 1, [1, 2], [0, 1], workers=n, **options) for n in (1, 2))
    pd.testing.assert_frame_equal(one, two)


def test_a_rule_of_ones_own_is_swept_by_its_name_in_other_processes_too(tmp_path, monkeypatch):
    from prograd_viz.rules import RULES, Rule
    monkeypatch.setitem(RULES, "half", Rule(lambda x: x.g_d / 2, 0, 1, 1, "G_d / 2", "a test"))
    grid = {"rule": ["coop", "half"], "shots": 1, "epochs": 2} | SMALL
    here, there = (sweep(grid, tmp_path / str(n), workers=n, progress=False) for n in (1, 2))
    assert set(there.table["status"]) == {"done"}, there.failures["error"].tolist()
    same_bits(here, there)
    (coop, half), start = (here.runs(rule=rule)[0] for rule in ("coop", "half")), here.runs()[0].contexts[0]
    assert set(here.results()["method"]) == {"zero-shot CLIP", "CoOp", "half 1"}
    way = lambda runs: np.linalg.norm(runs.contexts[-1] - start)
    assert way(half) < 0.6 * way(coop), "half the gradient, half the way"


def test_a_worker_that_is_killed_costs_nothing(local, tmp_path):
    killer = threading.Thread(target=kill_a_worker, args=[tmp_path])
    killer.start()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = sweep(HALF, tmp_path, workers=2, progress=False)
    killer.join()
    assert any("a worker was lost" in str(w.message) for w in caught)
    same_bits(Sweep(local.out, cells_of(HALF)), result)


def test_a_job_that_comes_back_twice_counts_once(local, tmp_path, monkeypatch):
    "As from a pool that has lost a worker"
    class Twice(joblib.Parallel):
        def __call__(self, calls): return (x for f, args, named in calls for x in [f(*args, **named)] * 2)

    monkeypatch.setattr(joblib, "Parallel", Twice)
    same_bits(Sweep(local.out, cells_of(PART)), sweep(PART, tmp_path, workers=1, progress=False))


def test_a_broken_image_fails_its_own_cell_alone(tmp_path):
    worlds = []
    for k in range(4):
        for noun in ("dog", "bus"):
            (tmp_path / f"world-{k}" / noun).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(render(Scene(noun, "sand",
                                             seed=10 * k + i))[0]).save(tmp_path / f"world-{k}" / noun / f"{i}.png")
        worlds.append(str(tmp_path / f"world-{k}"))
    Path(worlds[2], "dog", "1.png").write_bytes(b"\x89PNG broken")
    grid = {"shots": 2, "lam": 1.0, "epochs": 2, "views": 0}
    cells = pd.concat([cells_of(grid | {"data": world, "seed": range(1, n + 1)})
                       for world, n in zip(worlds, (1, 2, 1, 3))])
    with pytest.warns(UserWarning, match="1 of 7 cells failed"):
        result = sweep(cells, tmp_path / "out", workers=1, progress=False)
    assert result.table["status"].value_counts().to_dict() == {"done": 6, "failed": 1}
    assert len(result.runs(data=os.path.relpath(worlds[3]))) == 3  # a path is a path, however it is written
    failed = result.failures.iloc[0]
    assert failed["data"] == worlds[2] and "1.png" in failed["error"] and "cannot read image" in failed["traceback"]


def test_an_evaluation_that_comes_later_trains_nothing_again(local, tmp_path, monkeypatch):
    grid = {"shots": 2, "seed": [1, 2], "epochs": 2} | SMALL
    first = sweep(grid, tmp_path, workers=1, progress=False)
    files = lambda under: {p: p.stat().st_mtime_ns for p in (tmp_path / under).rglob("*") if p.is_file()
                           and p.name != ".lock"}
    trained, base = files("runs"), numbers(first)
    expected = np.array([np.linalg.norm(runs.contexts[-1, runs.run(lam)]) for runs in first.runs() for lam in (0, 1)])
    seen = lambda **named: sweep(grid, tmp_path, workers=1, progress=False, **named).results().dropna(subset="lam")
    assert np.allclose(seen(evaluate={"norm": last_norm})["norm"], expected)
    monkeypatch.setattr("prograd_viz.sweep.train", lambda *args, **options: pytest.fail("opened again"))
    # name and version are known
    seen(evaluate={"norm": partial(times_norm, 2)}), seen(evaluate={"norm": last_norm}), seen()
    monkeypatch.undo()
    assert np.allclose(seen(evaluate={"norm": partial(times_norm, 2)}, version=2)["norm"],
                       2 * expected), "another version evaluates again"
    both = seen(evaluate={"steps": lambda runs: pd.DataFrame({"lam": runs.lambdas,
                                                              "snapshots": len(runs.snapshot_steps)})})
    assert np.allclose(both["norm"],
                       2 * expected) and (both["snapshots"] == 2).all(), "another name stands beside the first"
    assert trained == files("runs")
    after = numbers(load_sweep(tmp_path))
    pd.testing.assert_frame_equal(after[list(base)], base, check_exact=True)


def test_a_failed_evaluation_loses_no_training_and_is_tried_again(tmp_path):
    grid = {"shots": 1, "epochs": 1} | SMALL
    with pytest.warns(UserWarning, match="2 of 2 cells failed, the first with ZeroDivisionError"):
        result = sweep(grid, tmp_path, workers=1, progress=False, evaluate={"norm": lambda runs: 1 / 0})
    assert set(result.table["status"]) == {"failed"}
    assert result.results()["acc_same"].notna().all()
    assert len(result.runs()) == 1
    mended = sweep(grid, tmp_path, workers=1, progress=False, evaluate={"norm": last_norm})
    assert set(mended.table["status"]) == {"done"} and mended.results()["norm"].notna().sum() == 2
    with pytest.raises(ValueError, match="evaluate must be a dict of functions by name"):
        sweep(grid, tmp_path, evaluate=last_norm)
    with pytest.raises(ValueError, match="version must be a number or a text"): sweep(grid, tmp_path, version=None)


def test_a_table_never_mixes_versions(clip, tmp_path):
    def score(value, fails=()):
        def f(runs):
            if runs.task.settings["seed"] in fails: raise fails[runs.task.settings["seed"]]
            return pd.DataFrame({"lam": [np.nan, *runs.lambdas], "score": value})
        return {"evaluate": {"e": f}}

    grid = {"shots": 1, "seed": [1, 2, 3], "lam": [0.0], "epochs": 1, "test_per_class": 1}
    kw = {"workers": 1, "progress": False, "clip": clip}
    seen = lambda s: s.results().groupby("seed")["score"].first().to_dict()
    assert seen(sweep(grid, tmp_path, **score(1.0), **kw)) == {1: 1.0, 2: 1.0, 3: 1.0}
    part = sweep(grid | {"seed": [1]}, tmp_path, version=2, **score(2.0), **kw)
    for one in (part, load_sweep(tmp_path), sweep(None, tmp_path, **kw)):
        assert one.table["status"].tolist() == ["done", "to do", "to do"]
        with pytest.warns(UserWarning, match="'e' of 2 jobs is of another version than 2 and left out"):
            found, table = seen(one), one.results()
        assert found[1] == 2 and np.isnan(found[2]) and np.isnan(found[3]) and table["acc_same"].notna().all()
    with pytest.warns(UserWarning, match="1 of 3 cells failed, the first with RuntimeError: no luck"):
        half = sweep(None, tmp_path, version=3, **score(3.0, {2: RuntimeError("no luck")}), **kw)
    assert half.table["status"].tolist() == ["done", "failed", "done"]
    with pytest.warns(UserWarning, match="'e' of 1 jobs"): found = seen(half)
    assert (found[1], found[3]) == (3, 3) and np.isnan(found[2])
    with pytest.warns(UserWarning, match="interrupted"):
        half = sweep(None, tmp_path, version="4", **score(4.0, {3: KeyboardInterrupt()}), **kw)
    assert half.table["status"].tolist() == ["done", "done", "to do"]
    whole = sweep(None, tmp_path, version="4", **score(4.0), **kw)
    assert seen(whole) == {1: 4.0, 2: 4.0, 3: 4.0} and set(whole.table["status"]) == {"done"}


def test_a_call_trains_what_it_asks_for_and_the_folder_remembers_the_rest(tmp_path):
    grid = {"shots": 1, "seed": [1, 2], "epochs": 1} | SMALL
    (tmp_path / "sweep.json").write_text(json.dumps({"cells": cells_of(grid).to_dict("records")}))
    result = sweep(grid | {"seed": 2}, tmp_path, workers=1, progress=False)
    assert result.table.groupby("seed")["status"].first().to_dict() == {1: "to do", 2: "done"}
    assert set(sweep(None, tmp_path, workers=1, progress=False).table["status"]) == {"done"}


def test_lambdas_that_nearly_agree_stay_several(tmp_path):
    "Nothing that was measured of one is taken for another's"
    lambdas = [0, 1e-9, 1e-8]
    grid = {"shots": 1, "epochs": 1, "lr": 0.1} | SMALL
    sweep(grid | {"lam": lambdas[:1]}, tmp_path, workers=1, progress=False)
    assert load_sweep(tmp_path).runs(lam=1e-9) == []
    result = sweep(grid | {"lam": lambdas}, tmp_path, workers=1, progress=False,
                   evaluate={"own": lambda runs: pd.DataFrame({"lam": runs.lambdas, "own": runs.lambdas})})
    table = result.results().dropna(subset="lam")
    assert table["lam"].tolist() == table["own"].tolist() == lambdas
    assert table["method"].tolist() == ["CoOp", "ProGrad 1e-09", "ProGrad 1e-08"]
    assert [len(result.runs(lam=lam)) for lam in (*lambdas, 1e-10)] == [1, 1, 1, 0]


def times_norm(factor, runs): return last_norm(runs).assign(norm=lambda t: factor * t["norm"])


def last_norm(runs):
    return pd.DataFrame({"lam": runs.lambdas, "norm": [float(np.linalg.norm(c)) for c in runs.contexts[-1]]})


def test_a_call_without_evaluate_keeps_its_numbers(tmp_path):
    grid = {"shots": 2, "epochs": 2} | SMALL
    first = sweep(grid, tmp_path, workers=1, progress=False, evaluate={"norm": last_norm})
    pd.testing.assert_frame_equal(numbers(sweep(None, tmp_path, workers=1, progress=False)), numbers(first),
                                  check_exact=True)
    assert first.results()["norm"].notna().sum() == 2
    wider = sweep(grid | {"lam": [0, 0.5, 1]}, tmp_path, workers=1, progress=False).results()
    assert wider.set_index("method")["norm"].notna().to_dict() == {"zero-shot CLIP": False, "CoOp": True,
                                                                   "ProGrad 0.5": False, "ProGrad": True}
    whole = sweep(grid | {"lam": [0, 0.5, 1]}, tmp_path, workers=1, progress=False,
                  evaluate={"norm": last_norm}).results()
    assert whole["norm"].notna().sum() == 3


def test_an_evaluation_may_not_hide_a_column(tmp_path):
    hides = lambda runs: pd.DataFrame({"lam": runs.lambdas, "acc_same": 0.5, "seed": 3})
    with pytest.warns(UserWarning, match="returns 'acc_same', 'seed', which the table has already"):
        sweep({"shots": 1, "epochs": 1} | SMALL, tmp_path, workers=1, progress=False, evaluate={"hides": hides})


def test_a_folder_that_is_called_like_a_data_set_is_not_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = {"pocket": "pocket", "oxford_pets": "oxford_pets", "mine": str(tmp_path / "mine")}
    for name in expected: Path(name).mkdir()
    assert {name: cells_of({"data": name})["data"].iloc[0] for name in expected} == expected


def test_runs_are_chosen_by_lambda_and_a_rule_has_its_own_strength(local):
    assert len(local.runs(lam=0.5)) == 8 and local.runs(lam=0.25) == []
    strengths = {"coop": [0.0], "kgcoop": [8.0], "prograd": [0.0, 1.0]}
    assert cells_of({"rule": list(strengths)}).groupby("rule")["lam"].agg(list).to_dict() == strengths


def test_what_was_done_stays_done_when_more_of_it_fails(tmp_path, monkeypatch):
    grid = {"shots": 2, "epochs": 2, "lam": [0, 1]} | SMALL
    first = numbers(sweep(grid, tmp_path, workers=1, progress=False))
    monkeypatch.setattr("prograd_viz.sweep.train", lambda *args, **options: 1 / 0)
    with pytest.warns(UserWarning, match="1 of 3 cells failed, the first with ZeroDivisionError"):
        result = sweep(grid | {"lam": [0, 0.5, 1]}, tmp_path, workers=1, progress=False)
    assert dict(zip(result.table["lam"], result.table["status"])) == {0: "done", 0.5: "failed", 1: "done"}
    assert result.table.set_index("lam")["error"].notna().to_dict() == {0: False, 0.5: True, 1: False}
    pd.testing.assert_frame_equal(numbers(result), first, check_exact=True)
    monkeypatch.undo()
    assert set(sweep(None, tmp_path, workers=1, progress=False).table["status"]) == {"done"}


def test_an_evaluation_of_the_wrong_kind_is_named(tmp_path):
    with pytest.warns(UserWarning, match="must return a DataFrame with a column 'lam'"):
        result = sweep({"shots": 1, "epochs": 1} | SMALL, tmp_path, workers=1, progress=False, evaluate={"length": len})
    assert set(result.table["status"]) == {"failed"}


def test_two_drivers_do_not_share_a_folder(tmp_path):
    from prograd_viz.store import Lock
    with Lock(tmp_path), pytest.raises(BlockingIOError, match="being written by"):
        sweep({"shots": 1}, tmp_path, progress=False)


def test_a_sweep_reads_like_its_calls(local):
    again = load_sweep(local.out)
    pd.testing.assert_frame_equal(again.table, local.table)
    assert again.runs(seed=1, shots=2, rho=1)[0].config["task"]["rho"] == 1 and len(again.runs(seed=1)) == 4


# ---- a real cluster: a head, and a node that can be lost

NODE = {"num_cpus": 1, "num_gpus": 1}  # Ray counts GPUs; whether there are any it does not ask
# Ray asks twice a second whether a node answers: five times without an answer, and it is lost
HEAD = NODE | {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True,
               "_system_config": {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500}}


@pytest.fixture(scope="module")
def cluster():
    "A cluster of two nodes; every node and every worker takes seconds to start, so the tests share them"
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.add_node(**NODE)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_joblib_over_ray_gives_the_same_bits(local, cluster, tmp_path):
    from ray.util.joblib import register_ray
    register_ray()
    with joblib.parallel_config(backend="ray"): result = sweep(PART, tmp_path, progress=False)
    same_bits(Sweep(local.out, cells_of(PART)), result)


def test_a_job_waits_for_its_share_of_a_gpu(cluster, tmp_path):
    "Ray hands out the card: a worker sees one, and half of one is enough"
    def visible_gpu(runs):
        return pd.DataFrame({"lam": runs.lambdas, "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", "none")})

    result = sweep({"shots": 1, "epochs": 1} | SMALL, tmp_path, engine="ray", gpus=0.5, evaluate={"gpu": visible_gpu},
                   progress=False)
    assert set(result.table["status"]) == {"done"}, result.failures["traceback"].tolist()
    assert set(result.results()["gpu"].dropna()) == {"0"}


def test_a_cluster_that_loses_its_driver_a_worker_and_a_node_gives_the_same_bits(local, cluster, tmp_path):
    code = (f"import ray; ray.init(address={cluster.address!r}, log_to_driver=False); "
            f"from prograd_viz.sweep import sweep; sweep({GRID!r}, {str(tmp_path)!r}, engine='ray', progress=False)")
    untouched = killed_driver(os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", code]), tmp_path, 8)
    written, (node,), lost = lambda: len(list((tmp_path / "results").glob("*.json"))), cluster.worker_nodes, []
    done = written()

    def havoc():
        lost.append(kill_a_worker(tmp_path))
        wait_for(lambda: written() > done)
        cluster.remove_node(node, allow_graceful=False)
        lost.append("node")

    helper = threading.Thread(target=havoc)
    helper.start()
    result = sweep(None, tmp_path, engine="ray", progress=False)
    helper.join()
    assert len(lost) == 2 and set(result.table["status"]) == {"done"}, result.failures["traceback"].tolist()
    same_bits(local, result)
    untouched()
    wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 1)
