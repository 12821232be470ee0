"""Prepares a data set beforehand, lists what there is, or verifies it.

  python -m slot_attention.data.prepare clevr_with_masks --num_examples=71000
  python -m slot_attention.data.prepare --config=configs/quickstart.py
  python -m slot_attention.data.prepare clevr --shard=3/16
  python -m slot_attention.data.prepare --list
  python -m slot_attention.data.prepare --check

Training prepares its data by itself, so this command is only needed to do it
beforehand. If a preparation is stopped, the same command goes on from there.

Several processes or machines can share the work: --shard=3/16 does the fourth
of 16 parts. The parts may run at once on a shared folder. With separate
folders, copy their .NAME-partial folders into one afterwards, and run any part
again. The part that finds all chunks complete makes the data set.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slot_attention import command, visualization
from slot_attention.data import (
  datasets,
  image_files,
  loading,
  multi_object_records,
  store,
)

# Examples in a picture.
_EXAMPLES_PER_PICTURE = 10


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = command.Flags(__doc__, arguments="NAME")
  flags.define_config(arguments, "Prepare what this experiment needs.")
  flags.define_bool("list", False, "List the data sets and end.")
  flags.define_bool("check", False, "Verify every prepared data set and end.")
  flags.define_choice(
    "source", "procedural", datasets.SOURCES, "Draw the data, or read it."
  )
  flags.define_string(
    "path",
    "",
    "The original: a TFRecord file, or a folder of CLEVR or of images. Without"
    " it TFRecords are downloaded, and CLEVR is that of tensorflow-datasets.",
  )
  flags.define_string("data_dir", "data", "Folder of the prepared data sets.")
  flags.define_integer(
    "num_examples",
    None,
    "How many; default: what the paper needs, or all images of a folder.",
    minimum=1,
  )
  flags.define_integer("seed", 0, "Of a procedural data set.", minimum=0)
  flags.define_string("shard", "0/1", "Do part I of N parts of the work: I/N.")
  names = flags.parse(arguments)
  if flags.config is not None:
    _check_no_flag_of_config(flags)
  if flags.list or flags.check:
    if names:
      raise command.UsageError("--list and --check are of all data sets")
    data = flags if flags.config is None else flags.config.data
    look = _list if flags.list else _check
    look(data.data_dir)
  elif flags.config is not None and not names:
    _prepare_for_config(flags)
  elif flags.config is None and names in [[x] for x in datasets.DATA_SETS]:
    _prepare_by_name(names[0], flags)
  else:
    raise command.UsageError(
      "give --config, or --list, or --check, or the name of one data set:"
      f" {', '.join(datasets.DATA_SETS)}"
    )


def _list(data_dir):
  for name, data_set in datasets.DATA_SETS.items():
    sources = []
    if data_set.generate is not None:
      sources.append("procedural")
    if name in multi_object_records.FORMATS:
      records = multi_object_records.FORMATS[name]
      sources.append(
        f"original ({records.num_examples:,} examples, {records.gigabytes:g}"
        " GB to download)"
      )
    elif name == "clevr":
      sources.append("original (tensorflow-datasets, or --path)")
    elif name == "image_folder":
      sources.append("original (--path)")
    print(f"{name}: {', '.join(sources)}")
    for count, directory in loading.prepared_sets(data_dir, f"{name}-"):
      size = sum(file.stat().st_size for file in directory.iterdir())
      print(f"  {directory}: {count:,} examples, {size / 1e6:,.0f} MB")


def _check(data_dir):
  damaged = 0
  found = [directory for _, directory in loading.prepared_sets(data_dir)]
  if not found:
    raise ValueError(f"there is no prepared data set in {data_dir}")
  for directory in found:
    try:
      store.read(directory)
      print(f"{directory}: ok")
    except store.DamagedError as error:
      damaged += 1
      print(error)
  if damaged:
    raise ValueError(f"{damaged} data set(s) in {data_dir} are damaged")


def _check_no_flag_of_config(flags):
  """Raises a UsageError for a flag that --config would override."""
  fields = {
    "source": "source",
    "path": "path",
    "data_dir": "data_dir",
    "num_examples": "num_examples",
    "seed": "procedural.seed",
  }
  for name, field in fields.items():
    if flags[name].present:
      raise command.UsageError(
        f"--{name} is for a data set that is given by its name: with --config,"
        f" give --config.data.{field}"
      )


def _check_no_flag_of_other_source(flags):
  """Raises a UsageError for a flag that --source excludes."""
  name, source = {
    "procedural": ("path", "original"),
    "original": ("seed", "procedural"),
  }[flags.source]
  if flags[name].present:
    raise command.UsageError(
      f"--{name} has no effect with --source={flags.source}: give"
      f" --source={source}"
    )


def _prepare_for_config(flags):
  data = flags.config.data
  datasets.check_data(data)
  directory = loading.prepare(data, **_shard(flags.shard))
  if directory is not None:
    loading.load(data)  # Logs the splits, or raises if there is too little.
  _report(directory, data.num_train)


def _prepare_by_name(name, flags):
  _check_no_flag_of_other_source(flags)
  data_set = datasets.DATA_SETS[name]
  num_examples = data_set.num_examples
  if name == "image_folder" and flags.path:
    num_examples = image_files.count(Path(flags.path))
  data = {
    "name": name,
    "source": flags.source,
    "path": flags.path,
    "data_dir": flags.data_dir,
    "num_examples": flags.num_examples or num_examples,
    "preprocessing": data_set.preprocessing,
    "procedural": {"seed": flags.seed},
  }
  datasets.check_prepared(data)
  directory = loading.prepare(data, **_shard(flags.shard))
  _report(directory, data_set.num_train)


def _shard(text):
  shard, _, num_shards = text.partition("/")
  if not (shard.isdecimal() and num_shards.isdecimal()) or not (
    int(shard) < int(num_shards)
  ):
    raise command.UsageError(
      f"--shard={text} must be like 3/16, from 0/16 to 15/16"
    )
  return {"shard": int(shard), "num_shards": int(num_shards)}


def _report(directory, num_train):
  if directory is None:
    print("This part is done. The last part makes the data set.")
    return
  arrays = store.read(directory).arrays
  print(f"{directory}:")
  for name, array in arrays.items():
    print(f"  {name:<9} {array.dtype} {array.shape}, {array.nbytes:,} bytes")
  num_objects = store.count_objects(arrays)
  parts = num_objects[:num_train], num_objects[num_train:]
  num_counts = num_objects.max(initial=0) + 1
  train, rest = (np.bincount(part, minlength=num_counts) for part in parts)
  print(
    f"  objects  first {len(parts[0]):,} (training)  {len(parts[1]):,} after"
  )
  for count in np.flatnonzero(train + rest):
    print(f"  {count:>7}  {train[count]:>22,}  {rest[count]:>10,}")
  picture = directory / "examples.png"
  segments = (
    arrays["segments"][:_EXAMPLES_PER_PICTURE] if "segments" in arrays else None
  )
  visualization.draw_examples(
    picture, arrays["images"][:_EXAMPLES_PER_PICTURE], segments
  )
  print(f"  {picture}")
  if segments is None:
    print("  The data has no masks, so no adjusted Rand index can be measured.")


if __name__ == "__main__":
  command.run(main)
