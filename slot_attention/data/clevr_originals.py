"""Reads original CLEVR (Johnson et al., 2017), with masks or without.

Three routes: an unpacked CLEVR_v1.0 folder, TensorFlow Datasets, and the
TFRecords with masks (Kabra et al., 2019). All give chunks of

  images: uint8 [n, image_size, image_size, 3], framed by `clevr.frame`;
  targets: float32 [n, 10, 19], as of `clevr.encode_targets`;
  segments, where there are masks: uint8 [n, image_size, image_size], 0
    background, e for the object of row e - 1 of the targets.

Framing comes last: an object that the crop cuts away keeps its target. The crop
is made for images of 320 x 240 pixels, those with masks; in the 480 x 320 of
CLEVR_v1.0 the official code cuts out the same rows and columns, off the centre.
"""

from collections.abc import Iterator, Mapping, Sequence
import concurrent.futures
import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from slot_attention.data import clevr, multi_object_records

CHUNK_SIZE = 64
# The first training examples, which the official code sets aside.
NUM_ASIDE = 512

_ALTERNATIVES = (
  "Or unpack CLEVR_v1.0.zip and set data.path to the folder CLEVR_v1.0; or set"
  " data.source='procedural' to draw the scenes here, beforehand if you like:"
  " python -m slot_attention.data.prepare clevr"
)

# Classes by code in the TFRecords with masks; code 0 is padding.
RECORD_CLASSES = {
  "size": ("large", "small"),
  "material": ("rubber", "metal"),
  "shape": ("sphere", "cylinder", "cube"),
  "color": (
    "red", "cyan", "green", "blue", "brown", "gray", "purple", "yellow",
  ),
}  # fmt: skip

# Class name to its number in the targets.
_NUMBERS = {
  name: {class_: number for number, class_ in enumerate(classes)}
  for name, classes in clevr.PROPERTIES.items()
}

Chunk = dict[str, np.ndarray]


class _Part(NamedTuple):
  """Scenes of one file.

  Attributes:
    scenes: the JSON file.
    images: folder of the images.
    masks: folder of the masks, or None if there are none.
    mask_field: where a scene names its mask.
    num_aside: how many of the first scenes are no examples.
  """

  scenes: Path
  images: Path
  masks: Path | None
  mask_field: str
  num_aside: int


class _Example(NamedTuple):
  """Files of an example, and its targets, float32 [10, 19]."""

  image: Path
  mask: Path | None
  target: np.ndarray


def read_folder(
  path: Path, start: int, stop: int, *, crop: bool, image_size: int
) -> Iterator[Chunk]:
  """Reads examples [start, stop) of a folder of PNG files.

  Two layouts are understood:
    CLEVR_v1.0 as it is unpacked, with images/SPLIT/ and
      scenes/CLEVR_SPLIT_scenes.json. Its examples are those of train without
      the first 512, then those of val, as far as these splits are there; `test`
      has no scenes. There may be folders masks/SPLIT/, for all of these splits,
      with a mask of the same name for every image.
    scenes.json beside images and masks, whose scenes name them in
      `image_filename` and, if there are masks, in `mask_filename`.
  A mask is a PNG of one channel: 0 background, e for object e of the scene,
  counted from 1.

  Args:
    path: the folder.
    start: the first example.
    stop: the first example not to be read any more.
    crop: whether to cut out the centre, see `clevr.frame`.
    image_size: side of the result.

  Raises:
    FileNotFoundError: if the folder has neither layout; by the iterator, if an
      image or a mask is missing.
    ValueError: by the iterator, if there are fewer examples, or a file is
      damaged or of another format.
  """
  path = Path(path)
  parts = _parts(path)
  if not parts:
    raise FileNotFoundError(
      f"{path} is no CLEVR folder: it has neither"
      " scenes/CLEVR_train_scenes.json nor scenes/CLEVR_val_scenes.json nor"
      " scenes.json"
    )
  return _read_parts(path, parts, start, stop, crop, image_size)


def read_tfds(
  data_dir: Path | None, start: int, stop: int, *, crop: bool, image_size: int
) -> Iterator[Chunk]:
  """Reads examples [start, stop) of `clevr` of TensorFlow Datasets.

  They are those of `train` without the first 512, then those of `validation`.
  TensorFlow Datasets keeps its own order, so they are not those that
  `read_folder` sets aside. Nothing is downloaded.

  Args:
    data_dir: where TensorFlow Datasets keeps its data; None for its default.
    start: the first example.
    stop: the first example not to be read any more.
    crop: whether to cut out the centre, see `clevr.frame`.
    image_size: side of the result.

  Raises:
    ImportError: if TensorFlow or TensorFlow Datasets is not installed.
    FileNotFoundError: if it is not prepared.
    ValueError: by the iterator, if there are fewer examples, or a file is
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
      ' This prepares it (18 GB to download): python -c "import'
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
    path: clevr_with_masks_train.tfrecords.
    start: the first example.
    stop: the first example not to be read any more.
    crop: whether to cut out the centre, see `clevr.frame`.
    image_size: side of the result.

  Raises:
    FileNotFoundError, ValueError: by the iterator, see
      `multi_object_records.read`.
  """
  chunks = multi_object_records.read(
    Path(path), "clevr_with_masks", start, stop
  )
  for chunk in chunks:
    targets, segments = _objects_first(
      _record_targets(chunk, path), chunk["segments"]
    )
    yield _framed(chunk["images"], targets, segments, crop, image_size)


