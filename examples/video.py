"""Follows objects in videos by passing the slots from frame to frame.

  python examples/video.py

The program draws videos of three moving squares. The weights `quickstart`,
which were trained on single images, find the squares in each frame. The first
frame gets random initial slots and three iterations, every later frame only one
iteration. The program compares two choices of the initial slots of the later
frames:

  - the slots of the frame before, given as `slots`: one iteration is enough,
    and nearly every square stays in its slot;
  - random slots: one iteration is not enough, and the slots of the squares
    change from frame to frame.
"""

from collections.abc import Sequence

import jax
import numpy as np

from slot_attention import pretrained, tasks
from slot_attention.data import tetrominoes
from slot_attention.metrics import foreground_ari

NUM_VIDEOS = 16
NUM_FRAMES = 20
IMAGE_SIZE = 16
BLOCK_SIZE = 3
SQUARE_SIZE = 2 * BLOCK_SIZE


def draw_videos(rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
  """Draws the frames of all videos.

  Returns:
    For each frame, images uint8 [B, 16, 16, 3] and segments uint8 [B, 16, 16].
  """
  scenes = tetrominoes.sample(
    rng,
    NUM_VIDEOS,
    shapes=(19,),  # The square.
    image_size=IMAGE_SIZE,
    block_size=BLOCK_SIZE,
    min_gap=1,
    distinct_colors=True,
  )
  frames = []
  for _ in range(NUM_FRAMES):
    frames.append(
      tetrominoes.render(scenes, image_size=IMAGE_SIZE, block_size=BLOCK_SIZE)
    )
    scenes = move(rng, scenes)
  return frames


def move(
  rng: np.random.Generator, scenes: tetrominoes.Scenes
) -> tetrominoes.Scenes:
  """Moves every square by at most one pixel in both directions.

  If two squares of a scene would touch, the scene does not change.
  """
  corners = np.stack([scenes.rows, scenes.columns], axis=-1)  # [B, P, 2]
  moved = corners + rng.integers(-1, 2, corners.shape)
  moved = moved.clip(0, IMAGE_SIZE - SQUARE_SIZE)
  first, second = np.triu_indices(corners.shape[1], k=1)
  distances = np.abs(moved[:, first] - moved[:, second]).max(axis=-1)
  are_apart = (distances > SQUARE_SIZE).all(axis=1)
  corners = np.where(are_apart[:, None, None], moved, corners)
  return scenes._replace(rows=corners[..., 0], columns=corners[..., 1])


def find_squares(masks: np.ndarray, segments: np.ndarray) -> np.ndarray:
  """Returns the slot that has most pixels of each square, int [B, 3].

  Args:
    masks: [B, K, H, W, 1].
    segments: [B, H, W], 1 to 3 for the squares.
  """
  winners = np.asarray(masks)[..., 0].argmax(axis=1)
  slots = np.arange(masks.shape[1])[:, None, None]
  squares = np.arange(1, 4)[:, None, None]
  counts = np.einsum(
    "bshw,bkhw->bsk",
    (segments[:, None] == squares).astype(int),
    (winners[:, None] == slots).astype(int),
  )
  return counts.argmax(axis=-1)


def follow(
  frames: Sequence[dict[str, np.ndarray]], *, pass_slots: bool
) -> tuple[float, float]:
  """Decomposes all frames.

  Args:
    frames: as returned by `draw_videos`.
    pass_slots: whether the slots of a frame are the initial slots of the next.

  Returns:
    The share of squares that are in the same slot as in the frame before, and
    the foreground ARI of the last frame.
  """
  run = pretrained.load("quickstart")

  @jax.jit
  def first_frame(batch, key):
    return run.task.apply(run.params, batch, key)

  @jax.jit
  def next_frame(batch, key, slots):
    return run.task.apply(run.params, batch, key, slots=slots, num_iterations=1)

  slots_of_squares = []
  keys = jax.random.split(jax.random.key(0), len(frames))
  for key, frame in zip(keys, frames):
    batch = tasks.normalize(frame)
    if not slots_of_squares:
      outputs = first_frame(batch, key)
    else:
      # Without `slots`, the key draws the initial slots.
      slots = outputs["slots"] if pass_slots else None
      outputs = next_frame(batch, key, slots)
    slots_of_squares.append(find_squares(outputs["masks"], frame["segments"]))
  stays = np.equal(slots_of_squares[1:], slots_of_squares[:-1])
  ari = foreground_ari(outputs["masks"], frame["segments"], num_segments=4)
  return float(stays.mean()), float(ari.mean())


def main() -> None:
  """Prints how well squares are found and followed in both ways."""
  frames = draw_videos(np.random.default_rng(0))
  for name, pass_slots in (("passed on", True), ("random", False)):
    stays, ari = follow(frames, pass_slots=pass_slots)
    print(
      f"initial slots {name}: {stays:.0%} of the squares stay in their slot;"
      f" foreground ARI of the last frame {ari:.2f}"
    )


if __name__ == "__main__":
  main()
