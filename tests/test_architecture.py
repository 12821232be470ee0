"""Tests of the architecture: imports between modules, and their sizes."""

import ast
from pathlib import Path
import re
import tomllib

import pytest

ROOT = Path(__file__).parents[1]
# A module may import modules of its own place and of later ones, but never of
# earlier ones.
PLACES = (
  {"main"},
  {"explore"},
  {"__main__", "predict", "convert"},
  {"paper"},
  {"pretrained"},
  {"training"},
  {"validation"},
  {"tasks"},
  {"data", "visualization", "plots", "losses", "metrics", "models"},
  {"parallel", "progress", "command"},
  {"cache", "checks", "files", "start"},
)
# In the place with these rooms, a room may import only later ones of the list.
DATA_TO_METRICS = ("data", "visualization", "plots", "losses", "metrics")

MODULES = {
  ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
    ".__init__"
  ): path
  for path in [ROOT / "main.py", *ROOT.glob("slot_attention/**/*.py")]
}


def imported(name):
  """Returns the modules of the project that a module imports anywhere."""
  found = set()
  for node in ast.walk(ast.parse(MODULES[name].read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      parts = {f"{node.module}.{alias.name}" for alias in node.names}
      found |= parts & set(MODULES) or {node.module}
  return found & set(MODULES)


def room(name):
  """Returns the room of a module: slot_attention.data.store is in data."""
  return name.removeprefix("slot_attention.").partition(".")[0]


def place(name):
  (index,) = (i for i, rooms in enumerate(PLACES) if room(name) in rooms)
  return index


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"slot_attention"}))
def test_no_module_imports_an_earlier_place(name):
  for other in imported(name) - {"slot_attention"}:
    assert place(name) <= place(other), f"{name} imports {other}"
    if room(name) != room(other) and place(name) == place(other):
      assert {room(name), room(other)} <= set(DATA_TO_METRICS), (name, other)
      order = [DATA_TO_METRICS.index(room(x)) for x in (name, other)]
      assert order == sorted(order), f"{name} imports {other}"


def test_the_places_are_those_of_the_docs():
  page = (ROOT / "docs" / "architecture.md").read_text()
  _, _, rest = page.partition("## Who may import whom")
  _, block, *_ = rest.split("```")
  lines = block.strip().splitlines()
  assert [set(re.findall(r"\w+", line)) for line in lines] == [*PLACES]


def test_imports_have_no_circle():
  done = set()

  def visit(name, path):
    assert name not in path, " -> ".join([*path, name])
    if name not in done:
      for other in imported(name):
        visit(other, [*path, name])
      done.add(name)

  for name in MODULES:
    visit(name, [])
  assert len(done) > 40


def test_models_use_neither_configs_nor_files():
  for name, path in MODULES.items():
    if room(name) == "models":
      for word in ("ml_collections", "pathlib", "open("):
        assert word not in path.read_text(), f"{name} has {word}"


def test_no_module_but_the_renderer_is_longer_than_400_lines():
  lines = {name: len(path.read_text().splitlines()) for name, path in
           MODULES.items()}  # fmt: skip
  assert {x for x in lines if lines[x] > 400} <= {
    "slot_attention.data.clevr_renderer"
  }
  readme = (ROOT / "README.md").read_text().splitlines()
  assert len(readme) <= 200


def test_the_installed_package_has_every_folder_and_the_configs():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())
  setuptools = project["tool"]["setuptools"]
  folders = {"slot_attention", "slot_attention.configs"}
  folders |= {f"slot_attention.{room(x)}" for x in MODULES if x.count(".") > 1}
  assert set(setuptools["packages"]) == folders
  assert setuptools["package-dir"] == {"slot_attention.configs": "configs"}