def _framed(images, targets, segments, crop, image_size):
  frame = {"crop": crop, "image_size": image_size}
  chunk = {"images": clevr.frame(images, **frame), "targets": targets}
  if segments is not None:
    chunk["segments"] = clevr.frame_segments(segments, **frame)
  return chunk


def _parts(path):
  """The parts of a folder that are there, in the order of the examples."""
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
      targets = np.stack([example.target for example in chunk])
      yield _framed(images, targets, segments, crop, image_size)


def _take(examples, start, stop, path):
  """Examples [start, stop), or an error if there are not so many."""
  num_examples = 0
  for num_examples, example in enumerate(examples, start=1):
    if num_examples > start:
      yield example
    if num_examples == stop:
      return
  raise _too_few(path, num_examples, stop)


def _too_few(path, num_examples, stop):
  return ValueError(
    f"{path} ends after {num_examples} examples, but data.num_examples asks"
    f" for {stop}"
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
        target=_scene_target(scene["objects"]),
      )
      for scene in scenes[part.num_aside :]
    ]
  except (LookupError, TypeError, ValueError) as error:
    raise ValueError(
      f"{part.scenes} is not a readable file of CLEVR scenes: it is truncated,"
      f" damaged or of another data set ({error!r})"
    ) from error


def _scene_target(objects: Sequence[Mapping[str, Any]]) -> np.ndarray:
  """Targets of one scene, float32 [10, 19].

  Args:
    objects: of each `3d_coords` and, by name, the class of each property.
  """
  coords = np.zeros((1, clevr.MAX_OBJECTS, 3), np.float32)
  classes = {
    name: np.zeros((1, clevr.MAX_OBJECTS), int) for name in clevr.PROPERTIES
  }
  for place, item in enumerate(objects):
    coords[0, place] = item["3d_coords"]
    for name, numbers in _NUMBERS.items():
      classes[name][0, place] = numbers[item[name]]
  is_object = np.arange(clevr.MAX_OBJECTS)[None] < len(objects)
  return clevr.encode_targets(coords, classes, is_object)[0]


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
        raise ValueError(f"{path} has channels {image.mode}, but a mask has 1")
      return np.asarray(image.convert(mode))
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f"{path} is missing, but the scenes beside it name it"
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
      targets = np.stack(
        [
          _scene_target(_named_objects(example["objects"], features))
          for example in chunk
        ]
      )
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
        # One file after the other, not some examples of each in turn.
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
      )
      yield from dataset.as_numpy_iterator()


def _named_objects(objects, features):
  """From arrays of class numbers to objects with class names."""
  named = {
    name: [features[name].int2str(number) for number in objects[name]]
    for name in clevr.PROPERTIES
  }
  return [
    {"3d_coords": coords, **{name: named[name][i] for name in named}}
    for i, coords in enumerate(objects["3d_coords"])
  ]


def _record_targets(chunk, path):
  """Targets from factors by entity, of which the background is the first."""
  is_object = chunk["visibility"][:, 1:] > 0
  coords = np.stack([chunk[axis][:, 1:] for axis in "xyz"], axis=-1)
  classes = {}
  for name, names in RECORD_CLASSES.items():
    codes = np.where(is_object, chunk[name][:, 1:], 1)
    if codes.min() < 1 or codes.max() > len(names):
      raise ValueError(
        f"{path} has an object whose {name} is of code {codes.min()} or"
        f" {codes.max()}, but the codes are 1 to {len(names)}"
      )
    by_code = np.array([_NUMBERS[name][class_] for class_ in names])
    classes[name] = by_code[codes - 1]
  return clevr.encode_targets(coords, classes, is_object)


def _objects_first(targets, segments):
  """Moves objects before padding, so that the places after them can be cut.

  Args:
    targets: [n, M, 19].
    segments: uint8 [n, H, W], m + 1 for place m of the targets.

  Returns:
    Both, with the objects in their old order.
  """
  order = np.argsort(targets[..., -1] == 0, axis=1, kind="stable")
  # From the old id of a segment to the new one; the background stays 0.
  ids = np.pad(np.argsort(order, axis=1) + 1, ((0, 0), (1, 0)))
  moved = np.take_along_axis(ids, segments.reshape(len(ids), -1), axis=1)
  return (
    np.take_along_axis(targets, order[..., None], axis=1),
    moved.reshape(segments.shape).astype(np.uint8),
  )
