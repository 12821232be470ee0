"""Draws the paper's pictures of slots and attention for any run.

  python -m slot_attention.paper.figures --workdir=runs/quickstart
  python -m slot_attention.paper.figures --pretrained=quickstart --to=figures

For object discovery, it draws the pictures for which the model has outputs:
  figure_3a.png   image, reconstruction, masks and slots
  figure_3b.png   attention of each iteration
  figure_3c.png   reconstruction, masks and slots after each iteration
  figure_4.png    slots without their masks
  figure_20.png   as 3a, with four more slots and five iterations; of a run,
                  for the evaluation examples with most objects
For set prediction it draws
  table_2.png     true objects and predictions after each iteration
  figure_6.png    attention of the last iteration
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from slot_attention import command, pretrained, tasks, visualization
from slot_attention.data import clevr, datasets, loading
from slot_attention.training import evaluate, runs

# Figure 20 has 11 slots instead of 7, and five iterations. N-EM has more.
_MORE_SLOTS = 4
_MORE_ITERATIONS = 5


def draw(
  run: runs.Run,
  batch: dict[str, Any],
  folder: Path,
  *,
  num_slots: int | None = None,
  num_iterations: int | None = None,
) -> list[Path]:
  """Draws all figures of a run except Figure 20.

  Args:
    run: a run with any model, but not of set prediction with the Slot MLP.
    batch: a normalised batch. Set prediction needs its targets.
    folder: folder to write to.
    num_slots: number of slots K; None takes the run's.
    num_iterations: number of iterations T; None takes the run's.

  Returns:
    The paths of the PNG files.
  """
  images = batch["images"]
  apply = evaluate.make_apply(
    run, num_slots=num_slots, num_iterations=num_iterations
  )
  outputs = apply(batch)
  if "predictions" in outputs:
    paths = [folder / "table_2.png"]
    visualization.draw_predictions(
      paths[0],
      images,
      batch["targets"],
      outputs["predictions_per_iteration"],
      clevr.PROPERTIES,
    )
    if "attn" in outputs:
      paths.append(folder / "figure_6.png")
      attn = outputs["attn"]
      visualization.draw_attention(paths[1], images, attn, [attn.shape[1]])
    return paths
  paths = []

  def place(name):
    paths.append(folder / f"figure_{name}.png")
    return paths[-1]

  visualization.draw_slots(place("3a"), images, outputs)
  if "attn" in outputs:
    visualization.draw_attention(place("3b"), images, outputs["attn"])
  if "slots_per_iteration" in outputs:
    visualization.draw_iterations(place("3c"), images, decode(run, outputs))
  visualization.draw_slots(place("4"), images, outputs, use_masks=False)
  return paths


def decode(
  run: runs.Run, outputs: dict[str, jax.Array]
) -> list[dict[str, jax.Array]]:
  """Decodes the slots after each iteration of object discovery.

  Args:
    run: a run of object discovery, of a model with iterations.
    outputs: outputs of `run.task.apply`.

  Returns:
    For each of the T iterations, the outputs of the model's `decode`.
  """
  decode = jax.jit(lambda slots: run.task.decode(run.params, slots))
  slots = outputs["slots_per_iteration"]
  return [decode(slots[:, t]) for t in range(1, slots.shape[1])]


def draw_more(run: runs.Run, batch: dict[str, Any], folder: Path) -> list[Path]:
  """Draws Figure 20: more objects, slots and iterations than in training.

  Unlike here, the paper's model was trained with the eleven slots as well.

  Args:
    run: a run of object discovery.
    batch: a normalised batch.
    folder: folder to write to.

  Returns:
    The path of the PNG file, in a list.
  """
  section = tasks.slots_section(run.config)
  num_iterations = None
  if "num_iterations" in section:
    num_iterations = max(_MORE_ITERATIONS, section.num_iterations)
  apply = evaluate.make_apply(
    run,
    num_slots=section.num_slots + _MORE_SLOTS,
    num_iterations=num_iterations,
  )
  outputs = apply(batch)
  path = folder / "figure_20.png"
  visualization.draw_slots(path, batch["images"], outputs)
  return [path]


def _examples(run, count, *, more=False):
  """Loads the first evaluation examples of a run.

  If `more` is True, it loads those with most objects, also with more than
  `data.max_objects` of the run.
  """
  data = run.config.data.copy_and_resolve_references()
  if more:
    most = datasets.DATA_SETS[data.name].max_objects
    data.max_objects = max(data.max_objects, most)
  split = loading.load(data).splits["eval"]
  places = np.arange(len(split))
  if more:
    places = np.argsort(-split.num_objects, kind="stable")
  places = places[:count]
  return {**split.take(places), "example_ids": places.astype(np.int32)}


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = command.Flags(__doc__)
  flags.define_run()
  flags.define_string(
    "to", None, "Folder to write to. Default: WORKDIR/figures, or figures."
  )
  flags.define_integer(
    "num_images", 3, "Number of images in each picture.", minimum=1
  )
  flags.define_slots_and_iterations()
  flags.parse(arguments)

  run = pretrained.load_any(flags.workdir, flags.pretrained)
  folder = Path(flags.to or Path(flags.workdir or "", "figures"))
  datasets.check_outside(run.config.data, "--to", str(folder))
  if run.task.num_outputs and "slot_mlp" in run.config.model:
    raise ValueError(
      "the Slot MLP has no iterations and no attention, so it has neither"
      " Table 2 nor Figure 6"
    )
  if flags.workdir:
    examples = _examples(run, flags.num_images)
  else:
    all_examples = pretrained.load_examples(flags.pretrained)
    examples = {k: v[: flags.num_images] for k, v in all_examples.items()}
  folder.mkdir(parents=True, exist_ok=True)
  paths = draw(
    run,
    tasks.normalize(examples),
    folder,
    num_slots=flags.num_slots,
    num_iterations=flags.num_iterations,
  )
  if run.task.image_shape and run.task.slots_can_grow:
    if flags.workdir:
      examples = _examples(run, flags.num_images, more=True)
    paths += draw_more(run, tasks.normalize(examples), folder)
  for path in paths:
    print(path)


if __name__ == "__main__":
  command.run(main)
