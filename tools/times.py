"""How long `make test` takes, and which notebooks and tests take it. Writes figures/times/.

    python tools/times.py            # runs make test once; ends with its exit status
"""
import csv
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "figures" / "times"
LONGEST = 12  # Rows of each table


def run(
    report: Path,  # Where pytest writes its times
) -> tuple:  # Exit status, seconds of each stage, seconds of each notebook
    "Run `make test` and watch what it prints"
    subprocess.run(["make", "env"], cwd=ROOT, check=True)
    began = {"check": time.perf_counter()}
    notebooks = {}
    command = ["make", "test", f"ARGS=--junitxml={report}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if "notebooks, two at a time" in line: began["notebooks"] = time.perf_counter()
            if "test session starts" in line: began["tests"] = time.perf_counter()
            timed = re.match(r"(\S+\.ipynb): (\d+) secs", line)
            if timed: notebooks[timed[1]] = int(timed[2])
    ends = [*list(began.values())[1:], time.perf_counter()]
    return process.returncode, dict(zip(began, (end - start for start, end in zip(began.values(), ends)))), notebooks


def tests(
    report: Path,  # From pytest --junitxml
) -> list:  # (file, test, seconds)
    "What each test took, its fixtures included"
    cases = ElementTree.parse(report).iter("testcase")
    return [(case.get("classname").replace(".", "/") + ".py", case.get("name"), float(case.get("time")))
            for case in cases]


def table(
    title: str,  # Of the first column
    rows: list,  # (name, seconds)
) -> list:  # Lines
    "The rows that take longest, and the sum of all"
    longest = sorted(rows, key=lambda row: -row[1])[:LONGEST]
    lines = [f"| {title} | s |", "|---|---:|"]
    lines += [f"| {name} | {seconds:.0f} |" for name, seconds in longest]
    return [*lines, f"| all {len(rows)} | {sum(seconds for _, seconds in rows):.0f} |", ""]


def machine() -> str:
    "Processor, cores and Python"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return f"{name}, {os.cpu_count()} cores, {vectors}, Python {platform.python_version()}"


def save(
    stages: dict,  # Stage -> seconds
    notebooks: dict,  # Notebook -> seconds
    cases: list,  # From `tests`
) -> str:  # The page
    "Write times.csv and times.md"
    files = {}
    for file, _, seconds in cases: files[file] = files.get(file, 0) + seconds
    OUT.mkdir(parents=True, exist_ok=True)
    with open(OUT / "times.csv", "w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow(["kind", "name", "seconds"])
        rows.writerows(["stage", name, f"{seconds:.1f}"] for name, seconds in stages.items())
        rows.writerows(["notebook", name, seconds] for name, seconds in sorted(notebooks.items()))
        rows.writerows(["test", f"{file}::{name}", f"{seconds:.2f}"] for file, name, seconds in cases)
    each = [(f"{file}::{name}", seconds) for file, name, seconds in cases]
    total = sum(stages.values())
    page = ["# How long the tests take", "",
            f"`make test` took {total:.0f} s ({total / 60:.1f} minutes) without `make env`, two notebooks or tests "
            f"at a time. {machine()}.",
            "Written by `python tools/times.py`; every notebook and test is in [times.csv](times.csv).", "",
            *table("stage", list(stages.items())), *table("notebook", list(notebooks.items())),
            *table("file of tests", list(files.items())), *table("test", each)]
    (OUT / "times.md").write_text("\n".join(page), encoding="utf-8")
    return "\n".join(page)


def main() -> int:
    "Run the tests once and write what they took"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        status, stages, notebooks = run(report)
        if status == 0: print(save(stages, notebooks, tests(report)))
        else: print("make test failed: no table is written", file=sys.stderr)
    return status


if __name__ == "__main__": sys.exit(main())
