"""How evenly a figure is spread over clients: a good mean may hide a hospital for which the model is useless."""

import math

import numpy as np


def spread(values: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Returns means and spread of a figure over clients, each of which counts the same except in `pooled`.

    values [N] (accuracies, say: higher is better), weights [N] (examples). A client that is nan or has no weight is
    left out and counted as `empty`. `worst decile` is the mean of the worst tenth of the clients, at least one (Li et
    al. 2020, q-FFL); `jain` is Jain's index, 1 when all are equal (Jain et al. 1984). nan where no client is left.
    """
    values, weights = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    counted = ~np.isnan(values) & (weights > 0)
    figures = _figures(np.sort(values[counted]), values[counted] @ weights[counted], weights[counted].sum())
    return {"clients": int(counted.sum()), "empty": int((~counted).sum()), **figures}


def _figures(values: np.ndarray, total: float, weight: float) -> dict[str, float]:
    """Returns the figures of values [n] in rising order."""
    if not len(values):
        return dict.fromkeys(("mean", "pooled", "std", "worst decile", "worst", "best", "gap", "jain"), math.nan)
    square = float(np.mean(values**2))
    return {
        "mean": float(values.mean()),
        "pooled": float(total / weight),
        "std": float(values.std()),
        "worst decile": float(values[: max(1, len(values) // 10)].mean()),
        "worst": float(values[0]),
        "best": float(values[-1]),
        "gap": float(values[-1] - values[0]),
        "jain": float(values.mean() ** 2 / square) if square > 0 else math.nan,
    }
