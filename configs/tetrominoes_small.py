"""Object discovery on small Tetrominoes, in minutes on one CPU core.

  python main.py --config=configs/tetrominoes_small.py

Data: three tetrominoes of different colours in images of 14x14, with blocks of
2x2 pixels: the paper's images of 7x7 blocks, with fewer pixels a block. As
there, all 19 shapes occur, and pieces may touch. The model is the paper's, of
235,812 parameters; Muon, small batches and a cosine that reaches zero make it
learn in 160,000 images.

The design took seven tries (blocks of 3 and of 2 pixels, kernels of 3x3 and of
5x5, equal colours, a grey background, fewer steps), judged on examples of
--config.data.procedural.seed=1. There, the last one, --config.seed=1, reached a
foreground ARI of 96.8 % on 320 examples: 2026-11-27, one core of an AMD EPYC
beside other work, Python 3.12.1, JAX 0.12.0, with the XLA_FLAGS of
docs/results.md.
Measured on examples that no try has seen, --config.seed=0 to 4: a foreground
ARI of 97.5, 97.9, 97.1, 97.3 and 48.3 %, after 7 to 12 minutes of one core of
an AMD EPYC, and of an Intel Xeon for the last two, beside other work
(2026-11-28 and 2026-11-29, the same versions and XLA_FLAGS). The slots of seed
4 share pieces. See results/table1_small.md. On other examples, five of eight
seeds do not separate pieces after 2,000 steps. docs/results.md has flags that
have not failed in 17 seeds; they are the next design of this config.
"""

from ml_collections import ConfigDict

from configs import tetrominoes_object_discovery


def get_config() -> ConfigDict:
  config = tetrominoes_object_discovery.get_config()
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
  config.data.procedural.image_size = 14
  config.data.procedural.block_size = 2
  config.data.procedural.distinct_colors = True

  config.model.decoder.broadcast_size = (14, 14)
  return config
