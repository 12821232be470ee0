"""Random changes of a config run, or end in one message that names the field.

Never in an error of JAX, Flax or NumPy, which would not say what to change.
"""

import math

from ml_collections import ConfigDict
import numpy as np

from configs import smoke
from slot_attention.training import evaluate, train

NUM_CHANGES = 200
VALUES = (
  None, "", "nothing", True, False, -1, 0, 1, 2, 3, 5, 300, 2**40, -0.5, 0.0,
  0.5, 3.0, math.nan, math.inf, (), (0,), (1,), (2, 2), (16, 16), (1, 1, 1, 1),
  ("a",), (-1, 2), (0.5, 0.5), [1], {}, {"a": 1},
)  # fmt: skip


def make_config(data_dir):
  config = smoke.get_config("quickstart")
  config.num_steps = 1
  config.num_cpu_devices = 4
  config.model.encoder.features = config.model.decoder.features = (4, 4)
  config.model.encoder.strides = config.model.decoder.strides = (1, 1)
  config.model.slot_attention.num_iterations = 1
  config.data.data_dir = str(data_dir)
  return config.to_dict()


def places(tree, prefix=()):
  """Paths of all sections and fields."""
  for name, value in tree.items():
    yield (*prefix, name)
    if isinstance(value, dict):
      yield from places(value, (*prefix, name))


def change(tree, path, action, value):
  *sections, name = path
  for section in sections:
    tree = tree[section]
  if action == "delete":
    del tree[name]
  elif action == "rename":
    tree[name + "s"] = tree.pop(name)
  else:
    tree[name] = value


def all_changes():
  """Deletes or renames each field once in a while, else sets it to a value."""
  rng = np.random.default_rng(0)
  paths = list(places(make_config("")))
  for _ in range(NUM_CHANGES):
    path = paths[rng.integers(len(paths))]
    action = rng.choice(["delete", "rename"] + 8 * ["set"])
    yield path, action, VALUES[rng.integers(len(VALUES))]


def test_every_change_of_a_config_runs_or_is_named(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  # None of these depends on what is changed, but for the data and the batch.
  monkeypatch.setattr(
    evaluate, "make_evaluator", lambda *_, **__: lambda params: {"loss": 0.0}
  )
  monkeypatch.setattr(evaluate, "make_artist", lambda *_: lambda params: [])
  monkeypatch.setattr(evaluate, "report", lambda *_: None)
  good = make_config(tmp_path / "data")
  train.train(ConfigDict(good), tmp_path / "good")

  outcomes = {"runs": [], "is named": [], "fails": []}
  for i, (path, action, value) in enumerate(all_changes()):
    tree = make_config(tmp_path / "data")
    change(tree, path, action, value)
    what = f"{action} {'.'.join(path)} {value!r}"
    try:
      train.train(ConfigDict(tree), tmp_path / str(i))
    except (ValueError, FloatingPointError) as error:
      # Where images do not fit the decoder, it is not known which is meant.
      names = (path[-1], "images of")
      named = any(name in str(error) for name in names)
      outcomes["is named" if named else "fails"].append(f"{what}: {error}")
    except Exception as error:
      outcomes["fails"].append(f"{what}: {error!r}")
    else:
      outcomes["runs"].append(what)
  assert not outcomes["fails"], "\n".join(outcomes["fails"])
  assert len(outcomes["runs"]) > 10 and len(outcomes["is named"]) > 100
