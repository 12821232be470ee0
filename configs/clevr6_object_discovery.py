"""Object discovery on CLEVR6 (Section 4.1, Tables 4, 6 and 11).

  python main.py --config=configs/clevr6_object_discovery.py

Data: procedural CLEVR, cropped to the centre. About half of the scenes have at
most 6 objects, and only these are used: those of the first 70,000 scenes for
training, and the next 320 for evaluation. These flags read the original CLEVR
with masks (100,000 scenes, 10.5 GB; without a path it is downloaded):
  --config.data.source=original --config.data.path=FILE
These flags read CLEVR v1.0, as the official code does. It has no masks, so the
ARI is not measured:
  --config.data.name=clevr --config.data.source=original \
  --config.data.num_examples=84488 --config.data.num_train=69488

This command evaluates with more slots and objects (CLEVR10):
  python main.py --config=configs/clevr6_object_discovery.py --mode=eval \
    --config.data.max_objects=10 --config.model.slot_attention.num_slots=11

Paper: foreground ARI 98.8 +- 0.3 %, 5 days and 13 hours on a V100.
Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs import tetrominoes_object_discovery


def get_config() -> ConfigDict:
  config = tetrominoes_object_discovery.get_config()
  config.steps_per_dispatch = 1  # A step takes long, so one is enough.
  config.data.name = "clevr_with_masks"
  config.data.num_examples = 71_000
  config.data.num_train = 70_000
  config.data.max_objects = 6
  config.data.preprocessing = ConfigDict({"crop": True, "image_size": 128})
  config.data.procedural = ConfigDict(
    {"seed": 0, "samples": 9, "min_objects": 3, "max_objects": 10}
  )

  config.model.encoder.features = (64, 64, 64, 64)
  config.model.encoder.mlp_size = 64
  config.model.slot_attention.num_slots = 7
  config.model.decoder.broadcast_size = (8, 8)
  config.model.decoder.features = (64, 64, 64, 64, 64)
  config.model.decoder.strides = (2, 2, 2, 2, 1)
  return config
