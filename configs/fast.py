"""Another config with a recipe that needs far fewer steps.

  python main.py --config=configs/fast.py:tetrominoes_object_discovery

Muon updates kernels, batches are small, gradients are clipped, and the learning
rate falls to zero along a cosine.

Measured here: not yet.
"""

from ml_collections import ConfigDict

import configs

# Changes to the paper's configs.
_RECIPES = {
  "tetrominoes_object_discovery": {
    "batch_size": 16,
    "num_steps": 60_000,
    "decay_steps": 60_000,
    "learning_rate": 1e-3,
    "eval_every": 1_000,
    "checkpoint_every": 1_000,
  },
}


def get_config(name: str = "tetrominoes_object_discovery") -> ConfigDict:
  config = configs.load(name)
  config.optimizer = "muon"
  config.muon_learning_rate = 2e-3
  config.warmup_steps = 500
  config.decay = "cosine"
  config.decay_rate = 0.0
  config.max_grad_norm = 1.0
  config.update(_RECIPES[name])
  return config
