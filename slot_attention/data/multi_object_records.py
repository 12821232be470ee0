"""Downloads and reads the multi-object TFRecords (Kabra et al., 2019).

See https://github.com/google-deepmind/multi_object_datasets. A file is a GZIP
stream of TFRecords, each of which is a tf.train.Example. Images, masks and
codes are lists of one-byte strings. Every entity has a mask of 0 and 255. The
other factors are floats. Only reading needs TensorFlow.

Letters in shapes: n examples, H and W pixels, C channels, E entities, of which
the backgrounds come first.
"""

from collections.abc import Iterator
import dataclasses
import http.client
import itertools
import math
from pathlib import Path
import shutil
import urllib.error
import urllib.request

from absl import logging
import filelock
import numpy as np

from slot_attention.progress import progress_bar

CHUNK_SIZE = 256

_BUCKET = "https://storage.googleapis.com/multi-object-datasets"
_TIMEOUT_SECONDS = 30
_MEBIBYTE = 1 << 20


@dataclasses.dataclass(frozen=True)
class RecordFormat:
  """The format of one of the files.

  Attributes:
    image_shape: H, W, C.
    num_entities: number of entities E.
    url: address of the published file.
    gigabytes: approximate size of the file.
    num_examples: number of examples in the file.
    floats: dict from the names of the float factors to their shapes.
    codes: names of the factors that are class codes, uint8 [E].
    entity_axis: axis of the entities in the masks: 0 for masks [E, H, W, 1], 2
      for masks [H, W, E, 1].
    num_backgrounds: number of entities that are background.
  """

  image_shape: tuple[int, int, int]
  num_entities: int
  url: str
  gigabytes: float
  num_examples: int
  floats: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
  codes: tuple[str, ...] = ()
  entity_axis: int = 0
  num_backgrounds: int = 1

  @property
  def mask_shape(self) -> tuple[int, int, int]:
    """Returns the shape of all masks, without their last axis of size 1."""
    shape = list(self.image_shape[:2])
    shape.insert(self.entity_axis, self.num_entities)
    return tuple(shape)


def _multi_dsprites(
  variant: str, num_channels: int, num_entities: int, gigabytes: float
) -> RecordFormat:
  factors = ("x", "y", "shape", "orientation", "scale", "visibility")
  return RecordFormat(
    image_shape=(64, 64, num_channels),
    num_entities=num_entities,
    entity_axis=2,
    floats={
      **{factor: (num_entities,) for factor in factors},
      "color": (num_entities, num_channels),
    },
    url=f"{_BUCKET}/multi_dsprites/multi_dsprites_{variant}.tfrecords",
    gigabytes=gigabytes,
    num_examples=1_000_000,
  )


def _objects_room(
  file: str, num_entities: int, gigabytes: float, num_examples: int
) -> RecordFormat:
  return RecordFormat(
    image_shape=(64, 64, 3),
    num_entities=num_entities,
    num_backgrounds=4,  # Sky, floor, and two halves of the wall.
    url=f"{_BUCKET}/objects_room/objects_room_{file}.tfrecords",
    gigabytes=gigabytes,
    num_examples=num_examples,
  )


FORMATS = {
  "clevr_with_masks": RecordFormat(
    image_shape=(240, 320, 3),
    num_entities=11,
    floats={
      "x": (11,),
      "y": (11,),
      "z": (11,),
      "rotation": (11,),
      "pixel_coords": (11, 3),
      "visibility": (11,),
    },
    codes=("size", "material", "shape", "color"),
    url=f"{_BUCKET}/clevr_with_masks/clevr_with_masks_train.tfrecords",
    gigabytes=10.5,
    num_examples=100_000,
  ),
  "multi_dsprites_binarized": _multi_dsprites("binarized", 1, 4, 0.5),
  "multi_dsprites_colored_on_grayscale": _multi_dsprites(
    "colored_on_grayscale", 3, 6, 1
  ),
  "multi_dsprites_colored_on_colored": _multi_dsprites(
    "colored_on_colored", 3, 5, 1
  ),
  "tetrominoes": RecordFormat(
    image_shape=(35, 35, 3),
    num_entities=4,
    floats={
      "x": (4,),
      "y": (4,),
      "shape": (4,),
      "visibility": (4,),
      "color": (4, 3),
    },
    url=f"{_BUCKET}/tetrominoes/tetrominoes_train.tfrecords",
    gigabytes=0.3,
    num_examples=1_000_000,
  ),
  "objects_room_train": _objects_room("train", 7, 7, 1_000_000),
  "objects_room_six_objects": _objects_room("test_six_objects", 10, 0.01, 922),
  "objects_room_identical_color": _objects_room(
    "test_identical_color", 10, 0.01, 922
  ),
  "objects_room_empty_room": _objects_room("test_empty_room", 4, 0.01, 922),
}


def read(
  path: Path, name: str, start: int, stop: int
) -> Iterator[dict[str, np.ndarray]]:
  """Reads examples [start, stop) of a file, in their order.

  Args:
    path: the file.
    name: name of the data set, a key of `FORMATS`.
    start: the first example to read.
    stop: the example after the last one to read.

  Returns:
    An iterator of chunks of `CHUNK_SIZE` examples; the last chunk may have
    fewer. A chunk is a dict of
      images: uint8 [n, H, W, C];
      segments: uint8 [n, H, W], 0 for all backgrounds, 1 for the first entity
        after the backgrounds, and so on;
      and all factors, float32 [n, E, ...], or uint8 [n, E] if they are codes.
    For Tetrominoes, x is the top row of a piece, y its left column and shape
    its code, 1 to 19.

  Raises:
    FileNotFoundError: if the file does not exist.
    ImportError: by the iterator, if TensorFlow is not installed.
    ValueError: by the iterator, if the file is truncated, damaged or of another
      format, or has too few examples.
  """
  if not path.is_file():
    raise FileNotFoundError(f"there is no TFRecord file {path}")
  return _chunks(_examples(path, name, start, stop))


