"""A prepared data set on disk: a manifest and one .npy file per array.

  DIRECTORY/manifest.json   what it is; splits, files, sizes, checksums
  DIRECTORY/images.npy      uint8 [num_examples, H, W, C]
  DIRECTORY/segments.npy    uint8 [num_examples, H, W], 0 is background
  DIRECTORY/targets.npy     float32 [num_examples, M, P], where there are any

A split is a range of examples: training examples first, then those for
evaluation.

The directory appears whole or not at all: it is written under another name and
renamed at the end. Nothing is pickled.
"""

from collections.abc import Iterable
import contextlib
import dataclasses
import hashlib
import io
import json
import os
from pathlib import Path
import tempfile

import numpy as np

from slot_attention.progress import progress_bar

FORMAT = 1
Split = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Store:
  """A prepared data set, opened.

  Attributes:
    directory: where it lies.
    description: what it was made from, as given to `write`.
    splits: split name to array name to memory-mapped array, whose first axis
      counts the examples.
  """

  directory: Path
  description: dict
  splits: dict[str, Split]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels."""
    return next(iter(self.splits.values()))["images"].shape[1:]


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
  splits: dict[str, int],
  chunks: Iterable[Split],
) -> None:
  """Writes a data set; the directory is there afterwards, or it is not.

  Args:
    directory: to be made. If another process makes it meanwhile, that one
      stays.
    description: JSON values that say what this is.
    splits: name to number of examples, in the order of the examples.
    chunks: the examples, arrays of equal first axis in each chunk.

  Raises:
    ValueError: if the chunks hold another number of examples than the splits.
    OSError: if the disk is full or cannot be written; nothing is left behind.
  """
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
      prefix=f".{directory.name}-partial-", dir=directory.parent
    ) as temporary:
      partial = Path(temporary, directory.name)
      partial.mkdir()
      manifest = {
        "format": FORMAT,
        "description": description,
        "splits": splits,
        "arrays": _write_arrays(partial, sum(splits.values()), chunks),
      }
      with (partial / "manifest.json").open("w") as file:
        json.dump(manifest, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
      if not directory.exists():
        partial.rename(directory)
  except OSError as error:
    raise OSError(
      f"the data set {directory} cannot be written ({error.strerror}); nothing"
      " is left of it. Make room, or choose another data.data_dir"
    ) from error


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
    splits, start = {}, 0
    for split, size in manifest["splits"].items():
      splits[split] = {
        name: array[start : start + size] for name, array in arrays.items()
      }
      start += size
    return Store(directory, manifest["description"], splits)
  except (KeyError, TypeError, AttributeError) as error:
    raise DamagedError(
      directory, f"manifest.json is not complete ({error!r})"
    ) from error


def _write_arrays(directory, num_examples, chunks):
  """Appends the chunks to one file per array; returns the manifest's entry."""
  files, hashes, num_written = {}, {}, 0
  with (
    contextlib.ExitStack() as stack,
    progress_bar(
      total=num_examples, desc="preparing the data", unit="example"
    ) as progress,
  ):
    for chunk in chunks:
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
      num_written += len(array)
      progress.update(len(array))
    for file in files.values():
      file.flush()
      os.fsync(file.fileno())
  if num_written != num_examples:
    raise ValueError(
      f"the data set should have {num_examples} examples, but its source gave"
      f" {num_written}"
    )
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
