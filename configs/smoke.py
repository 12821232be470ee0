"""Any other config, so small that it runs in seconds, for a quick check.

python main.py --config=configs/smoke.py:tetrominoes_object_discovery
"""

from ml_collections import ConfigDict

import configs


def get_config(name: str = "quickstart") -> ConfigDict:
  config = configs.load(name)
  config.initial_params = ""  # Other weights have other sizes.
  config.batch_size = 8
  config.num_steps = 6
  config.log_every = 2
  config.eval_every = 3
  config.eval_batch_size = 8
  config.checkpoint_every = 3
  config.steps_per_dispatch = 1
  if config.data.procedural:  # A folder of images is only read.
    config.data.source = "procedural"
  config.data.num_examples = 64
  config.data.num_train = 32
  config.data.num_eval = 12
  model = config.model
  if "image_size" in config.data.preprocessing:
    config.data.preprocessing.image_size //= 4
    if "samples" in config.data.procedural:
      config.data.procedural.samples = 1
    for section in model.values():
      for size in ("broadcast_size", "image_size"):
        if size in section:
          section[size] = tuple(side // 4 for side in section[size])
  for section in model.values():
    if "features" in section:
      section.features = (8,) * len(section.features)
    if "num_iterations" in section:
      section.num_iterations = min(3, section.num_iterations)
    if "blocks" in section:
      section.blocks = (1,) * len(section.blocks)
  return config
