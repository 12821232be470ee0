"""Draws CLEVR scenes with their masks: a small ray tracer in JAX.

The scenes are those of the public generator (Johnson et al., 2017): cubes,
spheres and cylinders of rubber or metal on a grey ground that rises to a wall
behind them, lit by three square lamps and a sun. A ray gathers the light of
each lamp where it ends, through a shadow ray to a random point of the lamp; the
light between surfaces is only estimated. Metal mirrors, up to NUM_BOUNCES
times. Light and colours are linear until the last step.

Letters in shapes: N scenes, M places for objects, S side of the image, R rays.
Lengths are in CLEVR's units: the ground is z = 0, objects lie within 3 of the
origin.
"""

from concurrent.futures import ThreadPoolExecutor
import functools
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slot_attention.data import clevr

# What follows is the public generator's. Half the extent of objects and their
# colours are in the order of clevr.PROPERTIES; lights are key, fill, back and
# sun, which is a square as well, of equal solid angle.
RADII = np.array([0.35, 0.7], np.float32)
COLORS = np.array(
  [
    [87, 87, 87], [42, 75, 215], [129, 74, 25], [255, 238, 51],
    [173, 35, 35], [29, 105, 20], [129, 38, 192], [41, 208, 208],
  ],
  np.float32,
)  # fmt: skip
BEHIND = (-0.7544903, 0.6563113, 0.0)
FIELD_OF_VIEW = 0.857556  # Of the photograph's width, radians.
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
WALL = 17.8  # Where the ground ends, behind the origin.
RUBBER_ROUGHNESS = 0.35
RUBBER_REFLECTANCE = 0.0083  # Face on; of index of refraction 1.2.

# What follows was chosen for the least mean error on 20 photographs (numbers
# 100 to 119) of the 200 that benchmarks/clevr_renderer.py was run on.
# Metal is a mirror and a rough mirror: GGX roughness, share.
METAL_LAYERS = np.array([[0.0, 0.6], [0.15, 0.4]], np.float32)
CUBE_BEVEL = 0.18  # As a share of half the extent.
CYLINDER_BEVEL = 0.057
GROUND_BEND = 5.5  # Where the ground begins to rise, behind the origin.
GROUND_CURVATURE = 0.04
WALL_HEIGHT = 18.3
GROUND_GLOW = 0.152  # Light that a face down receives from the ground,
OBJECT_GLOW = 0.115  # a face from a white object all before it,
SKY_GLOW = 0.0104  # and every face besides.
PIXEL_WIDTH = 1.9  # What a pixel averages over, in pixels of the photograph.

NUM_BOUNCES = 2
FAR = 1e4
# Rays at a time. An image of 128x128 with 9 samples takes 0.036 CPU seconds in
# chunks of 1024, 0.046 in chunks of 4096; an accelerator wants more at once.
CPU_CHUNK = 1024
ACCELERATOR_CHUNK = 16384
ACCELERATOR_BATCH = 50  # Scenes at a time.
TILE_SIZE = 16


class Scenes(NamedTuple):
  """What is to be drawn.

  Attributes:
    coords: float32 [N, M, 3], centres.
    rotations: float32 [N, M], about the vertical. The public generator writes
      degrees but applies the number as radians, as is done here.
    classes: for each of `clevr.PROPERTIES` int32 [N, M].
    num_objects: int32 [N]; the places after them hold anything.
    camera: float32 [N, 3]; it looks at the origin.
    lamps: float32 [N, 3, 3], places of the key, fill and back lamp, which face
      the origin.
    noise_seed: uint32 [N], of the noise in penumbrae and rough reflections.
  """

  coords: np.ndarray
  rotations: np.ndarray
  classes: dict[str, np.ndarray]
  num_objects: np.ndarray
  camera: np.ndarray
  lamps: np.ndarray
  noise_seed: np.ndarray


class Framing(NamedTuple):
  """The part of a photograph of width x height pixels that is drawn."""

  width: int
  height: int
  rows: tuple[int, int]
  columns: tuple[int, int]


# What object discovery sees of CLEVR with masks, and set prediction of CLEVR
# (E.1, E.2).
CENTRE = Framing(
  320,
  240,
  (clevr.CROP_ROWS.start, clevr.CROP_ROWS.stop),
  (clevr.CROP_COLUMNS.start, clevr.CROP_COLUMNS.stop),
)
WHOLE = Framing(480, 320, (0, 320), (0, 480))
# Where the public generator counts the pixels of an object.
COUNTED = Framing(320, 240, (0, 240), (0, 320))


