"""A sweep over one process, two, one with two threads, and over Ray: how much faster, and what handing out a job costs.

    python tools/bench_sweep.py            # some five minutes on two idle cores; writes figures/bench/sweep.csv and sweep.md

The ways take turns in one run, each in a process of its own, which begins before the clock does; a time is the median of its turns.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "figures" / "bench"
TASK = {"shots": 4, "seed": list(range(1, 9)), "lam": [0, 1], "classes": [["dog", "bus", "eye", "lock", "key", "jar", "leaf", "drum"]], "test_per_class": 4, "views": 0}
LONG, SHORT = {"epochs": 150}, {"epochs": 1}
WAYS = {"one worker, one thread": {"workers": 1}, "two workers, one thread each": {"workers": 2}, "one worker, two threads": {"workers": 1, "threads": 2}, "Ray, two workers, one thread each": {"engine": "ray"}}


def child(way):
    "Seconds of the long grid and of the short one; workers are started, and models loaded, by a sweep before"
    from prograd_viz.sweep import sweep
    options, times = {"progress": False} | WAYS[way], {}
    if options.get("engine") == "ray":
        import ray
        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROGRAD_VIZ_CACHE"] = f"{folder}/features"
        sweep(TASK | SHORT | {"lr": 0.001}, f"{folder}/warm", **options)
        for name, grid in (("long", LONG), ("short", SHORT)):
            began = time.perf_counter()
            result = sweep(TASK | grid, f"{folder}/{name}", **options)
            times[name] = time.perf_counter() - began
            if not result.table["status"].eq("done").all(): sys.exit(result.failures["traceback"].iloc[0])
    print(json.dumps(times))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="one way, in this process")
    opt = parser.parse_args()
    if opt.way: return child(opt.way)
    taken = {way: [] for way in WAYS}
    for turn in range(opt.turns):
        for way in WAYS:
            done = subprocess.run([sys.executable, __file__, "--way", way], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "2" if "two threads" in way else "1"})
            if done.returncode: sys.exit(done.stderr[-3000:])
            taken[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(turn, way, taken[way][-1], flush=True)
    rows = [{"way": way, **{k: median(t[k] for t in times) for k in ("long", "short")}, "fastest": min(t["long"] for t in times), "slowest": max(t["long"] for t in times)} for way, times in taken.items()]
    print(save(pd.DataFrame(rows), opt.turns))


def save(table, turns):
    "Medians as csv and as a page"
    jobs, two = len(TASK["seed"]), table["way"].str.contains("two workers")
    table["faster"] = table["long"].iloc[0] / table["long"]
    table["beside"] = (1000 * (table["short"] - table["short"].iloc[0] / 2) / jobs).where(two)  # two workers do two jobs' work at a time
    OUT.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(OUT / "sweep.csv", index=False)
    lines = ["# Sweeps", "", f"Written by `python tools/bench_sweep.py --turns {turns}`: {jobs} jobs of {len(TASK['lam'])} lambdas on the pocket model, medians of {turns} turns. {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {version('torch').split('+')[0]}, joblib {version('joblib')}, Ray {version('ray')}.", "",
             f"| | {jobs} long jobs, s | fastest to slowest | times faster | {jobs} jobs of one epoch, s | overhead a job, ms |", "|---|---:|---:|---:|---:|---:|"]
    lines += [f"| {r.way} | {r.long:.1f} | {r.fastest:.1f} to {r.slowest:.1f} | {r.faster:.2f} | {r.short:.2f} | {'–' if pd.isna(r.beside) else f'{r.beside:.0f}'} |" for r in table.itertuples()]
    page = "\n".join([*lines, "", "The overhead is what two workers take beside half of what one takes for the jobs of one epoch.", ""])
    (OUT / "sweep.md").write_text(page)
    return page


if __name__ == "__main__": sys.exit(main())
