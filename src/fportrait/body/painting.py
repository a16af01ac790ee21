"""The portrait painted on the body's mesh and drawn in another pose: pictures that need no model."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from fportrait.body.backdrop import Backdrop, backdrop_of, before_backdrop, ends_of, going_on, opacity_at, outside_of
from fportrait.body.eyelids import ClosedLids, lids_of
from fportrait.body.gaze import Gaze, has_eyes
from fportrait.body.grain import grain_of
from fportrait.body.hair import hair_cover, hair_in, likeness, sampled, stands_beside, up_to_the_mesh
from fportrait.body.mesh import mirror_vertices, mirrored_faces, of_part, turn_between
from fportrait.body.mouth import (
    INSIDE,
    USUAL_SKIN,
    brightest_of_eyes,
    inside_colours,
    inside_of,
    light_of,
    mouth_weights,
)
from fportrait.body.pose import Pose
from fportrait.body.rasterizer import rasterize, vertex_normals
from fportrait.body.shoulders import behind_the_chin, below_ears, clothes_in, moved_by, trunk_of
from fportrait.body.surface import doubted, surface_colours, well_inside
from fportrait.body.teeth import ShownMouth
from fportrait.body.warping import SEAM, Beyond, Target, draw_person, of_corners, on_surface, project, values_at
from fportrait.camera.cameras import scale_intrinsics
from fportrait.errors import UserError

WARP_REACH, WARP_SCALE = 0.12, 2  # of `PortraitPainter`
SIGHT_LOW = 0.2  # cosine below which the first portrait sees a point badly enough for another one to be asked
# And below which it shows but streaks of a point that is drawn facing more than so many times as much: filled from
# around, where a matte is given.
SIGHT_LOST, STREAKS, WALLS = 0.1, 3.0, 1.5
# Of a point that is drawn facing more by these than the portrait sees it: from the first on it is doubted, from the
# second on wholly, where it was seen worse than between these cosines, or this near to the person's edge in the matte
# (of the short side: deviation of the Gaussian), where pixels show the wall, the light around a head, or a neighbour.
DOUBTED, SIGHT_SURE, EDGE = (0.1, 0.3), (0.08, 0.25), 0.016
COMES = 0.15  # cosines over which another portrait comes in, and, for people, the other side
MIRROR_SIGHT = 0.4  # cosine that the other side must be seen with: a silhouette's edge mirrors what lies beside it
# How far a picture is trusted against a model that differs from it (`diffusion.detail`). Beside the mesh a model
# blurs what is dragged along (trusted less than wholly, the old silhouette shines through); where the portrait sees the
# mesh, from this cosine on; and where it does not, and what is shown is mirrored or filled.
TRUST_BESIDE, TRUST_SEEN, TRUST_UNSEEN = 1.0, 0.25, 0.6
SIGHT_TRUSTED = 0.6
GHOST = 28.0, 38.0  # degrees of turn between which an ear or spectacles beside the mesh go behind it
OTHER = 6.0, 16.0  # and between which two outlines are no more held to be the same
# Sines of the turn between which spectacles at the outline come to the front, and between which hair goes behind.
AWAY = (0.1, 0.3), (0.2, 0.45)
SHOWN = 0.7  # opacity from which the portrait shows the person at a place
STAYED = 0.02, 0.06  # of the short side: how far shoulders may have moved of which more is shown than was
DETAIL = 0.03  # of the picture's short side: deviation of the Gaussian below which a mirror image counts as detail
SIGHT_DEPTH = 0.008  # metres behind what a pixel sees that still count as seen


class Asked(NamedTuple):
    """The arguments of `draw_person`."""

    portrait: np.ndarray
    target: Target
    sources: np.ndarray
    front: np.ndarray
    reach: float
    beyond: Beyond
    backdrop: Backdrop | None


def acting_vertices(body: Any, shape: np.ndarray, actions: np.ndarray | None, pose: Pose) -> np.ndarray:
    """The vertices `V 3` that the portrait is painted on: the body with the facial actions that a code tells.

    The normal maps stay without expression, as the paper has them: what moves the painted face is the code alone. So a
    model is shown where lips and lids go, as the pose shows it where the head does.

    Args:
        actions: `52`, of `tracking.actions.ActionReadout`; None, and any body but the embedded one, stay at rest.

    Raises:
        UserError: actions of another number than the body's.
    """
    names = getattr(body, "action_names", None)
    if names is None or actions is None:
        return np.asarray(body.vertices(shape, None, pose))
    if len(actions) != len(names):
        raise UserError(
            f"{len(actions)} facial actions that the expression encoder's readout tells",
            f"{len(names)}, those of the {getattr(body, 'name', 'embedded')} body",
            "use the encoder and the bundle that were made with this body",
        )
    return np.asarray(body.vertices(shape, actions, pose))


class PortraitPainter:
    """The portrait that a model is given as a condition: painted on its body, and drawn in any pose and face.

    What the mesh drags along beside it fades with distance (`warp_portrait`). The inside of a mouth that the portrait
    keeps closed has no colour there; it takes a usual one, in the portrait's own light. A side of the head that it does
    not see comes from other portraits of the person that do, or else from the side that it sees, mirrored.

    Args:
        body: whose vertices are given. portrait: `H W 3` uint8. vertices: `V 3` of the portrait's own pose and face
            (`acting_vertices`), in its camera's space. intrinsics: `3 3`, pixels. samples: per pixel and side.
        others: further portraits of the same person, of any size.
        matte: the person's opacity in the portrait, `h w` in [0, 1] at any size: what stands behind stays where it is,
            hair and hats move as far as the head, and what it sees too much askew is filled from around. None, which
            is what models are trained with, drags both along, less with distance.
        mouth_covered, eyes_covered: something stands there: lips that part show more of it, no teeth; no lids close.
    """

    def __init__(
        self,
        body: Any,
        portrait: np.ndarray,
        vertices: np.ndarray,
        intrinsics: np.ndarray,
        samples: int = WARP_SCALE,
        others: Sequence[PortraitPainter] = (),
        matte: np.ndarray | None = None,
        mouth_covered: bool = False,
        eyes_covered: bool = False,
    ):
        self.body, self.samples, self.others = body, samples, list(others)
        self._teeth: ShownMouth | None = None  # for people alone
        self._opening = 0.0
        self._lids: ClosedLids | None = None  # for people alone
        self.gaze: Gaze | None = None  # for people alone
        self._carried = 0.0, 0.0  # of the target that was asked for last
        self._last: tuple[Target, tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None
        self.portrait, self.vertices, self.intrinsics = portrait, np.asarray(vertices, np.float32), intrinsics
        inside = inside_of(body)
        self.faces, self._inside = body.faces, None if mouth_covered else inside
        self._closed = inside if mouth_covered else None  # what is never seen
        weights = mouth_weights(body)
        self._mouth = None if weights is None else weights[self.faces]  # of each triangle's corners, `F 3`
        height, width = (samples * side for side in portrait.shape[:2])
        ids, shares, self._depth = rasterize(vertices, self.faces, scale_intrinsics(intrinsics, samples), height, width)
        triangle, shares = ids[::samples, ::samples], shares[::samples, ::samples]
        seen = triangle >= 0
        # Of the whole surface, and where the portrait shows no person: for people alone, not what models are shown.
        self.backdrop, self.surface, self._empty = None, None, None
        mirror, flesh, worn, trunk = mirror_vertices(body), None, None, None
        self._turned = self.portrait  # what a head is drawn from that has turned
        self._ended = None  # where the portrait has ended, in black
        if matte is not None:
            matte = cv2.resize(np.asarray(matte, np.float32), portrait.shape[1::-1], interpolation=cv2.INTER_AREA)
            ends = ends_of(portrait)
            if ends is not None:
                self.portrait = self._turned = portrait = going_on(portrait, ends)
                matte, self._ended = going_on(matte, ends, "edge"), np.ones(seen.shape, bool)
                self._ended[ends] = False
        if matte is not None and mirror is not None:
            opacity = matte if self._ended is None else matte * ~self._ended
            self._empty = opacity < SHOWN
            self._sound = well_inside(opacity, EDGE)
            places, sight = self._vertices_seen()
            sight = sight * sampled(well_inside(opacity), places)[:, 0]
            vertex = np.where(seen, self.faces[triangle, 0], -1)
            hair = hair_in(body, portrait, places, opacity, vertex)
            cover = hair_cover(body, portrait, hair, places, sight, mirror, outside_of(seen), opacity)
            # How much better than it and than needed what mirrors each vertex is seen; how much both are hair, or none.
            better = sight[mirror] - np.maximum(sight, MIRROR_SIGHT)
            self._other_side = np.stack([better, 1 - np.abs(cover.hair - cover.hair[mirror])], 1)
            self.surface = surface_colours(body, portrait, places, sight, mirror, cover, hair)
            locks, like = hair, likeness(portrait, hair, seen, opacity)
            if hair is not None:
                self._turned = up_to_the_mesh(body, portrait, like, places, seen, opacity)
                locks = np.maximum(hair, like.hair)
            self._beside = stands_beside(body, locks, vertex, vertex_normals(self.vertices, self.faces, body.weld))
            self._soft = cv2.GaussianBlur(portrait.astype(np.float32), (0, 0), DETAIL * min(portrait.shape[:2]))
            scale = float(intrinsics[1, 1] / max(np.median(self.vertices[:, 2]), 1e-3))
            flesh = np.ones(seen.shape, np.float32) if locks is None else 1 - locks
            if (trunk := trunk_of(body)) is not None:
                worn = clothes_in(body, places, vertex)
                cloth = like.neither * (below_ears(body, places, len(seen)) > 0)
            skin = (of_part(body, "face")[vertex] & seen) & (flesh > 0.8) & ~self._empty
            bare = (1 - cover.hair) * ~of_part(body, "torso")
            grains = [grain_of(body, portrait, skin, bare, scale, "skin")]
            if hair is not None:
                grains.append(grain_of(body, portrait, hair > 0.8, cover.hair, scale, "hair"))
            if trunk is not None:
                flesh = flesh * ~(seen & trunk[triangle])
            self._grains = [grain for grain in grains if grain is not None]
            if (lids := lids_of(body)) is not None and not eyes_covered:
                self._lids = ClosedLids(body, lids, portrait, triangle, shares, skin, vertices, intrinsics, grains[0])
            if has_eyes(body) and not eyes_covered:
                self.gaze = Gaze(body, portrait, self.vertices, intrinsics)
        if matte is not None:
            self.backdrop = backdrop_of(portrait, matte, seen, flesh, self._ended)
            if worn is not None:
                self.backdrop = self.backdrop._replace(clothes=worn, trunk=trunk, cloth=cloth)
                self._wall = self.backdrop.picture
                self.backdrop = behind_the_chin(self.backdrop, body, places, portrait, opacity, seen)
        self.light = np.median(portrait[seen], 0) if seen.any() else np.asarray(USUAL_SKIN)  # of the face, by channel
        if self._inside is not None:
            self._inner_light = light_of(self.light, brightest_of_eyes(body, portrait, triangle))
            part = np.append(self._inside.part, 0)[ids]  # the last one stands for -1, nothing
            self._shown, self._opening = part > 0, (part > 0).sum() / max((ids >= 0).sum(), 1)
            if self.surface is not None:
                self._teeth = self.shown_mouth()

    def shown_mouth(self) -> ShownMouth | None:
        """What its mouth shows; None of one that is closed or covered."""
        weights = mouth_weights(self.body)
        if self._inside is None or weights is None or not self._opening:
            return None
        return ShownMouth(self.body, self._inside, weights, self.vertices, self.intrinsics, self._opening)

    def _vertices_seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the portrait has the body's vertices, `V 2` pixels, and how well it sees each, cosines `V`."""
        places = project(self.vertices, self.intrinsics)
        return places, self._unhidden(self.vertices, places, self._facing[:, 0], True)

    @functools.cached_property
    def _facing(self) -> np.ndarray:
        """How much the body's vertices face the portrait's camera, cosines `V 1`."""
        outward = vertex_normals(self.vertices, self.faces, self.body.weld)
        away = np.maximum(np.linalg.norm(self.vertices, axis=1), 1e-12)
        return np.asarray(-(outward * self.vertices).sum(1) / away, np.float32)[:, None]

    def _unhidden(self, points: np.ndarray, places: np.ndarray, facing: np.ndarray, person: bool) -> np.ndarray:
        """`facing` `N` in 0..1 of points `N 3` whose `places` `N 2` show them; with `person` those where one is."""
        height, width = self.portrait.shape[:2]
        across, down = places[:, 0], places[:, 1]
        ahead = points[:, 2] > 0
        within = np.flatnonzero(ahead & (across >= 0) & (across < width) & (down >= 0) & (down < height))
        x, y = (places[within] * self.samples).astype(int).T
        shown = points[within, 2] < self._depth[y, x] + SIGHT_DEPTH
        if person and self._empty is not None:
            x, y = places[within].astype(int).T
            shown &= ~self._empty[y, x]
        sight = np.zeros(len(points), np.float32)
        sight[within[shown]] = np.clip(facing[within[shown]], 0, 1)
        return sight

    def __call__(self, vertices: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
        """The picture `H W 3` of a body at `vertices` `V 3` before a camera of `intrinsics` `3 3`."""
        return self.paint(Target(vertices, intrinsics, self.faces, self.portrait.shape[:2], self.samples))

    def paint(self, target: Target) -> np.ndarray:
        """The picture `H W 3` of what a target sees of the body.

        Raises:
            ValueError: a target of another size than the portrait's, or of another number of samples.
        """
        drawn, source, asked = self._drawn(target)
        if asked.backdrop is not None:
            drawn = before_backdrop(drawn, asked.backdrop, source, target.covered)
        return drawn if target.samples == 1 else cv2.resize(drawn, target.size[::-1], interpolation=cv2.INTER_AREA)

    def layers(self, target: Target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `paint` lays over the backdrop, where a matte is given, at each of the target's samples: the person
        `H W 3` uint8; the opacity, `H W` in [0, 1]; and where both come from in the portrait, `H W 2`, OpenCV's
        pixels."""
        drawn, source, asked = self._drawn(target)
        assert asked.backdrop is not None
        return drawn, opacity_at(asked.backdrop, source, target.covered), source

    def _drawn(self, target: Target) -> tuple[np.ndarray, np.ndarray, Asked]:
        """`draw_person` of a target, and what it was asked."""
        asked = self._asked(target)
        drawn, source = draw_person(*asked)
        if self.gaze is not None:
            self.gaze.draw(drawn, target)
        if self._lids is not None:
            self._lids.draw(drawn, target, self.seen(target)[0])
        return drawn, source, asked

    def _asked(self, target: Target) -> Asked:
        """What `draw_person` is asked for a target."""
        own = self.portrait.shape[:2], self.samples
        if (target.size, target.samples) != own:
            raise ValueError(f"a target of {target.size}, {target.samples} samples; this portrait's is {own}")
        sight, places, front = self.seen(target)
        backdrop, portrait = self.backdrop, self.portrait
        if self.surface is not None and backdrop is not None:
            turn = turn_between(self.vertices, target.vertices)
            gone, other = (
                np.clip((math.degrees(turn.magnitude()) - low) / (high - low), 0, 1) for low, high in (GHOST, OTHER)
            )
            backdrop = backdrop._replace(slack=1 - float(other))
            if backdrop.clothes is not None and backdrop.picture is not self._wall:
                moved = moved_by(self.body, self.vertices, target.vertices, self.intrinsics, min(target.size))
                left = float(np.clip((STAYED[1] - moved) / (STAYED[1] - STAYED[0]), 0, 1))
                mixed = cv2.addWeighted(backdrop.picture, left, self._wall, 1 - left, 0)
                backdrop = backdrop._replace(picture=mixed)
            if other and self._turned is not portrait:
                portrait = cv2.addWeighted(portrait, backdrop.slack, self._turned, float(other), 0)
            # What lay at the outline, where the way out all but crosses the view, comes to the front or goes away.
            beside, depths = self._beside, [turn.apply(way)[2] - way[2] for way in self._beside.ways]
            came, went = (
                np.clip((sign * depth - low) / (high - low), 0, 1)
                for sign, depth, (low, high) in zip((-1, 1), depths, AWAY, strict=True)
            )
            if gone or came or went:
                left = (1 - gone * beside.sides) * (1 - came * beside.front) * (1 - went * beside.back)
                backdrop = backdrop._replace(rim=backdrop.rim * left)
        beyond = self._beyond(target, sight, places)
        return Asked(portrait, target, places, front, WARP_REACH, beyond, backdrop)

    def fills_mouth(self, target: Target) -> float:
        """How much of a target's mouth is drawn as the portrait shows its own, in [0, 1]."""
        self.seen(target)
        return self._carried[0]

    def trust(self, target: Target) -> np.ndarray:
        """How far what `paint` makes of a target is trusted, `H W` uint8, 255 for wholly; see TRUST_BESIDE."""
        sight, _, _ = self.seen(target)
        seen: np.ndarray = np.clip((sight - SIGHT_LOW) / (SIGHT_TRUSTED - SIGHT_LOW), 0, 1)
        if self._mouth is not None:  # lips and what is behind them are drawn, whoever sees them
            seen = np.maximum(seen, (self._mouth[target.triangles] * target.weights).sum(1))
        drawn: np.ndarray = np.full(target.covered.shape, TRUST_BESIDE, np.float32)
        drawn.reshape(-1)[target.places] = TRUST_UNSEEN + (TRUST_SEEN - TRUST_UNSEEN) * seen
        drawn = np.asarray(cv2.resize(drawn, self.portrait.shape[1::-1], interpolation=cv2.INTER_AREA))
        return np.asarray(cv2.GaussianBlur(drawn, (0, 0), SEAM * min(drawn.shape)) * 255 + 0.5, np.uint8)

    def seen(self, target: Target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`sight` of the target that was asked for last, which its picture and its trust share."""
        if self._last is None or self._last[0] is not target:
            sight, places, front = self.sight(target)
            self._carried = 0.0, 0.0
            if self._teeth is not None:
                places, sight, self._carried = self._teeth(target, places, sight)
            self._last = target, (sight, places, front)
        return self._last[1]

    def _beyond(self, target: Target, best: np.ndarray, places: np.ndarray) -> Beyond:
        """See `draw_warped`. Args: best, places: of `sight`."""
        count = len(best)
        colours, shares = np.zeros((count, 3), np.float32), np.zeros(count, np.float32)
        hidden = np.ones(count, bool)  # from every portrait
        if self._inside is not None:
            height, width = self._depth.shape
            x, y = np.clip((places * self.samples).astype(int), 0, (width - 1, height - 1)).T
            hidden = ~self._shown[y, x]
        wanted = np.clip((SIGHT_LOW - best) / SIGHT_LOW, 0, 1)
        closed: np.ndarray = np.zeros(count, bool)
        if self._closed is not None:
            closed = self._closed.part[target.triangles] > 0
            wanted[closed] = 0
        others, top, unseen = self._from_others(target, wanted, np.maximum(best, SIGHT_LOW))
        hidden &= unseen
        if mirror_vertices(self.body) is not None:  # asked only for what is wanted
            rows = np.flatnonzero(wanted)
            if self.surface is None:
                sight, seen_at, _ = self.sight(target, True, rows)
                ahead = wanted[rows] * (sight > MIRROR_SIGHT)
            else:  # of the vertices: thresholds would end in the teeth of triangles
                known = of_corners(self._other_side, self.faces, target.triangles[rows], target.weights[rows])
                ahead = wanted[rows] * np.clip(known[:, 0] / COMES, 0, 1) * known[:, 1]
                rows, ahead = rows[ahead > 0], ahead[ahead > 0]
                _, seen_at, _ = self.sight(target, True, rows)
            taken = ahead > 0
            found = self.colours(seen_at[taken])
            if self.surface is not None:  # its detail, in the colours that this side has
                found = found - self.colours(seen_at[taken], self._soft) + self._on_surface(target, rows[taken], False)
            colours[rows[taken]], shares[rows[taken]] = found, ahead[taken]
        drawn = np.zeros(count, np.float32)
        if self._inside is not None:
            part = self._inside.part[target.triangles]
            behind = np.flatnonzero(~hidden & (part > 2))
            drawn = (hidden & (part > 0)).astype(np.float32)
            shown = np.where(shares[behind, None] > 0, colours[behind], self.colours(places[behind]))
            shown = np.where(top[behind, None] > 0, others[behind], shown)
            drawn *= 1 - self._carried[1]
            drawn[behind] = self._covered(target, shown) * (1 - self._carried[0])
            inside = np.flatnonzero(drawn)
            triangles = target.triangles[inside]
            points, _ = on_surface(self.body.template, self.faces, triangles, target.weights[inside])
            colours[inside] = inside_colours(self._inside, triangles, points) * self._inner_light
            shares[inside] = 0
        lost = best <= 0
        if self.backdrop is not None:
            lost |= (best <= SIGHT_LOST) & (best * STREAKS < target.facing)
        if self._empty is not None:  # a mesh wider than the head shows the wall there
            x, y = np.clip(places.astype(int), 0, np.array(self._empty.shape[::-1]) - 1).T
            lost |= self._empty[y, x] & (best * WALLS < target.facing)
            if self._ended is not None:
                lost |= self._ended[y, x]
        lost = (lost | closed) & (shares <= 0) & (drawn == 0)
        if self.surface is not None:
            doubt = self._doubt(target, best, places) * (drawn == 0)
            doubt[lost] = 1
            doubt[closed] = 0  # a mask is filled from the mask
            filled = np.flatnonzero(doubt > shares)
            share = (shares[filled] / doubt[filled])[:, None]
            colours[filled] = share * colours[filled] + (1 - share) * self._on_surface(target, filled, True)
            shares[filled] = doubt[filled]
        elif self.others:  # there is nothing below them that could show through
            top = (top > 0).astype(np.float32) * wanted
        if self.others:
            top *= drawn == 0
            both = 1 - (1 - shares) * (1 - top)
            own = ((1 - top) * shares)[:, None] * colours
            colours = np.where(
                drawn[:, None] > 0, colours, (top[:, None] * others + own) / np.maximum(both, 1e-6)[:, None]
            )
            shares, lost = both, lost & (top <= 0)
        return Beyond(colours, shares, drawn, lost)

    def _from_others(
        self, target: Target, wanted: np.ndarray, enough: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What other portraits show of a target's points: colours `N 3`, their shares `N`, and which none sees, `N`.

        Args:
            wanted: share of them that this portrait lacks, `N`. enough: sight from which another one is asked, `N`.
        """
        mixed, total, shares = np.zeros((len(wanted), 3), np.float32), np.zeros(len(wanted)), np.zeros_like(wanted)
        unseen = np.ones(len(wanted), bool)
        for other in self.others:
            sight, seen_at, _ = other.sight(target, smooth=self.surface is not None)
            unseen &= sight <= 0
            better = np.clip((sight - enough) / COMES, 0, 1)
            better *= wanted * target.well_within(sight > 0)
            rows = np.flatnonzero(better)
            weights = (better[rows] * sight[rows]) ** 3  # the best one, mostly
            found = other.colours(seen_at[rows]) * (self.light / np.maximum(other.light, 1))
            mixed[rows] += found * weights[:, None].astype(np.float32)
            total[rows] += weights
            shares = np.maximum(shares, better)
        return (mixed / np.maximum(total, 1e-12)[:, None]).astype(np.float32), shares.astype(np.float32), unseen

    def _doubt(self, target: Target, best: np.ndarray, places: np.ndarray) -> np.ndarray:
        """How much of what the portrait shows of a target's points is left to its surface, `N` in 0..1; see DOUBTED."""
        return np.asarray(
            doubted(target.facing, best, places, self._sound, np.array([DOUBTED, SIGHT_SURE], np.float32))
        )

    def _on_surface(self, target: Target, rows: np.ndarray, detailed: bool) -> np.ndarray:
        """`surface_colours` of some of a target's points, `N 3`, `detailed` with strands of hair and grain of skin."""
        assert self.surface is not None
        where = self.faces, target.triangles[rows], target.weights[rows]
        colours = of_corners(self.surface, *where)
        for grain in self._grains if detailed else ():
            grain.add(colours, *where)
        return np.asarray(colours)

    def _covered(self, target: Target, colours: np.ndarray) -> np.ndarray:
        """How much of a tongue, and of what is behind it, shown in `colours` `N 3` is drawn anew, `N`.

        The lips of one who smiles part on teeth where the body's already show tongue. They stay as they are until the
        mouth opens wider; then what is too bright for a tongue goes.
        """
        assert self._inside is not None
        opening = (self._inside.part[target.triangles] > 0).sum() / max(len(target.triangles), 1)
        wider = np.clip(opening / max(self._opening, 1e-6) - 1.2, 0, 1)
        dark = float((np.asarray(INSIDE["tongue"]) * self._inner_light).mean())
        return np.asarray(wider * np.clip(2 * colours.mean(1) / dark - 2, 0, 1), np.float32)

    def sight(
        self, target: Target, mirrored: bool = False, rows: np.ndarray | None = None, smooth: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How well the portrait sees a target's points of the surface, `N` cosines, 0 for hidden ones; where, `N 2`
        pixels; and which of them lie before its camera, `N`.

        Args:
            mirrored: asks for the points of the other side of the head that they mirror. rows: which of the points are
                asked for; all when None. smooth: cosines of the surface, not of its triangles, in
                whose teeth a threshold would end; at lips and lids, which are folds, those of the triangles are true.
        """
        faces, weights, triangles = self.faces, target.weights, target.triangles
        if rows is not None:
            weights, triangles = weights[rows], triangles[rows]
        if mirrored and (turned := mirrored_faces(self.body)) is not None:
            faces, weights = turned, weights[:, ::-1]
        points, facing = on_surface(self.vertices, faces, triangles, weights)
        if smooth:
            facing = of_corners(self._facing, faces, triangles, weights)[:, 0]
        places = project(points, self.intrinsics)
        return self._unhidden(points, places, facing, mirrored), places, points[:, 2] > 0

    def colours(self, places: np.ndarray, picture: np.ndarray | None = None) -> np.ndarray:
        """The portrait's colours `N 3` at places `N 2`, pixels; or another picture's of its size."""
        return values_at(self.portrait if picture is None else picture, places)


def paint_each(painters: Sequence[PortraitPainter], vertices: np.ndarray, intrinsics: np.ndarray) -> list[np.ndarray]:
    """What each of some painters of one body, size and number of samples makes of a pose; the mesh is drawn once."""
    first = painters[0]
    target = Target(vertices, intrinsics, first.faces, first.portrait.shape[:2], first.samples)
    return [painter.paint(target) for painter in painters]
