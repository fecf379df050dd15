"""Survival of run sets, with real processes: kills, damage, full disks, two writers, hostile files, Ctrl-C, long runs.

    make soak                              # all tests, eight minutes on 2 cores with AVX-512; resumes where it stopped
    make soak ARGS="--only kills damage"   # some of them
    make soak ARGS=--fresh                 # from the start, with a new seed

Each case is written to figures/soak/NAME.csv as soon as it ends; figures/soak/summary.csv lists which bars are met.
`tests/test_survival.py` runs the same functions with fewer cases and a fresh seed.
"""
import argparse
import atexit
import csv
import json
import mmap
import os
import platform
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import psutil
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded

import prograd_viz
from prograd_viz.clip import load_clip
from prograd_viz.runs import Lazy, Runs, load_runs, run_name, save_runs
from prograd_viz.store import MAX_HELD, RUN, TENSORS, Folder, Part, read_contents, repair, sha256, verify
from prograd_viz.tasks import few_shot
from prograd_viz.training import train

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "figures" / "soak"
LIBRARY = Path(prograd_viz.__file__).parent
REFUSALS = (ValueError, OSError)


# -- what is trained ----------------------------------------------------------

@cache
def world():
    "A small task for the pocket model, its features computed, so that a forked child begins to train at once"
    torch.set_num_threads(1)
    clip = load_clip("pocket")
    task = few_shot("pocket", shots=4, seed=3, classes=4, test_per_class=2)
    for split in (task.train, *task.tests.values()): split.features(clip)
    return clip, task


def options(epochs=40):
    return {"lambdas": [0, 0.5, 1], "epochs": epochs, "batch_size": 8, "views": 0, "progress": False,
            "snapshot_every": 2, "evaluate_every": 7, "lr": 0.01}


@cache
def reference(epochs=40):
    "The training that nobody disturbs"
    return train(*world(), **options(epochs))


def arrays(runs):
    names = ("contexts", "text_features", "token_cos", "snapshot_steps", "zero_shot")
    return {name: np.asarray(getattr(runs, name)) for name in names}


def identical(a, b):
    "Bit for bit, but for the clock"
    first, second = (runs.steps.drop(columns="seconds") for runs in (a, b))
    try: pd.testing.assert_frame_equal(first, second, check_exact=True)
    except AssertionError: return False
    x, y = arrays(a), arrays(b)
    same = [x[k].dtype == y[k].dtype and np.array_equal(x[k], y[k], equal_nan=True) for k in x]
    return a.methods == b.methods and a.classes == b.classes and all(same)


def is_beginning(part, whole):
    "Bit for bit the first steps of the whole, and some of its snapshots; accuracies may be missing"
    s = len(part.token_cos)
    first = whole.steps[whole.steps["step"] <= s].reset_index(drop=True)
    same = [c for c in first if c != "seconds" and not c.startswith("acc_")]
    if s and not part.steps[same].equals(first[same]): return False
    for name in (c for c in first if c.startswith("acc_")):
        both = part.steps[name].notna() & first[name].notna()
        if not part.steps.loc[both, name].equals(first.loc[both, name]): return False
    shared, mine, theirs = np.intersect1d(part.snapshot_steps, whole.snapshot_steps, return_indices=True)
    # the last snapshot of an interrupted training may be at a step where the whole has none
    if not np.isin(part.snapshot_steps[:-1], shared).all(): return False
    for name in ("contexts", "text_features"):
        a, b = (np.asarray(getattr(runs, name)) for runs in (part, whole))
        if not np.array_equal(a[mine], b[theirs]): return False
    same_zero_shot = np.array_equal(part.zero_shot, whole.zero_shot)
    return same_zero_shot and np.array_equal(part.token_cos, whole.token_cos[:s], equal_nan=True)


def forked(job):
    "Run a job in a forked process, which starts with everything imported and computed here; returns its id"
    sys.stdout.flush()
    pid = os.fork()
    if pid: return pid
    try:
        job()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


# -- SIGKILL ------------------------------------------------------------------

def kills(seed, cases, start=0, epochs=40):
    "Kill a training at moments spread over its length, every second time while it writes a checkpoint, and resume it"
    whole = reference(epochs)
    n = int(whole.steps["step"].max())
    for i in range(start, cases):
        rng = random.Random(f"{seed} kill {i}")
        for _ in range(20):  # a training that had ended before the signal came was not killed: again
            at = 1 + round((i + rng.random()) / cases * (n - 2))
            with tempfile.TemporaryDirectory() as folder:
                killed, row = one_kill(Path(folder) / "run", at, i % 2 == 0, rng, whole, epochs)
            if killed: break
        yield {"case": i, **row, "passed": killed and row["passed"]}


def one_kill(folder, at, aimed, rng, whole, epochs):
    "Kill after a step, aimed at a write or a random part of a step later; then look at what is left, and resume"
    steps = mmap.mmap(-1, 8)
    tell = lambda step, record: steps.__setitem__(slice(0, 8), struct.pack("<q", step))
    kept = {"out": folder, "checkpoint_every": rng.choice((1, 2, 3)), "callbacks": [tell]}
    pid = forked(lambda: train(*world(), **options(epochs), **kept))
    while struct.unpack("<q", steps[:8])[0] < at: time.sleep(0.0005)
    limit = time.time() + 2
    if aimed:
        while not writing(folder) and time.time() < limit: pass
        time.sleep(rng.random() * 0.003)
    else: time.sleep(rng.random() * 0.03)
    os.kill(pid, signal.SIGKILL)
    killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    inside = writing(folder)
    begun = (folder / RUN).exists()
    left = len(load_runs(folder).token_cos) if begun else 0
    clean = not begun or sound(folder)
    good = identical(train(*world(), **options(epochs), out=folder, resume=True), whole)
    good = good and identical(load_runs(folder), whole) and sound(folder)
    return killed, {"killed_after_step": struct.unpack("<q", steps[:8])[0], "of": int(whole.steps["step"].max()),
                    "inside_a_write": inside, "steps_on_disk": left, "clean_before_resume": clean, "identical": good,
                    "passed": clean and good}


