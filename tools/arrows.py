"Does no notebook import from one with a higher number, is there no circle, and does no private name cross from module to module?"
import ast
import graphlib
import json
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def modules():
    "Module -> number of its notebook"
    found = {}
    for path in sorted((root / 'nbs').glob('[0-9]*.ipynb')):
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            for line in ''.join(cell['source']).splitlines():
                if line.startswith('#| default_exp '): found[line.split()[-1]] = int(path.name.split('_')[0])
    return found


def arrows(
    module: str,  # Name of a module
):  # (module imported from, names, line)
    "What a module imports from others, inside functions too"
    tree = ast.parse((root / 'prograd_viz' / f'{module}.py').read_text(encoding='utf-8'))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom): continue
        names = [alias.name for alias in node.names]
        if node.level and node.module: yield node.module, names, node.lineno
        elif node.level: yield from ((name, [], node.lineno) for name in names)
        elif (node.module or '').startswith('prograd_viz.'): yield node.module.split('.', 1)[1], names, node.lineno


def wrong():
    "A line for every arrow that points the wrong way, for a circle, and for every private name that crosses"
    order, found, graph = modules(), [], {}
    for module in order:
        for other, names, line in arrows(module):
            where = f'prograd_viz/{module}.py:{line}'
            graph.setdefault(module, set()).add(other)
            if order.get(other, -1) > order[module]: found.append(f'{where}: {module} imports {other}, whose notebook has a higher number')
            found += [f'{where}: {name} is private to {other}' for name in names if name.startswith('_')]
    try: graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as e: found.append(f"a circle: {' -> '.join(e.args[1])}")
    return found


if __name__ == '__main__':
    found = wrong()
    print(*found or [f'{len(modules())} modules: all arrows point one way, and no private name crosses one'], sep='\n')
    sys.exit(bool(found))
