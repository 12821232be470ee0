"""Draws CLEVR scenes and their masks by a small ray tracer in JAX.

The scenes are those of the public generator (Johnson et al., 2017): cubes,
spheres and cylinders of rubber or metal lie on a grey ground, which rises to a
wall behind them. Three square lamps and a sun light the scene. At the point
where a ray hits a surface, a shadow ray to a random point of each lamp measures
the direct light. Light that other surfaces send is only approximated. Metal
reflects rays up to NUM_BOUNCES times. Light and colours are linear until the
final conversion to sRGB.

Letters in shapes: N scenes, M rows for objects, S side of the image, R rays.
Lengths are in CLEVR's units: the ground is z = 0, and objects are within 3 of
the origin. A photograph is a whole image as the public generator renders it, of
which only a part may be drawn here.
"""

from concurrent.futures import ThreadPoolExecutor
import functools
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slot_attention.data import clevr

# These values are those of the public generator. RADII (half the extent of an
# object) and COLORS have the order of clevr.PROPERTIES. The lights are key,
# fill, back and sun. The sun is a square too, with the solid angle of the
# generator's sun.
RADII = np.array([0.35, 0.7], np.float32)
COLORS = np.array(
  [
    [87, 87, 87], [42, 75, 215], [129, 74, 25], [255, 238, 51],
    [173, 35, 35], [29, 105, 20], [129, 38, 192], [41, 208, 208],
  ],
  np.float32,
)  # fmt: skip
BEHIND = (-0.7544903, 0.6563113, 0.0)
FIELD_OF_VIEW = 0.857556  # Across the width of a photograph, in radians.
SUN_DIRECTION = np.array([0.4145, -0.1946, 0.8890], np.float32)
SUN_DISTANCE = 1000.0
LIGHT_SIDES = np.array([0.5, 0.5, 1.0, 176.4], np.float32)
LIGHT_RADIANCE = np.array(
  [
    [100.0, 93.2, 81.7],
    [22.86, 24.54, 30.0],
    [12.5, 12.5, 12.5],
    [14.47, 14.47, 14.47],
  ],
  np.float32,
)
GROUND_ALBEDO = 0.8
WALL = 17.8  # Distance behind the origin where the ground ends.
RUBBER_ROUGHNESS = 0.35
RUBBER_REFLECTANCE = 0.0083  # At normal incidence, for refractive index 1.2.

# These values minimise the mean error on 20 photographs, numbers 100 to 119 of
# the 200 that results/clevr_renderer.json compares.
# Metal is a smooth and a rough mirror: GGX roughness and share of each.
METAL_LAYERS = np.array([[0.0, 0.6], [0.15, 0.4]], np.float32)
CUBE_BEVEL = 0.18  # As a share of half the extent.
CYLINDER_BEVEL = 0.057
GROUND_BEND = 5.5  # Distance behind the origin where the ground begins to rise.
GROUND_CURVATURE = 0.04
WALL_HEIGHT = 18.3
# Indirect light that a surface receives: from the ground if it faces down, from
# a white object that fills its view, and from everywhere.
GROUND_GLOW = 0.152
OBJECT_GLOW = 0.115
SKY_GLOW = 0.0104
PIXEL_WIDTH = 1.9  # Width that a pixel averages, in pixels of a photograph.

NUM_BOUNCES = 2
FAR = 1e4
# Number of rays that are traced together. On a CPU, an image of 128x128 with 9
# samples takes 0.036 CPU seconds in chunks of 1024 rays and 0.046 in chunks of
# 4096. An accelerator needs larger chunks.
CPU_CHUNK = 1024
ACCELERATOR_CHUNK = 16384
ACCELERATOR_BATCH = 50  # Number of scenes that are drawn together.
TILE_SIZE = 16


