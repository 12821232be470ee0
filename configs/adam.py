"""A config that has Muon, with Adam instead.

  python main.py --config=configs/adam.py:tetrominoes_small
  python main.py --config=configs/adam.py:clevr_set_prediction_small

On tetrominoes_small, Adam has twice the rate that it has beside Muon. It is the
better of two in whole runs; see docs/optimizers.md. The paper's configs have
Adam themselves.
"""

from ml_collections import ConfigDict

import configs

_LEARNING_RATES = {"tetrominoes_small": 1e-3}


def get_config(name: str = "tetrominoes_small") -> ConfigDict:
  config = configs.load(name)
  config.optimizer = "adam"
  config.learning_rate = _LEARNING_RATES.get(name, config.learning_rate)
  return config
