"""Reads the original CLEVR (Johnson et al., 2017), with or without masks.

The sources are an unpacked CLEVR_v1.0 folder, TensorFlow Datasets, and the
TFRecords with masks (Kabra et al., 2019). Each is read in chunks, dicts of
  images: uint8 [n, image_size, image_size, 3], see `clevr.frame`;
  targets: float32 [n, 10, 19], see `clevr.encode_targets`;
  segments, if there are masks: uint8 [n, image_size, image_size], 0 for
    background, e for the object in row e - 1 of the targets.

Objects outside the crop keep their targets. The crop is central in the images
with masks, 320x240, and not in those of CLEVR_v1.0, 480x320.
"""

from collections.abc import Iterator
import concurrent.futures
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image

from slot_attention.data import clevr, multi_object_records
from slot_attention.metrics import REAL_OBJECT

CHUNK_SIZE = 64
# The official code sets the first training examples aside.
NUM_ASIDE = 512

_ALTERNATIVES = (
  "Or unpack CLEVR_v1.0.zip and set data.path to the folder CLEVR_v1.0; or set"
  " data.source='procedural' to draw the scenes (python -m"
  " slot_attention.data.prepare clevr draws them beforehand)"
)

# Classes in the order of their codes in the TFRecords with masks, 1, 2, and so
# on. Code 0 is padding.
RECORD_CLASSES = {
  "size": ("large", "small"),
  "material": ("rubber", "metal"),
  "shape": ("sphere", "cylinder", "cube"),
  "color": (
    "red", "cyan", "green", "blue", "brown", "gray", "purple", "yellow",
  ),
}  # fmt: skip

Chunk = dict[str, np.ndarray]


class _Part(NamedTuple):
  """The scenes of one file.

  Attributes:
    scenes: the JSON file.
    images: folder of the images.
    masks: folder of the masks, or None if there are no masks.
    mask_field: field of a scene that names its mask.
    num_aside: number of first scenes that are left out.
  """

  scenes: Path
  images: Path
  masks: Path | None
  mask_field: str
  num_aside: int


class _Example(NamedTuple):
  """The files of an example, and its targets, float32 [10, 19]."""

  image: Path
  mask: Path | None
  target: np.ndarray


def read_folder(
  path: Path, start: int, stop: int, *, crop: bool, image_size: int
) -> Iterator[Chunk]:
  """Reads examples [start, stop) of a folder of PNG files.

  The folder has one of two layouts:
    CLEVR_v1.0 as unpacked, with images/SPLIT/ and
      scenes/CLEVR_SPLIT_scenes.json. Its examples are those of the split train
      without the first 512, then those of val. One of the two splits may be
      missing. The split test is not read, because it has no scenes. If there
      are masks, masks/SPLIT/ has one for each image, of the same name.
    scenes.json beside images and masks. The scenes name their files in the
      fields image_filename and, if there are masks, mask_filename.
  A mask is a PNG with one channel: 0 for background, e for object e of the
  scene, counted from 1.

  Args:
    path: the folder.
    start: the first example to read.
    stop: the example after the last one to read.
    crop: whether to crop the images, see `clevr.frame`.
    image_size: side of the result, in pixels.

  Raises:
    FileNotFoundError: if the folder has neither layout; by the iterator, if an
      image or a mask is missing.
    ValueError: by the iterator, if there are too few examples, or a file is
      damaged or has another format.
  """
  path = Path(path)
  parts = _parts(path)
  if not parts:
    raise FileNotFoundError(
      f"{path} is not a CLEVR folder: it has neither"
      " scenes/CLEVR_train_scenes.json nor scenes/CLEVR_val_scenes.json nor"
      " scenes.json"
    )
  return _read_parts(path, parts, start, stop, crop, image_size)


