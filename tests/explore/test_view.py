"""Tests of what the page to explore slots shows, without a browser."""

import io

import jax
import numpy as np
import PIL.Image
import pytest

from slot_attention import metrics, predict, pretrained, tasks
from slot_attention.data import datasets, image_files
from slot_attention.explore import pictures, view
from slot_attention.explore.state import Image, Piece, State
from slot_attention.explore.weights import Weights
from slot_attention.training import checkpoints, runs
from tests.runs import (
  make_run,
  use_dspn,
  use_iodine,
  use_monet,
  use_nem,
  use_slot_mlp,
)

SECOND = Image("example", 1)


def see(**fields):
  return view.see(State(**{"pretrained": "quickstart", **fields}))


def save_run(workdir, config):
  task = tasks.make_task(config)
  params = task.init(jax.random.key(0), datasets.image_shape(config.data))
  workdir.mkdir()
  runs.save_config(workdir, config)
  with checkpoints.open_checkpoints(workdir, keep=1, newest=0) as manager:
    checkpoints.save(manager, 3, params, optimizer=params)
  return str(workdir)


def test_the_view_is_what_predict_writes_for_the_same_image(tmp_path):
  path = tmp_path / "a.png"
  image = pretrained.load_examples("quickstart")["images"][2]
  PIL.Image.fromarray(image).save(path)
  predict.main(
    ["--pretrained=quickstart", f"--to={tmp_path}", "--num_slots=5", str(path)]
  )
  own = view.UploadedImage(image_files.read_image(path))
  state = State(pretrained="quickstart", image=Image("own"), slots=5)
  seen = view.see(state, own)
  example = see(image=Image("example", 2), slots=5)
  with np.load(tmp_path / "a" / "outputs.npz") as outputs:
    for name in ("masks", "recons", "attn", "slots"):
      for x in (seen, example):
        np.testing.assert_allclose(
          x.first.outputs[name], outputs[name], atol=1e-4, err_msg=name
        )
  assert not seen.note
  other = see(image=Image("example", 2), slots=5, seed=1)
  change = other.first.outputs["slots"] - example.first.outputs["slots"]
  assert np.abs(change).max() > 0.1


def test_slots_that_are_removed_leave_the_others_as_if_alone():
  run = pretrained.load("quickstart")
  whole = see()
  slots = whole.first.slots
  canvas = (Piece(0, 0), Piece(0, 3))
  painting = see(canvas=canvas).first.painting
  expected = run.task.decode(run.params, slots[None, [0, 3]])
  assert painting["masks"].shape == (2, 16, 16, 1)
  for name, x in expected.items():
    np.testing.assert_allclose(painting[name], x[0], atol=1e-4, err_msg=name)
  assert np.abs(painting["masks"] - whole.first.painting["masks"][[0, 3]]).max()


def test_slots_of_a_second_image_are_painted_into_the_first():
  canvas = (Piece(0, 0), Piece(0, 1, 1, 2, 0.5), Piece(1, 3))
  seen = see(second=SECOND, canvas=canvas, second_canvas=(Piece(0, 1),))
  a, b = seen.first.slots, seen.second.slots
  run = pretrained.load("quickstart")
  slots = np.stack([a[0], (a[1] + b[2]) / 2, b[3]])
  expected = run.task.decode(run.params, slots[None])
  for name, x in expected.items():
    np.testing.assert_allclose(
      seen.first.painting[name], x[0], atol=1e-4, err_msg=name
    )
  expected = run.task.decode(run.params, a[None, [1]])
  np.testing.assert_allclose(
    seen.second.painting["recons"], expected["recons"][0], atol=1e-4
  )


def test_an_earlier_iteration_shows_what_its_slots_paint():
  seen = see(iterations=4, t=2)
  run = pretrained.load("quickstart")
  slots = seen.first.outputs["slots_per_iteration"][2]
  expected = run.task.decode(run.params, slots[None])
  np.testing.assert_allclose(
    seen.first.painting["masks"], expected["masks"][0], atol=1e-4
  )
  last = see(iterations=4)
  assert last.state.t == 4
  assert float(last.first.painting["ari"]) > 0.9


