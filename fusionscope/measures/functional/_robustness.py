"""How much of a score is left under corruption: areas under curves, and errors against a reference's."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from fusionscope.errors import InputError, did_you_mean

Array = np.ndarray


class CorruptionError(float):
    """A mean over corruptions; ``per_corruption`` holds each one's error, as an array ``[C]`` or by name."""

    per_corruption: Any

    def __new__(cls, per_corruption: Any) -> "CorruptionError":
        """Return the mean of the errors per corruption."""
        values = list(per_corruption.values()) if isinstance(per_corruption, dict) else per_corruption
        self = super().__new__(cls, np.mean(values) if len(values) else np.nan)
        self.per_corruption = per_corruption
        return self

    def __getnewargs__(self) -> tuple[Any]:
        """Return what a copy is made from."""
        return (self.per_corruption,)


def relative_robustness(curve: Any, step: float = 0.1) -> Any:
    """Return the area under a curve of scores over equidistant levels of damage, by the trapezoid rule.

    ``Σ_l step·(f_l + f_{l+1})/2``; over levels from 0 to 1 it is a mean score. Source: MultiBench, arXiv 2107.07502.

    Args:
        curve: scores ``[..., L]``, undamaged first, higher is better.
        step: distance between two levels; 0.1 for 11 levels, 0.2 for severities 0-5.

    Returns:
        ``[...]`` in the unit of the score, a number without leading axes; NaN where a level is.

    Raises:
        InputError: fewer than 2 levels, or a step that is not above 0.

    >>> round(float(relative_robustness(np.linspace(0.8, 0.4, 11))), 6)
    0.6
    """
    values = _curve(curve)
    if not step > 0:
        raise InputError(f"expected a step above 0, got {step}; it is 1 / (levels - 1) for levels from 0 to 1")
    return step * (values[..., 1:] + values[..., :-1]).sum(-1) / 2


def effective_robustness(curve: Any, baseline_curve: Any) -> Any:
    """Return what a model keeps beyond a baseline that would lose as much from the same start.

    ``Σ_l [f_l - (b_l + f_0 - b_0)]`` over the levels ``l``, ``b`` the baseline (MultiBench: late fusion). Source:
    MultiBench, arXiv 2107.07502; its final rescaling over the methods compared is left out.

    Args:
        curve: scores ``[..., L]``, undamaged first, higher is better.
        baseline_curve: the baseline's at the same levels, ``[L]`` or ``[..., L]``.

    Returns:
        ``[...]`` in the unit of the score, a number without leading axes; NaN where a level is.

    Raises:
        InputError: fewer than 2 levels, or other numbers of levels.

    >>> round(float(effective_robustness(np.linspace(0.8, 0.5, 11), np.linspace(0.7, 0.3, 11))), 6)
    0.55
    """
    values, base = _curve(curve), _curve(baseline_curve)
    try:
        np.broadcast_shapes(values.shape, base.shape)
        fits = values.shape[-1] == base.shape[-1]
    except ValueError:
        fits = False
    if not fits:
        raise InputError(f"expected curves over the same levels, got shapes {values.shape} and {base.shape}")
    apart = values - base
    return (apart - apart[..., :1]).sum(-1)


def mean_corruption_error(errors: Any, reference_errors: Any) -> CorruptionError:
    """Return mCE, the mean over corruptions of ``CE_c = Σ_s E_{s,c} / Σ_s E^ref_{s,c}`` over the severities ``s``.

    1 = errs as often as the reference model (ImageNet-C: AlexNet). Source: Hendrycks & Dietterich 2019, arXiv
    1903.12261.

    Args:
        errors: error rates ``[corruptions, severities]`` (severities 1-5, without the undamaged), or a dict of them
            by name of the corruption.
        reference_errors: the reference model's, likewise.

    Returns:
        The mean, with ``.per_corruption`` ``[corruptions]`` (a dict for dicts); NaN where a number is missing or the
        reference makes no error.

    Raises:
        InputError: other corruptions or severities than the reference.

    >>> reference = {"noise": [0.4, 0.8], "blur": [0.1, 0.2]}
    >>> found = mean_corruption_error({"noise": [0.2, 0.4], "blur": [0.1, 0.2]}, reference)
    >>> float(found), {name: round(float(value), 6) for name, value in found.per_corruption.items()}
    (0.75, {'noise': 0.5, 'blur': 1.0})
    """
    return _corruption_error(errors, 0.0, reference_errors, 0.0)


def relative_corruption_error(
    errors: Any, clean: float, reference_errors: Any, reference_clean: float
) -> CorruptionError:
    """Return the mean over corruptions of ``Σ_s (E_{s,c} - E_clean) / Σ_s (E^ref_{s,c} - E^ref_clean)``.

    How much more a model errs when damaged, in units of the reference model. Source: Hendrycks & Dietterich 2019, arXiv
    1903.12261.

    Args:
        errors: error rates, as for ``mean_corruption_error``.
        clean: error rate of the model without damage.
        reference_errors: the reference model's error rates, likewise.
        reference_clean: its error rate without damage.

    Returns:
        As ``mean_corruption_error``; NaN where the reference loses nothing.

    Raises:
        InputError: other corruptions or severities than the reference.

    >>> float(relative_corruption_error([[0.3, 0.5]], 0.1, [[0.5, 0.7]], 0.2))
    0.75
    """
    return _corruption_error(errors, clean, reference_errors, reference_clean)


def _corruption_error(errors: Any, clean: float, reference: Any, reference_clean: float) -> CorruptionError:
    if isinstance(errors, Mapping) != isinstance(reference, Mapping):
        raise InputError("expected both errors as arrays [corruptions, severities] or both as dicts, got one of each")
    if not isinstance(errors, Mapping):
        return CorruptionError(_ratio(_errors(errors), clean, _errors(reference), reference_clean))
    if set(errors) != set(reference):
        odd = next(iter(set(errors) ^ set(reference)))
        other = reference if odd in errors else errors
        raise InputError(
            f"expected errors of the same corruptions, got {list(errors)} and {list(reference)}."
            + did_you_mean(str(odd), map(str, other))
        )
    each = {name: (_errors([errors[name]]), _errors([reference[name]])) for name in errors}
    return CorruptionError({n: _ratio(mine, clean, ref, reference_clean)[0] for n, (mine, ref) in each.items()})


def _errors(errors: Any) -> Float64[Array, "C S"]:
    values = _array(errors)
    if values.ndim != 2 or not values.size:
        raise InputError(
            f"expected error rates [corruptions, severities], got shape {values.shape}; of one corruption: [errors]"
        )
    return values


def _ratio(errors: Array, clean: Any, reference: Array, reference_clean: Any) -> Float64[Array, "C"]:
    if errors.shape != reference.shape:
        raise InputError(
            f"expected errors of the same corruptions and severities, got shapes {errors.shape} and {reference.shape}"
        )
    above, below = (errors - clean).sum(1), (reference - reference_clean).sum(1)
    some = np.abs(below) > 1e-12 * (np.abs(reference) + np.abs(reference_clean)).sum(1)  # more than rounding leaves
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(some, above / below, np.nan)


def _curve(curve: Any) -> Float64[Array, "*more L"]:
    values = _array(curve)
    if values.ndim < 1 or values.shape[-1] < 2:
        raise InputError(
            f"expected scores [..., levels] at 2 levels or more, undamaged first, got shape {values.shape}"
        )
    return values


def _array(values: Any) -> Float64[Array, "*shape"]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected numbers in rows of equal length, got {type(values).__name__}: {error}") from None
