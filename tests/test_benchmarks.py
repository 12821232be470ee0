"""Tests of the benchmarks: counts, commands, and that they run."""

import concurrent.futures
import importlib
import json
from pathlib import Path
import shlex
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from benchmarks import clevr_renderer as renderer_benchmark
from benchmarks import convolutions as convolutions_benchmark
from benchmarks import (
  costs,
  jax_worker,
  matching,
  operations,
  profile,
  rivals,
  startup,
  steps,
  tpu,
)
import configs
from slot_attention import command
from slot_attention.data import clevr_scenes
from slot_attention.models import convolutions

ROOT = Path(__file__).parents[1]
RECORDS = {
  path.stem: json.loads(path.read_text())
  for path in (ROOT / "results").glob("*.json")
}
BENCHMARKS = {
  name: shlex.split(record["command"])[2:]
  for name, record in RECORDS.items()
  if "benchmarks." in record.get("command", "")
}


def count(function, *arguments):
  return operations._count(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_operations_of_layers_counted_by_hand():
  assert (
    count(jnp.matmul, jnp.zeros((3, 5)), jnp.zeros((5, 7))) == 2 * 3 * 5 * 7
  )
  images = jnp.zeros((2, 8, 8, 3))
  for layer, pixels in (
    (convolutions.Conv(4, (5, 5)), 8 * 8),
    (convolutions.Conv(4, (5, 5), (2, 2)), 4 * 4),
    # It has as many operations as the convolution that it transposes.
    (convolutions.ConvTranspose(4, (5, 5), (2, 2)), 8 * 8),
  ):
    variables = layer.init(jax.random.key(0), images)
    forward = 2 * 2 * pixels * 5 * 5 * 3 * 4
    assert count(layer.apply, variables, images) == forward

    def loss(variables, images, layer=layer):
      return layer.apply(variables, images).sum()

    gradient = jax.value_and_grad(loss, argnums=(0, 1))
    # The gradients of kernel and images have as many operations each.
    assert count(gradient, variables, images) == 3 * forward


def test_operations_in_loops_count_once_per_iteration():
  def loop(x):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, length=6)[0]

  assert count(loop, jnp.zeros((4, 4))) == 6 * 2 * 4**3


def test_operations_grow_with_the_batch():
  config = configs.load("smoke:tetrominoes_object_discovery")
  counts = []
  for config.batch_size in (2, 4, 6):
    counts.append(operations.count_operations(config))
  once, twice, thrice = counts
  # The convolutions of position and unit vectors do not depend on the batch.
  assert once < twice < 2 * once
  assert thrice - twice == twice - once


@pytest.mark.parametrize("name", BENCHMARKS)
def test_recorded_commands_have_valid_flags(name):
  module, *arguments = BENCHMARKS[name]
  flags = importlib.import_module(module).parse_flags(arguments)
  assert (flags.output or "").removesuffix(".json") in (f"results/{name}", "")


def test_the_record_of_the_renderer_names_its_reference():
  measured = "mean_error" in RECORDS["clevr_renderer"]
  flags = renderer_benchmark.parse_flags(BENCHMARKS["clevr_renderer"][1:])
  assert measured == bool(flags.reference)


@pytest.mark.parametrize(
  "name",
  [
    "clevr_renderer",
    "convolutions",
    "costs",
    "feeding",
    "matching",
    "profile",
    "rivals",
    "scaling",
    "startup",
    "steps",
    "tpu",
  ],
)
def test_unknown_flags_are_refused(name):
  main = importlib.import_module(f"benchmarks.{name}").main
  with pytest.raises(command.UsageError, match="Unknown.* flag 'output_file'"):
    main(["--output_file=x"])


@pytest.mark.parametrize("name", ["costs", "feeding"])
def test_a_config_must_be_given(name):
  main = importlib.import_module(f"benchmarks.{name}").main
  with pytest.raises(command.UsageError, match="give --config"):
    main([])


@pytest.mark.parametrize("name", ["topologies", "precisions", "variants"])
def test_what_cannot_be_compiled_for_tpus_is_named(name):
  with pytest.raises(command.UsageError, match=f"--{name}: x is not one of "):
    tpu.parse_flags([f"--{name}=x"])


