"""CoOp and ProGrad on a published data set and a real CLIP: a table beside published numbers, maps, landscape, report.

    python tools/reproduce.py --data oxford_pets --root DATA           # RN50 of OpenAI, 1 to 16 shots, three seeds
    python tools/reproduce.py --data dtd --root DATA --model ViT-B-16 --shots 16 --time   # says how long, and stops

DATA is the folder of all data sets in CoOp's layout. It says how long it will take before it starts. Finished trainings
are kept in --out: the same command resumes after a stop. It writes results.csv, table.md, foreground.csv,
landscape.pdf, report.html and README.md, which says what differs from the papers' recipe.
"""
import argparse
import time
import warnings
from pathlib import Path

import pandas as pd

from prograd_viz.clip import load_clip
from prograd_viz.data import Task
from prograd_viz.landscape import landscape, plot_landscape
from prograd_viz.maps import foreground
from prograd_viz.protocols import few_shot_protocol, paper_table, published_lambda
from prograd_viz.report import save_report
from prograd_viz.sweep import load_sweep
from prograd_viz.tasks import few_shot
from prograd_viz.training import published_epochs, train

EXPLAINERS = ("GradCAM", "Occlusion")
BATCH = 32


def arguments(args):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", required=True, help="data set, such as oxford_pets")
    parser.add_argument("--root", required=True, help="folder of all data sets, in CoOp's layout")
    parser.add_argument("--model", default="RN50", help="architecture of open_clip (default: RN50)")
    parser.add_argument("--pretrained", default="openai", help="tag or file of its weights (default: openai)")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="images per class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the published draw")
    parser.add_argument("--epochs", type=int, help="instead of the published 50, 100 or 200")
    parser.add_argument("--n-ctx", type=int, default=16, help="context vectors (default: 16)")
    parser.add_argument("--images", type=int, default=60, help="images for the maps (default: 60)")
    parser.add_argument("--out", default="reproduce", help="folder of all that is written (default: reproduce/)")
    parser.add_argument("--time", action="store_true", help="say how long it takes, and stop")
    return parser.parse_args(args)


