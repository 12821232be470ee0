"""R-NEM (van Steenkiste et al., 2018) and N-EM (Greff et al., 2017).

  python main.py --config=configs/nem.py

The data is that of configs/multi_dsprites_binarized_object_discovery.py.

Layers, 30 steps, flips of 0.2, batch, rate and the loss after every step are
those of the code Relational-NEM. How R-NEM was run on the binarised set is not
published; K = 4 is that of the other models. N-EM on single images, with the 15
steps and flips of 0.1 of the code Neural-EM:
  --config.model.cell.use_relations=False --config.model.cell.num_iterations=15
  --config.model.input_network.flip_probability=0.1
  --config.loss.use_all_iterations=False

The code trains for up to 500 epochs of 50,000 videos; 390,000 steps are as many
batches.

Paper (Section 4.1): foreground ARI 68.5 +- 1.7 % of R-NEM on the binarised set,
quoted from Greff et al. (2019).
Measured here: not yet.
"""

from ml_collections import ConfigDict

import configs

NAMES = ("multi_dsprites_binarized_object_discovery",)


def get_config(name: str = NAMES[0]) -> ConfigDict:
  if name not in NAMES:
    raise configs.UnknownConfigError(
      f"there is no config nem:{name}; there is {', '.join(NAMES)}"
    )
  config = configs.load(name)
  num_slots = config.model.slot_attention.num_slots
  config.task = "nem"
  config.batch_size = 64
  config.num_steps = 390_000
  config.learning_rate = 1e-3
  config.warmup_steps = 0
  config.decay_rate = 1.0
  config.loss = ConfigDict({"use_all_iterations": True})
  config.model = ConfigDict(
    {
      "input_network": {
        "features": (16, 32, 64),
        "kernel_size": 4,
        "hidden_size": 512,
        "flip_probability": 0.2,
      },
      "cell": {
        "num_slots": num_slots,
        "num_iterations": 30,
        "slot_size": 250,
        "use_relations": True,
        "attention_size": 100,
      },
      "bernoulli_decoder": {
        "image_size": (64, 64),
        "features": (64, 32, 16),
        "kernel_size": 4,
        "hidden_size": 512,
      },
    }
  )
  return config