def test_every_recorded_step_for_tpus_reduces_once_and_never_asks_the_host():
  cases = [case for name in RECORDS if name.startswith("tpu")
           for case in RECORDS[name]["cases"]]  # fmt: skip
  assert len(cases) >= 10
  for case in cases:
    assert case["collectives"] == {"all-reduce": 1}
    assert case["host_transfers"] == {}
    assert case["aliased"] == case["donated"]


def test_a_step_that_does_not_fit_on_tpus_has_its_reason_in_the_table():
  facts = {"config": "a", "topology": "b", "precision": "c", "variant": "d"}
  reason = "the step needs 2 GiB"
  header, _, row = tpu.to_markdown(
    [{**facts, "does_not_fit": reason}]
  ).splitlines()
  assert row.startswith(f"| a | b | c | d | {reason} |")
  assert row.count("|") == header.count("|")


@pytest.mark.slow
def test_starts_are_timed_until_the_first_steps_are_done(tmp_path):
  seconds = startup.measure(["smoke:quickstart"], 1, str(tmp_path), [4])
  ((imports,), (cold,), (warm,)) = seconds["smoke:quickstart"].values()
  assert 0 < imports < min(cold, warm)


def test_this_projects_worker_has_the_optimizer_of_the_config():
  config = configs.load("tetrominoes_small")
  params = {"mlp": {"kernel": jnp.ones((32, 32)), "bias": jnp.ones(32)}}
  sizes = []
  for fields in ({}, {"optimizer": "adam"}):
    optimizer = jax_worker._make_optimizer({**config, **fields}, 1e-3)
    state = optimizer.init(params)
    sizes.append(sum(x.size for x in jax.tree.leaves(state)))
  assert sizes[1] - sizes[0] > 1_000  # Adam has a second moment of the kernel.


def test_costs_are_those_of_slot_attention_alone():
  with pytest.raises(command.UsageError, match="only Slot Attention"):
    costs.main(["--config=iodine:quickstart"])


def test_each_config_has_its_batch_size():
  with pytest.raises(command.UsageError, match="one number for each config"):
    startup.parse_flags(["--configs=quickstart"])


def test_contenders_that_do_not_exist_are_named():
  main = importlib.import_module("benchmarks.steps").main
  with pytest.raises(command.UsageError, match="tensor is not one of jax, "):
    main(["--contenders=jax,tensor"])


def test_a_reference_is_compared_with_what_is_drawn(tmp_path, monkeypatch):
  scenes = clevr_scenes.sample(range(2), seed=0, min_objects=3, max_objects=4)
  described = clevr_scenes.annotations(scenes)
  rng = np.random.default_rng(0)
  for n, description in enumerate(described):
    description["image_filename"] = f"image_{n}.png"
    description["mask_filename"] = f"mask_{n}.png"
    lamps = ("Lamp_Key", "Lamp_Fill", "Lamp_Back")
    description["camera_and_lamps"] = {
      "Camera": scenes.camera[n].tolist(),
      **{name: xyz.tolist() for name, xyz in zip(lamps, scenes.lamps[n])},
    }
    # The photographs are noise, and the masks have no object.
    noise = rng.integers(0, 256, (240, 320, 3), np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / f"image_{n}.png")
    nothing = np.zeros((240, 320), np.uint8)
    PIL.Image.fromarray(nothing).save(tmp_path / f"mask_{n}.png")
  (tmp_path / "scenes.json").write_text(json.dumps({"scenes": described}))
  read, images, masks, _ = renderer_benchmark.read_reference(tmp_path, 2)
  for field in ("coords", "rotations", "num_objects", "camera", "lamps"):
    np.testing.assert_allclose(
      getattr(read, field), getattr(scenes, field), rtol=1e-6, err_msg=field
    )
  jax.tree.map(np.testing.assert_array_equal, read.classes, scenes.classes)
  assert images.shape == (2, 240, 320, 3) and masks.shape == (2, 240, 320)

  output = tmp_path / "measured"
  arguments = [
    f"--reference={tmp_path}", f"--output={output}", "--num_scenes=2",
    "--num_chunks=0", "--samples=1",
  ]  # fmt: skip
  monkeypatch.setattr(sys, "argv", ["", *arguments])
  renderer_benchmark.main(arguments)
  record = json.loads(output.with_suffix(".json").read_text())
  assert f"--reference={tmp_path}" in record["command"]
  assert record["num_scenes"] == 2
  assert record["mean_error"] > 30
  assert record["mask_iou"] == 0
  assert 0 < record["mask_agreement"] < 1
  assert output.with_suffix(".png").exists()


