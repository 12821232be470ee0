"""Tests of the page to explore slots in a real browser, Chromium."""

import base64
import contextlib
import io
import os
from pathlib import Path
import random
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import PIL.Image
import pytest

from slot_attention import pretrained
from slot_attention.explore import __main__ as explore
from slot_attention.explore import pictures, view
from slot_attention.explore.state import Image, Piece, State

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

sync_api = pytest.importorskip(
  "playwright.sync_api", reason="the page's tests need Playwright"
)
pytest.importorskip("nicegui", reason="the page needs NiceGUI")
needs_chromium = pytest.mark.skipif(
  CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"
)


class Server:
  """The command as a process, in an empty folder with an empty /tmp."""

  def __init__(self, folder, *flags):
    self.folder = folder
    (folder / "tmp").mkdir()
    self.errors = open(folder / "errors", "w+")
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    environment["PYTHONPATH"] = str(ROOT)
    del environment["PYTEST_CURRENT_TEST"]  # NiceGUI has a mode for pytest.
    self.process = subprocess.Popen(
      [sys.executable, "-m", "slot_attention.explore", "--port=0", "--noshow",
       *flags],
      cwd=folder,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=self.errors,
      text=True,
    )  # fmt: skip
    self.url = self.process.stdout.readline().strip()
    assert self.url.startswith("http://127.0.0.1:"), self.read_errors()

  def read_errors(self):
    return Path(self.errors.name).read_text()

  def close(self):
    """Presses Ctrl-C; returns the exit code."""
    self.process.send_signal(signal.SIGINT)
    code = self.process.wait(timeout=30)
    self.process.stdout.close()
    self.errors.close()
    return code

  def memory(self):
    """Returns the resident memory in bytes."""
    pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory):
  server = Server(tmp_path_factory.mktemp("explore"))
  yield server
  if server.process.poll() is None:
    server.close()


@pytest.fixture(name="browser", scope="module")
def _browser():
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=CHROMIUM, args=["--no-sandbox"]
    )
    yield browser
    browser.close()


@pytest.fixture(name="visit")
def _visit(server, browser):
  """Opens pages; then checks that nothing failed and nothing left 127.0.0.1."""
  context = browser.new_context(viewport={"width": 1440, "height": 1000})
  problems = []

  def listen(page):
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: check_address(request.url))
    page.on("websocket", lambda socket: check_address(socket.url))

  def check_address(url):
    address = urllib.parse.urlparse(url)
    if address.scheme not in ("data", "blob") and address.hostname != (
      "127.0.0.1"
    ):
      problems.append(url)

  def visit(query="", base=server.url):
    page = context.new_page()
    listen(page)
    page.goto(urllib.parse.urljoin(base, f"/?{query}" if query else "/"))
    wait(page, "document.querySelector('[data-name=image]')?.src")
    wait(page, BUSY.replace("true", "false"))
    return page

  yield visit
  context.close()
  assert not problems
  assert "Traceback" not in server.read_errors()


BUSY = "document.querySelector('[data-name=busy]').dataset.busy === 'true'"


def wait(page, expression):
  page.wait_for_function(expression, timeout=60_000)


def wait_for_query(page, **fields):
  """Waits until the page's link has these fields; None is a missing one."""
  expected = {
    name: "null" if value is None else f"'{value}'"
    for name, value in fields.items()
  }
  wait(
    page,
    " && ".join(
      f"new URLSearchParams(location.search).get('{name}') === {value}"
      for name, value in expected.items()
    ),
  )


def named(name):
  return f"[data-name={name}]"


def source(page, name):
  return page.get_attribute(named(name), "src")


def pixels(page, name):
  """Returns a picture of the page as float [H, W, 3]."""
  data = base64.b64decode(source(page, name).partition(",")[2])
  with PIL.Image.open(io.BytesIO(data)) as picture:
    return np.asarray(picture) / 255


def wait_for_change(page, name, before):
  wait(
    page, f"document.querySelector('{named(name)}').src !== {before!r}"
  )  # fmt: skip


def enter(page, name, value):
  page.fill(named(name), str(value))
  page.press(named(name), "Enter")


def choose_file(page, path):
  page.set_input_files(f"{named('upload')} input[type=file]", str(path))


def wait_for_error(page, words):
  locator = page.locator(named("error"))
  sync_api.expect(locator).to_contain_text(words, timeout=60_000)
  assert locator.is_visible()


def slide(page, name, share):
  """Clicks on a slider at a share of its length."""
  box = page.locator(named(name)).bounding_box()
  x, y = box["x"] + box["width"] * share, box["y"] + box["height"] / 2
  page.mouse.click(x, y)


