"""Correlations of blocks of columns, against numpy's of all rows at once."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, given, settings

from dask_petuum.model_parallel import Correlation, KnownCorrelation, Machine, Priority, from_gram
from dask_petuum.model_parallel.interference import SLOTS
from dask_petuum.model_parallel.kernels.correlation import BITS, MARGIN, PART, STEPS

KINDS = ["dense", "fortran", "csc", "csr", "repeated"]


def as_kind(X, kind):
    """Return X in one of the forms that are accepted."""
    if kind in ("dense", "fortran"):
        return np.array(X, order="F" if kind == "fortran" else "C")
    if kind == "csc":
        return sp.csc_array(X)
    if kind == "csr":
        return sp.csr_matrix(X)
    rows, columns = np.nonzero(X)  # each entry as two halves
    return sp.coo_array(
        (
            np.tile(X[rows, columns] / 2, 2),
            (np.tile(rows, 2), np.tile(columns, 2)),
        ),
        shape=X.shape,
    ).tocsr(copy=False)


def naive_strengths(X):
    """|r| of all pairs of columns in float64; 0 for columns that do not vary."""
    X = np.asarray(X, dtype=np.float64)
    centred = X - X.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    norms[np.ptp(X, axis=0) == 0] = np.inf
    return np.abs(centred.T @ centred) / np.outer(norms, norms)


def random_design(n_rows, n_columns, seed):
    """Return a matrix with zeros, a constant, an empty and two collinear columns."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_rows, n_columns)) * (rng.random((n_rows, n_columns)) < 0.4)
    X[:, 0], X[:, 1], X[:, 3] = 0.0, 0.1, -2.0 * X[:, 2]
    return X


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(KINDS), st.integers(2, 30), st.integers(0, 1000))
def test_strengths_are_those_of_numpy(kind, n_rows, seed):
    X = random_design(n_rows, 7, seed)
    expected = naive_strengths(X)
    correlation = Correlation(as_kind(X, kind))
    for _ in range(2):  # computed, then from the cache
        for block in range(7):
            found = correlation.strengths(block, range(7))
            np.testing.assert_allclose(found, expected[block], atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_and_constant_columns_conflict_with_nobody(kind):
    X = random_design(20, 7, 3)
    correlation = Correlation(as_kind(X, kind))
    assert correlation.strengths(2, [3]).tolist() == pytest.approx([1.0])
    for block in (0, 1):
        assert not correlation.strengths(block, range(7)).any()
        others = [other for other in range(7) if other != block]
        assert not correlation.conflicts(block, others, rho=1e-9)
        assert correlation.conflicts(block, [block], rho=1.0)  # it may not be in flight twice


@pytest.mark.parametrize(("kind", "mean"), [("dense", 1e3), ("dense", 1e8), ("csc", 1e3)])
def test_columns_far_from_zero_are_not_taken_as_constant(kind, mean):
    """Times in seconds since 1970, say: the deviation is small beside the mean.

    Products of sparse columns are centred afterwards, so that they bear less of it.
    """
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 3))
    X[:, 1] += X[:, 0]
    found = Correlation(as_kind(X + mean, kind)).strengths(0, [1, 2])
    np.testing.assert_allclose(found, naive_strengths(X)[0, 1:], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["f4", "i8", "u1", "?"])
def test_other_numbers_than_float64(dtype):
    X = (np.random.default_rng(1).random((40, 4)) * 3).astype(dtype)
    for kind in ("dense", "csc"):
        found = Correlation(as_kind(X, kind)).strengths(1, range(4))
        np.testing.assert_allclose(found, naive_strengths(X)[1], atol=1e-6)


@pytest.mark.parametrize("kind", ["dense", "csc"])
def test_between_groups_the_largest_correlation_counts(kind):
    X = random_design(25, 8, 5)
    groups = np.array([0, 3, 3, 0, 1, 1, 3, 4])  # block 2 has no column
    pairs = naive_strengths(X)
    correlation = Correlation(as_kind(X, kind), groups)
    assert correlation.n_blocks == 5
    for block in range(5):
        for other in range(5):
            part = pairs[np.ix_(groups == block, groups == other)]
            expected = part.max() if part.size else 0.0
            found = correlation.strengths(block, [other])
            np.testing.assert_allclose(found, [expected], atol=1e-7)


