"`prograd_demo` from end to end: what it prints, writes, and says when it cannot."
import contextlib
import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from prograd_viz import cli, training
from prograd_viz.cli import on_the_object, prograd_demo, save_demo
from prograd_viz.maps import foreground
from prograd_viz.runs import STEP_COLUMNS, mean_interval
from prograd_viz.summary import summarise
from prograd_viz.sweep import load_sweep, sweep

TABLES = {"report.html", "steps.parquet", "foreground.parquet", "summary.csv", "summary.json"}
FIGURES = {"cosine.png", "angles.png", "accuracy.png", "maps.png", "foreground.png", "lambda.png", "gradient_plane.png"}
SPLITS = ("same", "shifted", "new", "style")
DEMO = ["--seeds", "1", "--first-seed", "5", "--shots", "1", "--epochs", "3", "--lambdas", "0.8", "0",
        "--size", "0.5", "--test-per-class", "2", "--images", "3"]
IMAGES = 2  # whose maps are measured


def strict_json(path):
    def refuse(word): raise AssertionError(f"{word} in {path.name} is not JSON")
    return json.loads(path.read_text(), parse_constant=refuse)


def assert_agree(out):
    "Summary, record and foreground table in a folder tell the same numbers"
    rows, steps, shares, record = (pd.read_csv(out / "summary.csv"), pd.read_parquet(out / "steps.parquet"),
                                   pd.read_parquet(out / "foreground.parquet"), strict_json(out / "summary.json"))
    assert list(steps.columns) == list(STEP_COLUMNS)
    trained = rows.dropna(subset="lam")
    assert len(trained) == len(steps.groupby(["seed", "lam"])) and set(rows["method"]) == set(record["summary"])
    for _, row in trained.iterrows():
        mine = steps[(steps["seed"] == row["seed"]) & (steps["lam"] == row["lam"])]
        for split in SPLITS: assert row[f"acc_{split}"] == pytest.approx(mine[f"acc_{split}"].iloc[-1])
        assert row["conflict"] == pytest.approx(mine["conflict"].mean())
        of_run = (shares["seed"] == row["seed"]) & (shares["lam"] == row["lam"])
        last = shares[of_run & (shares["step"] == mine["step"].max())]
        assert row["share_shifted_predicted_occlusion"] == pytest.approx(last["share"].mean())
        assert 0 < row["share_shifted_predicted_occlusion"] < 1
        assert 0 < row["share_same_predicted_occlusion"] < 1
    for prompt, measures in record["summary"].items():
        for measure, cell in measures.items():
            mean, half = mean_interval(rows.loc[rows["method"] == prompt, measure])
            for value, expected in ((cell["mean"], mean), (cell["half"], half)):
                assert (value is None and np.isnan(expected)) or value == pytest.approx(expected)
    return rows, record


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "Two seeds of a small sweep"
    return swept(tmp_path_factory.mktemp("small"),
                 {"seed": [3, 4], "shots": 2, "lam": [0, 0.5, 1], "classes": 5, "test_per_class": 4, "epochs": 4})