@needs_chromium
def test_the_page_shows_what_the_model_sees(visit):
  page = visit()
  seen = view.see(State(pretrained="quickstart"))
  for name, picture in (
    ("image", pictures.photo(seen.first)),
    ("reconstruction", pictures.reconstruction(seen.first)),
    ("masks", pictures.masks(seen, seen.first)),
  ):
    np.testing.assert_allclose(pixels(page, name), picture, atol=0.02)
  ari = float(page.inner_text(named("ari")))
  assert ari == pytest.approx(float(seen.first.painting["ari"]), abs=0.01)
  assert page.locator("[data-slot^=a].sa-slot").count() == 4
  assert page.locator(".sa-trajectory g").count() == 4
  assert not page.locator(named("error")).is_visible()


def test_a_request_for_another_host_is_refused(server):
  """Else a site whose name leads to 127.0.0.1 could read the page."""
  headers = {"Host": "example.org"}
  request = urllib.request.Request(server.url, headers=headers)
  with pytest.raises(urllib.error.HTTPError, match="400"):
    urllib.request.urlopen(request)


@needs_chromium
def test_k_t_and_the_seed_change_what_is_shown(visit):
  page = visit()
  enter(page, "slots", 6)
  wait_for_query(page, slots="6")
  sync_api.expect(page.locator(".sa-slot[data-slot]")).to_have_count(6)
  enter(page, "iterations", 5)
  wait_for_query(page, iterations="5", t="5")
  assert page.inner_text(named("t-text")) == "t = 5 of 5"
  before = source(page, "masks")
  enter(page, "seed", 7)
  wait_for_change(page, "masks", before)
  slide(page, "t", 0)
  wait_for_query(page, t="1")
  seen = view.see(
    State(pretrained="quickstart", slots=6, iterations=5, seed=7, t=1), {}
  )
  expected = pictures.all_attention(seen, seen.first)
  np.testing.assert_allclose(pixels(page, "attention"), expected, atol=0.05)


@needs_chromium
def test_the_iterations_play_until_they_are_stopped(visit):
  page = visit()
  page.click(named("play"))
  for t in (1, 2, 3, 1):
    sync_api.expect(page.locator(named("t-text"))).to_have_text(f"t = {t} of 3")
  page.click(named("play"))
  sync_api.expect(page.locator(named("play"))).to_contain_text("play_arrow")
  wait(page, BUSY.replace("true", "false"))
  shown = page.inner_text(named("t-text"))
  page.wait_for_timeout(1_600)
  assert page.inner_text(named("t-text")) == shown


@needs_chromium
def test_an_own_image_is_shown_and_one_of_another_kind_is_noted(
  visit, tmp_path
):
  page = visit()
  image = pretrained.load_examples("quickstart")["images"][4]
  large = PIL.Image.fromarray(image.repeat(9, 0).repeat(9, 1))
  large.save(tmp_path / "large.png")
  choose_file(page, tmp_path / "large.png")
  wait_for_query(page, image="own:0")
  np.testing.assert_allclose(pixels(page, "image"), image / 255, atol=0.02)
  assert not page.locator(named("note")).is_visible()
  assert page.inner_text(named("ari")) == "unknown"
  PIL.Image.new("RGB", (64, 48), (90, 160, 200)).save(tmp_path / "sky.jpg")
  choose_file(page, tmp_path / "sky.jpg")
  note = page.locator(named("note"))
  sync_api.expect(note).to_contain_text("differs from those that quickstart")
  assert note.is_visible()
  page.click(named("example-1"))
  wait_for_query(page, image="example:1")
  assert not note.is_visible()


@needs_chromium
def test_errors_are_one_sentence_and_the_page_lives_on(visit, tmp_path):
  page = visit()
  (tmp_path / "text.png").write_text("no image")
  choose_file(page, tmp_path / "text.png")
  wait_for_error(page, "text.png is not an image that Pillow knows")
  enter(page, "slots", 99)
  wait_for_error(page, "num_slots=99 must be from 1 to 24")
  assert page.input_value(named("slots")) == "4"
  enter(page, "slots", 0)
  wait_for_error(page, "num_slots=0 must be from 1 to 24")
  enter(page, "seed", -3)
  wait_for_error(page, "seed=-3 must be from 0")
  enter(page, "num_objects", 9)
  wait_for_error(page, "num_objects=9 must be from 1 to 6")
  assert page.input_value(named("num_objects")) == "3"
  page.fill(named("workdir"), str(tmp_path))
  page.press(named("workdir"), "Enter")
  wait_for_error(page, f"there is no run in {tmp_path}")
  page.click("[data-slot=a2]")
  wait_for_query(page, canvas="a1-a3-a4")
  assert not page.locator(named("error")).is_visible()
  page = visit("slots=3&canvas=a1-a7")
  wait_for_error(page, "slot a7 is not one of 3")
  wait_for_query(page, pretrained="quickstart", slots="4")
  page = visit("hue=3")
  wait_for_error(page, "hue in the link is not one of")


