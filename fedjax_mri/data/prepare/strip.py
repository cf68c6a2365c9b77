"""The brain apart from skull and scalp: on MR by a surface that grows, on CT by the bone around it.

On MR it is the Brain Extraction Tool's deformable surface (Smith 2002, doi 10.1002/hbm.10062): a sphere, of a slice a
circle, that grows from within the head until what lies inside of it is no longer brain. Each vertex goes towards the
mean of its neighbours, and outwards or inwards: the least intensity below it is compared with a threshold that lies
between the least and the greatest intensity there. Of a volume, what is dark below that surface, and what is connected
with the brain by a narrow bridge, is then taken off; of a slice, the lobes that a bone parts from it are added.
All lengths are in mm.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from fedjax_mri.data.prepare import foreground
from fedjax_mri.data.prepare.smooth import sample

STEPS = 1000  # of the surface
DEPTH, SHALLOW = 20.0, 10.0  # mm below the surface within which the least and the greatest intensity are sought
ROUND, SHARP = 10.0, 3.33  # mm: radii of curvature that are smoothed little, and much
TISSUE = 0.6  # of the brain's median intensity above the background; what is darker at the edge is no brain
THREAD, SULCUS = 3.0, 6.0  # mm: half the width of what connects other tissue to the brain, and of what is filled
SCALP = 12.0  # mm below the skin, to which scalp and muscle may reach
BONE = 200.0  # HU
GAP = 12.0  # mm, half the width of holes in the skull, such as sinuses
BRAIN = (-10.0, 110.0)  # HU


class Sphere(NamedTuple):
    """Points around a centre and how they are connected; a circle in two dimensions."""

    points: np.ndarray  # float32 [V, n], of length 1
    neighbours: np.ndarray  # int32 [V, K], in order around the point; one is repeated where there are fewer
    faces: np.ndarray  # int32 [F, n], seen from outside in order


@cache
def sphere(dimensions: int) -> Sphere:
    """Returns a circle of 180 points, or a sphere of 2562, which is an icosahedron divided four times."""
    if dimensions == 2:
        angle, index = np.arange(180) * np.pi / 90, np.arange(180, dtype=np.int32)
        points = np.stack([np.sin(angle), np.cos(angle)], 1).astype(np.float32)
        return Sphere(
            points, np.stack([index - 1, (index + 1) % 180], 1) % 180, np.stack([index, (index + 1) % 180], 1)
        )
    golden = (1 + 5**0.5) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    points = np.array([np.roll(corner, shift) for shift in range(3) for corner in corners], float)
    points /= np.linalg.norm(points[0])
    hull = convex_hull(points)
    for _ in range(4):
        points, hull = subdivide(points, hull)
    return Sphere(points.astype(np.float32), vertex_neighbours(len(points), hull), hull.astype(np.int32))


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Returns the triangles [F, 3] around points on a sphere, seen from outside anticlockwise."""
    from scipy.spatial import ConvexHull

    faces = ConvexHull(points).simplices
    outwards = np.einsum("fi,fi->f", np.cross(points[faces[:, 0]], points[faces[:, 1]]), points[faces[:, 2]]) > 0
    return np.where(outwards[:, None], faces, faces[:, ::-1])


