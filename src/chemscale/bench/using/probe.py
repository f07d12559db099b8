"""How much of a property can be read off frozen embeddings, beside Morgan fingerprints.

Ridge regression and a random forest are trained on either, on the same molecules, and judged on
molecules of scaffolds that they have not seen. Several such splits give the spread.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chemscale.bench.data.base import Progress, Reject, mixed, silent
from chemscale.bench.using.embed import Pooling, embed
from chemscale.bench.using.reading import Unknown
from chemscale.bench.using.trained import TrainedModel
from chemscale.table.errors import DataError, MissingPackage, UsageError
from chemscale.table.results import Array

TEST = 0.2  # share of scaffolds held out
TREES = 100
BITS = 2_048
PROBES = 4  # ridge and forest, on embeddings and on fingerprints


@dataclass(frozen=True)
class Score:
    """How well a property is told from one kind of features."""

    features: str  # embedding, Morgan fingerprint; nothing: the mean of the training set
    model: str  # ridge, random forest, mean
    metric: str  # rmse in the unit of the target; roc_auc
    value: float  # mean over splits, and over targets
    spread: float  # standard deviation over splits


@dataclass(frozen=True)
class Probed:
    """The scores, and on what."""

    scores: tuple[Score, ...]
    num_molecules: int
    num_unknown: int  # of them with symbols that the model does not know
    num_left_out: int  # targets of a split with one class only, which have no ROC-AUC
    rejects: tuple[Reject, ...]


def probe(
    trained: TrainedModel,
    smiles: Sequence[str],
    targets: Mapping[str, Sequence[float]],
    *,
    num_splits: int = 3,
    layer: int | None = None,
    pooling: Pooling = "mean",
    unknown: Unknown = "keep",
    max_rejected: float = 0.05,
    source: str = "molecules",
    progress: Progress = silent,
) -> Probed:
    """Train and judge probes on embeddings and on Morgan fingerprints (radius 2, 2,048 bits).

    Targets that are 0 or 1 throughout are classes, judged by ROC-AUC; others by the root mean
    square error. A fifth of the scaffolds is held out, by hash, another fifth in each split;
    molecules without a ring are scaffolds of their own.

    Args:
        trained: the model.
        smiles: the molecules.
        targets: name → a value for each molecule, NaN where it was not measured.
        num_splits: how many.
        layer: see `embed`.
        pooling: see `embed`.
        unknown: see `embed`.
        max_rejected: share of molecules that may be left out, of both sides.
        source: what the molecules are called in messages.
        progress: told what is done, how far, of how much.

    Raises:
        MissingPackage: scikit-learn is not installed.
        UsageError: classes and numbers mixed, or none at all.
        DataError: too many molecules cannot be read.
    """
    try:
        import sklearn  # noqa: F401 - said before the work begins
    except ModuleNotFoundError as error:
        name = str(error.name).replace("sklearn", "scikit-learn")
        raise MissingPackage.of(name, "metrics", "probe") from error
    values = {name: np.asarray(column, dtype=float) for name, column in targets.items()}
    classes = _are_classes(values)
    if num_splits < 1:
        raise UsageError(f"num_splits {num_splits}: at least 1")
    embedded = embed(
        trained, smiles, layer=layer, pooling=pooling, unknown=unknown, group="scaffold",
        max_rejected=max_rejected, source=source,
    )  # fmt: skip
    features = {
        "embedding": embedded.vectors.astype(float),
        "Morgan fingerprint": _fingerprints([smiles[row] for row in embedded.rows]),
    }
    scaffold = (embedded.group * 2.0**53).astype(np.uint64)
    results: dict[tuple[str, str], list[float]] = {}
    left_out = done = 0
    total = num_splits * len(values) * PROBES
    for split in range(num_splits):
        held_out = mixed(scaffold, split) / 2.0**64 < TEST
        scores: dict[tuple[str, str], list[float]] = {}
        for column in values.values():
            target = column[embedded.rows]
            known = np.isfinite(target)
            train, test = known & ~held_out, known & held_out
            done += PROBES
            if classes and min(len(set(target[train])), len(set(target[test]))) < 2:
                left_out += 1
                continue
            if min(train.sum(), test.sum()) < 2:
                raise DataError(f"{source}: too few molecules with a value to split by scaffold")
            judged = _judge(features, target, train, test, classes, split)
            progress("training probes", done - PROBES, total)
            for place, (key, value) in enumerate(judged, start=done - PROBES + 1):
                progress("training probes", min(place, done), total)
                scores.setdefault(key, []).append(value)
        for key, told in scores.items():
            results.setdefault(key, []).append(float(np.mean(told)))
    metric = "roc_auc" if classes else "rmse"
    return Probed(
        tuple(
            Score(*key, metric, float(np.mean(found)), float(np.std(found)))
            for key, found in results.items()
        ),
        len(embedded.rows),
        embedded.num_unknown,
        left_out,
        embedded.rejects,
    )


def _are_classes(values: Mapping[str, Array]) -> bool:
    binary = {name: set(np.unique(v[np.isfinite(v)])) <= {0.0, 1.0} for name, v in values.items()}
    if not binary:
        raise UsageError("name at least one target")
    if len(set(binary.values())) > 1:
        numbers = ", ".join(name for name, two in binary.items() if not two)
        raise UsageError(f"classes and numbers cannot be averaged; numbers are {numbers}")
    return all(binary.values())


def _fingerprints(smiles: Sequence[str]) -> Array:
    """Morgan bits: (M, 2048)."""
    from rdkit import Chem, rdBase
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    make = GetMorganGenerator(radius=2, fpSize=BITS)
    with rdBase.BlockLogs():  # it was read before, and what it says of hydrogens changes no bit
        bits = [make.GetFingerprintAsNumPy(Chem.MolFromSmiles(text)) for text in smiles]
    return np.stack(bits).astype(float)


def _judge(
    features: Mapping[str, Array],
    target: Array,
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
    classes: bool,
    seed: int,
) -> Iterator[tuple[tuple[str, str], float]]:
    """The score of each probe on each kind of features, one after the other."""
    from sklearn.metrics import roc_auc_score

    def score(predicted: Array) -> float:
        if classes:
            return float(roc_auc_score(target[test], predicted))
        return float(np.sqrt(np.mean((predicted - target[test]) ** 2)))

    for kind, rows in features.items():
        for name, model in _models(classes, scale=kind == "embedding", seed=seed).items():
            with warnings.catch_warnings():  # scikit-learn's, about its own future
                warnings.simplefilter("ignore", FutureWarning)
                model.fit(rows[train], target[train])
                told = (
                    model.predict_proba(rows[test])[:, 1]
                    if hasattr(model, "predict_proba")
                    else model.predict(rows[test])
                )
            yield (kind, name), score(told)
    if not classes:
        yield ("nothing", "mean"), score(np.full(test.sum(), target[train].mean()))


def _models(classes: bool, *, scale: bool, seed: int) -> dict[str, Any]:
    """Ridge, its penalty chosen by leaving one out, and a random forest; fresh ones."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    ridge = RidgeCV(alphas=np.logspace(-2, 4, 13))
    forest = RandomForestClassifier if classes else RandomForestRegressor
    return {
        "ridge": make_pipeline(StandardScaler(), ridge) if scale else ridge,
        "random forest": forest(
            TREES, max_features="sqrt" if classes else 1 / 3, random_state=seed,
            n_jobs=torch.get_num_threads(),
        ),
    }  # fmt: skip
