"""The joint table P(class, colour, relief) that plants the truth in the scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusionscope.errors import InputError

_MODALITIES = {
    "colour": ["rgb"],
    "geometry": ["depth"],
    "either": ["rgb", "depth"],
    "both": ["rgb", "depth"],
    "none": [],
}
_SUMMED = {"rgb": 2, "depth": 1}  # the axis of p that the modality does not see


@dataclass(frozen=True, eq=False, repr=False)
class SceneTable:
    r"""Joint probabilities of class c, colour state A and relief state G of one stone.

    Stones are independent draws from the table, silhouettes do not depend on it, A is visible in rgb only and G in
    depth only. Hence a whole rgb image says about a stone's class exactly what its own A says, $P(c \mid A)$, and a
    whole depth image $P(c \mid G)$. A class is planted as

    - ``colour``: $P(c \mid G) = P(c)$ for every G, so depth carries zero information on it; ``geometry`` the converse;
    - ``either``: rgb alone tells it, and depth alone tells it;
    - ``both``: $P(c \mid A) = P(c \mid G) = P(c)$, but (A, G) together tells it;
    - ``none``: nothing is claimed (the background).

    The identities concern "class c against all the rest". Against a chosen other class alone a single modality may say
    something (a misfit may be red, the floor never is).

    Args:
        classes: K names.
        colours: names of the states of A.
        reliefs: names of the states of G.
        planted: one of the words above for each class.
        p: float64 [K, A, G], sums to one.

    >>> SCENE_TABLE.truth["rust"]
    {'planted': 'colour', 'modalities': ['rgb']}
    >>> {m: round(SCENE_TABLE.accuracy(m), 5) for m in ("rgb", "depth", "both")}
    {'rgb': 0.8, 'depth': 0.8, 'both': 0.96875}
    """

    classes: tuple[str, ...]
    colours: tuple[str, ...]
    reliefs: tuple[str, ...]
    planted: tuple[str, ...]
    p: np.ndarray

    def __repr__(self) -> str:
        rates = self.p.sum((1, 2))
        rows = [f"  {n:8} {w:9} P = {r:.3f}" for n, w, r in zip(self.classes, self.planted, rates, strict=True)]
        bayes = ", ".join(f"{m} {self.accuracy(m):.3f}" for m in ("rgb", "depth", "both"))
        return "\n".join([f"SceneTable: Bayes accuracy {bayes}", *rows])

    @property
    def truth(self) -> dict[str, dict]:
        """Planted type and carrying modalities of each class."""
        return {
            c: {"planted": w, "modalities": list(_MODALITIES[w])}
            for c, w in zip(self.classes, self.planted, strict=True)
        }

    def _seen(self, modality: str) -> np.ndarray:
        if modality == "both":
            return self.p
        if modality not in _SUMMED:
            raise InputError(f"expected modality 'rgb', 'depth' or 'both', got {modality!r}.")
        return self.p.sum(_SUMMED[modality])

    def posterior(self, modality: str) -> np.ndarray:
        """Return P(class | what the modality shows): [K, A] for "rgb", [K, G] for "depth", [K, A, G] for "both".

        States that never occur are NaN.
        """
        seen = self._seen(modality)
        total = seen.sum(0)
        return np.divide(seen, total, out=np.full_like(seen, np.nan), where=total > 0)

    def accuracy(self, modality: str) -> float:
        """Accuracy of the best possible guess of a stone's class from "rgb", "depth" or "both", read without error."""
        return float(self._seen(modality).max(0).sum())

    def check(self, tolerance: float = 1e-12) -> None:
        """Raise ``InputError`` unless the table is a distribution and every planted identity holds exactly."""
        if self.p.min() < 0 or abs(self.p.sum() - 1) > tolerance:
            raise InputError(
                f"expected probabilities that sum to 1, got a sum of {self.p.sum()!r}, least {self.p.min()!r}."
            )
        prior = self.p.sum((1, 2))
        for k, (name, word) in enumerate(zip(self.classes, self.planted, strict=True)):
            if word == "none":
                continue
            moved = {m: np.nanmax(np.abs(self.posterior(m)[k] - prior[k])) for m in ("rgb", "depth", "both")}
            silent = {"colour": ["depth"], "geometry": ["rgb"], "either": [], "both": ["rgb", "depth"]}[word]
            for modality in ("rgb", "depth", "both"):
                if modality in silent and moved[modality] > tolerance:
                    raise InputError(
                        f"class {name!r} is planted as {word!r}, yet {modality} moves its probability by up to "
                        f"{moved[modality]:.3g}. Draw its other state from the whole marginal."
                    )
                if modality not in silent and moved[modality] < 0.5:
                    raise InputError(
                        f"class {name!r} is planted as {word!r}, yet {modality} moves its probability by only "
                        f"{moved[modality]:.3g}. Give it a state of its own."
                    )


def _scene_table() -> SceneTable:
    """Build the table of the scenes.

    q is the colour marginal of floor, colour and either classes, r the relief marginal of floor, geometry and either
    classes. Geometry classes draw A from the whole of q (not "always floor-coloured", which would let a red stone
    exclude them), colour classes draw G from the whole of r, and the class planted as "both" couples q with r off the
    floor's pairs.
    """
    rate = {"floor": 0.65, "rust": 0.05, "moss": 0.05, "bump": 0.05, "dent": 0.05, "wedge": 0.05, "misfit": 0.10}
    q = np.array([0.325, 0.325, 0.05, 0.05, 0.05]) / 0.8
    r = q.copy()
    p = np.zeros((7, 5, 5))
    p[0, 0, 0] = p[0, 1, 1] = rate["floor"] / 2
    p[1, 2, :] = rate["rust"] * r
    p[2, 3, :] = rate["moss"] * r
    p[3, :, 2] = rate["bump"] * q
    p[4, :, 3] = rate["dent"] * q
    p[5, 4, 4] = rate["wedge"]
    coupling = np.zeros((5, 5))
    coupling[0, 1] = coupling[1, 0] = q[0]
    # Coloured stones with relief stones, leaving (blue, slope) to the wedge alone.
    coupling[2:, 2:] = np.array([[1, 1, 2], [1, 1, 2], [2, 2, 0]]) / 4 * q[2]
    p[6] = rate["misfit"] * coupling
    table = SceneTable(
        classes=tuple(rate),
        colours=("sand", "slate", "red", "green", "blue"),
        reliefs=("raised", "sunk", "dome", "hollow", "slope"),
        planted=("none", "colour", "colour", "geometry", "geometry", "either", "both"),
        p=p,
    )
    table.check()
    return table


SCENE_TABLE = _scene_table()
