"""From a config's data section to an opened data set, prepared on first use.

To prepare one beforehand, to see which there are, or to verify them:

  python -m slot_attention.data.prepare clevr_with_masks --num_examples=71000
  python -m slot_attention.data.prepare --config=configs/quickstart.py
  python -m slot_attention.data.prepare clevr --shard=3/16
  python -m slot_attention.data.prepare --list
  python -m slot_attention.data.prepare --check

A preparation that was stopped goes on where it was. Shards are numbered from 0;
they may run at once on a shared folder, or their folders' .NAME-partial may be
brought together in one. Who finds the last chunk there makes the data set.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
from pathlib import Path
import sys
from typing import Any

from absl import flags, logging
from ml_collections import config_flags
import numpy as np

from slot_attention import visualization
from slot_attention.checks import (
  check_at_least,
  check_choice,
  check_fields,
  check_section,
  check_type,
)
from slot_attention.data import (
  clevr,
  clevr_originals,
  clevr_scenes,
  multi_dsprites,
  multi_object_records,
  store,
  tetrominoes,
)

# Examples in a picture.
_NUM_PICTURES = 10

SOURCES = ("procedural", "original")


@dataclasses.dataclass(frozen=True)
class DataSet:
  """What there is to know of a data set before it is prepared.

  Attributes:
    max_objects: the largest number of objects in an image.
    num_train: the first examples, which the paper trains on.
    num_examples: to prepare, unless asked for others: `num_train`, and enough
      of those after them for evaluation.
    generate: draws a chunk of the procedural set; None where there is none.
    chunk_size: examples of such a chunk.
    preprocessing: options of both sources, with the paper's values.
  """

  max_objects: int
  num_train: int
  num_examples: int
  generate: Callable[..., store.Arrays] | None = None
  chunk_size: int = 0
  preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _multi_dsprites(variant, max_objects):
  return DataSet(
    max_objects=max_objects,
    num_train=60_000,
    num_examples=60_320,
    generate=functools.partial(multi_dsprites.generate, variant=variant),
    chunk_size=multi_dsprites.CHUNK_SIZE,
  )


_CLEVR = DataSet(
  max_objects=clevr.MAX_OBJECTS,
  # The official code sets 512 of the 70,000 training images aside; 15,000 for
  # validation follow.
  num_train=69_488,
  num_examples=84_488,
  generate=clevr_scenes.generate,
  chunk_size=clevr_scenes.CHUNK_SIZE,
  preprocessing={"crop": False, "image_size": 128},
)

DATA_SETS = {
  "tetrominoes": DataSet(
    max_objects=3,
    num_train=60_000,
    num_examples=60_320,
    generate=tetrominoes.generate,
    chunk_size=tetrominoes.CHUNK_SIZE,
  ),
  "multi_dsprites_binarized": _multi_dsprites("binarized", 3),
  "multi_dsprites_colored_on_grayscale": _multi_dsprites(
    "colored_on_grayscale", 5
  ),
  "multi_dsprites_colored_on_colored": _multi_dsprites("colored_on_colored", 4),
  "clevr_with_masks": dataclasses.replace(
    _CLEVR,
    num_train=70_000,
    num_examples=71_000,
    preprocessing={"crop": True, "image_size": 128},
  ),
  "clevr": _CLEVR,
  "objects_room_train": DataSet(3, num_train=60_000, num_examples=60_320),
  "objects_room_six_objects": DataSet(6, num_train=0, num_examples=922),
  "objects_room_identical_color": DataSet(6, num_train=0, num_examples=922),
  "objects_room_empty_room": DataSet(0, num_train=0, num_examples=922),
}


@dataclasses.dataclass(frozen=True)
class Data:
  """An opened data set.

  Attributes:
    description: JSON values that say what it is and how it was split.
    splits: "train" and "eval".
  """

  description: dict[str, Any]
  splits: dict[str, store.Split]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of the images."""
    return self.splits["eval"].image_shape


# Fields of a config's data section and their types, where they are no sections;
# `load` says what they mean.
_PREPARED_FIELDS = {
  "name": str,
  "source": str,
  "path": str,
  "data_dir": str,
  "num_examples": int,
  "preprocessing": None,
  "procedural": None,
}
_SPLIT_FIELDS = {
  "num_train": int,
  "num_eval": int,
  "max_objects": int,
  "grayscale": bool,
}


