"""Time the published trainers' step and the library's side by side, each speed-up alone and as the work grows.

    python tools/bench.py                    # ten minutes on two idle cores; writes figures/bench/
    python tools/bench.py --quick            # the same code on the pocket model in seconds; its times mean nothing
    python tools/bench.py --only recorder    # the cost of a record, some minutes; writes cpu_recorder.csv
    python tools/bench.py --only landscape   # two landscapes, two minutes; writes cpu_landscape.csv
    python tools/bench.py --only maps        # maps of one image by each operator, some minutes; writes cpu_maps.csv
    python tools/bench.py --only whole       # a whole run on real sizes, scaled from ten steps; writes cpu_whole.csv
    python tools/bench.py --only startup     # imports and --help of the scripts, a minute; writes cpu_startup.csv
    python tools/bench.py --only profile     # where a step's time goes and its limit, a minute; writes cpu_profile.csv

Weights are random, so nothing is downloaded. Compared functions take turns in one process; a time is the median of
its turns.
"""
import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from statistics import median

import matplotlib
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from prograd_viz.cam import PACKAGE, cam_operator, find_layer, package_maps
from prograd_viz.clip import ASSETS, load_clip
from prograd_viz.gradients import project, prompt_gradients
from prograd_viz.landscape import landscape
from prograd_viz.maps import EXPLAINERS, RISE, explainer_table
from prograd_viz.prompts import make_prompts, plain_text_features, text_features
from prograd_viz.tasks import few_shot
from prograd_viz.training import Recipe, Training, train

ROOT = Path(__file__).resolve().parent.parent
NAMES = (ROOT / "tools" / "bench_names.txt").read_text(encoding="utf-8").splitlines()
MEMORY_GB = Recipe.memory_gb
PEERS, OURS, OTHER, INK = "#E69F00", "#009E73", "#CC79A7", "#555555"


# -- what is measured on ------------------------------------------------------

@dataclass
class Size:
    "Models and amounts of work"
    resnet: str = "RN50"
    vit: str = "ViT-B-32"
    text_classes: int = 100
    few_classes: int = 37
    growth: tuple = (10, 37, 100, 300, 1000)
    runs: tuple = (1, 2, 4, 8, 16)
    images: tuple = (1, 4, 16, 64)
    steps: int = 50
    rounds: int = 3
    maps: tuple = (5, 50, 10)  # lambdas, steps, classes
    logged: int = 10_000  # steps of a record
    grids: tuple = (41, 31)  # contexts along a side of a landscape: of the pocket model's, of RN50's
    masks: int = 1000  # of RISE


QUICK = Size("pocket", "pocket", 12, 8, (4, 8, 12), (1, 2, 4), (1, 2), 2, 1, (2, 3, 4), 100, (5, 4), 4)


class Setting:
    "A random model with C classes and M context vectors, and a batch that makes both gradients large"
    def __init__(self, model, classes, m, runs=1, batch=32, precision="fp32", device="cpu", clip=None):
        torch.manual_seed(0)
        self.clip = clip or load_clip(model, "random", device=device, precision=precision)
        self.prompts = make_prompts(self.clip, NAMES[:classes], n_ctx=m, init="random")
        frame = make_prompts(self.clip, NAMES[:classes])  # the teacher's "a photo of a {}."
        with torch.no_grad(): self.teacher = text_features(frame, frame.start[None])[0]
        draw = torch.Generator().manual_seed(1)
        like = {"device": self.clip.device, "dtype": self.clip.dtype}
        self.pixels = torch.randn(batch, 3, self.clip.image_size, self.clip.image_size, generator=draw).to(**like)
        self.images = F.normalize(torch.randn(batch, self.teacher.shape[1], generator=draw), dim=-1).to(**like)
        self.labels = torch.randint(classes, (batch,), generator=draw).to(self.clip.device)
        lambdas = torch.linspace(0, 1, runs) if runs > 1 else torch.ones(1)
        self.lambdas = lambdas.to(self.clip.device)
        self.context = torch.nn.Parameter(self.prompts.start.repeat(runs, 1, 1))
        self.optimiser = torch.optim.SGD([self.context], lr=0.002, momentum=0.9, weight_decay=5e-4)
        self.teacher_logits = self.clip.logit_scale * self.images @ self.teacher.to(self.images).T

    def encode(self):
        "Image features of the batch, as a trainer without a cache computes them"
        return F.normalize(self.clip.model.encode_image(self.pixels), dim=-1)

    def gradients(self, **kwargs):
        return prompt_gradients(self.prompts, self.context, self.images, self.labels, self.teacher_logits, **kwargs)

    def step(self):
        grads = self.gradients(memory_gb=MEMORY_GB)
        self.context.grad = project(grads.g_d, grads.g_g, self.lambdas).g
        self.optimiser.step()


# -- the published trainers' way ----------------------------------------------

