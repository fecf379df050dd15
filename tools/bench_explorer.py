"""How long a reader waits for the explorer in headless Chromium: from a key to the frame it asks for.

    python tools/bench_explorer.py   # five minutes on two idle cores; writes figures/bench/explorer.csv and .md

A wait ends with the first animation frame after drawing has finished. marimo is measured where it is installed.
"""
import argparse
import os
import tempfile
import time
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import pandas as pd

from bench import machine
from lab import ROOT, chromium, command, jupyterlab, notebook, open_notebook, serving, voila, watched
from prograd_viz.report import save_report
from prograd_viz.runs import load_runs
from prograd_viz.screen import ExplorerData

POCKET = """from prograd_viz.all import *
task = few_shot("pocket", shots=8, seed=1)
runs = train(load_clip("pocket"), task, lambdas=[0, 0.5, 1], epochs=100, progress=False)
data = None"""
# The sizes of a study on RN50: the numbers are random, which costs the same
RN50 = """import numpy as np
from prograd_viz.all import *
from prograd_viz.runs import Recorder
from prograd_viz.screen import ExplorerData
rng, C, R, M, D, E, B = np.random.default_rng(0), 100, 5, 16, 512, 1024, 16
unit = lambda *shape: (lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True))(rng.standard_normal(shape, np.float32))
names = [f"class {c}" for c in range(C)]
methods, lambdas = ["CoOp", *(f"ProGrad {x}" for x in (0.25, 0.5, 0.75)), "ProGrad"], [0, 0.25, 0.5, 0.75, 1]
with Recorder(names, methods, lambdas=lambdas, zero_shot=unit(C, E), snapshot_every=1, seed=1) as record:
    for step in range(1, 200):
        record.log(step, loss_ce=rng.random(R), loss_kl=rng.random(R), g_d=unit(R, M, D), g_g=unit(R, M, D),
                   context=unit(R, M, D), text_features=unit(R, C, E), accuracies={"same": rng.random(R)})
    record.end(context=unit(R, M, D), text_features=unit(R, C, E))
runs = record.runs()
data = ExplorerData(rng.integers(0, 255, (B, 224, 224, 3), np.uint8), rng.random((B, 224, 224)) > 0.7, np.arange(B),
                    tuple(f"{b + 1}: {names[b]}" for b in range(B)), tuple(names), unit(B, 7, 7, E), unit(B, E),
                    100.0)"""
OPEN = "explorer = explore(runs, data=data); explorer"
APP = ROOT / "figures" / "app"
MARIMO = f"""import marimo
app = marimo.App(width="full")

@app.cell
def _():
    from prograd_viz.all import explore, load_runs
    from prograd_viz.screen import ExplorerData
    explore(load_runs({str(APP)!r}), data=ExplorerData.load({str(APP / "explorer.safetensors")!r}))
    return
"""
# `moved` gets ms from each key to the first frame after it was drawn; `drawn` the time of the last drawing
WATCH = """() => {
  window.moved = []
  document.addEventListener("keydown", e => {
    requestAnimationFrame(() => window.moved.push(performance.now() - e.timeStamp))
  }, true)
  document.addEventListener("keyup", e => { window.released = e.timeStamp }, true)
}"""


def moves(
    page,  # With an open explorer
    n: int,  # How often
) -> list:  # ms
    "Press a key and wait, again and again"
    page.evaluate("window.moved = []")
    page.locator(".pv-root").first.focus()
    page.keyboard.press("End")
    for _ in range(n):
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(40)
    return page.evaluate("window.moved.slice(1)")


def held(
    page,  # With an open explorer
    seconds: float = 3,  # How long
) -> float:  # ms
    "From letting go of a key that was held to the last drawing"
    page.locator(".pv-root").first.focus()
    page.keyboard.press("Home")
    end = time.time() + seconds
    while time.time() < end: page.keyboard.down("ArrowRight")
    page.keyboard.up("ArrowRight")
    page.wait_for_timeout(600)
    drawn = page.evaluate("document.querySelector('.pv-root').explorer.drawn")
    return max(0.0, drawn - page.evaluate("window.released"))


@contextmanager
def opened(
    setup: str,  # The cell that makes `runs` and `data`
    threads: int | None = 1,  # Of the kernel; None: as many as torch takes
):
    "The explorer in JupyterLab; yields the page, ms from running the cell to its first picture, and bytes sent"
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if threads: variables["OMP_NUM_THREADS"] = str(threads)
    with (patch.dict(os.environ, variables, clear=True), tempfile.TemporaryDirectory() as folder,
          jupyterlab(Path(folder)) as (address, token), chromium() as browser):
        size = "print(sum(map(len, explorer.scenes)) + len(explorer._runs))"
        cells = [setup + '\nprint("ready")', OPEN, size, "while True: pass"]
        notebook(Path(folder) / "e.ipynb", cells)
        page = watched(browser)
        open_notebook(page, address, token, "e.ipynb")
        page.keyboard.press("Shift+Enter")
        page.locator(".jp-OutputArea-output", has_text="ready").wait_for(timeout=240_000)
        page.evaluate("window.asked = 0")
        page.evaluate('document.addEventListener("keydown", e => { window.asked ||= e.timeStamp }, true)')
        page.keyboard.press("Shift+Enter")
        page.locator(".pv-thumbs button").first.wait_for(timeout=60_000)
        first = page.evaluate("performance.now() - window.asked")
        page.wait_for_timeout(6000)
        page.keyboard.press("Shift+Enter")
        sent = page.locator(".jp-OutputArea-output pre").last
        page.wait_for_timeout(500)
        yield page, first, int(sent.inner_text())


