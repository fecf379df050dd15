"""The signatures of the library and the columns of its tables, beside the vocabulary that they keep.

    python tools/vocabulary.py          # prints both, and what departs from the vocabulary; 1 if anything does
    python tools/vocabulary.py --brief  # only what departs

A function of run sets takes (runs, split=None, *, images, step or steps, target, explainer, target_layer, ...), with
keywords after split. One idea has one name. A table with a row per method has the column `method` and, where they
apply, lam, seed and step after it. An exception has its reason in EXCEPTIONS.
"""
import argparse
import importlib
import inspect
import pkgutil
import sys

import prograd_viz

ORDER = ("runs", "split", "images", "step", "steps", "target", "explainer", "target_layer")
DEFAULTS = {"split": None, "target": "predicted", "explainer": "GradCAM", "target_layer": None, "step": None}
NOT = {  # a name for an idea that has another -> that one
    "layer": "target_layer", "explain": "target", "scenes": "data", "frame": "template", "prompt": "method",
    "measure": "column or evaluate", "measures": "columns", "dial": "controls"}
KEYS = ("method", "lam", "seed", "step")  # of a row, in this order
ALIASES = {"prompt", "rule", "strength", "name", "lambda"}  # columns for the same
EXCEPTIONS = {  # function and argument -> why
    "landscape.context_losses(contexts)": "the contexts are evaluated; the split only adds a column of accuracies",
    "report.save_report(path)": "where to write is named next to what is written, as in Runs.save",
    "pretrain.scene_labels(scenes)": "scenes of the pocket world, which are drawn, not explored",
    "pretrain.render_pool(scenes)": "scenes of the pocket world, which are drawn, not explored",
    "pretrain.align(scenes)": "scenes of the pocket world, which are drawn, not explored",
}


def functions():
    "Every public function, class and method of the library: (its name, the function)"
    for module in sorted(m.name for m in pkgutil.iter_modules(prograd_viz.__path__)):
        if module.startswith("_") or module == "all": continue
        library = importlib.import_module(f"prograd_viz.{module}")
        for name in library.__all__:
            thing = getattr(library, name)
            if not callable(thing) or getattr(thing, "__module__", None) != library.__name__: continue
            yield f"{module}.{name}", thing.__init__ if inspect.isclass(thing) else thing
            for method, f in vars(thing).items() if inspect.isclass(thing) else ():
                if inspect.isfunction(f) and not method.startswith("_"): yield f"{module}.{name}.{method}", f


def signature(f):
    "The parameters of a function, without self"
    parameters = inspect.signature(f).parameters.values()
    return [p for p in parameters if p.name != "self"]


def departures(name, f):
    "What of a function's signature is not as the vocabulary says: (argument, complaint)"
    parameters = signature(f)
    names = [p.name for p in parameters]
    for p in parameters:
        if p.name in NOT: yield p.name, f"is called {NOT[p.name]}"
    if names[:1] != ["runs"] or "split" not in names: return
    known = [n for n in names if n in ORDER]
    expected = sorted(known, key=ORDER.index)
    if known != expected: yield known[0], f"the order is {', '.join(expected)}"
    for p in parameters[:names.index("split")]:
        if p.name != "runs": yield p.name, "stands between runs and split"
    for p in parameters[names.index("split") + 1:]:
        if p.kind is p.POSITIONAL_OR_KEYWORD: yield p.name, "is a keyword, as all after split"
    for p in parameters:
        if p.name in DEFAULTS and p.default != DEFAULTS[p.name] and p.default is not p.empty:
            yield p.name, f"has the default {DEFAULTS[p.name]!r}, not {p.default!r}"
    if parameters[names.index("split")].default is inspect.Parameter.empty: yield "split", "has the default None"


def misnamed(columns):
    "What of a table's columns is not as the vocabulary says"
    columns = list(columns)
    wrong = [f"{c!r} is called 'method'" for c in columns if c in ALIASES]
    keys = [c for c in columns if c in KEYS]
    if "method" in keys and keys != [k for k in KEYS if k in keys]: wrong.append(f"the order of {keys} is {KEYS}")
    return wrong


def tables():
    "Name -> columns of every table that has a row per method, made on the pocket world"
    from prograd_viz.clip import load_clip
    from prograd_viz.evaluate import accuracy_on, calibration, per_class, predictions
    from prograd_viz.explorer import explore
    from prograd_viz.faithful import causal_checks, faithfulness
    from prograd_viz.maps import foreground
    from prograd_viz.tasks import few_shot
    from prograd_viz.training import train
    clip, task = load_clip("pocket"), few_shot("pocket", shots=1, seed=1, test_per_class=1)
    runs = train(clip, task, epochs=1, views=0, progress=False)
    looks, said = foreground(runs, images=2, random_directions=1), predictions(runs)
    made = {
        "Runs.steps": runs.steps, "Runs.final()": runs.final(), "Runs.conflicts()": runs.conflicts(),
        "foreground(runs).rows": looks.rows, "foreground(runs).summary()": looks.summary(),
        "faithfulness(runs)": faithfulness(runs, images=1, columns=["deletion"], random_directions=1),
        "causal_checks(runs)": causal_checks(runs, images=4), "accuracy_on(runs)": accuracy_on(runs),
        "predictions(runs)": said, "per_class(...)": per_class(said), "calibration(...)": calibration(said),
        "explore(runs).table()": explore(runs, images=1).table()}
    return {name: list(table.columns) for name, table in made.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brief", action="store_true", help="print only what departs from the vocabulary")
    brief, bad, excused = parser.parse_args().brief, [], {}
    for name, f in functions():
        words = [f"*{p.name}" if p.kind is p.KEYWORD_ONLY else p.name for p in signature(f)]
        if not brief: print(f"{name}({', '.join(words)})")
        for argument, complaint in departures(name, f):
            key = f"{name}({argument})"
            if key in EXCEPTIONS: excused[key] = EXCEPTIONS[key]
            else: bad.append(f"{key}: {complaint}")
    for name, columns in tables().items():
        if not brief: print(f"{name}: {', '.join(columns)}")
        bad += [f"{name}: {complaint}" for complaint in misnamed(columns)]
    print("\nexceptions:", *(f"{key}: {why}" for key, why in excused.items()), sep="\n  ")
    print("departures:" if bad else "no departures", *bad, sep="\n  ")
    return bool(bad)


if __name__ == "__main__": sys.exit(main())
