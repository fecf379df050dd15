"""On one GPU, in one process: the published trainers' way and the library's, side by side.

    python tools/bench_gpu.py                         # some minutes; writes figures/bench/gpu*
    python tools/bench_gpu.py --device cpu --quick    # the same code at a small size; its times mean nothing
    python tools/bench_gpu.py --only steps profile    # these parts alone

Weights are random, so nothing is downloaded. A part that fails says so in its row, and the others go on. A machine
that reaches no package index needs, beside torch, torchvision, timm, huggingface_hub, pandas, matplotlib, scipy,
scikit-learn, OpenCV, safetensors, tqdm, fsspec and regex, the wheels of open_clip_torch, ftfy, wcwidth, grad-cam,
ttach and fontawesomefree (of the last only webfonts/fa-solid-900.ttf and metadata/icons.json are read), and for the
tests pytest and hypothesis.
"""
import argparse
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

import bench
from bench import MEMORY_GB, NAMES, QUICK, ROOT, Bench, Setting, peers_text, peers_way, relative, seconds
from prograd_viz.clip import load_clip
from prograd_viz.data import Split, Task
from prograd_viz.gradients import project, prompt_gradients
from prograd_viz.training import Replayed, train


@dataclass
class Amount:
    "How much of each"
    vit: str = "ViT-B-16"
    small: str = "ViT-B-32"
    resnet: str = "RN50"
    many: int = 1000
    some: int = 100
    few: int = 37
    turns: int = 3  # of each way
    steps: int = 10  # in a turn
    shots: int = 16
    epochs: int = 200
    tested: int = 1000  # images
    measured: int = 100  # steps of the published way in a whole run
    product: int = 8192  # rows and columns


SMALL = Amount("pocket", "pocket", "pocket", 12, 10, 8, 1, 2, 2, 2, 20, 3, 256)
PRECISIONS = {"fp32": ("fp32", False), "TF32": ("fp32", True), "bf16": ("amp_bf16", False), "fp16": ("fp16", False)}


@contextmanager
def tf32(on):
    "Whether matrix products and convolutions of float32 may round to 10 bits"
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = on
    try: yield
    finally: products.allow_tf32, convolutions.allow_tf32 = before


def per_step(found, *ways):
    "Median seconds of a step of each way, all taking turns of up to half a second; a GPU is waited for once a turn"
    for way in ways: way()
    counts = [max(1, min(found.amount.steps, int(0.5 / seconds(way)))) for way in ways]
    turn = lambda way, n: seconds(lambda: [way() for _ in range(n)]) / n
    times = [[turn(way, n) for way, n in zip(ways, counts)] for _ in range(found.amount.turns)]
    return [median(of) for of in zip(*times)]


def peak(device):
    "Most memory in GB since `forget`; on a CPU that of the process"
    return torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else bench.peak_bytes(device) / 1e9


def forget(device):
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def our_step(s, replayed=True, memory_gb=MEMORY_GB):
    "The library's step as `train` takes it, without its record"
    gradients = Replayed(partial(prompt_gradients, s.prompts, memory_gb=memory_gb), replayed)

    def step():
        grads = gradients(s.context, s.images, s.labels, s.teacher_logits)
        s.context.grad = project(grads.g_d, grads.g_g, s.lambdas).g
        s.optimiser.step()

    return step


def peers_start(s): return s.prompts.start.to(s.clip.dtype)  # a published context has the type of the weights


def peers_gradients(s):
    "Both gradients as the published trainer has them"
    context = peers_start(s).clone().requires_grad_()
    logits = s.clip.logit_scale * s.images @ peers_text(s.prompts, context).T
    teacher = (s.clip.logit_scale * s.images @ s.teacher.to(logits).T).softmax(-1)
    losses = F.cross_entropy(logits, s.labels), -(teacher * logits.log_softmax(-1)).sum(1).mean()
    return [torch.autograd.grad(loss, context, retain_graph=True)[0].double() for loss in losses]


# -- the parts ----------------------------------------------------------------

def rates(found):
    "The card's own matrix products"
    n = found.amount.product
    a = torch.randn(n, n, device=found.device)
    half = a.bfloat16()
    for name, x, on in (("float32", a, False), ("TF32", a, True), ("bfloat16", half, False)):
        with tf32(on): [took] = per_step(found, lambda x=x: x @ x)
        found.rates[name] = 2 * n**3 / took / 1e9
        found.bar(f"matrix product of {n} rows, {name}", found.rates[name] / 1e3, "TFLOP/s")