class Scenes(NamedTuple):
  """Scenes to draw.

  Attributes:
    coords: float32 [N, M, 3], centres of the objects.
    rotations: float32 [N, M], rotations about the vertical axis. The public
      generator calls them degrees but applies them as radians, and so does this
      renderer.
    classes: for each key of `clevr.PROPERTIES` int32 [N, M].
    num_objects: int32 [N], number of objects. Later rows are ignored.
    camera: float32 [N, 3], position of the camera, which looks at the origin.
    lamps: float32 [N, 3, 3], positions of the key, fill and back lamp, which
      face the origin.
    noise_seed: uint32 [N], seed of the noise in penumbrae and rough
      reflections.
  """

  coords: np.ndarray
  rotations: np.ndarray
  classes: dict[str, np.ndarray]
  num_objects: np.ndarray
  camera: np.ndarray
  lamps: np.ndarray
  noise_seed: np.ndarray


class Framing(NamedTuple):
  """The rows and columns of a width x height photograph that are drawn."""

  width: int
  height: int
  rows: tuple[int, int]
  columns: tuple[int, int]


# CENTRE is what object discovery uses of CLEVR with masks, WHOLE is what set
# prediction uses of CLEVR (E.8).
CENTRE = Framing(
  320,
  240,
  (clevr.CROP_ROWS.start, clevr.CROP_ROWS.stop),
  (clevr.CROP_COLUMNS.start, clevr.CROP_COLUMNS.stop),
)
WHOLE = Framing(480, 320, (0, 320), (0, 480))
# The photograph in which the public generator counts the pixels of objects.
COUNTED = Framing(320, 240, (0, 240), (0, 320))


