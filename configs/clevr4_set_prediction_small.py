"""Small set prediction with up to 4 objects, for tests with more of them.

  python main.py --config=configs/clevr4_set_prediction_small.py
  python main.py --config=configs/clevr4_set_prediction_small.py --mode=sweep \
    --config.data.max_objects=6

Data: the scenes of clevr_set_prediction_small.py that have 3 or 4 objects. This
is to clevr6_set_prediction.py what that config is to clevr_set_prediction.py.
Measured here: not yet.
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