def writing(folder):
    "Whether a checkpoint is being written: a temporary file, or a part that `run.json` does not list yet"
    try:
        names = os.listdir(folder)
        if any(name.endswith(".tmp") for name in names): return True
        parts = [name for name in names if name.endswith(".safetensors")]
        listed = {part["name"] for part in body_of(folder)["parts"]} if RUN in names else set()
        return not listed.issuperset(parts)
    except (OSError, ValueError): return False


def body_of(folder): return json.loads((Path(folder) / RUN).read_bytes())["run"]


def sound(folder): return not any(finding.problem for finding in verify(folder))


# -- damage -------------------------------------------------------------------

@cache
def specimen(epochs=40):
    "A finished run set on disk, and everything in it"
    folder = Path(tempfile.mkdtemp(prefix="specimen-")) / "run"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    return folder, train(*world(), **options(epochs), out=folder, checkpoint_every=7)  # parts of seven steps


def damage(seed, cases, start=0, epochs=40):
    "Flip bytes or cut files, read everything, repair, read again"
    source, whole = specimen(epochs)
    files = contents_of(source)
    for i in range(start, cases):
        rng = random.Random(f"{seed} damage {i}")
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder) / "run"
            shutil.copytree(source, folder)
            name = files[i % len(files)]
            yield {"case": i, "file": name, **one_damage(folder, name, rng, whole)}


def one_damage(folder, name, rng, whole):
    "One file of a run set is damaged"
    content, kind = bytearray((folder / name).read_bytes()), rng.choice(("bit", "byte", "block", "cut"))
    at = rng.randrange(len(content))
    if kind == "bit": content[at] ^= 1 << rng.randrange(8)
    elif kind == "byte": content[at] = (content[at] + rng.randrange(1, 256)) % 256
    elif kind == "block": content[at:at + 64] = bytes(b ^ rng.randrange(1, 256) for b in content[at:at + 64])
    else: del content[at:]
    (folder / name).write_bytes(content)
    outcome, says = read_all(folder, whole)
    try: noticed = [f.file for f in verify(folder) if f.problem] == [name]
    except REFUSALS: noticed = False
    header, before = before_damage(folder, name, whole)
    saved = recovered(folder, before, whole)
    part = name != RUN
    return {"kind": kind, "at": at, "in_a_part": part, "in_a_tensor": part and at >= header, "read": outcome,
            "says": says[:160], "noticed_by_verify": noticed, "steps_before": before, "repaired": saved,
            "passed": outcome in ("refused", "right") and noticed and saved}


def contents_of(folder): return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def read_all(folder, whole):
    "Open a run set and read every number: 'right', 'refused' with the library's own message, 'wrong', or 'crashed'"
    try: same = identical(load_runs(folder), whole)
    except REFUSALS as e:
        named = is_ours(e) and str(folder) in str(e)
        return ("refused" if named else "crashed"), str(e).replace(str(folder), "run")
    except Exception as e: return "crashed", repr(e)
    return ("right" if same else "wrong"), ""


def is_ours(error): return Path(traceback.extract_tb(error.__traceback__)[-1].filename).parent == LIBRARY


def before_damage(folder, name, whole):
    "Bytes of the header of a damaged file, and the steps of all complete parts before it"
    if name == RUN: return 0, 0  # without it nothing is known of the parts
    parts = read_contents(Folder.of(folder)).parts
    at = [part.name for part in parts].index(name)
    return parts[at].header[0], max((part.steps[-1] for part in parts[:at] if part.steps), default=0)


def recovered(folder, before, whole):
    "A repaired folder is sound and holds at least the steps before the damage; where there are none, repair may refuse"
    try:
        repair(folder)
        left = load_runs(folder)
        return sound(folder) and len(left.token_cos) >= before and is_beginning(left, whole)
    except ValueError as e: return before == 0 and is_ours(e) and "nothing can be saved" in str(e)
    except Exception as e:
        print(repr(e)[:300])
        return False


# -- full disks ---------------------------------------------------------------

def full_disk(seed, cases, start=0, epochs=40):
    "Fill the disk while a training writes: a small tmpfs or, where none can be mounted, a limit to the size of files"
    whole, sizes = reference(epochs), [p.stat().st_size for p in specimen(epochs)[0].iterdir()]
    for i in range(start, cases):
        rng = random.Random(f"{seed} full {i}")
        share = (i + rng.random()) / cases * 0.8 + 0.1
        space = int(share * sum(sizes))
        with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder), space) as (way, enlarge):
            out = Path(folder) / "run"
            said = filled(out, epochs) if way == "tmpfs" else limited(out, int(share * max(sizes)), epochs)
            left = load_runs(out) if (out / RUN).exists() else None
            steps = 0 if left is None else len(left.token_cos)
            safe = left is None or (is_beginning(left, whole) and sound(out) and steps >= promised(said))
            enlarge()
            good = identical(train(*world(), **options(epochs), out=out, resume=True, checkpoint_every=3), whole)
            told = "no space left" in said if said else share > 0.85
            yield {"case": i, "way": way, "share": round(share, 3), "says": said[:200].replace(str(folder), ""),
                   "steps_on_disk": steps, "safe": safe, "resumed": good, "passed": told and safe and good}


