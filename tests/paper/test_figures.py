"""Tests of the figures of a run."""

import dataclasses

import jax
import matplotlib.image
import numpy as np
import pytest

from slot_attention import plots, pretrained, tasks
from slot_attention.data import datasets
from slot_attention.paper import figures
from slot_attention.training import runs
from tests.runs import make_run
from tests.test_metrics import random_sets


def size(path):
  """Returns height and width of a picture, which must not be blank."""
  picture = matplotlib.image.imread(path)[..., :3]
  assert picture.std() > 0.05
  return picture.shape[:2]


def test_object_discovery_has_every_figure_of_the_paper(tmp_path, capsys):
  workdir = make_run(tmp_path / "run", "quickstart")
  figures.main([f"--workdir={workdir}", "--num_images=2", "--num_iterations=4"])
  folder = workdir / "figures"
  names = [path.name for path in sorted(folder.iterdir())]
  assert names == [f"figure_{x}.png" for x in ("20", "3a", "3b", "3c", "4")]
  printed = capsys.readouterr().out.split()
  assert sorted(printed) == [str(folder / name) for name in names]
  heights = {name: size(folder / name)[0] for name in names}
  # 3a has a row per image, the others have one per image and iteration.
  for name in ("figure_3b.png", "figure_3c.png"):
    assert heights[name] > 3 * heights["figure_3a.png"]
  # Figure 20 has four more slots.
  assert size(folder / "figure_20.png")[1] > size(folder / "figure_4.png")[1]


def test_figure_20_has_the_images_with_most_objects(tmp_path):
  run = runs.load(make_run(tmp_path / "run", "quickstart"))
  # More objects than the data set has by default.
  run.config.data.max_objects = run.config.data.procedural.num_objects = 4
  examples = figures._examples(run, 2, more=True)
  assert examples["segments"].max(axis=(1, 2)).tolist() == [4, 4]


def test_set_prediction_has_its_table_and_attention(tmp_path):
  workdir = make_run(tmp_path / "run", "clevr_set_prediction_small")
  run = runs.load(workdir)
  rng = np.random.default_rng(0)
  _, targets = random_sets(rng, 2, 6, 6, 0.0)
  shape = datasets.image_shape(run.config.data)
  batch = {
    "images": rng.uniform(-1, 1, (2, *shape)).astype(np.float32),
    "targets": targets,
    "example_ids": np.arange(2),
  }
  paths = figures.draw(run, batch, tmp_path, num_slots=7)
  assert [path.name for path in paths] == ["table_2.png", "figure_6.png"]
  table, attention = map(size, paths)
  assert table[1] > 500 and 3 * attention[0] < 2 * attention[1]


def texts_of(monkeypatch, draw):
  """Returns the texts of each figure that `draw` makes, in order."""
  drawn = []
  new_figure = plots.new_figure

  def keep(*args, **kwargs):
    drawn.append(new_figure(*args, **kwargs))
    return drawn[-1]

  monkeypatch.setattr(plots, "new_figure", keep)
  draw()
  return [
    [text.get_text() for axes in figure.axes for text in axes.texts]
    for figure in drawn
  ]


def test_figure_6_names_the_iteration_that_it_shows(tmp_path, monkeypatch):
  workdir = make_run(tmp_path / "run", "clevr_set_prediction_small")
  run = runs.load(workdir)
  shape = datasets.image_shape(run.config.data)
  rng = np.random.default_rng(0)
  batch = {
    "images": rng.uniform(-1, 1, (2, *shape)).astype(np.float32),
    "targets": random_sets(rng, 2, 6, 6, 0.0)[1],
  }
  table, attention = texts_of(
    monkeypatch,
    lambda: figures.draw(run, batch, tmp_path, num_slots=7, num_iterations=4),
  )
  assert [x for x in attention if x.startswith("t =")] == ["t = 4"] * 2
  assert [x for x in attention if x.startswith("Slot")] == [
    f"Slot {k}" for k in range(1, 8)
  ]
  columns = [x for x in table if x.startswith("t =") or x == "True"]
  assert columns == ["True", "t = 1", "t = 2", "t = 3", "t = 4"] * 2


def test_object_discovery_labels_every_iteration(tmp_path, monkeypatch):
  run = pretrained.load("quickstart")
  examples = pretrained.load_examples("quickstart")
  batch = tasks.normalize({name: x[:2] for name, x in examples.items()})
  slots, attention, iterations, whole = texts_of(
    monkeypatch, lambda: figures.draw(run, batch, tmp_path, num_iterations=2)
  )
  for texts in (attention, iterations):
    assert [x for x in texts if x.startswith("t =")] == ["t = 1", "t = 2"] * 2
  for texts in (slots, whole):
    assert not any(x.startswith("t =") for x in texts)
  assert all(texts.count("Slot 4") == 1 for texts in (slots, attention, whole))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decoding_the_last_iteration_gives_the_reconstruction(dtype):
  run = pretrained.load("quickstart")
  run = run._replace(task=dataclasses.replace(run.task, compute_dtype=dtype))
  batch = tasks.normalize(pretrained.load_examples("quickstart"))
  outputs = jax.jit(run.task.apply)(run.params, batch, jax.random.key(0))
  decoded = figures.decode(run, outputs)
  assert len(decoded) == 3
  np.testing.assert_allclose(
    decoded[-1]["recon_combined"], outputs["recon_combined"], atol=1e-5
  )
  # Reconstructions improve with the iterations (Figure 3c).
  losses = [run.task.loss(x, batch).mean() for x in decoded]
  assert losses[0] > 2 * losses[1] and losses[1] > losses[2]


def test_the_slot_mlp_and_empty_requests_are_refused(tmp_path):
  workdir = make_run(tmp_path / "run", "slot_mlp:clevr_set_prediction_small")
  with pytest.raises(ValueError, match="Slot MLP has no iterations"):
    figures.main([f"--workdir={workdir}"])
  workdir = make_run(tmp_path / "discovery", "slot_mlp:quickstart")
  figures.main([f"--workdir={workdir}"])
  drawn = sorted(path.name for path in (workdir / "figures").iterdir())
  assert drawn == ["figure_3a.png", "figure_4.png"]
  with pytest.raises(ValueError, match="num_images=0"):
    figures.main(["--pretrained=quickstart", "--num_images=0"])
