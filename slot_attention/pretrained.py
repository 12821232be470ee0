r"""Loads, lists and adds weights that come with the package.

  from slot_attention import pretrained
  run = pretrained.load("quickstart")

The folder slot_attention/weights/NAME has four files:

  config.json    the config of the run
  params.npz     the parameters, by name
  examples.npz   the first images that the run was evaluated on
  card.json      where the weights come from, and what they reach

Nothing is pickled. The first command lists the weights, the second adds some:

  python -m slot_attention.pretrained
  python -m slot_attention.pretrained --export=NAME --workdir=runs/NAME \
    --command="python main.py --config=configs/NAME.py" \
    --hardware="2 CPU cores, 4 minutes" --date=2026-11-22
"""

from collections.abc import Sequence
import datetime
from pathlib import Path
import platform
from typing import Any

import flax
from flax import traverse_util
import jax
import numpy as np

from slot_attention import command, files, parallel, tasks, validation
from slot_attention.checks import check_choice
from slot_attention.data import loading
from slot_attention.training import evaluate, initial, runs

WEIGHTS = initial.WEIGHTS
DTYPES = ("float32", "float16")
_NUM_EXAMPLES = 16
# A file stays in the repository's history for ever, so it must be small.
_MAX_BYTES = 2_000_000


def names() -> list[str]:
  """Returns the names of all weights in the package."""
  return initial.names(WEIGHTS)


def load(name: str) -> runs.Run:
  """Loads weights as `runs.load` loads a run.

  Raises:
    ValueError: if no weights have this name, or if they are damaged.
  """
  folder = _folder(name)
  config = runs.load_config(folder)
  params = initial.read_weights(folder)
  step = load_card(name)["training"]["steps"]
  return runs.Run(config, tasks.make_task(config), params, step)


def load_any(workdir: str | None, name: str | None) -> runs.Run:
  """Loads a run, or weights, of a model that takes single images.

  Args:
    workdir: folder of a run.
    name: of weights, if there is no folder.

  Raises:
    ValueError: if there are none, or if the model takes videos.
  """
  run = runs.load(workdir) if workdir else load(name)
  if run.task.takes_videos:
    raise ValueError(
      f"{workdir or name} takes videos, and this command single images; main.py"
      " with --mode=eval draws what a run sees in videos"
    )
  return run


def load_examples(name: str) -> dict[str, np.ndarray]:
  """Loads images that the weights were not trained on.

  Returns:
    A batch for `tasks.normalize`: images, uint8 [B, H, W, C]; segments and
    targets where the data has them; example_ids, int32 [B].

  Raises:
    ValueError: if no weights have this name, or if the examples are damaged.
  """
  examples = files.read_arrays(_folder(name) / "examples.npz")
  ids = np.arange(len(examples["images"]), dtype=np.int32)
  return {**examples, "example_ids": ids}


def load_card(name: str) -> dict[str, Any]:
  """Loads the model card: where weights come from, and what they reach.

  Raises:
    ValueError: if no weights have this name, or if the card is damaged.
  """
  return files.read_json(_folder(name) / "card.json")