def steps(found):
    "A step of many classes: time, memory, error of both gradients, by either way and in every precision"
    amount = found.amount
    for model, classes in ((amount.vit, amount.many), (amount.resnet, amount.some)):
        exact = Setting(model, classes, 16, precision="fp64", device=found.device)
        truth = exact.gradients(memory_gb=4)
        truth = truth.g_d[0], truth.g_g[0]
        del exact
        times = {}
        for way, name in (("published", "fp16"), ("published", "fp32"), ("published", "TF32"), ("ours", "fp32"),
                          ("ours", "TF32"), ("ours", "bf16")):
            what = f"{model}, {classes} classes, M=16, {way}, {name}"
            with found.alone(what): times[way, name] = one_way(found, what, model, classes, way, name, truth)
        for name in ("fp32", "TF32"):
            theirs, ours = times.get(("published", name)), times.get(("ours", name))
            if theirs and ours:
                for kind, n in (("whole step, images encoded twice, against cached ones", 0), ("text step alone", 1)):
                    found.bar(f"{model}, {classes} classes, {name}: {kind}", theirs[n] / ours[n], "x",
                              peers=theirs[n], ours=ours[n])


def one_way(found, what, model, classes, way, name, truth):
    "Seconds of a whole step and of its text part; rows of memory and error"
    precision, on = PRECISIONS[name]
    forget(found.device)
    s = Setting(model, classes, 16, precision=precision, device=found.device)
    with tf32(on):
        if way == "ours":  # before a step moves the context; its images are cached, so that the text is all
            grads, pair = s.gradients(memory_gb=MEMORY_GB), [our_step(s)] * 2
            got = grads.g_d[0], grads.g_g[0]
        else: got, pair = peers_gradients(s), [peers_way(s, images=x, start=peers_start(s)) for x in (None, s.images)]
        whole, text = per_step(found, *pair)
    errors = [relative(a.double(), b) for a, b in zip(got, truth)]
    found.bar(what, whole * 1e3, "ms", note=f"text alone {text * 1e3:.3g} ms; error of G_d {errors[0]:.1e}, of G_g "
              f"{errors[1]:.1e}; peak {peak(found.device):.2f} GB",
              **({"ours": whole} if way == "ours" else {"peers": whole}))
    if way == "ours" and classes == found.amount.many:
        found.bar(f"{what}: peak memory", peak(found.device), "GB", at_most=8)
    return whole, text


def photographs(folder, n):
    "Smooth pictures of 500 x 375 pixels as JPEG files"
    def write(i):
        few = np.random.default_rng(i).integers(0, 255, (12, 16, 3), np.uint8)
        Image.fromarray(few).resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)
        return folder / f"{i}.jpg"

    with ThreadPoolExecutor() as pool: return list(pool.map(write, range(n)))


def whole_run(found):
    "A whole training, its images included, against the published steps that it would take"
    amount, classes = found.amount, tuple(NAMES[:found.amount.some])
    n = amount.shots * amount.some
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder), n + amount.tested)
        labels = np.arange(len(files)) % amount.some
        task = Task("photographs", Split(files[:n], labels[:n], classes),
                    {"test": Split(files[n:], labels[n:], classes)})
        clip = load_clip(amount.resnet, "random", device=found.device, cache=Path(folder) / "cache")
        encoding = seconds(lambda: [task.train.view_features(clip, 8, 1), *(s.features(clip) for s in
                                                                           task.splits.values())])
        options = {"n_ctx": 16, "init": "random", "epochs": amount.epochs, "progress": False}
        taken = []
        training = seconds(lambda: taken.append(train(clip, task, [1.0], **options)))
        n_steps = int(taken[0].steps["step"].max())
    ours = encoding + training
    found.bar(f"a run of {amount.shots} shots, {amount.some} classes, {amount.epochs} epochs, {amount.resnet}, fp32",
              ours, "s", ours=ours, note=f"images {encoding:.1f} s, {n_steps} steps {training:.1f} s, "
              f"{training / n_steps * 1e3:.2f} ms a step with its record and evaluations")
    for name in ("fp32", "TF32", "fp16"):
        precision, on = PRECISIONS[name]
        s = Setting(amount.resnet, amount.some, 16, precision=precision, device=found.device)
        way = peers_way(s, start=peers_start(s))
        with tf32(on):
            way()
            theirs = seconds(lambda way=way: [way() for _ in range(amount.measured)]) / amount.measured * n_steps
        found.bar(f"that run by the published steps, {name}, against ours in float32", theirs / ours, "x",
                  at_least=25 if name == "fp32" else None, peers=theirs, ours=ours,
                  note=f"{amount.measured} steps measured, scaled to {n_steps}; images in memory, no data loader")


