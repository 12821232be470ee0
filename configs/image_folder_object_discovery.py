"""Object discovery on a folder of your own images.

  python main.py --config=configs/image_folder_object_discovery.py \
    --config.data.path=photos --config.data.num_examples=2000 \
    --config.data.num_train=1900 --config.data.num_eval=100

Data: the first num_examples images of the folder and of those below it, in the
order of their paths. The first num_train are for training, and the next
num_eval for evaluation. Whole images are squashed to 128x128. If the folder has
the folders images and masks, the masks give the adjusted Rand index;
slot_attention/data/image_files.py says how.

The model and the schedule are those of CLEVR6, for at most six objects and the
background. Images of the real world are harder than CLEVR's, and Slot Attention
seldom separates their objects by reconstruction alone.

Measured here: not yet.
"""

from ml_collections import ConfigDict

from configs import clevr6_object_discovery


def get_config() -> ConfigDict:
  config = clevr6_object_discovery.get_config()
  config.data.name = "image_folder"
  config.data.source = "original"
  config.data.path = "images"
  config.data.num_examples = 1_000
  config.data.num_train = 900
  config.data.num_eval = 100
  config.data.preprocessing = ConfigDict({"image_size": 128})
  config.data.procedural = ConfigDict()
  return config
