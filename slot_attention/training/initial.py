"""The parameters from which a run starts: random, or those of another run.

Weights that come with the package are in slot_attention/weights, a folder for
each name. `slot_attention.pretrained` says what is in it.
"""

from pathlib import Path
from typing import Any

from absl import logging
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from slot_attention import files
from slot_attention.training import checkpoints

WEIGHTS = Path(__file__).parents[1] / "weights"


def names(folder: Path = WEIGHTS) -> list[str]:
  """Returns the names of all weights in a folder, by default the package's."""
  return sorted(path.parent.name for path in folder.glob("*/card.json"))


def read_weights(folder: Path) -> Any:
  """Reads the parameters of weights, in float32; see `files.read_arrays`."""
  arrays = files.read_arrays(folder / "params.npz")
  flat = {path: x.astype(np.float32) for path, x in arrays.items()}
  return traverse_util.unflatten_dict(flat, sep="/")


def read(source: str) -> Any:
  """Reads the parameters of another run.

  Args:
    source: folder of a run, or name of weights in the package.

  Returns:
    The parameters of its newest checkpoint; an empty dict if source is "".

  Raises:
    ValueError: if there is no such run and there are no such weights, or if the
      weights or all checkpoints of the run are damaged.
  """
  if not source:
    return {}
  if source in names():
    return read_weights(WEIGHTS / source)
  restored = checkpoints.restore_newest(source)
  if restored is None:
    raise ValueError(
      f"initial_params={source!r} is neither the folder of a run with a"
      f" checkpoint nor the name of weights: {', '.join(names())}"
    )
  _, items = restored
  return items["params"]


def start_from(others: Any, params: Any) -> Any:
  """Replaces parameters by those of another run with the same name and shape.

  A part that the other run does not have, or has in another size, keeps its
  random parameters.

  Args:
    others: what `read` returns.
    params: random parameters.

  Returns:
    Parameters with the names and shapes of `params`.

  Raises:
    ValueError: if there are others, but none is the same.
  """
  if not others:
    return params
  mine = traverse_util.flatten_dict(params, sep="/")
  others = traverse_util.flatten_dict(others, sep="/")
  taken = {
    name: jnp.asarray(others[name], x.dtype)
    for name, x in mine.items()
    if name in others and others[name].shape == x.shape
  }
  if not taken:
    raise ValueError(
      "initial_params: no parameter there has the name and shape of one of this"
      " model"
    )
  new = sorted(mine.keys() - taken.keys())
  logging.info(
    "%d of %d parameters start from another run; these stay random: %s",
    sum(x.size for x in taken.values()),
    sum(x.size for x in jax.tree.leaves(params)),
    ", ".join(new) or "none",
  )
  return traverse_util.unflatten_dict({**mine, **taken}, sep="/")
