"""The images of the page: examples, new scenes, and images of the visitor.

An image is a batch of one for `tasks.normalize`: images, uint8 [1, H, W, C],
and segments and targets where they are known.
"""

from collections.abc import Mapping
from typing import NamedTuple

import ml_collections
import numpy as np

from slot_attention import predict, pretrained
from slot_attention.data import (
  clevr,
  clevr_scenes,
  datasets,
  loading,
  multi_dsprites,
  store,
  tetrominoes,
)
from slot_attention.explore.weights import Arrays, Weights

_NUM_EXAMPLES = 12  # Of a run, whose examples are drawn.
_SEED = 2**31 - 1  # No config has this seed, so the scenes are new.
_ANY = "any"
_CLEVR_FACTORS = {"shape": "shape", "material": "material", "color": "colour"}


class Factor(NamedTuple):
  """What of a new scene can be chosen.

  Attributes:
    name: of the factor.
    label: as the page shows it.
    default: its value.
    low: smallest value of a number.
    high: largest value of a number.
    choices: if there are any, the value is the index of one of these.
  """

  name: str
  label: str
  default: int
  low: int = 0
  high: int = 0
  choices: tuple[str, ...] = ()


def examples(weights: Weights) -> list[Arrays]:
  """Returns the examples of weights, or scenes of a run's generator.

  If there is no generator, they are the first evaluation examples of the
  prepared data, or a grey image where none is prepared.
  """
  if weights.is_shipped:
    arrays = pretrained.load_examples(weights.name)
    del arrays["example_ids"]
    return _one_by_one(arrays)
  options = factors(weights.run.config)
  if not options:
    return _one_by_one(_prepared(weights.run.config.data))
  number = options[0]
  fewest = min(3, number.default) if number.low == 1 else number.low
  return [
    draw(
      weights.run.config,
      seed,
      {number.name: fewest + seed % (number.default - fewest + 1)},
    )
    for seed in range(_NUM_EXAMPLES)
  ]


def factors(config: ml_collections.ConfigDict) -> list[Factor]:
  """Returns the factors of a run's generator, the number of objects first.

  Their defaults are the run's. A data set without a generator has none.
  """
  data = config.data
  options = _options(config)
  if data.name == "tetrominoes":
    value = datasets.DATA_SETS[data.name].with_defaults(options)

    def up_to(name, label, low, high):
      return Factor(name, label, value[name], low, max(high, value[name]))

    return [
      up_to("num_objects", "objects", 1, 6),
      Factor("shape", "shape", 0, choices=("as trained", *tetrominoes.SHAPES)),
      up_to("block_size", "block (pixels)", 1, 8),
      up_to("min_gap", "gap (pixels)", 0, 5),
      Factor(
        "distinct_colors",
        "colours",
        int(value["distinct_colors"]),
        choices=("any", "all different"),
      ),
      Factor("background", "background", value["background"], 0, 255),
    ]
  if data.name.startswith("multi_dsprites"):
    fewest, most = multi_dsprites.NUM_SPRITES[_variant(data.name)]
    if not options.get("may_overlap", True):
      most = min(most, multi_dsprites.MOST_APART)
    number = options.get("num_sprites") or most
    scales = tuple(f"{x:.1f}" for x in multi_dsprites.SCALES)
    return [
      Factor("num_sprites", "objects", number, fewest, most),
      Factor("shape", "shape", 0, choices=(_ANY, "square", "ellipse", "heart")),
      Factor("scale", "scale", 0, choices=(_ANY, *scales)),
    ]
  if data.name.startswith("clevr"):
    most = min(data.max_objects, options.get("max_objects", clevr.MAX_OBJECTS))
    limit = (
      len(clevr.PROPERTIES["color"])
      if options.get("distinct_colors")
      else clevr.MAX_OBJECTS
    )
    return [
      Factor("num_objects", "objects", most, 1, limit),
      *(
        Factor(name, label, 0, choices=(_ANY, *clevr.PROPERTIES[name]))
        for name, label in _CLEVR_FACTORS.items()
      ),
    ]
  return []


def draw(
  config: ml_collections.ConfigDict, seed: int, values: Mapping[str, int]
) -> Arrays:
  """Draws a new scene by the generator of a run's data.

  Args:
    config: of the run.
    seed: of the scene.
    values: of `factors`; those that are left out have their defaults.

  Raises:
    ValueError: for an unknown factor, a value out of range, or objects that do
      not fit into the image.
  """
  known = {factor.name: factor for factor in factors(config)}
  if not known:
    raise ValueError(f"there is no generator of {config.data.name}")
  for name, value in values.items():
    if name not in known:
      raise ValueError(f"{name} is not one of {', '.join(known)}")
    low, high = known[name].low, known[name].high
    if known[name].choices:
      low, high = 0, len(known[name].choices) - 1
    if not low <= value <= high:
      raise ValueError(f"{name}={value} must be from {low} to {high}")
  values = {name: x.default for name, x in known.items()} | dict(values)
  name = config.data.name
  if name == "tetrominoes":
    arrays = _draw_tetrominoes(config, seed, values)
  elif name.startswith("multi_dsprites"):
    arrays = _draw_sprites(config, seed, values)
  else:
    arrays = _draw_clevr(config, seed, values)
  if "targets" in arrays:
    # As many rows as in training, so that they are matched as there.
    most = max(config.data.max_objects, values["num_objects"])
    arrays["targets"] = arrays["targets"][:, :most]
  return store.Split(arrays, np.arange(1), config.data.grayscale).take([0])


