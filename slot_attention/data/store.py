"""A prepared data set on disk: a manifest and one .npy file per array.

  DIRECTORY/manifest.json   what it is; files, sizes, checksums
  DIRECTORY/images.npy      uint8 [num_examples, H, W, C]
  DIRECTORY/segments.npy    uint8 [num_examples, H, W], 0 is background
  DIRECTORY/targets.npy     float32 [num_examples, M, P], where there are any

The directory appears whole or not at all. It is made in chunks, each a file of
its own that also appears whole, in the hidden directory .DIRECTORY-partial:
work that was stopped goes on with the first missing chunk, and processes or
machines can share the chunks. When the last one is there they are merged.
Nothing is pickled.
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
import zipfile

import numpy as np

from slot_attention.progress import progress_bar

FORMAT = 2
# Weights of red, green and blue (ITU-R BT.601).
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Store:
  """A prepared data set, opened.

  Attributes:
    directory: where it lies.
    description: what it was made from, as given to `write`.
    arrays: name to memory-mapped array, whose first axis counts the examples.
  """

  directory: Path
  description: dict
  arrays: Arrays


@dataclasses.dataclass(frozen=True)
class Split:
  """Some of the examples of a store, as a model sees them.

  Attributes:
    arrays: of the store.
    examples: int [n], which of them.
    grayscale: whether to give the images as their luminance, one channel.
  """

  arrays: Arrays
  examples: np.ndarray
  grayscale: bool = False

  def __len__(self) -> int:
    return len(self.examples)

  @property
  def num_objects(self) -> np.ndarray:
    """Objects in each image, int [n]; see `count_objects`."""
    return count_objects(self.arrays)[self.examples]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of the images."""
    height, width, channels = self.arrays["images"].shape[1:]
    return height, width, 1 if self.grayscale else channels

  def take(self, places: np.ndarray) -> Arrays:
    """Copies of the examples at some places of the split, int [n]."""
    taken = {
      name: array[self.examples[places]] for name, array in self.arrays.items()
    }
    if self.grayscale:
      gray = taken["images"] @ _LUMINANCE
      taken["images"] = np.rint(gray[..., None]).astype(np.uint8)
    return taken


def count_objects(arrays: Arrays) -> np.ndarray:
  """Objects in each image, also those hidden or cut off; int [num_examples].

  Without targets, those hidden behind everything else in an image whose last
  segment they would be are not known of.
  """
  if "targets" in arrays:
    return arrays["targets"][..., -1].sum(axis=1).astype(int)
  return arrays["segments"].max(axis=(1, 2)).astype(int)


class DamagedError(ValueError):
  """A prepared data set that is not what its manifest says."""

  def __init__(self, directory: Path, problem: str):
    super().__init__(
      f"the prepared data set {directory} is damaged: {problem}. Delete that"
      " folder; it is prepared again at the next start"
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
  """Makes the chunks that are missing and, when all are there, the data set.

  Args:
    directory: to be made. If another process makes it meanwhile, that one
      stays.
    description: JSON values that say what this is.
    num_examples: of the whole data set.
    chunk_size: examples in a chunk; the last one may be cut.
    make_chunks: yields the chunks of the given 0-based numbers, in order.
    shard: which part of the chunks to make, 0-based.
    num_shards: in how many parts they are made.

  Returns:
    Whether the data set is there. If not, chunks of other shards are missing.

  Raises:
    OSError: if the disk is full or cannot be written. Finished chunks stay.
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
    for chunk, arrays in zip(missing, make_chunks(missing), strict=True):
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
  chunks = [path(chunk) for chunk in range(num_chunks)]
  if all(chunk.exists() for chunk in chunks):
    with _errors_of_the_disk(directory):
      _merge(chunks, directory, description, num_examples)
    shutil.rmtree(partial, ignore_errors=True)
  return directory.exists()


def partial_directory(directory: Path) -> Path:
  """Where the chunks of an unfinished data set lie."""
  return directory.with_name(f".{directory.name}-partial")


def read(directory: Path) -> Store:
  """Opens a data set and verifies its sizes and checksums.

  Raises:
    FileNotFoundError: if there is no prepared data set.
    DamagedError: if it is not what was written.
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
    return Store(directory, manifest["description"], arrays)
  except (KeyError, TypeError, AttributeError) as error:
    raise DamagedError(
      directory, f"manifest.json is not complete ({error!r})"
    ) from error


@contextlib.contextmanager
def _errors_of_the_disk(directory):
  """Says what an OSError means for the data set that is being written."""
  try:
    yield
  except OSError as error:
    if directory.exists():  # Another process made it and took our chunks away.
      return
    raise OSError(
      f"the data set {directory} cannot be written ({error.strerror}); what is"
      f" finished of it stays in {partial_directory(directory)}. Make room and"
      " start again, or choose another data.data_dir"
    ) from error


def _write_chunk(path, arrays):
  """Writes a chunk under another name first, so that it appears whole."""
  partial = path.with_name(f".{path.name}-{os.getpid()}")
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
      f"the unfinished chunk {path} is damaged and was deleted; the same"
      " command prepares it again"
    ) from error


def _merge(chunks, directory, description, num_examples):
  """Writes the directory inside that of its chunks, and then renames it."""
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
  """Appends the chunks to one file per array; returns the manifest's entry."""
  files, hashes = {}, {}
  with contextlib.ExitStack() as stack:
    for chunk in map(_read_chunk, chunks):
      for name, array in chunk.items():
        if name not in files:
          path = directory / f"{name}.npy"
          # Plain writes, not a writable memory map, which a full disk kills
          # with a bus error.
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
