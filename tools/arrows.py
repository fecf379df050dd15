"Checks that no notebook imports from a higher number, that no modules import in a circle, and that private names stay."
import ast
import graphlib
import json
import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
lib = "prograd_viz"


def notebooks():
    "Module -> (file name of its notebook, [(source of a code cell, whether it is exported)])"
    found = {}
    for path in sorted((root / "nbs").glob("[0-9]*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        name = re.search(r"^#\| default_exp (\w+)", "\n".join(code), re.M)
        if name: found[name[1]] = path.name, [(python_of(cell), cell.startswith("#| export")) for cell in code]
    return found


def python_of(
    cell: str,  # Source of a cell
) -> str:
    "A cell without lines that only IPython understands"
    return re.sub(r"^(\s*)[%!].*", r"\1pass", cell, flags=re.M)


def imported(
    node: ast.AST,  # Any node of a tree
):  # (module of the library, name taken from it or None, its name in the importing module)
    "What a node imports from the library"
    if isinstance(node, ast.Import):
        dotted = [(alias.name.split("."), alias.asname or alias.name) for alias in node.names]
        yield from ((path[1], None, here) for path, here in dotted if path[0] == lib and len(path) > 1)
    if not isinstance(node, ast.ImportFrom): return
    path = ([lib] if node.level else []) + (node.module.split(".") if node.module else [])
    if path[0] != lib: return
    for alias in node.names:
        yield (alias.name, None, alias.asname or alias.name) if len(path) == 1 else (path[1], alias.name, alias.name)


def arrows(
    tree: ast.Module,  # A cell
    aliases: dict,  # Names of library modules in this notebook so far; updated
):  # (module used, name used or None for the module itself)
    "What a cell takes from the library, inside functions too: names that it imports, attributes of imported modules"
    for node in ast.walk(tree):
        for module, name, here in imported(node):
            if name is None: aliases[here] = module
            yield module, name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (owner := ast.unparse(node.value)) in aliases:
            yield aliases[owner], node.attr


def wrong(
    sources: dict,  # From `notebooks`
) -> list:
    "A line for every import from a higher number, for a circle, and for every private name that crosses"
    found, graph = [], {}
    number = {module: int(name.split("_")[0]) for module, (name, _) in sources.items()}
    for module, (where, cells) in sources.items():
        aliases = {}
        for cell, exported in cells:
            for other, name in arrows(ast.parse(cell), aliases):
                if other not in sources or other == module: continue  # __init__ has no notebook
                if exported: graph.setdefault(module, set()).add(other)
                if number[other] > number[module]: found.append(f"{where} imports {other}, which has a higher number")
                if (name or "").startswith("_"): found.append(f"{where} uses {name}, which is private to {other}")
    try: graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as e: found.append(f"a circle: {' -> '.join(e.args[1])}")
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    found = wrong(notebooks())
    print(*found or [f"{len(notebooks())} modules: every import points down, and no private name crosses"], sep="\n")
    sys.exit(bool(found))
