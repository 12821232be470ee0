"""Another config with a recipe for fewer steps.

  python main.py --config=configs/fast.py:tetrominoes_object_discovery

Muon updates kernels, batches are small, gradients are clipped, and the learning
rate falls to zero along a cosine. `training/optimizers.py` says where Muon is
from.

Measured here, seed 0: a foreground ARI of 98.3 % on 10,000 examples, and of
98.6 % on 320. The schedule changed on the way, see docs/results.md.
"""

from ml_collections import ConfigDict

import configs

# Changes to the paper's configs.
_RECIPES = {
  "tetrominoes_object_discovery": {
    "batch_size": 16,
    "num_steps": 40_000,
    "decay_steps": 40_000,
    "learning_rate": 1e-3,
    "eval_every": 1_000,
    "checkpoint_every": 1_000,
  },
}


def get_config(name: str = "tetrominoes_object_discovery") -> ConfigDict:
  if name not in _RECIPES:
    raise configs.UnknownConfigError(
      f"there is no config fast:{name}; there is {', '.join(_RECIPES)}"
    )
  config = configs.load(name)
  config.optimizer = "muon"
  config.muon_learning_rate = 2e-3
  config.warmup_steps = 500
  config.decay = "cosine"
  config.decay_rate = 0.0
  config.max_grad_norm = 1.0
  config.update(_RECIPES[name])
  return config
