"""Tests of the links and of the canvases of the page to explore slots."""

import dataclasses

import numpy as np
import pytest

from slot_attention.explore import state as states
from slot_attention.explore.state import Image, Piece, State


def whole(image, num_slots):
  return tuple(Piece(image, k) for k in range(num_slots))


def test_a_link_holds_every_field_of_the_state():
  state = State(
    workdir="runs/my run&1",
    image=Image("draw", 7, (("num_objects", 2), ("shape", 0))),
    second=Image("example", 3),
    slots=5,
    iterations=2,
    seed=11,
    t=1,
    canvas=(Piece(0, 0), Piece(0, 2, 1, 3, 0.25), Piece(1, 1)),
    second_canvas=(Piece(0, 1), Piece(1, 0)),
  )
  for field in dataclasses.fields(State):
    if field.name != "pretrained":  # It excludes workdir.
      assert getattr(state, field.name) != field.default, field.name
  fields = dict(states.urllib.parse.parse_qsl(state.query()))
  assert fields["canvas"] == "a1-a3~b4~0.25-b2"
  assert fields["image"] == "draw:7:num_objects=2:shape=0"
  assert states.read_query(fields) == state
  assert states.read_query({}) == State() and not State().query()


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"color": "1"}, "color in the link is not one of pretrained, workdir"),
    ({"slots": "-1"}, "slots=-1 in the link: it must be a number"),
    ({"image": "photo:1"}, "photo is not one of example, draw, own"),
    ({"image": "draw:1:x=y"}, "image=draw:1:x=y in the link"),
    ({"canvas": "a1-c2"}, "c2 is not a slot such as a1"),
    ({"canvas": "a0"}, "slot=0 must be at least 1"),
    ({"canvas": "a1~b2~1.50"}, "is not a slot such as a1"),
    ({"pretrained": "a", "workdir": "b"}, "both pretrained and workdir"),
  ],
)
def test_a_link_that_cannot_be_read_is_named(fields, words):
  with pytest.raises(ValueError, match=words):
    states.read_query(fields)


def test_a_canvas_is_composed_of_slots_of_both_images():
  first, second = np.random.default_rng(0).normal(size=(2, 3, 4))
  canvas = (Piece(0, 2), Piece(1, 0), Piece(0, 1, 1, 2, 0.25))
  slots = states.compose(canvas, [first, second])
  np.testing.assert_allclose(
    slots, [first[2], second[0], 0.75 * first[1] + 0.25 * second[2]]
  )
  with pytest.raises(ValueError, match="the second image is missing"):
    states.compose(canvas, [first, None])
  with pytest.raises(ValueError, match="slot a4 is not one of 3"):
    states.compose((Piece(0, 3),), [first, second])


def test_a_slot_is_removed_and_comes_back_to_its_place():
  canvas = whole(0, 3)
  without = states.toggle(canvas, 0, 1)
  assert [str(x) for x in without] == ["a1", "a3"]
  assert states.toggle(without, 0, 1) == canvas
  taken = states.toggle(without, 1, 0)
  assert [str(x) for x in taken] == ["a1", "a3", "b1"]


def test_two_slots_are_swapped_and_swapped_back():
  first, second = whole(0, 2), whole(1, 3)
  canvases = states.swap(first, second, 1, 2)
  assert [[str(x) for x in canvas] for canvas in canvases] == [
    ["a1", "b3"],
    ["a2", "b1", "b2"],
  ]
  assert states.swap(*canvases, 1, 2) == (first, second)
  with pytest.raises(ValueError, match="a2 and b1 cannot be swapped"):
    states.swap(*canvases, 1, 0)
  with pytest.raises(ValueError, match="a1 and b1 cannot be swapped"):
    states.swap(first[1:], second, 0, 0)


def test_a_slot_is_interpolated_and_goes_back():
  canvas = states.interpolate(whole(0, 2), 1, 0, 0.5)
  assert [str(x) for x in canvas] == ["a1", "a2~b1~0.50"]
  assert states.interpolate(canvas, 1, 0, 0) == whole(0, 2)
  with pytest.raises(ValueError, match="a2 is removed"):
    states.interpolate(whole(0, 1), 1, 0, 0.5)
