"Write README.md and README.zh.md from nbs/index.ipynb and nbs/zh/index.ipynb, with links from the checkout's root."
import argparse
import posixpath
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

from fill import unmarked

root = Path(__file__).resolve().parent.parent

PAGES = {"README.md": "nbs/index.ipynb", "README.zh.md": "nbs/zh/index.ipynb"}
banner = "<!-- Written by `make readme` from {}: edit the notebook, not this file. -->\n\n"
directive = re.compile(r"^#\| ?([\w-]+)\s*:?\s*(.*?)\s*$")
continued = re.compile(r"^#\| {2,}(.*?)\s*$")
ansi = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
fence = re.compile(r"^(```.*?^```[^\S\n]*$)", re.M | re.S)
# ](target) and ](target "title") of markdown, src="target" and href="target" of html
target = re.compile(r'(\]\(|\b(?:src|href)=")([^)"\s]+)')


def directives(
    source:str, # A code cell
)->tuple: # ({directive: value}, the source without them)
    "Quarto's and nbdev's `#| name: value` lines; a value goes on in lines that start with `#|` and two spaces or more."
    found, rest, name = {}, [], None
    for line in source.split("\n"):
        if name and (more := continued.match(line)): found[name] += " " + more[1]
        elif start := directive.match(line):
            name, value = start.groups()
            found[name] = value if name == "fig-alt" else value.lower()
        else: rest.append(line)
    return found, "\n".join(rest).strip("\n")


def relink(
    text:str, # Markdown
    folder:str="nbs", # Where it is read from, relative to the root
)->str: # The same, to be read from the root
    "`../figures/x.png` becomes `figures/x.png`, `03_clip.ipynb` becomes `nbs/03_clip.ipynb`."
    def fix(m):
        if re.match(r"[a-z][a-z0-9+.-]*:|[/#]", m[2], re.I): return m[0]
        path, hash_, part = m[2].partition("#")
        return m[1] + posixpath.normpath(posixpath.join(folder, path)) + hash_ + part
    return "".join(s if s.startswith("```") else target.sub(fix, s) for s in fence.split(text))


def links(
    text:str, # Markdown
)->list: # Relative targets, without their `#part`
    "The links of a page that lead into the checkout."
    found = [m[2] for s in fence.split(text) if not s.startswith("```") for m in target.finditer(s)]
    return [f.partition("#")[0] for f in found if not re.match(r"[a-z][a-z0-9+.-]*:|[/#]", f, re.I)]


def bar(
    text:str, # Of an output
)->bool: # Whether it is a progress bar
    "A bar that a notebook stores is as empty as when it began"
    return "tqdm" in text or bool(re.match(r"[\w ]*:? +\d+%\|", text))


def keep(
    out, # A code cell's output
): # What a README shows of it, or None
    "Markdown or plain text; pictures come from figures/, widgets and warnings do not come at all."
    if out.output_type == "error":
        raise ValueError(f"nbs/index.ipynb stores an error ({out.ename}): run `make notebooks` first")
    if out.output_type == "stream":
        if out.name != "stdout": return None
        # a progress bar rewrites its line: the last state is what a terminal would show
        lines = ansi.sub("", out.text).split("\n")
        out.text = "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines)
        return out if out.text.strip() else None
    if any(k.startswith("image/") or "widget" in k for k in out.data): return None
    if bar(out.data.get("text/plain", "")): return None
    for mime in "text/markdown", "text/plain":
        if mime in out.data:
            out.data = {mime: ansi.sub("", out.data[mime])}
            return out


def prune(
    nb, # The front page
    folder:str="nbs", # Where it lies, relative to the root
): # The notebook its README is made from
    "Drop what is hidden, then directives, then outputs a README cannot show."
    cells = []
    for c in nb.cells:
        if c.cell_type == "markdown": c.source = relink(c.source, folder)
        elif c.cell_type == "code":
            flags, c.source = directives(c.source)
            if "hide" in flags or flags.get("include") == "false": continue
            off = flags.get("output") == "false" or "hide_output" in flags
            c.outputs = [] if off else [o for o in map(keep, c.outputs) if o]
            for o in c.outputs:
                text = o.get("data", {}).get("text/markdown")
                if text: o.data["text/markdown"] = relink(text, folder)
            if flags.get("echo") == "false" or "hide_input" in flags: c.metadata["transient"] = {"remove_source": True}
            if not c.source and not c.outputs: continue
        else: continue  # raw cells are front matter
        cells.append(c)
    nb.cells = cells
    nb.metadata["language_info"] = {"name": "python"}  # nbdev_clean removes it, a code fence wants it
    return nb


def readme(
    fname, # The front page
)->str: # README.md
    "The front page as markdown."
    name = Path(fname).resolve().relative_to(root)
    nb = prune(nbformat.read(fname, as_version=4), name.parent.as_posix())
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = "\n".join(line.rstrip() for line in unmarked(text).strip().split("\n"))
    return banner.format(name.as_posix()) + re.sub(r"\n{3,}", "\n\n", text) + "\n"


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, default=root, help="folder to write to (default: the checkout)")
    out = p.parse_args().out
    texts = {page: readme(root/source) for page, source in PAGES.items()}
    for page, text in texts.items(): (out/page).write_text(text, encoding="utf-8")
    for page, text in texts.items():
        if missing := [link for link in links(text) if not (root/link).exists()]:
            raise SystemExit(f"{PAGES[page]} has links to files that do not exist: {', '.join(missing)}")


if __name__ == "__main__": main()
