"""The paper's tables and figures as runs: config, changes, the paper's numbers.

`reproduce.py` trains, evaluates and draws them.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from ml_collections import ConfigDict

import configs

TETROMINOES = "tetrominoes_object_discovery"
MULTI_DSPRITES = "multi_dsprites_object_discovery"
BINARIZED = "multi_dsprites_binarized_object_discovery"
CLEVR6 = "clevr6_object_discovery"
GRAYSCALE = "clevr6_grayscale_object_discovery"
CLEVR10_SETS = "clevr_set_prediction"
CLEVR6_SETS = "clevr6_set_prediction"

SCALES = ("smoke", "small", "paper")
# What stands for a config of the paper at the small scale.
_SMALL = {
  CLEVR6: "quickstart",
  TETROMINOES: "quickstart",
  CLEVR10_SETS: "clevr_set_prediction_small",
}

# The value of a field, or what makes it from the config's own.
Change = Any | Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Row:
  """One model of a table or figure, trained with several seeds.

  Attributes:
    label: what is different about it.
    config: name of a config.
    changes: fields of the config that this run changes, by dotted name.
    evaluation: fields that only its evaluation changes.
    paper: metric to the paper's number, in percent.
    direction: a key of `DIRECTIONS`, "not stated", or "" for no variant.
  """

  label: str
  config: str = CLEVR6
  changes: Mapping[str, Change] = dataclasses.field(default_factory=dict)
  evaluation: Mapping[str, Change] = dataclasses.field(default_factory=dict)
  paper: Mapping[str, str] = dataclasses.field(default_factory=dict)
  direction: str = ""


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A table, or a figure of bars or of curves.

  Attributes:
    title: what it shows.
    rows: its models.
    sweep: for curves, a sweep of `evaluate.sweep_run`; "" for bars.
    others: numbers of the paper for models that are not of this project.
    place: where the paper has it.
    see: another experiment that has some or all of its rows, or "".
  """

  title: str
  rows: tuple[Row, ...]
  sweep: str = ""
  others: Mapping[str, Mapping[str, str]] = dataclasses.field(
    default_factory=dict
  )
  place: str = ""
  see: str = ""


# What the paper's text says of a variant beside its default, as the sign of the
# difference in foreground ARI.
DIRECTIONS = {"worse": -1, "slightly worse": -1, "equal": 0}


def _add(number):
  return lambda value: value + number


def _times(number):
  return lambda value: value * number


def _aps(*values: str) -> dict[str, str]:
  names = ("ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125")
  return {name: value for name, value in zip(names, values) if value}


_MODULE = "model.slot_attention"
_TABLE3 = Experiment(
  "Average precision on CLEVR10 at distance thresholds",
  (
    Row(
      "Slot Attention",
      CLEVR10_SETS,
      paper=_aps("94.3", "86.7 ± 1.4", "56.0 ± 3.6", "10.8 ± 1.7", "0.9 ± 0.2"),
    ),
    Row(
      "Slot MLP",
      f"slot_mlp:{CLEVR10_SETS}",
      paper=_aps("19.8 ± 1.6", "", "0.3 ± 0.2", "0.0 ± 0.0", "0.0 ± 0.0"),
    ),
  ),
  others={
    "DSPN T=30": _aps("", "81.1", "47.4", "10.8", "0.6"),
    "DSPN T=10": _aps(
      "72.8 ± 2.3", "", "39.0 ± 4.4", "12.4 ± 2.5", "1.3 ± 0.4"
    ),
  },
  place="Table 3",
)