def read_tfds(
  data_dir: Path | None, start: int, stop: int, *, crop: bool, image_size: int
) -> Iterator[Chunk]:
  """Reads examples [start, stop) of the data set clevr of TensorFlow Datasets.

  The examples are those of the split train without the first 512, then those of
  validation. TensorFlow Datasets has another order than `read_folder`, so the
  512 are other examples. Nothing is downloaded.

  Args:
    data_dir: data folder of TensorFlow Datasets; None for its default.
    start: the first example to read.
    stop: the example after the last one to read.
    crop: whether to crop the images, see `clevr.frame`.
    image_size: side of the result, in pixels.

  Raises:
    ImportError: if TensorFlow or TensorFlow Datasets is not installed.
    FileNotFoundError: if the data set is not prepared.
    ValueError: by the iterator, if there are too few examples, or a file is
      damaged.
  """
  try:
    import tensorflow as tf
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ImportError(
      "reading CLEVR of TensorFlow Datasets needs TensorFlow: pip install -r"
      f" requirements.txt. {_ALTERNATIVES}"
    ) from error
  builder = tfds.builder("clevr", data_dir=data_dir)
  if not builder.is_prepared():
    raise FileNotFoundError(
      f"CLEVR of TensorFlow Datasets is not prepared in {builder.data_path}."
      ' To prepare it (18 GB to download): python -c "import'
      " tensorflow_datasets as tfds; tfds.builder('clevr',"
      f' data_dir={str(builder.data_dir_root)!r}).download_and_prepare()".'
      f" {_ALTERNATIVES}"
    )
  return _read_builder(tf, tfds, builder, start, stop, crop, image_size)


def read_with_masks(
  path: Path, start: int, stop: int, *, crop: bool, image_size: int
) -> Iterator[Chunk]:
  """Reads examples [start, stop) of the TFRecords with masks, in their order.

  Args:
    path: the file clevr_with_masks_train.tfrecords.
    start: the first example to read.
    stop: the example after the last one to read.
    crop: whether to crop the images, see `clevr.frame`.
    image_size: side of the result, in pixels.

  Raises:
    FileNotFoundError, ImportError, ValueError: by the iterator, see
      `multi_object_records.read`.
  """
  name = "clevr_with_masks"
  for chunk in multi_object_records.read(Path(path), name, start, stop):
    targets = _record_targets(chunk, path)
    targets, segments = _objects_first(targets, chunk["segments"])
    yield _framed(chunk["images"], targets, segments, crop, image_size)


def _framed(images, targets, segments, crop, image_size):
  frame = {"crop": crop, "image_size": image_size}
  chunk = {"images": clevr.frame(images, **frame), "targets": targets}
  if segments is not None:
    chunk["segments"] = clevr.frame_segments(segments, **frame)
  return chunk


def _parts(path):
  """Returns the existing parts of a folder, in the order of the examples."""
  flat = path / "scenes.json"
  if flat.is_file():
    return [_Part(flat, path, path, "mask_filename", 0)]
  parts = [
    _Part(
      path / "scenes" / f"CLEVR_{split}_scenes.json",
      path / "images" / split,
      path / "masks" / split,
      "image_filename",
      num_aside,
    )
    for split, num_aside in (("train", NUM_ASIDE), ("val", 0))
  ]
  parts = [part for part in parts if part.scenes.is_file()]
  if not all(part.masks.is_dir() for part in parts):
    parts = [part._replace(masks=None) for part in parts]
  return parts


def _read_parts(path, parts, start, stop, crop, image_size):
  examples = itertools.chain.from_iterable(map(_examples, parts))
  examples = _take(examples, start, stop, path)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    while chunk := list(itertools.islice(examples, CHUNK_SIZE)):
      images = _decode(pool, [example.image for example in chunk], "RGB")
      segments = None
      if chunk[0].mask is not None:
        segments = _decode(pool, [example.mask for example in chunk], "L")
        if segments.shape != images.shape[:-1]:
          raise ValueError(f"{chunk[0].mask} and its image differ in size")
        for example, numbers in zip(chunk, segments):
          num_objects = example.target[:, REAL_OBJECT].sum()
          if numbers.max() > num_objects:
            raise ValueError(
              f"{example.mask} has the object {numbers.max()}, but the scene"
              f" has only {num_objects:.0f} objects"
            )
      targets = np.stack([example.target for example in chunk])
      yield _framed(images, targets, segments, crop, image_size)


def _take(examples, start, stop, path):
  """Yields examples [start, stop); raises an error if there are too few."""
  num_examples = 0
  for num_examples, example in enumerate(examples, start=1):
    if num_examples > start:
      yield example
    if num_examples == stop:
      return
  raise _too_few(path, num_examples, stop)


def _too_few(path, num_examples, stop):
  return ValueError(
    f"{path} has only {num_examples} examples, but data.num_examples is {stop}"
  )


def _examples(part):
  try:
    scenes = json.loads(part.scenes.read_bytes())["scenes"]
    # Either all scenes have masks or none.
    has_masks = part.masks is not None and part.mask_field in scenes[0]
    return [
      _Example(
        image=part.images / scene["image_filename"],
        mask=part.masks / scene[part.mask_field] if has_masks else None,
        target=clevr.encode_scene(scene["objects"]),
      )
      for scene in scenes[part.num_aside :]
    ]
  except (LookupError, TypeError, ValueError) as error:
    raise ValueError(
      f"{part.scenes} is not a readable file of CLEVR scenes: it is truncated,"
      f" damaged or of another data set ({error!r})"
    ) from error


