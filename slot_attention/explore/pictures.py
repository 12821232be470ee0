"""Pictures of a view: data URIs for the page, an SVG, and one PNG file.

A slot has the same colour in all of them. Letters in shapes: H and W image, T
iterations, N inputs, K slots.
"""

import base64
import io
import json

import numpy as np
import PIL.Image

from slot_attention import plots, tasks, visualization
from slot_attention.data import clevr
from slot_attention.explore.state import Piece, slot_name
from slot_attention.explore.view import Seen, View
from slot_attention.explore.weights import Arrays
from slot_attention.metrics import REAL_OBJECT

_DIMMED = 0.25  # Brightness of what is outside the slot that is shown.


def to_uri(picture: np.ndarray) -> str:
  """Returns a picture, RGB [H, W, 3] in [0, 1], as a data URI."""
  pixels = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).save(file, "PNG", compress_level=1)
  return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def slot_color(num_slots: int, image: int, slot: int) -> np.ndarray:
  """Returns the colour of a slot, RGB [3] in [0, 1].

  The slots of the second image go on after those of the image.
  """
  return visualization.slot_colors(2 * num_slots)[image * num_slots + slot]


def to_css(color: np.ndarray) -> str:
  """Returns a colour as CSS, for example #26f226."""
  return "#" + "".join(f"{round(255 * x):02x}" for x in color)


def photo_of(batch: Arrays) -> np.ndarray:
  """Returns the image of a batch of one, [H, W, 3]."""
  images = batch["images"].astype(np.float32) / 127.5 - 1
  return visualization.to_picture(images)[0]


def photo(seen: Seen) -> np.ndarray:
  """Returns the image, [H, W, 3]."""
  return photo_of(seen.batch)


def reconstruction(seen: Seen) -> np.ndarray:
  """Returns what the canvas paints, [H, W, 3]."""
  return visualization.to_picture(seen.painting["recon_combined"])


def masks(view: View, seen: Seen) -> np.ndarray:
  """Returns the masks of the canvas in the colours of its slots, [H, W, 3]."""
  colors = [slot_color(view.state.slots, x.image, x.slot) for x in seen.canvas]
  return visualization.color_by_mask(
    seen.painting["masks"][None], np.array(colors)
  )[0]


def cut_out(seen: Seen, index: int) -> np.ndarray:
  """Returns what one slot of the canvas paints, on white, [H, W, 3]."""
  parts = (seen.painting[x][index][None] for x in ("recons", "masks"))
  return visualization.cut_out(*parts)[0]


def cut_out_alone(seen: Seen, slot: int) -> np.ndarray:
  """Returns what the model painted for a slot of its image, [H, W, 3]."""
  parts = (seen.outputs[x][slot][None] for x in ("recons", "masks"))
  return visualization.cut_out(*parts)[0]


def attention(view: View, seen: Seen) -> np.ndarray:
  """Returns the attention of iteration t, [K, h, w]; its largest value is 1."""
  return _attention_maps(seen)[view.state.t - 1]


def tint(brightness: np.ndarray, color: np.ndarray) -> np.ndarray:
  """Returns a map [h, w] in [0, 1] from black to a colour, [h, w, 3]."""
  return brightness[..., None] * color


def highlight(view: View, seen: Seen, image: int, slot: int) -> np.ndarray:
  """Returns the image with all but one slot dimmed, [H, W, 3].

  The mask of the slot stays bright, or its attention if there are no masks. If
  the slot is not on the canvas, the whole image is dimmed. A model without
  masks and attention dims nothing.
  """
  picture = photo(seen)
  if seen.painting is None and "attn" not in seen.outputs:
    return picture
  share = np.zeros(picture.shape[:2])
  if seen.painting is not None:
    for piece, mask in zip(seen.canvas, seen.painting["masks"]):
      if (piece.image, piece.slot) == (image, slot):
        share = mask[..., 0]
  else:
    share = clevr.resize_to_nearest(attention(view, seen)[slot], share.shape)
    share = share / max(share.max(), 1e-6)
  share = share[..., None]
  return picture * (_DIMMED + (1 - _DIMMED) * share)


def winner(seen: Seen, x: float, y: float) -> Piece:
  """Returns the slot of the canvas whose mask is largest at a pixel.

  Args:
    seen: the image with a painting.
    x: column, from 0 to 1.
    y: row, from 0 to 1.
  """
  ids = seen.painting["masks"][..., 0].argmax(axis=0)
  height, width = ids.shape
  row, column = (
    min(max(int(place * size), 0), size - 1)
    for place, size in ((y, height), (x, width))
  )
  return seen.canvas[ids[row, column]]


