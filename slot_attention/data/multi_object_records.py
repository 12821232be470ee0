"""Reads the original multi-object TFRecords (Kabra et al., 2019).

https://github.com/google-deepmind/multi_object_datasets. Images and masks are
lists of one-byte strings, one mask of 0 and 255 per entity, the background
first. Needs TensorFlow, which is imported inside the function that reads.
"""

from collections.abc import Iterator
import dataclasses
from pathlib import Path

import numpy as np

CHUNK_SIZE = 256


@dataclasses.dataclass(frozen=True)
class RecordFormat:
  """Layout of one of the files.

  Attributes:
    image_shape: height, width, channels.
    mask_shape: entities (the background is the first), height, width, 1.
    factors: feature name to the shape of its floats.
  """

  image_shape: tuple[int, int, int]
  mask_shape: tuple[int, int, int, int]
  factors: dict[str, tuple[int, ...]]


FORMATS = {
  "tetrominoes": RecordFormat(
    image_shape=(35, 35, 3),
    mask_shape=(4, 35, 35, 1),
    factors={
      "x": (4,),
      "y": (4,),
      "shape": (4,),
      "visibility": (4,),
      "color": (4, 3),
    },
  )
}


def read(
  path: Path, name: str, num_examples: int
) -> Iterator[dict[str, np.ndarray]]:
  """Reads the first examples of a GZIP TFRecord file in chunks.

  Args:
    path: the file.
    name: data set, a key of `FORMATS`.
    num_examples: how many, in the order of the file.

  Returns:
    An iterator of chunks:
    images: uint8 [n, H, W, C];
    segments: uint8 [n, H, W], 0 background, e for entity e;
    and each factor as float32 [n, entities, ...]. Of Tetrominoes, `x` is the
    top row and `y` the left column of a piece, `shape` its code 1 to 19.

  Raises:
    FileNotFoundError: if there is no such file.
    ImportError: if TensorFlow is not installed.
    ValueError: by the iterator, if the file is truncated, damaged, of another
      format, or holds fewer examples.
  """
  if not path.is_file():
    raise FileNotFoundError(f"there is no TFRecord file {path}")
  try:
    import tensorflow as tf
  except ImportError as error:
    raise ImportError(
      "reading original TFRecords needs TensorFlow: pip install -r"
      " requirements.txt"
    ) from error
  return _chunks(tf, path, name, num_examples)


def _chunks(tf, path, name, num_examples):
  record_format = FORMATS[name]
  features = {
    "image": tf.io.FixedLenFeature(record_format.image_shape, tf.string),
    "mask": tf.io.FixedLenFeature(record_format.mask_shape, tf.string),
    **{
      factor: tf.io.FixedLenFeature(shape, tf.float32)
      for factor, shape in record_format.factors.items()
    },
  }

  def parse(record):
    example = tf.io.parse_single_example(record, features)
    for key in ("image", "mask"):
      # Every pixel is a string of one byte.
      example[key] = tf.squeeze(tf.io.decode_raw(example[key], tf.uint8), -1)
    return example

  records = tf.data.TFRecordDataset(str(path), compression_type="GZIP")
  records = records.take(num_examples).map(
    parse, num_parallel_calls=tf.data.AUTOTUNE
  )
  num_read = 0
  try:
    for chunk in records.batch(CHUNK_SIZE).as_numpy_iterator():
      num_read += len(chunk["image"])
      yield {
        "images": chunk["image"],
        "segments": chunk["mask"][..., 0].argmax(axis=1).astype(np.uint8),
        **{factor: chunk[factor] for factor in record_format.factors},
      }
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
    raise ValueError(
      f"{path} is not a readable {name} TFRecord file: it is truncated,"
      " damaged or of another data set"
    ) from error
  if num_read < num_examples:
    raise ValueError(
      f"{path} ends after {num_read} examples, but data.num_train and"
      f" data.num_eval ask for {num_examples}: it is truncated, or a smaller"
      " file"
    )