def peers_text(prompts, context, length=None):
    "Every class alone, all its tokens, padding included, through the model's own transformer; context [M, D]"
    tower, tokens = prompts.clip.text_tower, prompts.tokens[:, :length]
    x, m = prompts.clip.token_embedding(tokens), prompts.n_ctx
    x = torch.cat([x[:, :1], context.expand(len(x), -1, -1), x[:, 1 + m:]], 1) + tower.positional_embedding[:x.shape[1]]
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:x.shape[1], :x.shape[1]]))
    return F.normalize(x[torch.arange(len(x)), tokens.argmax(-1)] @ tower.text_projection, dim=-1)


def cut_text(prompts, context): return peers_text(prompts, context, int(prompts.tokens.argmax(-1).max()) + 1)


def peers_step(setting, context, optimiser, text=peers_text, images=None, lam=1.0):
    "A step of the authors' trainer: one forward pass, two backward passes, projection, SGD; context [M, D]"
    clip, encode = setting.clip, lambda: setting.encode() if images is None else images
    logits = clip.logit_scale * encode() @ text(setting.prompts, context).T
    with torch.no_grad(): teacher = (clip.logit_scale * encode() @ setting.teacher.to(logits).T).softmax(-1)
    loss_ce, loss_kl = F.cross_entropy(logits, setting.labels), -(teacher * logits.log_softmax(-1)).sum(1).mean()
    optimiser.zero_grad()
    loss_kl.backward(retain_graph=True)
    unit = F.normalize(context.grad.flatten(), dim=0)
    optimiser.zero_grad()
    loss_ce.backward()
    along = context.grad.flatten() @ unit
    if along < 0: context.grad -= lam * along * unit.view_as(context)
    optimiser.step()


def peers_way(setting, text=peers_text, images=None, lam=1.0, start=None):
    "The peers' step as a function without arguments, with a context and an optimiser of its own"
    context = torch.nn.Parameter((setting.prompts.start if start is None else start).clone())
    optimiser = torch.optim.SGD([context], lr=0.002, momentum=0.9, weight_decay=5e-4)
    way = partial(peers_step, setting, context, optimiser, text, images, lam)
    way.context = context
    return way


# -- measuring ----------------------------------------------------------------

def seconds(f):
    "Seconds of one call"
    sync = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    sync()
    start = time.perf_counter()
    f()
    sync()
    return time.perf_counter() - start


def beside(rounds, *ways):
    "Median seconds of each way, all taking turns; a turn is up to five calls within a second, one if it is the only"
    times = [[] for _ in ways]
    for _ in range(rounds):
        for way, found in zip(ways, times):
            turn = [seconds(way)]
            while rounds > 1 and sum(turn) < 1 and len(turn) < 5: turn.append(seconds(way))
            found += turn
    return [median(found) for found in times]


def gflop(f):
    "Arithmetic of the matrix products in one call, GFLOP"
    with FlopCounterMode(display=False) as counter: f()
    return counter.get_total_flops() / 1e9


def relative(a, b): return ((a - b).norm() / b.norm()).item()


