"""Time a sweep over one worker, two, one with two threads, and over Ray: the speed-up, and the overhead of a job.

    python tools/bench_sweep.py    # five minutes on two idle cores; writes figures/bench/sweep.csv and sweep.md

The ways take turns, each in a process of its own that is started before the clock; a time is the median of its turns.
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
CLASSES = ["dog", "bus", "eye", "lock", "key", "jar", "leaf", "drum"]
TASK = {"shots": 4, "seed": list(range(1, 9)), "lam": [0, 1], "classes": [CLASSES], "test_per_class": 4, "views": 0}
LONG, SHORT = {"epochs": 150}, {"epochs": 1}
WAYS = {
    "one worker, one thread": {"workers": 1},
    "two workers, one thread each": {"workers": 2},
    "one worker, two threads": {"workers": 1, "threads": 2},
    "Ray, two workers, one thread each": {"engine": "ray"},
}


def child(way):
    "Print the seconds of the long and the short grid; a sweep before them starts workers and loads models"
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
    parser.add_argument("--turns", type=int, default=3, help="turns of each way (default: 3)")
    parser.add_argument("--way", choices=WAYS, help="time one way in this process and print JSON")
    opt = parser.parse_args()
    if opt.way: return child(opt.way)
    taken = {way: [] for way in WAYS}
    for turn in range(opt.turns):
        for way in WAYS:
            variables = os.environ | {"OMP_NUM_THREADS": "2" if "two threads" in way else "1"}
            command = [sys.executable, __file__, "--way", way]
            done = subprocess.run(command, capture_output=True, text=True, env=variables)
            if done.returncode: sys.exit(done.stderr[-3000:])
            taken[way].append(json.loads(done.stdout.splitlines()[-1]))
            print(turn, way, taken[way][-1], flush=True)
    print(save(pd.DataFrame([middle(way, times) for way, times in taken.items()]), opt.turns))


def middle(way, times):
    "The row of a way: medians of its turns, and the range of the long grid"
    long, short = ([t[kind] for t in times] for kind in ("long", "short"))
    return {"way": way, "long": median(long), "short": median(short), "fastest": min(long), "slowest": max(long)}


PAGE = """\
# Sweeps

Written by `python tools/bench_sweep.py --turns {turns}`: {jobs} jobs of {lambdas} lambdas on the pocket model, \
medians of {turns} turns. {machine}.

| | {jobs} long jobs, s | fastest to slowest | times faster | {jobs} jobs of one epoch, s | overhead a job, ms |
|---|---:|---:|---:|---:|---:|
{rows}

The overhead is the time of two workers minus half the time of one, for the jobs of one epoch.
"""


def save(table, turns):
    "Medians as csv and as a page"
    jobs, two = len(TASK["seed"]), table["way"].str.contains("two workers")
    table["faster"] = table["long"].iloc[0] / table["long"]
    # two workers do two jobs at a time
    table["beside"] = (1000 * (table["short"] - table["short"].iloc[0] / 2) / jobs).where(two)
    OUT.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(OUT / "sweep.csv", index=False)
    versions = [f"Python {platform.python_version()}", f"torch {version('torch').split('+')[0]}",
                f"joblib {version('joblib')}", f"Ray {version('ray')}"]
    machine = ", ".join([platform.machine(), f"{os.cpu_count()} cores", *versions])
    rows = "\n".join(line_of(r) for r in table.itertuples())
    page = PAGE.format(turns=turns, jobs=jobs, lambdas=len(TASK["lam"]), machine=machine, rows=rows)
    (OUT / "sweep.md").write_text(page)
    return page


def line_of(r):
    overhead = "–" if pd.isna(r.beside) else f"{r.beside:.0f}"
    return (f"| {r.way} | {r.long:.1f} | {r.fastest:.1f} to {r.slowest:.1f} | {r.faster:.2f} | {r.short:.2f} "
            f"| {overhead} |")


if __name__ == "__main__": sys.exit(main())
