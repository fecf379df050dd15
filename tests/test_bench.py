"The benchmark runs, and its class names are what it says they are. Nothing here looks at a time."
import sys
from pathlib import Path
from statistics import mean

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch

import bench

ROOT = Path(__file__).resolve().parent.parent


def test_the_class_names_are_a_thousand_distinct_ones_of_two_to_four_words():
    names = (ROOT / "tools" / "bench_names.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) == len(set(names)) == 1000
    assert all(2 <= len(name.split(" ")) <= 4 and name == name.strip().lower() for name in names)


@pytest.mark.parametrize("first", [37, 100, 1000])
def test_the_class_names_are_as_long_as_real_ones(first):
    "Own tokens with the full stop and the end token: at least 5 on average, at least 9 at most in all"
    names = (ROOT / "tools" / "bench_names.txt").read_text(encoding="utf-8").splitlines()
    encode = open_clip.get_tokenizer("RN50").encode
    own = [len(encode(f"{name}.")) + 1 for name in names]
    assert mean(own[:first]) >= 5 and max(own) >= 9


def test_a_quick_benchmark_fills_every_table_with_finite_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", "--quick", "--threads", "1", "--out", str(tmp_path)])
    with torch.random.fork_rng(): assert not bench.main()
    bars, ladder, growth, rates = (pd.read_csv(tmp_path / f"cpu_{name}.csv")
                                   for name in ("bars", "ladder", "growth", "rates"))
    assert len(bars) >= 15
    assert {"peers", "ours", "value", "bar", "reached", "machine", "cores", "threads", "torch"} <= set(bars)
    for numbers in (bars["value"], ladder[["seconds", "ratio"]], growth["seconds"], rates["gflops"]):
        assert np.isfinite(numbers.to_numpy(float)).all()
    assert set(growth["kind"]) == {"classes", "runs", "images"}
    exact = bars[bars["what"].str.contains("error|displacement|before resizing")]
    assert len(exact) == 4 and exact["reached"].all(), exact[["what", "value"]]  # these hold at any size and speed
    recorded = bars[bars["what"].str.startswith("a record of 100 steps")]
    assert recorded["what"].str.extract(r"in (memory|a folder)")[0].tolist() == ["memory", "a folder"]
    assert (recorded["value"] - (recorded["ours"] / recorded["peers"] - 1)).abs().max() < 1e-4
    assert pd.read_csv(tmp_path / "cpu_recorder.csv")["what"].tolist() == recorded["what"].tolist()
    assert (tmp_path / "cpu.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "machine" in printed and "| what | peers, s | ours, s | value |" in printed
