"""Run every notebook as `nbdev_test` does, two at a time and the longest first: one that began last would run alone.

    python tools/check_notebooks.py   # a part of make test; notebooks in nbs/ are not written to
"""
import csv
import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

from fastcore.parallel import parallel
from nbdev.test import test_nb

ROOT = Path(__file__).resolve().parent.parent
TIMES = ROOT / "figures" / "times" / "times.csv"
ELSEWHERE = {"colab.ipynb"}  # tests/test_environments.py runs it
SHARED = ("prograd_viz.all", "open_clip", "pytorch_grad_cam")  # Slow to import: once, where processes are forked


def notebooks() -> list:
    "Paths, those first that took longest when `make times` ran last, or that it does not know"
    # zh holds the English notebooks' code, cell by cell: tests/test_translation.py
    found = [path for path in sorted((ROOT / "nbs").rglob("*.ipynb")) if path.name not in ELSEWHERE
             and not {"zh", ".ipynb_checkpoints"} & set(path.parts)]
    with TIMES.open(encoding="utf-8") as file:
        seconds = {row["name"]: float(row["seconds"]) for row in csv.DictReader(file) if row["kind"] == "notebook"}
    return sorted(found, key=lambda path: -seconds.get(path.name, 1e9))


def main() -> int:
    "Run them, print what each took, and name those that failed"
    paths = notebooks()
    print(f"{len(paths)} notebooks, two at a time", flush=True)
    os.chdir(ROOT / "nbs")
    for name in SHARED: import_module(name)
    results = parallel(partial(test_nb, basepath=ROOT, do_print=True), paths, n_workers=2, pause=0.01)
    failed = [path.name for path, (passed, _) in zip(paths, results) if not passed]
    for took, name in sorted([(took, path.name) for path, (_, took) in zip(paths, results)], reverse=True):
        print(f"{name}: {took:.0f} secs")
    if failed: print("these notebooks failed:", *failed, sep="\n  ", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__": sys.exit(main())