def row(model, what, ms, bar, note=""): return {"model": model, "what": what, "ms": ms, "bar": bar, "note": note}


def in_jupyterlab(
    name: str,  # Of the study
    setup: str,  # The cell that makes `runs` and `data`
    n: int,  # Moves of each kind
) -> list:  # Rows
    "Open the explorer in JupyterLab; move while the kernel is idle, busy and gone"
    with opened(setup) as (page, first, payload):
        page.evaluate(WATCH)
        times = {"kernel idle": moves(page, n)}
        release = held(page)
        page.locator(".jp-Cell").nth(3).locator(".jp-InputArea").click()
        page.keyboard.press("Control+Enter")
        page.locator(".jp-InputPrompt", has_text="[*]").wait_for()
        times["kernel busy in a loop"] = moves(page, n)
        command(page, "kernelmenu:shutdown")
        page.wait_for_timeout(2000)
        times["kernel gone"] = moves(page, n)
    says = f"from running the cell `explore(runs)`; {payload / 1e6:.1f} MB are sent"
    rows = [row(name, "first picture", first, 3000, says)]
    for when, ms in times.items(): rows += as_rows(name, when, ms)
    return [*rows, row(name, "a key held for 3 s: from letting go to the last frame", release, 50)]


def as_rows(name, when, ms):
    "The median and the 95th percentile of some moves"
    return [row(name, "key to frame, median", median(ms), 16, f"{len(ms)} moves, {when}"),
            row(name, "key to frame, 95th percentile", float(np.quantile(ms, 0.95)), 33, when)]


def elsewhere(
    n: int,  # Moves in each place
) -> list:  # Rows
    "The recorded training of the app: served by Voila, as a report that is opened as a file, and in marimo"
    rows = []
    with tempfile.TemporaryDirectory() as folder, chromium() as browser, ExitStack() as servers:
        home, places = Path(folder), {}
        for name in ("voila", "marimo"): (home / name).mkdir()
        address, token = servers.enter_context(voila(home / "voila", ROOT / "nbs" / "app.ipynb"))
        places["Voila"] = f"{address}/?token={token}"
        report = save_report(load_runs(APP), home / "report.html", data=ExplorerData.load(APP / "explorer.safetensors"))
        places["a report, opened as a file"] = report.as_uri()
        if find_spec("marimo"):
            (home / "marimo" / "app.py").write_text(MARIMO)
            run = ["marimo", "run", "app.py", "--headless", "--port={port}", "--no-token"]
            places["marimo"] = servers.enter_context(serving(home / "marimo", run))[0]
        for when, place in places.items():
            page = watched(browser)
            page.goto(place, wait_until="commit")
            page.locator(".pv-thumbs button").first.wait_for(timeout=300_000)
            page.wait_for_timeout(3000)
            page.evaluate(WATCH)
            rows += as_rows("pocket", when, moves(page, n))
            page.close()
    return rows


def with_all_threads(
    name: str,  # Of the study
    setup: str,  # The cell that makes `runs` and `data`
) -> dict:  # A row
    "The first picture where nobody has set a number of threads, as on a reader's machine"
    with opened(setup, threads=None) as (_, first, _): pass
    says = "from running the cell `explore(runs)`; as many threads as torch takes by itself"
    return row(name, "first picture, threads not set", first, 3000, says)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=50, help="moves of each kind")
    parser.add_argument("--out", type=Path, default=ROOT / "figures" / "bench", help="where to write")
    options = parser.parse_args()
    studies = {"pocket": POCKET, "RN50's sizes": RN50}
    rows = [one for name, setup in studies.items() for one in in_jupyterlab(name, setup, options.moves)]
    table = pd.DataFrame([*rows, *elsewhere(options.moves), with_all_threads("pocket", POCKET)])
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "explorer.csv", index=False)
    lines = [f"| {r.model} | {r.what} | {r.ms:.0f} | {r.bar} | {'yes' if r.ms <= r.bar else '**no**'} | {r.note} |"
             for r in table.itertuples()]
    text = "\n".join(["| model | what | ms | bar | reached | |", "|---|---|---:|---:|---|---|", *lines, "",
                      f"{', '.join(f'{k} {v}' for k, v in machine('cpu').items())}. JupyterLab in headless Chromium.",
                      ""])
    (options.out / "explorer.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__": main()