def subdivide(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a sphere with each of its triangles divided in four; points [V, 3], faces [F, 3]."""
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
    unique, which = np.unique(edges, axis=0, return_inverse=True)
    middles = points[unique].sum(1)
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    ab, bc, ca = (which.reshape(-1, 3) + len(points)).T
    a, b, c = faces.T
    parts = np.stack([[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]).transpose(0, 2, 1)
    return np.concatenate([points, middles]), parts.reshape(-1, 3)


def vertex_neighbours(count: int, faces: np.ndarray) -> np.ndarray:
    """Returns the neighbours [V, 6] of each vertex; the first is repeated where there are five."""
    near: list[list[int]] = [[] for _ in range(count)]
    for a, b in np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1), axis=0):
        near[a].append(b)
        near[b].append(a)
    return np.array([(own + own[:1])[:6] for own in near], np.int32)


def mr_brain(image: np.ndarray, spacing: tuple[float, ...], threshold: float = 0.5) -> np.ndarray:
    """Returns the brain in an MR [H, W] or [D, H, W] of any scale as a mask; a lower threshold gives a larger brain."""
    low, high = np.quantile(image, 0.02), np.quantile(image, 0.98)
    floor = low + 0.1 * (high - low)
    inside = image > floor
    if not high > low or not inside.any():
        return np.zeros(image.shape, bool)
    mm = np.array(spacing, np.float32)
    weight = np.where(inside, np.minimum(image, high) - low, 0)
    places = np.meshgrid(*(np.arange(size) * step for size, step in zip(image.shape, mm)), indexing="ij")
    centre = np.array([(weight * place).sum() for place in places]) / weight.sum()
    content = inside.sum() * float(np.prod(mm))
    radius = (content / np.pi) ** 0.5 if image.ndim == 2 else (3 * content / (4 * np.pi)) ** (1 / 3)
    near = sum((place - middle) ** 2 for place, middle in zip(places, centre)) < radius**2
    middle = np.median(image[near & (image > low) & (image < high)])
    levels = jnp.array([low, floor, middle], jnp.float32)
    shape = sphere(image.ndim)
    start = jnp.asarray(centre + 0.5 * radius * shape.points, jnp.float32)
    vertices, outwards = grow_surface(
        jnp.asarray(image, jnp.float32), jnp.asarray(mm), start, levels, jnp.float32(threshold)
    )
    surface = np.asarray(vertices) / mm - 0.5 * np.asarray(outwards)  # `within` counts the voxels that it touches
    mask = within(surface, shape.faces, image.shape)
    # In a single slice, sulci and falx part the brain as threads part other tissue from it.
    change = add_lobes if image.ndim == 2 else tighten_mask
    return change(image, mask, float(low), spacing)


def add_lobes(image: np.ndarray, mask: np.ndarray, low: float, spacing: tuple[float, ...]) -> np.ndarray:
    """Returns a brain mask of a slice [H, W] with the lobes that bones of the skull base part from it.

    Lobes are told from the scalp by their depth, as scalp is less deep.
    """
    if not mask.any():
        return mask
    head = foreground.head(image)
    tissue = head & (image > low + TISSUE * (np.median(image[mask]) - low))
    parts, count = ndimage.label(foreground.eroded(tissue, THREAD, spacing))
    depths = ndimage.median(ndimage.distance_transform_edt(head, spacing), parts, np.arange(1, count + 1))
    lobes = np.isin(parts, 1 + np.flatnonzero(np.asarray(depths) > SCALP))
    return foreground.closed(mask | foreground.dilated(lobes, THREAD, spacing) & tissue, SULCUS, spacing)


def tighten_mask(image: np.ndarray, mask: np.ndarray, low: float, spacing: tuple[float, ...]) -> np.ndarray:
    """Returns the part of a brain mask that is brain and what it encloses."""
    if not mask.any():
        return mask
    tissue = mask & (image > low + TISSUE * (np.median(image[mask]) - low))
    core = foreground.dilated(foreground.largest(foreground.eroded(tissue, THREAD, spacing), 0.1), THREAD, spacing)
    return foreground.closed(core, SULCUS, spacing) & mask


@jax.jit
def grow_surface(
    image: jax.Array, spacing: jax.Array, vertices: jax.Array, levels: jax.Array, threshold: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the surface's vertices [V, n] in mm when it has grown, and its normals.

    `levels` are BET's t2, t and tm.
    """
    size = image.ndim
    form = sphere(size)
    depths = jnp.arange(1.0, DEPTH + 1)
    low, floor, middle = levels
    most, least = 1 / SHARP, 1 / ROUND
    gain, turning = 6 / (most - least), (most + least) / 2

    def step(vertices: jax.Array, _) -> tuple[jax.Array, None]:
        near = vertices[form.neighbours]
        normal, length = normals(vertices, form), jnp.linalg.norm(near - vertices[:, None], axis=-1).mean()
        towards = near.mean(1) - vertices
        along = (towards * normal).sum(-1, keepdims=True)
        curvature = 2 * jnp.abs(along) / length**2
        smoothing = 0.5 * (1 + jnp.tanh(gain * (curvature - turning)))
        lines = vertices[:, None] - depths[None, :, None] * normal[:, None]
        values = low + sample(image - low, lines / spacing[None, None], "constant")
        darkest = jnp.maximum(low, jnp.minimum(middle, values.min(1)))
        brightest = jnp.minimum(jnp.maximum(middle, floor), values[:, : int(SHALLOW)].max(1))
        brightest = jnp.maximum(floor, brightest)
        limit = (brightest - low) * threshold + low
        push = 2 * (darkest - limit) / jnp.maximum(brightest - low, 1e-6)
        change = (towards - along * normal) / 2 + along * normal * smoothing + 0.05 * push[:, None] * length * normal
        return vertices + change, None

    vertices, _ = jax.lax.scan(step, vertices, length=STEPS)
    return vertices, normals(vertices, form)


def normals(vertices: jax.Array, form: Sphere) -> jax.Array:
    """Returns the outward direction at each vertex, [V, n] of length 1."""
    corners = vertices[form.faces]
    if vertices.shape[1] == 2:
        ahead = corners[:, 1] - corners[:, 0]
        of_faces = jnp.stack([-ahead[:, 1], ahead[:, 0]], -1)
    else:
        of_faces = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    summed = jnp.zeros_like(vertices).at[form.faces].add(of_faces[:, None])
    return summed / jnp.maximum(jnp.linalg.norm(summed, axis=-1, keepdims=True), 1e-6)


def within(vertices: np.ndarray, faces: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the voxels within a closed surface, whose vertices [V, n] are in voxels and may lie beyond the image."""
    corners = vertices[faces]
    edge = float(np.abs(corners - np.roll(corners, 1, 1)).max())
    parts = int(2 * edge) + 1
    share = np.array([place for place in np.ndindex(*(parts + 1,) * vertices.shape[1]) if sum(place) == parts]) / parts
    surface = np.rint(np.einsum("sk,fkn->fsn", share, corners).reshape(-1, vertices.shape[1])).astype(int)
    low, high = surface.min(0) - 1, surface.max(0) + 2
    box = np.zeros(high - low, bool)
    box[tuple((surface - low).T)] = True
    mask = np.zeros(shape, bool)
    there, here = [], []
    for least, most, size in zip(low, high, shape):
        here.append(slice(max(least, 0), min(most, size)))
        there.append(slice(max(-least, 0), max(-least, 0) + max(min(most, size) - max(least, 0), 0)))
    mask[tuple(here)] = ndimage.binary_fill_holes(box)[tuple(there)]
    return mask


def ct_brain(hu: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Returns the brain in a CT [H, W] or [D, H, W] in HU as a mask: the large soft parts with bone around them."""
    bone = hu > BONE
    smooth = ndimage.gaussian_filter(hu, [0.5 / step for step in spacing])
    enclosed = foreground.closed(bone, GAP, spacing)
    soft = enclosed & ~bone & (smooth > BRAIN[0]) & (smooth < BRAIN[1])
    core = foreground.largest(foreground.eroded(soft, THREAD, spacing), 0.1)
    return foreground.filled(foreground.dilated(core, THREAD + 1.0, spacing) & enclosed & ~bone)
