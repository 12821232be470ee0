"""Reads image files: a single one, or a folder of them as a data set.

A folder has one of two layouts:
  images/ and masks/: the image images/A/B.jpg has the mask masks/A/B.png.
  images only, in the folder itself and in any folders below it.
The examples are the images in the order of their paths. A mask has one channel
or a palette: 0 for background, e for object e.
"""

from collections.abc import Iterator
import concurrent.futures
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageOps

from slot_attention.checks import format_shape
from slot_attention.data import clevr

CHUNK_SIZE = 64


def read_image(path: Path | str, file: BinaryIO | None = None) -> np.ndarray:
  """Reads an image file as uint8 [H, W, 3], upright.

  Images of 16 bits are scaled to 8. What is transparent becomes white.

  Args:
    path: of the file; errors name it.
    file: the opened file, if it is not on this disk.

  Raises:
    ValueError: if the file cannot be read as an image, or if its pixels have no
      known range; says why.
  """
  return _read(path, _to_rgb, file)


def read_folder(
  path: Path, start: int, stop: int, *, image_size: int
) -> Iterator[dict[str, np.ndarray]]:
  """Reads examples [start, stop) of a folder in chunks.

  Whole images are squashed to squares, see `clevr.frame`; masks take the
  nearest pixel.

  Args:
    path: the folder, see the top of this file.
    start: the first example to read.
    stop: the example after the last one to read.
    image_size: side of the result, in pixels.

  Yields:
    Dicts of at most CHUNK_SIZE examples:
      images: uint8 [n, image_size, image_size, 3];
      segments, if there are masks: uint8 [n, image_size, image_size].

  Raises:
    FileNotFoundError: if the folder or a mask is missing.
    ValueError: if the folder has too few images, or if a file cannot be read;
      says why.
  """
  masks, folder = path / "masks", _folder_of_images(path)
  files = _image_files(folder)
  if len(files) < stop:
    raise ValueError(
      f"{folder} has only {len(files)} images, but data.num_examples is {stop}"
    )

  def read(file):
    pixels = read_image(file)
    image = clevr.frame(pixels[None], crop=False, image_size=image_size)
    if folder == path:
      return {"images": image}
    mask_file = (masks / file.relative_to(folder)).with_suffix(".png")
    mask = _read_mask(mask_file)
    if mask.shape != pixels.shape[:2]:
      raise ValueError(
        f"the mask {mask_file} has {format_shape(mask.shape)} pixels (height x"
        f" width), but {file}, turned upright, has"
        f" {format_shape(pixels.shape[:2])}"
      )
    segments = clevr.frame_segments(
      mask[None], crop=False, image_size=image_size
    )
    return {"images": image, "segments": segments}

  with concurrent.futures.ThreadPoolExecutor() as pool:
    for first in range(start, stop, CHUNK_SIZE):
      examples = list(
        pool.map(read, files[first : min(first + CHUNK_SIZE, stop)])
      )
      yield {
        name: np.concatenate([example[name] for example in examples])
        for name in examples[0]
      }


def count(path: Path) -> int:
  """Returns the number of examples of a folder.

  Raises:
    FileNotFoundError: if there is no such folder, or no image in it.
  """
  folder = _folder_of_images(path)
  files = _image_files(folder)
  if not files:
    raise FileNotFoundError(f"there is no image in {folder}")
  return len(files)


def fingerprint(path: Path) -> str:
  """Returns a digest that changes when files of a folder change.

  It sees the path, size and time of every image and every mask.

  Raises:
    FileNotFoundError: if there is no such folder.
  """
  if not path.is_dir():
    raise FileNotFoundError(f"there is no folder {path}")
  digest = hashlib.sha256()
  for file in _image_files(path):
    found = file.stat()
    place = os.fsencode(file.relative_to(path).as_posix())
    digest.update(place)  # Names of files need not be UTF-8.
    digest.update(f" {found.st_size} {found.st_mtime_ns};".encode())
  return digest.hexdigest()


def _folder_of_images(path):
  folder = path / "images" if (path / "masks").is_dir() else path
  if not folder.is_dir():
    raise FileNotFoundError(f"there is no folder {folder}")
  return folder


def _image_files(folder):
  """Lists the image files of a folder and of those below it, by their paths."""
  endings = {
    ending
    for ending, kind in PIL.Image.registered_extensions().items()
    if kind in PIL.Image.OPEN  # Others are only written.
  }
  return sorted(
    file
    for file in _files(folder)
    if file.suffix.lower() in endings
    and not file.name.startswith(".")
    and file.is_file()
  )


def _files(folder):
  """Yields all files below a folder; follows links to each folder only once."""
  known = set()
  for place, folders, names in os.walk(folder, followlinks=True):
    if os.path.realpath(place) in known:
      folders.clear()
      continue
    known.add(os.path.realpath(place))
    yield from (Path(place, name) for name in names)


def _read(path, convert, file=None):
  """Opens an image file and converts the image; errors name the file."""
  try:
    with PIL.Image.open(file or path) as image:
      return convert(PIL.ImageOps.exif_transpose(image))
  except PIL.UnidentifiedImageError as error:
    raise ValueError(f"{path} is not an image that Pillow knows") from error
  except OSError as error:
    raise ValueError(
      f"the image {path} cannot be read: {error.strerror or error}"
    ) from error
  except Exception as error:  # Decoders raise any type for a damaged file.
    raise ValueError(f"the image {path} cannot be read: {error}") from error


def _to_rgb(image):
  """Converts an image of any mode to uint8 [H, W, 3]."""
  if image.mode.startswith("I"):
    # Pillow would clip these modes at 255. Old versions read 16 bits as "I".
    pixels = np.asarray(image)
    if image.mode == "I" and not 0 <= pixels.min() <= pixels.max() < 2**16:
      raise ValueError("its pixels are integers of 32 bits, of unknown range")
    pixels = np.rint(pixels / 257).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, axis=-1)
  if image.mode == "F":
    raise ValueError("its pixels are floating point numbers, of unknown range")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    image = PIL.Image.alpha_composite(white, image)
  return np.asarray(image.convert("RGB"))


def _read_mask(path):
  """Reads a mask as uint8 [H, W]."""
  if not path.exists():
    raise FileNotFoundError(f"the mask {path} is missing")

  def segments(image):
    if image.mode not in {"L", "P"}:
      raise ValueError(
        f"a mask has one channel of 8 bits or a palette, not {image.mode}"
      )
    return np.asarray(image)

  return _read(path, segments)
