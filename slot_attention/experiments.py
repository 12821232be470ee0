"""The paper's tables and figures as runs: config, changes, the paper's numbers.

`reproduce.py` trains, evaluates and draws them.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

TETROMINOES = "tetrominoes_object_discovery"
MULTI_DSPRITES = "multi_dsprites_object_discovery"
BINARIZED = "multi_dsprites_binarized_object_discovery"
CLEVR6 = "clevr6_object_discovery"
GRAYSCALE = "clevr6_grayscale_object_discovery"
CLEVR10_SETS = "clevr_set_prediction"
CLEVR6_SETS = "clevr6_set_prediction"

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
  """

  label: str
  config: str = CLEVR6
  changes: Mapping[str, Change] = dataclasses.field(default_factory=dict)
  evaluation: Mapping[str, Change] = dataclasses.field(default_factory=dict)
  paper: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A table, or a figure of bars or of curves.

  Attributes:
    title: what it shows.
    rows: its models.
    sweep: for curves, a sweep of `evaluate.sweep_run`; "" for bars.
    others: numbers of the paper for models that are not of this project.
  """

  title: str
  rows: tuple[Row, ...]
  sweep: str = ""
  others: Mapping[str, Mapping[str, str]] = dataclasses.field(
    default_factory=dict
  )


def _add(number):
  return lambda value: value + number


def _ablation(
  title: str,
  variants: Mapping[str, Mapping[str, Change]],
  sets_config: str = CLEVR10_SETS,
) -> Experiment:
  """The default and its variants, for both tasks as in appendix B."""
  return Experiment(
    title,
    tuple(
      Row(label, config, changes)
      for config in (CLEVR6, sets_config)
      for label, changes in {"default": {}, **variants}.items()
    ),
  )


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
)

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
        paper={"fg_ari": "99.5 ± 0.2"},
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
  ),
  "table3": _TABLE3,
  "figure5_left": _TABLE3,
  "figure5_center": Experiment(
    "More iterations at test time, CLEVR10",
    (Row("Slot Attention", CLEVR10_SETS),),
    sweep="iterations",
  ),
  "figure5_right": Experiment(
    "Trained on CLEVR6, tested on N = K objects",
    (Row("Slot Attention", CLEVR6_SETS, evaluation={"data.max_objects": 10}),),
    sweep="slots",
  ),
  "figure7": _ablation(
    "Aggregation",
    {
      "weighted sum": {f"{_MODULE}.aggregation": "weighted_sum"},
      "weighted sum, layer norm": {
        f"{_MODULE}.aggregation": "weighted_sum_layer_norm"
      },
    },
  ),
  "figure8": _ablation(
    "Position embedding",
    {"none": {"model.encoder.use_position_embedding": False}},
  ),
  "figure9": _ablation(
    "Initial slots", {"per slot": {f"{_MODULE}.slot_init": "per_slot"}}
  ),
  "figure10": _ablation(
    "Softmax axis",
    {
      "inputs": {
        f"{_MODULE}.softmax_axis": "inputs",
        f"{_MODULE}.aggregation": "weighted_sum",
      }
    },
  ),
  "figure11": _ablation(
    "Update function", {"no GRU": {f"{_MODULE}.update": "none"}}
  ),
  "figure12": _ablation(
    "Iterations in training (default: 3)",
    {f"T = {t}": {f"{_MODULE}.num_iterations": t} for t in (1, 2, 4, 5)},
  ),
  "figure13": _ablation(
    "Layer normalisation", {"none": {f"{_MODULE}.use_layer_norm": False}}
  ),
  "figure14": _ablation(
    "Residual MLP", {"none": {f"{_MODULE}.mlp_hidden_size": 0}}
  ),
  "figure15": _ablation(
    "Softmax temperature", {"1": {f"{_MODULE}.temperature": "one"}}
  ),
  "figure16": _ablation(
    "Place of epsilon",
    {"denominator": {f"{_MODULE}.epsilon_place": "denominator"}},
  ),
  "figure17": _ablation(
    "Decay of the learning rate", {"none": {"decay_rate": 1.0}}
  ),
  "figure18": _ablation("Warm-up", {"none": {"warmup_steps": 0}}),
  "figure19": _ablation(
    "Slots in training",
    {"4 more": {f"{_MODULE}.num_slots": _add(4)}},
    sets_config=CLEVR6_SETS,
  ),
  "figure21_22": Experiment(
    "Average precision by number of objects",
    (Row("Slot Attention", CLEVR10_SETS),),
    sweep="objects",
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
  ),
  "greyscale": Experiment(
    "CLEVR6 without colours",
    (Row("Slot Attention", GRAYSCALE, paper={"fg_ari": "98.5 ± 0.3"}),),
  ),
  "binarized": Experiment(
    "Binarized Multi-dSprites, K = 4",
    (Row("Slot Attention", BINARIZED, paper={"fg_ari": "69.4 ± 0.9"}),),
    others={
      "IODINE": {"fg_ari": "64.8 ± 17.2"},
      "R-NEM": {"fg_ari": "68.5 ± 1.7"},
    },
  ),
  "soft_kmeans": Experiment(
    "Soft k-means in the place of Slot Attention",
    (
      Row("Slot Attention", CLEVR6, paper={"fg_ari": "98.8 ± 0.3"}),
      Row(
        "soft k-means",
        CLEVR6,
        {
          # Inputs are compared with slots directly: they need their size.
          "model.encoder.mlp_size": 64,
          f"{_MODULE}.update": "none",
          f"{_MODULE}.mlp_hidden_size": 0,
          f"{_MODULE}.use_layer_norm": False,
          f"{_MODULE}.use_projections": False,
        },
        paper={"fg_ari": "75.5 ± 3.8"},
      ),
    ),
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
  ),
}