def trajectory(view: View) -> str:
  """Returns the ways of the slots as an SVG; see `principal_components`.

  A ring is the initial slot, every line an iteration, and the dot the slot
  after iteration t.
  """
  places, shares = visualization.principal_components(
    view.first.outputs["slots_per_iteration"]
  )
  low, high = places.min((0, 1)), places.max((0, 1))
  width, height = 340, 215
  span = np.maximum(high - low, 1e-6)
  x, y = np.moveaxis((places - low) / span, -1, 0)
  x, y = 28 + x * (width - 48), height - 30 - y * (height - 50)
  parts = [
    f'<line class="axis" x1="14" y1="{height - 16}" x2="{width - 6}"'
    f' y2="{height - 16}"/><line class="axis" x1="14" y1="6" x2="14"'
    f' y2="{height - 16}"/><text x="{width - 6}" y="{height - 3}"'
    f' text-anchor="end">first component ({shares[0]:.0%})</text>'
    f'<text x="20" y="13">second component ({shares[1]:.0%})</text>'
  ]
  t = view.state.t
  for k in range(places.shape[1]):
    color = to_css(slot_color(view.state.slots, 0, k))
    way = [f"{a:.1f},{b:.1f}" for a, b in zip(x[:, k], y[:, k])]
    parts.append(
      f'<g stroke="{color}" fill="none" data-slot="{k + 1}">'
      f'<polyline points="{" ".join(way)}" opacity=".35"/>'
      f'<polyline points="{" ".join(way[: t + 1])}" stroke-width="2"/>'
      f'<circle cx="{x[0, k]:.1f}" cy="{y[0, k]:.1f}" r="3.5"/>'
      f'<circle cx="{x[t, k]:.1f}" cy="{y[t, k]:.1f}" r="5" fill="{color}"/>'
      f'<text x="{x[t, k] + 8:.1f}" y="{y[t, k] + 4:.1f}">{k + 1}</text></g>'
    )
  return (
    f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Trajectory of'
    f' the slots">{"".join(parts)}</svg>'
  )


def predictions(view: View) -> list[dict]:
  """Describes the predictions of set prediction, one row for each slot.

  Returns:
    For each slot, a dict of
      true: words of the true object that the loss matches to it after iteration
        t; None if it has none;
      cells: for each iteration the words, each with whether it is wrong.
        Without true objects, words are the most probable classes.
    After the slots, rows of the true objects that have no slot.
  """
  outputs, batch = view.first.outputs, view.first.batch
  default = outputs["predictions"][None]
  per_iteration = outputs.get("predictions_per_iteration", default)
  num_slots = per_iteration.shape[1]
  t = max(view.state.t, 1)
  words = visualization.describe_object
  matches, targets = [{}] * len(per_iteration), []
  if "targets" in batch:
    targets = batch["targets"]
    (matches,) = visualization.match_predictions(per_iteration[None], targets)
    (targets,) = targets
  true_of = [{k: m for m, k in x.items() if targets[m, REAL_OBJECT]} for x in
             matches]  # fmt: skip
  rows = []
  for k in range(num_slots):
    cells = []
    for predicted, matched in zip(per_iteration[:, k], true_of):
      if k in matched:
        cells.append(words(predicted, clevr.PROPERTIES, targets[matched[k]]))
      else:
        sure = f"{predicted[REAL_OBJECT]:4.2f}"
        is_wrong = "targets" in batch and predicted[REAL_OBJECT] >= 0.5
        place, *others = words(predicted, clevr.PROPERTIES)
        cells.append([(sure, is_wrong), place, *others])
    true = true_of[t - 1].get(k)
    described = None
    if true is not None:
      described = words(targets[true], clevr.PROPERTIES)
    rows.append({"true": described, "cells": cells})
  missed = set(np.flatnonzero([x[REAL_OBJECT] for x in targets]))
  for m in sorted(missed - set(true_of[t - 1].values())):
    described = words(targets[m], clevr.PROPERTIES)
    rows.append({"true": described, "cells": []})
  return rows


def to_png(view: View) -> bytes:
  """Draws a view as one PNG file.

  For object discovery, a row shows image, reconstruction, masks and the slots
  of the canvas. For set prediction with known objects, a table is above them.
  The attention of every iteration follows. The file's text "slot_attention"
  holds the state, as JSON.
  """
  parts = [_draw_seen(view, view.first)]
  if view.second is not None:
    parts.append(_draw_seen(view, view.second))
  if view.weights.is_set_prediction and "targets" in view.first.batch:
    outputs = view.first.outputs
    if "predictions_per_iteration" in outputs:
      file = io.BytesIO()
      visualization.draw_predictions(
        file,
        tasks.normalize(view.first.batch)["images"],
        view.first.batch["targets"],
        outputs["predictions_per_iteration"][None],
        clevr.PROPERTIES,
      )
      parts.insert(0, PIL.Image.open(file).convert("RGB"))
  width = max(part.width for part in parts)
  sheet = PIL.Image.new("RGB", (width, sum(x.height for x in parts)), "white")
  top = 0
  for part in parts:
    sheet.paste(part, (0, top))
    top += part.height
  text = PIL.PngImagePlugin.PngInfo()
  text.add_text("slot_attention", json.dumps({"view": view.state.query()}))
  file = io.BytesIO()
  sheet.save(file, "PNG", pnginfo=text)
  return file.getvalue()