def load(data: Mapping[str, Any]) -> Data:
  """Opens a data set; prepares it first where that has not been done yet.

  Args:
    data: the data section of a config:
      name: one of `DATA_SETS`.
      source: "procedural" (drawn here) or "original".
      path: of the original: the TFRecord file, or a folder of CLEVR. If empty,
        TFRecords are downloaded, and CLEVR is that of tensorflow-datasets. Not
        used by procedural data.
      data_dir: folder of the prepared data sets.
      num_examples: to prepare; a larger set of the same kind serves as well.
      preprocessing: of CLEVR "crop" and "image_size", see `clevr.frame`; of
        the others nothing.
      procedural: "seed" and options of the generator, such as
        `tetrominoes.generate`; not used by original data.
      num_train: the first examples, for training.
      num_eval: the examples right after those, for evaluation.
      max_objects: images with more objects are left out: of the first
        `num_train`, and before counting `num_eval`.
      grayscale: whether to turn colour into luminance, one channel.

  Returns:
    The data set, with the splits "train" and "eval".

  Raises:
    ValueError: for a bad value, too few examples, or damaged data.
    OSError: if the original is not there, or nothing can be written.
  """
  check_fields("config.data", data, {*_PREPARED_FIELDS, *_SPLIT_FIELDS})
  _check_types(data, {**_PREPARED_FIELDS, **_SPLIT_FIELDS})
  num_train, num_eval, max_objects, grayscale = (
    data[name] for name in _SPLIT_FIELDS
  )
  num_examples = data["num_examples"]
  check_at_least("data.num_train", num_train, 0)
  check_at_least("data.num_eval", num_eval, 1)
  check_at_least("data.max_objects", max_objects, 1)
  if num_train + num_eval > num_examples:
    raise ValueError(
      f"data.num_examples={num_examples} must be at least data.num_train +"
      f" data.num_eval = {num_train + num_eval}"
    )
  directory = prepare(data)
  prepared = store.read(directory)
  arrays = prepared.arrays
  if grayscale and arrays["images"].shape[-1] != 3:
    raise ValueError(f"data.grayscale=True: {data['name']} has no colours")
  fits = np.flatnonzero(store.count_objects(arrays) <= max_objects)
  fits = fits[fits < num_examples]
  train = fits[fits < num_train]
  evaluation = fits[fits >= num_train][:num_eval]
  if len(evaluation) < num_eval:
    raise ValueError(
      f"of the {num_examples} examples only {len(evaluation)} after the first"
      f" {num_train} have at most data.max_objects={max_objects} objects:"
      f" data.num_eval={num_eval} needs a larger data.num_examples"
    )
  logging.info(
    "Data: %s, %s, in %s; training on %s of the first %s examples, evaluating"
    " on %s after those (up to example %s); at most %d objects",
    data["name"],
    data["source"],
    directory,
    *(f"{n:,}" for n in (len(train), num_train, num_eval, evaluation[-1] + 1)),
    max_objects,
  )
  if "targets" in arrays:
    arrays = {**arrays, "targets": arrays["targets"][:, :max_objects]}
  return Data(
    {
      **prepared.description,
      **{name: data[name] for name in _SPLIT_FIELDS},
    },
    {
      "train": store.Split(arrays, train, grayscale),
      "eval": store.Split(arrays, evaluation, grayscale),
    },
  )


def prepare(
  data: Mapping[str, Any], *, shard: int = 0, num_shards: int = 1
) -> Path | None:
  """Makes a data set if it is not there yet.

  Args:
    data: see `load`; the fields that say how it is split are not needed.
    shard: which part of the work to do, 0-based.
    num_shards: in how many parts it is done.

  Returns:
    The folder of the prepared data set, or None if other shards are missing.
  """
  _check_types(data, _PREPARED_FIELDS)
  name, source, path, data_dir, num_examples, preprocessing, procedural = (
    data[field] for field in _PREPARED_FIELDS
  )
  check_choice("data.name", name, tuple(DATA_SETS))
  check_choice("data.source", source, SOURCES)
  check_at_least("data.num_examples", num_examples, 1)
  data_set = DATA_SETS[name]
  check_fields("data.preprocessing", preprocessing, data_set.preprocessing)
  for option, default in data_set.preprocessing.items():
    value = preprocessing[option]
    check_type(f"data.preprocessing.{option}", value, type(default))
  description = {
    "name": name,
    "source": source,
    "preprocessing": dict(preprocessing),
  }
  if source == "procedural":
    options = _procedural_options(data_set, preprocessing, procedural)
    description["procedural"] = options
    generate = functools.partial(data_set.generate, **preprocessing, **options)
    make_chunks = functools.partial(map, generate)
    chunk_size = data_set.chunk_size
  else:
    description["path"] = str(Path(path).absolute()) if path else ""
    chunk_size, make_chunks = _original(
      name, path, data_dir, num_examples, preprocessing
    )

  # Readable, and different wherever the description is.
  digest = hashlib.sha256(
    json.dumps(description, sort_keys=True).encode()
  ).hexdigest()
  prefix = f"{name}-{source}-{digest[:8]}"
  for count, directory in sorted(_prepared(data_dir, prefix)):
    if count >= num_examples:
      return directory
  directory = Path(data_dir) / f"{prefix}-{num_examples}"
  done = store.write(
    directory,
    description,
    num_examples=num_examples,
    chunk_size=chunk_size,
    make_chunks=make_chunks,
    shard=shard,
    num_shards=num_shards,
  )
  return directory if done else None


