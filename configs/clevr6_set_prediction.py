"""Set prediction on CLEVR6, for tests with more objects (Figure 5, right).

  python main.py --config=configs/clevr6_set_prediction.py
  python main.py --config=configs/clevr6_set_prediction.py --mode=sweep \
    --config.data.max_objects=10 --config.data.num_eval=15000

Data: the images of clevr_set_prediction.py that have at most 6 objects.
Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs import clevr_set_prediction


def get_config() -> ConfigDict:
  config = clevr_set_prediction.get_config()
  config.data.max_objects = 6
  # About half of the 15,000 evaluation images have at most 6 objects.
  config.data.num_eval = 7_000
  config.model.slot_attention.num_slots = 6
  return config
