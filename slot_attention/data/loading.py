"""Opens the data set that a config describes, and prepares it on first use."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import itertools
import json
from pathlib import Path
import re
from typing import Any

from absl import logging
import numpy as np

from slot_attention.data import (
  clevr_originals,
  image_files,
  multi_object_records,
  store,
)
from slot_attention.data.datasets import DATA_SETS, SOURCES, SPLIT_FIELDS


@dataclasses.dataclass(frozen=True)
class Data:
  """An opened data set.

  Attributes:
    description: JSON values that say what the data is and how it is split.
    splits: "train" and "eval".
  """

  description: dict[str, Any]
  splits: dict[str, store.Split]

  @property
  def image_shape(self) -> tuple[int, ...]:
    """Shape of the images or videos, see `datasets.image_shape`."""
    return self.splits["eval"].image_shape


def load(data: Mapping[str, Any]) -> Data:
  """Opens a data set, which is prepared on its first use.

  Args:
    data: the data section of a config, which `datasets.check_data` accepts:
      name: one of `datasets.DATA_SETS`.
      source: "procedural" data is drawn here; "original" data is read.
      path: where the original is: a TFRecord file, a folder of CLEVR, or a
        folder of images. If it is empty, TFRecords are downloaded, and CLEVR
        comes from tensorflow-datasets. Procedural data ignores it.
      data_dir: folder of the prepared data sets.
      num_examples: how many examples to prepare. A larger prepared set of the
        same kind is used if there is one.
      preprocessing: CLEVR has "crop" and "image_size", see `clevr.frame`, and
        a folder of images has "image_size"; the others have no options.
      procedural: "seed" and the options of the generator, for example of
        `tetrominoes.generate`. Original data ignores it.
      num_train: how many of the first examples are for training.
      num_eval: how many of the examples after those are for evaluation.
      max_objects: images with more objects are left out, both of the first
        `num_train` examples and of those after them.
      grayscale: whether colour is turned into luminance, one channel.

  Returns:
    The data set, with the splits "train" and "eval".

  Raises:
    ValueError: if there are too few examples, or the data is damaged.
    OSError: if the original is missing, or nothing can be written.
    ImportError: if the original needs TensorFlow, which is not installed.
  """
  directory = prepare(data)
  prepared = store.read(directory)
  train, evaluation = _split(prepared.arrays, data)
  max_objects, grayscale = data["max_objects"], data["grayscale"]
  logging.info(
    "Data: %s, %s, in %s; training on %s of the first %s examples, evaluating"
    " on %s after those (up to example %s); at most %d objects",
    data["name"],
    data["source"],
    directory,
    f"{len(train):,}",
    f"{data['num_train']:,}",
    f"{len(evaluation):,}",
    f"{evaluation[-1] + 1:,}",
    max_objects,
  )
  arrays = prepared.arrays
  if "targets" in arrays:
    arrays = {**arrays, "targets": arrays["targets"][:, :max_objects]}
  return Data(
    {
      **prepared.description,
      **{name: data[name] for name in SPLIT_FIELDS},
    },
    {
      "train": store.Split(arrays, train, grayscale),
      "eval": store.Split(arrays, evaluation, grayscale),
    },
  )


def _split(arrays, data):
  """Returns the examples for training and for evaluation, int [n] each."""
  num_examples, num_train, num_eval = (
    data[name] for name in ("num_examples", "num_train", "num_eval")
  )
  max_objects = data["max_objects"]
  fits = np.flatnonzero(store.count_objects(arrays) <= max_objects)
  fits = fits[fits < num_examples]
  evaluation = fits[fits >= num_train][:num_eval]
  if len(evaluation) < num_eval:
    raise ValueError(
      f"of the {num_examples} examples only {len(evaluation)} after the first"
      f" {num_train} have at most data.max_objects={max_objects} objects:"
      f" data.num_eval={num_eval} needs a larger data.num_examples"
    )
  return fits[fits < num_train], evaluation


def prepare(
  data: Mapping[str, Any], *, shard: int = 0, num_shards: int = 1
) -> Path | None:
  """Prepares a data set, unless it is prepared already.

  Args:
    data: see `load`. The fields that say how it is split are not needed.
    shard: which part of the work to do, counted from 0.
    num_shards: into how many parts the work is divided.

  Returns:
    The folder of the prepared data set, or None if parts of it are missing.
  """
  description, chunk_size, make_chunks = _describe(data)
  if directory := _find(description, data):
    return directory
  num_examples = data["num_examples"]
  directory = Path(data["data_dir"]) / f"{_prefix(description)}-{num_examples}"
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


def find(data: Mapping[str, Any]) -> Path | None:
  """Returns the folder of a data set, or None if it is not prepared yet.

  Args:
    data: see `prepare`.

  Raises:
    FileNotFoundError: if the folder of images that it is made from is missing.
  """
  description, _, _ = _describe(data)
  return _find(description, data)


def _find(description, data):
  for count, directory in prepared_sets(data["data_dir"], _prefix(description)):
    if count >= data["num_examples"]:
      return directory
  return None


def _prefix(description):
  """Names a data set: readable, and different wherever the description is.

  Options with their default values do not count, so that a new option leaves
  the names of prepared sets as they are.
  """
  if procedural := description.get("procedural"):
    defaults = DATA_SETS[description["name"]].with_defaults({})
    changed = {
      name: value
      for name, value in procedural.items()
      if name not in defaults or value != defaults[name]
    }
    description = {**description, "procedural": changed}
  digest = hashlib.sha256(
    json.dumps(description, sort_keys=True).encode()
  ).hexdigest()
  return f"{description['name']}-{description['source']}-{digest[:8]}"


def _describe(data):
  """Returns the description of a data set, and the size and maker of chunks."""
  data_set = DATA_SETS[data["name"]]
  preprocessing = dict(data["preprocessing"])
  description = {
    "name": data["name"],
    "source": data["source"],
    "preprocessing": preprocessing,
  }
  if data["source"] == "procedural":
    description["procedural"] = data_set.with_defaults(data["procedural"])
    description["version"] = data_set.generator_version
    generate = functools.partial(
      data_set.generate,
      **data_set.fixed,
      **preprocessing,
      **description["procedural"],
    )
    make_chunks = functools.partial(map, generate)
    chunk_size = data_set.chunk_size
  else:
    path = data["path"]
    description["path"] = str(Path(path).absolute()) if path else ""
    description["version"] = data_set.reader_version
    if data["name"] == "image_folder":
      description["files"] = image_files.fingerprint(Path(path))
    chunk_size, make_chunks = _original(data)
  return description, chunk_size, make_chunks


def prepared_sets(
  data_dir: Path | str, prefix: str = ""
) -> list[tuple[int, Path]]:
  """Lists the prepared data sets: number of examples and folder of each."""
  found = {
    directory: re.fullmatch(
      rf".+-(?:{'|'.join(SOURCES)})-[0-9a-f]{{8}}-(\d+)", directory.name
    )
    for directory in Path(data_dir).glob(f"{prefix}*")
    if directory.is_dir()
  }
  return sorted(
    (int(match[1]), directory) for directory, match in found.items() if match
  )


def _original(data):
  """Returns the size of a chunk, and the function that reads chunks."""
  name, path = data["name"], data["path"]
  options = dict(data["preprocessing"])
  size = clevr_originals.CHUNK_SIZE
  if name.startswith("clevr") and path and Path(path).is_dir():
    read = clevr_originals.read_folder
  elif name == "clevr":
    read = clevr_originals.read_folder if path else clevr_originals.read_tfds
  elif name == "image_folder":
    read, size = image_files.read_folder, image_files.CHUNK_SIZE
  else:
    size = multi_object_records.CHUNK_SIZE
    if name == "clevr_with_masks":
      read = clevr_originals.read_with_masks
    else:
      read, options = _read_records, {"name": name}

  def make_chunks(chunks: Sequence[int]) -> Iterator[store.Arrays]:
    place = Path(path) if path else None
    if place is None and name != "clevr":
      multi_object_records.check_tensorflow()
      folder = Path(data["data_dir"], "originals")
      place = multi_object_records.download(name, folder)
    # Consecutive chunks are one pass over the file.
    for _, run in itertools.groupby(
      enumerate(chunks), lambda numbered: numbered[1] - numbered[0]
    ):
      run = [chunk for _, chunk in run]
      stop = min((run[-1] + 1) * size, data["num_examples"])
      yield from read(place, run[0] * size, stop, **options)

  return size, make_chunks


def _read_records(path, start, stop, *, name):
  for chunk in multi_object_records.read(path, name, start, stop):
    yield {"images": chunk["images"], "segments": chunk["segments"]}