def render(
  scenes: Scenes, *, framing: Framing, image_size: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws scenes. An image depends only on its own scene.

  The samples of a pixel are as close together as the pixels of a photograph,
  even if the image has fewer pixels. The image therefore looks like a
  photograph resized without antialiasing, see `clevr.frame`.

  Args:
    scenes: N scenes.
    framing: the part of a photograph that becomes the square image.
    image_size: side S of the image, in pixels.
    samples: number of rays per pixel.

  Returns:
    Images uint8 [N, S, S, 3] and segments uint8 [N, S, S]. A segment says what
    the ray through the centre of the pixel hits: 0 the ground, m + 1 object m.
  """
  options = {"framing": framing, "image_size": image_size, "samples": samples}
  return _map_scenes(_compiled(_draw, **options), scenes)


def count_pixels(scenes: Scenes) -> np.ndarray:
  """Counts the pixels of each object in a 320x240 photograph, int32 [N, M]."""
  return _map_scenes(_compiled(_count_pixels), scenes)


def project(
  camera: np.ndarray, points: np.ndarray, *, width: int, height: int
) -> np.ndarray:
  """Projects points to a photograph.

  Args:
    camera: [3], position of the camera.
    points: [P, 3].
    width: width of the photograph, in pixels.
    height: height of the photograph, in pixels.

  Returns:
    [P, 3]: column, row, and distance along the camera's axis.
  """
  axes = np.stack(_camera_axes(_Vector(*camera)))
  x, y, depth = axes @ (points - camera).T
  scale = width / (2 * np.tan(FIELD_OF_VIEW / 2))
  return np.stack(
    [width / 2 + scale * x / depth, height / 2 - scale * y / depth, depth], -1
  )


def _is_cpu():
  return jax.default_backend() == "cpu"


def _chunk_rays():
  return CPU_CHUNK if _is_cpu() else ACCELERATOR_CHUNK


@functools.cache
def _compiled(draw, **options):
  """Compiles a function for one scene on a CPU, for many scenes elsewhere.

  Without a batch of scenes, `jax.lax.cond` executes only one branch, so a CPU
  skips objects that no ray of a chunk comes near. An accelerator needs many
  scenes to be busy.
  """
  draw = functools.partial(draw, **options)
  return jax.jit(draw if _is_cpu() else jax.vmap(draw))


def _map_scenes(draw, scenes):
  """Applies a function from `_compiled` to N scenes, in NumPy arrays."""
  num_scenes = len(scenes.num_objects)

  def draw_part(part):
    return jax.device_get(draw(jax.tree.map(lambda x: x[part], scenes)))

  if _is_cpu():
    with ThreadPoolExecutor(os.cpu_count()) as threads:
      drawn = list(threads.map(draw_part, range(num_scenes)))
    return jax.tree.map(lambda *arrays: np.stack(arrays), *drawn)
  # All batches have one size. The last scene fills up the last batch.
  starts = range(0, num_scenes, ACCELERATOR_BATCH)
  parts = [np.arange(start, start + ACCELERATOR_BATCH) for start in starts]
  drawn = [draw_part(part.clip(max=num_scenes - 1)) for part in parts]
  return jax.tree.map(
    lambda *arrays: np.concatenate(arrays)[:num_scenes], *drawn
  )


class _Vector(NamedTuple):
  """R vectors, with an array [R] or a number for each axis.

  Arrays [R, 3] are slower, because XLA does not vectorise them over the rays.
  """

  x: jax.Array
  y: jax.Array
  z: jax.Array

  def __add__(self, other):
    return _Vector(self.x + other.x, self.y + other.y, self.z + other.z)

  def __sub__(self, other):
    return _Vector(self.x - other.x, self.y - other.y, self.z - other.z)

  def __mul__(self, other):
    if isinstance(other, _Vector):
      return _Vector(self.x * other.x, self.y * other.y, self.z * other.z)
    return _Vector(self.x * other, self.y * other, self.z * other)

  def dot(self, other):
    return self.x * other.x + self.y * other.y + self.z * other.z

  def cross(self, other):
    return _Vector(
      self.y * other.z - self.z * other.y,
      self.z * other.x - self.x * other.z,
      self.x * other.y - self.y * other.x,
    )

  def normalized(self):
    return self * jax.lax.rsqrt(jnp.maximum(self.dot(self), 1e-20))

  def turned(self, cos, sin):
    """Rotates the vectors about the vertical axis."""
    return _Vector(
      cos * self.x - sin * self.y, sin * self.x + cos * self.y, self.z
    )


def _row(matrix, i):
  return _Vector(*(matrix[i, axis] for axis in range(3)))


def _grey(value):
  return _Vector(value, value, value)


def _select(condition, a, b):
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


class _World(NamedTuple):
  """One scene in the form that the ray tracer uses.

  Attributes:
    centers: [M, 3], centres of the objects.
    radii: [M], half the extent of the objects.
    rotations: [M], rotations of the objects.
    shapes: int [M], shapes of the objects.
    colors: [M + 1, 3], colours of the objects and of the ground.
    materials: int [M + 1], materials of the objects as in `clevr.PROPERTIES`;
      -1 for the ground.
    num_objects: number of objects.
    lights: [4, 3], positions of the lights.
    facing: [4, 3], directions from the lights to the origin.
    sideways: two arrays [4, 3], half of each of two sides of the lights.
  """

  centers: jax.Array
  radii: jax.Array
  rotations: jax.Array
  shapes: jax.Array
  colors: jax.Array
  materials: jax.Array
  num_objects: jax.Array
  lights: jax.Array
  facing: jax.Array
  sideways: tuple[jax.Array, jax.Array]


class _Rays(NamedTuple):
  """R rays.

  Attributes:
    origin: _Vector.
    direction: _Vector of length 1.
    weight: _Vector, factor of the radiance of the ray in that of the pixel, one
      for each colour.
    noise: two arrays [R], uniform in [0, 1).
    is_alive: bool [R], whether the ray is traced.
    sees_lights: bool [R], whether the ray sees the lights themselves. Rays from
      the camera do not, as in the public generator. Rays from rough metal do
      not either, since shadow rays measure that light.
  """

  origin: _Vector
  direction: _Vector
  weight: _Vector
  noise: tuple[jax.Array, jax.Array]
  is_alive: jax.Array
  sees_lights: jax.Array


class _Surface(NamedTuple):
  """The surfaces that R rays hit.

  Attributes:
    point: _Vector, slightly above the surface.
    normal: _Vector, normal of the surface.
    color: _Vector, colour of the surface.
    index: int [R], index of the object; M for the ground.
    material: int [R], material of the surface as in `_World`.
    is_hit: bool [R], whether the ray hits anything.
  """

  point: _Vector
  normal: _Vector
  color: _Vector
  index: jax.Array
  material: jax.Array
  is_hit: jax.Array


def _make_world(scene):
  lights = jnp.concatenate([scene.lamps, SUN_DISTANCE * SUN_DIRECTION[None]])
  facing = -lights / jnp.linalg.norm(lights, axis=-1, keepdims=True)
  rightward = jnp.cross(facing, jnp.broadcast_to(jnp.eye(3)[2], facing.shape))
  rightward /= jnp.linalg.norm(rightward, axis=-1, keepdims=True)
  half = jnp.asarray(LIGHT_SIDES)[:, None] / 2
  colors = jnp.asarray(COLORS / 255)[scene.classes["color"]]
  return _World(
    centers=scene.coords,
    radii=jnp.asarray(RADII)[scene.classes["size"]],
    rotations=scene.rotations,
    shapes=scene.classes["shape"],
    colors=jnp.concatenate([colors, jnp.full((1, 3), GROUND_ALBEDO)]),
    materials=jnp.append(scene.classes["material"], -1),
    num_objects=scene.num_objects,
    lights=lights,
    facing=facing,
    sideways=(half * rightward, half * jnp.cross(rightward, facing)),
  )


# Each shape, with half extent 1, is a function of points outside of it. It
# returns their distance to the surface and the gradient of that distance.


def _cube(point):
  offset = _Vector(*(abs(axis) - (1 - CUBE_BEVEL) for axis in point))
  offset = _Vector(*(jnp.maximum(axis, 0) for axis in offset))
  distance = jnp.sqrt(offset.dot(offset))
  offset = offset * (1 / jnp.maximum(distance, 1e-6))
  return distance - CUBE_BEVEL, _Vector(*map(jnp.copysign, offset, point))


def _sphere(point):
  distance = jnp.sqrt(point.dot(point))
  return distance - 1, point * (1 / distance)


def _cylinder(point):
  radius = jnp.sqrt(point.x * point.x + point.y * point.y)
  side = jnp.maximum(radius - (1 - CYLINDER_BEVEL), 0)
  end = jnp.maximum(abs(point.z) - (1 - CYLINDER_BEVEL), 0)
  distance = jnp.sqrt(side * side + end * end)
  scale = 1 / jnp.maximum(distance, 1e-6)
  outward = side * scale / jnp.maximum(radius, 1e-6)
  return distance - CYLINDER_BEVEL, _Vector(
    outward * point.x, outward * point.y, jnp.copysign(end * scale, point.z)
  )


# In the order of clevr.PROPERTIES: the shape, the radius of the sphere around
# it, and the number of steps of Newton's method from that sphere.
SHAPES = (
  (_cube, 3**0.5 * (1 - CUBE_BEVEL) + CUBE_BEVEL, 6),
  (_sphere, 1.0, 1),
  (_cylinder, 2**0.5 * (1 - CYLINDER_BEVEL) + CYLINDER_BEVEL, 6),
)


def _enter(surface, num_steps, origin, direction, start):
  """Finds where rays [R] enter a shape.

  The distance to a convex body is convex along a ray. Newton's method therefore
  approaches the surface from outside and never passes it. For a ray that
  misses, the distance grows along the ray at some step.

  Returns:
    The distance along the ray, FAR if it misses, and the normal.
  """
  place = start
  for _ in range(num_steps):
    distance, normal = surface(origin + direction * place)
    slope = normal.dot(direction)
    place = jnp.where(slope < 0, place - distance / slope, FAR)
  return jnp.where(distance < 0.01, place, FAR), normal


def _visit(world, origin, direction, reach, update, state):
  """Calls `update` for each object that any of the rays may hit.

  Args:
    world: _World.
    origin: _Vector, origin of the rays.
    direction: _Vector, direction of the rays.
    reach: function from the state to [R], how far along the rays to look.
    update: function of the state, the index of the object, the distance along
      the rays and the normal, which returns the next state.
    state: initial state.

  Returns:
    The final state.
  """

  def visit(i, state):
    radius = world.radii[i]
    offset = origin - _row(world.centers, i)
    enclosing = radius * jnp.asarray([s[1] for s in SHAPES])[world.shapes[i]]
    middle = -offset.dot(direction)
    half_squared = middle * middle - offset.dot(offset) + enclosing * enclosing
    half = jnp.sqrt(jnp.maximum(half_squared, 0))
    start = jnp.maximum(middle - half, 0)
    is_near = (half_squared > 0) & (middle + half > 0) & (start < reach(state))

    def enter(state):
      cos, sin = jnp.cos(world.rotations[i]), jnp.sin(world.rotations[i])
      place, normal = jax.lax.switch(
        world.shapes[i],
        [functools.partial(_enter, s[0], s[2]) for s in SHAPES],
        offset.turned(cos, -sin) * (1 / radius),
        direction.turned(cos, -sin) * (1 / radius),
        jnp.where(is_near, start, FAR),
      )
      return update(state, i, place, normal.turned(cos, sin))

    return jax.lax.cond(is_near.any(), enter, lambda state: state, state)

  return jax.lax.fori_loop(0, world.num_objects, visit, state)


def _hit_ground(origin, direction):
  """Finds where rays hit the ground.

  The ground is flat up to GROUND_BEND behind the origin, then rises as a
  parabola, and ends in a wall.

  Returns:
    The distance along the ray, FAR if it misses, and the normal.
  """
  start = origin.dot(_Vector(*BEHIND)) - GROUND_BEND
  speed = direction.dot(_Vector(*BEHIND))
  flat = -origin.z / jnp.minimum(direction.z, -1e-9)
  # The largest root of a place**2 + b place + c.
  a = jnp.maximum(GROUND_CURVATURE * speed * speed, 1e-9)
  b = 2 * GROUND_CURVATURE * start * speed - direction.z
  c = GROUND_CURVATURE * start * start - origin.z
  root = jnp.sqrt(jnp.maximum(b * b - 4 * a * c, 0))
  last = -2 * c / jnp.maximum(b + root, 1e-9)
  curved = jnp.where(b < 0, (root - b) / (2 * a), last)
  wall = (WALL - GROUND_BEND - start) / jnp.maximum(speed, 1e-9)
  is_flat = (direction.z < 0) & (start + speed * flat < 0)
  place = jnp.where(is_flat, flat, jnp.minimum(curved, wall))
  past_bend = start + speed * place
  is_hit = (place > 0) & (is_flat | (past_bend > 0))
  is_hit &= origin.z + direction.z * place < WALL_HEIGHT
  is_wall = ~is_flat & (wall < curved)
  slope = jnp.where(
    is_wall, 1, 2 * GROUND_CURVATURE * jnp.maximum(past_bend, 0)
  )
  normal = _Vector(*BEHIND) * -slope
  normal = normal._replace(z=jnp.where(is_wall, 0.0, 1.0)).normalized()
  return jnp.where(is_hit, place, FAR), normal


def _first_hit(world, rays):
  """Finds what rays hit: distance along the ray, and _Surface."""

  def update(nearest, i, place, normal):
    return _select(place < nearest[0], (place, normal, i), nearest)

  place, normal = _hit_ground(rays.origin, rays.direction)
  place, normal, index = _visit(
    world,
    rays.origin,
    rays.direction,
    lambda nearest: jnp.where(rays.is_alive, nearest[0], 0),
    update,
    (place, normal, jnp.full(place.shape, len(world.radii), jnp.int32)),
  )
  return place, _Surface(
    point=rays.origin + rays.direction * place + normal * 1e-3,
    normal=normal,
    color=_Vector(*(world.colors[index, axis] for axis in range(3))),
    index=index,
    material=world.materials[index],
    is_hit=rays.is_alive & (place < FAR),
  )


def _direct_light(world, surface, view, noise):
  """Computes the radiance of surfaces by the direct light of all lights.

  It has a diffuse part. The gloss of rubber and the rough layer of metal use
  the GGX microfacets of Walter et al. (2007).

  Args:
    world: _World.
    surface: _Surface.
    view: _Vector, direction from the surfaces to the viewer.
    noise: two arrays [R], which select a point of each lamp.

  Returns:
    _Vector.
  """
  is_metal, is_rubber = surface.material == 1, surface.material == 0
  rough, rough_share = METAL_LAYERS[1]
  squared_roughness = jnp.where(is_metal, rough, RUBBER_ROUGHNESS) ** 2
  albedo = surface.color * jnp.where(is_metal, 0, 1 / np.pi)
  metal = surface.color * jnp.where(is_metal, rough_share, 0)
  cos_view = jnp.maximum(surface.normal.dot(view), 1e-3)

  def masking(cos):
    return cos + jnp.sqrt(
      squared_roughness + (1 - squared_roughness) * cos * cos
    )

  def add_light(k, radiance):
    across, along = (_row(sideways, k) for sideways in world.sideways)
    offset = across * (2 * noise[0] - 1) + along * (2 * noise[1] - 1)
    offset = offset + _row(world.lights, k) - surface.point
    squared_distance = offset.dot(offset)
    distance = jnp.sqrt(squared_distance)
    direction = offset * (1 / distance)
    cos = surface.normal.dot(direction)
    cos_light = -direction.dot(_row(world.facing, k))
    is_lit = _visit(
      world,
      surface.point,
      direction,
      lambda is_lit: jnp.where(is_lit, distance, 0),
      lambda is_lit, i, place, normal: is_lit & (place >= distance),
      surface.is_hit & (cos > 0) & (cos_light > 0),
    )
    cos = jnp.maximum(cos, 1e-6)
    half = (direction + view).normalized()
    bump = 1 - surface.normal.dot(half) ** 2 * (1 - squared_roughness)
    gloss = squared_roughness / (np.pi * bump * bump)
    gloss /= masking(cos) * masking(cos_view)
    fresnel = (1 - RUBBER_REFLECTANCE) * (1 - view.dot(half)) ** 5
    fresnel = jnp.where(is_rubber, RUBBER_REFLECTANCE + fresnel, 0)
    sent = albedo + (metal + _grey(fresnel)) * gloss
    light = jnp.asarray(LIGHT_RADIANCE * LIGHT_SIDES[:, None] ** 2)
    received = jnp.where(is_lit, cos * cos_light / squared_distance, 0)
    return radiance + sent * _row(light, k) * received

  none = _grey(jnp.zeros_like(cos_view))
  return jax.lax.fori_loop(0, len(world.lights), add_light, none)


def _indirect_light(world, surface):
  """Approximates the radiance of diffuse surfaces by indirect light, _Vector.

  The ground glows from below. Objects glow as spheres that hide the ground.
  """

  def add_object(i, state):
    ground_share, light = state
    offset = _row(world.centers, i) - surface.point
    squared_distance = offset.dot(offset)
    cos = surface.normal.dot(offset) * jax.lax.rsqrt(squared_distance)
    share = world.radii[i] ** 2 / squared_distance
    share = jnp.clip(cos, 0, 1) * jnp.minimum(share, 1)
    share = jnp.where(surface.index == i, 0, share)
    light = light + _row(world.colors, i) * (OBJECT_GLOW * share)
    return ground_share * (1 - share), light

  start = (1 - surface.normal.z) / 2, _grey(jnp.zeros_like(surface.normal.z))
  ground_share, light = jax.lax.fori_loop(
    0, world.num_objects, add_object, start
  )
  light = light + _grey(GROUND_GLOW * ground_share + SKY_GLOW)
  return light * surface.color * jnp.where(surface.material == 1, 0.0, 1.0)


def _emitted_light(world, rays, reach):
  """Computes the radiance of the lights that rays see within reach, _Vector."""

  def add_light(k, radiance):
    facing = _row(world.facing, k)
    offset = rays.origin - _row(world.lights, k)
    speed = -rays.direction.dot(facing)
    place = offset.dot(facing) / jnp.maximum(speed, 1e-6)
    offset = offset + rays.direction * place
    is_seen = rays.sees_lights & (speed > 0) & (0 < place) & (place < reach)
    for side in (_row(sideways, k) for sideways in world.sideways):
      is_seen &= abs(offset.dot(side)) < side.dot(side)
    light = _row(jnp.asarray(LIGHT_RADIANCE), k)
    return radiance + light * jnp.where(is_seen, 1.0, 0.0)

  none = _grey(jnp.zeros_like(reach))
  return jax.lax.fori_loop(0, len(world.lights), add_light, none)


def _trace(world, rays):
  """Computes the radiance that rays add to their pixels, and their _Surface."""
  place, surface = _first_hit(world, rays)
  view = rays.direction * -1.0
  radiance = _direct_light(world, surface, view, rays.noise)
  radiance = radiance + _indirect_light(world, surface)
  radiance = _select(surface.is_hit, radiance, _grey(jnp.zeros_like(place)))
  radiance = radiance + _emitted_light(world, rays, place)
  return radiance * rays.weight, surface


def _reflect(rays, surface, roughness):
  """Returns the rays that metal reflects, by random GGX facets if rough."""
  u, v = rays.noise
  normal = surface.normal
  # A fixed direction along the surface is rotated by a random angle.
  along = _Vector(normal.y, normal.z, normal.x).cross(normal).normalized()
  turn = 2 * np.pi * v
  along = along * jnp.cos(turn) + normal.cross(along) * jnp.sin(turn)
  slope = roughness * jnp.sqrt(u / (1.001 - u))
  facet = (normal + along * slope).normalized()
  direction = rays.direction - facet * (2 * rays.direction.dot(facet))
  is_outward = direction.dot(normal) > 0
  is_alive = surface.is_hit & (surface.material == 1) & is_outward
  return rays._replace(
    origin=surface.point,
    direction=direction,
    weight=rays.weight * surface.color,
    is_alive=is_alive,
    sees_lights=is_alive & (roughness == 0),
  )


def _reflected_light(world, rays, surface):
  """Computes the radiance that rays [R] get by reflections in metal, _Vector.

  Few rays hit metal. They are gathered, so that they fill only few chunks.
  """
  num_rays, chunk_rays = len(surface.is_hit), _chunk_rays()
  is_metal = surface.is_hit & (surface.material == 1)
  num_chunks = -(-num_rays // chunk_rays)
  on_metal = jnp.nonzero(
    is_metal, size=num_chunks * chunk_rays, fill_value=num_rays
  )[0].reshape(num_chunks, chunk_rays)

  def bounce(_, state):
    rays, radiance = state
    added, surface = _trace(world, rays)
    return _reflect(rays, surface, 0.0), radiance + added

  def add_chunk(chunk, radiance):
    here = on_metal[chunk]
    rays_here, surface_here = jax.tree.map(
      lambda x: x.at[here].get(mode="fill", fill_value=0), (rays, surface)
    )

    def add_layer(layer, radiance):
      roughness, share = jnp.asarray(METAL_LAYERS)[layer]
      onward = _reflect(rays_here, surface_here, roughness)
      onward = onward._replace(weight=onward.weight * share)
      return jax.lax.fori_loop(0, NUM_BOUNCES, bounce, (onward, radiance))[1]

    none = _grey(jnp.zeros(chunk_rays))
    added = jax.lax.fori_loop(0, len(METAL_LAYERS), add_layer, none)
    return jax.tree.map(
      lambda x, y: x.at[here].set(y, mode="drop"), radiance, added
    )

  num_needed = -(-jnp.count_nonzero(is_metal) // chunk_rays)
  none = _grey(jnp.zeros(num_rays))
  return jax.lax.fori_loop(0, num_needed, add_chunk, none)


def _camera_axes(camera):
  """Returns the unit vectors to the right, up and forward of a camera."""
  forward = (camera * -1.0).normalized()
  rightward = forward.cross(_Vector(0.0, 0.0, 1.0)).normalized()
  return rightward, rightward.cross(forward), forward


def _camera_rays(camera, framing, rows, columns, noise):
  """Makes rays from a camera [3] through rows and columns [R]."""
  camera = _Vector(*camera)
  rightward, upward, forward = _camera_axes(camera)
  scale = 2 * np.tan(FIELD_OF_VIEW / 2) / framing.width
  x = scale * (jnp.asarray(columns, jnp.float32) - framing.width / 2)
  y = scale * (framing.height / 2 - jnp.asarray(rows, jnp.float32))
  ones = jnp.ones_like(x)
  return _Rays(
    origin=camera * ones,
    direction=(rightward * x + upward * y + forward * ones).normalized(),
    weight=_grey(ones),
    noise=noise,
    is_alive=ones > 0,
    sees_lights=ones < 0,
  )


def _pixels(framing, num_rows, num_columns):
  """Orders the pixels of an image by tiles, so that near pixels are together.

  Returns:
    Three arrays [num_rows * num_columns]: the index of each pixel in the image,
    and the row and column of its centre in the photograph.
  """
  row, column = np.divmod(np.arange(num_rows * num_columns), num_columns)
  order = np.lexsort((column, row, column // TILE_SIZE, row // TILE_SIZE))
  (top, bottom), (left, right) = framing.rows, framing.columns
  rows = top + (row[order] + 0.5) * ((bottom - top) / num_rows)
  columns = left + (column[order] + 0.5) * ((right - left) / num_columns)
  return order, rows, columns


def _map_chunks(function, rays):
  """Applies a function of rays to one chunk of rays after another."""
  num_rays, chunk_rays = len(rays.is_alive), _chunk_rays()
  num_chunks = -(-num_rays // chunk_rays)

  def split(x):
    padding = num_chunks * chunk_rays - num_rays
    return jnp.pad(x, (0, padding)).reshape(num_chunks, chunk_rays)

  results = jax.lax.map(function, jax.tree.map(split, rays))
  return jax.tree.map(lambda x: x.reshape(-1)[:num_rays], results)


def _count_pixels(scene):
  """Counts the pixels of each object of one scene, int32 [M]."""
  world = _make_world(scene)
  _, rows, columns = _pixels(COUNTED, COUNTED.height, COUNTED.width)
  noise = jnp.zeros(len(rows)), jnp.zeros(len(rows))
  rays = _camera_rays(scene.camera, COUNTED, rows, columns, noise)
  index = _map_chunks(lambda rays: _first_hit(world, rays)[1].index, rays)
  return jnp.stack([(index == m).sum() for m in range(len(world.radii))])


def _draw(scene, *, framing, image_size, samples):
  """Draws image uint8 [S, S, 3] and segments uint8 [S, S] of one scene."""
  world = _make_world(scene)
  order, rows, columns = _pixels(framing, image_size, image_size)
  # The samples form a two-dimensional low-discrepancy sequence (Roberts, 2018)
  # that starts at the centre of the pixel. The noise is the same sequence,
  # shifted by a random offset in each pixel.
  steps = np.arange(samples) * np.array([[0.7548776662], [0.5698402910]])
  offset = PIXEL_WIDTH * ((0.5 + steps) % 1 - 0.5)
  key = jax.random.key(scene.noise_seed)
  noise = jax.random.uniform(key, (2, len(order), 1))
  noise = (noise + jnp.asarray(steps[:, None], jnp.float32)) % 1
  rays = _camera_rays(
    scene.camera,
    framing,
    (rows[:, None] + offset[0]).reshape(-1),
    (columns[:, None] + offset[1]).reshape(-1),
    (noise[0].reshape(-1), noise[1].reshape(-1)),
  )
  radiance, surface = _map_chunks(functools.partial(_trace, world), rays)
  radiance = radiance + _reflected_light(world, rays, surface)
  place = np.argsort(order)
  linear = jnp.stack(radiance, -1).reshape(-1, samples, 3)[place]
  linear = jnp.minimum(linear, 1).mean(1)
  # The transfer function of sRGB.
  image = jnp.where(
    linear < 0.0031308,
    12.92 * linear,
    1.055 * jnp.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055,
  )
  image = jnp.rint(255 * image).astype(jnp.uint8)
  segments = surface.index.reshape(-1, samples)[place, 0]
  segments = jnp.where(segments < len(world.radii), segments + 1, 0)
  return (
    image.reshape(image_size, image_size, 3),
    segments.astype(jnp.uint8).reshape(image_size, image_size),
  )
