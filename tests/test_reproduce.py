"One command on real data, rehearsed on a fake of the real layout with a small random model."
import json
from functools import partial
from unittest import mock

import pandas as pd
import pytest
import torch

from fakes import ANNOTATIONS, FAKES
from prograd_viz.datasets import dataset_split
from prograd_viz.landscape import landscape
from prograd_viz.sweep import load_sweep

OPTIONS = ["--pretrained", "random", "--shots", "1", "2", "--seeds", "1", "--epochs", "12", "--images", "3"]


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    "The folder of a first run, and a function that runs the same command again"
    import open_clip

    import reproduce
    root = tmp_path_factory.mktemp("real")
    FAKES["oxford_pets"](root)
    images = [*dataset_split("oxford_pets", root).images, *dataset_split("oxford_pets", root, part="train").images]
    ANNOTATIONS["oxford_pets"]([(image, 0, "") for image in images], root)
    config = open_clip.get_model_config("ViT-B-32")
    config["vision_cfg"] |= {"layers": 2, "width": 128, "image_size": 64}
    config["text_cfg"] |= {"width": 128, "heads": 2, "layers": 2}
    path = root / "rehearsal-vit.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    out = root / "out"

    def run(*more):
        "One call: the weights are random, the same at each; a coarse landscape"
        with torch.random.fork_rng(), mock.patch.object(reproduce, "landscape", partial(landscape, size=9)):
            torch.manual_seed(0)
            reproduce.main(["--data", "oxford_pets", "--root", str(root), "--model", "rehearsal-vit", "--out", str(out),
                            *OPTIONS, *more])
    run()
    return out, run


def test_it_writes_the_table_the_shares_the_landscape_and_the_report(rehearsed):
    out, _ = rehearsed
    table = pd.read_csv(out / "results.csv")
    counts = table.groupby(["method", "init"]).size().to_dict()
    assert counts == {("CoOp", "random"): 2, ("CoOp", "template"): 2, ("ProGrad", "template"): 2,
                      ("zero-shot CLIP", "template"): 2}
    assert set(table["epochs"]) == {12} and set(table["model"]) == {"rehearsal-vit"}
    shares = pd.read_csv(out / "foreground.csv")
    assert set(shares["explainer"]) == {"GradCAM", "Occlusion"} and set(shares["method"]) > {"CoOp", "ProGrad"}
    assert (out / "landscape.pdf").read_bytes()[:4] == b"%PDF"
    assert "ProGrad" in (out / "report.html").read_text(encoding="utf-8")
    page = (out / "README.md").read_text(encoding="utf-8")
    assert (out / "table.md").read_text(encoding="utf-8").strip() in page
    for said in ("12 epochs instead of", "Weights 'random'", "Seeds [1]", "half precision", "init random"):
        assert said in page, said


def test_it_says_how_long_it_takes_before_it_starts(rehearsed, capsys):
    _, run = rehearsed
    run("--time")
    said = capsys.readouterr().out
    assert said.startswith("4 trainings of oxford_pets with rehearsal-vit: about ")
    assert said.count("\n") == 1 and "the same command resumes after a stop" in said


def test_a_second_call_trains_nothing_again(rehearsed):
    out, run = rehearsed
    folders = [out / "from the template", out / "from a random start"]
    seconds = [load_sweep(folder).table["seconds"].tolist() for folder in folders]
    before = (out / "results.csv").read_bytes()
    with mock.patch("reproduce.looked_at", return_value=""): run()
    assert [load_sweep(folder).table["seconds"].tolist() for folder in folders] == seconds
    assert (out / "results.csv").read_bytes() == before