def own(config: ml_collections.ConfigDict, image: np.ndarray) -> Arrays:
  """Frames an image uint8 [H, W, 3] of any size, as `predict` does."""
  return {"images": predict.frame(config, [image])["images"]}


def difference(known: list[Arrays], batch: Arrays) -> str:
  """Says by what an image differs from those that the weights know.

  Four numbers describe an image: its mean, its standard deviation, its
  colourfulness (the mean spread of its channels) and its detail (the mean
  difference of neighbouring pixels). An image differs if one of its numbers
  lies outside of the range of the known images, by more than the width of that
  range and by more than 0.05.

  Args:
    known: examples of the weights.
    batch: an image.

  Returns:
    Words such as "its brightness is 0.71, theirs are 0.10 to 0.22", or "" if
    nothing differs or fewer than two images are known.
  """
  if len(known) < 2:
    return ""
  table = [_statistics(x["images"][0]) for x in known]
  for name, value in _statistics(batch["images"][0]).items():
    theirs = [row[name] for row in table]
    low, high = min(theirs), max(theirs)
    if max(low - value, value - high) > max(high - low, 0.05):
      return f"its {name} is {value:.2f}, theirs are {low:.2f} to {high:.2f}"
  return ""


def _statistics(image):
  """Describes an image uint8 [H, W, C] by numbers from 0 to 1."""
  x = image.astype(np.float32) / 255
  steps = [np.abs(np.diff(x, axis=axis)).mean() for axis in (0, 1)]
  return {
    "brightness": float(x.mean()),
    "contrast": float(x.std()),
    "colourfulness": float((x.max(-1) - x.min(-1)).mean()),
    "detail": float(np.mean(steps)),
  }


def _one_by_one(arrays):
  """Splits a batch into batches of one."""
  return [
    {name: x[i : i + 1] for name, x in arrays.items()}
    for i in range(len(arrays["images"]))
  ]


def _prepared(data):
  """Returns evaluation examples of prepared data, or a grey image."""
  try:
    is_prepared = loading.find(data) is not None
  except FileNotFoundError:  # The folder of images is gone.
    is_prepared = False
  if is_prepared:
    split = loading.load(data).splits["eval"]
    return split.take(np.arange(min(_NUM_EXAMPLES, len(split))))
  return {"images": np.full((1, *datasets.image_shape(data)), 128, np.uint8)}


def _options(config):
  """Returns the options of a run's generator; {} if its data is original."""
  is_drawn = config.data.source == "procedural"
  return dict(config.data.procedural) if is_drawn else {}


def _variant(name):
  return name.removeprefix("multi_dsprites_")


def _rng(seed):
  return np.random.default_rng([_SEED, seed])


def _draw_tetrominoes(config, seed, values):
  size = datasets.image_shape(config.data)[0]
  shapes = _options(config).get("shapes", tetrominoes.ALL_SHAPES)
  scenes = tetrominoes.sample(
    _rng(seed),
    1,
    num_objects=values["num_objects"],
    shapes=(values["shape"],) if values["shape"] else shapes,
    image_size=size,
    block_size=values["block_size"],
    min_gap=values["min_gap"],
    distinct_colors=bool(values["distinct_colors"]),
  )
  return tetrominoes.render(
    scenes,
    image_size=size,
    block_size=values["block_size"],
    background=values["background"],
  )


def _draw_sprites(config, seed, values):
  size = datasets.image_shape(config.data)[0]
  options = {
    **_options(config),
    "num_sprites": values["num_sprites"],
    "image_size": size,
  }
  options.pop("seed", None)
  scenes = multi_dsprites.sample(
    _rng(seed), 1, variant=_variant(config.data.name), **options
  )
  if values["shape"]:
    shapes = np.where(scenes.shapes > 0, values["shape"], 0)
    scenes = scenes._replace(shapes=shapes)
  if values["scale"]:
    scales = np.full_like(scenes.scales, values["scale"] - 1)
    scenes = scenes._replace(scales=scales)
  return multi_dsprites.render(scenes, image_size=size)


def _draw_clevr(config, seed, values):
  number = values["num_objects"]
  options = _options(config)

  def given(*names):
    return {name: options[name] for name in names if name in options}

  scenes = clevr_scenes.sample(
    [seed],
    seed=_SEED,
    min_objects=number,
    max_objects=number,
    **given("only_large", "distinct_colors"),
  )
  classes = dict(scenes.classes)
  for name in _CLEVR_FACTORS:
    if values[name]:
      classes[name] = np.full_like(classes[name], values[name] - 1)
  return clevr_scenes.draw(
    scenes._replace(classes=classes),
    **config.data.preprocessing,
    **given("samples", "black_level", "white_level"),
  )