@needs_chromium
def test_slots_are_removed_and_come_back(visit):
  page = visit()
  whole = source(page, "reconstruction")
  page.click("[data-slot=a1]")
  wait_for_query(page, canvas="a2-a3-a4")
  seen = view.see(
    State(pretrained="quickstart", canvas=tuple(Piece(0, k) for k in (1, 2, 3)))
  )
  np.testing.assert_allclose(
    pixels(page, "reconstruction"),
    pictures.reconstruction(seen.first),
    atol=0.02,
  )
  assert page.inner_text(named("ari")) == "edited"
  for slot, canvas in (("a2", "a3-a4"), ("a4", "a3")):
    page.click(f"[data-slot={slot}]")
    wait_for_query(page, canvas=canvas)
  page.click("[data-slot=a3]")
  wait_for_error(page, "the last slot stays")
  page.click(named("reset"))
  wait_for_query(page, canvas=None)
  assert source(page, "reconstruction") == whole
  # A click on the masks removes the slot that has the pixel.
  page.click(named("masks"), position={"x": 120, "y": 120})
  wait(page, "location.search.includes('canvas=')")
  assert page.locator(".sa-off").count() == 1


@needs_chromium
def test_slots_of_a_second_image_are_taken_swapped_and_interpolated(visit):
  page = visit()
  page.click(named("second-1"))
  wait_for_query(page, second="example:1")
  page.click("[data-slot=b3]")
  wait_for_query(page, canvas="a1-a2-a3-a4-b3")
  page.click(named("reset"))
  wait_for_query(page, canvas=None)
  before = source(page, "reconstruction"), source(page, "second-reconstruction")
  page.click(named("swap"))
  wait_for_query(page, canvas="a2-a3-a4-b1", second_canvas="a1-b2-b3-b4")
  swapped = (
    source(page, "reconstruction"),
    source(page, "second-reconstruction"),
  )
  assert swapped[0] != before[0] and swapped[1] != before[1]
  state = State(pretrained="quickstart", second=Image("example", 1))
  canvases = state.canvases(4)
  canvas = (*canvases[0][1:], Piece(1, 0))
  seen = view.see(
    State(pretrained="quickstart", second=Image("example", 1), canvas=canvas)
  )
  np.testing.assert_allclose(
    pixels(page, "reconstruction"),
    pictures.reconstruction(seen.first),
    atol=0.02,
  )
  page.click(named("swap"))
  wait_for_query(page, canvas=None, second_canvas=None)
  slide(page, "amount", 0.5)
  wait_for_query(page, canvas="a1~b1~0.50-a2-a3-a4")
  halfway = source(page, "reconstruction")
  assert halfway not in (before[0], swapped[0])
  # The link gives the same view on another page.
  again = visit(urllib.parse.urlparse(page.evaluate("location.href")).query)
  assert source(again, "reconstruction") == halfway
  assert again.inner_text("[data-slot=a1]").split() == ["a1", "50%", "b1"]
  page.click(named("no-second"))
  wait_for_query(page, second=None, canvas=None)


@needs_chromium
def test_a_slot_is_highlighted_while_the_pointer_is_on_it(visit):
  page = visit()
  before = source(page, "image")
  page.hover("[data-slot=a2].sa-slot")
  wait_for_change(page, "image", before)
  seen = view.see(State(pretrained="quickstart"))
  expected = pictures.highlight(seen, seen.first, 0, 1)
  np.testing.assert_allclose(pixels(page, "image"), expected, atol=0.02)
  page.mouse.move(2, 2)
  wait(page, f"document.querySelector('{named('image')}').src === {before!r}")


@needs_chromium
def test_a_new_scene_has_the_factors_of_the_sliders(visit):
  page = visit()
  page.click(named("draw"))
  wait(page, "location.search.includes('image=draw:1:num_objects=3')")
  enter(page, "num_objects", 1)
  wait(page, "location.search.includes('image=draw:1:num_objects=1')")
  enter(page, "background", 60)
  wait(page, "location.search.includes('background=60')")
  image = np.rint(255 * pixels(page, "image")).reshape(-1, 3)
  block = 6 * 6  # One square of 2 x 2 blocks of 3 pixels.
  assert np.count_nonzero((image == 60).all(-1)) == 16 * 16 - block
  assert float(page.inner_text(named("ari"))) <= 1


@needs_chromium
def test_set_prediction_has_a_table_whose_rows_highlight_slots(visit):
  page = visit("pretrained=clevr_set_prediction_small")
  rows = page.locator("tr[data-slot]")
  assert rows.count() == 6
  assert "large metal cylinder blue" in page.inner_text(named("table"))
  before = source(page, "image")
  page.hover("tr[data-slot='1'] td:last-child")
  wait_for_change(page, "image", before)
  state = State(pretrained="clevr_set_prediction_small")
  seen = view.see(state)
  expected = pictures.highlight(seen, seen.first, 0, 0)
  np.testing.assert_allclose(pixels(page, "image"), expected, atol=0.05)
  assert "no decoder" in page.inner_text(named("no-blocks"))


