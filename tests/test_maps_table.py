"""The command that compares explainers: computes a seed once, and says what its rows say."""
import itertools

import numpy as np
import pandas as pd
import pytest

import maps_table
from prograd_viz.maps import RANDOM

EXPLAINERS = ("GradCAM", "Occlusion")


def rows_of(seed):
    "A seed of rows in which ProGrad's maps of Occlusion on *shifted* lie on the object more than CoOp's, by 0.2"
    draw = np.random.default_rng(seed)
    methods = {"zero-shot CLIP": np.nan, "CoOp": 0.0, "ProGrad": 1.0, RANDOM: np.nan}
    keys = itertools.product(methods.items(), ("same", "shifted"), ("predicted", "true"), EXPLAINERS, range(4))
    rows = []
    for (method, lam), split, target, explainer, image in keys:
        more = 0.2 * (method == "ProGrad" and explainer == "Occlusion" and split == "shifted")
        rows.append({"method": method, "lam": lam, "seed": seed, "step": 9, "split": split, "target": target,
                     "explainer": explainer, "image": image, "share": 0.3 + more + draw.normal(0, 0.01), "area": 0.1,
                     "deletion": 0.2, "insertion": 0.6, "drop": draw.normal(), "kind": "faithful"})
    weights = [row | {"stage": 1, "shuffled": 1.0, "correlation": 0.25, "kind": "weights"} for row in rows]
    stable = {"kind": "stability", "explainer": "two of them", "correlation": 0.5, "other_share": 0.4, "share": 0.3}
    return pd.DataFrame([*rows, *weights, *(row | stable for row in rows[:4])])


@pytest.fixture
def made(tmp_path, monkeypatch):
    "The folder of results after all seeds, and how often a seed was computed"
    calls = []
    monkeypatch.setattr(maps_table, "OUT", tmp_path / "figures")
    monkeypatch.setattr(maps_table, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(maps_table, "rows_of", lambda seed: calls.append(seed) or rows_of(seed))
    monkeypatch.setattr("sys.argv", ["maps_table.py"])
    maps_table.main()
    return tmp_path, calls


def test_a_finished_seed_is_not_computed_again(made):
    folder, calls = made
    assert calls == [3000, 3001, 3002, 3003]
    (folder / "kept" / "seed-3001.parquet").unlink()
    before = (folder / "figures" / "maps.md").read_text()
    maps_table.main()
    assert calls[4:] == [3001] and (folder / "figures" / "maps.md").read_text() == before


def test_the_report_says_what_the_rows_say(made):
    text = (made[0] / "figures" / "maps.md").read_text()
    assert "4 seeds (3000 to 3003)" in text and "0.100 on *same* and 0.100 on *shifted*" in text
    assert "ProGrad minus CoOp on *shifted*: higher in 2, lower in 0, undecided in 2 of 4 pairs" in text
    row = next(line for line in text.splitlines() if line.startswith("| shifted | predicted | Occlusion |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    values = [float(cell.split()[0]) for cell in cells[3:7]]
    assert np.allclose(values, [0.3, 0.3, 0.5, 0.3], atol=0.02)
    assert cells[-1].startswith(("**+0.20", "**+0.19")) and "**" not in cells[-2]
    assert "| two of them | 0.50 | 0.100 |" in text and "| GradCAM | 0.600 / 0.600 | 0.200 / 0.200 | +0.000" in text
    assert "| 0.25 |" in text
    assert (made[0] / "figures" / "maps.png").stat().st_size > 10_000


def test_a_prepared_explainer_is_prepared_once_per_model_and_images(clip, task):
    import torch

    from prograd_viz.faithful import tower_blocks, with_shuffled_weights
    from prograd_viz.maps import Occlusion, cam_maps
    images, text = task.train.tensor(clip, [0, 1]), clip.encode_text(["a photo of a dog.", "a photo of a cat."])
    once = maps_table.Once(Occlusion(patch=28, stride=28), clip)
    first = cam_maps(clip, images, text, explainer=once)
    assert len(once.known) == 1 and torch.equal(first, cam_maps(clip, images, text, explainer=once))
    assert torch.equal(first, cam_maps(clip, images, text, explainer=once.of)) and once.name == once.of.name
    other = with_shuffled_weights(clip, tower_blocks(clip)[0])
    assert torch.equal(cam_maps(other, images, text, explainer=once), cam_maps(other, images, text, explainer=once.of))
    cam_maps(clip, images[:1], text, explainer=once)
    assert len(once.known) == 2
