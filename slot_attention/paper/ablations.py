"""The variants of the paper's appendix B, Figures 7 to 19, as experiments."""

import dataclasses

from slot_attention.paper.rows import (
  CLEVR6,
  CLEVR6_SETS,
  CLEVR10_SETS,
  Change,
  Experiment,
  Row,
)

# How the paper's text compares a variant with its default, as the sign of the
# difference.
DIRECTIONS = {
  "worse": -1,
  "slightly worse": -1,
  "equal": 0,
  "slightly better": 1,
}

# The section of Slot Attention in a config.
MODULE = "model.slot_attention"


def add(number):
  """Returns the function that adds a number to a field."""
  return lambda value: value + number


# The figures of appendix B: title, and for each variant how the paper's text
# compares it for object discovery and for set prediction, and which fields of
# the config it changes.
_Variant = tuple[str, str, dict[str, Change]]
VARIANTS: dict[str, tuple[str, dict[str, _Variant]]] = {
  "figure7": (
    "Aggregation",
    {
      "weighted sum": (
        "worse",
        "worse",
        {f"{MODULE}.aggregation": "weighted_sum"},
      ),
      "weighted sum, layer norm": (
        "equal",
        "equal",
        {f"{MODULE}.aggregation": "weighted_sum_layer_norm"},
      ),
    },
  ),
  "figure8": (
    "Position embedding",
    {
      "none": (
        "worse",
        "worse",
        {"model.encoder.use_position_embedding": False},
      )
    },
  ),
  "figure9": (
    "Initial slots",
    {
      "per slot": (
        "worse",
        "slightly better",
        {f"{MODULE}.slot_init": "per_slot"},
      )
    },
  ),
  "figure10": (
    "Softmax axis",
    {
      "inputs": (
        "worse",
        "worse",
        {
          f"{MODULE}.softmax_axis": "inputs",
          f"{MODULE}.aggregation": "weighted_sum",
        },
      )
    },
  ),
  "figure11": (
    "Update function",
    {"no GRU": ("worse", "worse", {f"{MODULE}.update": "none"})},
  ),
  "figure12": (
    "Iterations in training (default: 3)",
    {
      f"T = {t}": (direction, direction, {f"{MODULE}.num_iterations": t})
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
    {"none": ("worse", "worse", {f"{MODULE}.use_layer_norm": False})},
  ),
  "figure14": (
    "Residual MLP",
    {
      "none": (
        "slightly worse",
        "slightly better",
        {f"{MODULE}.mlp_hidden_size": 0},
      )
    },
  ),
  "figure15": (
    "Softmax temperature",
    {"1": ("worse", "worse", {f"{MODULE}.temperature": "one"})},
  ),
  "figure16": (
    "Place of epsilon",
    {
      "denominator": (
        "equal",
        "equal",
        {f"{MODULE}.epsilon_place": "denominator"},
      )
    },
  ),
  "figure17": (
    "Decay of the learning rate",
    {"none": ("worse", "worse", {"decay_rate": 1.0})},
  ),
  "figure18": ("Warm-up", {"none": ("worse", "equal", {"warmup_steps": 0})}),
  "figure19": (
    "Slots in training",
    {
      "4 more": (
        "slightly worse",
        "slightly better",
        {f"{MODULE}.num_slots": add(4)},
      )
    },
  ),
}

SOFT_K_MEANS = {
  # Inputs are compared directly with slots, so they need the same size.
  "model.encoder.mlp_size": 64,
  f"{MODULE}.update": "none",
  f"{MODULE}.mlp_hidden_size": 0,
  f"{MODULE}.use_layer_norm": False,
  f"{MODULE}.use_projections": False,
}


def ablation(figure: str) -> Experiment:
  """Makes the experiment of a figure: default and variants of both tasks."""
  title, variants = VARIANTS[figure]
  # CLEVR10 has no images with more objects than the default number of slots.
  sets = CLEVR6_SETS if figure == "figure19" else CLEVR10_SETS
  rows = []
  for config in (CLEVR6, sets):
    rows.append(Row("default", config))
    for label, (discovery, prediction, changes) in variants.items():
      direction = discovery if config == CLEVR6 else prediction
      rows.append(Row(label, config, changes, direction=direction))
  return Experiment(
    title,
    tuple(rows),
    place=figure.replace("figure", "Figure "),
    see="ablations",
  )


def all_ablations() -> Experiment:
  """Makes one experiment of the variants of all figures of appendix B.

  The default of each config stands once, before its variants.
  """
  rows = {}
  for figure, (title, _) in VARIANTS.items():
    title = title.partition(" (")[0]
    for row in ablation(figure).rows:
      if row.label != "default":
        row = dataclasses.replace(row, label=f"{title}: {row.label}")
      rows.setdefault(row.config, {})[row.label] = row
  soft_k_means = Row("Soft k-means", CLEVR6, SOFT_K_MEANS, direction="worse")
  rows[CLEVR6][soft_k_means.label] = soft_k_means
  return Experiment(
    "Ablations of both tasks",
    tuple(row for of_config in rows.values() for row in of_config.values()),
    place="Figures 7 to 19",
  )