def _check_types(data, fields):
  for name, kind in fields.items():
    if kind is None:
      check_section(f"data.{name}", data[name])
    else:
      check_type(f"data.{name}", data[name], kind)


def _procedural_options(data_set, preprocessing, given):
  """All options of the generator: the given ones, else its defaults."""
  if data_set.generate is None:
    raise ValueError(
      "data.source='procedural': this data set exists only as an original"
    )
  parameters = inspect.signature(data_set.generate).parameters
  defaults = {
    name: parameter.default
    for name, parameter in parameters.items()
    if name not in {"chunk", "seed", "variant", *preprocessing}
  }
  check_fields("data.procedural", given, {"seed"}, optional=defaults)
  kinds = {name: parameters[name].annotation for name in defaults}
  for name, kind in {**kinds, "seed": int}.items():
    if name in given:
      check_type(f"data.procedural.{name}", given[name], kind)
  check_at_least("data.procedural.seed", given["seed"], 0)
  return {**defaults, **given}


def _original(name, path, data_dir, num_examples, preprocessing):
  """Returns the size of a chunk, and the function that reads chunks."""
  read, size = _read_records, multi_object_records.CHUNK_SIZE
  if name == "clevr_with_masks":
    read = clevr_originals.read_with_masks
  elif name == "clevr":
    read, size = clevr_originals.read_tfds, clevr_originals.CHUNK_SIZE
  is_folder = bool(path) and (name == "clevr" or Path(path).is_dir())
  if name.startswith("clevr") and is_folder:
    read, size = clevr_originals.read_folder, clevr_originals.CHUNK_SIZE
  if read is _read_records:
    preprocessing = {"name": name}

  def make_chunks(chunks: Sequence[int]) -> Iterator[store.Arrays]:
    place = Path(path) if path else None
    if place is None and name != "clevr":
      place = multi_object_records.download(name, Path(data_dir, "originals"))
    # Chunks in a row are one pass over the file.
    for _, run in itertools.groupby(
      enumerate(chunks), lambda numbered: numbered[1] - numbered[0]
    ):
      run = [chunk for _, chunk in run]
      stop = min((run[-1] + 1) * size, num_examples)
      yield from read(place, run[0] * size, stop, **preprocessing)

  return size, make_chunks


def _read_records(path, start, stop, *, name):
  for chunk in multi_object_records.read(path, name, start, stop):
    yield {"images": chunk["images"], "segments": chunk["segments"]}


def _prepared(data_dir, prefix=""):
  """Number of examples and folder of each prepared data set, in that order."""
  counts = {
    directory: directory.name.rpartition("-")[-1]
    for directory in Path(data_dir).glob(f"{prefix}*-*")
  }
  return sorted(
    (int(count), directory)
    for directory, count in counts.items()
    if count.isdecimal()
  )


def main(argv: Sequence[str]) -> None:
  """The command line; see the top of this file."""
  options = _flags()
  names = options(argv)[1:]
  if options.list:
    _list(options.data_dir)
  elif options.check:
    _check(options.data_dir)
  elif options.config is not None and not names:
    _prepare_for_config(options)
  elif len(names) == 1 and options.config is None:
    _prepare_by_name(names[0], options)
  else:
    raise ValueError(
      "give one name of a data set, or --config, or --list, or --check:"
      f" {', '.join(DATA_SETS)}"
    )


