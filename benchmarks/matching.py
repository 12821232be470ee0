"""Times algorithms that match predictions and targets.

  python -m benchmarks.matching
  python -m benchmarks.matching --output=results/matching

The algorithms match random predictions and targets, by default as many as a
training step of set prediction has. The command checks that all of them find
the same minimal cost. It also times the loss of which the matching is a part,
with its gradient. The measurements take turns. With --output=NAME, it writes
NAME.json.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from benchmarks import records
from slot_attention import command, losses


def match_by_optax(costs):
  return jax.vmap(optax.assignment.hungarian_algorithm)(costs)


def match_by_scipy(costs):
  """Matches by SciPy's Hungarian algorithm on the host, set by set."""
  shape = jax.ShapeDtypeStruct(costs.shape[:2], jnp.int32)

  def on_host(costs):
    pairs = [scipy.optimize.linear_sum_assignment(cost) for cost in costs]
    rows, columns = np.array(pairs, np.int32).transpose(1, 0, 2)
    return rows, columns

  return jax.pure_callback(on_host, (shape, shape), costs)


def match_by_subsets(costs):
  """Matches by dynamic programming over sets of columns.

  It has no loop whose length depends on the data. least[s] is the minimal cost
  of pairing the first |s| rows with the set of columns s.
  """
  batch_size, num_rows, num_columns = costs.shape
  subsets = np.arange(2**num_columns)
  sizes = np.array([int(subset).bit_count() for subset in subsets])
  least = jnp.full((batch_size, len(subsets)), jnp.inf).at[:, 0].set(0)
  choices = []
  for row in range(num_rows):
    options = jnp.stack(
      [
        jnp.where(
          (subsets >> column & 1)[None] == 1,
          least[:, subsets & ~(1 << column)] + costs[:, row, column, None],
          jnp.inf,
        )
        for column in range(num_columns)
      ]
    )
    choices.append(jnp.argmin(options, axis=0))
    least = jnp.where(
      (sizes == row + 1)[None], jnp.min(options, axis=0), jnp.inf
    )
  columns = []
  subset = jnp.full((batch_size, 1), len(subsets) - 1)
  for choice in reversed(choices):
    column = jnp.take_along_axis(choice, subset, axis=1)
    columns.append(column)
    subset = subset - (1 << column)
  columns = jnp.concatenate(columns[::-1], axis=1)
  rows = jnp.broadcast_to(jnp.arange(num_rows), columns.shape)
  return rows, columns


@jax.jit
def loss_and_gradient(predictions, targets):
  return jax.value_and_grad(
    lambda x: losses.hungarian_huber_loss(x, targets).mean()
  )(predictions)


def parse_flags(arguments: Sequence[str]) -> command.Flags:
  """Reads the flags of the command."""
  flags = command.Flags(__doc__)
  flags.define_integer("batch_size", 512, "Number of sets.", minimum=1)
  flags.define_integer(
    "num_objects",
    10,
    "Number of predictions, and of targets with padding, in a set.",
    minimum=3,
  )
  records.define_repetition(flags, rounds=20)
  records.define_output(flags)
  flags.parse(arguments)
  return flags


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = parse_flags(arguments)
  rng = np.random.default_rng(0)
  shape = (flags.batch_size, flags.num_objects, 19)
  predictions = jnp.asarray(rng.random(shape), jnp.float32)
  targets = jnp.asarray(rng.random(shape), jnp.float32)
  # As in CLEVR, at least three targets are objects and the rest is padding.
  real = rng.integers(3, flags.num_objects + 1, (flags.batch_size, 1))
  targets *= (np.arange(flags.num_objects) < real)[..., None]
  costs = jax.jit(losses.matching_costs)(predictions, targets)

  functions = {
    name: jax.jit(function)
    for name, function in {
      "optax": match_by_optax,
      "scipy on the host": match_by_scipy,
      "subsets": match_by_subsets,
    }.items()
  }
  totals = {}
  for name, function in functions.items():
    rows, columns = function(costs)
    batch = jnp.arange(flags.batch_size)[:, None]
    totals[name] = float(costs[batch, rows, columns].sum())
  np.testing.assert_allclose(list(totals.values()), totals["optax"], rtol=1e-5)

  calls = {
    **{
      name: lambda function=function: function(costs)
      for name, function in functions.items()
    },
    "loss and gradient": lambda: loss_and_gradient(predictions, targets),
  }
  medians = records.take_turns(calls, flags.rounds)

  print(f"{shape[0]} sets of {shape[1]}, median of {flags.rounds}:")
  for name, median in medians.items():
    ratio = median / medians["optax"]
    print(f"  {name:<18} {1e3 * median:8.2f} ms  {ratio:6.2f} x optax")
  record = records.describe(
    "benchmarks.matching",
    ["jax", "optax", "scipy"],
    batch_size=shape[0],
    num_objects=shape[1],
    median_seconds=medians,
  )
  records.write(flags.output, record)


if __name__ == "__main__":
  command.run(main)
