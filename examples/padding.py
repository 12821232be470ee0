"""Puts sets of different lengths into one batch.

  python examples/padding.py

`inputs_mask` says which inputs are real. The others are padding, whose values
have no effect. The program shows this by three comparisons of the slots of a
set with 80 inputs, which is padded to 100:

  - with other values in the padding, even NaN: the slots are the same;
  - with the set alone, without padding: the slots are the same up to rounding;
  - without `inputs_mask`: the slots differ, because the padding counts.
"""

import jax
import jax.numpy as jnp

from slot_attention import SlotAttention


def main() -> None:
  """Prints the largest difference of each comparison."""
  module = SlotAttention(num_slots=7)
  inputs_key, noise_key, params_key = jax.random.split(jax.random.key(0), 3)
  inputs = jax.random.normal(inputs_key, (2, 100, 32))  # [B, N, D_inputs]
  lengths = jnp.array([100, 80])
  inputs_mask = jnp.arange(100) < lengths[:, None]  # [B, N]
  # The noise of the initial slots is given, so that it is always the same.
  noise = jax.random.normal(noise_key, (2, 7, 64))  # [B, K, D]
  variables = module.init(params_key, inputs, noise=noise)

  def shorter_set(inputs, inputs_mask):
    """Returns the slots of the last set of a batch, [K, D]."""
    outputs = module.apply(
      variables,
      inputs,
      noise=noise[-len(inputs) :],
      inputs_mask=inputs_mask,
    )
    return outputs["slots"][-1]

  padded = shorter_set(inputs, inputs_mask)
  other_values = jnp.where(inputs_mask[..., None], inputs, jnp.nan)
  for name, slots in (
    ("other values in the padding", shorter_set(other_values, inputs_mask)),
    ("no padding", shorter_set(inputs[1:, :80], None)),
    ("no inputs_mask", shorter_set(inputs, None)),
  ):
    difference = jnp.abs(slots - padded).max()
    print(f"{name + ':':<29}the slots differ by {difference:.1e}")


if __name__ == "__main__":
  main()