def filled(out, epochs):
    "Train until the disk is full; returns the message of the error"
    try: train(*world(), **options(epochs), out=out, checkpoint_every=3)
    except OSError as e: return str(e)
    return ""


def promised(message):
    "The number of steps that an error calls safe"
    words = message.split()
    return int(words[words.index("steps") - 1]) if "steps are safe" in message else 0


@contextmanager
def small_disk(folder, size):
    "Yield the kind of limit, and a function that lifts it"
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size // 1024 + 1}k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        yield "limit", lambda: None
        return
    try: yield "tmpfs", lambda: subprocess.run(["mount", "-o", "remount,size=1g", folder], check=True)
    finally: subprocess.run(["umount", "-l", folder], check=True)  # lazily: opened run sets hold their files


def limited(out, size, epochs):
    "Train in a process whose files may not grow beyond a size; returns what its error says"
    read, write = os.pipe()
    def job():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try: train(*world(), **options(epochs), out=out, checkpoint_every=3)
        except OSError as e: os.write(write, str(e).encode())
    pid = forked(job)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as pipe: return pipe.read()


# -- two writers --------------------------------------------------------------

def writers(seed, cases, start=0, epochs=40):
    "A second process tries to write into a folder while the first one trains into it"
    for i in range(start, cases):
        at = random.Random(f"{seed} writers {i}").randrange(2, epochs * 3 // 2)
        with tempfile.TemporaryDirectory() as folder: refused, good = two_writers(Path(folder) / "run", at, epochs)
        yield {"case": i, "second_came_after_step": at, **{f"{k}_refused": v for k, v in refused.items()},
               "undamaged": good, "passed": all(refused.values()) and good}


def two_writers(out, at, epochs):
    "Whether each way of writing was refused after step `at` of a training, and whether the training is undamaged"
    whole, shared = reference(epochs), mmap.mmap(-1, 16)  # the step of the first; whether the second has tried
    last = int(whole.steps["step"].max())

    def tell(step, record):
        shared[:8] = struct.pack("<q", step)
        time.sleep(0.002)
        while step == last and not any(shared[8:]): time.sleep(0.001)  # the first must not end before the second tries

    pid = forked(lambda: train(*world(), **options(epochs), out=out, checkpoint_every=2, callbacks=[tell]))
    while struct.unpack("<q", shared[:8])[0] < at: time.sleep(0.001)
    tries = {
        "train": partial(train, *world(), **options(epochs), out=out),
        "resume": partial(train, *world(), **options(epochs), out=out, resume=True),
        "save": partial(whole.save, out),
        "repair": partial(repair, out),
    }
    refused = {name: says_who_writes(call, pid) for name, call in tries.items()}
    shared[8:] = struct.pack("<q", 1)
    while os.waitpid(pid, os.WNOHANG) == (0, 0): time.sleep(0.01)
    return refused, identical(load_runs(out), whole) and sound(out)


def says_who_writes(call, pid):
    "Whether a call is refused with the process that writes"
    try: call()
    except OSError as e: return f"process {pid} on {socket.gethostname()}" in str(e)
    return False


# -- hostile files ------------------------------------------------------------

class Bomb:
    def __reduce__(self): return os.system, ("touch pickle-was-run",)


def resealed(folder, change):
    "A `run.json` that was changed by someone who knows how to seal it"
    body = body_of(folder)
    change(body)
    write_sealed(folder / RUN, body)


def write_sealed(path, body): seal(path, json.dumps(body, separators=(",", ":")).encode())


def seal(path, text): path.write_bytes(b'{"sha256":"%s","run":%s}\n' % (sha256(text).encode(), text))


def put(folder, name, content):
    "A file in the place of another, and a `run.json` that vouches for all its bytes"
    (folder / name).write_bytes(content)
    if name == RUN: return

    def vouch(body):
        part = next(part for part in body["parts"] if part["name"] == name)
        known = Part(**part)
        part["header"][1] = sha256(content[:known.header[0]])
        for key, place in part["tensors"].items(): place[3] = sha256(content[slice(*known.span(key))])
    resealed(folder, vouch)


def poisoned(folder, name, tensor, value):
    "The last number of a tensor is another"
    content = bytearray((folder / name).read_bytes())
    end = Part(**next(part for part in body_of(folder)["parts"] if part["name"] == name)).span(tensor)[1]
    content[end - 4:end] = struct.pack("<f", value)
    put(folder, name, bytes(content))


def hostile_cases():
    "Name -> what is done to a copy of a run set"
    return {**hostile_bytes(), **hostile_parts(), **hostile_tensors(), **hostile_words()}


FIRST, SECOND = "part-00001.safetensors", "part-00002.safetensors"
ODD = (None, -1, "x", [], {}, [{}], 1.5, 2**70)


def hostile_bytes():
    "Other things in the place of a file"
    import io
    import pickle
    import zipfile
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as file: file.writestr("zeros", bytes(200_000_000))
    bomb, pickled = zipped.getvalue(), pickle.dumps(Bomb())
    instead = {"link": partial(os.symlink, "/etc/passwd"), "device": partial(os.symlink, "/dev/zero"),
               "pipe": os.mkfifo, "folder": os.mkdir}
    cases = {}
    for name in (RUN, FIRST, SECOND):
        for what, content in (("pickle", pickled), ("zip bomb", bomb)):
            cases[f"{what} as {name}"] = lambda f, n=name, c=content: (f / n).write_bytes(c)
            cases[f"sealed {what} as {name}"] = lambda f, n=name, c=content: put(f, n, c)
        for what, make in instead.items():
            cases[f"{what} as {name}"] = lambda f, n=name, m=make: ((f / n).unlink(), m(f / n))
        cases[f"a terabyte of nothing as {name}"] = lambda f, n=name: os.truncate(f / n, 2**40)
        cases[f"no {name}"] = lambda f, n=name: (f / n).unlink()
        for length in (2**31, 2**60, 2**64 - 1, 0):
            start = struct.pack("<Q", length)
            longer = lambda f, n=name, s=start: put(f, n, s + (f / n).read_bytes()[8:])
            cases[f"header of {length} bytes in {name}"] = longer
    seals = {
        "a million brackets": b"[" * 10**6 + b"]" * 10**6,
        "a number of a million digits": b'{"format":' + b"9" * 10**6 + b"}",
        "nothing": b"", "a word": b'"x"', "brackets that stay open": b"[" * 10**6, "other text": b"\xff\xfe\x00",
    }
    for what, text in seals.items(): cases[f"sealed {what}"] = lambda f, t=text: seal(f / RUN, t)
    return cases


def of_part(place, change):
    "A change of one part in `run.json`"
    return lambda f: resealed(f, lambda body: change(body["parts"][place]))


def hostile_parts():
    "Other things in the description of a part, the first or a later one"
    cases = {}
    names = ("../../x", "/etc/passwd", "..", RUN, ".", "", "a\0b", f"{FIRST}/../x", "part-1.safetensors", FIRST + "\n")
    for i in (0, 1):
        for name in (*names, None, 3, [FIRST]):
            cases[f"part {i} in {name!r}"] = of_part(i, lambda p, x=name: p.update(name=x))
        for key in ("name", "steps", "snapshots", "header", "tensors"):
            cases[f"part {i} without {key}"] = of_part(i, lambda p, k=key: p.pop(k))
            for value in ODD:
                cases[f"part {i}: {key} is {value!r}"] = of_part(i, lambda p, k=key, x=value: p.update({k: x}))
        for steps in ([1], [5, 1], [1, 2, 3], [-1, 5], [0, 2**80], [1.5, 2], [None, None], ["a", "b"], [True, True]):
            cases[f"part {i}: steps {steps}"] = of_part(i, lambda p, x=steps: p.update(steps=x))
            if steps in ([1], [1, 2, 3]): continue  # a set of snapshots like any other
            cases[f"part {i}: snapshots {steps}"] = of_part(i, lambda p, x=steps: p.update(snapshots=x))
        zeros = "0" * 64
        for header in ([8], [8, zeros, 1], ["8", zeros], [-8, zeros], [2**50, zeros], [None, None], [1.5, "x"]):
            cases[f"part {i}: header {str(header)[:30]}"] = of_part(i, lambda p, x=header: p.update(header=x))
        cases[f"part {i} with another key"] = of_part(i, lambda p: p.update(other=1))
    cases["a part twice"] = lambda f: resealed(f, lambda body: body["parts"].append(body["parts"][-1]))
    cases["parts in another order"] = lambda f: resealed(f, lambda body: body["parts"].reverse())
    return cases


def of_tensor(part, name, place, value):
    "A change of what `run.json` says of a tensor: its type, shape, start or hash"
    return of_part(part, lambda p: p["tensors"][name].__setitem__(place, value))


def hostile_tensors():
    "Other types, shapes, places and numbers of tensors"
    cases = {}
    shapes = ([2**31], [2**31, 2**31], [3, 2**31, 2**31], [0, 1], [-1, -4, 128], [3.5], "ab", None, [1] * 40,
              [2**47, 3],
              [True, 4, 128], [], {}, [1, 3, 0, 0], [0, 3, 4, 128], [2**39] * 5, ["3"], [[3]])
    types = ("F16", "I64", "BOOL", "F8_E4M3", "U8", "F64", None, 7, [], {})
    for i in (0, 1):
        for name in (*list(TENSORS)[:4], *(["zero_shot"] if i == 0 else ["state.context"])):
            put_in, which = partial(of_tensor, i, name), f"{name} of part {i}"
            for dtype in types: cases[f"{which} of type {dtype}"] = put_in(0, dtype)
            for shape in shapes: cases[f"{which} of shape {str(shape)[:40]}"] = put_in(1, shape)
            for start in (0, -8, 2**62, None, "0", 1.5): cases[f"{which} at {start}"] = put_in(2, start)
            for digest in ("", "0" * 64, None, 7, "g" * 64):
                cases[f"{which} with hash {str(digest)[:5]}"] = put_in(3, digest)
            cases[f"part {i} without {name}"] = of_part(i, lambda p, n=name: p["tensors"].pop(n))
            for value in ODD:
                cases[f"{which} is {value!r}"] = of_part(i, lambda p, n=name, x=value: p["tensors"].update({n: x}))
        for name in ("contexts", "text_features"):
            for value in (float("nan"), float("inf"), float("-inf")):
                spoil_it = partial(poisoned, name=(FIRST, SECOND)[i], tensor=name, value=value)
                cases[f"{value} in {name} of part {i}"] = spoil_it
        unknown = lambda p: p["tensors"].update(other=["F32", [0], p["header"][0], "0" * 64])
        cases[f"an unknown tensor in part {i}"] = of_part(i, unknown)
    cases["nan in zero_shot"] = lambda f: poisoned(f, FIRST, "zero_shot", float("nan"))
    return cases


def of_body(change):
    "A change of `run.json`"
    return lambda f: resealed(f, change)


def hostile_words():
    "Other things in what `run.json` says of the whole"
    cases = {"NaN as planned": of_body(lambda b: b.update(planned=float("nan"))),
             "another format": of_body(lambda b: b.update(format=99))}
    for key in ("format", "library", "about", "planned", "finished", "parts"):
        cases[f"no {key}"] = of_body(lambda b, k=key: b.pop(k))
        for value in ODD: cases[f"{key} is {value!r}"] = of_body(lambda b, k=key, x=value: b.update({k: x}))
    for key in ("classes", "runs", "columns", "zero_shot_accuracy", "config"):
        cases[f"nothing about {key}"] = of_body(lambda b, k=key: b["about"].pop(k))
        for value in (None, "xyz", [], {}, [None] * 3, 7, [[]], {"a": []}, 2**70):
            cases[f"{key} are {value!r}"] = of_body(lambda b, k=key, x=value: b["about"].update({k: x}))
    for value in (None, 7, "", [], {}, "ProGrad 7", "ProGrad 1e999", "CoOp", "x" * 10**6):
        cases[f"a method {str(value)[:20]!r}"] = of_body(lambda b, x=value: b["about"]["runs"][2].update(method=x))
    for value in (None, "1", 1.5, 2**70, -2**70, []):
        cases[f"a seed {value!r}"] = of_body(lambda b, x=value: b["about"]["runs"][1].update(seed=x))
    return cases


def hostile(seed, cases=None, start=0, epochs=40):
    "Open, verify and repair a copy of a run set with each hostile file, in a process whose memory is measured"
    source, whole = specimen(epochs)
    every = sorted(hostile_cases().items())
    random.Random(f"{seed} hostile").shuffle(every)
    usual = memory_of(lambda: read_all(source, whole))[1]
    for i, (name, spoil) in list(enumerate(every[:cases]))[start:]:
        with tempfile.TemporaryDirectory() as outer:
            folder = Path(outer) / "inside" / "run"
            shutil.copytree(source, folder)
            spoil(folder)
            around = set(Path(outer).rglob("*"))
            code, peak = memory_of(partial(refusal, folder, whole))
            written = set(Path(outer).rglob("*")) - around - {folder / ".lock"}
        outside = len([p for p in written if folder not in p.parents])
        safe = peak - usual < 200 and not outside and not Path("pickle-was-run").exists()
        yield {"case": i, "what": name, "read": OUTCOMES.get(code, f"killed {code}"),
               "more_memory_mb": round(peak - usual), "written_outside": outside, "passed": code in (0, 3) and safe}


OUTCOMES = {0: "refused", 1: "crashed", 2: "wrong", 3: "right"}  # by exit code


def refusal(folder, whole):
    "Exit with 0 where a run set is refused by name, 3 where what is read is right all the same"
    outcome, says = read_all(folder, whole)
    for look in (verify, repair):
        try: look(folder)
        except REFUSALS as e: outcome = outcome if is_ours(e) else "crashed"
        except Exception as e: outcome, says = "crashed", repr(e)
    if outcome in ("crashed", "wrong"): print(outcome, says[:300], file=sys.stderr)
    os._exit(next(code for code, name in OUTCOMES.items() if name == outcome))


def memory_of(job):
    "Exit code and peak memory, MB, of a job in a process of its own"
    pid = forked(job)
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024


# -- fuzzing ------------------------------------------------------------------

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
INNER = lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
JSON = st.recursive(LEAVES, INNER, max_leaves=8)


def places(x, path=()):
    "Every place in a JSON document"
    yield path
    if isinstance(x, dict): items = x.items()
    elif isinstance(x, list): items = enumerate(x[:6])
    else: return
    for key, inner in items: yield from places(inner, (*path, key))


def fuzz(seed, cases, start=0, epochs=40):
    "`run.json` with anything in any place, sealed or not"
    source, whole = specimen(epochs)
    body, original = body_of(source), (source / RUN).read_bytes()
    about = list(places(body["about"], ("about",)))
    spots = st.sampled_from(about) | st.sampled_from(list(places(body | {"parts": body["parts"][:2]})))
    counts = {"refused": 0, "right": 0, "changed": 0, "crashed": 0}
    trouble = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder) / "run"
        shutil.copytree(source, folder)

        @seeded(seed)
        @settings(max_examples=cases, deadline=None, database=None, derandomize=False,
                  suppress_health_check=list(HealthCheck))
        @given(st.data())
        def one(data):
            spoil(data, folder, body, original, spots)
            outcome, error = use(folder, whole)
            counts[outcome] += 1
            if outcome == "crashed": trouble.append(error)

        one()
    examples = sum(counts.values())
    yield {"case": 0, "examples": examples, **counts, "first_trouble": (trouble or [""])[0][:300],
           "passed": not trouble and examples >= cases}


