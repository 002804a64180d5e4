import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.svm import LinearSVC

from training import solver
from training.features import Features, TermCounts
from training.table import TicketTable

Float = NDArray[np.float32]


def objective(matrix: sp.csr_matrix, y: NDArray[np.int8], cost: Float, weights: Float, bias: float) -> float:
    """Half the squared length of weights and bias, and the cost of each squared margin missed."""
    w = weights.astype(float)
    missed = np.maximum(0, 1 - y * (matrix @ w + bias))
    return float(0.5 * (w @ w + bias * bias) + (cost * missed**2).sum())


def reference(matrix: sp.csr_matrix, y: NDArray[np.int8], cost: Float) -> LinearSVC:
    machine = LinearSVC(loss="squared_hinge", C=1.0, tol=1e-8, max_iter=100_000, random_state=0)
    return machine.fit(matrix, y, sample_weight=cost)


@pytest.fixture(scope="module")
def tickets_matrix(table: TicketTable) -> tuple[sp.csr_matrix, NDArray[np.int8]]:
    """100 tickets of three languages and, for each department, +1 or -1."""
    which = np.arange(0, len(table), len(table) // 100)[:100]
    names = table.label_names("department")
    codes = table.codes("department", names)[which]
    matrix = Features(TermCounts.of([table.texts[i] for i in which])).fit_transform(np.arange(len(which)))
    return matrix, np.where(codes[:, None] == np.arange(len(names)), 1, -1).astype(np.int8)


@pytest.mark.parametrize("cost", [0.5, 1.0, 2.0])
def test_the_solution_is_liblinears(tickets_matrix: tuple[sp.csr_matrix, NDArray[np.int8]], cost: float) -> None:
    matrix, sign = tickets_matrix
    costs = np.full(sign.shape, cost, np.float32)
    weights, bias = solver.solve(matrix, sign, costs, seed=0)
    assert weights.shape == (matrix.shape[1], sign.shape[1])
    assert weights.dtype == bias.dtype == np.float32
    clear = 0
    for k in range(sign.shape[1]):
        other = reference(matrix, sign[:, k], costs[:, k])
        best = objective(matrix, sign[:, k], costs[:, k], other.coef_[0], other.intercept_[0])
        assert objective(matrix, sign[:, k], costs[:, k], weights[:, k], float(bias[k])) <= best * 1.01
        margin = other.decision_function(matrix)
        sure = np.abs(margin) > 0.05
        clear += int(sure.sum())
        assert np.array_equal(np.sign(matrix @ weights[:, k] + bias[k])[sure], np.sign(margin[sure]))
    assert clear > 0.9 * sign.size


def test_many_labels_are_solved_as_well_as_few() -> None:
    """Most of 77 labels have nothing to say of a ticket, and must not make it seem solved."""
    labels = np.arange(600) % 77
    noise = sp.random(600, 400, 0.03, format="csr", random_state=0, dtype=np.float32)
    names = sp.csr_matrix((np.full(600, 0.5, np.float32), (np.arange(600), labels)), shape=(600, 400))
    matrix = sp.csr_matrix(noise + names, dtype=np.float32)
    sign = np.where(labels[:, None] == np.arange(77), 1, -1).astype(np.int8)
    costs = np.ones(sign.shape, np.float32)
    weights, bias = solver.solve(matrix, sign, costs, seed=0)
    found, best = 0.0, 0.0
    for k in range(77):
        other = reference(matrix, sign[:, k], costs[:, k])
        best += objective(matrix, sign[:, k], costs[:, k], other.coef_[0], other.intercept_[0])
        found += objective(matrix, sign[:, k], costs[:, k], weights[:, k], float(bias[k]))
    assert best <= found * 1.0001
    assert found <= best * 1.01


def test_a_path_of_costs_takes_fewer_epochs_than_each_cost_alone(
    tickets_matrix: tuple[sp.csr_matrix, NDArray[np.int8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, sign = tickets_matrix
    epochs: list[int] = []
    descend = solver._descend
    monkeypatch.setattr(solver, "_descend", lambda *known: epochs.append(descend(*known)))
    times, costs = (0.25, 0.5, 1.0, 2.0), np.ones(sign.shape, np.float32)
    list(solver.path(matrix, sign, costs, times, seed=0))
    on_the_path = sum(epochs)
    epochs.clear()
    for time in times:
        solver.solve(matrix, sign, time * costs, seed=0)
    assert on_the_path < 0.8 * sum(epochs)


def test_on_a_path_of_costs_each_solution_is_the_one_found_alone(tickets_matrix: tuple[sp.csr_matrix, NDArray[np.int8]]) -> None:
    matrix, sign = tickets_matrix
    costs = np.full(sign.shape, 2, np.float32)
    times = (0.25, 1.0, 0.5)
    for time, (weights, bias) in zip(times, solver.path(matrix, sign, costs, times, seed=0), strict=True):
        best = reference(matrix, sign[:, 0], time * costs[:, 0])
        least = objective(matrix, sign[:, 0], time * costs[:, 0], best.coef_[0], best.intercept_[0])
        assert objective(matrix, sign[:, 0], time * costs[:, 0], weights[:, 0], float(bias[0])) <= least * 1.01
        alone, _ = solver.solve(matrix, sign, time * costs, seed=0)
        np.testing.assert_allclose(weights, alone, atol=0.02)


def test_each_ticket_may_cost_differently() -> None:
    rng = np.random.default_rng(0)
    matrix = sp.csr_matrix(rng.standard_normal((120, 10)) / 3, dtype=np.float32)
    y = np.where(matrix[:, 0].toarray()[:, 0] + 0.3 * rng.standard_normal(120) > 0, 1, -1).astype(np.int8)
    cost = rng.uniform(0.1, 2, 120).astype(np.float32)
    weights, bias = solver.solve(matrix, y[:, None], cost[:, None], seed=0)
    other = reference(matrix, y, cost)
    best = objective(matrix, y, cost, other.coef_[0], other.intercept_[0])
    assert objective(matrix, y, cost, weights[:, 0], float(bias[0])) <= best * 1.01


def test_a_ticket_without_the_label_is_as_good_as_absent(tickets_matrix: tuple[sp.csr_matrix, NDArray[np.int8]]) -> None:
    matrix, sign = tickets_matrix
    present = np.arange(100) % 3 != 0
    partly = np.where(present[:, None], sign, 0).astype(np.int8)
    costs = np.ones(sign.shape, np.float32)
    weights, bias = solver.solve(matrix, partly, costs, seed=0)
    absent = reference(matrix[present], sign[present, 0], costs[present, 0])
    best = objective(matrix[present], sign[present, 0], costs[present, 0], absent.coef_[0], absent.intercept_[0])
    assert objective(matrix[present], sign[present, 0], costs[present, 0], weights[:, 0], float(bias[0])) <= best * 1.01


def test_columns_do_not_disturb_each_other(tickets_matrix: tuple[sp.csr_matrix, NDArray[np.int8]]) -> None:
    matrix, sign = tickets_matrix
    costs = np.ones(sign.shape, np.float32)
    together, _ = solver.solve(matrix, sign, costs, seed=0)
    for k in (0, sign.shape[1] - 1):
        alone, _ = solver.solve(matrix, sign[:, k : k + 1], costs[:, k : k + 1], seed=0)
        # Each stops at its own tolerance, so they agree closely, not to the last digit.
        np.testing.assert_allclose(alone[:, 0], together[:, k], atol=0.02)


def test_the_same_seed_gives_the_same_weights(tickets_matrix: tuple[sp.csr_matrix, NDArray[np.int8]]) -> None:
    matrix, sign = tickets_matrix
    costs = np.ones(sign.shape, np.float32)
    first, again, other = (solver.solve(matrix, sign, costs, seed)[0] for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_matrix_of_nothing_learns_the_majority() -> None:
    sign = np.array([[1], [1], [1], [-1]], np.int8)
    weights, bias = solver.solve(sp.csr_matrix((4, 3), dtype=np.float32), sign, np.ones((4, 1), np.float32), seed=0)
    assert not weights.any()
    # The minimum of b*b/2 + 3 (1 - b)^2 + (1 + b)^2
    assert bias[0] == pytest.approx(4 / 9, abs=0.01)


@pytest.mark.parametrize(
    ("balance", "expected"),
    [(0.0, [2, 2, 2, 2]), (1.0, [2 * 4 / 2 / 3] * 3 + [2 * 4 / 2 / 1]), (0.5, [2 * (2 / 3) ** 0.5] * 3 + [2 * 2**0.5])],
)
def test_rare_labels_cost_more_by_the_power_of_balance(balance: float, expected: list[float]) -> None:
    costs = solver.label_costs(np.array([0, 0, 0, 1]), 2, cost=2.0, balance=balance)
    assert costs.dtype == np.float32
    assert costs == pytest.approx(expected)


def test_a_missing_label_and_a_label_never_seen_are_no_error() -> None:
    costs = solver.label_costs(np.array([0, -1, 0, 1]), 3, cost=1.0, balance=1.0)
    assert np.isfinite(costs).all()
    assert costs[1] == 1.0
