"""The paper's tables and figures and further comparisons, as rows to train.

`reproduce` trains, evaluates and draws them.
"""

import dataclasses

from slot_attention.paper.ablations import (
  MODULE,
  SOFT_K_MEANS,
  VARIANTS,
  ablation,
  add,
  all_ablations,
)
from slot_attention.paper.curves import STEPS
from slot_attention.paper.rows import (
  BINARIZED,
  CLEVR6,
  CLEVR6_SETS,
  CLEVR10_SETS,
  GRAYSCALE,
  MOVING_SPRITES,
  MULTI_DSPRITES,
  TETROMINOES,
  Experiment,
  Row,
)

# Numbers of examples for evaluation: those with few enough objects for the
# configs of Figure 5, right, and all.
_NUM_EVAL_OF_ALL = {7_000: 15_000, 450: 1_000}


def _times(number):
  return lambda value: value * number


def _aps(*values: str) -> dict[str, str]:
  names = ("ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125")
  return {name: value for name, value in zip(names, values) if value}


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
    # One run: DSPN takes 10 steps in training, and 30 or 10 in evaluation.
    Row(
      "DSPN T=30",
      f"dspn:{CLEVR10_SETS}",
      evaluation={"model.set_decoder.num_iterations": 30},
      paper=_aps("", "81.1 ± 5.2", "47.4 ± 17.6", "10.8 ± 9.0", "0.6 ± 0.7"),
    ),
    Row(
      "DSPN T=10",
      f"dspn:{CLEVR10_SETS}",
      paper=_aps("72.8 ± 2.3", "", "39.0 ± 4.4", "12.4 ± 2.5", "1.3 ± 0.4"),
    ),
  ),
  place="Table 3",
)

_TETROMINOES_PAPER = {"fg_ari": "99.5 ± 0.2 (4 of 5 seeds)"}