def steps_of(opt, shots, n):
    "Steps of one training on n images"
    usual = 50 if opt.data == "imagenet" else published_epochs(shots)
    return (opt.epochs or usual) * max(1, n // BATCH)


def seconds_needed(opt, clip):
    "Time of all trainings, from that of a few steps and a few images on this machine"
    tasks = {shots: few_shot(opt.data, shots, opt.seeds[0], root=opt.root) for shots in opt.shots}
    first = tasks[opt.shots[0]]
    few = first.train.images[:8]
    probe = Task("probe", first.train, {}, first.template)
    began = time.perf_counter()
    for i in range(len(few)): clip.encode_image(first.train.tensor(clip, [i]))
    image = (time.perf_counter() - began) / len(few)
    first.train.features(clip)
    began = time.perf_counter()
    runs = train(clip, probe, [0, 1], epochs=3, views=0, n_ctx=opt.n_ctx, evaluate_every=10**9, progress=False)
    step = (time.perf_counter() - began) / runs.steps["step"].max()
    steps = sum(steps_of(opt, shots, len(task.train)) for shots, task in tasks.items()) * len(opt.seeds)
    views = sum(8 * len(task.train) for task in tasks.values()) * len(opt.seeds)
    tested = len(first.tests["same"]) + opt.images * len(EXPLAINERS) * 20
    return 1.5 * step * steps + image * (views + tested)  # CoOp alone, from a random start, takes half as long again


def in_words(seconds):
    if seconds < 90: return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def trained(opt, clip, out):
    "Rows of both methods from the template, and of CoOp from its published random start"
    same = {"shots": opt.shots, "seeds": opt.seeds, "data": {"root": opt.root}, "n_ctx": opt.n_ctx,
            "snapshot_every": 50} | ({"epochs": opt.epochs} if opt.epochs else {})
    both = few_shot_protocol(clip, opt.data, out=out / "from the template", **same)
    alone = few_shot_protocol(clip, opt.data, lambdas=[0], init="random", out=out / "from a random start", **same)
    return pd.concat([both, alone[alone["method"] == "CoOp"]], ignore_index=True)


def looked_at(opt, clip, out):
    "Foreground shares, landscape and report of the run set of most shots and the first seed; a sentence about them"
    strongest = max(opt.shots)
    runs = load_sweep(out / "from the template").runs(clip, shots=strongest, seed=opt.seeds[0])[0]
    shares = "No masks come with this data set, so no share of a map on the object was measured."
    if runs.split().masks is not None:
        found = [foreground(runs, images=opt.images, explainer=name) for name in EXPLAINERS]
        table = pd.concat([each.summary().assign(explainer=each.rows["explainer"].iloc[0]) for each in found])
        table.to_csv(out / "foreground.csv", index=False)
        shares = f"Shares of the maps on the object, by {' and '.join(EXPLAINERS)}, are in foreground.csv."
    try: land = landscape(runs)
    except ValueError as e: land, shares = None, f"{shares} There is no landscape: {e}."  # no step was in conflict
    else: plot_landscape(land).savefig(out / "landscape.pdf")
    title = f"{opt.data}, {strongest} shots, seed {opt.seeds[0]}"
    save_report(runs, out / "report.html", images=min(8, opt.images), land=land, title=title)
    return shares


def differences(opt):
    "What differs from the papers' recipe, in sentences"
    found = ["Arithmetic in float32; the published numbers are of half precision.",
             "Eight random crops and flips of an image are drawn once and used again; the published code draws at each "
             "step."]
    if opt.pretrained != "openai": found.append(f"Weights {opt.pretrained!r}; the papers use OpenAI's.")
    if opt.model.removesuffix("-quickgelu") != "RN50": found.append(f"Model {opt.model}; the ProGrad paper uses RN50.")
    if opt.n_ctx != 16: found.append(f"{opt.n_ctx} context vectors instead of 16.")
    if opt.epochs: found.append(f"{opt.epochs} epochs instead of the published 50, 100 or 200.")
    if sorted(opt.seeds) != [1, 2, 3]: found.append(f"Seeds {opt.seeds} instead of 1, 2 and 3.")
    if opt.data == "imagenet": found.append("ImageNet's few shots are of sorted files; the published ones are unknown.")
    lams = {published_lambda(opt.data, shots) for shots in opt.shots}
    return [*found, f"lambda is {' and '.join(f'{lam:g}' for lam in sorted(lams))}, as published. CoOp is there twice: "
            "from ProGrad's start (init template), and from its own (init random)."]


def written(opt, out, table, looked):
    "results.csv, table.md and README.md"
    table.to_csv(out / "results.csv", index=False)
    shown = paper_table(table, beside="published").round(2).reset_index().astype(str)
    lines = [list(shown), ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    (out / "table.md").write_text("\n".join(rows) + "\n", encoding="utf-8")
    text = [f"# {opt.data} with {opt.model} ({opt.pretrained})", "Accuracy in per cent, means over "
            f"{len(opt.seeds)} seeds.", "\n".join(rows), looked, "## What differs from the papers' recipe",
            "\n".join(f"- {line}" for line in differences(opt))]
    (out / "README.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print("\n\n".join(text))


def main(args=None):
    opt = arguments(args)
    out = Path(opt.out)
    out.mkdir(parents=True, exist_ok=True)
    clip = load_clip(opt.model, opt.pretrained, cache=out / "features")
    trainings = 2 * len(opt.shots) * len(opt.seeds)
    words = f"{trainings} trainings of {opt.data} with {opt.model}: about {in_words(seconds_needed(opt, clip))} here"
    print(f"{words}; finished work in {out}/ is kept, so the same command resumes after a stop", flush=True)
    if opt.time: return
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        table = trained(opt, clip, out)
        written(opt, out, table, looked_at(opt, clip, out))
    print(f"done in {in_words(time.perf_counter() - began)}; see {out}/README.md")


if __name__ == "__main__": main()
