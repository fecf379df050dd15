"""The explorer's pictures, and the animation of the README: the report of a whole training, moved by keys in Chromium.

Each image is the first of its class that the three methods classify differently at the end; the maps are Occlusion's,
since about one in five of Grad-CAM's is empty.

    python tools/recording.py   # two minutes; writes figures/app/ (what `make app` opens) and figures/explorer/
"""
import argparse
import io
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from lab import ROOT, chromium, watched
from prograd_viz.clip import load_clip
from prograd_viz.evaluate import disagreeing
from prograd_viz.landscape import landscape
from prograd_viz.report import save_report
from prograd_viz.runs import load_runs
from prograd_viz.screen import ExplorerData, explorer_data
from prograd_viz.tasks import few_shot
from prograd_viz.training import train

APP, OUT = ROOT / "figures" / "app", ROOT / "figures" / "explorer"


def prepare() -> None:
    "Train what the app shows, and keep its images"
    clip, task = load_clip("pocket"), few_shot("pocket", shots=8, seed=1, test_per_class=10)
    shutil.rmtree(APP, ignore_errors=True)
    runs = train(clip, task, lambdas=[0, 0.5, 1], snapshot_every=10, out=APP, checkpoint_every=600, progress=False)
    explorer_data(runs, images=disagreeing(runs, images=8), explainer="Occlusion").save(APP / "explorer.safetensors")
    (APP / ".lock").unlink(missing_ok=True)


def frames(
    page,  # With the report
) -> list:  # Images
    "CoOp against ProGrad over the steps, then lambda at the end"
    taken, root = [], page.locator(".pv-root")

    def take(**state):
        root.evaluate("(root, state) => root.explorer.state.set(state)", state)
        page.wait_for_timeout(600)  # the sentence below follows when nothing has moved for a while
        taken.append(Image.open(io.BytesIO(root.screenshot())).convert("RGB"))

    steps = root.evaluate("root => root.explorer.training().places")
    for at in np.linspace(0, len(steps) - 1, 31).round().astype(int): take(lam=1.0, step=steps[at], image=0)
    for lam in (0.5, 0.0, 0.5, 1.0): take(lam=lam)
    for image in (1, 2, 0): take(image=image)
    return taken


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    prepare()
    runs = load_runs(APP, load_clip("pocket"), few_shot("pocket", shots=8, seed=1, test_per_class=10))
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        data, land = ExplorerData.load(APP / "explorer.safetensors"), landscape(runs, size=31, progress=False)
        path = save_report(runs, Path(folder) / "report.html", data=data, land=land)
        for scheme, ending in (("light", ""), ("dark", "-dark")):
            page = watched(browser, 1200, 1180, color_scheme=scheme)
            page.goto(path.as_uri())
            page.locator(".pv-thumbs button").nth(7).wait_for()
            page.evaluate("document.querySelector('.hint').hidden = true")
            page.wait_for_timeout(300)
            page.evaluate("document.querySelector('.pv-root').explorer.state.set({ image: 0 })")
            page.wait_for_timeout(700)
            page.locator(".pv-root").screenshot(path=OUT / f"explorer{ending}.png")
            if scheme == "light": moving = frames(page)
            if page.wrong: raise SystemExit(page.wrong)
    small = [frame.resize((900, round(frame.height * 900 / frame.width)), Image.Resampling.LANCZOS) for frame in moving]
    waits = [160] * 30 + [900] * (len(small) - 30)
    small[0].save(OUT / "explorer.webp", save_all=True, append_images=small[1:], duration=waits, loop=0,
                  quality=55, method=6)
    print(f"{OUT / 'explorer.webp'}: {(OUT / 'explorer.webp').stat().st_size / 1e6:.2f} MB, {len(small)} frames")


if __name__ == "__main__": main()