# Appendix B: what each figure changes, what its text says of the variant for
# object discovery, and how it is made.
_VARIANTS: dict[str, tuple[str, dict[str, tuple[str, dict[str, Change]]]]] = {
  "figure7": (
    "Aggregation",
    {
      "weighted sum": ("worse", {f"{_MODULE}.aggregation": "weighted_sum"}),
      "weighted sum, layer norm": (
        "equal",
        {f"{_MODULE}.aggregation": "weighted_sum_layer_norm"},
      ),
    },
  ),
  "figure8": (
    "Position embedding",
    {"none": ("worse", {"model.encoder.use_position_embedding": False})},
  ),
  "figure9": (
    "Initial slots",
    {"per slot": ("worse", {f"{_MODULE}.slot_init": "per_slot"})},
  ),
  "figure10": (
    "Softmax axis",
    {
      "inputs": (
        "worse",
        {
          f"{_MODULE}.softmax_axis": "inputs",
          f"{_MODULE}.aggregation": "weighted_sum",
        },
      )
    },
  ),
  "figure11": (
    "Update function",
    {"no GRU": ("worse", {f"{_MODULE}.update": "none"})},
  ),
  "figure12": (
    "Iterations in training (default: 3)",
    {
      f"T = {t}": (direction, {f"{_MODULE}.num_iterations": t})
      for t, direction in (
        (1, "worse"),
        (2, "not stated"),
        (4, "worse"),
        (5, "worse"),
      )
    },
  ),
  "figure13": (
    "Layer normalisation",
    {"none": ("worse", {f"{_MODULE}.use_layer_norm": False})},
  ),
  "figure14": (
    "Residual MLP",
    {"none": ("slightly worse", {f"{_MODULE}.mlp_hidden_size": 0})},
  ),
  "figure15": (
    "Softmax temperature",
    {"1": ("worse", {f"{_MODULE}.temperature": "one"})},
  ),
  "figure16": (
    "Place of epsilon",
    {"denominator": ("equal", {f"{_MODULE}.epsilon_place": "denominator"})},
  ),
  "figure17": (
    "Decay of the learning rate",
    {"none": ("worse", {"decay_rate": 1.0})},
  ),
  "figure18": ("Warm-up", {"none": ("worse", {"warmup_steps": 0})}),
  "figure19": (
    "Slots in training",
    {"4 more": ("slightly worse", {f"{_MODULE}.num_slots": _add(4)})},
  ),
}

_SOFT_K_MEANS = {
  # Inputs are compared with slots directly: they need their size.
  "model.encoder.mlp_size": 64,
  f"{_MODULE}.update": "none",
  f"{_MODULE}.mlp_hidden_size": 0,
  f"{_MODULE}.use_layer_norm": False,
  f"{_MODULE}.use_projections": False,
}


def _ablation(figure: str) -> Experiment:
  """The default and the variants of a figure, for both tasks."""
  title, variants = _VARIANTS[figure]
  # More slots than CLEVR10 has objects would need more objects.
  sets = CLEVR6_SETS if figure == "figure19" else CLEVR10_SETS
  rows = []
  for config in (CLEVR6, sets):
    rows.append(Row("default", config))
    for label, (direction, changes) in variants.items():
      said = direction if config == CLEVR6 else ""
      rows.append(Row(label, config, changes, direction=said))
  return Experiment(
    title,
    tuple(rows),
    place=figure.replace("figure", "Figure "),
    see="ablations",
  )


def _all_ablations() -> Experiment:
  """The variants of all figures beside one default, for object discovery."""
  rows = [Row("default", CLEVR6)]
  for title, variants in _VARIANTS.values():
    title = title.partition(" (")[0]
    rows += [
      Row(f"{title}: {label}", CLEVR6, changes, direction=direction)
      for label, (direction, changes) in variants.items()
    ]
  rows.append(Row("Soft k-means", CLEVR6, _SOFT_K_MEANS, direction="worse"))
  return Experiment(
    "Ablations of object discovery", tuple(rows), place="Figures 7 to 19"
  )


_TETROMINOES_PAPER = {"fg_ari": "99.5 ± 0.2 (4 of 5 seeds)"}

