"""Draws CLEVR scenes with their masks: a small ray tracer in JAX.

The scenes are those of the public generator (Johnson et al., 2017): cubes,
spheres and cylinders of rubber or metal on a grey ground that curves up behind
them, lit by three square lamps and a sun. Every ray gathers direct light
through shadow rays to a random point of each lamp; metal sends it on, up to
`NUM_BOUNCES` times. Colours and light are linear until the last step.

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

# Half the extent of objects, and their colours; as in clevr.PROPERTIES.
RADII = np.array([0.35, 0.7], np.float32)
COLORS = (
  np.array(
    [
      [87, 87, 87], [42, 75, 215], [129, 74, 25], [255, 238, 51],
      [173, 35, 35], [29, 105, 20], [129, 38, 192], [41, 208, 208],
    ],
    np.float32,
  ) / 255
)  # fmt: skip
BEHIND = np.array([-0.7544903, 0.6563113, 0.0], np.float32)
FIELD_OF_VIEW = 0.857556  # Of the image's width, radians.

# Radius of the rounded edges, as a share of half the extent.
CUBE_BEVEL = 0.2
CYLINDER_BEVEL = 0.08
GROUND_BEND = 7.687
GROUND_CURVATURE = 0.0561
GROUND_ALBEDO = 0.8
GROUND_GLOW = 0.152
OBJECT_GLOW = 0.115
SKY_GLOW = 0.013

# Of the key, fill and back lamp and the sun.
SUN_DIRECTION = np.array([0.4145, -0.1946, 0.8890], np.float32)
LIGHT_SIDES = np.array([0.5, 0.5, 1.0, 176.4], np.float32)
LIGHT_RADIANCE = np.array(
  [
    [100.0, 93.2, 81.7],
    [30 * 0.762, 30 * 0.818, 30.0],
    [12.5, 12.5, 12.5],
    [14.47, 14.47, 14.47],
  ],
  np.float32,
)
METAL_ROUGHNESS = 0.115
METAL_ROUGH_SHARE = 0.4
RUBBER_ROUGHNESS = 0.35
RUBBER_REFLECTANCE = 0.0083

PIXEL_WIDTH = 1.7
TILE_SIZE = 16
BATCH_SIZE = 50
CHUNK_RAYS = 4096
NUM_BOUNCES = 2
FAR = 1e4


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
  """The part of a photograph that is drawn, in pixels of the photograph.

  Attributes:
    width, height: of the photograph.
    top, bottom, left, right: edges of the part.
  """

  width: int
  height: int
  top: int
  bottom: int
  left: int
  right: int


# What object discovery sees of CLEVR with masks, and what set prediction sees
# of CLEVR (E.1, E.2).
CENTRE = Framing(
  320,
  240,
  clevr.CROP_ROWS.start,
  clevr.CROP_ROWS.stop,
  clevr.CROP_COLUMNS.start,
  clevr.CROP_COLUMNS.stop,
)
WHOLE = Framing(480, 320, 0, 320, 0, 480)
# In which the public generator counts the pixels of an object.
COUNTED = Framing(320, 240, 0, 240, 0, 320)


def render(
  scenes: Scenes, *, framing: Framing, image_size: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws scenes.

  An image depends on its own scene alone.

  Args:
    scenes: N of them.
    framing: what of a photograph becomes the square image.
    image_size: S.
    samples: rays per pixel.

  Returns:
    Images, uint8 [N, S, S, 3]; and what the ray through the centre of each
    pixel meets, uint8 [N, S, S]: 0 the ground, m + 1 object m.
  """
  return _map_scenes(
    _compiled(_draw, framing=framing, image_size=image_size, samples=samples),
    scenes,
  )


def count_pixels(scenes: Scenes) -> np.ndarray:
  """Pixels that objects show in a photograph of 320x240, int [N, M]."""
  return _map_scenes(_compiled(_count_pixels), scenes)


def project(
  camera: np.ndarray, points: np.ndarray, *, width: int, height: int
) -> np.ndarray:
  """Where a photograph shows points.

  Args:
    camera: [3].
    points: [P, 3].
    width: of the photograph, pixels.
    height: of the photograph.

  Returns:
    [P, 3]: column, row, and distance along the camera's axis.
  """
  rightward, upward, forward = np.stack(_camera_axes(_Vector(*camera)))
  x, y, depth = (
    (points - camera) @ axis for axis in (rightward, upward, forward)
  )
  scale = width / (2 * np.tan(FIELD_OF_VIEW / 2))
  return np.stack(
    [width / 2 + scale * x / depth, height / 2 - scale * y / depth, depth], -1
  )