def test_one_program_serves_every_seed_image_and_edit():
  weights = Weights("quickstart", None)
  batch = view.examples(view.load("quickstart", None))[0]
  assert not weights.is_compiled(3, 2)
  for seed in (0, 5):
    weights.see(batch, num_slots=3, num_iterations=2, seed=seed)
  assert weights.is_compiled(3, 2) and not weights.is_compiled(3, 3)
  assert not weights.is_paint_compiled(3, places=3)
  for n in (1, 2, 3):
    weights.paint(np.zeros((n, 64), np.float32), batch, places=3)
  assert weights.is_paint_compiled(2, places=3)
  assert not weights.is_paint_compiled(4, places=3)
  assert len(weights._programs) == 2


def test_a_model_may_have_more_slots_than_can_be_chosen(monkeypatch):
  monkeypatch.setattr("slot_attention.explore.weights.MAX_SLOTS", 2)
  monkeypatch.setattr("slot_attention.explore.weights.MAX_ITERATIONS", 2)
  weights = Weights("quickstart", None)
  weights.check(4, 3)
  with pytest.raises(ValueError, match="num_slots=5 must be from 1 to 4"):
    weights.check(5, 3)


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"slots": 99}, "num_slots=99 must be from 1 to 24"),
    ({"iterations": 33}, "num_iterations=33 must be from 1 to 32"),
    ({"seed": -1}, "seed=-1 must be from 0 to"),
    ({"t": 4}, "t=4 must be from 1 to 3"),
    ({"image": Image("example", 16)}, "example:16 must be from 0 to 15"),
    ({"image": Image("own")}, "a link does not contain your image"),
    ({"canvas": (Piece(1, 0),)}, "the second image is missing"),
    ({"canvas": (Piece(0, 4),)}, "slot a5 is not one of 4"),
    ({"canvas": ()}, "the last slot stays"),
    ({"pretrained": "slow"}, "no weights called 'slow'"),
  ],
)
def test_what_cannot_be_shown_is_said_in_one_sentence(fields, words):
  with pytest.raises(ValueError, match=words):
    see(**fields)


def test_an_image_of_another_kind_is_noted():
  own = view.UploadedImage(np.full((30, 20, 3), 200, np.uint8))
  state = State(pretrained="quickstart", image=Image("own"))
  assert "its brightness is 0.78, theirs are" in view.see(state, own).note


@pytest.mark.parametrize(
  "use, decodes",
  [
    (use_slot_mlp, True),
    (use_iodine, True),
    (use_monet, False),
    (use_nem, False),
    (use_dspn, False),
  ],
)
def test_the_baseline_and_the_rivals_work_or_say_what_they_lack(
  config, tmp_path, use, decodes
):
  config.num_cpu_devices = 1
  use(config)
  workdir = save_run(tmp_path / "run", config)
  seen = view.see(State(workdir=workdir))
  assert (seen.first.slots is not None) == decodes
  assert len(pictures.to_png(seen)) > 1_000
  assert pictures.highlight(seen, seen.first, 0, 1).shape[:2] == (12, 12)
  if use is use_dspn:
    assert len(pictures.predictions(seen)) == 5
    assert pictures.table(seen).count("data-slot") == 5
  else:
    assert seen.first.painting["masks"].shape[1:] == (12, 12, 1)
  if decodes:
    state = State(workdir=workdir, canvas=(Piece(0, 2), Piece(0, 3)))
    painting = view.see(state).first.painting
    np.testing.assert_allclose(painting["masks"].sum(0), 1, atol=1e-5)
  if use in (use_slot_mlp, use_dspn):
    with pytest.raises(ValueError, match="num_slots=4: .* exactly 5 slots"):
      view.see(State(workdir=workdir, slots=4))
  if use in (use_slot_mlp, use_monet):
    with pytest.raises(ValueError, match="num_iterations=2: the model of"):
      view.see(State(workdir=workdir, iterations=2))
    with pytest.raises(ValueError, match="t=1: this model has no iterations"):
      view.see(State(workdir=workdir, t=1))


def test_the_arrays_of_a_view_are_exported():
  seen = see(second=SECOND, canvas=(Piece(0, 1), Piece(1, 0)))
  with np.load(io.BytesIO(view.to_npz(seen)), allow_pickle=False) as arrays:
    assert arrays["images"].shape == (16, 16, 3)
    assert arrays["images"].min() >= -1 and arrays["images"].max() <= 1
    assert arrays["attn"].shape == (3, 256, 4)
    assert arrays["canvas_masks"].shape == (2, 16, 16, 1)
    np.testing.assert_array_equal(
      arrays["second_slots"], seen.second.outputs["slots"]
    )
    np.testing.assert_array_equal(
      arrays["canvas_recons"], seen.first.painting["recons"]
    )


