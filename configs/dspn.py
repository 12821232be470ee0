"""DSPN (Zhang et al., 2019) on the data of another config.

  python main.py --config=configs/dspn.py:clevr_set_prediction
  python main.py --config=configs/dspn.py:clevr_set_prediction_small

More gradient steps at test time, as the paper has them:
  --mode=eval --config.model.set_decoder.num_iterations=30

The values are those of Cyanogenoid/dspn, scripts/clevr.sh: 100 epochs in
batches of 32 at a rate of 3e-4, codes of 512 numbers, 10 gradient steps, weight
0.1 of the loss between codes. The code applies an inner rate of 800 to a loss
averaged over 32 examples; for the loss of one example, the same rate is 25. The
small config has the CNN of Slot Attention, smaller codes, its own steps, and a
rate that is the best of three; see docs/tries.md.

Paper (Table 3), average precision:
  30 steps: 81.1 +- 5.2 / 47.4 +- 17.6 / 10.8 +- 9.0 / 0.6 +- 0.7 % at distance
    1 / 0.5 / 0.25 / 0.125;
  10 steps: 72.8 +- 2.3 / 39.0 +- 4.4 / 12.4 +- 2.5 / 1.3 +- 0.4 % at distance
    inf / 0.5 / 0.25 / 0.125.
Measured here: only on small CLEVR, with --config.seed=0 to 2, 10 steps: 34.3 /
25.5 / 10.6 % at inf / 1 / 0.5, see results/table3_small.md.
"""

from ml_collections import ConfigDict

import configs

_RESNET = {"features": (64, 128, 256, 512), "blocks": (3, 4, 6, 3)}
# Of each config: changes of training, encoder of images (None for the CNN of
# Slot Attention) and sizes of the encoder of sets.
_VALUES = {
  "clevr_set_prediction": {
    "training": {
      "batch_size": 32,
      "num_steps": 217_150,
      "eval_batch_size": 500,
    },
    "resnet": _RESNET,
    "set_encoder": {"code_size": 512, "hidden_size": 512, "num_pieces": 20},
  },
  "clevr_set_prediction_small": {
    "training": {"learning_rate": 1e-3},
    "resnet": None,
    "set_encoder": {"code_size": 128, "hidden_size": 128, "num_pieces": 20},
  },
}


def get_config(name: str = "clevr_set_prediction") -> ConfigDict:
  values = configs.choose("dspn", name, _VALUES)
  resnet = values["resnet"]
  config = configs.load(name)
  encoder = config.model.encoder
  num_slots = config.model.slot_attention.num_slots
  config.task = "dspn"
  config.optimizer = "adam"
  config.learning_rate = 3e-4
  config.warmup_steps = 0
  config.decay = "exponential"
  config.decay_rate = 1.0
  config.max_grad_norm = 0.0
  config.update(values["training"])
  config.loss = ConfigDict({"code_weight": 0.1})
  config.model = ConfigDict(
    {
      **({"resnet": resnet} if resnet else {"encoder": encoder}),
      "set_encoder": values["set_encoder"],
      "set_decoder": {
        "num_slots": num_slots,
        "num_iterations": 10,
        "inner_learning_rate": 25.0,
        "num_outputs": 19,
      },
    }
  )
  return config