def test_mask_iou_of_equal_and_of_shifted_masks():
  masks = np.zeros((1, 4, 6), int)
  masks[0, :, :2], masks[0, :, 4:] = 1, 2
  np.testing.assert_array_equal(
    renderer_benchmark.mask_iou(masks, masks), [1, 1]
  )
  shifted = np.roll(masks, 1, axis=2)
  np.testing.assert_allclose(
    renderer_benchmark.mask_iou(masks, shifted), [1 / 3, 1 / 3]
  )


def test_the_benchmark_of_the_matching_runs(tmp_path, capsys, monkeypatch):
  arguments = [
    "--batch_size=3", "--num_objects=4", "--rounds=1",
    f"--output={tmp_path / 'measured.json'}",
  ]  # fmt: skip
  monkeypatch.setattr(sys, "argv", ["", *arguments])
  matching.main(arguments)
  assert "3 sets of 4" in capsys.readouterr().out
  record = json.loads((tmp_path / "measured.json").read_text())
  assert {"optax", "subsets"} < set(record["median_seconds"])


def test_the_benchmark_of_the_convolutions_runs(tmp_path, capsys, monkeypatch):
  layers = {
    "plain": (2, 6, 3, 4, 3, 1, False),
    "transposed": (2, 6, 3, 4, 5, 2, True),
  }
  monkeypatch.setattr(convolutions_benchmark, "_LAYERS", layers)
  arguments = ["--rounds=1", f"--output={tmp_path / 'measured'}"]
  monkeypatch.setattr(sys, "argv", ["", *arguments])
  convolutions_benchmark.main(arguments)
  table = capsys.readouterr().out
  seconds = json.loads((tmp_path / "measured.json").read_text())[
    "median_seconds"
  ]
  assert set(seconds) == {*layers, "Tetrominoes, decoder, the first"}
  of_layer = seconds["transposed"]["gradient of the kernel"]
  assert f"{of_layer['plain'] / of_layer['fast']:.2f}" in table


def test_the_benchmark_of_the_convolutions_compares_equal_functions():
  for transposed in (False, True):
    plain, fast, inputs, kernel = convolutions_benchmark.make_layer(
      2, 6, 3, 4, 5, 2, transposed
    )
    parts = [
      convolutions_benchmark.parts_of(layer, inputs, kernel)
      for layer in (plain, fast)
    ]
    for part in parts[0]:
      np.testing.assert_allclose(
        *(x[part]() for x in parts), rtol=1e-4, atol=1e-5
      )
  calls = convolutions_benchmark.make_broadcast()
  np.testing.assert_allclose(
    calls["plain"](), calls["fast"](), rtol=1e-4, atol=1e-5
  )


@pytest.mark.slow
def test_the_benchmarks_of_steps_run(tmp_path):
  common = ["--steps=1", "--rounds=2", f"--output={tmp_path / 'measured'}"]
  for row, arguments in (
    (
      "| jax | training |",
      [
        "benchmarks.steps",
        "--configs=smoke:quickstart,smoke:clevr_set_prediction_small",
        "--contenders=jax",
        "--remat_chunk_size=3",
        "--steps_per_dispatch=2",
        f"--data_dir={tmp_path}",
      ],
    ),
    (
      "| remat in chunks of 8 |",
      ["benchmarks.costs", "--config=smoke:quickstart"],
    ),
  ):
    subprocess.run(
      [sys.executable, "-m", *arguments, *common], cwd=ROOT, check=True
    )
    record = json.loads((tmp_path / "measured.json").read_text())
    assert arguments[0] in record["command"]
    assert row in (tmp_path / "measured.md").read_text()


