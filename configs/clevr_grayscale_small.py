"""Object discovery on small CLEVR scenes without colours, on one CPU core.

  python main.py --config=configs/clevr_grayscale_small.py

Data: the scenes of configs/clevr_small.py in grey. The model is the same, with
one channel.

Measured here, --config.seed=0: a foreground ARI of 35.0 %. The slots divide the
image by regions (2026-11-30, one core of an AMD EPYC beside other work, Python
3.12.1, JAX 0.12.0, with the XLA_FLAGS of docs/results.md). See
results/greyscale_small.md.
"""

from ml_collections import ConfigDict

from configs import clevr_small


def get_config() -> ConfigDict:
  config = clevr_small.get_config()
  config.data.grayscale = True
  config.model.decoder.channels = 1
  return config