def export(
  workdir: Path,
  folder: Path,
  *,
  trained_by: str,
  hardware: str,
  date: str,
  dtype: str = "float32",
) -> dict[str, Any]:
  """Writes the weights of a run, and evaluates what was written.

  Args:
    workdir: folder of the run.
    folder: where to write; its name is the name of the weights.
    trained_by: the command that trained the run.
    hardware: what the run was trained on, and for how long.
    date: when the run was trained, as YYYY-MM-DD.
    dtype: how the parameters are stored: "float32" or "float16".

  Returns:
    The model card.

  Raises:
    ValueError: if there is no run, if there are weights in the folder, if the
      devices cannot share the run's eval_batch_size, or if the file of the
      parameters is larger than 2 MB.
  """
  check_choice("dtype", dtype, DTYPES)
  try:
    datetime.date.fromisoformat(date)
  except ValueError as error:
    raise ValueError(f"date={date!r} is not a date as YYYY-MM-DD") from error
  if (folder / "card.json").exists():
    raise ValueError(
      f"{folder} has weights already: choose another name, or delete them"
    )
  run = runs.load(workdir)
  validation.checked(run.config, num_devices=parallel.num_devices())
  data = loading.load(run.config.data)
  split = data.splits["eval"]
  folder.mkdir(parents=True, exist_ok=True)
  runs.save_config(folder, run.config)
  params = _write_params(folder / "params.npz", run.params, dtype)
  examples = split.take(np.arange(min(_NUM_EXAMPLES, len(split))))
  np.savez_compressed(folder / "examples.npz", **examples)
  card = {
    "name": folder.name,
    "task": run.config.task,
    "parameters": sum(x.size for x in jax.tree.leaves(params)),
    "stored_as": dtype,
    "training": {
      "command": trained_by,
      "hardware": hardware,
      "date": date,
      "seed": run.config.seed,
      "steps": run.step,
      "examples": len(data.splits["train"]),
    },
    "evaluation": {
      "of": "the stored parameters, on the examples right after the training's",
      "examples": len(split),
      "num_slots": tasks.slots_section(run.config).num_slots,
      "metrics": _evaluate(run, params, split),
      "date": datetime.date.today().isoformat(),
      "versions": {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
      },
    },
    "data": data.description,
  }
  files.write_json(folder / "card.json", card)
  return card


def _write_params(path, params, dtype):
  """Writes parameters as a type, and returns what was written."""
  stored = jax.tree.map(lambda x: np.asarray(x, dtype), params)
  np.savez_compressed(path, **traverse_util.flatten_dict(stored, sep="/"))
  size = path.stat().st_size
  if size > _MAX_BYTES:
    path.unlink()
    raise ValueError(
      f"{path} would have {size:,} bytes, more than {_MAX_BYTES:,}; try"
      " --dtype=float16"
    )
  return stored


def _evaluate(run, params, split):
  """Returns the metrics of parameters of any type on a split."""
  run_evaluation = evaluate.make_evaluator(
    run.task,
    split,
    batch_size=run.config.eval_batch_size,
    placement=run.config.data_placement,
  )
  params = jax.tree.map(lambda x: x.astype(np.float32), params)
  return run_evaluation(parallel.replicate(params))


def _folder(name):
  if name not in names():
    raise ValueError(
      f"there are no weights called {name!r}: the names are"
      f" {', '.join(names())}"
    )
  return WEIGHTS / name


def _print(card):
  print(
    f"{card['name']}: {card['task']}, {card['parameters']:,} parameters,"
    f" {card['training']['steps']:,} steps"
  )
  for metric, value in card["evaluation"]["metrics"].items():
    print(f"  {metric:<12} {value:.4f}")


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = command.Flags(__doc__)
  flags.define_string(
    "export", None, "Name of the weights to write; without it, list them."
  )
  flags.define_string("workdir", None, "Folder of the run to export.")
  flags.define_string("command", None, "The command that trained it.")
  flags.define_string(
    "hardware", None, "What it was trained on, and for how long."
  )
  flags.define_string("date", None, "When it was trained, as YYYY-MM-DD.")
  flags.define_choice(
    "dtype", "float32", DTYPES, "How to store it; float16 is half as large."
  )
  flags.define_string(
    "to",
    str(WEIGHTS),
    "Folder of all weights. Only those in the default folder have a name for"
    " --pretrained.",
  )
  flags.parse(arguments)
  if flags.export is None:
    for name in ("workdir", "command", "hardware", "date", "dtype", "to"):
      if flags[name].present:
        raise command.UsageError(f"--{name} is for --export=NAME")
    for name in names():
      _print(load_card(name))
    return
  needed = ("workdir", "command", "hardware", "date")
  missing = [f"--{name}" for name in needed if not flags[name].value]
  if missing:
    raise command.UsageError(f"--export also needs {', '.join(missing)}")
  card = export(
    Path(flags.workdir),
    Path(flags.to, flags.export),
    trained_by=flags.command,
    hardware=flags.hardware,
    date=flags.date,
    dtype=flags.dtype,
  )
  _print(card)


if __name__ == "__main__":
  command.run(main)