@functools.cache
def _compiled(draw, **options):
  """Compiles for one scene on the CPU, else for many at once.

  On the CPU, one scene at a time lets branches skip the objects and shapes that
  rays do not meet; an accelerator needs more rays than a scene has.
  """
  draw = functools.partial(draw, **options)
  return jax.jit(draw if _is_cpu() else jax.vmap(draw))


def _is_cpu():
  return jax.default_backend() == "cpu"


def _map_scenes(draw, scenes):
  """Applies a function from `_compiled` to N scenes; NumPy arrays."""
  num_scenes = len(scenes.num_objects)

  def draw_from(start):
    if _is_cpu():
      return draw(jax.tree.map(lambda x: x[start], scenes))
    picked = np.arange(start, start + BATCH_SIZE).clip(max=num_scenes - 1)
    return draw(jax.tree.map(lambda x: x[picked], scenes))

  if _is_cpu():
    with ThreadPoolExecutor(os.cpu_count()) as threads:
      drawn = list(
        threads.map(lambda i: jax.device_get(draw_from(i)), range(num_scenes))
      )
    return jax.tree.map(lambda *arrays: np.stack(arrays), *drawn)
  drawn = [
    jax.device_get(draw_from(start))
    for start in range(0, num_scenes, BATCH_SIZE)
  ]
  return jax.tree.map(
    lambda *arrays: np.concatenate(arrays)[:num_scenes], *drawn
  )


class _Vector(NamedTuple):
  """R vectors, one array [R] (or a scalar) for each axis."""

  x: jax.Array
  y: jax.Array
  z: jax.Array

  def __add__(self, other):
    return _Vector(self.x + other.x, self.y + other.y, self.z + other.z)

  def __sub__(self, other):
    return _Vector(self.x - other.x, self.y - other.y, self.z - other.z)

  def __mul__(self, other):
    if not isinstance(other, _Vector):
      other = _Vector(other, other, other)
    return _Vector(self.x * other.x, self.y * other.y, self.z * other.z)

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


class _Objects(NamedTuple):
  """The objects of a scene as the rays need them.

  Attributes:
    centers: [M, 3].
    radii: [M].
    cos, sin: [M], of the rotation.
    shapes: [M], in the order of `clevr.PROPERTIES`.
    colors: [M + 1, 3]; the last is the ground's.
    is_metal, is_rubber: bool [M + 1]; the ground is neither.
    count: how many of the places are filled.
  """

  centers: jax.Array
  radii: jax.Array
  cos: jax.Array
  sin: jax.Array
  shapes: jax.Array
  colors: jax.Array
  is_metal: jax.Array
  is_rubber: jax.Array
  count: jax.Array


class _Lights(NamedTuple):
  """Square lights, the sun a distant one; all float32, with first axis 4.

  Attributes:
    places: [4, 3].
    facing: [4, 3], unit vectors towards the origin.
    rightward, upward: [4, 3], half of the square's sides.
    radiance: [4, 3].
  """

  places: jax.Array
  facing: jax.Array
  rightward: jax.Array
  upward: jax.Array
  radiance: jax.Array


class _Rays(NamedTuple):
  """R rays.

  Attributes:
    origin, direction: _Vector; the direction is of length 1.
    weight: _Vector, of their radiance in that of the pixel.
    sees_lights: bool [R], whether the square of a light shows.
    noise: two arrays [R], uniform in [0, 1).
    is_alive: bool [R].
  """

  origin: _Vector
  direction: _Vector
  weight: _Vector
  sees_lights: jax.Array
  noise: tuple[jax.Array, jax.Array]
  is_alive: jax.Array


def _row(matrix, i):
  return _Vector(*(matrix[i, axis] for axis in range(3)))


def _select(condition, a, b):
  return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


# The shapes, of half extent 1, each by the distance of a point outside and the
# gradient of that distance.