EXPERIMENTS = {
  "table1": Experiment(
    "Foreground ARI of object discovery",
    (
      Row("Slot Attention, CLEVR6", CLEVR6, paper={"fg_ari": "98.8 ± 0.3"}),
      Row(
        "Slot Attention, Multi-dSprites",
        MULTI_DSPRITES,
        paper={"fg_ari": "91.3 ± 0.3"},
      ),
      Row(
        "Slot Attention, Tetrominoes",
        TETROMINOES,
        paper=_TETROMINOES_PAPER,
      ),
      Row(
        "Slot MLP, CLEVR6",
        f"slot_mlp:{CLEVR6}",
        paper={"fg_ari": "60.4 ± 6.6"},
      ),
      Row(
        "Slot MLP, Multi-dSprites",
        f"slot_mlp:{MULTI_DSPRITES}",
        paper={"fg_ari": "60.3 ± 1.8"},
      ),
      Row(
        "Slot MLP, Tetrominoes",
        f"slot_mlp:{TETROMINOES}",
        paper={"fg_ari": "25.1 ± 34.3"},
      ),
    ),
    others={
      "IODINE, CLEVR6": {"fg_ari": "98.8 ± 0.0"},
      "IODINE, Multi-dSprites": {"fg_ari": "76.7 ± 5.6"},
      "IODINE, Tetrominoes": {"fg_ari": "99.2 ± 0.4"},
      "MONet, CLEVR6": {"fg_ari": "96.2 ± 0.6"},
      "MONet, Multi-dSprites": {"fg_ari": "90.4 ± 0.8"},
    },
    place="Table 1",
  ),
  "stripes": Experiment(
    "What keeps Tetrominoes from stripes",
    (
      Row(
        "no clipping (the paper's)",
        TETROMINOES,
        {"max_grad_norm": 0.0},
        paper=_TETROMINOES_PAPER,
      ),
      Row("clipping 1", TETROMINOES, {"max_grad_norm": 1.0}),
      Row("warm-up 3 times as long", TETROMINOES, {"warmup_steps": _times(3)}),
      Row("half learning rate", TETROMINOES, {"learning_rate": _times(0.5)}),
      Row(
        "initial slots per slot",
        TETROMINOES,
        {f"{_MODULE}.slot_init": "per_slot"},
      ),
      Row("T = 5", TETROMINOES, {f"{_MODULE}.num_iterations": 5}),
    ),
    place="Section 4.1",
  ),
  "figure2": Experiment(
    "More iterations at test time",
    (
      Row("CLEVR6, K = 7", CLEVR6),
      Row(
        "CLEVR10, K = 11",
        CLEVR6,
        evaluation={
          "data.max_objects": 10,
          f"{_MODULE}.num_slots": _add(4),
        },
      ),
    ),
    sweep="iterations",
    place="Figure 2",
  ),
  "table3": _TABLE3,
  "figure5_left": dataclasses.replace(
    _TABLE3, place="Figure 5, left", see="table3"
  ),
  "figure5_center": Experiment(
    "More iterations at test time, CLEVR10",
    (Row("Slot Attention", CLEVR10_SETS),),
    sweep="iterations",
    place="Figure 5, centre",
  ),
  "figure5_right": Experiment(
    "Trained on CLEVR6, tested on N = K objects",
    (Row("Slot Attention", CLEVR6_SETS, evaluation={"data.max_objects": 10}),),
    sweep="slots",
    place="Figure 5, right",
  ),
  **{name: _ablation(name) for name in _VARIANTS},
  "ablations": _all_ablations(),
  "figure21_22": Experiment(
    "Average precision by number of objects",
    (Row("Slot Attention", CLEVR10_SETS),),
    sweep="objects",
    place="Figures 21 and 22",
  ),
  "figure23": Experiment(
    "Loss at every iteration, and scale of the coordinates",
    tuple(
      Row(
        f"{'every iteration' if every else 'last iteration'}, scale {scale:g}",
        CLEVR10_SETS,
        {
          "loss.use_all_iterations": every,
          "loss.coordinate_scale": scale,
        },
      )
      for every in (False, True)
      for scale in (1.0, 2.0, 5.0, 10.0)
    ),
    place="Figure 23",
  ),
  "greyscale": Experiment(
    "CLEVR6 without colours",
    (Row("Slot Attention", GRAYSCALE, paper={"fg_ari": "98.5 ± 0.3"}),),
    place="Figure 4, its number",
  ),
  "binarized": Experiment(
    "Binarized Multi-dSprites, K = 4",
    (Row("Slot Attention", BINARIZED, paper={"fg_ari": "69.4 ± 0.9"}),),
    others={
      "IODINE": {"fg_ari": "64.8 ± 17.2"},
      "R-NEM": {"fg_ari": "68.5 ± 1.7"},
    },
    place="Section 4.1",
  ),
  "soft_kmeans": Experiment(
    "Soft k-means in the place of Slot Attention",
    (
      Row("default", CLEVR6, paper={"fg_ari": "98.8 ± 0.3"}),
      Row(
        "Soft k-means",
        CLEVR6,
        _SOFT_K_MEANS,
        paper={"fg_ari": "75.5 ± 3.8"},
        direction="worse",
      ),
    ),
    place="Appendix B",
    see="ablations",
  ),
  "attention_ari": Experiment(
    "ARI of the attention of set prediction, CLEVR10",
    (
      Row(
        "Slot Attention",
        CLEVR10_SETS,
        evaluation={"data.name": "clevr_with_masks"},
        paper={"attn_ari": "78.0 ± 2.9"},
      ),
    ),
    place="Section 4.2",
  ),
}