def test_the_picture_of_a_view_holds_its_link_and_all_its_slots():
  seen = see(second=SECOND, canvas=(Piece(0, 1), Piece(1, 0)))
  with PIL.Image.open(io.BytesIO(pictures.to_png(seen))) as picture:
    assert seen.state.query() in picture.text["slot_attention"]
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
  for image, slot, is_there in (
    (0, 1, True), (1, 0, True), (0, 2, False), (1, 3, True)
  ):  # fmt: skip
    color = np.rint(255 * pictures.slot_color(4, image, slot))
    assert (np.abs(pixels - color).max(-1) <= 1).any() == is_there, (
      image,
      slot,
    )


def test_a_slot_has_one_colour_in_masks_and_trajectory():
  seen = see()
  masks = pictures.masks(seen, seen.first)
  for k in range(4):
    color = pictures.slot_color(4, 0, k)
    wins = seen.first.painting["masks"][..., 0].argmax(0) == k
    if wins.any():
      won = masks[wins]
      np.testing.assert_allclose(won, np.broadcast_to(color, won.shape))
      row, column = np.argwhere(wins)[0]
      place = (column + 0.5) / 16, (row + 0.5) / 16
      assert pictures.winner(seen.first, *place) == Piece(0, k)
  assert pictures.attention(seen, seen.first).shape == (4, 16, 16)
  assert pictures.to_css(pictures.slot_color(4, 0, 2)) in pictures.trajectory(
    seen
  )


def test_a_highlight_keeps_the_slot_and_dims_the_rest():
  seen = see()
  photo = pictures.photo(seen.first)
  light = pictures.highlight(seen, seen.first, 0, 1)
  share = seen.first.painting["masks"][1]
  np.testing.assert_allclose(light, photo * (0.25 + 0.75 * share), atol=1e-6)


def test_predictions_stand_beside_the_objects_that_the_loss_matches():
  seen = see(pretrained="clevr_set_prediction_small")
  rows = pictures.predictions(seen)
  targets = seen.first.batch["targets"][0]
  matched = [row for row in rows if row["cells"] and row["true"]]
  assert len(matched) == targets[:, -1].sum() == 3
  assert len(rows) == 6 and all(len(row["cells"]) == 3 for row in rows)
  for row in matched:  # The weights find these three objects.
    (sure, is_wrong), *_ = row["cells"][-1]
    assert float(sure) > 0.9 and not is_wrong
    assert [word for word, _ in row["true"][1:]] == [
      word for word, _ in row["cells"][-1][2:]
    ]
  few = see(pretrained="clevr_set_prediction_small", slots=2)
  rows = pictures.predictions(few)
  # Two slots, and then the objects that no slot is matched with.
  missed = 3 - sum(bool(row["true"]) for row in rows[:2])
  assert missed
  assert [bool(row["cells"]) for row in rows] == [True, True] + missed * [False]
  assert all(row["true"] for row in rows[2:])
  table = pictures.table(few)
  assert table.count('<tr data-slot="') == 2 and "no slot" in table


def test_the_ari_of_attention_is_that_of_the_iteration():
  name = "clevr_set_prediction_small"
  first, *_, last = [see(pretrained=name, t=t) for t in (1, 2, 3)]
  attention, segments = (
    first.first.outputs["attn"], first.first.batch["segments"]
  )  # fmt: skip
  for seen, attn in ((first, attention[0]), (last, attention[-1])):
    ari = metrics.attention_ari(attn[None], segments, num_segments=11)
    assert pictures.score(seen) == f"{float(ari[0]):.3f}"
  assert pictures.score(first) != pictures.score(last)


def test_a_run_of_set_prediction_is_shown(tmp_path):
  workdir = make_run(tmp_path / "run", "clevr_set_prediction_small")
  seen = view.see(State(workdir=str(workdir), slots=3))
  assert seen.first.painting is None and seen.first.slots is None
  assert len(pictures.predictions(seen)) >= 3
  assert pictures.score(seen) != "unknown"
