"""Object discovery on small CLEVR scenes without colours, on one CPU core.

  python main.py --config=configs/clevr_grayscale_small.py

Data: the scenes of configs/clevr_small.py in grey. The model is the same, with
one channel.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs import clevr_small


def get_config() -> ConfigDict:
  config = clevr_small.get_config()
  config.data.grayscale = True
  config.model.decoder.channels = 1
  return config
