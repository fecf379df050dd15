"JupyterLab and Voila on a free port of this machine, and Chromium: for tests/browser and the explorer's benchmark."
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]
# without one, a dialog asks
KERNEL = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
AS_ROOT = ["--allow-root"] * (os.name == "posix" and os.getuid() == 0)


def notebook(
    path:Path, # Where to write
    cells:list, # Sources of code cells
):
    "A notebook of code cells"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=KERNEL), path)


@contextmanager
def serving(
    folder:Path, # Working directory and home: no settings of this machine's user
    command:list, # After `python -m`; {port} and {token} are filled in
    ready:str="/", # What answers as soon as it is up
):
    "Start a server of Jupyter's; yields its address and its token"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token, log = secrets.token_urlsafe(16), folder/"log"
    home = {"HOME": str(folder), "JUPYTER_CONFIG_DIR": str(folder/"config"),
            "JUPYTER_RUNTIME_DIR": str(folder/"runtime"), "PYTHONPATH": str(ROOT),
            "JUPYTER_PATH": str(ROOT/"tools"/"jupyter")}
    command = [sys.executable, "-m", *(part.format(port=port, token=token) for part in command)]
    options = {"cwd": folder, "env": os.environ | home}
    with open(log, "wb") as out, subprocess.Popen(command, **options, stdout=out, stderr=out) as process:
        try:
            for _ in range(240):
                if process.poll() is not None: raise RuntimeError(log.read_text()[-2000:])
                if answers(f"http://127.0.0.1:{port}{ready}?token={token}"): break
                time.sleep(0.25)
            else: raise TimeoutError(log.read_text()[-2000:])
            yield f"http://127.0.0.1:{port}", token
        finally: process.terminate()


def answers(address):
    "Whether a server answers, if only with an error"
    try: urllib.request.urlopen(address, timeout=10).close()
    except urllib.error.HTTPError: return True
    except OSError: return False
    return True


def jupyterlab(
    folder:Path, # Holds the notebooks
):
    "JupyterLab, without news and questions, and with all cells in the page, not only those in sight"
    settings = folder/"config"/"lab"/"user-settings"/"@jupyterlab"/"notebook-extension"
    settings.mkdir(parents=True)
    (settings/"tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    return serving(folder, ["jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port={port}", "--port-retries=0",
                            "--IdentityProvider.token={token}", "--LabApp.news_url=None",
                            "--LabApp.expose_app_in_browser=True",
                            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", *AS_ROOT], "/api")


def voila(
    folder:Path, # For its files
    app:Path, # A notebook
):
    "Voila, serving one notebook"
    denied = "['jupyterlab-jupytext','@voila-dashboards/jupyterlab-preview']"
    return serving(folder, ["voila", str(app), "--no-browser", "--Voila.ip=127.0.0.1", "--port={port}",
                            "--token={token}", "--template=local",
                            f"--VoilaConfiguration.extension_denylist={denied}"])


@contextmanager
def chromium():
    "Chromium without a window"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try: yield browser
        finally: browser.close()


def watched(
    browser, # Of `chromium`
    width:int=1280, # Of the page, pixels
    height:int=900, # Of the page, pixels
    **options, # Of a playwright page
):
    "A page that keeps what goes wrong in it: errors of scripts and of the console, in `page.wrong`"
    page = browser.new_page(viewport={"width": width, "height": height}, **options)
    page.set_default_timeout(60_000)
    page.wrong = []
    page.on("pageerror", lambda e: page.wrong.append(str(e)))
    page.on("console", lambda m: page.wrong.append(f"{m.text} {m.location.get('url', '')}")
            if m.type == "error" else None)
    return page


def open_notebook(
    page, # Of `watched`
    address:str, # Of JupyterLab
    token:str, # Of the same
    name:str, # Of the notebook, from the folder
):
    "Open a notebook and wait for its kernel"
    page.goto(f"{address}/lab/tree/{name}?token={token}")
    page.get_by_text("| Idle").wait_for(timeout=180_000)
    news = page.get_by_role("button", name="No", exact=True)
    if news.count(): news.click()
    page.locator(".jp-Notebook .jp-Cell").first.click()


def command(
    page, # With JupyterLab in it
    name:str, # Of a command of JupyterLab's
    **arguments, # Of the command
):
    "What a menu of JupyterLab does"
    page.evaluate("([name, arguments]) => { window.jupyterapp.commands.execute(name, arguments) }", [name, arguments])
