"""Tests of the notebooks: each runs from top to bottom."""

from pathlib import Path

import pytest

from slot_attention import pretrained

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {
  "inspect_attention": "quickstart",
  "set_prediction": "clevr_set_prediction_small",
}


def read(name):
  return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def outputs(notebook):
  return [
    output
    for cell in notebook.cells
    if cell.cell_type == "code"
    for output in cell.outputs
  ]


def num_pictures(notebook):
  return sum("image/png" in x.get("data", {}) for x in outputs(notebook))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_stored_outputs_are_of_the_present_weights(name):
  card = pretrained.load_card(NOTEBOOKS[name])
  texts = [x.get("data", {}).get("text/plain", "") for x in outputs(read(name))]
  metrics = card["evaluation"]["metrics"]
  assert any(f"'loss': {metrics['loss']}" in text for text in texts)


def test_every_notebook_is_tested():
  names = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
  assert names == set(NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(name, monkeypatch):
  # As for a user, there is one device, and compilation is as usual.
  monkeypatch.setenv("XLA_FLAGS", "")
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  stored = read(name)
  executed = nbclient.NotebookClient(
    read(name),
    timeout=300,
    kernel_name="python3",
    resources={"metadata": {"path": str(ROOT)}},
  ).execute()
  # The stored notebook has as many pictures as the executed one.
  assert num_pictures(stored) == num_pictures(executed) >= 3
  assert not [x for x in outputs(stored) if x.output_type == "error"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_small_and_hold_no_model_code(name):
  path = ROOT / "notebooks" / f"{name}.ipynb"
  assert path.stat().st_size < 1_000_000
  source = "\n".join(
    cell.source for cell in read(name).cells if cell.cell_type == "code"
  )
  assert not any(word in source for word in ("flax", "class ", "jnp"))
  assert f'"{NOTEBOOKS[name]}"' in source