def _decode(pool, paths, mode):
  """Reads PNG files of one size as uint8 [n, H, W] or [n, H, W, 3]."""
  arrays = list(pool.map(_decode_one, paths, itertools.repeat(mode)))
  for path, array in zip(paths, arrays):
    if array.shape != arrays[0].shape:
      raise ValueError(
        f"{path} has {array.shape[:2]} pixels, but {paths[0]} has"
        f" {arrays[0].shape[:2]}"
      )
  return np.stack(arrays)


def _decode_one(path, mode):
  try:
    with PIL.Image.open(path) as image:
      if mode == "L" and image.mode != "L":
        raise ValueError(
          f"{path} has the channels {image.mode}, but a mask has only one"
        )
      return np.asarray(image.convert(mode))
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f"{path} is missing, but the file of the scenes names it"
    ) from error
  except (OSError, SyntaxError) as error:
    raise ValueError(
      f"{path} is not a readable image: it is truncated or damaged"
    ) from error


def _read_builder(tf, tfds, builder, start, stop, crop, image_size):
  examples = _builder_examples(tfds, builder, start, stop)
  features = builder.info.features["objects"].feature
  try:
    while chunk := list(itertools.islice(examples, CHUNK_SIZE)):
      images = np.stack([example["image"] for example in chunk])
      objects = [_named_objects(x["objects"], features) for x in chunk]
      targets = np.stack([clevr.encode_scene(x) for x in objects])
      yield _framed(images, targets, None, crop, image_size)
  except tf.errors.OpError as error:
    raise ValueError(
      f"{builder.data_path} is not readable: a file is missing, truncated or"
      f" damaged ({error.message})"
    ) from error


def _builder_examples(tfds, builder, start, stop):
  splits = builder.info.splits
  num_train = max(splits["train"].num_examples - NUM_ASIDE, 0)
  num_examples = num_train + splits["validation"].num_examples
  if stop > num_examples:
    raise _too_few(builder.data_path, num_examples, stop)
  ranges = {
    "train": (NUM_ASIDE + start, NUM_ASIDE + min(stop, num_train)),
    "validation": (max(start - num_train, 0), stop - num_train),
  }
  for split, (first, last) in ranges.items():
    if first < last:
      dataset = builder.as_dataset(
        split=tfds.core.ReadInstruction(
          split, from_=first, to=last, unit="abs"
        ),
        # Reads one file after the other instead of interleaving them.
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
      )
      yield from dataset.as_numpy_iterator()


def _named_objects(objects, features):
  """Converts arrays of class numbers to objects with class names."""
  named = {
    name: [features[name].int2str(number) for number in objects[name]]
    for name in clevr.PROPERTIES
  }
  return [
    {"3d_coords": coords, **{name: named[name][i] for name in named}}
    for i, coords in enumerate(objects["3d_coords"])
  ]


def _record_targets(chunk, path):
  """Encodes the factors of the entities after the background as targets."""
  is_object = chunk["visibility"][:, 1:] > 0
  coords = np.stack([chunk[axis][:, 1:] for axis in "xyz"], axis=-1)
  classes = {}
  for name, names in RECORD_CLASSES.items():
    codes = np.where(is_object, chunk[name][:, 1:], 1)
    if codes.min() < 1 or codes.max() > len(names):
      raise ValueError(
        f"{path} has an object whose {name} has the code {codes.min()} or"
        f" {codes.max()}, but the codes are 1 to {len(names)}"
      )
    by_code = np.array([clevr.CLASS_NUMBERS[name][class_] for class_ in names])
    classes[name] = by_code[codes - 1]
  return clevr.encode_targets(coords, classes, is_object)


def _objects_first(targets, segments):
  """Returns both with the objects before the padding, in unchanged order.

  Args:
    targets: [n, M, 19].
    segments: uint8 [n, H, W], m + 1 for row m of the targets.
  """
  order = np.argsort(targets[..., -1] == 0, axis=1, kind="stable")
  # Maps the old id of a segment to the new one. The background stays 0.
  ids = np.pad(np.argsort(order, axis=1) + 1, ((0, 0), (1, 0)))
  moved = np.take_along_axis(ids, segments.reshape(len(ids), -1), axis=1)
  return (
    np.take_along_axis(targets, order[..., None], axis=1),
    moved.reshape(segments.shape).astype(np.uint8),
  )
