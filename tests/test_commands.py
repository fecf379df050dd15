"Every command that a page names exists and takes the options that the page gives it."
import argparse
import ast
import functools
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# pages, and the help texts that name further commands
PAGES = [*ROOT.glob("*.md"), *(ROOT / "figures").rglob("*.md"), *(ROOT / "nbs").rglob("*.ipynb"),
         *(ROOT / "tools").glob("*.py"), ROOT / "Makefile"]
COMMAND = re.compile(r"(?:make|python tools/\w+\.py|prograd_\w+)(?= |$)[^`\n#;&|)\"']*(?:\"[^\"\n]*\"|'[^'\n]*')?")


def text_of(page):
    "A page as markdown: of a notebook the cells of text, and the shell commands of its code"
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb": return text
    lines = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown": lines.append(source)
        else: lines += re.findall(r"(?m)^\s*!(.*)$", source)
    return "\n".join(lines)


def commands_of(text):
    "Commands in code spans and on lines of their own, as in a block of code"
    spans = re.findall(r"`([^`\n]+)`", text) + re.findall(r"(?m)^(?:    |\$ )?((?:make|python|prograd_).*)$", text)
    found = [m for span in spans if "{" not in span and (m := COMMAND.match(span.strip()))]
    return [" ".join(m[0].split()).rstrip(".,:") for m in found]


def named():
    "Command -> a page that names it"
    found = {}
    for page in PAGES:
        if ".ipynb_checkpoints" in page.parts: continue
        for command in commands_of(text_of(page)): found.setdefault(command, page.relative_to(ROOT).as_posix())
    return found


NAMED = named()


def scripts():
    "Console script -> (module, function)"
    cfg = ConfigParser()
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    return {name: target.split(":") for name, target in
            (entry.split("=") for entry in cfg["DEFAULT"]["console_scripts"].split())}


class Parsed(Exception):
    "A parser was built; nothing after it runs"


def loaded(module):
    "A module of the library, or a tool, which may have the name of a module in tests/"
    if module.startswith("prograd_viz"): return importlib.import_module(module)
    spec = importlib.util.spec_from_file_location(f"tool_{module}", ROOT / "tools" / f"{module}.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@functools.cache
def parser_of(module, function):
    "The argument parser that a command builds"
    def stop(self, *args, **kwargs): raise Parsed(self)
    main = getattr(loaded(module), function)
    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop), pytest.raises(Parsed) as e: main()
    return e.value.args[0]


def parsed(module, function, arguments):
    "Whether the parser of a command takes these arguments; a name alone stands for all its uses"
    parser = parser_of(module, function)
    if arguments: parser.parse_args(arguments)
    else: assert parser.format_help()


def started_by(target):
    "What a target starts with ARGS: (module, function) of a command with a parser, or None for jupyter and pytest"
    recipe = re.search(rf"(?m)^{target}:.*\n((?:\t.*\n|\\.*\n)*)", MAKEFILE)[1]
    for line in recipe.split("\n"):
        if "$(ARGS)" not in line: continue
        if m := re.search(r"python tools/(\w+)\.py (?!RN50|ViT)", line): return m[1], "main"
        if m := re.search(r"-m (prograd_viz\.\w+)", line): return m[1], "main"
        if m := re.search(r"/(prograd_\w+)", line): return tuple(scripts()[m[1]])
    return None


@pytest.mark.parametrize("command", sorted(c for c in NAMED if c.startswith("make")))
def test_a_target_exists_and_its_arguments_are_taken(command):
    first, *rest = shlex.split(command)
    targets = [word for word in rest if re.fullmatch(r"[a-z-]+", word)]
    for target in targets: assert re.search(rf"(?m)^{target}:", MAKEFILE), f"{NAMED[command]} names {command}"
    for word in rest:
        if word.startswith("ARGS=") and (started := started_by(targets[0])): parsed(*started, shlex.split(word[5:]))
        if word.startswith("NB=") and len(word) > 3: assert (ROOT / word[3:]).is_file()


@pytest.mark.parametrize("command", sorted(c for c in NAMED if c.startswith("python tools/")))
def test_a_tool_exists_and_takes_its_arguments(command):
    _, path, *arguments = shlex.split(command)
    assert (ROOT / path).is_file(), f"{NAMED[command]} names {command}"
    if "argparse" in (ROOT / path).read_text(encoding="utf-8"): parsed(Path(path).stem, "main", arguments)
    else: assert not arguments


@pytest.mark.parametrize("command", sorted(c for c in NAMED if c.startswith("prograd_") and c.split()[0] in scripts()))
def test_a_console_script_exists_and_takes_its_arguments(command):
    name, *arguments = shlex.split(command)
    parsed(*scripts()[name], arguments)


@pytest.mark.parametrize("script", sorted(scripts()))
def test_the_help_of_a_console_script_does_not_wait_for_torch(script, tmp_path):
    module, function = scripts()[script]
    code = f"""import sys
from {module} import {function}
try: {function}()
except SystemExit: print(sorted({{"torch", "torchvision", "open_clip", "matplotlib"}} & set(sys.modules)))"""
    command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "usage: " in done.stdout and done.stdout.rstrip().endswith("[]")


def test_commands_of_every_kind_are_found():
    kinds = {command.split()[0] for command in NAMED}
    assert kinds >= {"make", "python", *scripts()} and len(NAMED) > 40


def test_make_has_something_to_do_for_every_target():
    "The recipes are not run: `make -n` prints them, with the environment taken for ready"
    targets = re.search(r"(?m)^\.PHONY: (.+)$", MAKEFILE)[1].split()
    command = ["make", "-n", "-o", ".venv/.ready", *targets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for script in set(re.findall(r"tools/\w+\.py", done.stdout)): assert (ROOT / script).is_file()


def test_the_app_of_a_folder_without_runs_is_refused_before_it_is_served(tmp_path):
    command = ["make", "-o", ".venv/.ready", "app", f"ARGS={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode and f"no run set in {tmp_path}: ARGS is a folder that train" in done.stderr


def imported(path):
    "The modules that a file imports at its top, in order"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom): yield node.module
        if isinstance(node, ast.Import): yield from (alias.name for alias in node.names)


def test_tools_import_the_library_before_what_needs_torchvision():
    "Where torchvision's operators do not load beside torch, `torchvision_ops` comes first, as in the tests' conftest"
    late, needs = [], {"torchvision", "open_clip", "timm", "pytorch_grad_cam", "test_published"}
    for tool in sorted((ROOT / "tools").glob("*.py")):
        names = list(imported(tool))
        first = next((i for i, name in enumerate(names) if name.startswith("prograd_viz")), len(names))
        if not needs.isdisjoint(name.split(".")[0] for name in names[:first]): late.append(tool.name)
    assert late == [] and needs & {*imported(ROOT / "tools" / "published.py")} == {"test_published"}
