"""Set prediction on CLEVR10 (Section 4.2, Tables 4, 8 and 11).

  python main.py --config=configs/clevr_set_prediction.py

Data: CLEVR v1.0 from tensorflow-datasets: 69,488 training images (the official
code sets the first 512 aside) and the 15,000 images of the validation split.
This flag reads an unpacked CLEVR_v1.0 folder instead:
  --config.data.path=CLEVR_v1.0
This flag draws as many scenes by CLEVR's rules instead:
  --config.data.source=procedural

Variants of Figure 23: --config.loss.use_all_iterations=True has the mean loss
over all iterations, --config.loss.coordinate_scale=5.0 weights coordinates.

Paper: average precision 94.3 / 86.7 / 56.0 / 10.8 / 0.9 % at distances inf / 1
/ 0.5 / 0.25 / 0.125; 2 days and 3 hours on a V100.
Measured here: not yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.task = "set_prediction"
  config.loss = ConfigDict(
    {"use_all_iterations": False, "coordinate_scale": 1.0}
  )
  config.seed = 0
  config.initial_params = ""  # Or the folder of a run, or a name of weights.

  config.batch_size = 512  # Over all devices.
  config.num_steps = 150_000
  config.optimizer = "adam"  # Or "muon", for the kernels of layers.
  config.learning_rate = 4e-4
  config.muon_learning_rate = 2e-3  # Of these kernels, with "muon".
  config.muon_kernels = "all"  # Or those of "dense" layers or "convolutions".
  config.warmup_steps = 1_000
  config.decay = "exponential"  # Or "cosine".
  config.decay_rate = 0.5  # Factor of the rate after decay_steps.
  config.decay_steps = 50_000
  config.max_grad_norm = 0.0  # 0: gradients are not clipped.
  config.optimizer_epsilon = 1e-8

  config.max_minutes = 0.0  # 0: no limit. Else the run saves and stops then.
  config.log_every = 100
  config.eval_every = 5_000
  config.eval_batch_size = 512
  config.checkpoint_every = 5_000
  config.keep_checkpoints = 2

  config.steps_per_dispatch = 1  # Number of steps in one call to the devices.
  config.compute_dtype = "float32"  # Of the convolutions. Or "bfloat16".
  config.num_cpu_devices = 1  # Number of devices into which a CPU is split.
  config.data_placement = "device"  # Or "host", if the data does not fit there.
  config.data = ConfigDict(
    {
      "name": "clevr",
      "source": "original",  # Or "procedural".
      "path": "",  # A CLEVR_v1.0 folder. "": tensorflow-datasets.
      "data_dir": "data",
      "num_examples": 84_488,  # To prepare. A larger prepared set is used too.
      "num_train": 69_488,  # The first examples.
      "num_eval": 15_000,  # The examples after those.
      "max_objects": 10,  # Images with more objects are left out.
      "grayscale": False,
      "preprocessing": {"crop": False, "image_size": 128},
      "procedural": {
        "seed": 0,
        "samples": 9,
        "min_objects": 3,
        "max_objects": 10,
      },
    }
  )

  config.model = ConfigDict(
    {
      "encoder": {
        "features": (64, 64, 64, 64),
        "strides": (1, 2, 2, 1),
        "kernel_size": 5,
        "mlp_size": 64,
        "use_position_embedding": True,
        "input_scale": 1.0,  # Factor of the images.
      },
      "slot_attention": {
        "num_slots": 10,
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
      "classifier": {"num_outputs": 19, "hidden_size": 64},
    }
  )
  return config