def _cube(point):
  outside = _Vector(
    *(jnp.maximum(jnp.abs(axis) - (1 - CUBE_BEVEL), 0) for axis in point)
  )
  distance = jnp.sqrt(outside.dot(outside))
  outside = outside * (1 / jnp.maximum(distance, 1e-6))
  gradient = _Vector(*map(jnp.copysign, outside, point))
  return distance - CUBE_BEVEL, gradient


def _sphere(point):
  length = jnp.sqrt(point.dot(point))
  return length - 1, point * (1 / length)


def _cylinder(point):
  radius = jnp.sqrt(point.x * point.x + point.y * point.y)
  side = jnp.maximum(radius - (1 - CYLINDER_BEVEL), 0)
  end = jnp.maximum(jnp.abs(point.z) - (1 - CYLINDER_BEVEL), 0)
  distance = jnp.sqrt(side * side + end * end)
  scale = 1 / jnp.maximum(distance, 1e-6)
  outward = side * scale / jnp.maximum(radius, 1e-6)
  gradient = _Vector(
    outward * point.x, outward * point.y, jnp.copysign(end * scale, point.z)
  )
  return distance - CYLINDER_BEVEL, gradient


def _enclosing_radius(num_axes, bevel):
  return np.sqrt(num_axes) * (1 - bevel) + bevel


# In the order of clevr.PROPERTIES: surface, radius of the sphere around it,
# steps of Newton's method from there.
SURFACES = (
  (_cube, _enclosing_radius(3, CUBE_BEVEL), 6),
  (_sphere, 1.0, 1),
  (_cylinder, _enclosing_radius(2, CYLINDER_BEVEL), 6),
)
ENCLOSING_RADII = np.array([s[1] for s in SURFACES], np.float32)


def _hit_surface(surface, num_steps, origin, direction, start):
  """Where rays enter a convex surface.

  The distance to a convex body is convex along a ray, so Newton's method from
  outside comes nearer with each step and never passes the surface; a ray that
  misses turns away at some step.

  Args:
    surface: point -> distance and its gradient.
    num_steps: of Newton's method.
    origin: of the rays.
    direction: of the rays.
    start: [R], a place on the ray before the surface.

  Returns:
    Place on the ray [R], FAR for a miss; and the normal there.
  """
  place = start
  for _ in range(num_steps):
    distance, normal = surface(origin + direction * place)
    slope = normal.dot(direction)
    place = jnp.where(slope < 0, place - distance / slope, FAR)
  return jnp.where(distance < 1e-2, place, FAR), normal


def _visit(objects, origin, direction, reach, update, state):
  """Calls update for each object that any ray may hit within its reach.

  Args:
    objects: _Objects.
    origin: of the rays.
    direction: of the rays.
    reach: state -> [R], how far rays matter; not above 0 for no matter.
    update: state, object, place on the ray [R], normal -> state.
    state: to start from.
  """

  def visit(i, state):
    scale = 1 / objects.radii[i]
    cos, sin = objects.cos[i], objects.sin[i]
    local_origin = (origin - _row(objects.centers, i)) * scale
    # How the ray passes the sphere around the object.
    middle = -local_origin.dot(direction)
    enclosing = jnp.asarray(ENCLOSING_RADII)[objects.shapes[i]]
    half_chord_squared = (
      middle * middle - local_origin.dot(local_origin) + enclosing * enclosing
    )
    half_chord = jnp.sqrt(jnp.maximum(half_chord_squared, 0))
    entry = jnp.maximum(middle - half_chord, 0)
    is_near = (
      (half_chord_squared > 0)
      & (middle + half_chord > 0)
      & (entry < reach(state) * scale)
    )

    def hit(state):
      place, normal = jax.lax.switch(
        objects.shapes[i],
        [
          functools.partial(_hit_surface, surface, num_steps)
          for surface, _, num_steps in SURFACES
        ],
        local_origin.turned(cos, -sin),
        direction.turned(cos, -sin),
        jnp.where(is_near, entry, FAR),
      )
      return update(state, i, place * objects.radii[i], normal.turned(cos, sin))

    return jax.lax.cond(is_near.any(), hit, lambda state: state, state)

  return jax.lax.fori_loop(0, objects.count, visit, state)


