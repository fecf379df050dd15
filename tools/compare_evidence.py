"""Compare two computations of the evidence: the archive in figures/evidence/ and one from another machine or version.

    python tools/evidence.py --fresh --out elsewhere            # on the other machine; rewrites its records.jsonl.gz
    python tools/compare_evidence.py records-avx512.jsonl.gz    # writes figures/evidence/compared.md

On one kind of processor, one version always gives the same digits. Another kind adds the same numbers in another
order, float32 rounds differently, and in a few trainings an image near the decision boundary changes sides. This tool
reports how far single prompts, means, verdicts and rank correlations move, and so whether the conclusions hold. The
archive was computed on an AMD EPYC of the third generation, which has AVX2 alone; records-avx512.jsonl.gz beside it on
processors with AVX-512, by a version that computed the attention of short rows class by class.
"""
import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from evidence import (
    LEANS,
    MEASURES,
    PAIR,
    PAIRS,
    PLACES,
    ROOT,
    SHARES,
    ZERO_SHOT,
    _gap,
    _words,
    cells,
    complete,
    correlations,
    prepared,
    settings,
    unpack,
)
from prograd_viz.sweep import Sweep, cells_of

KEY = ["seed", "context", "rho", "shots", "method"]
DIFFERENCE = ["context", "rho", "shots", "method", "against", "column"]
SEEN = {m: f"accuracy, {name}" for m, name in MEASURES.items()}  # column -> its name
SEEN |= {m: f"share on the object, {name}" for m, name in SHARES.items()} | LEANS


def opened(archive):
    "The numbers of an archive's complete seeds, a row per prompt"
    with tempfile.TemporaryDirectory() as folder:
        unpack(archive, Path(folder))
        held = Sweep(Path(folder), cells_of(cells(quick=False)))
        return prepared(Sweep(held.out, complete(held)).results())


def verdicts(table):
    "Differences to CoOp and to zero-shot CLIP with their verdicts: 1 higher, -1 lower, 0 undecided"
    differences = pd.concat([settings(table).differences, settings(table, ZERO_SHOT).differences])
    differences = differences.set_index(DIFFERENCE)
    return differences.assign(verdict=np.sign(differences["mean"]) * differences["decided"])


def rows_md(a, b):
    "Differences of single prompts, a row per column"
    lines = ["| column | prompts with another number | largest difference |", "|---|---|---|"]
    for m, name in SEEN.items():
        apart = (a[m] - b[m]).abs().dropna()
        if len(apart): lines.append(f"| {name} | {(apart > 5e-6).sum():,} of {len(apart):,} | {apart.max():.3f} |")
    return lines


def tallies_md(a, b):
    "Numbers of settings in which ProGrad is above, below or not distinguishable from CoOp, in both"
    which, verdict = f"{PAIR[1]} - {PAIR[0]}", "higher / lower / undecided"
    lines = [f"| {which} | archive: {verdict} | other: {verdict} |", "|---|---|---|"]
    for m, name in SEEN.items():
        pair = [v.xs((*PAIR[::-1], m), level=["method", "against", "column"])["verdict"] for v in (a, b)]
        counts = [" / ".join(str((v == sign).sum()) for sign in (1, -1, 0)) for v in pair]
        if len(pair[0]): lines.append(f"| {name} | {' | '.join(counts)} |")
    return lines


REPORT = """\
# The evidence twice

Written by `python tools/compare_evidence.py {other}`: the archive beside another computation, over the {seeds} seeds \
that are complete in both ({prompts:,} prompts).

- {same:,} of {jobs:,} jobs (the lambdas of one setting and seed) have the same numbers to the last digit.
- The largest difference of a mean over seeds is {mean:.4f}.
- {changed}
- Rank correlations differ by {apart:.4f} at most.

## Verdicts on ProGrad and CoOp

{tallies}

## Single prompts

{rows}
"""


def changes(a, b):
    "The verdicts that differ, in words"
    changed = a.index[a["verdict"] != b["verdict"]]
    end = ":" if len(changed) else "."
    lines = [f"{len(changed)} of {len(a):,} verdicts (higher, lower, undecided) differ{end}"]
    for key in changed:
        context, rho, shots, method, against, column = key
        where = f"{context} contexts, rho {rho:g}, {shots:g} shots, {method} against {against}"
        name = SEEN.get(column, _words(column))
        lines.append(f"  - {where}: {name}, {_gap(a.loc[key])} and {_gap(b.loc[key])}")
    return "\n".join(lines)


def report(archive, other):
    "The text of compared.md"
    tables = opened(archive), opened(other)
    seeds = sorted(set.intersection(*(set(t["seed"]) for t in tables)))
    if not seeds: raise SystemExit(f"no seed is complete in both {str(archive)!r} and {str(other)!r}")
    a, b = (t[t["seed"].isin(seeds)].sort_values(KEY).reset_index(drop=True) for t in tables)
    if not a[KEY].equals(b[KEY]): raise SystemExit("the archives hold different trainings for shared seeds")
    va, vb, places = verdicts(a), verdicts(b), list(PLACES)
    apart = (correlations(a, PAIRS)[places] - correlations(b, PAIRS)[places]).abs().max().max()
    pairs = list(zip(a.groupby(KEY[:4]), b.groupby(KEY[:4])))
    return REPORT.format(
        other=other.name, seeds=len(seeds), prompts=len(a), jobs=len(pairs),
        same=sum(x.equals(y) for (_, x), (_, y) in pairs), mean=(va["mean"] - vb["mean"]).abs().max(),
        changed=changes(va, vb), apart=apart, tallies="\n".join(tallies_md(va, vb)), rows="\n".join(rows_md(a, b)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="the other archive: a path or a name in figures/evidence/")
    opt, folder = parser.parse_args(), ROOT / "figures" / "evidence"
    other = opt.other if opt.other.is_file() else folder / opt.other
    if not other.is_file():
        raise SystemExit(f"no archive {str(opt.other)!r}, nor in figures/evidence/; tools/evidence.py writes it")
    (folder / "compared.md").write_text(report(folder / "records.jsonl.gz", other))


if __name__ == "__main__": main()
