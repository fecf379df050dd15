"Packaging from settings.ini: the standard library and setuptools are all it needs."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
parser = ConfigParser()
parser.read(root/"settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
lib, url = cfg["lib_path"], cfg["git_url"]

# settings.ini speaks nbdev's vocabulary, package metadata speaks trove; the licence stands in pyproject.toml
statuses = {"3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}
pythons = [f"3.{minor}" for minor in range(int(cfg["min_python"].split(".")[1]), 14)]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(root/"README.md").read_text(encoding="utf-8")
    if (root/"README.md").exists() else cfg["description"],
    long_description_content_type="text/markdown",
    author=cfg["author"],
    url=url,
    project_urls={"Source": url, "Changelog": f"{url}/blob/{cfg['branch']}/CHANGELOG.md"},
    keywords=cfg["keywords"].split(),
    classifiers=[f"Development Status :: {statuses[cfg['status']]}",
                 f"Intended Audience :: {cfg['audience']}",
                 f"Natural Language :: {cfg['language']}",
                 "Topic :: Scientific/Engineering :: Artificial Intelligence",
                 *(f"Programming Language :: Python :: {v}" for v in pythons)],
    packages=find_packages(include=[lib, f"{lib}.*"]),
    package_data={lib: ["assets/**/*"]},  # pocket model, configs, figure style
    include_package_data=False,  # the line above alone decides what a wheel holds
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={extra: cfg[f"{extra}_requirements"].split() for extra in ("dev", "hf", "lab", "ray", "torchjd")},
    entry_points={"console_scripts": cfg["console_scripts"].split(),
                  "nbdev": [f"{lib}={lib}._modidx:d"]},
    zip_safe=False,
)