def swept(out, grid):
    "A sweep as the demo makes it"
    every = {"size": 0.5, "snapshot_every": 1, "evaluate_every": 1}
    maps = partial(on_the_object, images=IMAGES, explainers=[cli.demo_explainer()])
    return sweep(grid | every, out, evaluate={"maps": maps}, workers=1, progress=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    "What it did, called in a folder of its own, and what it printed"
    cwd = tmp_path_factory.mktemp("elsewhere")
    with contextlib.chdir(cwd), contextlib.redirect_stdout(io.StringIO()) as printed:
        prograd_demo([*DEMO, "--out", "here/there"])
    return cwd, printed.getvalue()


def test_the_demo_writes_tables_and_figures_where_it_was_told_and_nowhere_else(demo):
    cwd, printed = demo
    written = {p.relative_to(cwd).as_posix() for p in cwd.rglob("*") if p.is_file() and "runs" not in p.parts}
    assert written == {f"here/there/{name}" for name in TABLES | FIGURES}
    assert f"{len(written)} files in here/there/" in printed and all(name in printed for name in TABLES | FIGURES)


def test_the_demo_keeps_its_run_sets_and_goes_on_with_them(demo, monkeypatch, capsys):
    "What was complete is opened, not trained again; the same folder without --resume is refused"
    out = demo[0] / "here" / "there"
    tables, here = (out / "summary.csv").read_bytes(), [*DEMO, "--out", str(out)]
    kept = load_sweep(out / "runs").runs()
    assert [(runs.config["seed"], runs.lambdas) for runs in kept] == [(5, (0.0, 0.8))]
    monkeypatch.setattr(training.Training, "descend", None)
    # the same rows would be drawn again
    monkeypatch.setattr(cli, "_figures", lambda many, rows, looks: {})
    monkeypatch.setattr("prograd_viz.report.save_report", lambda runs, path, **options: path)
    prograd_demo([*here, "--resume"])
    assert (out / "summary.csv").read_bytes() == tables
    with pytest.raises(SystemExit) as e: prograd_demo(here)
    assert "runs' contains run sets; continue them with --resume" in e.value.code and "\n" not in e.value.code


def test_the_demos_figures_are_pictures(demo):
    for name in FIGURES:
        picture = np.asarray(Image.open(demo[0] / "here" / "there" / name).convert("L"))
        assert min(picture.shape) > 300 and picture.std() > 5, f"{name} is small or blank"


def test_the_demos_files_agree_with_each_other(demo):
    rows, record = assert_agree(demo[0] / "here" / "there")
    assert list(rows["method"]) == ["zero-shot CLIP", "CoOp", "ProGrad 0.8"] and set(rows["seed"]) == {5}
    assert {k: record["settings"][k] for k in ("seeds", "first_seed", "shots", "lambdas", "size", "rho",
                                               "epochs")} == {
        "seeds": 1, "first_seed": 5, "shots": 1, "lambdas": [0.8, 0.0], "size": 0.5, "rho": 1.0, "epochs": 3}
    assert record["config"]["epochs"] == 3 and record["config"]["lambdas"] == [0.0, 0.8]


def test_the_demo_prints_the_table_of_its_summary(demo):
    cwd, printed = demo
    rows = pd.read_csv(cwd / "here" / "there" / "summary.csv").set_index("method")
    for prompt, row in rows.iterrows():
        (line,) = [text for text in printed.splitlines() if text.startswith(f"{prompt} ")]
        shown = [float(x) for x in line.removeprefix(prompt).split()]
        columns = ["acc_same", "acc_shifted", "acc_new", "acc_style",
                   "share_same_predicted_occlusion", "share_shifted_predicted_occlusion"]
        assert shown[:6] == pytest.approx(row[columns].tolist(), abs=0.000501)


def test_files_of_several_seeds_agree_and_carry_intervals(small, clip, tmp_path, monkeypatch):
    # tests/browser/test_report.py draws the report of several seeds
    monkeypatch.setattr("prograd_viz.report.save_report", lambda runs, path, **options: path.write_text("") or path)
    paths = save_demo(small, clip, tmp_path / "new" / "folder", {"why": np.float64("nan")}, images=IMAGES)
    assert {p.name for p in paths} == TABLES | FIGURES == {p.name for p in (tmp_path / "new" / "folder").iterdir()}
    rows, record = assert_agree(tmp_path / "new" / "folder")
    assert len(rows) == 2 * 4
    assert record["settings"] == {"why": None}
    assert record["summary"]["CoOp"]["acc_same"]["half"] is not None
    wide = rows.pivot(index="seed", columns="method", values="acc_same")
    mean, half = mean_interval(wide["ProGrad"] - wide["CoOp"])
    assert record["differences"]["ProGrad"]["acc_same"] == {"mean": pytest.approx(mean), "half": pytest.approx(half),
                                                              "seeds": 2}


def test_each_seed_of_the_demo_is_a_training_of_its_own(small):
    first, second = small.runs()
    assert first.config["seed"] == 3 and second.config["seed"] == 4 and first.classes != second.classes
    assert not set(first.steps["batch_hash"]) & set(second.steps["batch_hash"])


@pytest.mark.parametrize("lambdas", ([1.0], [0.0]), ids=str)
def test_any_choice_of_lambdas_is_written(clip, tmp_path, lambdas, monkeypatch):
    # tests/browser/test_report.py draws the report of one lambda
    monkeypatch.setattr("prograd_viz.report.save_report", lambda runs, path, **options: path)
    result = swept(tmp_path / "runs", {"seed": 3, "shots": 1, "lam": lambdas, "classes": 3, "test_per_class": 1,
                                       "epochs": 3})
    save_demo(result, clip, tmp_path, {}, images=IMAGES)
    assert_agree(tmp_path)


@pytest.mark.parametrize("arguments, says", [
    (["--lambdas", "1.5"], "lambda must be between 0 and 1, got 1.5"), (["--lambdas", "nan"], "nan"),
    (["--seeds", "0"], "seeds must be at least 1, got 0"), (["--first-seed", "-1"], "got -1"),
    (["--shots", "0"], "shots must be at least 1, got 0"), (["--size", "7"], "size must be between 0.1 and 1.2, got 7"),
    (["--rho", "-0.5"], "rho must be between 0 and 1, got -0.5"),
    (["--epochs", "0"], "epochs must be at least 1, got 0"),
    (["--test-per-class", "0"], "test_per_class must be at least 1, got 0"),
    (["--images", "0"], "images must be at least 1, got 0"),
], ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_a_bad_setting_ends_the_demo_with_one_line_that_names_it(arguments, says, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("prograd_viz.clip.load_clip", lambda name: clip)
    with pytest.raises(SystemExit) as e: prograd_demo([*arguments, "--out", str(tmp_path / "out")])
    assert isinstance(e.value.code, str)
    assert e.value.code.startswith("prograd_demo: ")
    assert "\n" not in e.value.code
    assert says in e.value.code
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_ends_the_demo_with_one_line_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr("prograd_viz.sweep.train", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "taken").write_text("")
    with pytest.raises(SystemExit) as e: prograd_demo(["--out", str(tmp_path / "taken")])
    assert e.value.code == f"prograd_demo: --out {tmp_path / 'taken'} is a file; name a folder"


@pytest.mark.parametrize("arguments", (["--lambdas", "half"], ["--lambdas"], ["--seeds", "many"], ["--no-such-option"],
                                       ["--seed", "5"]),
                         ids=" ".join)
def test_an_argument_that_does_not_parse_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as e: prograd_demo(arguments)
    assert e.value.code == 2 and "prograd_demo: error:" in capsys.readouterr().err


def test_a_process_that_fails_says_one_line_and_exits_with_one(tmp_path):
    script = Path(sys.executable).parent / "prograd_demo"
    out = subprocess.run([script, "--lambdas", "2"], cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 1
    assert out.stdout == ""
    assert out.stderr == "prograd_demo: lambda must be between 0 and 1, got 2.0; 0 is CoOp, 1 projects fully\n"
    assert not list(tmp_path.iterdir())


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as e: prograd_demo(["--help"])
    printed = capsys.readouterr().out
    assert e.value.code == 0
    assert all(f"--{option}" in printed for option in ("seeds", "first-seed", "shots", "lambdas", "size", "rho",
                                                       "epochs", "test-per-class", "images", "out"))
    assert printed.count("default:") >= 9


def test_what_is_undecided_is_called_undecided(small):
    "A sentence names a winner only where the interval of the paired difference excludes zero"
    assert "undecided" in cli._sentence("same", 0.01, 0.02, 3)
    assert "undecided" in cli._sentence("same", 0.0, float("nan"), 1)
    assert "ProGrad is better" in cli._sentence("same", 0.03, 0.02, 3)
    assert "CoOp is better" in cli._sentence("same", -0.03, 0.02, 3)


def test_the_difference_of_several_seeds_is_prograd_minus_coop():
    "Seed by seed, in this order: positive where ProGrad is better"
    values = {("CoOp", 0.0): (0.2, 0.4), ("ProGrad", 1.0): (0.5, 0.8)}
    rows = [{"seed": seed, "method": m, "lam": lam, "acc_same": v[seed], "share_same_predicted": v[seed]}
            for (m, lam), v in values.items() for seed in (0, 1)]
    paired = summarise(pd.DataFrame(rows)).differences
    assert np.allclose(paired["mean"], 0.35)
    assert (paired["seeds"] == 2).all()
    assert set(paired["column"]) == {"acc_same", "share_same_predicted"}


def test_the_shares_of_a_seed_are_those_of_its_last_maps(small, clip):
    "By hand: the mean of `foreground` over the images of each split, at the last step"
    rows = small.results().query("seed == 3").set_index("method")
    (runs,) = small.runs(clip, seed=3)
    for split in ("same", "shifted"):
        rows_of = foreground(runs, split, images=IMAGES, explainer=cli.demo_explainer()).rows
        shares = rows_of.groupby("method")["share"].mean()
        for method in ("zero-shot CLIP", *runs.methods):
            share = rows.loc[method, f"share_{split}_predicted_occlusion"]
            assert share == pytest.approx(shares[method]), (method, split)
        chance = rows[f"share_{split}_random_occlusion"]
        assert chance.tolist() == pytest.approx([shares["random directions"]] * len(rows))


def test_ctrl_c_in_the_demo_says_how_to_go_on(monkeypatch, tmp_path):
    def interrupted(*args): raise KeyboardInterrupt
    monkeypatch.setattr(cli, "_trained", interrupted)
    with pytest.raises(SystemExit, match="continue with --resume"): prograd_demo(["--out", str(tmp_path)])
