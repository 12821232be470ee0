"""Tests of procedural Tetrominoes against the genuine ones."""

import hashlib
from pathlib import Path
import time

import numpy as np
import pytest

from slot_attention.data import multi_object_records, tetrominoes

# The ten Tetrominoes of DeepMind's IODINE release (Apache-2.0), as the factors
# in their records: shape codes, rows, columns, colours of the three pieces.
GENUINE = tetrominoes.Scenes(
  shapes=np.array([
    [6, 5, 15], [9, 14, 5], [13, 5, 2], [14, 11, 16], [18, 17, 13],
    [7, 19, 16], [12, 7, 18], [9, 16, 16], [15, 15, 3], [10, 3, 2],
  ]),
  rows=np.array([
    [22, 11, 24], [12, 17, 0], [12, 22, 4], [14, 20, 2], [3, 15, 15],
    [16, 9, 2], [2, 13, 0], [14, 1, 18], [25, 5, 17], [16, 25, 1],
  ]),
  columns=np.array([
    [0, 19, 20], [3, 20, 19], [3, 4, 22], [19, 0, 1], [2, 4, 19],
    [25, 7, 20], [0, 1, 23], [25, 8, 8], [12, 5, 7], [5, 16, 25],
  ]),
  colors=np.array([
    [[1, 1, 0], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 1], [1, 1, 0]],
    [[1, 0, 1], [0, 1, 0], [1, 0, 1]], [[1, 1, 0], [1, 0, 1], [0, 0, 1]],
    [[0, 1, 1], [1, 0, 0], [0, 0, 1]], [[0, 1, 1], [0, 1, 0], [0, 0, 1]],
    [[0, 1, 0], [0, 1, 1], [1, 0, 1]], [[1, 0, 0], [0, 1, 0], [1, 0, 1]],
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]], [[0, 1, 0], [1, 0, 1], [0, 1, 1]],
  ], np.uint8),
)  # fmt: skip
# SHA-256 of their images followed by their segments, both uint8.
GENUINE_PIXELS = (
  "a87960346d896eb79b76520c14bb2062951f15b53410ce38d424fbc665156e08"
)
# The records themselves; without them the tests are skipped.
GENUINE_RECORDS = (
  Path(__file__).parents[3] / "shared/data/tetrominoes_mini.tfrecords"
)