EXPERIMENTS = {
  "table1": Experiment(
    "Foreground ARI of object discovery",
    (
      Row(
        "Slot Attention, CLEVR6",
        CLEVR6,
        paper={"fg_ari": "98.8 ± 0.3"},
        small="clevr_small",
      ),
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
        small="clevr_small",
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
      Row(
        "IODINE, CLEVR6",
        f"iodine:{CLEVR6}",
        paper={"fg_ari": "98.8 ± 0.0"},
        small="clevr_small",
      ),
      Row(
        "IODINE, Multi-dSprites",
        f"iodine:{MULTI_DSPRITES}",
        paper={"fg_ari": "76.7 ± 5.6"},
      ),
      Row(
        "IODINE, Tetrominoes",
        f"iodine:{TETROMINOES}",
        paper={"fg_ari": "99.2 ± 0.4"},
      ),
      Row(
        "MONet, CLEVR6",
        f"monet:{CLEVR6}",
        paper={"fg_ari": "96.2 ± 0.6"},
        small="clevr_small",
      ),
      Row(
        "MONet, Multi-dSprites",
        f"monet:{MULTI_DSPRITES}",
        paper={"fg_ari": "90.4 ± 0.8"},
      ),
      # The paper has no number for it.
      Row("MONet, Tetrominoes", f"monet:{TETROMINOES}"),
    ),
    place="Table 1",
  ),
  "stripes": Experiment(
    "Ways to avoid stripes on Tetrominoes",
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
        {f"{MODULE}.slot_init": "per_slot"},
      ),
      Row("T = 5", TETROMINOES, {f"{MODULE}.num_iterations": 5}),
    ),
    place="Section 4.1",
  ),
  "figure2": Experiment(
    "More iterations at test time",
    (
      Row("K as in training", CLEVR6, small="clevr_small"),
      # The paper's data set already has scenes with up to 10 objects.
      Row(
        "4 more slots, up to 4 more objects",
        CLEVR6,
        evaluation={
          "data.max_objects": add(4),
          "data.procedural.max_objects": lambda value: min(value + 4, 10),
          f"{MODULE}.num_slots": add(4),
        },
        small="clevr_small",
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
    (
      Row(
        "Slot Attention",
        CLEVR6_SETS,
        evaluation={
          "data.max_objects": 10,
          "data.num_eval": lambda n: _NUM_EVAL_OF_ALL.get(n, n),
        },
      ),
    ),
    sweep="slots",
    place="Figure 5, right",
  ),
  **{name: ablation(name) for name in VARIANTS},
  "ablations": all_ablations(),
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
    place="Figure 4, number",
  ),
  "binarized": Experiment(
    "Binarized Multi-dSprites, K = 4",
    (
      Row("Slot Attention", BINARIZED, paper={"fg_ari": "69.4 ± 0.9"}),
      Row("IODINE", f"iodine:{BINARIZED}", paper={"fg_ari": "64.8 ± 17.2"}),
      Row(
        "R-NEM",
        f"nem:{BINARIZED}",
        paper={"fg_ari": "68.5 ± 1.7 (how it was run is not published)"},
      ),
      # The paper has no number for it. The changes are Neural-EM's settings.
      Row(
        "N-EM",
        f"nem:{BINARIZED}",
        {
          "model.cell.use_relations": False,
          # 15 instead of R-NEM's 30.
          "model.cell.num_iterations": lambda value: value // 2,
          "model.input_network.flip_probability": 0.1,
          "loss.use_all_iterations": False,
        },
      ),
    ),
    place="Section 4.1",
  ),
  "soft_kmeans": Experiment(
    "Soft k-means instead of Slot Attention",
    (
      Row("default", CLEVR6, paper={"fg_ari": "98.8 ± 0.3"}),
      Row(
        "Soft k-means",
        CLEVR6,
        SOFT_K_MEANS,
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
  # The paper's configs have Adam, and the small ones have Muon.
  "optimizers": Experiment(
    "Adam and Muon: evaluation during training",
    tuple(
      row
      for config in (TETROMINOES, CLEVR10_SETS)
      for row in (
        Row("Adam", f"adam:{config}"),
        Row("Muon", config, {"optimizer": "muon"}),
      )
    ),
    sweep=STEPS,
    place="[Optimisers](../docs/optimizers.md)",
  ),
  "successors": Experiment(
    "Successors of Slot Attention: evaluation during training",
    (
      Row("default", TETROMINOES),
      Row("implicit gradient", TETROMINOES, {f"{MODULE}.gradient": "implicit"}),
      Row("learned queries", TETROMINOES, {f"{MODULE}.slot_init": "queries"}),
      Row(
        "BO-QSA",
        TETROMINOES,
        {f"{MODULE}.slot_init": "queries", f"{MODULE}.gradient": "bi_level"},
      ),
      Row(
        "normalised sum",
        TETROMINOES,
        {f"{MODULE}.aggregation": "normalized_sum"},
      ),
      Row("Invariant Slot Attention", f"invariant:{TETROMINOES}"),
      Row(
        "Sinkhorn attention",
        f"mesh:{TETROMINOES}",
        {"model.mesh_attention.mesh_steps": 0},
      ),
      Row("MESH", f"mesh:{TETROMINOES}"),
      Row("AdaSlot, trained start", f"adaslot:{TETROMINOES}"),
      Row("default", CLEVR10_SETS),
      Row(
        "implicit gradient", CLEVR10_SETS, {f"{MODULE}.gradient": "implicit"}
      ),
      Row(
        "Sinkhorn attention",
        f"mesh:{CLEVR10_SETS}",
        {"model.mesh_attention.mesh_steps": 0},
      ),
      Row("MESH", f"mesh:{CLEVR10_SETS}"),
    ),
    sweep=STEPS,
    place="[Successors](../docs/successors.md)",
  ),
  "videos": Experiment(
    "Foreground ARI over whole videos of moving sprites",
    (
      Row("SAVi", MOVING_SPRITES),
      Row("SAVi with MESH", f"mesh:{MOVING_SPRITES}"),
    ),
    place="[Successors](../docs/successors.md)",
  ),
  "more_slots": Experiment(
    "More slots in evaluation than in training",
    (
      Row("default", TETROMINOES),
      Row(
        "normalised sum",
        TETROMINOES,
        {f"{MODULE}.aggregation": "normalized_sum"},
      ),
      Row(
        "weighted sum, layer norm",
        TETROMINOES,
        {f"{MODULE}.aggregation": "weighted_sum_layer_norm"},
      ),
      Row(
        "Sinkhorn attention",
        f"mesh:{TETROMINOES}",
        {"model.mesh_attention.mesh_steps": 0},
      ),
      Row("MESH", f"mesh:{TETROMINOES}"),
    ),
    sweep="more_slots",
    place="[Successors](../docs/successors.md)",
  ),
}
