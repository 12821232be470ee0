"""Tests of the pictures."""

import matplotlib.image
import numpy as np
import pytest

from slot_attention import visualization
from slot_attention.data import clevr
from tests.test_metrics import random_sets

B, T, K, H, W = 2, 3, 5, 8, 12


def random_outputs(rng):
  logits = rng.normal(size=(B, K, H, W, 1))
  masks = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  recons = rng.uniform(-1.2, 1.2, (B, K, H, W, 3))
  return {
    "recons": recons,
    "masks": masks,
    "recon_combined": (masks * recons).sum(1),
  }


def test_pictures_are_clipped_and_converted_to_rgb():
  picture = visualization.to_picture(np.array([-3.0, -1, 0, 1, 2])[:, None])
  assert picture.shape == (5, 3)
  np.testing.assert_allclose(picture[:, 0], [0, 0, 0.5, 1, 1])


def test_slot_colors_differ_and_do_not_depend_on_the_number_of_slots():
  colors = visualization.slot_colors(11)
  gaps = np.abs(colors[:, None] - colors[None]).sum(-1) + np.eye(11)
  assert gaps.min() > 0.1
  np.testing.assert_array_equal(visualization.slot_colors(4), colors[:4])


def test_pixels_have_the_color_of_their_mask_and_slots_are_cut_out():
  masks = np.zeros((1, 3, 2, 2, 1))
  masks[0, 2, 0] = 1
  masks[0, 1, 1] = 1
  picture = visualization.color_by_mask(masks)
  colors = visualization.slot_colors(3)
  np.testing.assert_array_equal(picture[0, 0, 0], colors[2])
  np.testing.assert_array_equal(picture[0, 1, 0], colors[1])
  slots = visualization.cut_out(-np.ones((1, 3, 2, 2, 3)), masks)
  np.testing.assert_array_equal(slots[0, 0], 1)  # Empty: white.
  np.testing.assert_array_equal(slots[0, 2, 0], 0)  # Full: black.


def test_attention_maps_have_the_proportions_of_the_image():
  attn = np.zeros((B, T, 4 * 6, K))
  attn[1, 2, 1 * 6 + 5, 3] = 1  # Row 1, column 5.
  maps = visualization.attention_maps(attn, (H, W))
  assert maps.shape == (B, T, K, 4, 6)
  assert maps[1, 2, 3, 1, 5] == 1 and maps.sum() == 1
  with pytest.raises(ValueError, match="23 inputs .* of a 8x12 image"):
    visualization.attention_maps(attn[:, :, :23], (H, W))


def test_pictures_are_written_and_not_blank(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (B, H, W, 3))
  visualization.draw_slots(tmp_path / "s.png", images, random_outputs(rng))
  visualization.draw_attention(
    tmp_path / "a.png", images, rng.random((B, T, 4 * 6, K))
  )
  slots = matplotlib.image.imread(tmp_path / "s.png")
  attention = matplotlib.image.imread(tmp_path / "a.png")
  assert slots.std() > 0.1 and attention.std() > 0.1
  # The first has two rows of eight pictures, the second six rows of six.
  assert slots.shape[1] > 2.5 * slots.shape[0]
  assert 0.7 < attention.shape[1] / attention.shape[0] < 1.4


def red_share(path):
  picture = matplotlib.image.imread(path)[..., :3]
  assert picture.std() > 0.05
  return np.mean((picture[..., 0] > 0.8) & (picture[..., 1] < 0.3))


def test_wrong_predictions_are_red_and_right_ones_are_not(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 0.3, (B, H, W, 3)) * np.array([0, 1, 1])
  _, targets = random_sets(rng, B, 4, 4, 0.0)
  right = np.repeat(targets[:, None, ::-1], T, axis=1)
  wrong = right.copy()
  wrong[:, -1] = rng.random(wrong[:, -1].shape)
  shares = []
  for name, predictions in (("right", right), ("wrong", wrong)):
    path = tmp_path / f"{name}.png"
    visualization.draw_predictions(
      path, images, targets, predictions, clevr.PROPERTIES
    )
    shares.append(red_share(path))
  assert shares[0] == 0 and shares[1] > 1e-4