def generate(num_examples, **options):
  size = tetrominoes.CHUNK_SIZE
  chunks = [
    tetrominoes.generate(chunk, **options)
    for chunk in range(-(-num_examples // size))
  ]
  return {
    name: np.concatenate([chunk[name] for chunk in chunks])[:num_examples]
    for name in chunks[0]
  }


def test_the_generator_draws_the_ten_genuine_images_pixel_for_pixel():
  drawn = tetrominoes.render(GENUINE)
  pixels = drawn["images"].tobytes() + drawn["segments"].tobytes()
  assert hashlib.sha256(pixels).hexdigest() == GENUINE_PIXELS


@pytest.mark.skipif(
  not GENUINE_RECORDS.exists(), reason="the genuine records are not here"
)
def test_the_reader_and_the_generator_agree_on_the_genuine_records():
  pytest.importorskip("tensorflow")
  (chunk,) = multi_object_records.read(GENUINE_RECORDS, "tetrominoes", 0, 10)
  drawn = tetrominoes.render(GENUINE)
  np.testing.assert_array_equal(chunk["images"], drawn["images"])
  np.testing.assert_array_equal(chunk["segments"], drawn["segments"])
  np.testing.assert_array_equal(chunk["shape"][:, 1:], GENUINE.shapes)
  np.testing.assert_array_equal(chunk["color"][:, 1:], GENUINE.colors)


def test_there_are_19_different_tetrominoes_of_four_blocks():
  assert len(set(tetrominoes.SHAPES)) == 19
  assert all(shape.count("#") == 4 for shape in tetrominoes.SHAPES)


def test_every_image_has_three_whole_pieces_without_overlap():
  drawn = generate(500, seed=0)
  assert drawn["images"].shape == (500, 35, 35, 3)
  for piece in (1, 2, 3):
    size = (drawn["segments"] == piece).sum(axis=(1, 2))
    np.testing.assert_array_equal(size, 100)
  black = drawn["images"].sum(-1) == 0
  np.testing.assert_array_equal(black, drawn["segments"] == 0)


def test_shapes_and_colors_are_uniform_and_positions_are_not_on_a_lattice():
  scenes = tetrominoes.sample(np.random.default_rng(0), 20_000)
  codes, counts = np.unique(
    scenes.colors.reshape(-1, 3), axis=0, return_counts=True
  )
  assert len(codes) == 6
  np.testing.assert_allclose(counts / counts.sum(), 1 / 6, atol=0.01)
  shapes = np.bincount(scenes.shapes.reshape(-1), minlength=20)[1:]
  # Rejecting overlaps makes compact shapes slightly more frequent.
  assert 0.03 < shapes.min() / shapes.sum() < 1 / 19
  assert shapes.max() / shapes.sum() < 0.08
  assert set(np.unique(scenes.rows % 5)) == {0, 1, 2, 3, 4}


def test_options_of_the_small_variants():
  drawn = generate(
    300,
    seed=1,
    image_size=18,
    block_size=2,
    min_gap=2,
    distinct_colors=True,
    background=90,
  )
  segments = drawn["segments"].astype(int)
  assert segments.shape == (300, 18, 18)
  for piece in (1, 2, 3):
    assert ((segments == piece).sum(axis=(1, 2)) == 16).all()
  # No other piece is within two pixels of a piece, also diagonally.
  for rows in range(-2, 3):
    for columns in range(-2, 3):
      a = segments[:, 2:-2, 2:-2]
      b = np.roll(segments, (rows, columns), (1, 2))[:, 2:-2, 2:-2]
      assert not ((a != b) & (a > 0) & (b > 0)).any()
  assert (drawn["images"][segments == 0] == 90).all()
  scenes = tetrominoes.sample(
    np.random.default_rng(0), 100, distinct_colors=True, shapes=(2, 19)
  )
  assert set(np.unique(scenes.shapes)) == {2, 19}
  for colors in scenes.colors:
    assert len({tuple(color) for color in colors.tolist()}) == 3


def test_a_chunk_depends_only_on_its_seed_and_number():
  options = {"image_size": 16, "block_size": 2}
  chunk = tetrominoes.generate(2, seed=3, **options)["images"]
  again = tetrominoes.generate(2, seed=3, **options)["images"]
  np.testing.assert_array_equal(chunk, again)
  assert len(chunk) == tetrominoes.CHUNK_SIZE
  assert (tetrominoes.generate(1, seed=3, **options)["images"] != chunk).any()
  assert (tetrominoes.generate(2, seed=4, **options)["images"] != chunk).any()


def test_scenes_without_room_are_refused():
  with pytest.raises(
    ValueError, match="image_size=12 has too little room for 6"
  ):
    tetrominoes.check_options(image_size=12, block_size=3, num_objects=6)
  with pytest.raises(ValueError, match="no room for a tetromino"):
    tetrominoes.check_options(image_size=12, block_size=4)
  with pytest.raises(ValueError, match="must be codes from 1 to 19"):
    tetrominoes.check_options(shapes=(3, 20))
  with pytest.raises(ValueError, match="num_objects=7 must be at most 6"):
    tetrominoes.check_options(num_objects=7, distinct_colors=True)
  with pytest.raises(ValueError, match="background=256 must be from 0 to 255"):
    tetrominoes.check_options(background=256)


def test_1000_images_a_second_on_a_busy_machine():
  start = time.process_time()
  generate(10_000, seed=0)
  assert 10_000 / (time.process_time() - start) > 1_000
