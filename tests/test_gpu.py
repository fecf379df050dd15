"""What a GPU must do: arrive where a CPU does, never wait within a step, continue, and draw the same maps."""
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from prograd_viz.clip import load_clip
from prograd_viz.gradients import prompt_gradients
from prograd_viz.maps import EXPLAINERS, RISE
from prograd_viz.prompts import make_prompts
from prograd_viz.runs import Cancel
from prograd_viz.tasks import few_shot
from prograd_viz.training import Recipe, Replayed, Training, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
ANY = ["GradCAM", "HiResCAM", "Occlusion", "RISE"]
OPERATORS = {"pocket": ANY, "RN50": [*ANY, "MaskCLIP", "GradECLIP"], "ViT-B-32": [*ANY, "MaskCLIP", "GradECLIP"]}
CLASSES = ["dog", "bus", "eye", "key", "cup", "bed"]


@pytest.fixture(autouse=True)
def full_precision():
    "float32 as a CPU computes it: TF32, which torch allows for convolutions, has 10 bits"
    convolution, product = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolution.allow_tf32, product.allow_tf32
    convolution.allow_tf32 = product.allow_tf32 = False
    yield
    convolution.allow_tf32, product.allow_tf32 = before


@pytest.fixture(scope="module")
def task(): return few_shot("pocket", shots=4, seed=1, classes=CLASSES, test_per_class=5)


def training(task, rule="prograd", lambdas=(0.0, 1.0), **recipe):
    recipe = Recipe(**{"rule": rule, "views": 2, "epochs": 40, "evaluate_every": 1000} | recipe)
    return Training(load_clip("pocket", device="cuda"), task, lambdas, recipe.checked(task), rule)


def relative(a, b): return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("init", ["template", "random"])
def test_thirty_steps_arrive_where_a_cpus_do(task, init):
    options = {"lambdas": [0, 0.5, 1], "init": init, "epochs": 30, "lr": 0.02, "progress": False}
    here, there = (train(load_clip("pocket", device=device), task, **options) for device in ("cuda", "cpu"))
    for lam in range(3):
        a, b = (torch.from_numpy(runs.contexts[-1][lam] - runs.contexts[0][lam]) for runs in (here, there))
        assert relative(a, b) <= 1e-4, lam


@pytest.mark.parametrize("model, classes, n_ctx", [("pocket", 6, 4), ("ViT-B-32", 37, 4), ("RN50", 100, 16)])
def test_a_replayed_step_is_the_step(model, classes, n_ctx):
    clip = load_clip(model, None if model == "pocket" else "random", device="cuda")
    names = CLASSES if model == "pocket" else [f"thing {n}" for n in range(classes)]
    prompts = make_prompts(clip, names, n_ctx=n_ctx, init="random")
    draw = torch.Generator("cuda").manual_seed(0)
    images = torch.randn(8, clip.text_tower.text_projection.shape[1], device="cuda", generator=draw)
    images, labels = F.normalize(images, dim=-1), torch.arange(8, device="cuda") % len(names)
    teacher = torch.randn(8, len(names), device="cuda", generator=draw)
    replayed = Replayed(partial(prompt_gradients, prompts))
    for n in range(3):
        context = torch.stack([prompts.start, prompts.start + 0.01 * n])
        ours, plain = replayed(context, images, labels, teacher), prompt_gradients(
            prompts, context, images, labels, teacher)
        assert replayed.graph is not None
        for name in ("loss_ce", "loss_kl", "g_d", "g_g", "text"):
            assert relative(getattr(ours, name), getattr(plain, name)) <= 1e-5, (name, n)


@pytest.mark.parametrize("rule", ["prograd", "coop", "pcgrad", "agem", "kgcoop"])
def test_no_step_waits_for_the_gpu(task, rule):
    "CUDA's debug mode makes every wait an error"
    lambdas = (0.0,) if rule == "coop" else (0.0, 1.0)
    ours = training(task, rule, lambdas)
    record, batches = ours.recorder(), ours.batches()

    def step():
        batch = next(batches)
        grads = ours.gradients(ours.context, batch.images, batch.labels, batch.teacher_logits)
        direction = ours.steer(grads.g_d, grads.g_g, ours.context.detach().clone())
        record.log(batch.step, epoch=batch.epoch, lr=batch.lr, batch_hash=batch.hash, loss_ce=grads.loss_ce,
                   loss_kl=grads.loss_kl, g_d=grads.g_d, g_g=grads.g_g, g=direction, context=ours.context,
                   text_features=grads.text, accuracies=ours.accuracies(grads.text), state=ours.state)
        ours.descend(direction, batch)

    for _ in range(2): step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5): step()
        with pytest.raises(RuntimeError, match="synchroniz"): ours.context.sum().item()
    finally: torch.cuda.set_sync_debug_mode("default")
    assert record.runs().steps["step"].max() == 7


def test_an_interrupted_training_continues(task, tmp_path):
    clip = load_clip("pocket", device="cuda")
    options = {"lambdas": [0, 1], "epochs": 20, "views": 2, "progress": False}

    def stop(step, record):
        if step == 11: raise Cancel

    whole = train(clip, task, **options)
    assert train(clip, task, **options, out=tmp_path / "runs", callbacks=[stop]).interrupted
    again = train(clip, task, **options, out=tmp_path / "runs", resume=True)
    timeless = lambda runs: runs.steps.drop(columns="seconds")
    pd.testing.assert_frame_equal(timeless(again), timeless(whole), check_exact=True)
    assert torch.equal(torch.tensor(again.contexts[-1]), torch.tensor(whole.contexts[-1]))


def test_half_precision_keeps_its_stated_error():
    "bfloat16 on float32 weights: a few percent of each gradient"
    names = [f"thing {n}" for n in range(100)]
    found = []
    for precision in ("fp32", "amp_bf16"):
        torch.manual_seed(0)
        clip = load_clip("RN50", "random", device="cuda", precision=precision)
        prompts = make_prompts(clip, names, n_ctx=16, init="random")
        draw = torch.Generator().manual_seed(1)
        images = F.normalize(torch.randn(32, 1024, generator=draw), dim=-1).cuda()
        teacher = clip.logit_scale * images @ F.normalize(torch.randn(1024, 100, generator=draw),
                                                                            dim=0).cuda()
        found.append(prompt_gradients(prompts, prompts.start[None], images, torch.arange(32).cuda(), teacher))
    assert 0 < relative(found[1].g_d, found[0].g_d) < 0.05 and 0 < relative(found[1].g_g, found[0].g_g) < 0.05


@pytest.mark.parametrize("model", ["pocket", "RN50", "ViT-B-32"])
def test_maps_are_those_of_a_cpu(model):
    torch.manual_seed(0)
    clips = [load_clip(model, None if model == "pocket" else "random", device="cpu")]
    clips.append(replace(clips[0], model=deepcopy(clips[0].model).cuda()))
    draw = torch.Generator().manual_seed(2)
    image = torch.randn(1, 3, *clips[0].image_shape, generator=draw)
    directions = F.normalize(torch.randn(4, clips[0].encode_image(image).shape[1], generator=draw), dim=-1)
    for name in OPERATORS[model]:
        explainer = RISE(number=40) if name == "RISE" else EXPLAINERS[name]
        cpu, gpu = (explainer.prepare(clip, image.to(clip.device)).maps(directions.to(clip.device)).cpu()
                    for clip in clips)
        rounding = 2e-7 if name in ("Occlusion", "RISE") else 0  # differences of cosines, which float32 rounds
        assert (cpu - gpu).abs().max() <= 1e-4 * cpu.abs().max() + rounding, name