def spoil(data, folder, body, original, spots):
    "Draw a change of `run.json` and write it"
    draw, path = data.draw, folder / RUN
    how = draw(st.sampled_from(("place", "place", "place", "whole", "bytes", "text")))
    if how == "bytes": path.write_bytes(draw(st.binary(max_size=300)))
    elif how == "text":
        at, text = draw(st.integers(0, len(original) - 100)), original[83:-2]
        seal(path, text[:at] + draw(st.binary(max_size=20)) + text[at + draw(st.integers(0, 9)):])
    else:
        changed = json.loads(json.dumps(body))
        for _ in range(draw(st.integers(1, 3)) if how == "place" else 1):
            place = draw(spots) if how == "place" else ()
            changed = changed_at(changed, place, draw(JSON), draw(st.booleans()))
        write_sealed(path, changed)


def changed_at(x, path, value, drop):
    "A document with another value in one place, or without it"
    if not path: return value
    inner = x
    for key in path[:-1]:
        try: inner = inner[key]
        except (KeyError, IndexError, TypeError): return x
    try:
        if drop: del inner[path[-1]]
        else: inner[path[-1]] = value
    except (KeyError, IndexError, TypeError): pass
    return x


def use(folder, whole):
    "Open a run set and use all of it: words may differ from the original, but every error is the library's own"
    try:
        runs = load_runs(folder)
        for use_it in (repr, Runs.final, Runs.conflicts, arrays): use_it(runs)
        return ("right" if identical(runs, whole) else "changed"), ""
    except Exception as e:
        refused = isinstance(e, REFUSALS) and is_ours(e)
        return ("refused" if refused else "crashed"), "".join(traceback.format_exception(e))[-300:]