def stacked(found):
    "Lambdas side by side, and what stacking four seeds would gain"
    amount = found.amount
    for model, classes, m in (("pocket", 12, 4), (amount.vit, amount.some, 16)):
        alone, many = (Setting(model, classes, m, runs, device=found.device) for runs in (1, 11))
        one, eleven = per_step(found, our_step(alone), our_step(many))
        found.bar(f"11 lambdas side by side against one after another, {model}, {classes} classes", 11 * one / eleven,
                  "x", at_least=3, peers=11 * one, ours=eleven)
        two, eight = (Setting(model, classes, m, runs, device=found.device) for runs in (2, 8))
        eight.images = eight.images.repeat(8, 1, 1)  # batches of their own
        eight.labels, eight.teacher_logits = eight.labels.repeat(8, 1), eight.teacher_logits.repeat(8, 1, 1)
        pair, seeds = per_step(found, our_step(two), our_step(eight))
        found.bar(f"four seeds of two lambdas in one stack against one after another, {model}, {classes} classes",
                  4 * pair / seeds, "x", peers=4 * pair, ours=seeds)


def maps(found):
    "2,500 maps of one image by each operator"
    bench.explainers(found)


def kernels(way, times):
    "Seconds of kernels and their number, of one call"
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(times): way()
        torch.cuda.synchronize()
    on_card = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    table = profiler.key_averages().table(sort_by="self_device_time_total", row_limit=12)
    return sum(e.time_range.elapsed_us() for e in on_card) / times / 1e6, len(on_card) / times, table


def profile(found):
    "Where the time of a step goes: kernels, or starting them; with and without a CUDA graph"
    amount = found.amount
    for model, classes, m in (("pocket", 12, 4), (amount.small, amount.few, 4), (amount.resnet, amount.some, 16)):
        s = Setting(model, classes, m, device=found.device)
        eager, replayed = our_step(s, False), our_step(s)
        plain, graph = per_step(found, eager, replayed)
        what = f"{model}, {classes} classes, M={m}"
        found.bar(f"{what}: a CUDA graph of the gradients", plain / graph, "x", peers=plain, ours=graph)
        if found.device != "cuda": continue
        for name, way, took in (("kernel by kernel", eager, plain), ("replayed", replayed, graph)):
            busy, number, table = kernels(way, 2)
            print(table)
            found.bar(f"{what}, {name}: share of the step in which the card waits", 1 - busy / took, "",
                      at_most=0.2 if name == "replayed" else None, note=f"{number:.0f} kernels, {busy * 1e3:.2f} ms of "
                      f"{took * 1e3:.2f}")
        work = bench.gflop(s.gradients)
        found.bar(f"{what}: share of the float32 product rate", work / graph / found.rates.get("float32", np.nan), "",
                  note=f"{work:.0f} GFLOP")


PARTS = {"rates": rates, "steps": steps, "whole": whole_run, "profile": profile, "stacked": stacked, "maps": maps}


class Found(Bench):
    "Rows, and what went wrong"
    def __init__(self, amount, quick, device):
        super().__init__(QUICK if quick else bench.Size(rounds=amount.turns), device)
        self.amount, self.failed = amount, 0

    @contextmanager
    def alone(self, what):
        "A failure here is a row"
        try: yield
        except Exception as e:
            traceback.print_exc()
            self.failed += 1
            self.bars.append({"what": what, "peers": None, "ours": None, "value": np.nan, "unit": "", "bar": "",
                              "reached": False, "note": f"{type(e).__name__}: {str(e)[:120]}"})
        forget(self.device)


def save(found, out):
    "All rows as CSV and Markdown, machine and versions with them"
    out.mkdir(parents=True, exist_ok=True)
    on, rows = bench.machine(found.device), pd.DataFrame(found.bars)
    name = "gpu" if found.device == "cuda" else "gpu_rehearsal"
    rows.assign(**on).to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
    (out / f"{name}.md").write_text(bench.table(found, on), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and meaningless, to see that it runs")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS], help="these parts alone")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=ROOT / "figures" / "bench", help="where to write; figures/bench")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --quick shows that the script runs")
    found = Found(SMALL if args.quick else Amount(), args.quick, args.device)
    for name in args.only:
        began = time.time()
        with found.alone(name): PARTS[name](found)
        print(f"-- {name}: {time.time() - began:.0f} s", flush=True)
        save(found, args.out)
    print(bench.table(found, bench.machine(args.device)))
    return min(1, found.failed)


if __name__ == "__main__": sys.exit(main())
