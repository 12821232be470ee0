"""Tests of the README and the docs: examples, links, and names."""

import importlib.util
import os
from pathlib import Path
import re
import subprocess

import jax
import pytest

from slot_attention.data import datasets
from slot_attention.training import runs

ROOT = Path(__file__).parents[1]
PAGES = {
  str(path.relative_to(ROOT)): path.read_text()
  for path in (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
  )
}
EXAMPLES = [
  (name, number, example)
  for name, text in PAGES.items()
  for number, example in enumerate(
    re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.M)
  )
]
# An expression and its value: `x.shape  # (2, 3)`, or `x == y  # True`.
VALUE = re.compile(r"^(\S.*)  # (\([\d, ]+\)|True)", re.M)


def in_pages(pattern):
  """Returns all matches of a pattern, as pairs of page and match."""
  return [
    (name, match)
    for name, text in PAGES.items()
    for match in re.findall(pattern, text)
  ]


@pytest.mark.parametrize("page, number, example", EXAMPLES)
def test_an_example_runs_as_it_stands(page, number, example):
  names = {}
  with jax.numpy_rank_promotion("allow"):  # The default, as for a user.
    exec(compile(example, f"{page}, example {number}", "exec"), names)
  for expression, value in VALUE.findall(example):
    assert eval(expression, names) == eval(value), expression


def test_there_are_examples_with_values():
  values = [page for page, _, example in EXAMPLES if VALUE.search(example)]
  assert "README.md" in values
  assert len(values) >= 4


def test_the_fields_that_may_change_in_a_run_are_listed():
  (listed,) = re.findall(
    r"these fields may change:(.*?)\. To train",
    PAGES["docs/training.md"],
    re.DOTALL,
  )
  named = set(re.findall(r"`([\w.]+)`", listed))
  free = {x.removeprefix("model.decoder.") for x in runs.FREE_FIELDS}
  free = {x.removeprefix("model.invariant_decoder.") for x in free}
  assert named == {*free, "data.path"}


def test_every_local_link_and_picture_is_there():
  links = in_pages(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
  local = [(page, link) for page, link in links if "://" not in link]
  assert {page for page, _ in local} >= {"README.md", "docs/index.md"}
  for page, link in local:
    assert (ROOT / page).parent.joinpath(link).exists(), (page, link)


def test_an_empty_line_ends_every_table():
  # Without it, the next line becomes a row of the table.
  assert not in_pages(r"(?m)^\|.*\|\n(?![|\n]).+")


def test_every_page_is_in_the_index():
  index = PAGES["docs/index.md"]
  toctree = re.search(r"```{toctree}\n:hidden:\n\n(.*?)```", index, re.DOTALL)
  names = {Path(page).stem for page in PAGES if page.startswith("docs/")}
  assert names - {"index"} == set(toctree[1].split())


def test_every_file_that_is_named_is_there():
  named = in_pages(r"`((?:\w+/)+\w+\.(?:py|md|json|ipynb))`")
  assert len(named) > 5
  for page, name in named:
    if not Path(name).stem.isupper():  # As in configs/NAME.py.
      assert (ROOT / name).exists(), (page, name)


def test_every_test_that_is_named_is_there():
  tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
  named = in_pages(r"`(test_\w+)`")
  assert len(named) > 15
  for page, name in named:
    assert f"def {name}(" in tests, (page, name)


def test_every_command_and_config_that_is_named_is_there():
  modules = in_pages(r"python -m\s+((?:slot_attention|benchmarks)[.\w]+)")
  assert len(modules) > 10
  for page, module in modules:
    assert importlib.util.find_spec(module), (page, module)
  configs = in_pages(r"--configs?=(?:configs/)?([a-z]\w*)\b(?!/)")
  assert len(configs) > 10
  for page, config in configs:
    assert (ROOT / "configs" / f"{config}.py").exists(), (page, config)


@pytest.mark.parametrize(
  "code, requeued", [(75, ["requeue 8"]), (1, []), (0, [])]
)
def test_the_slurm_script_requeues_only_what_a_signal_ended(
  tmp_path, code, requeued
):
  page = PAGES["docs/training.md"]
  script = re.search(r"^(#!/bin/bash\n#SBATCH.*?)^```", page, re.DOTALL | re.M)[
    1
  ]
  for name, line in {
    "srun": f"exit {code}",
    "scontrol": f'echo "$@" >> {tmp_path}/calls',
  }.items():
    (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
    (tmp_path / name).chmod(0o755)
  (tmp_path / "calls").touch()
  environment = {
    "PATH": f"{tmp_path}:{os.environ['PATH']}",
    "SLURM_JOB_ID": "8",
  }
  done = subprocess.run(["bash", "-c", script], env=environment)
  assert done.returncode == code
  assert (tmp_path / "calls").read_text().splitlines() == requeued


def test_every_data_set_has_its_row_and_every_drawn_one_its_picture():
  page = (ROOT / "docs" / "data.md").read_text()
  for name, data_set in datasets.DATA_SETS.items():
    assert f"`{name}`" in page, f"docs/data.md has no row for {name}"
    if data_set.generate is not None:
      picture = f"data_{name}.png"
      assert f"]({picture})" in page, f"docs/data.md does not show {picture}"
      assert (ROOT / "docs" / picture).exists()
