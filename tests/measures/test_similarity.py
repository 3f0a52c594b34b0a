"""Known values of the similarity measures, slow references, and where they answer NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measures_naive import gram, hsic1
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist, squareform
from scipy.stats import pearsonr, spearmanr
from sklearn.cross_decomposition import CCA
from sklearn.neighbors import NearestNeighbors

from fusionscope.errors import InputError
from fusionscope.measures import functional as F
from fusionscope.measures.functional import (
    as_tensor,
    channel_correlation,
    cka,
    eta_squared,
    mutual_knn,
    procrustes,
    rsa,
    svcca,
)
from fusionscope.measures.functional._arrays import paired

N = 37
MEASURES = {"cka": cka, "procrustes": procrustes, "svcca": svcca, "rsa": rsa, "mutual_knn": mutual_knn}


def pair(n=N, d1=5, d2=7, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 3))
    x = z @ rng.normal(size=(3, d1)) + rng.normal(size=(n, d1)) + 2
    return x, z @ rng.normal(size=(3, d2)) + rng.normal(size=(n, d2)) - 1


@pytest.mark.parametrize("widths", [(5, 7), (61, 53)], ids=["narrow", "wide"])
def test_procrustes_is_what_the_best_rotation_leaves(widths):
    x, y = pair(d1=widths[0], d2=widths[1])
    width = max(widths)
    a, b = (np.pad(t - t.mean(0), ((0, 0), (0, width - t.shape[1]))) for t in (x, y))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    Q, scale = orthogonal_procrustes(a, b)
    assert procrustes(x, y).item() == pytest.approx(scale, abs=1e-10)
    assert np.linalg.norm(a @ Q - b) ** 2 == pytest.approx(2 - 2 * procrustes(x, y).item(), abs=1e-10)


def test_procrustes_of_one_channel_is_the_size_of_pearsons_r():
    x, y = pair(d1=1, d2=1)
    assert procrustes(x, y).item() == pytest.approx(abs(pearsonr(x[:, 0], y[:, 0])[0]), abs=1e-12)


def test_svcca_is_the_mean_canonical_correlation():
    x, y = pair(d1=3, d2=4)
    model = CCA(3, scale=False, tol=1e-12, max_iter=10_000).fit(x, y)
    u, v = model.transform(x, y)
    wanted = np.mean([abs(pearsonr(u[:, i], v[:, i])[0]) for i in range(3)])
    assert svcca(x, y, keep=1.0).item() == pytest.approx(wanted, abs=1e-6)


def test_svcca_keeps_the_directions_that_carry_the_variance():
    x, y = pair(d1=4, d2=3)
    x -= x.mean(0)
    U, _, V = np.linalg.svd(x, full_matrices=False)
    x = U * np.array([9.0, 4, 1, 0.1]) @ V  # shares .827 .163 .0102 .0001
    for keep, count in ((0.82, 1), (0.83, 2), (0.98, 2), (0.9998, 3), (1.0, 4)):
        assert svcca(x, y, keep).item() == pytest.approx(svcca(U[:, :count], y, 1.0 if keep == 1 else keep).item()), (
            keep
        )


def test_svcca_says_nothing_where_subspaces_must_meet():
    x, y = pair(13, 6, 5)
    assert 0 < svcca(x, y, 1.0) < 1
    x, y = pair(13, 6, 6)
    assert svcca(x, y, 1.0).isfinite()
    assert svcca(*pair(13, 6, 7), 1.0).isnan()
    assert svcca(*pair(13, 61, 53), 1.0).isnan()


@pytest.mark.parametrize("distance", ["correlation", "euclidean"])
def test_rsa_is_spearmans_correlation_of_dissimilarities(distance):
    x, y = pair()
    x[:, :] = x.round(1)
    wanted = spearmanr(pdist(x, distance).round(9), pdist(y, distance).round(9))[0]
    assert rsa(x, y, distance).item() == pytest.approx(wanted, abs=1e-10)


def test_rsa_gives_ties_their_mean_rank():
    x, y = np.eye(5)[[0, 0, 1, 1, 2, 3, 4]], np.arange(7.0)[:, None]
    wanted = spearmanr(pdist(x).round(9), pdist(y).round(9))[0]
    assert rsa(x, y, "euclidean").item() == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_mutual_knn_counts_common_neighbours(distance):
    x, y = pair()
    near = [NearestNeighbors(n_neighbors=5, metric=distance).fit(t).kneighbors(return_distance=False) for t in (x, y)]
    wanted = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(*near, strict=True)])
    assert mutual_knn(x, y, 5, distance).item() == pytest.approx(wanted, abs=1e-12)


def test_mutual_knn_of_ties_is_the_mean_over_random_tie_breaking():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, (11, 2)) + 0.0, rng.integers(0, 3, (11, 2)) + 0.0
    values = []
    for _ in range(3000):
        shares = []
        for t in (x, y):
            D = squareform(pdist(t)).round(9) + np.diag([np.inf] * 11)
            shares.append(np.lexsort((rng.random((11, 11)), D), axis=1)[:, :3])
        values.append(np.mean([len(set(a) & set(b)) / 3 for a, b in zip(*shares, strict=True)]))
    found = mutual_knn(x, y, 3, "euclidean").item()
    assert found == pytest.approx(np.mean(values), abs=4 * np.std(values) / 3000**0.5)
    order = rng.permutation(11)
    assert mutual_knn(x[order], y[order], 3, "euclidean").item() == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_cka_of_gaussian_kernels(estimator):
    x, y = pair()
    K, L = (np.exp(-(squareform(d := pdist(t)) ** 2) / (2 * (0.7 * np.median(d)) ** 2)) for t in (x, y))
    if estimator == "biased":
        H = np.eye(N) - 1 / N

        def hsic(a, b):
            return np.trace(a @ H @ b @ H)
    else:
        hsic = hsic1
    wanted = hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L))
    assert cka(x, y, estimator, "rbf", 0.7).item() == pytest.approx(wanted, abs=1e-9)
    assert abs(cka(x, y, estimator, "rbf", 0.5).item() - wanted) > 1e-3


def test_biased_cka_is_the_published_ratio():
    x, y = pair()
    x, y = x - x.mean(0), y - y.mean(0)
    wanted = np.linalg.norm(y.T @ x) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert cka(x + 100, y, "biased").item() == pytest.approx(wanted, abs=1e-9)
    K, L = gram(x), gram(y)
    assert cka(x, y).item() == pytest.approx(hsic1(K, L) / np.sqrt(hsic1(K, K) * hsic1(L, L)), abs=1e-9)


def test_channel_correlation_is_pearsons():
    x, y = pair(d1=5, d2=5)
    wanted = [pearsonr(x[:, u], y[:, u])[0] for u in range(5)]
    np.testing.assert_allclose(channel_correlation(x + 1e6, y), wanted, atol=1e-8)


def bad_sides(x):
    return {"constant": 0 * x + 0.3, "NaN": x * np.nan, "infinite": x / 0, "one NaN": np.where(x == x[3, 2], np.nan, x)}


@pytest.mark.parametrize("name", MEASURES)
def test_no_value_where_one_side_has_none(name):
    x, y = pair()
    with np.errstate(all="ignore"):
        for what, bad in bad_sides(x).items():
            for kind in (np.float64, np.float32):
                assert MEASURES[name](bad.astype(kind), y).isnan(), what
                assert MEASURES[name](y, bad.astype(kind)).isnan(), what
    assert MEASURES[name](x, y).isfinite()


def test_no_value_for_channels_without_one():
    x, y = pair(d1=5, d2=5)
    x[:, 1], y[:, 3], x[7, 4] = 0.3, -0.1, np.nan
    assert channel_correlation(x.astype(np.float32), y.astype(np.float32)).isfinite().tolist() == [1, 0, 1, 0, 0]
    assert channel_correlation(x[:1], y[:1]).isnan().all()
    assert channel_correlation(x[:0], y[:0]).isnan().all()


def test_too_few_samples():
    x, y = pair(d1=5, d2=5)
    for measure, enough in ((procrustes, 2), (rsa, 3), (mutual_knn, 12)):
        for n in range(enough + 1):
            assert measure(x[:n], y[:n]).isfinite() == (n == enough), (measure, n)
    assert all(svcca(x[:n], y[:n]).isnan() for n in range(4))
    assert all(cka(x[:n], y[:n], "biased", kernel).isnan() for n in range(2) for kernel in ("linear", "rbf"))
    for kernel in ("linear", "rbf"):
        with pytest.raises(InputError, match="at least 4 samples, got 3"):
            cka(x[:3], y[:3], kernel=kernel)


def test_no_value_for_undefined_dissimilarities():
    x, y = pair(d1=5)
    assert rsa(x[:, :2], y).isnan()  # correlations of two features are 1 or -1
    assert rsa(x[:, :2], y, "euclidean").isfinite()
    flat, dead = x.copy(), x.copy()
    flat[5], dead[5] = 3.0, 0.0
    assert rsa(flat, y).isnan()
    assert mutual_knn(dead, y).isnan()
    assert mutual_knn(dead, y, distance="euclidean").isfinite()
    assert rsa(np.eye(7), y[:7], "euclidean").isnan()  # all equally distant
    assert cka(np.repeat(np.eye(5)[:2], [9, 4], 0), y[:13], "biased", "rbf").isnan()  # the median distance is 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_precision_and_arrays(dtype):
    x, y = (torch.from_numpy(t).to(dtype) for t in pair(d1=5, d2=5))
    for measure in (*MEASURES.values(), channel_correlation):
        torch.testing.assert_close(measure(x, y), measure(x.double(), y.double()), atol=1e-12, rtol=0)
        arrays = x.double().numpy(), y.double().numpy()
        torch.testing.assert_close(measure(*arrays), measure(x, y), atol=1e-12, rtol=0)


def test_the_other_functions_take_arrays():
    x = np.arange(10.0).reshape(5, 2)
    K = F.centred_gram(x)
    assert F.hsic1(K.numpy(), K.numpy()) == F.hsic1(K, K)
    assert torch.equal(F.u_center(K.numpy()), F.u_center(K))
    labels = np.array([0, 1, 0, 1, -1])
    found, wanted = eta_squared(x, labels), eta_squared(torch.tensor(x), torch.tensor(labels))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    shares = F.variance_shares(np.array([2.0, 2]), np.ones((2, 3)), np.full(3, 9.0))
    assert shares[0].shape == (3, 3)
    assert torch.equal(as_tensor(x[::-1]), torch.tensor(x).flip(0))


def test_wrong_arguments():
    x, y = pair()
    with pytest.raises(InputError, match=r"same samples.*\(37, 5\) and \(36, 7\)"):
        paired(x, y[:-1])
    with pytest.raises(InputError, match="'unbiassed'. Did you mean 'unbiased'"):
        cka(x, y, "unbiassed")
    with pytest.raises(InputError, match="kernel to be one of"):
        cka(x, y, kernel="poly")
    with pytest.raises(InputError, match="bandwidth > 0"):
        cka(x, y, kernel="rbf", bandwidth=0.0)
    with pytest.raises(InputError, match="Did you mean 'euclidean'"):
        rsa(x, y, "euclidian")
    with pytest.raises(InputError, match="distance to be one of"):
        mutual_knn(x, y, 3, "correlation")
    with pytest.raises(InputError, match="k >= 1"):
        mutual_knn(x, y, 0)
    with pytest.raises(InputError, match="0 < keep <= 1"):
        svcca(x, y, 1.1)
    with pytest.raises(InputError, match="array of numbers, got a list"):
        as_tensor(["a"])
