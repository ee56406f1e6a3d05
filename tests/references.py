"""The losses in float64 NumPy, example by example, as their papers write them."""

from typing import Any

import keras
import numpy as np

# The weights that the references below have built in.
WEIGHTS: dict[str, dict[str, Any]] = {
    "kd": {},
    "dkd": {"dkd_alpha": 1.5, "dkd_beta": 6},
    "dist": {"dist_beta": 2, "dist_gamma": 3},
    "ls": {},
}


def log_softmax(z: np.ndarray) -> np.ndarray:
    shifted = np.asarray(z, np.float64) - np.max(z, axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def softmax(z: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(log_softmax(z)))


def kl(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """KL(p || q) of one example."""
    return float(sum(np.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True)))


def kd(labels: np.ndarray, teacher: np.ndarray, student: np.ndarray, temp: float) -> np.ndarray:
    p, q = log_softmax(teacher / temp), log_softmax(student / temp)
    return np.array([kl(a, b) for a, b in zip(p, q, strict=True)])


def dkd(labels: np.ndarray, teacher: np.ndarray, student: np.ndarray, temp: float) -> np.ndarray:
    def target_and_rest(log_p: np.ndarray, y: int) -> np.ndarray:
        return np.array([log_p[y], np.logaddexp.reduce(np.delete(log_p, y))])

    losses = []
    for y, zt, zs in zip(labels, teacher / temp, student / temp, strict=True):
        p, q = log_softmax(zt), log_softmax(zs)
        target = kl(target_and_rest(p, y), target_and_rest(q, y))
        others = kl(log_softmax(np.delete(zt, y)), log_softmax(np.delete(zs, y)))
        losses.append(1.5 * target + 6 * others)
    return np.array(losses)


def dist(labels: np.ndarray, teacher: np.ndarray, student: np.ndarray, temp: float) -> np.ndarray:
    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        # 1e-7 is what `standardised` documents: it decides where there is hardly any variance
        deviations = np.sqrt((a.var() + 1e-14) * (b.var() + 1e-14))
        return float(((a - a.mean()) * (b - b.mean())).mean() / deviations)

    p, q = softmax(teacher / temp), softmax(student / temp)
    inter = [1 - correlation(p[i], q[i]) for i in range(len(p))]
    intra = [1 - correlation(p[:, k], q[:, k]) for k in range(p.shape[1])]
    return np.array(inter) * 2 + float(np.mean(intra)) * 3


def ls(labels: np.ndarray, teacher: np.ndarray, student: np.ndarray, temp: float) -> np.ndarray:
    def z_score(z: np.ndarray) -> np.ndarray:
        return np.asarray((z - z.mean()) / np.sqrt(((z - z.mean()) ** 2).mean()))

    return np.array(
        [
            kl(log_softmax(z_score(zt) / temp), log_softmax(z_score(zs) / temp))
            for zt, zs in zip(teacher, student, strict=True)
        ]
    )


SOFT_TERMS = {"kd": kd, "dkd": dkd, "dist": dist, "ls": ls}

# A backend may have float32 alone, as JAX has unless it is asked for more.
FLOAT = "float32" if keras.backend.backend() == "jax" else "float64"
EXACT = 1e-9 if FLOAT == "float64" else 1e-4
