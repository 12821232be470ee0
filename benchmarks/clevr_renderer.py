r"""Measures how close drawn CLEVR is to Blender's, and how fast it is drawn.

  python -m benchmarks.clevr_renderer
  python -m benchmarks.clevr_renderer --reference=clevr_rerendered/with_masks \
    --output=results/clevr_renderer

Without --reference, only the speed is measured. With it, the command draws the
scenes of a reference folder and compares them with the photographs there, in
the crop of object discovery. The photographs are scenes that the public
generator (github.com/facebookresearch/clevr-dataset-gen) rendered with Blender
at 320x240. The folder is not part of the repository. It contains
  scenes.json   the scene files of CLEVR in one list "scenes". Each scene also
                names its files in image_filename and mask_filename, and has the
                positions of Camera, Lamp_Key, Lamp_Fill and Lamp_Back in
                camera_and_lamps
  image_*.png   the photographs
  mask_*.png    the object that each pixel shows, counted from 1; 0 for the
                ground

With --output=NAME, the command writes NAME.json and, if there is a reference,
NAME.png with some pairs of images, Blender's on the left.
"""

from collections.abc import Sequence
import json
from pathlib import Path
import time

import numpy as np
from PIL import Image

from benchmarks import records
from slot_attention import command
from slot_attention.data import clevr, clevr_renderer, clevr_scenes

IMAGE_SIZE = 128
PAIRS_SHOWN = (4, 4)  # Rows and columns of pairs in the picture.


def read_reference(
  folder: Path, num_scenes: int
) -> tuple[clevr_renderer.Scenes, np.ndarray, np.ndarray, list[dict]]:
  """Reads the first scenes of a reference folder, see the top of this file.

  Args:
    folder: the reference folder.
    num_scenes: largest number N of scenes to read.

  Returns:
    The scenes; the photographs uint8 [N, 240, 320, 3]; the masks uint8
    [N, 240, 320]; and the scenes of scenes.json.
  """
  described = json.loads((folder / "scenes.json").read_text())["scenes"]
  described = described[:num_scenes]
  count = len(described)
  scenes = clevr_renderer.Scenes(
    coords=np.zeros((count, clevr.MAX_OBJECTS, 3), np.float32),
    rotations=np.zeros((count, clevr.MAX_OBJECTS), np.float32),
    classes={
      name: np.zeros((count, clevr.MAX_OBJECTS), np.int32)
      for name in clevr.PROPERTIES
    },
    num_objects=np.array([len(d["objects"]) for d in described], np.int32),
    camera=np.zeros((count, 3), np.float32),
    lamps=np.zeros((count, 3, 3), np.float32),
    noise_seed=np.arange(count, dtype=np.uint32),
  )
  for n, description in enumerate(described):
    places = description["camera_and_lamps"]
    scenes.camera[n] = places["Camera"]
    lamps = ("Lamp_Key", "Lamp_Fill", "Lamp_Back")
    scenes.lamps[n] = [places[lamp] for lamp in lamps]
    for m, thing in enumerate(description["objects"]):
      scenes.coords[n, m] = thing["3d_coords"]
      scenes.rotations[n, m] = thing["rotation"]
      for name, names in clevr.PROPERTIES.items():
        scenes.classes[name][n, m] = names.index(thing[name])

  def read_all(field):
    return np.stack(
      [np.array(Image.open(folder / d[field])) for d in described]
    )

  images = read_all("image_filename")[..., :3]
  return scenes, images, read_all("mask_filename"), described


def mask_iou(segments: np.ndarray, reference: np.ndarray) -> np.ndarray:
  """Computes the intersection over union (IoU) of each visible object.

  Args:
    segments: int [N, H, W], 0 for the ground.
    reference: int [N, H, W], 0 for the ground.

  Returns:
    float [number of objects that are visible in either of the two].
  """
  ious = []
  for drawn, true in zip(segments, reference):
    for number in np.union1d(np.unique(drawn), np.unique(true)):
      if number:
        both = (drawn == number) & (true == number)
        ious.append(both.sum() / ((drawn == number) | (true == number)).sum())
  return np.array(ious)


