"""Object discovery on small binarized Multi-dSprites, in minutes on one core.

  python main.py --config=configs/multi_dsprites_binarized_small.py

Data: two or three white sprites on black in images of 16x16, which overlap as
the paper's do. The model is the paper's. The recipe is that of
configs/tetrominoes_small.py. The design took one try, on examples of
--config.data.procedural.seed=1.
Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs import multi_dsprites_binarized_object_discovery


def get_config() -> ConfigDict:
  config = multi_dsprites_binarized_object_discovery.get_config()
  config.batch_size = 16
  config.num_steps = 10_000
  config.optimizer = "muon"
  config.learning_rate = 1e-3
  config.warmup_steps = 200
  config.decay = "cosine"
  config.decay_rate = 0.0
  config.decay_steps = 10_000
  config.max_grad_norm = 1.0
  config.log_every = 50
  config.eval_every = 1_000
  config.checkpoint_every = 1_000

  config.data.num_examples = 20_320
  config.data.num_train = 20_000
  config.data.procedural.image_size = 16

  config.model.decoder.broadcast_size = (16, 16)
  return config