def test_the_threshold_itself_conflicts():
    X = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    X = np.column_stack([X[:, 0], X[:, 0] + X[:, 1]])  # r = 1 / sqrt(2)
    r = float(Correlation(X).strengths(0, [1])[0])
    assert r == pytest.approx(np.sqrt(0.5))
    assert Correlation(X).conflicts(0, [1], rho=r)
    assert not Correlation(X).conflicts(0, [1], rho=np.nextafter(r, 1))
    assert not Correlation(X).conflicts(0, [], rho=1e-9)


def naive_screen(strengths, candidates, others, rho, makes_way):
    """Go through the candidates one by one."""
    together, kept = list(others), []
    for block in candidates:
        fits = block not in together and all(strengths[block, o] < rho for o in together)
        if fits or makes_way:
            together.append(block)
        makes_way = makes_way and fits
        kept.append(fits)
    return kept


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(KINDS),
    st.sampled_from([1, 7, 200_000]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_screening_keeps_what_one_by_one_keeps(kind, cache_size, makes_way, grouped, seed):
    """Whatever is kept of earlier calls: nearly nothing, a few pairs, all."""
    rng = np.random.default_rng(seed)
    X = random_design(12, 14, seed)
    groups = rng.integers(0, 9, 14) if grouped else np.arange(14)
    pairs = naive_strengths(X)
    n_blocks = int(groups.max()) + 1
    strengths = np.zeros((n_blocks, n_blocks))
    np.maximum.at(strengths, np.ix_(groups, groups), pairs)
    correlation = Correlation(as_kind(X, kind), groups, cache_size)
    correlation._known.slots.resize((2, *correlation._known.slots.shape[1:]), refcheck=False)
    for _ in range(6):
        blocks = rng.permutation(n_blocks).tolist()
        candidates, others = blocks[: n_blocks // 2 + 1], blocks[n_blocks // 2 :]
        rho = float(rng.random())
        assume(np.abs(strengths - rho).min() > 1e-9)  # clear of rounding
        expected = naive_screen(strengths, candidates, others, rho, makes_way)
        assert correlation.screen(candidates, others, rho, makes_way) == expected


@pytest.mark.parametrize("n_rows", [PART - 1, PART, 5 * PART + 3])
def test_quick_strengths_are_within_their_margin(n_rows):
    """Sums of float32 that all have one sign: where rounding is worst."""
    rng = np.random.default_rng(n_rows)
    X = np.abs(rng.standard_normal((n_rows, 6))) ** 3
    X[n_rows // 2 :] *= -1
    correlation = Correlation(X)
    expected = naive_strengths(X)
    correlation.screen(range(6), [], 1.0)
    known = correlation._known.pairs[correlation._known.pairs >= 0]
    assert known.size == 15
    for entry in known.tolist():
        low, high = divmod(entry >> BITS, 6)
        assert abs((entry & STEPS) / STEPS - expected[low, high]) < MARGIN / 2


def test_a_verdict_near_the_threshold_is_that_of_float64():
    """The float32 strengths alone cannot tell these thresholds apart."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((3000, 2))
    X[:, 1] += X[:, 0]
    for kind in ("fortran", "csc"):
        correlation = Correlation(as_kind(X, kind))
        r = float(correlation.strengths(0, [1])[0])
        for _ in range(2):  # computed, then kept
            assert correlation.conflicts(0, [1], rho=r)
            assert not correlation.conflicts(0, [1], rho=np.nextafter(r, 1))


def test_few_pairs_and_few_columns_are_kept():
    X = np.random.default_rng(0).standard_normal((10, 400))
    correlation = Correlation(X, cache_size=3)
    correlation.screen(range(400), [], rho=1.0)
    assert "3 of at most 3 pairs known" in repr(correlation)
    kept = correlation._known.column_in
    assert len(kept) == SLOTS < 400
    assert sorted(kept) == np.flatnonzero(correlation._known.slot_of >= 0).tolist()


def test_blocks_that_are_not_there_are_refused():
    correlation = Correlation(np.eye(3))
    for call in (
        lambda: correlation.screen([0, 3], [], 0.5),
        lambda: correlation.screen([0], [-1], 0.5),
        lambda: correlation.conflicts(3, [0], 0.5),
        lambda: correlation.strengths(0, [7]),
    ):
        with pytest.raises(ValueError, match=r"blocks must be 0 \.\. 2"):
            call()


@pytest.mark.parametrize(
    ("X", "options", "text"),
    [
        (np.ones(3), {}, "n_rows, n_columns"),
        (np.ones((0, 3)), {}, "with rows"),
        (np.array([["a"]]), {}, "array of numbers"),
        (np.array([[1.0, np.nan]]), {}, "finite"),
        (np.array([[1.0, np.inf]]), {}, "finite"),
        (sp.csc_array(np.array([[1.0, np.inf]])), {}, "finite"),
        (np.array([[1.0], [1e200]]), {}, "sums of squares too"),
        (np.ones((2, 3)), {"groups": [0, 1]}, "groups must be 3"),
        (np.ones((2, 3)), {"groups": [0, 1, -1]}, "groups must be 3"),
        (np.ones((2, 3)), {"cache_size": 0}, "cache_size"),
    ],
)
def test_bad_input_is_refused(X, options, text):
    with pytest.raises(ValueError, match=text):
        Correlation(X, **options)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(0, 1000))
def test_from_gram_of_spread_rows_is_the_correlation_of_all(n_ranks, seed):
    X = random_design(24, 7, seed)
    candidates = [2, 0, 3, 1, 6]
    parts = [part[:, candidates] for part in np.array_split(X, n_ranks)]
    known = from_gram(
        candidates,
        sum(part.T @ part for part in parts),
        sum(part.sum(0) for part in parts),
        sum((part**2).sum(0) for part in parts),
        24,
    )
    expected = naive_strengths(X)
    np.testing.assert_allclose(known.strengths, expected[np.ix_(candidates, candidates)], atol=1e-6)
    correlation = Correlation(X)
    for block in candidates:
        others = [other for other in candidates if other != block]
        largest = expected[block, others].max()
        for rho in (0.99 * largest + 1e-3, 1.01 * largest + 1e-3):  # clear of rounding
            found = known.conflicts(block, others, rho)
            assert found == correlation.conflicts(block, others, rho) == (largest >= rho)


def test_a_block_that_is_not_known_conflicts_with_all_others():
    known = KnownCorrelation([4, 7], np.array([[1.0, 0.2], [0.2, 1.0]]))
    assert not known.conflicts(4, [7], rho=0.3)
    assert known.conflicts(4, [7], rho=0.2)
    assert known.conflicts(4, [7, 5], rho=0.3)
    assert known.conflicts(5, [4], rho=0.3)
    assert not known.conflicts(5, [], rho=0.3)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"gram": np.eye(3)}, "gram must be"),
        ({"sums": [1.0]}, "sums and squares"),
        ({"squares": [1.0, 2.0, 3.0]}, "sums and squares"),
        ({"n": 0}, "n must be >= 1"),
        ({"candidates": [3, 3]}, "each candidate there once"),
        ({"sums": [np.nan, 0.0]}, "finite"),
    ],
)
def test_bad_products_are_refused(changes, text):
    given_values = {
        "candidates": [3, 5],
        "gram": np.eye(2),
        "sums": [0.0, 0.0],
        "squares": [1.0, 1.0],
        "n": 2,
    }
    with pytest.raises(ValueError, match=text):
        from_gram(**(given_values | changes))


@pytest.mark.parametrize("mode", ["sample", "greedy"])
def test_the_machine_never_has_correlated_columns_in_flight(mode):
    """Groups of five columns with |r| about 0.9, and wide batches."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((60, 8))
    X = np.repeat(shared, 5, axis=1) + 0.3 * rng.standard_normal((60, 40))
    strengths = naive_strengths(X)
    machine = Machine(40, 1, Priority(mode, rho=0.6), interference=Correlation(X), width=4, seed=1)
    for _ in range(300):
        task = machine.ask(0)
        flying = [block for other in machine.in_flight for block in other.blocks]
        inside = strengths[np.ix_(flying, flying)] - np.eye(len(flying))
        assert inside.max() < 0.6
        if task is None or rng.random() < 0.5:
            oldest = machine.in_flight[0]
            machine.done(oldest.number, rng.random(len(oldest.blocks)), 0.0)
    assert machine.n_visits.min() > 0