@needs_chromium
def test_the_view_is_exported_as_png_npz_and_command(visit, tmp_path):
  page = visit("canvas=a1-a4&seed=2")
  for name in ("png", "npz"):
    with page.expect_download() as download:
      page.click(named(name))
    download.value.save_as(tmp_path / f"view.{name}")
  with PIL.Image.open(tmp_path / "view.png") as picture:
    assert "canvas=a1-a4" in picture.text["slot_attention"]
  with np.load(tmp_path / "view.npz") as arrays:
    assert arrays["canvas_masks"].shape == (2, 16, 16, 1)
  page.click(named("link"))
  line = page.locator(named("line-text"))
  sync_api.expect(line).to_have_value(
    "python -m slot_attention.explore --view='pretrained=quickstart&slots=4"
    "&iterations=3&seed=2&t=3&canvas=a1-a4'"
  )
  link = page.input_value(named("link-text"))
  assert link == page.evaluate("location.href")


@needs_chromium
def test_two_pages_at_once_do_not_mix(visit):
  one, two = visit(), visit()
  one.click("[data-slot=a1]")
  enter(two, "seed", 3)
  two.click(named("example-2"))
  wait_for_query(two, image="example:2", seed="3", canvas=None)
  wait_for_query(one, canvas="a2-a3-a4", seed=None, image=None)
  one.click("[data-slot=a2]")
  wait_for_query(one, canvas="a3-a4")
  alone = visit("canvas=a3-a4")
  assert source(one, "reconstruction") == source(alone, "reconstruction")


@needs_chromium
def test_ctrl_c_closes_the_page_and_leaves_nothing_behind(browser, tmp_path):
  server = Server(tmp_path, "--view=slots=3&canvas=a1-a3")
  page = browser.new_page()
  page.goto(server.url)
  wait_for_query(page, slots="3", canvas="a1-a3")
  port = urllib.parse.urlparse(server.url).port
  with contextlib.closing(socket.socket()) as client:
    client.connect(("127.0.0.1", port))
  assert server.close() == 75
  page.close()
  errors = server.read_errors()
  assert errors.splitlines() == [
    "error: the page is closed; the same command opens it again"
  ]
  assert sorted(x.name for x in tmp_path.rglob("*")) == ["errors", "tmp"]
  with pytest.raises(ConnectionRefusedError):
    socket.create_connection(("127.0.0.1", port))


def test_a_command_line_that_cannot_be_served_is_refused():
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(ValueError, match=f"port={port} cannot be used"):
      explore.main(["--noshow", f"--port={port}"])
  for flags, words in (
    (["--pretrained=slow"], "no weights called 'slow'"),
    (["--workdir=nowhere"], "there is no run in nowhere"),
    (["--view=hue=3"], "hue in the link is not one of"),
    (["--pretrained=quickstart", "--workdir=x"], "either --workdir or --pre"),
  ):
    with pytest.raises(ValueError, match=words):
      explore.main(["--noshow", *flags])


@needs_chromium
@pytest.mark.slow
def test_200_random_clicks_leave_no_error_and_little_memory(visit, server):
  page = visit("second=example:1")
  choose = random.Random(0)
  targets = (
    "[data-slot].sa-slot", "[data-name^=example-]", "[data-name^=second-]",
    *map(named, ("draw", "swap", "reset", "masks", "play", "dark", "t")),
    *map(named, ("amount", "seed-slider", "slots-slider", "iterations-slider")),
    named("background-slider"), named("num_objects-slider"),
  )  # fmt: skip
  before, clicks = None, 0
  while clicks < 240:
    # The first ones load libraries and compile.
    if clicks == 40 and before is None:
      wait(page, BUSY.replace("true", "false"))
      before = server.memory()
    found = page.locator(choose.choice(targets))
    visible = [x for x in found.all() if x.is_visible()]
    if visible:
      element = choose.choice(visible)
      with contextlib.suppress(sync_api.Error):  # It has just been replaced.
        element.scroll_into_view_if_needed(timeout=1_000)
        box = element.bounding_box(timeout=1_000)
        if box is None:  # It has just been hidden.
          continue
        x = box["x"] + choose.uniform(1, box["width"] - 1)
        page.mouse.click(x, box["y"] + box["height"] / 2)
        clicks += 1
  wait(page, BUSY.replace("true", "false"))
  assert server.memory() - before < 200e6
  page.goto(server.url)
  wait(page, "document.querySelector('[data-name=image]')?.src")