def _hit_ground(origin, direction):
  """Place on the ray [R] (FAR for none) and normal of the ground.

  The ground is z = GROUND_CURVATURE * max(behind - GROUND_BEND, 0) ** 2.
  """
  behind = _Vector(*BEHIND)
  start = origin.dot(behind) - GROUND_BEND
  speed = direction.dot(behind)
  flat = -origin.z / jnp.where(direction.z < 0, direction.z, -1e-6)
  # The last root of a place**2 + b place + c.
  a = jnp.maximum(GROUND_CURVATURE * speed * speed, 1e-9)
  b = 2 * GROUND_CURVATURE * start * speed - direction.z
  c = GROUND_CURVATURE * start * start - origin.z
  root = jnp.sqrt(jnp.maximum(b * b - 4 * a * c, 0))
  curved = jnp.where(
    b < 0, (root - b) / (2 * a), -2 * c / jnp.maximum(b + root, 1e-9)
  )
  is_flat = (direction.z < 0) & (start + speed * flat < 0)
  place = jnp.where(is_flat, flat, curved)
  slope = -2 * GROUND_CURVATURE * jnp.maximum(start + speed * place, 0)
  normal = _Vector(slope * BEHIND[0], slope * BEHIND[1], jnp.ones_like(slope))
  is_hit = (place > 0) & (is_flat | (start + speed * curved > 0))
  return jnp.where(is_hit, place, FAR), normal.normalized()


def _first_hit(objects, origin, direction, is_alive):
  """Place on the ray [R], normal, and object [R] (M for the ground)."""
  place, normal = _hit_ground(origin, direction)
  index = jnp.full(place.shape, len(objects.radii), jnp.int32)

  def update(state, i, place, normal):
    return _select(place < state[0], (place, normal, jnp.int32(i)), state)

  return _visit(
    objects,
    origin,
    direction,
    lambda state: jnp.where(is_alive, state[0], 0),
    update,
    (place, normal, index),
  )


def _is_lit(objects, origin, direction, distance, is_facing):
  """Whether nothing is between origin and what lies at distance, bool [R]."""
  return _visit(
    objects,
    origin,
    direction,
    lambda is_lit: jnp.where(is_lit, distance, 0),
    lambda is_lit, i, place, normal: is_lit & (place >= distance),
    is_facing,
  )


def _lights(lamps):
  places = jnp.concatenate([lamps, 1e3 * SUN_DIRECTION[None]])
  facing = -places / jnp.linalg.norm(places, axis=-1, keepdims=True)
  up = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), facing.shape)
  rightward = jnp.cross(facing, up)
  rightward /= jnp.linalg.norm(rightward, axis=-1, keepdims=True)
  half_side = jnp.asarray(LIGHT_SIDES)[:, None] / 2
  return _Lights(
    places,
    facing,
    half_side * rightward,
    half_side * jnp.cross(rightward, facing),
    jnp.asarray(LIGHT_RADIANCE),
  )


def _ggx(cos_half, cos_light, cos_view, roughness):
  """Microfacet distribution times masking / (4 cos_light cos_view), [R]."""
  squared = roughness * roughness
  shape = cos_half * cos_half * (squared - 1) + 1
  distribution = squared / (jnp.pi * shape * shape)

  def masking(cos):
    return cos + jnp.sqrt(squared + (1 - squared) * cos * cos)

  return distribution / (masking(cos_light) * masking(cos_view))


