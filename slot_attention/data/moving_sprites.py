"""Procedural videos: sprites of Multi-dSprites that move on black.

The first frame is a scene of `multi_dsprites` in the variant "binarized": two
or three squares, ellipses and hearts with the positions, orientations and
scales of dSprites, where the later sprite is on top and each has a visible
pixel. The rest is chosen here:
  - Every sprite has a velocity: its direction is uniform, and its speed is
    uniform from 2 to 6 pixels a frame in a video of 64x64. Videos of other
    sizes are scaled as a whole, velocities included.
  - Speed and orientation stay constant. Where the circle that contains a sprite
    at all orientations reaches the edge of the image, the sprite is reflected
    as light is by a mirror. It is therefore always entirely inside.
  - Sprites pass over each other, and do not collide. One may be hidden in later
    frames, but not in the first one.
  - The hues of a video's sprites are evenly spaced, from a uniform offset, at
    full saturation and value. So two sprites are red and cyan, for example, and
    three are red, green and blue. The background is black.

Letters in shapes: N videos, F frames, P rows for sprites, S side of the images.
"""

import numpy as np

from slot_attention.checks import check_at_least
from slot_attention.data import multi_dsprites
from slot_attention.data.sprite_outlines import REACH

FEWEST_SPRITES, MAX_SPRITES = multi_dsprites.NUM_SPRITES["binarized"]
CHUNK_SIZE = 250

NUM_FRAMES = 6
# Slowest and fastest sprite, in pixels a frame of a video of 64x64.
SPEEDS = (2.0, 6.0)


def trajectories(
  scenes: multi_dsprites.Scenes, velocities: np.ndarray, num_frames: int
) -> np.ndarray:
  """Moves the sprites of scenes, and reflects them at the edges.

  Args:
    scenes: the first frame of N videos.
    velocities: float [N, P, 2], along x and y, in pixels a frame of a video of
      64x64.
    num_frames: number of frames F.

  Returns:
    The centres of the sprites, float [N, F, P, 2], for
    `multi_dsprites.render`.
  """
  scales = multi_dsprites.SCALES[scenes.scales]
  margin = (REACH * scales)[:, None, :, None]
  room = multi_dsprites.IMAGE_SIZE - 2 * margin
  start = multi_dsprites.centers_of(scenes)[:, None]
  frame = np.arange(num_frames)[:, None, None]
  # Without edges, the sprites would cross one mirror image of the room after
  # the other. Every second one of them is upside down.
  unfolded = (start - margin + frame * velocities[:, None]) % (2 * room)
  return margin + room - np.abs(unfolded - room)


def generate(
  chunk: int,
  *,
  seed: int,
  image_size: int = multi_dsprites.IMAGE_SIZE,
  num_frames: int = NUM_FRAMES,
) -> dict[str, np.ndarray]:
  """Makes the `CHUNK_SIZE` examples of one chunk.

  They depend only on the arguments. Fewer frames are the first ones of the same
  videos.

  Returns:
    A dict of
      images: uint8 [N, F, S, S, 3];
      segments: uint8 [N, F, S, S], 0 for background, p for sprite p, counted
        from 1, in all frames.
  """
  rng = np.random.default_rng([seed, chunk])
  scenes = multi_dsprites.sample(
    rng, CHUNK_SIZE, variant="binarized", image_size=image_size
  )
  shape = scenes.shapes.shape
  direction = rng.uniform(0, 2 * np.pi, shape)
  speed = rng.uniform(*SPEEDS, shape)
  velocities = speed[..., None] * np.stack(
    [np.cos(direction), np.sin(direction)], axis=-1
  )
  num_sprites = (scenes.shapes > 0).sum(axis=1)
  offsets = rng.random((CHUNK_SIZE, 1))
  hues = offsets + np.arange(shape[1]) / num_sprites[:, None]
  scenes = scenes._replace(
    colors=multi_dsprites.to_rgb(hues, np.ones(shape), np.ones(shape)),
    backgrounds=np.zeros((CHUNK_SIZE, 3), np.uint8),
  )
  centers = trajectories(scenes, velocities, num_frames)
  frames = [
    multi_dsprites.render(scenes, image_size=image_size, centers=centers[:, t])
    for t in range(num_frames)
  ]
  return {
    name: np.stack([frame[name] for frame in frames], axis=1)
    for name in ("images", "segments")
  }


def check_options(
  *,
  image_size: int = multi_dsprites.IMAGE_SIZE,
  num_frames: int = NUM_FRAMES,
) -> None:
  """Raises a ValueError for options that `generate` cannot use."""
  multi_dsprites.check_options(variant="binarized", image_size=image_size)
  check_at_least("num_frames", num_frames, 1)