def test_objects_for_which_no_slot_is_left_are_red(tmp_path):
  rng = np.random.default_rng(0)
  _, targets = random_sets(rng, B, 4, 4, 0.0)
  visualization.draw_predictions(
    tmp_path / "p.png",
    np.zeros((B, H, W, 3)),
    targets,
    targets[:, None, :1],
    clevr.PROPERTIES,
  )
  assert red_share(tmp_path / "p.png") > 0


def test_no_object_is_matched_to_a_slot_that_is_left_over():
  targets = np.random.default_rng(0).random((B, 4, 19))
  spare = np.zeros((B, 2, 19), np.float32)
  predictions = np.concatenate([spare, targets], axis=1)[:, None]
  matches = visualization.match_predictions(predictions, targets)
  assert matches == [[{m: m + 2 for m in range(4)}]] * B


@pytest.mark.parametrize("channels", [1, 3])
def test_a_contact_sheet_shows_images_above_their_segments(tmp_path, channels):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (B, H, W, channels), dtype=np.uint8)
  segments = np.zeros((B, H, W), np.uint8)
  segments[0, :2] = 2
  path = tmp_path / "e.png"
  visualization.draw_examples(path, images, segments)
  sheet = matplotlib.image.imread(path)[..., :3]
  assert sheet.shape == (2 * H + 2, B * W + 2 * (B - 1), 3)
  np.testing.assert_allclose(sheet[:H, :W], np.broadcast_to(
    images[0] / 255, (H, W, 3)
  ), atol=0.005)  # fmt: skip
  color = visualization.slot_colors(2)[1]
  np.testing.assert_allclose(sheet[H + 2, 0], color, atol=0.005)
  assert sheet[H + 5, 0].max() == 0
  visualization.draw_examples(path, images, None)
  assert matplotlib.image.imread(path).shape[0] == H
  videos = np.stack([images, 255 - images], axis=1)
  visualization.draw_examples(path, videos, np.stack([segments] * 2, axis=1))
  frames = matplotlib.image.imread(path)[..., :3]
  assert frames.shape == (4 * H + 6, *sheet.shape[1:])
  np.testing.assert_array_equal(frames[: len(sheet)], sheet)
  second = frames[len(sheet) + 2 :]
  np.testing.assert_array_equal(second[H + 2 :], sheet[H + 2 :])
  np.testing.assert_allclose(second[:H, :W], 1 - sheet[:H, :W], atol=0.005)


def test_slots_have_borders_in_their_color_and_can_be_shown_whole(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (B, H, W, 3))
  outputs = random_outputs(rng)
  outputs["recons"][:] = -1  # Every slot paints black.
  black = []
  for use_masks in (True, False):
    path = tmp_path / "s.png"
    visualization.draw_slots(path, images, outputs, use_masks=use_masks)
    picture = matplotlib.image.imread(path)[..., :3]
    black.append(np.mean(picture.max(-1) < 0.05))
    for color in visualization.slot_colors(K):
      assert np.any(np.abs(picture - color).max(-1) < 0.02)
  assert black[1] > black[0] + 0.1


def test_every_iteration_has_a_row_per_image(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (B, H, W, 3))
  iterations = [random_outputs(rng) for _ in range(T)]
  sizes = []
  for count in (1, T):
    path = tmp_path / "i.png"
    visualization.draw_iterations(path, images, iterations[:count])
    sizes.append(matplotlib.image.imread(path).shape[0])
  assert sizes[1] > 2 * sizes[0]


def test_the_trajectory_shows_every_slot(tmp_path):
  slots = np.random.default_rng(0).normal(size=(T + 1, K, 7))
  path = tmp_path / "t.png"
  visualization.draw_trajectory(path, slots)
  picture = matplotlib.image.imread(path)[..., :3]
  for color in visualization.slot_colors(K):
    assert np.any(np.abs(picture - color).max(-1) < 0.02)
