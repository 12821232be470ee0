"""Tests of the plots."""

import matplotlib.image

from slot_attention import plots


def test_curves_are_drawn(tmp_path):
  points = [(1, 20.0), (2, 60.0), (3, 50.0)]
  with_deviations = [(*point, 5.0) for point in points]
  panels = {"x": {"a": points, "b": points[::-1]}, "y": {"a": with_deviations}}
  plots.draw_curves(tmp_path / "c.png", panels)
  picture = matplotlib.image.imread(tmp_path / "c.png")
  assert picture.shape[1] > 2 * picture.shape[0] and picture.std() > 0.05


def test_legends_stand_beside_the_curves(tmp_path, monkeypatch):
  figures = []
  new_figure = plots.new_figure

  def keep(width, height):
    figures.append(new_figure(width, height))
    return figures[-1]

  monkeypatch.setattr(plots, "new_figure", keep)
  points = [(t, 50.0) for t in range(1, 11)]
  plots.draw_curves(
    tmp_path / "c.png", {"step": {"fg_ari": points}}, losses={"train": points}
  )
  for axes in figures[0].axes:
    legend = axes.get_legend().get_window_extent()
    assert not legend.overlaps(axes.get_window_extent())


def test_figures_grow_with_bars_and_have_three_panels_in_a_row(tmp_path):
  def size(panels):
    plots.draw_bars(tmp_path / "b.png", panels)
    picture = matplotlib.image.imread(tmp_path / "b.png")
    assert picture.std() > 0.05
    return picture.shape[:2]

  bars = {"default": [90.0, 92.0], "variant": [-3.0, 8.0], "bad": []}
  height, width = size({"fg_ari": bars})
  assert size({"fg_ari": {str(i): [i] for i in range(30)}})[0] > 4 * height
  three = size({"a": bars, "b": bars, "c": bars})
  assert abs(three[0] - height) <= 1 and three[1] > 2 * width
  assert size({x: bars for x in "abcd"})[0] > 1.9 * height
  assert size({"fg_ari": {"bad": []}})[1] == width
