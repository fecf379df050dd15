"The public API as pages of MyST markdown, read from the source alone: nothing is imported."
import ast
import io
import re
import sys
import tokenize
from dataclasses import dataclass
from functools import cache
from pathlib import Path

root = Path(__file__).resolve().parent.parent
lib = root/"prograd_viz"
cell = re.compile(r"^# %% \.\./(nbs/\S+\.ipynb) #(\w+)")


@dataclass
class Module:
    "An exported module, parsed"
    name: str  # Within the package
    doc: str  # The notebook's own line about itself
    public: list  # Names in `__all__`
    defined: dict  # Public name -> node
    text: str  # The source
    comments: dict  # Line -> its comment
    cells: dict  # Line -> (notebook, cell id): where each exported cell begins

    @property
    def notebook(self):
        "The notebook that exports it"
        return min(notebook for notebook, _ in self.cells.values())

    def cell(self, node):
        "The notebook and the cell that a node comes from"
        return self.cells[max(line for line in self.cells if line < node.lineno)]


@cache
def modules()->list:
    "All exported modules with something public, in the order of their notebooks"
    found = [read_module(f) for f in lib.glob("[!_]*.py")]
    return sorted((m for m in found if m.public and m.cells), key=lambda m: (m.notebook, m.name))


def read_module(
    path:Path, # A module's file
)->Module:
    "Parse a module"
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    found = {name: node for node in tree.body for name in names_of(node)}
    public = list(ast.literal_eval(found["__all__"].value)) if "__all__" in found else []
    defined = {n: found[n] for n in public if n in found}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    cells = {i: (m[1], m[2]) for i, line in enumerate(text.split("\n"), 1) if (m := cell.match(line))}
    return Module(path.stem, ast.get_docstring(tree) or "", public, defined, text, comments, cells)


def names_of(node):
    "Names that a statement of a module defines"
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)): return [node.name]
    if isinstance(node, ast.Assign): targets = node.targets
    elif isinstance(node, ast.AnnAssign): targets = [node.target]
    else: return []
    single = [n for t in targets for n in (t.elts if isinstance(t, ast.Tuple) else [t])]
    return [n.id for n in single if isinstance(n, ast.Name)]


# -- docments -------------------------------------------------------------------

def source(node): return "" if node is None else ast.unparse(node)


def kind(annotation):
    "An annotation, without the quotes around a class that is imported later"
    quoted = isinstance(annotation, ast.Constant) and isinstance(annotation.value, str)
    return annotation.value if quoted else source(annotation)


def parameters(
    m:Module,
    f:ast.FunctionDef,
)->list: # (name, type, default, comment), without self and cls
    "Parameters with the comments beside them"
    a = f.args
    plain = a.posonlyargs + a.args
    pairs = list(zip(plain, [None] * (len(plain) - len(a.defaults)) + a.defaults))
    rows = [(p.arg, p, d) for p, d in pairs if p.arg not in ("self", "cls")]
    if a.vararg: rows.append(("*" + a.vararg.arg, a.vararg, None))
    rows += [(p.arg, p, d) for p, d in zip(a.kwonlyargs, a.kw_defaults)]
    if a.kwarg: rows.append(("**" + a.kwarg.arg, a.kwarg, None))

    def own(p, d):
        if p.lineno <= f.lineno: return ""  # on the line of `def`, where no comment is about a parameter
        return m.comments.get(max(p.end_lineno, d.end_lineno if d else 0), "")

    return [(name, kind(p.annotation), source(d), own(p, d)) for name, p, d in rows]


def returned(m, f):
    "(type, comment) of what a function returns"
    line = f.returns.end_lineno if f.returns else f.body[0].lineno - 1
    comment = m.comments.get(line, "") if re.match(r"\s*\)", m.text.split("\n")[line - 1]) else ""
    return source(f.returns), comment


def signature(f):
    "Names and defaults; types are in the table below it, and long defaults too"
    args = ast.parse(f"def f({source(f.args)}): 0").body[0].args
    short = lambda d: d and (d if len(source(d)) < 30 else ast.Constant(...))
    args.defaults, args.kw_defaults = [*map(short, args.defaults)], [*map(short, args.kw_defaults)]
    for p in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
        if p: p.annotation = None
    args.args = [p for p in args.args if p.arg not in ("self", "cls")]
    return f"({source(args)})"


def fields(
    m:Module,
    c:ast.ClassDef,
)->list: # (name, type, default, comment)
    "Public fields of a dataclass"
    public = [n for n in c.body if isinstance(n, ast.AnnAssign) and not n.target.id.startswith("_")]
    return [(n.target.id, source(n.annotation), source(n.value), m.comments.get(n.end_lineno, "")) for n in public]


# -- pages ------------------------------------------------------------------------

def code(text): return f"`{text}`" if text else ""
def bar(text): return text.replace("|", "\\|").replace("<", "\\<").replace("$", "\\$")


def prose(text):
    "A comment or docstring as markdown: stars and underscores stay what they are outside of code"
    parts = re.split(r"(``[^`]*``|`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*_$\[\]])", r"\\\1", p) for p in parts)