# -- Ctrl-C in a notebook -----------------------------------------------------

SETUP = """
import sys, warnings, numpy as np
sys.path.insert(0, {tools!r})
import soak
from prograd_viz.all import *
from prograd_viz.training import train
from pathlib import Path
whole = soak.reference({epochs})
warnings.simplefilter("ignore")
"""
TRAIN = """
runs = None
def flag(step, record):
    if step == 1: Path({flag!r}).touch()
runs = train(*soak.world(), **soak.options({epochs}), callbacks=[flag]{out})
"""
RESUME = """
runs = train(*soak.world(), **soak.options({epochs}), out={out!r}, resume=True)
assert soak.identical(runs, whole)
"""
CHECK = """
assert runs.interrupted or len(runs.token_cos) == len(whole.token_cos)
assert soak.is_beginning(runs, whole) and len(runs.final()) == 3
assert runs.text(1.0).shape == whole.text(1.0).shape and plot_cosine(runs)
assert len(foreground(runs, "shifted", images=2).rows)
print("steps", len(runs.token_cos))
"""


def interrupts(seed, cases, start=0, epochs=40):
    "Interrupt a cell that trains, in a real kernel, with and without a folder"
    from jupyter_client.manager import start_new_kernel
    # the library that is tested, and a notebook's own backend: matplotlib 3.8 cannot draw with Agg under IPython 9
    variables = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    variables["PYTHONPATH"] = os.pathsep.join([str(LIBRARY.parent), os.environ.get("PYTHONPATH", "")])
    manager, client = start_new_kernel(kernel_name="python3", env=variables, cwd=tempfile.gettempdir())
    try:
        done, said = cell(client, SETUP.format(tools=str(ROOT / "tools"), epochs=epochs))
        if done != "ok": raise RuntimeError(said)
        for i in range(start, cases):
            rng = random.Random(f"{seed} interrupt {i}")
            with tempfile.TemporaryDirectory() as folder:
                row = one_interrupt(manager, client, Path(folder), bool(i % 2), rng.random(), epochs)
            yield {"case": i, **row, "passed": row["cell"] == row["usable"] == row["resumed"] == "ok"}
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def one_interrupt(manager, client, folder, on_disk, when, epochs):
    "Interrupt one training, use what it leaves, and resume it if it has a folder"
    whole, flag, out = reference(epochs), folder / "first step", str(folder / "run")
    kept = f", out={out!r}, checkpoint_every=3" if on_disk else ""
    message = client.execute(TRAIN.format(epochs=epochs, flag=str(flag), out=kept))
    while not flag.exists(): time.sleep(0.002)
    time.sleep(when * 0.9 * whole.steps["seconds"].max())
    manager.interrupt_kernel()
    status, said = wait(client, message)
    usable, text = cell(client, CHECK)
    resumed = cell(client, RESUME.format(epochs=epochs, out=out))[0] if on_disk else "ok"
    steps = int(text.split()[-1]) if usable == "ok" else -1
    return {"on_disk": on_disk, "steps_done": steps, "of": len(whole.token_cos), "cell": status,
            "usable": usable, "resumed": resumed, "says": "" if usable == "ok" else (said + text)[:200]}


