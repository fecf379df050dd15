"""Break the library one line at a time, in a copy, and see which test notices.

    make mutants                        # all of them; writes figures/mutants/mutants.csv
    make mutants ARGS="sign norm"       # those with one of these words in their names, in their rows of the table

`tools/mutants.toml` lists the mutants. Each replaces one piece of text, which must occur exactly once, in a module of
a temporary copy of the tree, and runs the tests that are about that module until one fails. The copy without a mutant
must pass them all.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "figures" / "mutants" / "mutants.csv"
LONGEST = 600  # Seconds that the tests of one mutant may take; an endless loop counts as caught


@dataclass(frozen=True)
class Mutant:
    "One change of one line"
    name: str  # What is wrong with it
    file: str  # Module of the library
    old: str  # Text that occurs there once
    new: str  # Text in its place
    tests: tuple  # Arguments of pytest: the tests that must notice

    def text(self) -> str:
        "The module without the change"
        return (ROOT / "prograd_viz" / f"{self.file}.py").read_text(encoding="utf-8")


def read_mutants() -> list:
    "All mutants of tools/mutants.toml"
    listed = tomllib.loads((ROOT / "tools" / "mutants.toml").read_text(encoding="utf-8"))
    tests = {name: tuple(arguments) for name, arguments in listed["tests"].items()}
    return [Mutant(**{**row, "tests": tests[row["tests"]]}) for row in listed["mutant"]]


def copy_tree(
    to: Path,  # An empty folder
) -> Path:
    "What the tests need of the tree"
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for folder in ("prograd_viz", "tests", "tools"): shutil.copytree(ROOT / folder, to / folder, ignore=skip)
    for file in ("pyproject.toml", "settings.ini"): shutil.copy(ROOT / file, to)
    return to


@contextmanager
def mutated(
    tree: Path,  # A copy
    mutant: Mutant,  # What to break in it
):
    "The copy with one line changed, for the time of a with block"
    path = tree / "prograd_viz" / f"{mutant.file}.py"
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(mutant.old, mutant.new), encoding="utf-8")
    try: yield
    finally: path.write_text(before, encoding="utf-8")


def run(
    tree: Path,  # A copy
    tests: tuple,  # Arguments of pytest
) -> tuple:  # Exit code, first failure or "", end of the output
    "Run tests of a copy on the library of that copy, until the first failure"
    env = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-rfE", "--tb=short", "-p", "no:cacheprovider", *tests]
    try: done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired: return 1, f"ran longer than {LONGEST} seconds", ""
    if f"library: {tree / 'prograd_viz'}\n" not in done.stdout:
        sys.exit(f"the tests did not import the copy in {tree}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.M)
    first = failed[0].partition("::")[2] or failed[0] if failed else ""
    return done.returncode, first, done.stdout[-3000:]


def tried(
    trees: Queue,  # Copies that are free
    tests: tuple,  # Arguments of pytest
    mutant: Mutant | None = None,  # None: the copy as it is
) -> tuple:  # What `run` returns, and seconds
    "Run tests on a free copy"
    tree, start = trees.get(), time.time()
    try:
        if mutant is None: return *run(tree, tests), time.time() - start
        with mutated(tree, mutant): return *run(tree, tests), time.time() - start
    finally: trees.put(tree)


def try_all(
    chosen: list,  # Mutants
    workers: int,  # Copies side by side
) -> list:  # A row per mutant, for the table
    "Check that the tests pass on the library as it is, then break it again and again"
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        trees = Queue()
        for i in range(workers): trees.put(copy_tree(Path(folder).resolve() / str(i)))
        selections = list(dict.fromkeys(m.tests for m in chosen))
        unbroken = pool.map(lambda tests: tried(trees, tests), selections)
        for tests, (code, first, text, seconds) in zip(selections, unbroken):
            if code: sys.exit(f"without a mutant {' '.join(tests)} fails, first {first}:\n{text}")
            print(f"{seconds:6.1f} s  unbroken: {' '.join(tests)}", flush=True)
        broken = pool.map(lambda m: tried(trees, m.tests, m), chosen)
        return [row_of(m, *result) for m, result in zip(chosen, broken)]


def row_of(mutant, code, first, text, seconds):
    "The table's row of a mutant"
    if code not in (0, 1): sys.exit(f"mutant {mutant.name!r} does not run (pytest exit code {code}):\n{text}")
    caught = first if code else "SURVIVED"
    print(f"{seconds:6.1f} s  {mutant.name:44} {mutant.file + '.py':13} {caught}", flush=True)
    return {"name": mutant.name, "file": f"prograd_viz/{mutant.file}.py", "change": change_of(mutant),
            "caught by": caught, "seconds": round(seconds, 1)}


def write_table(
    rows: list,  # From `try_all`
    mutants: list,  # All that there are, in their order
):
    "Put rows into the table, beside those of mutants that were not tried now and have not changed since"
    import pandas as pd
    found = pd.DataFrame(rows).set_index("name")
    if OUT.exists():
        before = pd.read_csv(OUT, index_col="name")
        found = pd.concat([found, before[~before.index.isin(found.index)]])
    known = [m.name for m in mutants if m.name in found.index and found.loc[m.name, "change"] == change_of(m)]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    found.loc[known].to_csv(OUT, lineterminator="\n")
    print(f"\nwrote {OUT.relative_to(ROOT)}: {len(known)} of {len(mutants)} mutants")


def change_of(mutant): return f"{mutant.old} -> {mutant.new or '(nothing)'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of names; default: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="copies side by side")
    options, start = parser.parse_args(), time.time()
    chosen = [m for m in read_mutants() if not options.words or any(word in m.name for word in options.words)]
    if not chosen: sys.exit(f"no mutant has {' or '.join(options.words)} in its name")
    for mutant in chosen:
        times = mutant.text().count(mutant.old)
        if times != 1:
            sys.exit(f"mutant {mutant.name!r}: {mutant.old!r} occurs {times} times in {mutant.file}.py, not once")
    rows = try_all(chosen, options.workers)
    alive = [row["name"] for row in rows if row["caught by"] == "SURVIVED"]
    write_table(rows, read_mutants())
    print(f"{len(rows) - len(alive)} of {len(rows)} mutants caught in {time.time() - start:.0f} s")
    if alive: sys.exit(f"nothing catches: {', '.join(alive)}")


if __name__ == "__main__": main()