def _flags():
  options = flags.FlagValues()

  def define(kind, name, default, text):
    kind(name, default, text, flag_values=options)

  config_flags.DEFINE_config_file(
    "config",
    None,
    "Prepare what this experiment needs, a file in configs/.",
    flag_values=options,
  )
  define(flags.DEFINE_bool, "list", False, "Show what there is and stop.")
  define(flags.DEFINE_bool, "check", False, "Verify every prepared data set.")
  define(flags.DEFINE_string, "source", "procedural", "Or original.")
  define(flags.DEFINE_string, "path", "", "Of the original, see `load`.")
  define(flags.DEFINE_string, "data_dir", "data", "Where prepared sets lie.")
  define(flags.DEFINE_integer, "num_examples", 0, "0: as the paper needs.")
  define(flags.DEFINE_integer, "seed", 0, "Of a procedural data set.")
  define(flags.DEFINE_string, "shard", "0/1", "Which part of the work, i/n.")
  return options


def _list(data_dir):
  for name, data_set in DATA_SETS.items():
    sources = []
    if data_set.generate is not None:
      sources.append("procedural")
    if name in multi_object_records.FORMATS:
      records = multi_object_records.FORMATS[name]
      sources.append(
        f"original ({records.num_examples:,} examples, {records.gigabytes:g}"
        " GB to download)"
      )
    else:
      sources.append("original (tensorflow-datasets, or data.path)")
    print(f"{name}: {', '.join(sources)}")
    for count, directory in _prepared(data_dir, f"{name}-"):
      size = sum(file.stat().st_size for file in directory.iterdir())
      print(f"  {directory}: {count:,} examples, {size / 1e6:,.0f} MB")


def _check(data_dir):
  damaged = 0
  for _, directory in _prepared(data_dir):
    try:
      store.read(directory)
      print(f"{directory}: ok")
    except store.DamagedError as error:
      damaged += 1
      print(error)
  if damaged:
    raise ValueError(f"{damaged} data set(s) in {data_dir} are damaged")


def _prepare_for_config(options):
  data = options.config.data
  check_fields("config.data", data, {*_PREPARED_FIELDS, *_SPLIT_FIELDS})
  directory = prepare(data, **_shard(options.shard))
  if directory is not None:
    load(data)  # Says what the splits are, or that there is too little.
  _report(directory, data.num_train)


def _prepare_by_name(name, options):
  check_choice("name", name, tuple(DATA_SETS))
  data_set = DATA_SETS[name]
  data = {
    "name": name,
    "source": options.source,
    "path": options.path,
    "data_dir": options.data_dir,
    "num_examples": options.num_examples or data_set.num_examples,
    "preprocessing": data_set.preprocessing,
    "procedural": {"seed": options.seed},
  }
  directory = prepare(data, **_shard(options.shard))
  _report(directory, data_set.num_train)


def _shard(text):
  shard, _, num_shards = text.partition("/")
  if not (shard.isdecimal() and num_shards.isdecimal()) or not (
    int(shard) < int(num_shards)
  ):
    raise ValueError(f"--shard={text} must be like 3/16, from 0/16 to 15/16")
  return {"shard": int(shard), "num_shards": int(num_shards)}


def _report(directory, num_train):
  if directory is None:
    print("This part is done; the data set is made with the last part.")
    return
  arrays = store.read(directory).arrays
  print(f"{directory}:")
  for name, array in arrays.items():
    print(f"  {name:<9} {array.dtype} {array.shape}, {array.nbytes:,} bytes")
  num_objects = store.count_objects(arrays)
  parts = num_objects[:num_train], num_objects[num_train:]
  train, rest = (np.bincount(part, minlength=16) for part in parts)
  print(
    f"  objects  first {len(parts[0]):,} (training)  {len(parts[1]):,} after"
  )
  for count in np.flatnonzero(train + rest):
    print(f"  {count:>7}  {train[count]:>22,}  {rest[count]:>10,}")
  picture = directory / "examples.png"
  segments = (
    arrays["segments"][:_NUM_PICTURES] if "segments" in arrays else None
  )
  visualization.draw_examples(
    picture, arrays["images"][:_NUM_PICTURES], segments
  )
  print(f"  {picture}")
  if segments is None:
    print("  without masks: no adjusted Rand index")


def _run(argv):
  logging.set_verbosity(logging.INFO)
  try:
    main(argv)
  except (ValueError, OSError, ImportError, flags.Error) as error:
    sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
  _run(sys.argv)