def machine(device):
    "What the numbers were measured on"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    return {"machine": torch.cuda.get_device_name() if device == "cuda" else cpu, "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version()}


class Bench:
    "Everything measured so far"
    def __init__(self, size, device):
        self.size, self.device, self.bars, self.ladder, self.growth, self.rates = size, device, [], [], [], {}

    def bar(self, what, value, unit, at_least=None, at_most=None, peers=None, ours=None, note=""):
        "A row of the table: a value beside its bar, with both times where it is a ratio of times"
        bar, reached = "", None
        if at_least is not None: bar, reached = f">= {at_least:g}", bool(value >= at_least)
        elif at_most is not None: bar, reached = f"<= {at_most:g}", bool(value <= at_most)
        self.bars.append({"what": what, "peers": peers, "ours": ours, "value": value, "unit": unit, "bar": bar,
                          "reached": reached, "note": note})
        print(f"  {what}: {value:.3g} {unit} {'(' + bar + ')' if bar else ''}", flush=True)

    def grow(self, kind, series, n, value):
        self.growth.append({"kind": kind, "series": series, "n": n, "seconds": value})

    def climb(self, what, rungs, per=None):
        "Time each rung of a ladder; `per` divides the time of the last one"
        times = beside(self.size.rounds, *rungs.values())
        if per: times[-1] /= per
        self.ladder += [{"what": what, "rung": rung, "seconds": t, "ratio": times[0] / t} for rung,
                        t in zip(rungs, times)]
        return times


# -- the comparisons ----------------------------------------------------------

def matrix_rates(bench):
    "GFLOP/s of this machine's products, float32 and bfloat16"
    n = 2048 if bench.size.rounds > 1 else 256
    a = torch.randn(n, n, device=bench.device)
    half, ways = a.bfloat16(), {"float32 product": lambda: a @ a}
    ways["bfloat16 product"] = lambda: half @ half
    for name, t in zip(ways, beside(5, *ways.values())): bench.rates[name] = 2 * n**3 / t / 1e9


def text_ladder(bench, what, model, classes, m, at_least):
    "The text step, each speed-up switched on after the other"
    s = Setting(model, classes, m, device=bench.device)
    rungs = {
        "peers: 77 tokens, two backward passes": peers_way(s, images=s.images),
        "+ padding cut": peers_way(s, cut_text, s.images),
        "+ prefix shared, classes packed, only end tokens last": s.step,
    }
    times = bench.climb(what, rungs)
    theirs, *_, ours = map(gflop, rungs.values())
    note = f"{theirs:.0f} GFLOP against {ours:.0f}: {theirs / ours:.1f} times the arithmetic"
    bench.bar(what, times[0] / times[-1], "x", at_least=at_least, peers=times[0], ours=times[-1], note=note)
    return s, times[-1]


def whole_ladder(bench):
    "The whole step, images included"
    size, what = bench.size, "whole step with images"
    s = Setting(size.resnet, size.few_classes, 16, device=bench.device)
    runs = max(size.runs[:3])
    together = Setting(None, size.few_classes, 16, runs, device=bench.device, clip=s.clip)

    def images_twice():
        "The library's step without a cache"
        s.images, s.teacher_logits = s.encode(), s.clip.logit_scale * s.encode() @ s.teacher.T
        s.step()

    rungs = {
        "peers: images encoded twice, 77 tokens": peers_way(s),
        "+ padding cut": peers_way(s, cut_text),
        "+ prefix shared, classes packed": images_twice,
        "+ images cached": s.step,
        f"+ {runs} runs in one batch, per run": together.step,
    }
    times = bench.climb(what, rungs, per=runs)
    where = f"{size.resnet}, {s.clip.image_size} px, {size.few_classes} classes, M=16"
    bench.bar(f"{what}, {where}", times[0] / times[-2], "x", at_least=25, peers=times[0], ours=times[-2],
              note="cached features against images encoded twice")


def errors(bench):
    "Gradients against the plain encoder, in both precisions, and half precision against single"
    size = bench.size
    for precision, classes, at_most in (("fp32", size.few_classes, 2e-5), ("fp64", 12, 1e-10)):
        s = Setting(size.resnet, classes, 16, precision=precision, device=bench.device)
        ours, plain = s.gradients(), s.gradients(encode=plain_text_features)
        worst = max(relative(getattr(ours, g), getattr(plain, g)) for g in ("g_d", "g_g"))
        bench.bar(f"relative error of G_d and G_g against the plain encoder, {precision}", worst, "", at_most=at_most,
                  note=f"{size.resnet}, {classes} classes")


def drawn(seed, *shape, dtype=None):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def displacement(bench):
    "The context after some steps, all lambdas side by side against each alone"
    s = Setting("pocket", 12, 4, 3, precision="fp64", device=bench.device)
    noise = drawn(2, *s.context.shape, dtype=s.context.dtype).to(s.context)
    with torch.no_grad(): s.context += 0.02 * noise
    starts = s.context.detach().clone()
    alone = [peers_way(s, images=s.images, lam=lam, start=start) for lam, start in zip(s.lambdas.tolist(), starts)]
    for _ in range(bench.size.steps):
        s.step()
        for way in alone: way()
    triples = zip(s.context.detach(), alone, starts)
    worst = max(relative(ours - start, way.context - start) for ours, way, start in triples)
    bench.bar(f"displacement after {bench.size.steps} steps against single runs, fp64", worst, "", at_most=1e-8,
              note="pocket architecture, 3 starts, lambda 0, 0.5, 1")


def share_of_peak(bench, what, setting, took, at_least):
    "The share of the machine's matrix-product rate that a step reaches"
    work, product = gflop(setting.gradients), bench.rates["float32 product"]
    rate = work / took
    bench.rates.setdefault("our step, float32", rate)
    bench.bar(f"share of the float32 matrix-product rate, {what}", rate / product, "", at_least=at_least,
              note=f"{work:.0f} GFLOP at {rate:.0f} GFLOP/s, product {product:.0f}")


def half_precision(bench, setting):
    "The gain and the cost of bfloat16: of autocast, and of products alone, which all else in float32 cannot make exact"
    lower = replace(setting.prompts, clip=replace(setting.clip, autocast=torch.bfloat16), _parts={})
    autocast = lambda: prompt_gradients(lower, setting.context, setting.images, setting.labels, setting.teacher_logits)

    def products():
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try: return setting.gradients()
        finally: torch.set_float32_matmul_precision(before)

    times, full = beside(bench.size.rounds, setting.gradients, autocast, products), setting.gradients()
    bench.rates["our step, bfloat16"] = gflop(setting.gradients) / times[1]
    for what, way, took in (("autocast", autocast, times[1]), ("products alone", products, times[2])):
        low = way()
        note = f"relative error of G_d {relative(low.g_d, full.g_d):.1e}, of G_g {relative(low.g_g, full.g_g):.1e}"
        bench.bar(f"bfloat16 step against float32, {what}", times[0] / took, "x", peers=times[0], ours=took, note=note)


def side_by_side(bench):
    "Eleven lambdas in one batch against one after another"
    together = Setting("pocket", 12, 4, 11, device=bench.device)
    alone = Setting(None, 12, 4, device=bench.device, clip=together.clip)
    repeat = lambda s, n: lambda: [s.step() for _ in range(n * bench.size.steps)]
    one, other = beside(bench.size.rounds, repeat(alone, 11), repeat(together, 1))
    bench.bar("11 lambdas side by side against one after another, pocket", one / other, "x", at_least=3,
              peers=one, ours=other, note=f"{bench.size.steps} steps, cached features")


def maps(bench):
    "All maps of a run set on one image against the grad-cam package, one map at a time"
    size, n = bench.size, bench.size.maps[0] * bench.size.maps[1] * bench.size.maps[2]
    clip = load_clip(size.resnet, "random", device=bench.device)
    pixels = 3, clip.image_size, clip.image_size
    image = drawn(3, 1, *pixels).to(bench.device)
    directions = F.normalize(drawn(4, n, clip.encode_image(image).shape[1]), dim=-1).to(bench.device)
    fifty = lambda batch: cam_operator(clip, batch, target_layer=layer).maps(directions[:50])
    layer, some = find_layer(clip), 8
    ours, theirs = beside(size.rounds, lambda: cam_operator(clip, image, target_layer=layer).maps(directions),
                          lambda: package_maps(clip, image, directions[:some], target_layer=layer))
    theirs *= n / some
    bench.bar(f"{n} maps of one image, {size.resnet}, against grad-cam one by one", theirs / ours, "x", at_least=100,
              peers=theirs, ours=ours, note=f"operator included; grad-cam timed on {some} maps and scaled")
    reference = package_maps(clip, image, directions[:some], target_layer=layer).to(bench.device)
    found = cam_operator(clip, image, target_layer=layer).maps(directions[:some])
    error = (found - reference).abs().max() / reference.abs().max()
    bench.bar("those maps against grad-cam before resizing", error.item(), "of the maximum", at_most=1e-4)
    for images in size.images:
        batch = drawn(5, images, *pixels).to(bench.device)
        took = seconds(partial(fifty, batch))
        bench.grow("images", "operator and 50 maps each", images, took)
        bench.grow("images", "grad-cam, 50 maps each (scaled)", images, theirs / n * 50 * images)


OPERATORS = [name for name, explainer in EXPLAINERS.items() if explainer.cost == "operator"]


def explainers(bench):
    """All maps of a run set on one image by each operator: the preparation, then a further map. Maps from gradients are
    compared with grad-cam one by one; the others have no such peer."""
    size, n, some = bench.size, math.prod(bench.size.maps), 4
    for model in dict.fromkeys((size.resnet, size.vit)):
        clip = load_clip(model, "random", device=bench.device)
        image = drawn(3, 1, 3, *clip.image_shape).to(bench.device)
        directions = F.normalize(drawn(4, n, clip.encode_image(image).shape[1]), dim=-1).to(bench.device)
        works = explainer_table(clip).set_index("explainer")["works"]
        for name in [name for name in OPERATORS if works[name]]:
            began = time.perf_counter()
            prepared = (RISE(size.masks) if name == "RISE" else EXPLAINERS[name]).prepare(clip, image)
            start = time.perf_counter() - began
            [more] = beside(size.rounds, partial(prepared.maps, directions))
            what = f"{n} maps of one image, {model}, {name}"
            bench.bar(f"{what}: preparation", start, "s", ours=start)
            bench.bar(f"{what}: each further map", more / n, "s", ours=more / n)
            if name not in PACKAGE: continue
            theirs = seconds(partial(package_maps, clip, image, directions[:some], explainer=name)) / some
            note = f"grad-cam timed on {some} maps and scaled"
            bench.bar(f"{what}: all, against grad-cam one by one", n * theirs / (start + more), "x", at_least=50,
                      peers=n * theirs, ours=start + more, note=note)
            bench.bar(f"{what}: a further map, against grad-cam's", theirs * n / more, "x", at_least=1000, peers=theirs,
                      ours=more / n, note=note)


def growth(bench):
    "Seconds a step as classes and runs grow"
    size = bench.size
    clip = load_clip(size.resnet, "random", device=bench.device)
    for m in (4, 16):
        for classes in size.growth:
            s = Setting(None, classes, m, device=bench.device, clip=clip)
            bench.grow("classes", f"M={m}", classes, beside(size.rounds, s.step)[0])
            if m == 16 and classes < size.text_classes:
                bench.grow("classes", "peers, M=16", classes, seconds(peers_way(s, images=s.images)))
    bench.grow("classes", "peers, M=16", size.text_classes, bench.ladder[0]["seconds"])
    for model in dict.fromkeys((size.resnet, "pocket")):
        clip = clip if model == size.resnet else load_clip(model, "random", device=bench.device)
        for runs in size.runs:
            s = Setting(None, 12, 4, runs, device=bench.device, clip=clip)
            bench.grow("runs", model, runs, beside(size.rounds, s.step)[0])


def peak_bytes(device):
    "Most memory that this process, or its GPU, ever held; Linux's getrusage would count the parent's too"
    if device != "cpu": return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(peak.split()[1])
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_memory(size, device, classes):
    "Print, as JSON, the peak memory in GB of this process and the seconds of steps with few and with many classes"
    few = Setting(size.resnet, size.text_classes, 16, device=device)
    many = Setting(None, classes, 16, device=device, clip=few.clip)
    fast, slow = beside(size.rounds, few.step, many.step)
    print(json.dumps({"peak": peak_bytes(device) / 1e9, "few": fast, "many": slow}))


def memory(bench, arguments):
    "Many classes in a process of their own"
    size, many = bench.size, bench.size.growth[-1]
    run = subprocess.run([sys.executable, __file__, "--memory-of", str(many), *arguments], capture_output=True,
                         text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    bench.bar(f"peak memory of a process with {many} classes, {size.resnet}, M=16", found["peak"], "GB", at_most=4)
    bench.bar(f"growth of the step from {size.text_classes} to {many} classes, same process",
              found["many"] / found["few"], "x", at_most=11, peers=found["few"], ours=found["many"],
              note=f"seconds of {size.text_classes} and of {many} classes")


def clocks(f):
    "Seconds of one call, by the wall's clock and of the processor"
    start = torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)
    f()
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64) - start