# What `figures.py` draws of any run: where the paper has it, what it shows, and
# the picture of a smaller run, from the folder of the results, or "".
PICTURES = (
  ("Figure 3", "Slots, attention, iterations", "../docs/quickstart_slots.png"),
  ("Figure 4", "Slots of greyscale CLEVR6 without their masks", ""),
  ("Figure 6", "Attention of set prediction", ""),
  ("Figure 20", "Slots of more objects, with more slots", ""),
  (
    "Table 2",
    "Predictions after each iteration",
    "../docs/clevr_set_prediction_small.png",
  ),
)


def config_name(name: str, scale: str) -> str | None:
  """The config that stands for one of the paper at a scale, or None."""
  if scale == "paper":
    return name
  if scale == "smoke":
    return f"smoke:{name}"
  prefix, _, plain = name.rpartition(":")
  if plain not in _SMALL:
    return None
  return f"{prefix}:{_SMALL[plain]}" if prefix else _SMALL[plain]


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
  """A copy of a config with some fields changed, see `Row`."""
  config = config.copy_and_resolve_references()
  for field, change in changes.items():
    *sections, name = field.split(".")
    section = config
    for part in sections:
      section = section[part]
    section[name] = change(section[name]) if callable(change) else change
  return config


def rows_at(experiment: Experiment, scale: str) -> list[Row]:
  """The rows that exist at a scale, with what they change there.

  Of rows that become one and the same run, the last one stands.
  """
  rows = {}
  for row in experiment.rows:
    if (name := config_name(row.config, scale)) is not None:
      before = configs.load(name)
      values = {
        field: value
        for field, value in changed_values(row, scale).items()
        if value != value_of(before, field)
      }
      changes = {field: row.changes[field] for field in values}
      run = (name, *sorted(values.items()), *row.evaluation)
      rows[run] = dataclasses.replace(row, changes=changes)
  return list(rows.values())


def changed_values(row: Row, scale: str) -> dict[str, Any]:
  """The fields that a row changes, with the values they get at a scale."""
  config = changed(configs.load(config_name(row.config, scale)), row.changes)
  return {field: value_of(config, field) for field in row.changes}


def value_of(config: ConfigDict, field: str) -> Any:
  """A field of a config, by its dotted name."""
  for part in field.split("."):
    config = config[part]
  return config