def _draw_seen(view, seen):
  """Draws an image, its painting, and the attention of every iteration."""
  num_slots = view.state.slots
  blank = np.ones_like(photo(seen))
  first, colors = {"Image": photo(seen)}, {}
  pieces = seen.canvas
  if seen.painting is not None:
    first |= {"Recon.": reconstruction(seen), "Mask": masks(view, seen)}
  for i, piece in enumerate(pieces):
    title = f"Slot {slot_name(piece.image, piece.slot)}"
    colors[title] = slot_color(num_slots, piece.image, piece.slot)
    first[title] = blank if seen.painting is None else cut_out(seen, i)
  rows, labels = [first], [""]
  if "attn" in seen.outputs:
    own = int(seen is view.second)
    for t, at_t in enumerate(_attention_maps(seen), 1):
      row = dict.fromkeys(first, blank)
      for piece, title in zip(pieces, colors):
        if piece.image == own:
          row[title] = tint(at_t[piece.slot], colors[title])
      rows.append(row)
      labels.append(f"t = {t}")
    if seen.painting is None:  # Then the slots have pictures of attention only.
      rows[1:2] = [rows[1] | {"Image": first["Image"]}]
      rows, labels = rows[1:], labels[1:]
  file = io.BytesIO()
  plots.draw_grid(file, rows, labels, colors)
  return PIL.Image.open(file).convert("RGB")


def _attention_maps(seen):
  """Returns the attention of all iterations, [T, K, h, w].

  The largest value of each iteration is 1: attention that sums to 1 over the
  inputs would be too dark to see.
  """
  size = seen.batch["images"].shape[1:3]
  (maps,) = visualization.attention_maps(seen.outputs["attn"][None], size)
  return maps / np.maximum(maps.max(axis=(1, 2, 3), keepdims=True), 1e-9)


def all_attention(view: View, seen: Seen) -> np.ndarray:
  """Returns the attention of all slots in their colours, [h, w, 3].

  Every input has the mean of the slots' colours, weighted by their attention.
  """
  maps = attention(view, seen)
  colors = [slot_color(view.state.slots, 0, k) for k in range(len(maps))]
  shares = maps / np.maximum(maps.sum(axis=0), 1e-6)
  return np.einsum("khw,kc->hwc", shares, np.array(colors))


def is_painted(seen: Seen, image: int, slot: int) -> bool:
  """Returns whether a slot is on the canvas of an image."""
  return any((x.image, x.slot) == (image, slot) for x in seen.canvas)


def score(view: View) -> str:
  """Returns the ARI of the view, or why there is none."""
  seen = view.first
  outputs = seen.outputs if seen.painting is None else seen.painting
  if "segments" not in seen.batch or "ari" not in outputs:
    return "unknown"
  if view.state.canvas is not None:
    return "edited"
  ari = outputs["ari"]
  if ari.ndim:  # That of the attention of each iteration.
    ari = ari[view.state.t - 1]
  return f"{float(ari):.3f}"


def table(view: View) -> str:
  """Returns the predictions of set prediction as an HTML table."""
  rows = predictions(view)
  num_iterations = len(rows[0]["cells"])
  t = view.state.t or 1
  has_truth = "targets" in view.first.batch
  now = [' class="sa-now"' if i == t else "" for i in range(num_iterations + 1)]
  head = ["<th>Slot</th>", f"<th>True (matched at t = {t})</th>" * has_truth]
  head += [f"<th{now[i]}>t = {i}</th>" for i in range(1, num_iterations + 1)]
  if not view.state.iterations:
    head[1:] = ["<th>True</th>" * has_truth, "<th>Predicted</th>"]
  lines = [f"<tr>{''.join(head)}</tr>"]
  maps = None
  if "attn" in view.first.outputs:
    maps = attention(view, view.first)
  for k, row in enumerate(rows):
    cells, start = ["<td>no slot</td>"], "<tr>"
    if row["cells"]:
      color = slot_color(view.state.slots, 0, k)
      start = f'<tr data-slot="{k + 1}" style="--slot: {to_css(color)}">'
      image = ""
      if maps is not None:
        uri = to_uri(tint(maps[k] / max(maps[k].max(), 1e-6), color))
        image = f'<img class="sa-pixels" alt="attention" src="{uri}">'
      cells = [f'<td><span class="sa-dot"></span>{image}{k + 1}</td>']
    if has_truth:
      cells.append(f"<td>{_to_html(row['true'] or [('-', False)])}</td>")
    for i, words in enumerate(row["cells"], 1):
      is_faint = float(words[0][0]) < 0.5
      faint = ' class="sa-faint"' if is_faint else ""
      cells.append(f"<td{now[i]}><div{faint}>{_to_html(words)}</div></td>")
    lines.append(f"{start}{''.join(cells)}</tr>")
  return f"<table>{''.join(lines)}</table>"


def _to_html(words):
  """Writes words in two lines: numbers, and then properties."""
  parts = [
    f'<span class="sa-wrong">{word}</span>' if wrong else word
    for word, wrong in words
  ]
  numbers = [x for x, (word, _) in zip(parts, words) if not word.isalpha()]
  others = [x for x, (word, _) in zip(parts, words) if word.isalpha()]
  return f"<small>{' '.join(numbers)}</small><br>{' '.join(others)}"
