"""Shows what a model sees in your own images.

  python -m slot_attention.predict --workdir=runs/quickstart photo.png
  python -m slot_attention.predict --pretrained=quickstart a.png b.jpg --to=out

Images may have any size. They are cropped, resized and stretched in contrast as
the images of the training were. Models of binary images, such as R-NEM, get
black and white pixels. The command writes into the folder TO/NAME of
every image:

  slots.png          object discovery: the slots, as in Figure 3a
  segments.png       object discovery: the slot of every pixel, counted from 1;
                     0 where the image was cut off
  predictions.json   set prediction: the objects, the most certain one first
  attention.png      the attention of every slot and iteration
  outputs.npz        the arrays that the model returns

A model has only learned from the images it was trained on. It may see nothing
sensible in others.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import PIL.Image

from slot_attention import command, files, pretrained, tasks, visualization
from slot_attention.data import (
  clevr,
  clevr_scenes,
  datasets,
  image_files,
  store,
)
from slot_attention.metrics import (
  CATEGORIES,
  COORDINATE_RANGE,
  COORDINATES,
  REAL_OBJECT,
)
from slot_attention.training import evaluate

# What the command writes for an image; see the top of this file.
_FILES = (
  "slots.png",
  "segments.png",
  "predictions.json",
  "attention.png",
  "outputs.npz",
)


def crop(
  config: ml_collections.ConfigDict, height: int, width: int
) -> tuple[slice, slice]:
  """Returns the rows and columns of an image that a run's model sees.

  CLEVR's crop is scaled to the size of the image.

  Args:
    config: of the run.
    height: of the image.
    width: of the image.
  """
  if not config.data.preprocessing.get("crop", False):
    return slice(0, height), slice(0, width)

  def scale(place, size, full_size):
    start = round(place.start * size / full_size)
    return slice(start, max(round(place.stop * size / full_size), start + 1))

  return (
    scale(clevr.CROP_ROWS, height, clevr.CROPPED_SIZE[0]),
    scale(clevr.CROP_COLUMNS, width, clevr.CROPPED_SIZE[1]),
  )


def frame(
  config: ml_collections.ConfigDict, images: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
  """Crops, resizes and stretches images in the way of a run's data.

  Args:
    config: of the run.
    images: uint8 [H, W, 3] each, of any size.

  Returns:
    A batch of images, uint8, and example_ids, for `tasks.normalize`. For models
    of binary images, such as R-NEM, the brighter half of the range is white,
    and the rest black.

  Raises:
    ValueError: if the model's images are not square.
  """
  height, width, channels = datasets.image_shape(config.data)
  if height != width:
    raise ValueError(f"the model's images are {height}x{width}, not square")
  framed = []
  for image in images:
    rows, columns = crop(config, *image.shape[:2])
    part = image[None, rows, columns]
    framed.append(clevr.frame(part, crop=False, image_size=height)[0])
  levels = {
    name: config.data.procedural[name]
    for name in ("black_level", "white_level")
    if config.data.source == "procedural" and name in config.data.procedural
  }
  framed = clevr_scenes.stretch(np.stack(framed), **levels)
  ids = np.arange(len(images), dtype=np.int32)
  split = store.Split({"images": framed}, ids, channels == 1)
  batch = {**split.take(ids), "example_ids": ids}
  if tasks.make_task(config).needs_binary_images:
    is_white = batch["images"].mean(axis=-1, keepdims=True) >= 128
    white = np.full_like(batch["images"], 255)
    batch["images"] = np.where(is_white, white, 0)
  return batch


def segment(
  config: ml_collections.ConfigDict,
  masks: np.ndarray,
  height: int,
  width: int,
) -> np.ndarray:
  """Returns the slot of every pixel of an image of any size.

  Args:
    config: of the run.
    masks: [K, h, w, 1] of the framed image.
    height: of the image.
    width: of the image.

  Returns:
    uint8 [height, width]: the slot with the largest mask, 1 to K; 0 where the
    image was cut off.

  Raises:
    ValueError: for more than 255 slots.
  """
  if len(masks) > 255:
    raise ValueError(
      f"segments have at most 255 slots, and there are {len(masks)}"
    )
  slots = np.asarray(masks)[..., 0].argmax(axis=0) + 1
  box = crop(config, height, width)
  segments = np.zeros((height, width), np.uint8)
  segments[box] = clevr.resize_to_nearest(slots, segments[box].shape)
  return segments


def describe(predictions: np.ndarray) -> list[dict[str, Any]]:
  """Describes predictions [K, 19] by words, the most certain object first.

  Coordinates are in scene units.
  """
  objects = []
  for thing in sorted(predictions, key=lambda x: -x[REAL_OBJECT]):
    coords = COORDINATE_RANGE * (thing[COORDINATES] - 0.5)
    objects.append(
      {
        "is_object": round(float(thing[REAL_OBJECT]), 4),
        **{
          name: clevr.PROPERTIES[name][int(thing[place].argmax())]
          for name, place in CATEGORIES.items()
        },
        "xyz": [round(float(x), 3) for x in coords],
      }
    )
  return objects


def write(
  folder: Path,
  config: ml_collections.ConfigDict,
  image: np.ndarray,
  batch: dict[str, Any],
  outputs: dict[str, Any],
) -> None:
  """Writes what a model sees in one image; see the top of this file.

  Args:
    folder: where to write; it is made.
    config: of the run.
    image: uint8 [H, W, 3], as it was read.
    batch: the normalised batch of this image alone.
    outputs: of the model for that batch.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for name in _FILES:  # Another model may have written others.
    (folder / name).unlink(missing_ok=True)
  images = batch["images"]
  if "masks" in outputs:
    segments = segment(config, outputs["masks"][0], *image.shape[:2])
    visualization.draw_slots(folder / "slots.png", images, outputs)
    colors = visualization.slot_colors(outputs["masks"].shape[1])
    picture = PIL.Image.fromarray(segments)
    picture.putpalette(
      np.rint(255 * np.concatenate([np.zeros((1, 3)), colors]))
      .astype(np.uint8)
      .tobytes()
    )
    picture.save(folder / "segments.png")
  if "predictions" in outputs:
    objects = describe(np.asarray(outputs["predictions"][0]))
    files.write_json(folder / "predictions.json", objects)
  if "attn" in outputs:
    visualization.draw_attention(
      folder / "attention.png", images, outputs["attn"]
    )
  np.savez_compressed(
    folder / "outputs.npz",
    images=images[0],
    **{name: x[0] for name, x in outputs.items()},
  )


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = command.Flags(__doc__, arguments="IMAGE...")
  flags.define_run()
  flags.define_string("to", "predictions", "Folder to write to.")
  flags.define_slots_and_iterations()
  paths = list(map(Path, flags.parse(arguments)))
  if not paths:
    raise command.UsageError("give the files of one or more images")
  names = [path.stem for path in paths]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise command.UsageError(
      f"several images are called {', '.join(twice)}, and would share a folder"
    )
  images = [image_files.read_image(path) for path in paths]
  run = pretrained.load_any(flags.workdir, flags.pretrained)
  datasets.check_outside(run.config.data, "--to", flags.to)
  apply = evaluate.make_apply(
    run, num_slots=flags.num_slots, num_iterations=flags.num_iterations
  )
  for name, image in zip(names, images):
    batch = tasks.normalize(frame(run.config, [image]))
    outputs = jax.device_get(apply(batch))
    folder = Path(flags.to, name)
    write(folder, run.config, image, batch, outputs)
    print(folder)


if __name__ == "__main__":
  command.run(main)
