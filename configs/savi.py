"""SAVi without conditioning (Kipf et al., 2022) on moving sprites.

  python main.py --config=configs/savi.py

Data: two or three sprites of different hues that move on black, in videos of
four frames of 16x16. slot_attention/data/moving_sprites.py says how they are
drawn.

The model is that of SAVi-S, made small for one CPU core. Of
google-research/slot-attention-video, file
savi/configs/movi/savi_conditional_small.py, are one iteration a frame, a
predictor of one Transformer block with four heads, and gradients clipped at a
norm of 0.05 there and 1 here. Its encoder and decoder have four layers of 5x5
convolutions for frames of 64x64 and more, its slots 128 channels, and its first
slots come from hints such as boxes. Here the first slots are random, and the
task reconstructs the frames themselves; SAVi-S reconstructs their optical flow.
The optimiser and its schedule are those of configs/tetrominoes_small.py.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs import tetrominoes_small


def get_config() -> ConfigDict:
  config = tetrominoes_small.get_config()
  config.task = "video_object_discovery"
  config.num_steps = 5_000
  config.decay_steps = 5_000
  config.eval_every = 500
  config.checkpoint_every = 500

  config.data.name = "moving_sprites"
  config.data.num_examples = 10_320
  config.data.num_train = 10_000
  config.data.procedural = ConfigDict(
    {"seed": 0, "image_size": 16, "num_frames": 4}
  )

  config.model.encoder.kernel_size = 3
  config.model.slot_attention.num_iterations = 1
  config.model.slot_predictor = ConfigDict(
    {"num_heads": 4, "attention_size": 64, "mlp_hidden_size": 128}
  )
  config.model.decoder.broadcast_size = (8, 8)
  config.model.decoder.features = (32, 32)
  config.model.decoder.strides = (1, 2)
  config.model.decoder.kernel_size = 5
  return config
