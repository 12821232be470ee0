"""Object discovery in minutes on a CPU: small tetrominoes, a small model.

python main.py --config=configs/quickstart.py
"""

from ml_collections import ConfigDict

from configs import tetrominoes_object_discovery


def get_config() -> ConfigDict:
  config = tetrominoes_object_discovery.get_config()
  config.batch_size = 16
  config.num_steps = 4_000
  config.learning_rate = 2e-3
  config.warmup_steps = 200
  config.decay_steps = 1_500
  config.max_grad_norm = 1.0
  config.log_every = 50
  config.eval_every = 500
  config.checkpoint_every = 500

  config.data.num_train = 20_000
  config.data.procedural.shapes = (1, 2, 19)
  config.data.procedural.image_size = 16
  config.data.procedural.block_size = 2
  config.data.procedural.min_gap = 1
  config.data.procedural.distinct_colors = True
  config.data.procedural.background = 128

  config.model.encoder.kernel_size = 3
  config.model.decoder.kernel_size = 3
  config.model.decoder.broadcast_size = (16, 16)
  return config