def cell(client, code): return wait(client, client.execute(code))


def wait(client, message):
    "Status of a cell and what it printed or raised"
    said = ""
    while True:
        told = client.get_iopub_msg(timeout=600)
        if told["parent_header"].get("msg_id") != message: continue
        if told["msg_type"] == "stream": said += told["content"]["text"]
        if told["msg_type"] == "error": said += "\n".join(told["content"]["traceback"][-3:])
        if told["msg_type"] == "status" and told["content"]["execution_state"] == "idle": break
    while (reply := client.get_shell_msg(timeout=600))["parent_header"].get("msg_id") != message: pass
    return reply["content"]["status"], said


# -- long and large -----------------------------------------------------------

def in_child(code, *args):
    "The JSON that a fresh process prints last"
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def long(seed, cases=1, start=0, steps=10_000, lambdas=11, timed=True, images=4):
    "Memory over a long training, and the time the explorer takes to open its runs (the best of three)"
    with tempfile.TemporaryDirectory() as folder:
        out, log, scenes = (Path(folder) / name for name in ("run", "memory.csv", "scenes.safetensors"))
        child = forked(lambda: train_long(out, log, scenes, steps, lambdas, seed, images))
        if os.waitpid(child, 0)[1]: raise RuntimeError("the long training failed")
        memory, size = pd.read_csv(log), sum(p.stat().st_size for p in out.iterdir())
        tries = [in_child(OPEN, out, scenes) for _ in range(3)] if timed else [opened_here(out, scenes)]
    if steps >= 10_000: memory.to_csv(OUT / "long_memory.csv", index=False)
    early = memory["step"] <= steps // 10
    first, later = memory.loc[early, "rss_mb"].max(), memory.loc[~early, "rss_mb"].max()
    opened = min(tries, key=lambda t: t["explorer_seconds"])
    fast = opened["explorer_seconds"] < 2 or not timed
    yield {"case": 0, "steps": steps, "lambdas": lambdas, "rss_mb_up_to_a_tenth": round(first, 1),
           "rss_mb_after": round(later, 1), "run_set_mb": round(size / 1e6, 1),
           "minutes": round(memory["seconds"].max() / 60, 2), **opened,
           "explorer_seconds_of_three": " ".join(str(t["explorer_seconds"]) for t in tries),
           "load_average": round(os.getloadavg()[0], 1), "passed": bool(later - first < 20 and fast)}


