"""Tests of the command that prepares data."""

import re
import subprocess
import sys

import numpy as np
import pytest

import configs
from slot_attention.command import UsageError
from slot_attention.data import loading, prepare, store
from tests.data.test_loading import section


def command(*arguments):
  return [sys.executable, "-m", "slot_attention.data.prepare", *arguments]


def run(*arguments):
  return subprocess.run(
    command(*arguments), capture_output=True, text=True, check=False
  )


def test_the_command_prepares_what_a_config_needs(tmp_path):
  where = f"--config.data.data_dir={tmp_path}"
  result = run("--config=configs/smoke.py:quickstart", where)
  assert result.returncode == 0, result.stderr
  assert "first 32 (training)" in result.stdout
  assert list(tmp_path.glob("*/examples.png"))
  config = configs.load("smoke:quickstart")
  (prepared,) = tmp_path.iterdir()
  changed = prepared.stat().st_mtime_ns
  loading.load({**config.data, "data_dir": str(tmp_path)})
  assert prepared.stat().st_mtime_ns == changed


def test_other_folders_are_no_prepared_sets(tmp_path):
  (tmp_path / "photos-2024").mkdir()
  (tmp_path / "tetrominoes-procedural-0123abcd-9").write_text("a file")
  with pytest.raises(ValueError, match="there is no prepared data set in"):
    prepare.main(["--check", f"--data_dir={tmp_path}"])


def test_sets_are_listed_and_checked_where_the_config_has_them(
  tmp_path, capsys
):
  config = "--config=smoke:quickstart"
  where = f"--config.data.data_dir={tmp_path}"
  with pytest.raises(ValueError, match=f"no prepared data set in {tmp_path}"):
    prepare.main(["--check", config, where])
  prepare.main([config, where])
  capsys.readouterr()
  for what, words in (("--check", ": ok"), ("--list", " examples, ")):
    prepare.main([what, config, where])
    assert f"{tmp_path}/tetrominoes-" in (out := capsys.readouterr().out)
    assert words in out
    with pytest.raises(UsageError, match="are of all data sets"):
      prepare.main([what, "tetrominoes"])


def test_the_command_shares_the_work_lists_it_and_checks_it(tmp_path):
  where = f"--data_dir={tmp_path}"
  arguments = ["tetrominoes", "--num_examples=2500", where]
  for shard in ("2/3", "0/3"):
    result = run(*arguments, f"--shard={shard}")
    assert "This part is done" in result.stdout, result.stderr
  result = run(*arguments, "--shard=1/3")
  assert "first 2,500 (training)" in result.stdout, result.stderr
  assert "2,500 examples" in run("--list", where).stdout
  assert "ok" in run("--check", where).stdout

  (directory,) = tmp_path.iterdir()
  whole = store.read(
    loading.prepare(
      section(tmp_path / "whole", num_examples=2_500, procedural={"seed": 0})
    )
  )
  shared = store.read(directory)
  np.testing.assert_array_equal(shared.arrays["images"], whole.arrays["images"])
  images = directory / "images.npy"
  images.write_bytes(images.read_bytes()[:-1])
  result = run("--check", where)
  assert result.returncode == 1 and "is damaged" in result.stdout


@pytest.mark.parametrize(
  "arguments, code, words",
  [
    ([], 2, "or the name of one data set: tetrominoes, multi_dsprites"),
    (["objects_room_train"], 1, "exists only as an original"),
  ],
)
def test_the_command_ends_with_one_message(tmp_path, arguments, code, words):
  result = run(*arguments, f"--data_dir={tmp_path}")
  assert result.returncode == code
  assert result.stderr.splitlines()[-1].startswith("error: ")
  assert words in result.stderr.splitlines()[-1]
  assert "Traceback" not in result.stderr
  assert not list(tmp_path.glob("[!.]*"))


@pytest.mark.parametrize(
  "arguments, code, words",
  [
    (["mnist"], 2, "or the name of one data set: tetrominoes, multi_dsprites"),
    (["tetrominoes", "--shard=3/3"], 2, "--shard=3/3 must be like 3/16"),
    (["tetrominoes", "--source=web"], 2, "one of <procedural|original>"),
    (["tetrominoes", "--speed=9"], 2, "Unknown command line flag 'speed'"),
    (["--config=quickstart"], 2, "with --config, give --config.data.data_dir"),
    (["tetrominoes", "--path=x"], 2, "--path has no effect with --source=proc"),
    (
      ["tetrominoes", "--source=original", "--seed=1"],
      2,
      "--seed has no effect with --source=original: give --source=procedural",
    ),
    (["moving_sprites", "--source=original"], 1, "has no original"),
    (
      ["tetrominoes", "--source=original", "--path=nowhere.tfrecords"],
      1,
      "nowhere.tfrecords",
    ),
    (
      ["clevr", "--source=original", "--path=nowhere"],
      1,
      "nowhere",
    ),
  ],
)
def test_what_cannot_be_prepared_is_said(tmp_path, arguments, code, words):
  with pytest.raises((ValueError, OSError), match=re.escape(words)) as error:
    prepare.main([*arguments, f"--data_dir={tmp_path}"])
  assert isinstance(error.value, UsageError) == (code == 2)
  assert not list(tmp_path.glob("[!.]*"))
