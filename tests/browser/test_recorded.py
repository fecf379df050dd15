"""The published trainers with the lines of the tutorial on one's own loop, and their records opened in a browser: what
is shown is what they computed, and what they did not record is absent with a reason."""
import numpy as np
import pytest
import torch
from pages import assert_shows, number, put
from PIL import Image
from safetensors.torch import save_file

import lab
from prograd_viz.clip import load_clip
from prograd_viz.prompts import teacher_features
from prograd_viz.runs import Recorder, load_runs
from prograd_viz.screen import explorer_data
from prograd_viz.tasks import few_shot
from prograd_viz.training import epoch_batches
from published import PromptLearner, TextTower, train_published
from test_published import small_model

NAMES, STEPS, BATCH = ("tabby cat", "sunflower", "steam locomotive", "kite", "golden retriever"), 30, 4
NAME = "small-ViT-B-32"
SETUP = f"""import prograd_viz.torchvision_ops, open_clip
open_clip.add_model_config("{NAME}.json")
from prograd_viz.all import *
clip, task = load_clip("{NAME}", "weights.safetensors"), few_shot("photos", shots=4, seed=1)"""
CELLS = [f'explore(load_runs("{name}", clip, task), images=4)' for name in ("prograd", "coop")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Photos in a folder per class, and a small random model in the layout of ViT-B/32, with its QuickGELU"
    folder, rng = tmp_path_factory.mktemp("published"), np.random.default_rng(0)
    for name in NAMES:
        colour, place = rng.integers(0, 256, 3), folder / "photos" / name
        place.mkdir(parents=True)
        for n in range(6):
            coarse = (colour + rng.integers(0, 256, (8, 8, 3))) // 2
            Image.fromarray(coarse.astype(np.uint8).repeat(8, 0).repeat(8, 1)).save(place / f"{n}.png")
    save_file(small_model("ViT-B-32", folder)[0].model.state_dict(), folder / "weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def clip(folder): return load_clip(NAME, folder / "weights.safetensors")


@pytest.fixture(scope="module")
def task(folder): return few_shot(folder / "photos", shots=4, seed=1)


@pytest.fixture(scope="module")
def computed(folder, clip, task):
    "What the trainers computed: method -> losses and cosine of every step, [S, 3]; their records are in the folder"
    state, labels = clip.model.state_dict(), torch.as_tensor(task.train.labels)
    start = 0.02 * torch.randn(4, 128, generator=torch.Generator().manual_seed(1))
    learner = PromptLearner(state, clip.tokenizer, task.classes, 4, start=start)
    batches, found = lambda epoch: epoch_batches(len(labels), BATCH, 3, epoch), {}
    both = Recorder(task.classes, "ProGrad", lambdas=[1.0], seed=3, zero_shot=teacher_features(clip, task.classes),
                    out=folder / "prograd")
    alone = Recorder(task.classes, "CoOp", seed=3, out=folder / "coop")

    def of_prograd(step, ce, kl, g_d, g_g, context, text):
        both.log(step, loss_ce=ce, loss_kl=kl, g_d=g_d, g_g=g_g, context=context, text_features=text)

    def of_coop(step, ce, kl, g_d, g_g, context, text):
        alone.log(step, loss_ce=ce, g_d=g_d, context=context, text_features=text)

    for record, lam, seen in ((both, 1.0, of_prograd), (alone, 0.0, of_coop)):
        path, found[record.methods[0]] = train_published(
            state, clip.tokenizer, task.classes, task.train.features(clip), labels, batches, lam, 4, task.template,
            start, STEPS * BATCH // len(labels), seen)
        text = TextTower(state).encode(learner.prompts(path[-1]), learner.tokens)
        record.end(context=path[-1], text_features=text)
        record.close()
    return found


@pytest.fixture(scope="module")
def page(folder, computed, browser):
    "JupyterLab with both records open"
    lab.notebook(folder / "e.ipynb", [SETUP, *CELLS])
    with lab.jupyterlab(folder) as (address, token):
        page = lab.watched(browser, 1280, 1000)
        lab.open_notebook(page, address, token, "e.ipynb")
        lab.command(page, "notebook:run-all-cells")
        for root in (page.locator(".pv-root").nth(n) for n in range(len(CELLS))):
            root.locator(".pv-thumbs button").nth(3).wait_for(timeout=120_000)
        yield page


def opened(folder, name, clip, task):
    runs = load_runs(folder / name, clip, task)
    return runs, explorer_data(runs, images=4)


def columns(root, *names):
    "Columns of the record as the page has them, [S, columns]"
    code = "(root, name) => [...root.explorer.training().column(name, 0)]"
    return np.array([root.evaluate(code, name) for name in names], np.float32).T


def panel(root, name): return root.locator(f"section[aria-label='{name}']")


def test_prograds_losses_cosines_and_maps_are_those_of_its_trainer(page, folder, computed, clip, task):
    root, (runs, data) = page.locator(".pv-root").first, opened(folder, "prograd", clip, task)
    shown = columns(root, "loss_ce", "loss_kl", "cos")
    assert len(shown) == STEPS
    assert np.array_equal(shown, runs.steps[["loss_ce", "loss_kl", "cos"]].to_numpy(np.float32))
    np.testing.assert_allclose(shown, computed["ProGrad"], atol=1e-6)
    conflicts = (computed["ProGrad"][:, 2] < 0).float().mean().item()
    assert 0 < conflicts < 1
    assert f"ProGrad: {conflicts:.0%} of steps in conflict" in panel(root, "Cosine of G_d and G_g").inner_text()
    for step in (1, 2, 11, 17, 30):
        put(root, step=step)
        assert_shows(root, runs, data, step=step)
        cos, = computed["ProGrad"][step - 1, 2:].tolist()
        sign = "−" if cos < 0 else "+"
        assert root.locator(".pv-where").inner_text().endswith(f"cos {sign}{number(abs(cos), 2)}")


def test_digits_beside_the_pointer_are_the_records(page, folder, computed, clip, task):
    root, record = page.locator(".pv-root").first, load_runs(folder / "prograd").steps.set_index("step")
    chart = root.get_by_role("img", name="Cosine of the two gradients over the steps", exact=True)
    box = chart.bounding_box()
    for part in (0.2, 0.5, 0.9):
        page.mouse.move(box["x"] + part * box["width"], box["y"] + 40)
        said = root.locator(".pv-tip:visible").inner_text()
        step = int(said.split(":")[0].removeprefix("step "))
        cos = record["cos"][step]
        assert said == f"step {step}: ProGrad {'−' if cos < 0 else '+'}{number(abs(cos), 2)}"


def test_what_prograds_trainer_did_not_record_is_said_to_be_missing(page):
    root = page.locator(".pv-root").first
    assert not panel(root, "Accuracy").count()
    assert root.locator(".pv-absent").inner_text() == "Not shown: accuracy, which was recorded on no test set."


def test_coops_one_gradient_has_its_loss_and_maps_and_no_angle(page, folder, computed, clip, task):
    root, (runs, data) = page.locator(".pv-root").nth(1), opened(folder, "coop", clip, task)
    shown = columns(root, "loss_ce", "norm_gd", "cos", "conflict", "agree", "loss_kl")
    assert np.array_equal(shown[:, :2], runs.steps[["loss_ce", "norm_gd"]].to_numpy(np.float32))
    np.testing.assert_allclose(shown[:, 0], computed["CoOp"][:, 0], atol=1e-6)
    assert np.isnan(shown[:, 2:]).all()
    put(root, step=17)
    assert_shows(root, runs, data, step=17)
    assert "cos" not in root.locator(".pv-where").inner_text()
    cosine = panel(root, "Cosine of G_d and G_g").inner_text()
    assert "not recorded" in cosine and "CoOp: no cosine recorded" in cosine and "%" not in cosine
    assert "no angle: one gradient alone" in panel(root, "Gradient plane").inner_text()
    absent = "accuracy, which was recorded on no test set; the cosine per context vector, which was recorded at no step"
    assert root.locator(".pv-absent").inner_text() == f"Not shown: {absent}."
    root.get_by_text("Step 17, CoOp: no cosine was recorded.").wait_for(state="attached")


def test_nothing_went_wrong_in_the_page(page):
    assert [line for line in page.wrong if "404" not in line] == []
