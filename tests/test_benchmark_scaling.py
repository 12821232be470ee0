"""Tests of the benchmark of scaling: its model, by hand, and its record."""

import json
from pathlib import Path
import shlex

import pytest

from benchmarks import scaling
from benchmarks import scaling_model as model
from slot_attention.training import chips, compilation

ROOT = Path(__file__).parents[1]
RECORD = json.loads((ROOT / "results" / "scaling.json").read_text())


def test_the_time_of_an_all_reduce_computed_by_hand():
  # Two chips have one link, over which half of the bytes goes twice, in one
  # hop each.
  assert model.all_reduce_seconds(50e6, 2) == pytest.approx(1e-3 + 2e-6)
  # The chip at the corner of 4x4 has two links, and is 6 hops from the other.
  assert model.all_reduce_seconds(100e6, 16) == pytest.approx(
    2 * 15 / 16 * 1e-3 + 12e-6
  )
  # Every chip of 16x16 has four links, and none is more than 16 hops away.
  assert model.all_reduce_seconds(200e6, 256) == pytest.approx(
    2 * 255 / 256 * 1e-3 + 32e-6
  )
  for number in model.NUM_CHIPS:
    times = [model.all_reduce_seconds(x, number) for x in (0, 1e6, 1e9)]
    assert times == sorted(times)
    assert (times[-1] > 0) == (number > 1)


def test_the_axes_of_slices_are_those_of_v5e():
  for number in model.NUM_CHIPS:
    if number != 2:  # There is no such slice.
      axes = "x".join(map(str, model.axes_of(number)))
      assert f"v5e:{axes}" in chips.TOPOLOGIES


def compiled_share(share, operations):
  facts = {
    "topology": "v5e:2x2", "batch_size": 16, "chips": 4, "num_steps": 3600,
    "operations": operations, "main_memory_bytes": 0.0,
    "bytes_accessed": operations / 100, "temporary_bytes": 2**20 * share,
    "argument_bytes": 0, "unaliased_bytes": 0, "code_bytes": 0, "data_bytes": 0,
  }  # fmt: skip
  return {**facts, **compilation.estimate(facts)}


def test_strong_and_weak_scaling_computed_by_hand():
  # 1 s an image and 2 s a step.
  peak = 197e12
  compiled = {
    share: compiled_share(share, (share + 2) * peak) for share in (4, 8)
  }
  strong = model.strong_scaling(compiled, 0, 1000)
  assert [x["chips"] for x in strong] == [1, 2, 4, 8, 16]
  # Above the largest share, a step is at most in proportion to it.
  expected = {1: 18, 2: 10, 4: 6, 8: 4, 16: 3}
  for row in strong:
    number, seconds = row["chips"], expected[row["chips"]]
    assert row["least_seconds"] == pytest.approx(seconds, abs=1e-4)
    assert row["least_efficiency"] == pytest.approx(
      18 / number / seconds, abs=1e-4
    )
    assert row["memory_bytes"] == 2**20 * row["images_a_chip"]
    brought = 1000 * row["images_a_chip"] * min(number, 4) / seconds
    assert row["host_bytes_per_second"] == pytest.approx(brought, rel=1e-4)
  assert model.stops_at(strong, "least") == 16
  assert model.stops_at(strong[:-1], "least") is None
  weak = model.weak_scaling(compiled[4], 50e9 * 2, 1000)
  assert weak[0]["least_efficiency"] == 1
  assert weak[1]["batch_size"] == 8
  assert weak[1]["least_efficiency"] == pytest.approx(6 / (6 + 2), abs=1e-4)
  rates = [x["least_images_per_second"] for x in model.worth(compiled)]
  assert rates == sorted(rates)


def test_machines_share_the_chunks_of_drawn_scenes():
  one, two, *_ = model.preparation(300, {"cpu_seconds_per_image": 0.36})
  assert one["core_hours"] == two["core_hours"] == pytest.approx(0.03)
  assert one["minutes"] == pytest.approx(1.8)
  # One of them draws two chunks of 100.
  assert two["minutes"] == pytest.approx(1.2)


def test_the_record_of_scaling_is_what_its_sources_say():
  flags = scaling.parse_flags(shlex.split(RECORD["command"])[3:])
  *compiled, feeding, renderer = (
    json.loads((ROOT / path).read_text())
    for path in (*flags.compiled.split(","), flags.feeding, flags.renderer)
  )
  cases = [case for record in compiled for case in record["cases"]]
  result = model.compute(cases, feeding, renderer)
  result = json.loads(json.dumps(result))
  for name, value in result.items():
    assert RECORD[name] == value
  table = (ROOT / "results" / "scaling.md").read_text()
  assert table.endswith(scaling.to_markdown(result))
  for config in result["configs"]:
    for kind in ("strong", "weak"):
      for row in config[kind][:1]:
        assert row["least_efficiency"] == row["fetching_efficiency"] == 1