def test_the_first_call_counts_whole_and_later_ones_by_the_step(monkeypatch):
  class Stub:
    works = ("training",)

    def __init__(self):
      self.versions = {}
      self.calls = iter([6.0, 3.0, 2.0, 3.0, 4.0])

    def measure(self, work, num_steps):
      assert work == "training" and num_steps in (5, 10)
      return {"seconds": next(self.calls), "peak_bytes": 7}

    def stop(self):
      assert next(self.calls, None) is None

  monkeypatch.setattr(steps, "start_worker", lambda *_: Stub())
  flags = steps.parse_flags(
    ["--contenders=torch", "--steps=8", "--rounds=2", "--steps_per_dispatch=5"]
  )
  name = "smoke:quickstart"
  measured = steps.measure(name, flags)["contenders"]["torch"]
  assert measured["works"]["training"] == {
    "seconds": 3.0, "seconds_of_rounds": [2.0, 4.0], "seconds_of_first": 30.0
  }  # fmt: skip
  assert measured["peak_bytes"] == 7


@pytest.mark.parametrize(
  ("op_name", "part"),
  [
    (
      "jit(f)/while/body/jvp(ObjectDiscovery)/decoder/decoder._decode/conv_1/add",
      ("decoder/conv_1", "forward"),
    ),
    (
      "jit(f)/transpose(jvp(SetPrediction))/encoder/conv_0/while/body/mul",
      ("encoder/conv_0", "backward"),
    ),
    ("jit(f)/ObjectDiscovery/encoder/mlp/dot", ("encoder", "forward")),
    ("jit(f)/jvp(vmap())/while/body/add", (profile._OTHERS, "forward")),
  ],
)
def test_an_instruction_belongs_to_a_part_of_the_model(op_name, part):
  assert profile.part_of(op_name) == part


def test_shares_are_those_of_the_instructions_of_the_program():
  program = profile.read_program(
    [
      "HloModule jit_f",
      '  %add.1 = f32[2]{0} add(%a, %b), metadata={op_name="jit(f)/'
      'ObjectDiscovery/encoder/conv_0/add" source_file="x"}',
      '  ROOT %while.2 = f32[] while(%c), metadata={op_name="jit(f)/while"}',
      '  %mul.3 = f32[] multiply(%a, %b), metadata={op_name="jit(f)/mul"}',
    ]
  )
  assert set(program) == {"add.1", "while.2", "mul.3"}
  events = [
    {"ph": "X", "name": "add.1", "dur": 3},
    {"ph": "X", "name": "while.2", "dur": 100},  # Contains the others.
    {"ph": "X", "name": "mul.3", "dur": 2},
    {"ph": "X", "name": "mul.3", "dur": 3},
    {"ph": "X", "name": "Execute", "dur": 100},
    {"ph": "M", "name": "add.1"},
  ]
  shares = profile.sum_up(events, program)
  assert list(shares) == [profile._OTHERS, "encoder/conv_0"]
  assert shares["encoder/conv_0"] == {"forward": 3 / 8, "backward": 0.0}


@pytest.mark.slow
def test_the_profile_of_a_model_has_all_its_parts(tmp_path):
  subprocess.run(
    [
      sys.executable, "-m", "benchmarks.profile", "--name=smoke:quickstart",
      f"--data_dir={tmp_path}", f"--output={tmp_path / 'measured'}",
    ],
    cwd=ROOT, check=True,
  )  # fmt: skip
  shares = json.loads((tmp_path / "measured.json").read_text())["shares"]
  for work, directions in (("training", 2), ("inference", 1)):
    parts = shares[work]
    assert {"encoder/conv_0", "decoder/conv_out", "slot_attention"} < set(parts)
    total = sum(sum(part.values()) for part in parts.values())
    np.testing.assert_allclose(total, 1)
    passed = [d for d in ("forward", "backward") if parts["encoder/conv_1"][d]]
    assert len(passed) == directions
  assert "| slot_attention |" in (tmp_path / "measured.md").read_text()


def test_costs_of_rivals_are_ratios_on_a_cpu_and_numbers_elsewhere():
  facts = {
    "config": "a", "batch_size": 8, "parameters": 2e6, "operations": 3e9,
    "seconds": 0.5, "images_per_second": 16.0, "peak_bytes": 4e9,
    "seconds_to_compile": 20.0,
  }  # fmt: skip
  slower = {**facts, "seconds": 2.0, "images_per_second": 4.0}
  results = {"sets": {"Slot Attention": facts, "DSPN": slower}}
  *_, ours, theirs = rivals.to_markdown(results, "cpu").splitlines()
  assert ours == "| Slot Attention | `a` | 2 | 3 | 1 | 1 | 1 | 1 |"
  assert theirs == "| DSPN | `a` | 2 | 3 | 4 | 0.25 | 1 | 1 |"
  header, *_, theirs = rivals.to_markdown(results, "a GPU").splitlines()
  assert theirs == "| DSPN | `a` | 2 | 3 | 2 | 4 | 4 | 20 |"
  assert "| s a step | images/s | peak memory, GB | to compile, s |" in header


