"""Object discovery on Multi-dSprites, coloured on grey (Section 4.1).

  python main.py --config=configs/multi_dsprites_object_discovery.py

Data: procedural Multi-dSprites. slot_attention/data/multi_dsprites.py says what
is not published of the original and how it is drawn here. These flags read the
original (1,000,000 examples, 1 GB; without a path it is downloaded):
  --config.data.source=original --config.data.path=FILE

Paper: foreground ARI 91.3 +- 0.3 %, 24 hours on a V100.
Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs import tetrominoes_object_discovery


def get_config() -> ConfigDict:
  config = tetrominoes_object_discovery.get_config()
  config.data.name = "multi_dsprites_colored_on_grayscale"
  config.data.max_objects = 5
  config.data.procedural = ConfigDict({"seed": 0})
  config.model.slot_attention.num_slots = 6
  config.model.decoder.broadcast_size = (64, 64)
  return config