def table(
    rows:list, # (name, type, default, comment)
    what:str, # What the first column holds
)->str:
    "Rows as a table, without its empty columns"
    keep = [i for i in range(4) if i == 0 or any(r[i] for r in rows)]
    dress = [code, code, code, prose]
    lines = [[(what, "type", "default", "meaning")[i] for i in keep], ["---"] * len(keep)]
    plain = lambda i, text: bar(text) if i < 3 else bar(text).replace("\\$", "$")
    lines += [[dress[i](plain(i, r[i])) for i in keep] for r in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) if rows else ""


def full(m, name): return f"prograd_viz.{m.name}.{name}"


def entry(
    m:Module,
    name:str, # Public
)->str:
    "One name: signature, docstring, where it is explained, and what goes in and out"
    node = m.defined[name]
    nb, cell_id = m.cell(node)
    where = f"Explained in [{Path(nb).stem}](#cell-{cell_id})."
    if isinstance(node, ast.FunctionDef): return directive("function", name + signature(node), body_of(m, node, where))
    if isinstance(node, ast.ClassDef): return class_entry(m, node, where)
    said = m.comments.get(node.lineno) or sys.exit(f"{m.name}.{name} needs a comment behind its first line: what it is")
    return directive("data", name, [prose(said), value_of(node), where])


def value_of(node):
    "The value of a constant, unless it is made from private names, which would tell a reader nothing"
    value = source(node.value)
    if re.search(r"\b_[a-zA-Z]", value) or len(names_of(node)) != 1: return ""
    return f"= {code(value if len(value) < 200 else value[:200].rsplit(' ', 1)[0] + ' ...')}"


def body_of(m, f, where=""):
    "The entry of a function, below its signature"
    rows, (kind, what) = parameters(m, f), returned(m, f)
    described = table(rows, "parameter") if any(r[1] or r[3] for r in rows) else ""
    out = " ".join(filter(None, [code(kind), prose(what)])) if kind != "None" else ""
    return [prose(ast.get_docstring(f) or ""), where, described, f"Returns: {out}" if out else ""]


def class_entry(m, c, where):
    "A class: its fields or what makes one, then its public methods and properties"
    inside = [n for n in c.body if isinstance(n, ast.FunctionDef)]
    init = next((n for n in inside if n.name == "__init__"), None)
    made = (signature(init), table(parameters(m, init), "parameter")) if init else ("", table(fields(m, c), "field"))
    methods = [member(m, n) for n in inside if not n.name.startswith("_") and ast.get_docstring(n)]
    described = [prose(ast.get_docstring(c) or ""), where, made[1], *methods]
    return directive("class", c.name + made[0], described, fence="`" * 4)


def member(m, f):
    "A method or a property"
    decorators = {source(d) for d in f.decorator_list}
    if decorators & {"property", "cached_property", "functools.cached_property"}:
        return directive("property", f.name, [prose(ast.get_docstring(f))])
    return directive("method", f.name + signature(f), body_of(m, f))


def directive(kind, head, body, fence="```"):
    "A directive of Sphinx's Python domain"
    return "\n".join([f"{fence}{{py:{kind}}} {head}", "", "\n\n".join(filter(None, body)), fence])


def page(
    m:Module,
)->str:
    "The page of a module"
    entries = [entry(m, n) for n in m.public if n in m.defined]
    where = f"Source and explanation: [{Path(m.notebook).stem}](../{m.notebook})."
    head = [f"# {m.name}", m.doc, where, f"```{{py:currentmodule}} prograd_viz.{m.name}\n```"]
    return "\n\n".join([*head, *entries]) + "\n"


def summary(m, name):
    "The first line of what is said about a name"
    node = m.defined[name]
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)): said = ast.get_docstring(node) or ""
    else: said = m.comments.get(node.lineno, "")
    return prose(said).split("\n")[0]


OVERVIEW = """# API

`from prograd_viz.all import *` brings these names. Each module has more; its page lists everything it exports.

| name | module | what it is |
|---|---|---|
{rows}

```{{toctree}}
:maxdepth: 1
:hidden:

{modules}
```
"""


def overview(
    found:list, # Modules
)->str:
    "The first page: what `from prograd_viz.all import *` brings, a line each"
    home = {n: m for m in found for n in m.defined}
    names = next(m.public for m in found if m.name == "all")
    homes = [(n, home[n]) for n in names]
    rows = [f"| {{py:obj}}`~{full(m, n)}` | [{m.name}]({m.name}.md) | {bar(summary(m, n))} |" for n, m in homes]
    modules = [m.name for m in found if m.name != "all"]
    return OVERVIEW.format(rows="\n".join(rows), modules="\n".join(modules))


def write(
    to:Path, # A folder
):
    "All pages"
    to.mkdir(parents=True, exist_ok=True)
    found = modules()
    (to/"index.md").write_text(overview(found), encoding="utf-8")
    for m in found:
        if m.name != "all": (to/f"{m.name}.md").write_text(page(m), encoding="utf-8")


def addresses()->dict: # `name` and `module.name` -> (page, anchor)
    "Where each public name is described"
    found, pages = modules(), {}
    short = set(next(m.public for m in found if m.name == "all"))
    for m in found:
        for name in m.defined:
            pages[f"{m.name}.{name}"] = place = f"api/{m.name}", full(m, name)
            if name in short: pages[name] = place
    return pages