def download(name: str, folder: Path) -> Path:
  """Downloads a file unless it exists.

  Until the file is complete, `.partial` is appended to its name. An interrupted
  download continues where it stopped, or starts again if the server cannot
  continue it. If several processes ask for a file, one downloads it, and the
  others wait.

  Args:
    name: name of the data set, a key of `FORMATS`.
    folder: folder of the file, created if necessary.

  Returns:
    The path of the file.

  Raises:
    OSError: if the connection fails or the disk is full.
  """
  url = FORMATS[name].url
  path = folder / url.rpartition("/")[-1]
  if path.exists():
    return path
  partial = path.with_name(f"{path.name}.partial")
  logging.info(
    "Downloading %s, about %g GB, to %s", url, FORMATS[name].gigabytes, path
  )
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(f"{path.name}.lock")):
      held = _size(partial)
      while not path.exists() and not _fetch(url, partial):
        if _size(partial) <= held:
          raise ConnectionError("the connection was interrupted")
        held = _size(partial)
      if not path.exists():
        partial.rename(path)
  except (OSError, http.client.HTTPException) as error:
    raise OSError(
      f"{url} (about {FORMATS[name].gigabytes:g} GB) cannot be downloaded to"
      f" {folder}: {getattr(error, 'reason', error)}. The downloaded part is"
      " kept, and the same command goes on from there. If you have the file,"
      " set data.path to it instead"
    ) from error
  return path


def _size(path):
  return path.stat().st_size if path.exists() else 0


def _fetch(url, partial):
  """Appends the missing part of a file; returns whether it is complete."""
  start = _size(partial)
  headers = {"Range": f"bytes={start}-"} if start else {}
  request = urllib.request.Request(url, headers=headers)
  try:
    response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    with error:
      if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise
      if error.headers["Content-Range"] == f"bytes */{start}":
        return True
    partial.unlink()  # It is longer than the file, so it is of another file.
    return _fetch(url, partial)
  with response:
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
      start = 0
    if response.length is None:
      raise ConnectionError("the server does not say how long the file is")
    size = start + response.length
    free = shutil.disk_usage(partial.parent).free
    if response.length > free:
      raise OSError(
        f"{response.length / 1e6:,.1f} MB are missing, but only"
        f" {free / 1e6:,.1f} MB are free on the disk"
      )
    with (
      partial.open("ab" if start else "wb") as file,
      progress_bar(
        total=math.ceil(size / _MEBIBYTE),
        initial=start // _MEBIBYTE,
        desc=f"downloading {partial.stem}",
        unit="MiB",
      ) as progress,
    ):
      try:
        while block := response.read(_MEBIBYTE):
          file.write(block)
          progress.update()
      except (ConnectionError, TimeoutError, http.client.HTTPException) as cut:
        logging.warning("The download of %s was interrupted: %s", url, cut)
  return _size(partial) == size


def _chunks(examples):
  while chunk := list(itertools.islice(examples, CHUNK_SIZE)):
    yield {key: np.stack([e[key] for e in chunk]) for key in chunk[0]}


def check_tensorflow() -> None:
  """Raises an ImportError if TensorFlow, which reads records, is missing."""
  try:
    import tensorflow  # noqa: F401
  except ImportError as error:
    raise ImportError(
      "reading original TFRecords needs TensorFlow: pip install -r"
      " requirements.txt"
    ) from error


def _examples(path, name, start, stop):
  check_tensorflow()
  from google.protobuf.message import DecodeError
  import tensorflow as tf

  records = tf.data.TFRecordDataset(str(path), compression_type="GZIP")
  records = records.skip(start).take(stop - start)
  num_read = 0
  try:
    for record in records.as_numpy_iterator():
      yield _parse(tf.train.Example.FromString(record), FORMATS[name])
      num_read += 1
  except (tf.errors.OpError, DecodeError, ValueError) as error:
    raise ValueError(
      f"{path} is not a readable {name} TFRecord file: it is truncated,"
      " damaged or of another data set"
    ) from error
  if num_read < stop - start:
    raise ValueError(
      f"{path} has fewer than {stop} examples, the value of data.num_examples:"
      " it is truncated, or it is a smaller file"
    )


def _parse(example, record_format):
  """Converts a tf.train.Example to arrays."""
  features = example.features.feature

  def bytes_of(name, shape):
    strings = features[name].bytes_list.value
    return np.frombuffer(b"".join(strings), np.uint8).reshape(shape)

  masks = bytes_of("mask", record_format.mask_shape)
  parsed = {
    "images": bytes_of("image", record_format.image_shape),
    "segments": _segments(masks, record_format),
  }
  for factor, shape in record_format.floats.items():
    values = features[factor].float_list.value
    parsed[factor] = np.array(values, np.float32).reshape(shape)
  for factor in record_format.codes:
    parsed[factor] = bytes_of(factor, (record_format.num_entities,))
  return parsed


def _segments(masks, record_format):
  entities = masks.argmax(axis=record_format.entity_axis).astype(np.uint8)
  last_background = record_format.num_backgrounds - 1
  return np.maximum(entities, last_background) - last_background
