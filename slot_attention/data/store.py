"""A prepared data set on disk: a manifest and one .npy file per array.

  DIRECTORY/manifest.json   description, file names, sizes and checksums
  DIRECTORY/images.npy      uint8 [num_examples, H, W, C]
  DIRECTORY/segments.npy    uint8 [num_examples, H, W], 0 is background
  DIRECTORY/targets.npy     float32 [num_examples, M, P], if there are targets

Images and segments of videos have one more axis, the frames, after the first.
The examples are made in chunks. Each chunk is one file in the hidden directory
.DIRECTORY-partial. When all chunks exist, they are merged into DIRECTORY. Both
chunks and DIRECTORY are written under another name first and then renamed, so
that they exist only when they are complete. Interrupted work continues with the
first missing chunk, and several processes or machines can share the chunks. No
file is pickled.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import io
import json
import os
from pathlib import Path
import shutil
import tempfile
import uuid
import zipfile

import numpy as np

from slot_attention.progress import progress_bar

FORMAT = 2
# Weights of red, green and blue (ITU-R BT.601).
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_GRAYSCALE_BLOCK = 256  # Examples.
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Store:
  """An opened prepared data set.

  Attributes:
    description: the description that was given to `write`.
    arrays: dict from name to memory-mapped array [num_examples, ...].
  """

  description: dict
  arrays: Arrays


@dataclasses.dataclass(frozen=True)
class Split:
  """A part of the examples of a store.

  Attributes:
    arrays: the arrays of the store.
    examples: int [n], the examples that belong to the split.
    grayscale: whether images are converted to luminance, one channel.
  """

  arrays: Arrays
  examples: np.ndarray
  grayscale: bool = False

  def __len__(self) -> int:
    return len(self.examples)

  @property
  def knows_objects(self) -> bool:
    """Whether the examples have targets or segments, to count objects in."""
    return not self.arrays.keys().isdisjoint({"targets", "segments"})

  @property
  def num_objects(self) -> np.ndarray:
    """Returns the numbers of objects, int [n], see `count_objects`."""
    return count_objects(self.arrays)[self.examples]

  @property
  def image_shape(self) -> tuple[int, ...]:
    """Returns the shape of images or videos, see `datasets.image_shape`."""
    *size, channels = self.arrays["images"].shape[1:]
    return *size, 1 if self.grayscale else channels

  def take(self, places: np.ndarray) -> Arrays:
    """Copies the examples at the given positions of the split, int [n]."""
    taken = {
      name: array[self.examples[places]] for name, array in self.arrays.items()
    }
    if self.grayscale:
      taken["images"] = _to_grayscale(taken["images"])
    return taken


def _to_grayscale(images):
  """Converts images uint8 [n, ..., 3] to luminance, uint8 [n, ..., 1]."""
  gray = np.empty((*images.shape[:-1], 1), np.uint8)
  # The floats of all images would take four times the memory of the images.
  for first in range(0, len(images), _GRAYSCALE_BLOCK):
    block = slice(first, first + _GRAYSCALE_BLOCK)
    gray[block, ..., 0] = np.rint(images[block] @ _LUMINANCE)
  return gray


def count_objects(arrays: Arrays) -> np.ndarray:
  """Counts the objects in each image or video, int [num_examples].

  Targets also count hidden objects and those outside the image. Without
  targets, the count is the largest segment id, which misses hidden objects
  after the last visible one. Without segments, it is 0.
  """
  if "targets" in arrays:
    return arrays["targets"][..., -1].sum(axis=1).astype(int)
  if "segments" not in arrays:
    return np.zeros(len(arrays["images"]), int)
  segments = arrays["segments"]
  return segments.max(axis=tuple(range(1, segments.ndim))).astype(int)


class DamagedError(ValueError):
  """A prepared data set does not agree with its manifest."""

  def __init__(self, directory: Path, problem: str):
    super().__init__(
      f"the prepared data set {directory} is damaged: {problem}. Delete that"
      " folder; the next command prepares it again"
    )


def write(
  directory: Path,
  description: dict,
  *,
  num_examples: int,
  chunk_size: int,
  make_chunks: Callable[[Sequence[int]], Iterator[Arrays]],
  shard: int = 0,
  num_shards: int = 1,
) -> bool:
  """Makes the missing chunks and, if all chunks exist, the data set.

  Args:
    directory: directory of the data set. If another process creates it at the
      same time, that one is kept.
    description: JSON values that describe the data set.
    num_examples: number of examples of the data set.
    chunk_size: number of examples in a chunk. The last chunk is cut if it has
      too many.
    make_chunks: function that yields the chunks of the given numbers, counted
      from 0, in order.
    shard: which part of the chunks to make, counted from 0.
    num_shards: number of parts.

  Returns:
    Whether the data set exists. If not, chunks of other shards are missing.

  Raises:
    OSError: if the disk is full or cannot be written. Finished chunks stay.
    ValueError: if a chunk has too few examples, or is damaged.
  """
  partial = partial_directory(directory)
  num_chunks = -(-num_examples // chunk_size)

  def path(chunk):
    return partial / f"chunk-{chunk:06d}.npz"

  def size(chunk):
    return min(chunk_size, num_examples - chunk * chunk_size)

  own = range(
    num_chunks * shard // num_shards, num_chunks * (shard + 1) // num_shards
  )
  with _errors_of_the_disk(directory):
    partial.mkdir(parents=True, exist_ok=True)
  missing = [chunk for chunk in own if not path(chunk).exists()]
  with progress_bar(
    total=sum(map(size, own)),
    initial=sum(size(chunk) for chunk in own if chunk not in missing),
    desc="preparing the data",
    unit="example",
  ) as progress:
    # Without missing chunks, an original is not needed.
    made = make_chunks(missing) if missing else ()
    for chunk, arrays in zip(missing, made, strict=True):
      if len(arrays["images"]) < size(chunk):
        raise ValueError(
          f"chunk {chunk} of {directory.name} should have {size(chunk)}"
          f" examples, but its source gave {len(arrays['images'])}"
        )
      with _errors_of_the_disk(directory):
        _write_chunk(
          path(chunk),
          {name: array[: size(chunk)] for name, array in arrays.items()},
        )
      progress.update(size(chunk))
      if directory.exists():  # Another process has made it whole.
        return True
  chunks = [path(chunk) for chunk in range(num_chunks)]
  if all(chunk.exists() for chunk in chunks):
    with _errors_of_the_disk(directory):
      _merge(chunks, directory, description, num_examples)
    shutil.rmtree(partial, ignore_errors=True)
  return directory.exists()


def partial_directory(directory: Path) -> Path:
  """Returns the directory of the chunks of an unfinished data set."""
  return directory.with_name(f".{directory.name}-partial")


def read(directory: Path) -> Store:
  """Opens a data set and verifies its sizes and checksums.

  Raises:
    FileNotFoundError: if the data set does not exist.
    DamagedError: if the data set does not agree with its manifest.
  """
  try:
    manifest = json.loads((directory / "manifest.json").read_bytes())
  except FileNotFoundError:
    if directory.exists():
      raise DamagedError(directory, "manifest.json is missing") from None
    raise
  except ValueError as error:
    raise DamagedError(
      directory, f"manifest.json is not JSON ({error})"
    ) from error
  if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
    raise DamagedError(directory, f"its format is not {FORMAT}")
  try:
    arrays = {
      name: _read_array(directory, entry)
      for name, entry in manifest["arrays"].items()
    }
    return Store(manifest["description"], arrays)
  except (KeyError, TypeError, AttributeError) as error:
    raise DamagedError(
      directory, f"manifest.json is not complete ({error!r})"
    ) from error


@contextlib.contextmanager
def _errors_of_the_disk(directory):
  """Adds to an OSError what it means for the data set being written."""
  try:
    yield
  except OSError as error:
    if directory.exists():  # Another process made it and deleted the chunks.
      return
    raise OSError(
      f"the data set {directory} cannot be written ({error.strerror}). Its"
      f" finished chunks are kept in {partial_directory(directory)}. Make room"
      " and run the same command again, or choose another data.data_dir"
    ) from error


def _write_chunk(path, arrays):
  """Writes a chunk under another name and renames it when it is complete.

  The other name is random, since processes of two machines may have one id.
  """
  partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
  try:
    with partial.open("wb") as file:
      np.savez(file, **arrays)
      file.flush()
      os.fsync(file.fileno())
    partial.rename(path)
  finally:
    partial.unlink(missing_ok=True)


def _read_chunk(path):
  try:
    with np.load(path, allow_pickle=False) as chunk:
      return dict(chunk)  # Verifies the checksums of the zip file.
  except (zipfile.BadZipFile, ValueError, EOFError) as error:
    path.unlink()
    raise ValueError(
      f"the chunk {path} was damaged and has been deleted; the same command"
      " makes it again"
    ) from error


def _merge(chunks, directory, description, num_examples):
  """Writes the data set beside its chunks and renames it when complete."""
  with tempfile.TemporaryDirectory(
    dir=chunks[0].parent, ignore_cleanup_errors=True
  ) as temporary:
    merged = Path(temporary, directory.name)
    merged.mkdir()
    manifest = {
      "format": FORMAT,
      "description": description,
      "num_examples": num_examples,
      "arrays": _merge_arrays(chunks, merged, num_examples),
    }
    with (merged / "manifest.json").open("w") as file:
      json.dump(manifest, file, indent=2)
      file.flush()
      os.fsync(file.fileno())
    if not directory.exists():
      merged.rename(directory)


def _merge_arrays(chunks, directory, num_examples):
  """Appends the chunks to one file per array; returns their manifest."""
  files, hashes = {}, {}
  with contextlib.ExitStack() as stack:
    for chunk in map(_read_chunk, chunks):
      for name, array in chunk.items():
        if name not in files:
          path = directory / f"{name}.npy"
          # Writing to a memory map would end in a bus error if the disk is
          # full.
          files[name] = stack.enter_context(path.open("wb"))
          header = _npy_header(array.dtype, (num_examples, *array.shape[1:]))
          files[name].write(header)
          hashes[name] = hashlib.sha256(header)
        data = np.ascontiguousarray(array).data
        files[name].write(data)
        hashes[name].update(data)
    for file in files.values():
      file.flush()
      os.fsync(file.fileno())
  return {
    name: {
      "file": f"{name}.npy",
      "bytes": (directory / f"{name}.npy").stat().st_size,
      "sha256": digest.hexdigest(),
    }
    for name, digest in hashes.items()
  }


def _npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header,
    {
      "descr": np.lib.format.dtype_to_descr(dtype),
      "fortran_order": False,
      "shape": shape,
    },
  )
  return header.getvalue()


def _read_array(directory, entry):
  path = directory / entry["file"]
  try:
    size = path.stat().st_size
  except FileNotFoundError:
    raise DamagedError(directory, f"{path.name} is missing") from None
  if size != entry["bytes"]:
    raise DamagedError(
      directory, f"{path.name} has {size} bytes instead of {entry['bytes']}"
    )
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  if digest != entry["sha256"]:
    raise DamagedError(directory, f"the checksum of {path.name} is wrong")
  return np.load(path, mmap_mode="r", allow_pickle=False)
