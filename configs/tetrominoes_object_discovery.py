"""Object discovery on Tetrominoes (Section 4.1, Tables 5, 7 and 11).

  python main.py --config=configs/tetrominoes_object_discovery.py

Data: procedural Tetrominoes. Given its shapes, colours and positions, an image
equals the original's, pixel for pixel; how those are drawn is not published.
These flags read the original file (1,000,000 examples, 300 MB):
  --config.data.source=original --config.data.path=tetrominoes_train.tfrecords

Paper: foreground ARI 99.5 +- 0.2 % (four of five seeds), 7.5 hours on a V100.
Measured here: not yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.task = "object_discovery"
  config.loss = ConfigDict()  # The reconstruction loss has no options.
  config.seed = 0
  config.initial_params = ""  # Or the folder of a run, or a name of weights.

  config.batch_size = 64  # Over all devices.
  config.num_steps = 500_000
  config.optimizer = "adam"  # Or "muon", for the kernels of layers.
  config.learning_rate = 4e-4
  config.muon_learning_rate = 2e-3  # Of these kernels, with "muon".
  config.muon_kernels = "all"  # Or those of "dense" layers or "convolutions".
  config.warmup_steps = 10_000
  config.decay = "exponential"  # Or "cosine".
  config.decay_rate = 0.5  # Factor of the rate after decay_steps.
  config.decay_steps = 100_000
  config.max_grad_norm = 0.0  # 0: gradients are not clipped.
  config.optimizer_epsilon = 1e-8

  config.max_minutes = 0.0  # 0: no limit. Else the run saves and stops then.
  config.log_every = 100
  config.eval_every = 5_000
  config.eval_batch_size = 64
  config.checkpoint_every = 5_000
  config.keep_checkpoints = 2

  config.steps_per_dispatch = 10  # Number of steps in one call to the devices.
  config.compute_dtype = "float32"  # Of the convolutions. Or "bfloat16".
  config.num_cpu_devices = 1  # Number of devices into which a CPU is split.
  config.data_placement = "device"  # Or "host", if the data does not fit there.
  config.data = ConfigDict(
    {
      "name": "tetrominoes",
      "source": "procedural",  # Or "original", read from path.
      "path": "",
      "data_dir": "data",
      "num_examples": 60_320,  # To prepare. A larger prepared set is used too.
      "num_train": 60_000,  # The first examples.
      "num_eval": 320,  # The examples after those.
      "max_objects": 3,  # Images with more objects are left out.
      "grayscale": False,
      "preprocessing": {},
      "procedural": {
        "seed": 0,
        "num_objects": 3,
        "image_size": 35,
        "block_size": 5,
        "min_gap": 0,
        "distinct_colors": False,
        "background": 0,
      },
    }
  )

  config.model = ConfigDict(
    {
      "encoder": {
        "features": (32, 32, 32, 32),
        "strides": (1, 1, 1, 1),
        "kernel_size": 5,
        "mlp_size": 32,
        "use_position_embedding": True,
        "input_scale": 1.0,  # Factor of the images.
      },
      "slot_attention": {
        "num_slots": 4,
        "num_iterations": 3,
        "slot_size": 64,
        "mlp_hidden_size": 128,
        "epsilon": 1e-8,
        "epsilon_place": "attention",
        "aggregation": "weighted_mean",
        "softmax_axis": "slots",
        "update": "gru",
        "use_layer_norm": True,
        "use_projections": True,
        "temperature": "sqrt_d",
        "slot_init": "shared",
        "gradient": "unrolled",
      },
      "decoder": {
        "broadcast_size": (35, 35),
        "features": (32, 32, 32),
        "strides": (1, 1, 1),
        "kernel_size": 5,
        "channels": 3,
        "remat_chunk_size": 0,  # Slots. Above 0: less memory, more time.
      },
    }
  )
  return config