def compare(
  folder: Path, num_scenes: int, image_size: int, samples: int
) -> tuple[dict[str, float], np.ndarray]:
  """Draws the scenes of a reference folder and compares the images.

  Args:
    folder: the reference folder.
    num_scenes: largest number of scenes to compare.
    image_size: side of the images, in pixels.
    samples: number of rays per pixel.

  Returns:
    A dict of
      mean_error: absolute error of the images, averaged over pixels and
        channels, in levels from 0 to 255;
      mask_iou: mean IoU of the visible objects;
      mask_agreement: share of pixels with the same object;
    and the pairs of images, uint8 [num_scenes, image_size, 2 image_size, 3].
  """
  scenes, images, masks, _ = read_reference(folder, num_scenes)
  images = clevr.frame(images, crop=True, image_size=image_size)
  masks = clevr.frame_segments(masks, crop=True, image_size=image_size)
  drawn, segments = clevr_renderer.render(
    scenes,
    framing=clevr_renderer.CENTRE,
    image_size=image_size,
    samples=samples,
  )
  error = np.abs(drawn.astype(np.float32) - images)
  measures = {
    "mean_error": float(error.mean()),
    "mask_iou": float(mask_iou(segments, masks).mean()),
    "mask_agreement": float((segments == masks).mean()),
  }
  return measures, np.concatenate([images, drawn], 2)


def measure_speed(num_chunks: int, samples: int) -> dict[str, float]:
  """Times `clevr_scenes.generate` for object discovery, without compilation."""
  options = {"seed": 0, "crop": True, "samples": samples}
  clevr_scenes.generate(0, **options)
  wall, cpu = time.perf_counter(), time.process_time()
  for chunk in range(1, num_chunks + 1):
    clevr_scenes.generate(chunk, **options)
  num_images = num_chunks * clevr_scenes.CHUNK_SIZE
  return {
    "images_per_second": num_images / (time.perf_counter() - wall),
    "cpu_seconds_per_image": (time.process_time() - cpu) / num_images,
  }


def _contact_sheet(pairs):
  rows, columns = PAIRS_SHOWN
  pairs = pairs[: rows * columns]
  blank = np.zeros((rows * columns - len(pairs), *pairs.shape[1:]), np.uint8)
  cells = np.concatenate([pairs, blank])
  _, height, width, channels = cells.shape
  cells = cells.reshape(rows, columns, height, width, channels)
  return cells.swapaxes(1, 2).reshape(rows * height, columns * width, channels)


def parse_flags(arguments: Sequence[str]) -> command.Flags:
  """Reads the flags of the command."""
  flags = command.Flags(__doc__)
  flags.define_string(
    "reference", None, "Reference folder, see above. Default: no comparison."
  )
  flags.define_integer(
    "num_scenes", 200, "Largest number of scenes to compare.", minimum=1
  )
  flags.define_integer(
    "num_chunks",
    3,
    f"Number of chunks of {clevr_scenes.CHUNK_SIZE} images to time; 0 times"
    " nothing.",
    minimum=0,
  )
  flags.define_integer("samples", 9, "Number of rays per pixel.", minimum=1)
  records.define_output(flags)
  flags.parse(arguments)
  return flags


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = parse_flags(arguments)
  result = {"image_size": IMAGE_SIZE, "samples": flags.samples}
  if flags.reference:
    measures, pairs = compare(
      Path(flags.reference), flags.num_scenes, IMAGE_SIZE, flags.samples
    )
    result |= {"num_scenes": len(pairs), **measures}
  if flags.num_chunks:
    result |= measure_speed(flags.num_chunks, flags.samples)
  record = records.describe(
    "benchmarks.clevr_renderer", ["jax", "numpy"], **result
  )
  print(json.dumps(record, indent=2))
  records.write(flags.output, record)
  if flags.output and flags.reference:
    sheet = Image.fromarray(_contact_sheet(pairs))
    sheet.save(Path(flags.output).with_suffix(".png"))


if __name__ == "__main__":
  command.run(main)
