"""Two computations of the evidence side by side: the archive in figures/evidence/, and one from another machine or version.

    python tools/evidence.py --fresh --out elsewhere            # on another machine, or by another version, which rewrites its records.jsonl.gz
    python tools/compare_evidence.py records-avx512.jsonl.gz    # compares such a file with the archive; writes figures/evidence/compared.md

On one kind of processor, two computations by one version give the same digits. Another kind adds up the same numbers in another order:
float32 is rounded elsewhere, and in a few trainings an image near the boundary falls to the other side. What counts then is whether the
sentences stay: this says how far single prompts, means, verdicts and rank correlations move. The archive was computed on an AMD EPYC of
the third generation, which has AVX2 alone; records-avx512.jsonl.gz, which lies beside it, on processors with AVX-512, before
the attention of short rows went over all classes at once.
"""
import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from evidence import LEANS, MEASURES, PAIR, PAIRS, PLACES, ROOT, SHARES, _gap, _words, cells, complete, correlations, prepared, settings, unpack
from prograd_viz.sweep import Sweep, cells_of

KEY, SETTING = ["seed", "context", "rho", "shots", "method"], ["context", "rho", "shots", "method", "against", "measure"]
SEEN = {m: f"accuracy, {name}" for m, name in MEASURES.items()} | {m: f"share on the object, {name}" for m, name in SHARES.items()} | LEANS  # column -> its name


def opened(archive):
    "The numbers of an archive's complete seeds, a row per prompt"
    with tempfile.TemporaryDirectory() as folder:
        unpack(archive, Path(folder))
        held = Sweep(Path(folder), cells_of(cells(quick=False)))
        return prepared(Sweep(held.out, complete(held)).results())


def verdicts(table):
    "Differences to CoOp and to zero-shot CLIP, and what each says: 1 higher, -1 lower, 0 undecided"
    differences = pd.concat([settings(table).differences, settings(table, "zero-shot").differences]).set_index(SETTING)
    return differences.assign(verdict=np.sign(differences["mean"]) * differences["decided"])


def rows_md(a, b):
    "How far single prompts move, a row per measure"
    lines = ["| measure | prompts with another number | largest difference |", "|---|---|---|"]
    for m, name in SEEN.items():
        apart = (a[m] - b[m]).abs().dropna()
        if len(apart): lines.append(f"| {name} | {(apart > 5e-6).sum():,} of {len(apart):,} | {apart.max():.3f} |")
    return lines


def tallies_md(a, b):
    "Settings in which ProGrad's interval lies above, or below, CoOp's, in both"
    lines = [f"| {PAIR[1].removesuffix(' 1')} - {PAIR[0]} | archive: higher / lower / undecided | other: higher / lower / undecided |", "|---|---|---|"]
    for m, name in SEEN.items():
        pair = [v.xs((*PAIR[::-1], m), level=["method", "against", "measure"])["verdict"] for v in (a, b)]
        if len(pair[0]): lines.append(f"| {name} | {' | '.join(' / '.join(str((v == sign).sum()) for sign in (1, -1, 0)) for v in pair)} |")
    return lines


def report(archive, other):
    tables = opened(archive), opened(other)
    seeds = sorted(set.intersection(*(set(t["seed"]) for t in tables)))
    if not seeds: raise SystemExit(f"no seed is complete in both {str(archive)!r} and {str(other)!r}")
    a, b = (t[t["seed"].isin(seeds)].sort_values(KEY).reset_index(drop=True) for t in tables)
    if not a[KEY].equals(b[KEY]): raise SystemExit("the two hold other trainings for the seeds they share")
    va, vb = (verdicts(t) for t in (a, b))
    changed = va.index[va["verdict"] != vb["verdict"]]
    places = list(PLACES)
    apart = (correlations(a, PAIRS)[places] - correlations(b, PAIRS)[places]).abs().max().max()
    same = sum(x.equals(y) for (_, x), (_, y) in zip(a.groupby(KEY[:4]), b.groupby(KEY[:4])))
    return ["# The evidence twice", "", f"Written by `python tools/compare_evidence.py {other.name}`: the archive beside another computation, over the {len(seeds)} seeds that are complete in both ({len(a):,} prompts).", "",
            f"- {same:,} of {a.groupby(KEY[:4]).ngroups:,} jobs (the lambdas of one setting and seed) have the same numbers to the last digit.",
            f"- The largest difference of a mean over seeds is {(va['mean'] - vb['mean']).abs().max():.4f}.",
            f"- {len(changed)} of {len(va):,} verdicts (higher, lower, undecided) differ" + (":" if len(changed) else "."),
            *(f"  - {context} contexts, rho {rho:g}, {shots:g} shots, {method} against {against}: {SEEN.get(measure, _words(measure))}, {_gap(va.loc[key])} and {_gap(vb.loc[key])}" for key in changed for context, rho, shots, method, against, measure in [key]),
            f"- Rank correlations differ by {apart:.4f} at most.", "",
            "## Verdicts on ProGrad and CoOp", "", *tallies_md(va, vb), "", "## Single prompts", "", *rows_md(a, b), ""]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="records of another computation: a path, or a name in figures/evidence/")
    opt, folder = parser.parse_args(), ROOT / "figures" / "evidence"
    other = opt.other if opt.other.is_file() else folder / opt.other
    if not other.is_file(): raise SystemExit(f"no archive at {str(opt.other)!r}, nor in figures/evidence/; give a records.jsonl.gz that tools/evidence.py wrote")
    (folder / "compared.md").write_text("\n".join(report(folder / "records.jsonl.gz", other)))


if __name__ == "__main__": main()