def test_every_model_of_the_costs_has_a_config_with_the_same_data():
  flags = rivals.parse_flags([])
  for kind, prefixes in rivals.MODELS.items():
    data = [
      configs.load(rivals.config_name(prefix, getattr(flags, kind))).data
      for prefix in prefixes.values()
    ]
    assert data == [data[0]] * 3
  assert rivals.config_name("dspn:", "smoke:a") == "smoke:dspn:a"


@pytest.mark.slow
def test_the_benchmark_of_rivals_runs(tmp_path, monkeypatch):
  two = {
    kind: dict([*models.items()][::2]) for kind, models in rivals.MODELS.items()
  }
  monkeypatch.setattr(rivals, "MODELS", two)
  monkeypatch.chdir(ROOT)
  rivals.main(
    [
      "--discovery=smoke:quickstart",
      "--sets=smoke:clevr_set_prediction_small",
      "--discovery_batch_size=4",
      "--steps=1",
      "--rounds=2",
      f"--data_dir={tmp_path / 'data'}",
      f"--output={tmp_path / 'measured'}",
    ]
  )
  record = json.loads((tmp_path / "measured.json").read_text())
  assert "benchmarks.rivals" in record["command"]
  for kind, batch_size in (("discovery", 4), ("sets", 8)):
    assert record["results"][kind].keys() == rivals.MODELS[kind].keys()
    for measured in record["results"][kind].values():
      assert measured["batch_size"] == batch_size
      assert len(measured["seconds_of_rounds"]) == 2
      assert measured["seconds"] > 0 and measured["seconds_to_compile"] > 0
      assert measured["peak_bytes"] > 1e8
  assert "| DSPN | `smoke:dspn:clevr" in (tmp_path / "measured.md").read_text()


@pytest.mark.slow
def test_the_benchmark_of_feeding_runs(tmp_path):
  arguments = [
    "--config=smoke:quickstart", f"--config.data.data_dir={tmp_path}",
    "--steps=4", "--rounds=1", f"--output={tmp_path / 'measured'}",
  ]  # fmt: skip
  subprocess.run(
    [sys.executable, "-m", "benchmarks.feeding", *arguments],
    cwd=ROOT,
    check=True,
  )
  record = json.loads((tmp_path / "measured.json").read_text())
  assert len(record["seconds_per_batch"]) == 5
  assert min(record["seconds_per_batch"].values()) > 0


class ThreadPool(concurrent.futures.ThreadPoolExecutor):
  """Takes the place of a pool of processes, which would not see a stub."""

  def __init__(self, max_workers, **_):
    super().__init__(max_workers)


def test_steps_that_were_compiled_for_tpus_are_not_compiled_again(
  tmp_path, monkeypatch
):
  path = tmp_path / "tpu"
  monkeypatch.setattr(tpu, "_PACKAGES", ["jax"])
  case = ("quickstart", "v5e:2x2", "float32", "as it is")
  names = ("config", "topology", "precision", "variant")
  facts = {**dict(zip(names, case)), "does_not_fit": "too large"}
  assert tpu.finished(path) == {}
  tpu.write(path, [facts])
  assert tpu.finished(path) == {case: facts}
  arguments = ["--configs=quickstart", "--topologies=v5e:2x2"]
  tpu.main([*arguments, "--precisions=float32", f"--output={path}"])
  # Other cases are added, and none is lost.
  monkeypatch.setattr(tpu.concurrent.futures, "ProcessPoolExecutor", ThreadPool)
  monkeypatch.setattr(
    tpu,
    "compile_case",
    lambda *other: {**dict(zip(names, other)), "does_not_fit": "too large"},
  )
  tpu.main([*arguments, "--precisions=bfloat16", f"--output={path}"])
  precisions = [precision for _, _, precision, _ in tpu.finished(path)]
  assert sorted({*precisions}) == ["bfloat16", "float32"]
  monkeypatch.setattr(tpu, "_PACKAGES", ["jax", "flax"])
  assert tpu.finished(path) == {}