def _direct_light(objects, lights, point, normal, view, index, noise, alive):
  """Radiance that surfaces send back from the lights, _Vector.

  Args:
    objects: of the scene.
    lights: of the scene.
    point: of the surface.
    normal: of the surface.
    view: direction to the eye.
    index: [R], whose surface it is.
    noise: where on the lights to look.
    alive: bool [R], where it matters.
  """
  color = _Vector(*(objects.colors[index, axis] for axis in range(3)))
  is_metal, is_rubber = objects.is_metal[index], objects.is_rubber[index]
  cos_view = jnp.maximum(normal.dot(view), 1e-3)
  roughness = jnp.where(is_metal, METAL_ROUGHNESS, RUBBER_ROUGHNESS)

  def add_light(k, radiance):
    to_light = (
      _row(lights.places, k)
      + _row(lights.rightward, k) * (2 * noise[0] - 1)
      + _row(lights.upward, k) * (2 * noise[1] - 1)
      - point
    )
    squared = to_light.dot(to_light)
    direction = to_light * jax.lax.rsqrt(squared)
    cos_light = jnp.maximum(normal.dot(direction), 1e-6)
    cos_lamp = -direction.dot(_row(lights.facing, k))
    is_lit = _is_lit(
      objects,
      point,
      direction,
      jnp.sqrt(squared),
      alive & (normal.dot(direction) > 0) & (cos_lamp > 0),
    )
    half = (direction + view).normalized()
    gloss = _ggx(normal.dot(half), cos_light, cos_view, roughness)
    fresnel = RUBBER_REFLECTANCE + (1 - RUBBER_REFLECTANCE) * (
      (1 - view.dot(half)) ** 5
    )
    reflected = color * jnp.where(
      is_metal, METAL_ROUGH_SHARE * gloss, 1 / np.pi
    )
    white = jnp.where(is_rubber, fresnel * gloss, 0)
    reflected = reflected + _Vector(white, white, white)
    sides = _row(lights.rightward, k), _row(lights.upward, k)
    area = 4 * jnp.sqrt(sides[0].dot(sides[0]) * sides[1].dot(sides[1]))
    received = jnp.where(is_lit, area * cos_light * cos_lamp / squared, 0)
    return radiance + reflected * _row(lights.radiance, k) * received

  ambient = _ambient_light(objects, point, normal, index)
  radiance = color * ambient * jnp.where(is_metal, 0.0, 1.0)
  return jax.lax.fori_loop(0, len(lights.places), add_light, radiance)


def _ambient_light(objects, point, normal, index):
  """Estimate of the light that the ground and other objects throw back.

  Args:
    objects: the scene; they count as spheres here.
    point: of the surface.
    normal: of the surface.
    index: [R], whose surface it is.

  Returns:
    _Vector, received light, which a white surface would send on as radiance.
  """

  def add_object(i, state):
    open_share, light = state
    offset = _row(objects.centers, i) - point
    squared = offset.dot(offset)
    cos = normal.dot(offset) * jax.lax.rsqrt(squared)
    radius = objects.radii[i]
    share = jnp.clip(cos, 0, 1) * jnp.minimum(radius * radius / squared, 1)
    share = jnp.where(index == i, 0, share)
    glow = _row(objects.colors, i) * OBJECT_GLOW
    return open_share * (1 - share), light + glow * share

  none = jnp.zeros_like(point.x)
  open_share, light = jax.lax.fori_loop(
    0,
    objects.count,
    add_object,
    ((1 - normal.z) / 2, _Vector(none, none, none)),
  )
  ground = GROUND_GLOW * open_share + SKY_GLOW
  return light + _Vector(ground, ground, ground)


def _seen_lights(lights, origin, direction, reach):
  """Radiance of the lights' squares that rays hit before reach, _Vector."""

  def add_light(k, radiance):
    facing = _row(lights.facing, k)
    offset = origin - _row(lights.places, k)
    speed = direction.dot(facing)
    place = offset.dot(facing) / jnp.minimum(-speed, -1e-6)
    offset = offset + direction * place
    is_seen = (speed < 0) & (0 < place) & (place < reach)
    for side in (_row(lights.rightward, k), _row(lights.upward, k)):
      is_seen &= jnp.abs(offset.dot(side)) < side.dot(side)
    return radiance + _row(lights.radiance, k) * jnp.where(is_seen, 1.0, 0.0)

  none = jnp.zeros_like(reach)
  return jax.lax.fori_loop(
    0, len(lights.places), add_light, _Vector(none, none, none)
  )


def _reflect(rays, point, normal, color, is_metal):
  """The rays that leave metal: some off its rough layer, the others sharp."""
  u, v = rays.noise
  is_rough = u < METAL_ROUGH_SHARE
  u = jnp.where(is_rough, 0.999 * u / METAL_ROUGH_SHARE, 0)
  # A GGX microfacet.
  tangent_length = METAL_ROUGHNESS * jnp.sqrt(u / (1 - u))
  axis = _Vector(normal.y, normal.z, normal.x).cross(normal).normalized()
  angle = 2 * np.pi * v
  offset = axis * jnp.cos(angle) + normal.cross(axis) * jnp.sin(angle)
  facet = (normal + offset * tangent_length).normalized()
  direction = rays.direction - facet * (2 * rays.direction.dot(facet))
  is_outward = direction.dot(normal) > 0
  return _Rays(
    point,
    direction,
    rays.weight * color,
    ~is_rough,
    rays.noise,
    rays.is_alive & is_metal & is_outward,
  )


