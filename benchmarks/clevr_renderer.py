"""How near the drawn CLEVR is to Blender's, and how fast it is drawn.

  python -m benchmarks.clevr_renderer --reference=FOLDER --output=results/NAME

FOLDER holds photographs of 320x240 drawn by the public generator, image_*.png;
what each pixel shows, mask_*.png, the number of an object from 1 or 0 for the
ground; and scenes.json, which adds the places of the camera and the lamps to
CLEVR's fields. The same scenes are drawn here and compared in the frame of
object discovery. Without --reference only the speed is measured. Writes
NAME.json, and NAME.png with some of the pairs, Blender's at the left.
"""

import json
from pathlib import Path
import time

from absl import app, flags
import numpy as np
from PIL import Image

from slot_attention.data import clevr, clevr_renderer, clevr_scenes
from slot_attention.paper.provenance import command, provenance

IMAGE_SIZE = 128
PAIRS_SHOWN = (4, 4)  # Rows and columns of pairs.

REFERENCE = flags.DEFINE_string("reference", "", "Folder; see above.")
OUTPUT = flags.DEFINE_string("output", "", "Path without suffix.")
SAMPLES = flags.DEFINE_integer("samples", 9, "Rays per pixel.")
NUM_SCENES = flags.DEFINE_integer("num_scenes", 200, "Scenes to compare.")
NUM_CHUNKS = flags.DEFINE_integer(
  "num_chunks", 3, f"Chunks of {clevr_scenes.CHUNK_SIZE} images to time."
)


def read_reference(
  folder: Path, num_scenes: int
) -> tuple[clevr_renderer.Scenes, np.ndarray, np.ndarray, list[dict]]:
  """Reads the first scenes: Scenes, photographs, masks, and annotations."""
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
  """Intersection over union of every object that shows, one after another."""
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
  """Draws the reference's scenes: measures of nearness, and pairs of images.

  Returns:
    mean_error: of the images, in grey levels of 255, over all pixels and
    channels; mask_iou: mean over the objects that show; mask_agreement: share
    of pixels. And uint8 [num_scenes, image_size, 2 image_size, 3].
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
  """Times clevr_scenes.generate for object discovery, once compiled."""
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


def main(_):
  """Measures, prints and writes."""
  result = {
    "command": command("benchmarks.clevr_renderer"),
    **provenance(["jax", "numpy"]),
    "image_size": IMAGE_SIZE,
    "samples": SAMPLES.value,
  }
  if REFERENCE.value:
    measures, pairs = compare(
      Path(REFERENCE.value), NUM_SCENES.value, IMAGE_SIZE, SAMPLES.value
    )
    result |= {"num_scenes": len(pairs), **measures}
  if NUM_CHUNKS.value:
    result |= measure_speed(NUM_CHUNKS.value, SAMPLES.value)
  text = json.dumps(result, indent=2)
  print(text)
  if OUTPUT.value:
    Path(OUTPUT.value + ".json").write_text(text + "\n")
    if REFERENCE.value:
      Image.fromarray(_contact_sheet(pairs)).save(OUTPUT.value + ".png")


if __name__ == "__main__":
  app.run(main)
