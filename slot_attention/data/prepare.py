"""From a config's data section to an opened data set, prepared on first use."""

from collections.abc import Iterator
import hashlib
import json
from pathlib import Path

from absl import logging
import numpy as np

from slot_attention.data import multi_object_records, store, tetrominoes
from slot_attention.validation import check_at_least, check_choice

NAMES = ("tetrominoes",)
SOURCES = ("procedural", "original")


def load(
  *,
  name: str,
  source: str,
  path: str,
  data_dir: str,
  num_train: int,
  num_eval: int,
  max_objects: int,
  procedural: dict,
) -> store.Store:
  """Opens a data set; makes or reads it first if it is not prepared yet.

  Args:
    name: "tetrominoes".
    source: "procedural" (drawn here) or "original" (read from `path`).
    path: TFRecord file of the original; not used by procedural data.
    data_dir: folder of the prepared data sets.
    num_train: the first examples, for training.
    num_eval: the examples right after those, for evaluation.
    max_objects: largest number of objects in an image; Tetrominoes always
      have as many.
    procedural: options of the generator, such as `tetrominoes.generate`; not
      used by original data.

  Returns:
    The data set, with the splits "train" and "eval".

  Raises:
    ValueError: for a bad value, or damaged data.
    FileNotFoundError: if the original is not there.
  """
  check_choice("data.name", name, NAMES)
  check_choice("data.source", source, SOURCES)
  check_at_least("data.num_train", num_train, 1)
  check_at_least("data.num_eval", num_eval, 1)
  check_at_least("data.max_objects", max_objects, 1)
  description = {
    "name": name,
    "source": source,
    "num_train": num_train,
    "num_eval": num_eval,
    "max_objects": max_objects,
  }
  if source == "procedural":
    description["procedural"] = dict(procedural)
    chunks = tetrominoes.generate(
      num_train + num_eval, num_objects=max_objects, **procedural
    )
  else:
    if not path:
      raise ValueError(
        f"data.source='original' needs data.path, the {name} TFRecord file;"
        " data.source='procedural' needs no file"
      )
    description["path"] = str(Path(path).absolute())
    chunks = _images_and_segments(
      multi_object_records.read(Path(path), name, num_train + num_eval),
      max_objects,
    )

  directory = Path(data_dir) / _directory_name(description)
  if not directory.exists():
    store.write(
      directory, description, {"train": num_train, "eval": num_eval}, chunks
    )
  data = store.read(directory)
  logging.info(
    "Data: %s, %s; training on the first %d examples, evaluating on the %d"
    " right after; %s",
    name,
    source,
    num_train,
    num_eval,
    directory,
  )
  return data


def _images_and_segments(
  chunks: Iterator[dict[str, np.ndarray]], max_objects: int
) -> Iterator[dict[str, np.ndarray]]:
  for chunk in chunks:
    if chunk["segments"].max() > max_objects:
      raise ValueError(
        f"an image has {chunk['segments'].max()} objects, more than"
        f" data.max_objects={max_objects}"
      )
    yield {"images": chunk["images"], "segments": chunk["segments"]}


def _directory_name(description: dict) -> str:
  """Readable, and different wherever the description is."""
  digest = hashlib.sha256(
    json.dumps(description, sort_keys=True).encode()
  ).hexdigest()
  return f"{description['name']}-{description['source']}-{digest[:8]}"