def _trace(objects, lights, rays):
  """Follows rays to the next surface.

  Returns:
    The radiance they add to their pixels, _Vector; the rays that metal sends
    on; and the object hit, [R] (M for the ground).
  """
  place, normal, index = _first_hit(
    objects, rays.origin, rays.direction, rays.is_alive
  )
  point = rays.origin + rays.direction * place + normal * 1e-3
  is_hit = rays.is_alive & (place < FAR)
  radiance = _direct_light(
    objects,
    lights,
    point,
    normal,
    rays.direction * -1.0,
    index,
    rays.noise,
    is_hit,
  )
  seen = _seen_lights(lights, rays.origin, rays.direction, place)
  none = jnp.zeros_like(place)
  none = _Vector(none, none, none)
  radiance = _select(is_hit, radiance, none) + _select(
    rays.is_alive & rays.sees_lights, seen, none
  )
  color = _Vector(*(objects.colors[index, axis] for axis in range(3)))
  onward = _reflect(rays, point, normal, color, objects.is_metal[index])
  onward = onward._replace(is_alive=onward.is_alive & is_hit)
  return radiance * rays.weight, onward, index


def _camera_axes(camera):
  """Unit vectors to the right, up and forward of a camera."""
  forward = (camera * -1.0).normalized()
  rightward = forward.cross(_Vector(0.0, 0.0, 1.0)).normalized()
  return rightward, rightward.cross(forward), forward


def _camera_rays(camera, framing, row, column):
  """Rays [R] from a camera [3] through rows and columns of the photograph."""
  camera = _Vector(*camera)
  rightward, upward, forward = _camera_axes(camera)
  scale = 2 * np.tan(FIELD_OF_VIEW / 2) / framing.width
  direction = (
    forward
    + rightward * (scale * (column - framing.width / 2))
    + upward * (scale * (framing.height / 2 - row))
  ).normalized()
  origin = _Vector(*(jnp.full_like(row, axis) for axis in camera))
  return origin, direction


