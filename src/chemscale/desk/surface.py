"""The additive surface over num_params and num_train (Hoffmann et al. 2022)."""

from __future__ import annotations

import math

import numpy as np

from chemscale.desk.along import Question, ending
from chemscale.desk.bootstrap import fit_sample
from chemscale.desk.influence import leave_out
from chemscale.desk.sample import Sample
from chemscale.desk.sentences import axis_unit, interval_words, metric_words, number, whole_tenths
from chemscale.table.fits import FitStatus, SurfaceFit
from chemscale.table.results import Quantity


def fit_surface(sample: Sample, question: Question) -> SurfaceFit | None:
    """Fit L(N, D) = E + A·N^-a + B·D^-b, or return None where that has no prospect.

    It takes three sizes, three num_train and seven different pairs of them for five parameters.
    Its coefficients are poorly determined one by one even where its forecasts are good
    (Besiroglu et al. 2024): read the exponents and the forecasts.
    """
    sizes = sorted({point.num_params for point in sample.points})
    amounts = sorted({point.num_train for point in sample.points})
    if len(sizes) < 3 or len(amounts) < 3 or len(np.unique(sample.cell)) < 7:
        return None
    fitted = fit_sample(
        np.stack([sample.log_params, sample.log_train], axis=1),
        sample.log_loss,
        sample.cell,
        floor=True,
        seeds=question.seeds,
        rng=question.rng("surface"),
    )
    loss, size_term, size, data_term, data = (
        fitted.quantity(which, question.level) for which in range(5)
    )
    endings: dict[str, FitStatus] = {}
    told = []
    for axis, quantity, ends in (("num_params", size, sizes), ("num_train", data, amounts)):
        assert quantity.value is not None and quantity.interval is not None
        decades = math.log10(ends[-1] / ends[0])
        endings[axis] = ending(quantity, decades)
        said = f"{axis}^-{quantity.value:.2f}"
        said = {"not_identified": f"{axis}^-?", "at_bound": f"{said}, at its bound"}.get(
            endings[axis], said
        )
        told.append(
            f"{said} ({interval_words(quantity.interval, '.2f')}; "
            f"{number(ends[0])} to {number(ends[-1])} {axis_unit(axis, question.unit)}, "
            f"{whole_tenths(decades)} decades)"
        )
    order: tuple[FitStatus, ...] = ("not_identified", "at_bound", "too_short", "converged")
    status = min(endings.values(), key=order.index)
    remark = {
        "not_identified": "; an exponent that wide is not identified",
        "at_bound": "; a loss that does not move along an axis has no exponent there",
        "too_short": "; an axis of less than a decade is described, not extrapolated",
    }.get(status, "")
    unknown = {axis for axis, end in endings.items() if end == "not_identified"}
    return SurfaceFit(
        status=status,
        sentence=f"{metric_words(question.metric)} over both{question.caveat}: "
        f"{' plus '.join(told)}{remark}",
        irreducible_loss=loss,
        size_coefficient=Quantity() if "num_params" in unknown else size_term,
        size_exponent=Quantity() if "num_params" in unknown else size,
        data_coefficient=Quantity() if "num_train" in unknown else data_term,
        data_exponent=Quantity() if "num_train" in unknown else data,
        num_params_window=(sizes[0], sizes[-1]),
        num_train_window=(amounts[0], amounts[-1]),
        points=sample.runs,
        residual=fitted.residual,
        draws=tuple(map(tuple, fitted.kept_draws().tolist())),
        influence=leave_out(sample, ["num_params", "num_train"], floor=True, delta=fitted.delta),
        delta=fitted.delta if math.isfinite(fitted.delta) else None,
        starts=fitted.starts,
    )