def train_long(out, log, scenes, steps, lambdas, seed, images):
    "Train, and log the memory of this process"
    from prograd_viz.screen import explorer_data
    clip, task = world()
    me, began = psutil.Process(), time.time()
    with open(log, "w") as file:
        file.write("step,rss_mb,seconds\n")

        def tell(step, record):
            if step % (steps // 200): return
            file.write(f"{step},{me.memory_info().rss / 1e6:.2f},{time.time() - began:.1f}\n")

        train(clip, task, np.linspace(0, 1, lambdas).tolist(), epochs=-(-steps // 2), batch_size=8, views=0,
              progress=False, seed=seed % 1000, out=out, callbacks=[tell])
    explorer_data(train(clip, task, [0, 1], epochs=1, views=0, progress=False), images=images).save(scenes)


def opened_here(out, scenes):
    "Open the explorer in this process, where it is not to be timed: seconds"
    from prograd_viz.explorer import Explorer
    from prograd_viz.screen import ExplorerData
    begin = time.time()
    Explorer(load_runs(out), data=ExplorerData.load(scenes)).close()
    return {"explorer_seconds": round(time.time() - begin, 3)}


OPEN = """
import json, sys, time
import prograd_viz.all
from prograd_viz.explorer import Explorer
from prograd_viz.screen import ExplorerData
from prograd_viz.runs import load_runs
import psutil
me = psutil.Process()
begin, before = time.time(), me.memory_info().rss
runs = load_runs(sys.argv[1])
opened, middle = time.time(), me.memory_info().rss
Explorer(runs, data=ExplorerData.load(sys.argv[2]))
print(json.dumps({"load_seconds": round(opened - begin, 3), "load_mb": round((middle - before) / 1e6, 1),
                  "explorer_seconds": round(time.time() - begin, 3)}))
"""
LOAD = """
import json, math, sys, time
import prograd_viz.runs, prograd_viz.store, psutil
prograd_viz.store.MAX_HELD = int(sys.argv[2])
me = psutil.Process()
begin, before = time.time(), me.memory_info().rss
runs = prograd_viz.runs.load_runs(sys.argv[1])
seconds, mb = time.time() - begin, (me.memory_info().rss - before) / 1e6
texts = runs.text_features
assert "torch" not in sys.modules and texts[len(texts) // 2].shape == texts.shape[1:]
gb = texts.dtype.itemsize * math.prod(texts.shape) / 1e9
print(json.dumps({"load_seconds": round(seconds, 3), "load_mb": round(mb, 1), "gb": round(gb, 2)}))
"""


def large(seed, cases=1, start=0, gigabytes=10.0, timed=True, held=(MAX_HELD,), epochs=40):
    "Time and memory to open a run set of ten gigabytes, for each number of files that may stay open"
    rng, row = np.random.default_rng(seed), (11, 1000, 512)
    steps = max(2, round(gigabytes * 1e9 / np.prod(row) / 4))
    noise = rng.standard_normal(row, dtype=np.float32)
    texts = Lazy((steps + 1, *row), np.float32, lambda i: noise * (i + 1))
    contexts = Lazy((steps + 1, 11, 16, 512), np.float32, lambda i: noise[:, :16] * (i + 1))
    part = reference(epochs).steps
    methods = tuple(run_name("prograd", r / 10) for r in range(11))
    row_of = part[part["run"] == 0].iloc[[0] * steps].assign(step=np.arange(1, steps + 1))
    record = pd.concat([row_of.assign(run=r, lam=r / 10, method=methods[r]) for r in range(11)], ignore_index=True)
    classes = tuple(f"class {c}" for c in range(1000))
    cosines = np.zeros((steps, 11, 16))
    big = Runs(record, np.arange(steps + 1), contexts, texts, cosines, noise[0], {}, methods, classes, {})
    with tempfile.TemporaryDirectory() as folder:
        save_runs(big, folder + "/run")
        for i, files in enumerate(held):
            told = in_child(LOAD, folder + "/run", files)
            fast = told["load_seconds"] < 1 or not timed
            yield {"case": i, **told, "passed": fast and told["load_mb"] < 100}


def bad_input(seed, cases=1, start=0):
    "The table of bad input"
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_bad_input.py", "-k", "named_in_the_error",
               "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    last = done.strip().splitlines()[-1]
    passed = int(last.split(" passed")[0].split()[-1]) if " passed" in last else 0
    yield {"case": 0, "rows": passed, "says": last, "passed": passed >= 120 and "failed" not in last}


# -- rows, files, bars --------------------------------------------------------

ROWS = {  # name -> (function, cases in full, bar)
    "kills": (kills, 50, "50 of 50 identical, at least 15 inside a write"),
    "damage": (damage, 500,
               "500 of 500, at least 100 in tensors; with run.json intact, 95% keep every part before"),
    "full_disk": (full_disk, 10, "nothing before the last checkpoint lost"),
    "writers": (writers, 10, "one refused, no damage"),
    "hostile": (hostile, None, "refused, memory bounded"),
    "fuzz": (fuzz, 1000, "no crash without our message"),
    "interrupts": (interrupts, 20, "usable each time"),
    "bad_input": (bad_input, 1, "at least 120 rows"),
    "large": (large, 1, "opens within 1 s and 100 MB"),
    "long": (long, 1, "memory flat, explorer within 2 s"),
}


def commit():
    head = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(head, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def rows_of(path):
    with path.open(newline="") as file: return list(csv.DictReader(file))


def soak(name, seed):
    "Run one test in full, or the rest of it"
    function, cases, _ = ROWS[name]
    path = OUT / f"{name}.csv"
    rows = rows_of(path) if path.exists() else []
    seed = int(rows[0]["seed"]) if rows else seed
    total = {"hostile": len(hostile_cases()), "fuzz": 1}.get(name, cases)
    if len(rows) < total:
        begun = time.time()
        for row in function(seed, cases, len(rows)):  # a case depends on seed and number alone
            row = {"seed": seed, **row, "of_cases": total, "seconds": round(time.time() - begun, 1), "commit": commit()}
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, row)
                if not rows: writer.writeheader()
                writer.writerow(row)
            rows.append(row)
            begun = time.time()
            if not row["passed"]: print("   ", row, flush=True)
    return rows


def true(row, key): return str(row.get(key)) == "True"


def count(rows, key): return sum(true(row, key) for row in rows)


def also(name, rows):
    "What the summary adds to the number of passed cases, and whether there are enough cases of the kind that counts"
    first, intact = rows[0], [row for row in rows if true(row, "in_a_part")]
    if name == "kills":
        inside = count(rows, "inside_a_write")
        return f"{inside} inside a write", inside >= 15
    if name == "damage":
        tensors, recovered = count(rows, "in_a_tensor"), count(intact, "repaired")
        enough = tensors >= 100 and recovered >= 0.95 * len(intact)
        return f"{tensors} in tensors, {recovered} of {len(intact)} recovered", enough
    if name == "fuzz": return f"{first['examples']} examples", True
    if name == "bad_input": return f"{first['rows']} rows", True
    if name == "large": return f"{first['gb']} GB in {first['load_seconds']} s and {first['load_mb']} MB", True
    if name != "long": return "", True
    memory = f"{first['rss_mb_up_to_a_tenth']} MB in the first tenth, {first['rss_mb_after']} MB after"
    return f"{memory}; explorer in {first['explorer_seconds']} s", True


def judge(name, rows):
    "One line of the summary"
    passed, (extra, enough) = count(rows, "passed"), also(name, rows)
    met = passed == len(rows) == int(rows[0]["of_cases"]) and enough
    return {"test": name, "cases": len(rows), "passed": passed, "also": extra, "bar": ROWS[name][2], "met": met,
            "seed": rows[0]["seed"], "commit": rows[-1]["commit"]}


def machine():
    "Where and with what the tests ran"
    packages = ("torch", "numpy", "pandas", "pyarrow", "safetensors", "prograd_viz")
    return {"machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(), **{p: version(p) for p in packages}, "date": time.strftime("%Y-%m-%d")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="some of the tests")
    parser.add_argument("--fresh", action="store_true", help="discard the cases on disk")
    fresh = int.from_bytes(os.urandom(4))
    parser.add_argument("--seed", type=int, default=fresh, help="seed of the cases (default: a new one)")
    opt = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if opt.fresh:
        for name in opt.only: (OUT / f"{name}.csv").unlink(missing_ok=True)
    for name in opt.only:
        print(f"{name}: resumed" if (OUT / f"{name}.csv").exists() else f"{name}: seed {opt.seed}", flush=True)
        rows = soak(name, opt.seed)
        print("   ", judge(name, rows), flush=True)
    lines = [judge(name, rows_of(OUT / f"{name}.csv")) for name in ROWS if (OUT / f"{name}.csv").exists()]
    pd.DataFrame(lines).assign(**machine()).to_csv(OUT / "summary.csv", index=False)
    if not all(line["met"] for line in lines): sys.exit(1)


if __name__ == "__main__": main()