def _pixels(framing, num_rows, num_columns):
  """Pixels of a grid over the frame, tile by tile: near ones stay together.

  Returns:
    Their numbers, row by row, int [num_rows * num_columns]; and their centres'
    rows and columns in the photograph, float32, likewise.
  """
  row, column = np.divmod(np.arange(num_rows * num_columns), num_columns)
  order = np.lexsort((column, row, column // TILE_SIZE, row // TILE_SIZE))
  height = (framing.bottom - framing.top) / num_rows
  width = (framing.right - framing.left) / num_columns
  row = framing.top + (row[order] + 0.5) * height
  column = framing.left + (column[order] + 0.5) * width
  return order, row.astype(np.float32), column.astype(np.float32)


def _map_chunks(function, rays):
  """Applies a function to CHUNK_RAYS rays at a time; the last are repeated."""
  num_rays = len(jax.tree.leaves(rays)[0])
  num_chunks = -(-num_rays // CHUNK_RAYS)

  def split(x):
    padding = num_chunks * CHUNK_RAYS - num_rays
    return jnp.pad(x, (0, padding), "edge").reshape(num_chunks, CHUNK_RAYS)

  return jax.tree.map(
    lambda x: x.reshape(-1)[:num_rays],
    jax.lax.map(function, jax.tree.map(split, rays)),
  )


def _prepare(scene):
  colors = jnp.asarray(COLORS)[scene.classes["color"]]
  ground = jnp.full((1, 3), GROUND_ALBEDO)
  material = scene.classes["material"]
  not_ground = jnp.zeros(1, bool)
  return _Objects(
    scene.coords,
    jnp.asarray(RADII)[scene.classes["size"]],
    jnp.cos(scene.rotations),
    jnp.sin(scene.rotations),
    scene.classes["shape"],
    jnp.concatenate([colors, ground]),
    jnp.concatenate([material == 1, not_ground]),
    jnp.concatenate([material == 0, not_ground]),
    scene.num_objects,
  )


def _count_pixels(scene):
  """Pixels of each place in the frame COUNTED of one scene, int32 [M]."""
  objects = _prepare(scene)
  _, row, column = _pixels(COUNTED, COUNTED.height, COUNTED.width)
  rays = _camera_rays(
    scene.camera, COUNTED, jnp.asarray(row), jnp.asarray(column)
  )
  index = _map_chunks(
    lambda rays: _first_hit(objects, *rays, rays[0].x < FAR)[2], rays
  )
  return jnp.stack([(index == m).sum() for m in range(len(objects.radii))])


def _draw(scene, *, framing, image_size, samples):
  """Image uint8 [S, S, 3] and segments uint8 [S, S] of one scene."""
  objects, lights = _prepare(scene), _lights(scene.lamps)
  order, row, column = _pixels(framing, image_size, image_size)
  # Points of a plane sequence of low discrepancy (Roberts' R2); the first is
  # the centre of the pixel.
  steps = np.arange(samples) * np.array([[0.7548776662], [0.5698402910]])
  offset = PIXEL_WIDTH * ((0.5 + steps) % 1 - 0.5)
  row = (row[:, None] + offset[0]).astype(np.float32).reshape(-1)
  column = (column[:, None] + offset[1]).astype(np.float32).reshape(-1)
  # The same sequence for lights and microfacets, shifted in each pixel.
  shift = jax.random.uniform(
    jax.random.key(scene.noise_seed), (2, len(order), 1)
  )
  noise = (shift + steps[:, None].astype(np.float32)) % 1
  noise = noise.reshape(2, -1)
  origin, direction = _camera_rays(
    scene.camera, framing, jnp.asarray(row), jnp.asarray(column)
  )
  one = jnp.ones_like(origin.x)
  rays = _Rays(
    origin=origin,
    direction=direction,
    weight=_Vector(one, one, one),
    sees_lights=one < 0,
    noise=(noise[0], noise[1]),
    is_alive=one > 0,
  )
  radiance, onward, index = _map_chunks(
    functools.partial(_trace, objects, lights), rays
  )
  radiance = _add_reflections(objects, lights, onward, radiance)
  place = np.argsort(order)
  linear = jnp.stack(radiance, -1).reshape(-1, samples, 3)[place]
  image = _encode(jnp.minimum(linear, 1).mean(1))
  index = index.reshape(-1, samples)[place, 0]
  segments = jnp.where(index < len(objects.radii), index + 1, 0)
  return (
    image.reshape(image_size, image_size, 3),
    segments.astype(jnp.uint8).reshape(image_size, image_size),
  )


def _add_reflections(objects, lights, rays, radiance):
  """Adds what the living rays gather: few, they are packed in few chunks."""
  num_rays = len(rays.is_alive)
  living = jnp.nonzero(
    rays.is_alive,
    size=-(-num_rays // CHUNK_RAYS) * CHUNK_RAYS,
    fill_value=num_rays,
  )[0]

  def add_chunk(chunk, radiance):
    picked = jax.lax.dynamic_slice_in_dim(
      living, chunk * CHUNK_RAYS, CHUNK_RAYS
    )

    def bounce(_, state):
      rays, gathered = state
      added, rays, _ = _trace(objects, lights, rays)
      return rays, gathered + added

    none = jnp.zeros(CHUNK_RAYS)
    _, gathered = jax.lax.fori_loop(
      0,
      NUM_BOUNCES,
      bounce,
      (
        jax.tree.map(
          lambda x: x.at[picked].get(mode="fill", fill_value=0), rays
        ),
        _Vector(none, none, none),
      ),
    )
    return jax.tree.map(
      lambda x, y: x.at[picked].add(y, mode="drop"), radiance, gathered
    )

  num_chunks = -(-jnp.count_nonzero(rays.is_alive) // CHUNK_RAYS)
  return jax.lax.fori_loop(0, num_chunks, add_chunk, radiance)


def _encode(linear):
  """Linear light, 0 to 1, as uint8 of sRGB."""
  low = jnp.maximum(linear, 0.0031308)
  encoded = jnp.where(
    linear < 0.0031308, 12.92 * linear, 1.055 * low ** (1 / 2.4) - 0.055
  )
  return jnp.rint(255 * encoded).astype(jnp.uint8)
