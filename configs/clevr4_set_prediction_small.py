"""Small set prediction with up to 4 objects, for tests with more of them.

  python main.py --config=configs/clevr4_set_prediction_small.py
  python main.py --config=configs/clevr4_set_prediction_small.py --mode=sweep \
    --config.data.max_objects=6 --config.data.num_eval=1000

Data: the scenes of clevr_set_prediction_small.py that have 3 or 4 objects. At
the small scale, this config replaces clevr6_set_prediction.py.
Measured here, --config.seed=0: AP 45.0 / 20.9 / 3.8 % at distance inf / 1 /
0.5, and with eight slots 72.1 / 41.5 / 10.0 % (2026-11-30, one core of an AMD
EPYC beside other work, Python 3.12.1, JAX 0.12.0). See
results/ablations_small.md and results/figure5_right_small.md.
"""

from ml_collections import ConfigDict

from configs import clevr_set_prediction_small


def get_config() -> ConfigDict:
  config = clevr_set_prediction_small.get_config()
  config.data.max_objects = 4
  # About half of the 1,000 evaluation scenes have at most 4 objects.
  config.data.num_eval = 450
  config.model.slot_attention.num_slots = 4
  return config
