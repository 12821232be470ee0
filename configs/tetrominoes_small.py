"""Object discovery on small Tetrominoes, in minutes on one CPU core.

  python main.py --config=configs/tetrominoes_small.py

Data: three tetrominoes of different colours in images of 14x14, with blocks of
2x2 pixels: the paper's images of 7x7 blocks, with fewer pixels a block. As
there, all 19 shapes occur, and pieces may touch. The model is the paper's with
kernels of 3x3 instead of 5x5, and has 119,588 parameters. Muon in the dense
layers, small batches and a cosine that reaches zero make it learn in 224,000
images.

The design took about 60 tries, judged on examples of
--config.data.procedural.seed=1. docs/tries.md lists most of them, and the
earlier design, of which six of 13 seeds do not separate pieces.
Measured on examples that no try has seen, --config.seed=0 to 4: a foreground
ARI of 97.6, 97.8, 97.9, 97.2 and 98.0 %, after 8 to 9 minutes of one core of an
Intel Xeon beside other work (2026-11-29, Python 3.12.1, JAX 0.12.0, with the
XLA_FLAGS of docs/results.md). See results/table1_small.md.
"""

from ml_collections import ConfigDict

from configs import tetrominoes_object_discovery


def get_config() -> ConfigDict:
  config = tetrominoes_object_discovery.get_config()
  config.batch_size = 16
  config.num_steps = 14_000
  config.optimizer = "muon"
  config.muon_kernels = "dense"
  config.learning_rate = 5e-4
  config.warmup_steps = 200
  config.decay = "cosine"
  config.decay_rate = 0.0
  config.decay_steps = 14_000
  config.max_grad_norm = 1.0
  config.log_every = 50
  config.eval_every = 1_000
  config.checkpoint_every = 1_000

  config.data.num_examples = 20_320
  config.data.num_train = 20_000
  config.data.procedural.image_size = 14
  config.data.procedural.block_size = 2
  config.data.procedural.distinct_colors = True

  config.model.encoder.kernel_size = 3
  config.model.decoder.kernel_size = 3
  config.model.decoder.broadcast_size = (14, 14)
  return config