class Logged:
    "A training on the pocket model, with or without a record of its steps"
    def __init__(self, training, batch, record=None):
        self.training, self.batch, self.record, self.done = training, batch, record, 0

    def step(self):
        "One step as `train` takes it"
        training, batch = self.training, self.batch
        self.grads = prompt_gradients(training.prompts, training.context, batch.images, batch.labels,
                                      batch.teacher_logits)
        self.direction = training.steer(self.grads.g_d, self.grads.g_g, training.context.detach().clone())
        if self.record: self.log()
        training.descend(self.direction, batch)

    def log(self):
        self.done += 1
        batch, grads, training = self.batch, self.grads, self.training
        self.record.log(self.done, epoch=batch.epoch, lr=batch.lr, batch_hash=batch.hash, loss_ce=grads.loss_ce,
                        loss_kl=grads.loss_kl, g_d=grads.g_d, g_g=grads.g_g, g=self.direction,
                        context=training.context, text_features=grads.text, state=training.state)


def recorder(bench):
    """What a record of many steps costs. Of each hundred steps ten are taken three times, in turns: without a record,
    with one in memory, and with one in a folder. The other ninety are logged alone: there a folder costs more than
    memory by what it takes to write."""
    clip, n = load_clip("pocket", device=bench.device), bench.size.logged
    task = few_shot("pocket", 8, 1, test_per_class=1)
    recipe = Recipe(views=0, epochs=-(-n // 3)).checked(task)  # three steps an epoch
    trainings = [Training(clip, task, (0.0, 1.0), recipe) for _ in range(3)]
    batch, taken, written = next(trainings[0].batches()), torch.zeros(3, 2), torch.zeros(2, 2)
    with (tempfile.TemporaryDirectory() as out, trainings[1].recorder() as kept,
          trainings[2].recorder(f"{out}/runs") as disk):
        ways = [Logged(training, batch, record) for training, record in zip(trainings, (None, kept, disk))]
        many = lambda f, times: lambda: [f() for _ in range(times)]
        for _ in range(n // 100):
            taken += torch.stack([clocks(many(way.step, 10)) for way in ways])
            written += torch.stack([clocks(many(way.log, 90)) for way in ways[1:]])
    alone, memory, _ = taken / (n // 10)
    folder = memory + (written[1] - written[0]) / (n // 100 * 90)
    for where, with_it in zip(("memory", "a folder"), (memory, folder)):
        (wall, share), times = (with_it / alone - 1).tolist(), (alone[1].item(), with_it[1].item())
        bench.bar(f"a record of {n:,} steps in {where}, share of a step, pocket", share, "", at_most=0.05,
                  peers=times[0], ours=times[1],
                  note=f"processor time without and with it; by the wall's clock {wall:.3g}")


def whole_run(bench):
    "A run of Oxford Pets' size: 16 shots, 200 epochs, all test images; steps and images measured on some, and scaled"
    size, some = bench.size, 10 if bench.size.rounds > 1 else 1
    shots, tested = size.few_classes * 16, 3669
    s, steps = Setting(size.resnet, size.few_classes, 16, device=bench.device), 200 * (shots // 32)
    encode = lambda: s.clip.encode_image(s.pixels)
    for way in (s.step, encode): way()
    ours, image = seconds(lambda: [s.step() for _ in range(some)]) / some, seconds(encode) / len(s.pixels)
    published = peers_way(s)
    theirs = seconds(lambda: [published() for _ in range(some)]) / some
    views = image * (9 * shots + tested)  # eight random views and the image itself
    note = (f"{steps} steps of {theirs:.3g} s against {ours:.3g} s and {views:.0f} s for {9 * shots + tested:,} image "
            f"features, which a cache keeps for the next run; measured on {some} steps and {len(s.pixels)} images")
    bench.bar(f"a whole run, {size.resnet}, {size.few_classes} classes, 16 shots, 200 epochs, {tested} test images",
              (steps * theirs + image * tested) / (steps * ours + views), "x", peers=steps * theirs + image * tested,
              ours=steps * ours + views, note=note)


def landscapes(bench):
    "Contexts around the paths of two runs, and all that is computed at each"
    size = bench.size
    for model, side, classes, m, limit in (("pocket", size.grids[0], size.few_classes, 4, 5),
                                           (size.resnet, size.grids[1], size.few_classes, 16, 300)):
        clip = load_clip(model, None if model == "pocket" else "random", device=bench.device)
        task = few_shot("pocket", 1, 1, classes=classes, test_per_class=1)
        runs = train(clip, task, epochs=3, n_ctx=m, progress=False)
        seconds = clocks(lambda runs=runs, side=side: landscape(runs, size=side, progress=False))[0].item()
        bench.bar(f"landscape of {side} x {side} contexts, {model}, {classes} classes, M={m}", seconds, "s",
                  at_most=limit)


def fresh(*lines):
    "Seconds of each import, one after the other, in a new process"
    code = f"""import time
times = [time.perf_counter()]
for line in {lines!r}:
    exec(line)
    times.append(time.perf_counter())
print(*[after - before for before, after in zip(times, times[1:])])"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(took) for took in run.stdout.split()]


def startup(bench):
    "What the first line of a notebook takes beyond torch's own import, and how soon a console script answers"
    scripts = [e for e in distribution("prograd_viz").entry_points if e.group == "console_scripts"]
    ask = lambda e: [sys.executable, "-c", f"from {e.module} import {e.attr}; {e.attr}()", "--help"]
    ways = {e.name: partial(subprocess.run, ask(e), stdout=subprocess.DEVNULL, check=True) for e in scripts}
    later = "import prograd_viz.torchvision_ops, torchvision", "import open_clip"
    rounds = []
    for _ in range(bench.size.rounds):
        imports = fresh("import torch", *later) + fresh("from prograd_viz.all import *")
        rounds.append([*imports, *map(seconds, ways.values())])
    alone, torchvision, open_clip, star, *helps = map(median, zip(*rounds))
    bench.bar("from prograd_viz.all import *, beyond torch alone", star - alone, "s", at_most=2, peers=alone, ours=star,
              note=f"at first use torchvision takes {torchvision:.2g} s more and open_clip {open_clip:.2g} s")
    for name, took in zip(ways, helps): bench.bar(f"{name} --help", took, "s", at_most=1)


KERNELS = {  # A torch kernel -> what it is a part of
    "mm": "large products", "addmm": "large products", "bmm": "attention", "_softmax": "attention",
    "_softmax_backward_data": "attention", "_scaled_dot_product_flash_attention_for_cpu": "attention",
    "_scaled_dot_product_flash_attention_for_cpu_backward": "attention", "gelu": "GELU", "gelu_backward": "GELU",
    "native_layer_norm": "layer norms", "native_layer_norm_backward": "layer norms", "clone": "copies", "cat": "copies",
    "stack": "copies", "slice_backward": "copies", "_to_copy": "copies", "index_select": "copies",
}


class Ledger(TorchDispatchMode):
    "Seconds, bytes read and written, and calls of every kernel; views are free"
    def __init__(self):
        super().__init__()
        self.rows = {part: [0.0, 0.0, 0] for part in [*KERNELS.values(), "sums and others"]}

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        start = time.perf_counter()
        out = kernel(*args, **(kwargs or {}))
        took, name = time.perf_counter() - start, kernel.overloadpacket.__name__
        if kernel.is_view or name == "_unsafe_view": return out
        tensors = [x for x in tree_leaves((args, kwargs, out)) if torch.is_tensor(x)]
        row = self.rows[KERNELS.get(name, "sums and others")]
        for i, more in enumerate((took, sum(x.nbytes for x in tensors) / 1e9, 1)): row[i] += more
        return out


def bandwidth(bench):
    "Gigabytes that doubling a large vector reads and writes in a second"
    x = torch.randn(50_000_000 if bench.size.rounds > 1 else 50_000, device=bench.device)
    doubled = torch.empty_like(x)
    return 2 * x.nbytes / 1e9 / beside(5, partial(torch.mul, x, 2, out=doubled))[0]


def shortest(step, turns):
    "Seconds, gigabytes and calls of each part of a step, and seconds of the whole; of both the shortest of some turns"
    step()
    found, whole = [], []
    for _ in range(turns):
        whole.append(seconds(step))
        with Ledger() as ledger: step()
        found.append(pd.DataFrame(ledger.rows, index=["seconds", "gigabytes", "calls"]).T)
    return pd.concat(found).groupby(level=0, sort=False).min(), min(whole)


def profile(bench):
    "Where the time of a step goes, and the share of the matrix-product rate that it could have at most"
    size, speed = bench.size, bandwidth(bench)
    matrix_rates(bench)
    rate = bench.rates["float32 product"]
    for model, classes, m in ((size.resnet, size.text_classes, 16), (size.vit, size.few_classes, 4)):
        setting = Setting(model, classes, m, device=bench.device)
        one, step = partial(setting.gradients, memory_gb=MEMORY_GB), f"step of {classes} classes, {model}"
        rows, took = shortest(one, 3 * size.rounds + 1)
        for part, (spent, moved, calls) in rows.iterrows():
            bench.bar(f"profile, {step}: {part}", spent / took, "", ours=spent,
                      note=f"{calls:.0f} calls, {moved:.2g} GB read and written; the shortest of its turns")
        rest = took - rows["seconds"].sum()
        bench.bar(f"profile, {step}: between the kernels", rest / took, "", ours=rest,
                  note="Python, autograd, views; below zero where measuring slowed the kernels")
        limits(bench, step, gflop(one), rate, rows, speed)
        halves(bench, step, setting, rows.loc["large products", "seconds"] / took)


def limits(bench, step, work, rate, rows, speed):
    "The share of the product rate with all but the products free, and with all memory traffic at full speed"
    products, what = rows.loc["large products"], "limit of the share of the float32 matrix-product rate"
    note = f"{work:.0f} GFLOP at {rate:.0f} GFLOP/s take {work / rate:.2g} s; memory moves {speed:.2g} GB/s"
    bench.bar(f"{what}, {step}: products alone, as they ran", work / rate / products["seconds"], "",
              ours=products["seconds"], note=note)
    for parts, moved in (("products alone", products["gigabytes"]), ("all kernels", rows["gigabytes"].sum())):
        least = work / rate + moved / speed
        bench.bar(f"{what}, {step}: {parts}, arithmetic and traffic at full speed", work / rate / least, "", ours=least,
                  note=f"{moved:.2g} GB take {moved / speed:.2g} s")


def halves(bench, step, setting, share):
    """Products of float32 in bfloat16: numbers split into two halves, three products of halves as one with three times
    the inner dimension; their error, and the gain of a step whose products all gained as much"""
    width = setting.context.shape[-1]
    x, w = drawn(6, len(setting.prompts.packing.fixed), width), drawn(7, 4 * width, width)
    split = lambda x: (x.bfloat16(), (x - x.bfloat16().float()).bfloat16())
    high, low = split(w)
    rows, columns = lambda high, low: torch.cat([high, high, low], 1), torch.cat([high, low, high], 1).T
    exact = x.double() @ w.double().T
    ways = {"bfloat16": lambda: (x.bfloat16() @ high.T).float(),
            "two halves": lambda: (rows(*split(x)) @ columns).float()}
    single, *times = beside(5, lambda: x @ w.T, *ways.values())
    for (name, way), took in zip(ways.items(), times):
        at_best = 1 / (1 - share + share * took / single)
        error = relative(way().double(), exact)
        bench.bar(f"products in {name} against float32, {step}", single / took, "x", peers=single, ours=took,
                  note=f"error {error:.1e} of a product; the whole step {at_best:.2f}x at best")


ALONE = {  # Each writes a table of its own
    "recorder": recorder, "landscape": landscapes, "maps": explainers, "whole": whole_run, "startup": startup,
    "profile": profile,
}


# -- the table and the picture ------------------------------------------------

def number(x): return "" if x is None or x != x else f"{x:.3g}" if 1e-3 <= abs(x) < 1e4 else f"{x:.1e}"


def table(bench, on):
    "The bars as Markdown, the machine below"
    lines = ["| what | peers, s | ours, s | value | bar | reached | |", "|---|---:|---:|---:|---:|---|---|"]
    for r in bench.bars:
        reached = "" if r["reached"] is None else "yes" if r["reached"] else "**no**"
        cells = [r["what"], number(r["peers"]), number(r["ours"]), f"{number(r['value'])} {r['unit']}", r["bar"],
                 reached, r["note"]]
        lines.append(f"| {' | '.join(cells)} |")
    if bench.ladder: lines += ["", "| each speed-up in turn | seconds | times faster |", "|---|---:|---:|"]
    for r in bench.ladder: lines.append(f"| {r['what']}: {r['rung']} | {number(r['seconds'])} | {number(r['ratio'])} |")
    where = ", ".join(f"{k} {v}" for k, v in on.items())
    return "\n".join(lines) + f"\n\n{where}. Random weights; medians of turns in one process.\n"


def draw_ladder(ax, rows, title):
    "Seconds of each rung, with how many times faster than the first"
    rows = rows[::-1]
    ax.barh(range(len(rows)), [r["seconds"] for r in rows],
            color=[PEERS if r["rung"].startswith("peers") else OURS for r in rows])
    for y, r in enumerate(rows):
        gain = "" if r["rung"].startswith("peers") else f"   {r['ratio']:.1f}x"
        text = f"{number(r['seconds'])} s{gain}"
        ax.text(r["seconds"], y, f"  {text}", va="center", fontsize=8.5, color=INK)
    ax.set(yticks=range(len(rows)), xlabel="seconds a step", title=title)
    ax.set_yticklabels([textwrap.fill(r["rung"], 26) for r in rows], fontsize=8.5)
    ax.set_xlim(right=max(r["seconds"] for r in rows) * 1.2)
    ax.grid(axis="y", visible=False)


def draw_growth(ax, rows, xlabel, title, ylabel="seconds a step"):
    "Seconds against an amount, a line per series"
    colours = iter((OURS, "#0072B2", OTHER))
    for series in dict.fromkeys(r["series"] for r in rows):
        n, t = zip(*[(r["n"], r["seconds"]) for r in rows if r["series"] == series])
        theirs = series.startswith(("peers", "grad-cam"))
        ax.plot(n, t, "o--" if theirs else "o-", color=PEERS if theirs else next(colours), label=series, markersize=4)
    ticks = sorted({r["n"] for r in rows})
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel, title=title, xticks=ticks,
           xticklabels=[str(t) for t in ticks])
    ax.minorticks_off()
    ax.legend()


def draw_rates(ax, rates):
    "GFLOP/s of the machine and of our step"
    names = list(rates)[::-1]
    ax.barh(range(len(names)), [rates[n] for n in names], color=[OURS if n.startswith("our") else INK for n in names])
    for y, n in enumerate(names): ax.text(rates[n], y, f" {rates[n]:.0f}", va="center", fontsize=8.5, color=INK)
    ax.set(yticks=range(len(names)), xlabel="GFLOP/s", title="Arithmetic: the machine and the step")
    ax.set_yticklabels([textwrap.fill(n, 20) for n in names], fontsize=8.5)
    ax.set_xlim(right=max(rates.values()) * 1.2)
    ax.grid(axis="y", visible=False)


def picture(bench, on):
    "Where the time goes, on one page"
    import matplotlib.pyplot as plt
    with plt.style.context(ASSETS / "prograd.mplstyle"):
        fig, axes = plt.subplots(3, 2, figsize=(11, 10.5))
        text, whole = bench.ladder[0]["what"], bench.ladder[-1]["what"]
        draw_ladder(axes[0, 0], [r for r in bench.ladder if r["what"] == text], text[0].upper() + text[1:])
        draw_ladder(axes[0, 1], [r for r in bench.ladder if r["what"] == whole],
                    f"Whole step, {bench.size.resnet}, {bench.size.few_classes} classes, 32 images")
        of = lambda kind: [r for r in bench.growth if r["kind"] == kind]
        draw_growth(axes[1, 0], of("classes"), "classes", f"More classes, {bench.size.resnet}")
        draw_growth(axes[1, 1], of("runs"), "runs in one batch", "More runs, 12 classes, M=4")
        draw_growth(axes[2, 0], of("images"), "images", f"Maps of more images, {bench.size.resnet}", "seconds")
        draw_rates(axes[2, 1], bench.rates)
        fig.suptitle(f"{on['machine']}, {on['threads']} threads, torch {on['torch']}", fontsize=9, color=INK)
        return fig


def save_rows(bench, out, name):
    "The rows so far as CSV, with machine and versions; returns the file"
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{bench.device}_{name}.csv"
    pd.DataFrame(bench.bars).assign(**machine(bench.device)).to_csv(path, index=False, float_format="%.6g")
    return path


def save(bench, out):
    "Tables as CSV and Markdown, the picture as PNG; returns the folder"
    out.mkdir(parents=True, exist_ok=True)
    on = machine(bench.device)
    keep = lambda name, rows: pd.DataFrame(rows).assign(**on).to_csv(
        out / f"{bench.device}_{name}.csv", index=False, float_format="%.6g")
    for name in ("bars", "ladder", "growth"): keep(name, getattr(bench, name))
    keep("rates", {"what": bench.rates.keys(), "gflops": bench.rates.values()})
    (out / f"{bench.device}.md").write_text(table(bench, on), encoding="utf-8")
    picture(bench, on).savefig(out / f"{bench.device}.png")
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and meaningless, to see that it runs")
    parser.add_argument("--only", choices=ALONE, help="this comparison alone")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="of torch; all cores by default")
    parser.add_argument("--out", type=Path, help="where to write; figures/bench, with --quick a folder quick in it")
    parser.add_argument("--memory-of", type=int, metavar="CLASSES",
                        help="only measure the memory of a step with so many classes")
    args = parser.parse_args()
    if args.threads: torch.set_num_threads(args.threads)
    size = QUICK if args.quick else Size()
    if args.memory_of: return measure_memory(size, args.device, args.memory_of)
    matplotlib.use("Agg")
    started, bench = time.time(), Bench(size, args.device)
    out = args.out or ROOT / "figures" / "bench" / ("quick" * args.quick)
    for name in [args.only] if args.only else ALONE:
        alone = Bench(size, args.device)
        ALONE[name](alone)
        path = save_rows(alone, out, name)
        bench.bars += alone.bars
    if args.only: return print(f"{time.time() - started:.0f} s; written to {path}")
    matrix_rates(bench)
    setting, took = text_ladder(bench, f"text step, {size.resnet} tower, {size.text_classes} classes, M=16",
                                size.resnet, size.text_classes, 16, 15)
    share_of_peak(bench, f"{size.text_classes}-class step, {size.resnet}", setting, took, 0.9)
    half_precision(bench, setting)
    setting, took = text_ladder(bench, f"text step, {size.vit} tower, {size.few_classes} classes, M=4", size.vit,
                                size.few_classes, 4, 14)
    share_of_peak(bench, f"{size.few_classes}-class step, {size.vit}", setting, took, 0.85)
    whole_ladder(bench)
    errors(bench)
    displacement(bench)
    memory(bench, [*["--quick"] * args.quick, "--device", args.device,
                   *(["--threads", str(args.threads)] if args.threads else [])])
    side_by_side(bench)
    maps(bench)
    growth(bench)
    save(bench, out)
    print(f"\n{table(bench, machine(args.device))}\n{time.time() - started:.0f} s; written to {out}")


if __name__ == "__main__": sys.exit(main())