def render(
  scenes: Scenes, *, framing: Framing, image_size: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws scenes; an image depends on its own scene alone.

  The samples of a pixel lie as near as the pixels of a photograph, even where
  the image has fewer: that is how images resized without antialiasing look
  (`clevr.frame`).

  Args:
    scenes: N of them.
    framing: what of a photograph becomes the square image.
    image_size: S.
    samples: rays per pixel.

  Returns:
    Images, uint8 [N, S, S, 3]; and what the ray through the centre of each
    pixel meets, uint8 [N, S, S]: 0 the ground, m + 1 object m.
  """
  options = {"framing": framing, "image_size": image_size, "samples": samples}
  return _map_scenes(_compiled(_draw, **options), scenes)


def count_pixels(scenes: Scenes) -> np.ndarray:
  """Pixels that objects show in a photograph of 320x240, int32 [N, M]."""
  return _map_scenes(_compiled(_count_pixels), scenes)


def project(
  camera: np.ndarray, points: np.ndarray, *, width: int, height: int
) -> np.ndarray:
  """Where a photograph shows points.

  Args:
    camera: [3].
    points: [P, 3].
    width: of the photograph, pixels.
    height: of the photograph, pixels.

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
  """Compiles for one scene on the CPU, for many at once elsewhere.

  With one scene at a time branches are real: objects and shapes that no ray of
  a chunk comes near are skipped. An accelerator needs more rays than that.
  """
  draw = functools.partial(draw, **options)
  return jax.jit(draw if _is_cpu() else jax.vmap(draw))


def _map_scenes(draw, scenes):
  """Applies a function from `_compiled` to N scenes; NumPy arrays."""
  num_scenes = len(scenes.num_objects)

  def draw_part(part):
    return jax.device_get(draw(jax.tree.map(lambda x: x[part], scenes)))

  if _is_cpu():
    with ThreadPoolExecutor(os.cpu_count()) as threads:
      drawn = list(threads.map(draw_part, range(num_scenes)))
    return jax.tree.map(lambda *arrays: np.stack(arrays), *drawn)
  # Batches of one size; the last scene fills up.
  starts = range(0, num_scenes, ACCELERATOR_BATCH)
  parts = [np.arange(start, start + ACCELERATOR_BATCH) for start in starts]
  drawn = [draw_part(part.clip(max=num_scenes - 1)) for part in parts]
  return jax.tree.map(
    lambda *arrays: np.concatenate(arrays)[:num_scenes], *drawn
  )


class _Vector(NamedTuple):
  """R vectors, an array [R] (or a number) for each axis.

  Arrays [R, 3] would be slower: they keep XLA from vectorising over the rays.
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
    """Turned about the vertical."""
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
  """A scene as the rays need it.

  Attributes:
    centers, radii, rotations, shapes: of the objects, [M, 3], [M], [M], [M].
    colors: [M + 1, 3]; the last is the ground's.
    materials: int [M + 1], as in `clevr.PROPERTIES`; -1 for the ground.
    num_objects: how many of the places are filled.
    lights: [4, 3].
    facing: [4, 3], directions from the lights to the origin.
    sideways: two arrays [4, 3], halves of the lights' sides.
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
    weight: _Vector, of their radiance in that of the pixel.
    noise: two arrays [R], uniform in [0, 1).
    is_alive: bool [R].
    sees_lights: bool [R]; the camera does not, nor do reflections in the rough
      layer, which gets the same light by shadow rays.
  """

  origin: _Vector
  direction: _Vector
  weight: _Vector
  noise: tuple[jax.Array, jax.Array]
  is_alive: jax.Array
  sees_lights: jax.Array


class _Surface(NamedTuple):
  """Where rays end.

  Attributes:
    point: _Vector, a little above the surface.
    normal: _Vector.
    color: _Vector.
    index: int [R], of the object; M for the ground.
    material: int [R].
    is_hit: bool [R].
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


# The shapes, of half extent 1: the distance of a point outside to the surface,
# and the gradient of that distance.


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


# In the order of clevr.PROPERTIES: the surface, the radius of the sphere around
# it, and the steps of Newton's method from there.
SHAPES = (
  (_cube, 3**0.5 * (1 - CUBE_BEVEL) + CUBE_BEVEL, 6),
  (_sphere, 1.0, 1),
  (_cylinder, 2**0.5 * (1 - CYLINDER_BEVEL) + CYLINDER_BEVEL, 6),
)


def _enter(surface, num_steps, origin, direction, start):
  """Where rays [R] enter a shape: place on the ray, FAR for none; and normal.

  The distance to a convex body is convex along a ray, so Newton's method from
  outside comes nearer with each step and never passes the surface; a ray that
  misses turns away from it at some step.
  """
  place = start
  for _ in range(num_steps):
    distance, normal = surface(origin + direction * place)
    slope = normal.dot(direction)
    place = jnp.where(slope < 0, place - distance / slope, FAR)
  return jnp.where(distance < 0.01, place, FAR), normal


def _visit(world, origin, direction, reach, update, state):
  """Updates the state by each object that any ray may enter within its reach.

  Args:
    world: _World.
    origin: _Vector.
    direction: _Vector.
    reach: state -> [R], how far along the rays to look.
    update: state, index of the object, place on the ray, normal -> state.
    state: to start with.
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
  """Where rays meet the ground: place on the ray, FAR for none; and normal.

  The ground is flat up to GROUND_BEND behind the origin, rises as a parabola
  from there, and ends in a wall.
  """
  start = origin.dot(_Vector(*BEHIND)) - GROUND_BEND
  speed = direction.dot(_Vector(*BEHIND))
  flat = -origin.z / jnp.minimum(direction.z, -1e-9)
  # The last root of a place**2 + b place + c.
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
  """Where rays end: place on the ray and _Surface."""

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


def _light_of_lamps(world, surface, view, noise):
  """Radiance that surfaces send to the view by each light, _Vector.

  Diffuse, and for the gloss of rubber and the rough layer of metal the
  microfacets of Walter et al. (2007), GGX.
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


def _light_of_surroundings(world, surface):
  """Estimate of what diffuse surfaces send of the light of others, _Vector.

  The ground glows below, and objects do as spheres that hide the ground.
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


def _seen_lights(world, rays, reach):
  """Radiance of the lights themselves that rays see before reach, _Vector."""

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
  """Radiance that rays bring to their pixels, and the _Surface they end at."""
  place, surface = _first_hit(world, rays)
  view = rays.direction * -1.0
  radiance = _light_of_lamps(world, surface, view, rays.noise)
  radiance = radiance + _light_of_surroundings(world, surface)
  radiance = _select(surface.is_hit, radiance, _grey(jnp.zeros_like(place)))
  radiance = radiance + _seen_lights(world, rays, place)
  return radiance * rays.weight, surface


def _reflect(rays, surface, roughness):
  """The rays that metal sends on, off random facets (GGX) if it is rough."""
  u, v = rays.noise
  normal = surface.normal
  # Some direction along the surface, then a random one.
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
  """Radiance that rays [R] bring from reflections in metal, _Vector.

  Few of the rays meet metal; gathered, those fill few chunks.
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
  """Unit vectors to the right, up and forward of a camera."""
  forward = (camera * -1.0).normalized()
  rightward = forward.cross(_Vector(0.0, 0.0, 1.0)).normalized()
  return rightward, rightward.cross(forward), forward


def _camera_rays(camera, framing, rows, columns, noise):
  """Rays from a camera [3] through rows and columns [R] of the photograph."""
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
  """A grid over the frame, tile by tile, so that near pixels stay together.

  Returns:
    Numbers of the pixels, row by row, int [num_rows * num_columns]; and the
    rows and columns of their centres in the photograph, likewise.
  """
  row, column = np.divmod(np.arange(num_rows * num_columns), num_columns)
  order = np.lexsort((column, row, column // TILE_SIZE, row // TILE_SIZE))
  (top, bottom), (left, right) = framing.rows, framing.columns
  rows = top + (row[order] + 0.5) * ((bottom - top) / num_rows)
  columns = left + (column[order] + 0.5) * ((right - left) / num_columns)
  return order, rows, columns


def _map_chunks(function, rays):
  """Applies a function of rays to one chunk at a time."""
  num_rays, chunk_rays = len(rays.is_alive), _chunk_rays()
  num_chunks = -(-num_rays // chunk_rays)

  def split(x):
    padding = num_chunks * chunk_rays - num_rays
    return jnp.pad(x, (0, padding)).reshape(num_chunks, chunk_rays)

  results = jax.lax.map(function, jax.tree.map(split, rays))
  return jax.tree.map(lambda x: x.reshape(-1)[:num_rays], results)


def _count_pixels(scene):
  """Pixels of each place of one scene, int32 [M]."""
  world = _make_world(scene)
  _, rows, columns = _pixels(COUNTED, COUNTED.height, COUNTED.width)
  noise = jnp.zeros(len(rows)), jnp.zeros(len(rows))
  rays = _camera_rays(scene.camera, COUNTED, rows, columns, noise)
  index = _map_chunks(lambda rays: _first_hit(world, rays)[1].index, rays)
  return jnp.stack([(index == m).sum() for m in range(len(world.radii))])


def _draw(scene, *, framing, image_size, samples):
  """Image uint8 [S, S, 3] and segments uint8 [S, S] of one scene."""
  world = _make_world(scene)
  order, rows, columns = _pixels(framing, image_size, image_size)
  # Samples lie on a plane sequence of low discrepancy (Roberts, 2018); the
  # first is the centre of the pixel. Noise is the same sequence, shifted by
  # some random step in each pixel.
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
  # The curve of sRGB.
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
