"""Times the convolutions of CPUs beside the plain ones.

  python -m benchmarks.convolutions
  python -m benchmarks.convolutions --output=results/convolutions

Each case is a part of a layer of the paper's models: its outputs, or one of its
gradients. The plain algorithm, which XLA derives from `jax.lax`, and the one of
`slot_attention.models.cpu_convolutions` take turns. The table says how many
times as long the plain one takes. With --output=NAME, the command writes
NAME.json and NAME.md.
"""

from collections.abc import Callable, Sequence
import functools

import jax

from benchmarks import records
from slot_attention import command
from slot_attention.models import convolutions, cpu_convolutions

# Of each layer: images, height and width of its inputs, input and output
# features, kernel size, stride, and whether it is transposed.
_LAYERS = {
  "CLEVR6, decoder, 5x5": (28, 128, 64, 64, 5, 1, False),
  "CLEVR6, decoder, the last": (28, 128, 64, 4, 3, 1, False),
  "CLEVR6, decoder, transposed, stride 2": (28, 64, 64, 64, 5, 2, True),
  "CLEVR6, encoder, 5x5": (4, 128, 64, 64, 5, 1, False),
  "set prediction, encoder, stride 2": (32, 128, 64, 64, 5, 2, False),
  "Tetrominoes, encoder, 5x5": (64, 35, 32, 32, 5, 1, False),
}
_BROADCAST = "Tetrominoes, decoder, the first"


def make_layer(
  images: int,
  size: int,
  features_in: int,
  features_out: int,
  kernel_size: int,
  stride: int,
  transposed: bool,
) -> tuple[Callable, Callable, jax.Array, jax.Array]:
  """Makes a layer; the arguments are those of `_LAYERS`.

  Returns:
    The plain function, the fast one, inputs [images, size, size, features_in],
    and a kernel [*kernel_size, features_in, features_out], or, if transposed,
    [*kernel_size, features_out, features_in].
  """
  keys = jax.random.split(jax.random.key(0))
  strides, kernel_size = (stride, stride), (kernel_size, kernel_size)
  inputs = jax.random.normal(keys[0], (images, size, size, features_in))
  if transposed:
    kernel_shape = (*kernel_size, features_out, features_in)
    plain, fast = (
      functools.partial(function, strides=strides)
      for function in (
        cpu_convolutions.conv_transpose,
        cpu_convolutions.conv_transpose_by_phase,
      )
    )
  else:
    kernel_shape = (*kernel_size, features_in, features_out)
    padding = jax.lax.padtype_to_pads((size,) * 2, kernel_size, strides, "SAME")
    plain, fast = (
      lambda inputs, kernel, function=function: function(
        inputs, kernel, strides, tuple(padding)
      )
      for function in (
        cpu_convolutions.conv,
        cpu_convolutions.conv_with_blocked_gradient,
      )
    )
  return plain, fast, inputs, jax.random.normal(keys[1], kernel_shape)


def parts_of(
  layer: Callable, inputs: jax.Array, kernel: jax.Array
) -> dict[str, Callable[[], jax.Array]]:
  """Returns calls that compute the outputs and the gradients of a layer."""
  shape = jax.eval_shape(layer, inputs, kernel).shape
  gradient = jax.random.normal(jax.random.key(1), shape)
  # The parts are arguments, so that XLA cannot compute with them beforehand.
  outputs = jax.jit(layer)
  of_inputs = jax.jit(
    lambda inputs, kernel, gradient: jax.vjp(
      lambda x: layer(x, kernel), inputs
    )[1](gradient)[0]
  )
  of_kernel = jax.jit(
    lambda inputs, kernel, gradient: jax.vjp(
      lambda x: layer(inputs, x), kernel
    )[1](gradient)[0]
  )
  return {
    "outputs": lambda: outputs(inputs, kernel),
    "gradient of the inputs": lambda: of_inputs(inputs, kernel, gradient),
    "gradient of the kernel": lambda: of_kernel(inputs, kernel, gradient),
  }


def make_broadcast() -> dict[str, Callable[[], jax.Array]]:
  """Returns calls of a decoder's first layer, plain and with its shortcut."""
  layer = convolutions.ConvTranspose(32, (5, 5))
  vectors = jax.random.normal(jax.random.key(0), (256, 1, 1, 64))
  position = jax.random.normal(jax.random.key(1), (1, 35, 35, 64))
  variables = layer.init(jax.random.key(2), position)

  @jax.jit
  def plain(variables, vectors, position):
    return layer.apply(variables, vectors + position)

  @jax.jit
  def fast(variables, vectors, position):
    return convolutions.sum_of_broadcast(
      *convolutions.convolve_broadcast(layer.bind(variables), vectors, position)
    )

  return {
    "plain": lambda: plain(variables, vectors, position),
    "fast": lambda: fast(variables, vectors, position),
  }


def measure(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
  """Returns the seconds of each algorithm, of each part of each layer."""
  seconds = {}
  for name, fields in _LAYERS.items():
    plain, fast, inputs, kernel = make_layer(*fields)
    parts = {
      algorithm: parts_of(layer, inputs, kernel)
      for algorithm, layer in (("plain", plain), ("fast", fast))
    }
    seconds[name] = {
      part: records.take_turns(
        {algorithm: parts[algorithm][part] for algorithm in parts}, rounds
      )
      for part in parts["fast"]
    }
  seconds[_BROADCAST] = {
    "outputs": records.take_turns(make_broadcast(), rounds)
  }
  return seconds


def to_markdown(seconds: dict[str, dict[str, dict[str, float]]]) -> str:
  """Formats the ratios as a table."""
  parts = ("outputs", "gradient of the inputs", "gradient of the kernel")
  lines = [f"| layer | {' | '.join(parts)} |", f"|{'---|' * (1 + len(parts))}"]
  for name, of_layer in seconds.items():
    ratios = [
      f"{of_layer[part]['plain'] / of_layer[part]['fast']:.2f}"
      if part in of_layer
      else ""
      for part in parts
    ]
    lines.append(f"| {name} | {' | '.join(ratios)} |")
  return "\n".join(lines) + "\n"


def parse_flags(arguments: Sequence[str]) -> command.Flags:
  """Reads the flags of the command."""
  flags = command.Flags(__doc__)
  records.define_repetition(flags, rounds=5)
  records.define_output(flags)
  flags.parse(arguments)
  return flags


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = parse_flags(arguments)
  jax.config.update("jax_platforms", "cpu")
  seconds = measure(flags.rounds)
  table = to_markdown(seconds)
  print(table)
  records.write(
    flags.output,
    records.describe(
      "benchmarks.convolutions", ["jax", "jaxlib"], median_seconds=seconds
    ),
    title="The convolutions of CPUs",
    remark="How many times as long the plain algorithm takes, in float32;"
    " medians over the rounds, in which the two took turns.",
    table=table,
  )


if __name__ == "__main__":
  command.run(main)
