"""The results of single runs: what their folders say, and what is kept of it.

WORKDIR/trained.json             what the last evaluation of the training gave,
                                 with the provenance and the config of the run
WORKDIR/reproduce_NAME_ROW.json  another evaluation, or a sweep

RESULTS/runs keeps both files of each run, and its curve.
"""

from collections.abc import Mapping, Sequence
import gzip
import json
import os
from pathlib import Path
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict

from slot_attention import files, validation
from slot_attention.data import datasets
from slot_attention.paper.provenance import provenance
from slot_attention.paper.rows import TRAINED_FILE, Row, changed, value_of
from slot_attention.training import writers
from slot_attention.training.runs import FREE_FIELDS

# Fields of a config that change the results of a run at most by rounding. The
# other FREE_FIELDS may also change when a run continues, but they decide its
# length and the steps at which it is measured.
_WITHOUT_EFFECT = {*FREE_FIELDS, "data.path"} - {
  "num_steps", "log_every", "eval_every"
}  # fmt: skip


def read(
  row: Row, config: ConfigDict, folder: Path, names: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
  """Reads the results of a run.

  Args:
    row: the row to which the run belongs.
    config: its config.
    folder: of the run, or where its results are kept.
    names: of its files, see `rows.files_of`.

  Returns:
    The results, None if the run diverged, and its provenance.

  Raises:
    ValueError: if it was trained or evaluated with another config.
  """
  check(folder, config)
  trained = files.read_json(folder / TRAINED_FILE)
  origin = {key: trained.get(key, "not recorded") for key in origin_of_now()}
  if trained["metrics"] is None or len(names) == 1:
    return trained["metrics"], origin
  content = files.read_json(folder / names[-1], object)
  if not isinstance(content, dict) or "evaluation" not in content:
    return content, origin  # Of a version that did not write the evaluation.
  then, now = content["evaluation"], evaluation(row, config)
  if then != now:
    raise ValueError(
      f"{folder} was evaluated with {then}, and not with {now}. Delete its file"
      f" {names[-1]} to evaluate again"
    )
  return content["measured"], origin


def check(folder: Path, config: ConfigDict) -> None:
  """Checks that a run was trained with this config.

  Runs from before 2026-11-29 do not say how they were trained.

  Raises:
    ValueError: names the fields that differ.
  """
  then = files.read_json(folder / TRAINED_FILE).get("config")
  if then is None:
    return
  now = fields(config)
  then = {**_younger(config, now.keys() - then.keys()), **then}
  differ = sorted(x for x in {*then, *now} if then.get(x) != now.get(x))
  if differ:
    raise ValueError(
      f"{folder} was trained with another config: "
      + "; ".join(f"{x} was {then.get(x)}, is now {now.get(x)}" for x in differ)
      + ". Delete that folder to train again"
    )


def _younger(config, names):
  """Returns the defaults of fields that may be younger than a run.

  There are none if some of the fields have no default.
  """
  without = config.to_dict()
  for name in names:
    section = without
    *sections, leaf = name.split(".")
    for part in sections:
      section = section[part]
    section.pop(leaf, None)
  try:
    defaults = fields(ConfigDict(without))
  except ValueError:
    return {}
  return {name: defaults[name] for name in names if name in defaults}


def fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the fields that decide what a run gives, as they are in JSON."""
  whole = validation.checked(config).to_dict()
  data = whole["data"]
  data_set = datasets.DATA_SETS[data["name"]]
  if data_set.generate:
    data["procedural"] = data_set.with_defaults(data["procedural"])
  flat = traverse_util.flatten_dict(whole, sep=".")
  decisive = {k: v for k, v in flat.items() if k not in _WITHOUT_EFFECT}
  return json.loads(json.dumps(decisive))


def evaluation(row: Row, config: ConfigDict) -> dict[str, Any]:
  """Returns the fields that a row changes in evaluations, as in JSON."""
  evaluated = changed(config, row.evaluation)
  values = {field: value_of(evaluated, field) for field in row.evaluation}
  return json.loads(json.dumps(values))


def origin_of_now() -> dict[str, Any]:
  """Returns the provenance of a run that this process trains."""
  flags = " ".join(os.environ.get("XLA_FLAGS", "").split())
  return {**provenance(), "xla_flags": flags or "none"}


def merge(origins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Merges the provenance of several runs; lists values that differ."""
  merged = {}
  for key, value in origins[0].items():
    values = [origin[key] for origin in origins]
    nested = isinstance(value, dict)
    merged[key] = merge(values) if nested else " and ".join(sorted({*values}))
  return merged


def keep(workdir: Path, kept: Path) -> None:
  """Copies the results and the curve of a run into the folder of the results.

  Those of an earlier run of the same config and seed are removed.
  """
  kept.mkdir(parents=True, exist_ok=True)
  before, after = kept / TRAINED_FILE, workdir / TRAINED_FILE
  if before.exists() and before.read_bytes() != after.read_bytes():
    for path in kept.glob("reproduce_*.json"):
      path.unlink()
  for path in [workdir / TRAINED_FILE, *workdir.glob("reproduce_*.json")]:
    files.write(kept / path.name, path.read_bytes())
  curve = workdir / writers.METRICS_FILE
  if curve.exists():
    # Without a time, equal curves give equal files.
    data = gzip.compress(curve.read_bytes(), mtime=0)
    files.write(kept / f"{curve.name}.gz", data)
