"""Size of the surface inside each 2 x 2 x 2 (2 x 2) neighbourhood of a mask, by marching cubes (squares).

Lorensen and Cline, "Marching cubes", SIGGRAPH 1987: the corners of a cube are the centres of eight neighbouring voxels,
inside or outside the mask, so there are 256 cases. The surface crosses every edge between an inside and an outside
corner at its midpoint. Three choices make the surface unique, and equal to the tables of DeepMind's surface-distance
library:

- on a face with two diagonal inside corners, the surface separates the inside corners;
- a case with more than four inside corners has the surface of its complement;
- a loop of more than three points is split into the triangle fan with the largest area on cubic voxels.
"""

from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

Point = tuple[int, ...]  # in half voxels from the first corner, so edge midpoints are integers
Floats = npt.NDArray[np.float64]


@lru_cache(maxsize=64)
def surfel_sizes(spacing_mm: tuple[float, ...]) -> Floats:
    """Contour length in mm of the 16 cases (two spacings), or surface area in mm2 of the 256 cases (three).

    The case of a neighbourhood is the sum of 1 << i over its inside corners, where i runs over the corners in C order.
    """
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if len(spacing) == 2:
        lengths = [np.linalg.norm(vectors * spacing, axis=1).sum() for vectors in _contour_vectors()]
        return np.array(lengths)
    across = spacing.prod() / spacing  # a normal's component along an axis is an area in the other two
    return np.array([np.linalg.norm(normals * across, axis=1).sum() for normals in _surface_normals()])


@lru_cache(maxsize=1)
def _contour_vectors() -> tuple[Floats, ...]:
    """Line segments (n, 2) in pixels, for each of the 16 cases."""
    square: list[Point] = [(0, 0), (1, 0), (1, 1), (0, 1)]
    cases = []
    for case in range(16):
        cuts = _cuts(square, _inside(case, 2))
        vectors = [np.subtract(end, start) / 2 for start, end in cuts]  # (2,) each, from half pixels to pixels
        cases.append(np.array(vectors).reshape(-1, 2))
    return tuple(cases)


@lru_cache(maxsize=1)
def _surface_normals() -> tuple[Floats, ...]:
    """Triangle normals (n, 3), as long as their area in voxel faces, for each of the 256 cases."""
    cases = []
    for case in range(256):
        few = case if case.bit_count() <= 4 else 255 - case
        inside = _inside(few, 3)
        follow = dict(cut for face in _faces() for cut in _cuts(face, inside))
        normals = [_largest_fan(loop) for loop in _loops(follow)]
        cases.append(np.concatenate([np.zeros((0, 3)), *normals]))
    return tuple(cases)


def _inside(case: int, dimensions: int) -> set[Point]:
    corners = product((0, 1), repeat=dimensions)
    return {corner for bit, corner in enumerate(corners) if case >> bit & 1}


def _faces() -> list[list[Point]]:
    """The corners around each of the cube's six faces, all in the same direction as seen from outside."""
    faces = []
    for axis, side in product(range(3), (0, 1)):
        around = [(0, 0), (1, 0), (1, 1), (0, 1)]
        face = [tuple(np.roll((side, *steps), axis).tolist()) for steps in around]
        faces.append(face if side else face[::-1])
    return faces


def _cuts(cycle: list[Point], inside: set[Point]) -> list[tuple[Point, Point]]:
    """Lines that separate each run of inside corners around a square: (start edge, end edge)."""
    edges = [(a, b) for a, b in zip(cycle, cycle[1:] + cycle[:1], strict=True) if (a in inside) != (b in inside)]
    if edges and edges[0][0] in inside:  # begin with an edge that enters the mask
        edges = edges[1:] + edges[:1]
    middles = [tuple(p + q for p, q in zip(a, b, strict=True)) for a, b in edges]
    return list(zip(middles[::2], middles[1::2], strict=True))


def _loops(follow: dict[Point, Point]) -> list[list[Point]]:
    """Closed loops of edge midpoints, from the successor of each midpoint."""
    remaining = dict(follow)
    loops = []
    while remaining:
        start, point = remaining.popitem()
        loop = [start]
        while point != start:
            loop.append(point)
            point = remaining.pop(point)
        loops.append(loop)
    return loops


def _largest_fan(loop: list[Point]) -> Floats:
    """Normals (n - 2, 3) of the triangle fan with the largest total area over the n choices of its apex."""
    fans = []
    for apex in range(len(loop)):
        points = np.roll(np.array(loop), -apex, axis=0) / 2  # (n, 3) voxels
        spokes = points[1:] - points[0]
        fans.append(np.cross(spokes[:-1], spokes[1:]) / 2)
    areas = [round(float(np.linalg.norm(fan, axis=1).sum()), 9) for fan in fans]
    return fans[areas.index(max(areas))]
