"""Lists the data sets, and checks the data section of a config.

A new procedural data set needs a module with a function `generate`, and one
entry in `DATA_SETS`.
"""

from collections.abc import Callable, Mapping
import dataclasses
import inspect
from pathlib import Path
from typing import Any

from slot_attention.checks import (
  check_at_least,
  check_choice,
  check_section,
)
from slot_attention.data import (
  clevr,
  clevr_scenes,
  moving_sprites,
  multi_dsprites,
  store,
  tetrominoes,
)

SOURCES = ("procedural", "original")


@dataclasses.dataclass(frozen=True)
class DataSet:
  """Describes a data set.

  Attributes:
    image_shape: height, width and channels of an image; of a video, the number
      of frames before them. The options `image_size` and `num_frames` override
      height and width, and the frames.
    max_objects: the largest number of objects in an image.
    num_train: the paper trains on the first so many examples.
    num_examples: how many examples are prepared by default: `num_train`, and
      enough after them for evaluation.
    has_targets: whether examples have the targets of set prediction.
    is_binary: whether every pixel is black or white.
    generate: draws one chunk of the procedural data set; its keyword arguments
      are the options in config.data.procedural. None if the data set exists
      only as an original.
    chunk_size: the number of examples that `generate` draws.
    fewest_objects: maps the options of `generate` to the smallest number of
      objects in an image.
    check_options: raises a ValueError for arguments, other than seed and chunk,
      that `generate` cannot use.
    fixed: arguments of `generate` that a config does not choose.
    has_original: whether there is an original to read.
    generator_version: the version of what `generate` draws. Raise it whenever
      the same arguments draw something else, or a default changes, so that data
      which was prepared before is not used any more.
    reader_version: the same for what is read of the original.
    preprocessing: the options in config.data.preprocessing, which both sources
      have, with the paper's values.
  """

  image_shape: tuple[int, ...]
  max_objects: int
  num_train: int
  num_examples: int
  has_targets: bool = False
  is_binary: bool = False
  generate: Callable[..., store.Arrays] | None = None
  chunk_size: int = 0
  fewest_objects: Callable[[Mapping[str, Any]], int] = lambda _: 0
  check_options: Callable[..., None] = lambda **_: None
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  has_original: bool = True
  generator_version: int = 1
  reader_version: int = 1
  preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def is_video(self) -> bool:
    """Whether every example is a video."""
    return len(self.image_shape) == 4

  @property
  def options(self) -> dict[str, inspect.Parameter]:
    """Returns the options in config.data.procedural, except the seed."""
    return {
      name: parameter
      for name, parameter in inspect.signature(self.generate).parameters.items()
      if name not in {"chunk", "seed", *self.fixed, *self.preprocessing}
    }

  def with_defaults(self, procedural: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the defaults of the `options` that a section leaves out."""
    defaults = {name: option.default for name, option in self.options.items()}
    return {**defaults, **procedural}


def _multi_dsprites(variant, max_objects, channels=3):
  return DataSet(
    image_shape=(64, 64, channels),
    max_objects=max_objects,
    num_train=60_000,
    num_examples=60_320,
    generate=multi_dsprites.generate,
    chunk_size=multi_dsprites.CHUNK_SIZE,
    fewest_objects=lambda options: (
      options["num_sprites"] or multi_dsprites.NUM_SPRITES[variant][0]
    ),
    check_options=multi_dsprites.check_options,
    fixed={"variant": variant},
    is_binary=variant == "binarized",
  )


def _objects_room(max_objects, num_train, num_examples):
  return DataSet((64, 64, 3), max_objects, num_train, num_examples)


_CLEVR = DataSet(
  image_shape=(128, 128, 3),
  max_objects=clevr.MAX_OBJECTS,
  # The official code sets 512 of the 70,000 training images aside. The 15,000
  # validation images follow.
  num_train=69_488,
  num_examples=84_488,
  has_targets=True,
  generate=clevr_scenes.generate,
  chunk_size=clevr_scenes.CHUNK_SIZE,
  fewest_objects=lambda options: options["min_objects"],
  check_options=clevr_scenes.check_options,
  preprocessing={"crop": False, "image_size": 128},
)

DATA_SETS = {
  "tetrominoes": DataSet(
    image_shape=(35, 35, 3),
    max_objects=3,
    num_train=60_000,
    num_examples=60_320,
    generate=tetrominoes.generate,
    chunk_size=tetrominoes.CHUNK_SIZE,
    fewest_objects=lambda options: options["num_objects"],
    check_options=tetrominoes.check_options,
  ),
  "multi_dsprites_binarized": _multi_dsprites("binarized", 3, channels=1),
  "multi_dsprites_colored_on_grayscale": _multi_dsprites(
    "colored_on_grayscale", 5
  ),
  "multi_dsprites_colored_on_colored": _multi_dsprites("colored_on_colored", 4),
  "moving_sprites": DataSet(
    image_shape=(moving_sprites.NUM_FRAMES, 64, 64, 3),
    max_objects=moving_sprites.MAX_SPRITES,
    num_train=10_000,
    num_examples=10_320,
    generate=moving_sprites.generate,
    chunk_size=moving_sprites.CHUNK_SIZE,
    fewest_objects=lambda _: moving_sprites.FEWEST_SPRITES,
    check_options=moving_sprites.check_options,
    has_original=False,
  ),
  "clevr_with_masks": dataclasses.replace(
    _CLEVR,
    num_train=70_000,
    num_examples=71_000,
    preprocessing={"crop": True, "image_size": 128},
  ),
  "clevr": _CLEVR,
  "objects_room_train": _objects_room(3, 60_000, 60_320),
  "objects_room_six_objects": _objects_room(6, 0, 922),
  "objects_room_identical_color": _objects_room(6, 0, 922),
  "objects_room_empty_room": _objects_room(0, 0, 922),
  # Images of the user. A mask has at most 255 objects.
  "image_folder": DataSet(
    image_shape=(128, 128, 3),
    max_objects=255,
    num_train=0,
    num_examples=1,
    preprocessing={"image_size": 128},
  ),
}

# The types of the fields that say what is prepared, and of the fields that say
# how it is split. None stands for a section. `loading.load` explains them.
PREPARED_FIELDS = {
  "name": str,
  "source": str,
  "path": str,
  "data_dir": str,
  "num_examples": int,
  "preprocessing": None,
  "procedural": None,
}
SPLIT_FIELDS = {
  "num_train": int,
  "num_eval": int,
  "max_objects": int,
  "grayscale": bool,
}


def check_data(data: Mapping[str, Any]) -> None:
  """Checks a config's data section whole.

  Args:
    data: see `loading.load`.

  Raises:
    ValueError: names the field that is missing, unknown, of the wrong type or
      out of range, or the fields that do not fit each other.
  """
  check_section("config.data", data, {**PREPARED_FIELDS, **SPLIT_FIELDS})
  _check_prepared(data)
  num_train, num_eval = data["num_train"], data["num_eval"]
  check_at_least("data.num_train", num_train, 0)
  check_at_least("data.num_eval", num_eval, 1)
  check_at_least("data.max_objects", data["max_objects"], 1)
  if num_train + num_eval > data["num_examples"]:
    raise ValueError(
      f"data.num_examples={data['num_examples']} must be at least"
      f" data.num_train + data.num_eval = {num_train + num_eval}"
    )
  if data["source"] == "procedural":
    _check_max_objects(data)
  if data["grayscale"] and DATA_SETS[data["name"]].image_shape[-1] != 3:
    raise ValueError(f"data.grayscale=True: {data['name']} has no colours")


def _check_max_objects(data):
  data_set = DATA_SETS[data["name"]]
  fewest = data_set.fewest_objects(data_set.with_defaults(data["procedural"]))
  if data["max_objects"] < fewest:
    raise ValueError(
      f"data.max_objects={data['max_objects']} leaves no image: all that"
      f" data.procedural draws have at least {fewest} objects"
    )


def check_prepared(data: Mapping[str, Any]) -> None:
  """Checks a section that has no `SPLIT_FIELDS`, as `check_data` does."""
  check_section("config.data", data, PREPARED_FIELDS)
  _check_prepared(data)


def _check_prepared(data):
  check_choice("data.name", data["name"], DATA_SETS)
  check_choice("data.source", data["source"], SOURCES)
  for field in ("path", "data_dir"):
    if data[field].startswith("~"):
      raise ValueError(
        f"data.{field}={data[field]!r} must not begin with ~, which stands for"
        " the home directory in a shell alone"
      )
  check_at_least("data.num_examples", data["num_examples"], 1)
  data_set = DATA_SETS[data["name"]]
  preprocessing = data["preprocessing"]
  check_section(
    "config.data.preprocessing",
    preprocessing,
    {name: type(value) for name, value in data_set.preprocessing.items()},
  )
  if "image_size" in preprocessing:
    image_size = preprocessing["image_size"]
    check_at_least("data.preprocessing.image_size", image_size, 1)
  if data["source"] == "procedural":
    _check_procedural(data_set, preprocessing, data["procedural"])
  elif not data_set.has_original:
    raise ValueError(
      f"data.source='original': data.name={data['name']!r} has no original"
    )
  elif data["name"] == "image_folder":
    if not data["path"]:
      raise ValueError("data.path='' must name the folder of the images")
    check_outside(data, "data.data_dir", data["data_dir"])


def check_outside(data: Mapping[str, Any], name: str, folder: str) -> None:
  """Raises a ValueError if a folder of images holds a folder with pictures.

  Args:
    data: a data section.
    name: what the folder is, for the message.
    folder: path of the folder.
  """
  path = data["path"]
  if data["name"] == "image_folder" and (
    Path(folder).resolve().is_relative_to(Path(path).resolve())
  ):
    raise ValueError(
      f"data.path={path!r} holds {name}={folder!r}, whose pictures would become"
      " training images: choose another folder"
    )


def _check_procedural(data_set, preprocessing, procedural):
  if data_set.generate is None:
    raise ValueError(
      "data.source='procedural': this data set exists only as an original"
    )
  types = {name: x.annotation for name, x in data_set.options.items()}
  check_section(
    "config.data.procedural", procedural, {"seed": int, **types}, optional=types
  )
  check_at_least("data.procedural.seed", procedural["seed"], 0)
  options = {**preprocessing, **procedural}
  del options["seed"]
  try:
    data_set.check_options(**data_set.fixed, **options)
  except ValueError as error:
    raise ValueError(f"data.procedural: {error}") from error


def image_shape(data: Mapping[str, Any]) -> tuple[int, ...]:
  """Returns the shape of the images or videos of a data section.

  It is height, width and channels; of videos, the number of frames before them.
  """
  *frames, height, width, channels = DATA_SETS[data["name"]].image_shape
  options = dict(data["preprocessing"])
  if data["source"] == "procedural":
    options.update(data["procedural"])
  if "image_size" in options:
    height = width = options["image_size"]
  if frames:
    frames = [options.get("num_frames", *frames)]
  return *frames, height, width, 1 if data["grayscale"] else channels
