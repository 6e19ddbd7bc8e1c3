"""Many requests from many threads to one network: the same bits for each request, and a table of rates."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cdropout as cd
from benchmarks import serving
from benchmarks.command_line import main
from benchmarks.result_check import WrongResultError
from cdropout.digits.data import Dataset, LabelledImages, load_dataset
from cdropout.digits.training import Config, evaluate
from cdropout.networks import MLP, fill_he_uniform, softmax
from examples.mnist.sample import SAMPLE

N_REQUESTS = 60
DIGITS = np.random.default_rng(0).random((10, 20), dtype=np.float32)


def small_network(widths=(20, 32, 16, 4)):
    """Return a network like the benchmark's, in evaluation mode."""
    network = MLP(widths, p=[0.5] * (len(widths) - 2))
    fill_he_uniform(network.weights, np.random.default_rng(1))
    return network.eval()


@pytest.fixture
def server():
    return serving.Server(serving.steps_of(small_network(), 0.5), DIGITS, cd.Stream(7), n_samples=16)


class ForgetfulServer(serving.Server):
    """A server that draws the masks of all requests from one stream: the answers depend on the order."""

    def answer(self, request):
        x = self.digits[request % len(self.digits)][np.newaxis]
        return cd.mc_predict(self.steps, x, self.n_samples, rng=self.stream, samples_per_pass=self.n_samples)


# ---- answers --------------------------------------------------------------------------------------------------------


def test_answers_are_the_same_bits_for_every_number_of_threads_and_order(server):
    answers = serving.check_answers(server, N_REQUESTS, (1, 2, 8))
    assert sorted(answers) == list(range(N_REQUESTS))
    # A second request with the same digit is answered by other sub-networks.
    assert answers[0][0].tobytes() != answers[10][0].tobytes()
    for mean, std in answers.values():
        assert mean.shape == std.shape == (1, 4)
        assert mean.sum() == pytest.approx(1)
        assert std.max() > 0


def test_the_check_finds_answers_that_depend_on_the_order(server):
    forgetful = ForgetfulServer(server.steps, server.digits, server.stream, server.n_samples)
    with pytest.raises(WrongResultError, match=r"the answer to request \d+ must be the same for every number of thr"):
        serving.check_answers(forgetful, N_REQUESTS, (2,))


def test_an_answer_is_that_of_a_separate_network_and_stream(server):
    answers, _, _ = serving.answer_all(server, range(N_REQUESTS), 8)
    for request in (0, 17, 59):
        network, layers = small_network(), [cd.ReLUDropout(0.5), cd.ReLUDropout(0.5)]

        def forward(x, network=network, layers=layers):
            for weight, bias, layer in zip(network.weights, network.biases, layers, strict=False):
                x = layer.forward(x @ weight + bias)
            return softmax(x @ network.weights[-1] + network.biases[-1])

        x = DIGITS[[request % 10]]
        stream = cd.Stream(7).fold_in(request)
        mean, std = cd.mc_predict(forward, x, 16, rng=stream, layers=layers, samples_per_pass=16)
        assert mean.tobytes() == answers[request][0].tobytes()
        assert std.tobytes() == answers[request][1].tobytes()


def test_requests_leave_the_layers_as_they_were(server):
    layers = [step for step in server.steps if isinstance(step, cd.ReLUDropout)]
    for layer in layers:
        layer.rng = 1
    before = [dict(vars(layer)) for layer in layers]
    serving.answer_all(server, range(N_REQUESTS), 8)
    assert [dict(vars(layer)) for layer in layers] == before
    assert [(layer.rng.position, layer.training) for layer in layers] == [(0, False)] * 2
    assert (server.stream.position, server.stream.state["n_children_spawned"]) == (0, 0)


def test_steps_without_dropout_are_the_network():
    network = small_network()
    x = DIGITS
    for step in serving.steps_of(network, 0.5):
        x = step.forward(x) if hasattr(step, "forward") else step(x)
    np.testing.assert_array_equal(x, softmax(network.forward(DIGITS)))


def test_a_function_that_takes_a_stream_serves_many_threads_too():
    weights = small_network().weights

    def forward(x, rng):
        for weight in weights[:-1]:
            x = cd.relu_dropout(x @ weight, 0.5, rng=rng)
        return softmax(x @ weights[-1])

    def answer(request):
        x, stream = DIGITS[[request % 10]], cd.Stream(7).fold_in(f"request {request}")
        return np.array(cd.mc_predict(forward, x, 16, rng=stream, samples_per_pass=5)).tobytes()

    expected = [answer(request) for request in range(N_REQUESTS)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(answer, reversed(range(N_REQUESTS)))) == expected[::-1]


def test_the_network_is_trained():
    data = load_dataset(SAMPLE)
    few = Dataset(LabelledImages(data.train.images[:2000], data.train.labels[:2000]), data.test)
    network = serving.train_network(few, 0.5, Config(epochs=1, hidden=64, batch=32))
    assert evaluate(network, data.test).accuracy > 0.5
    assert not network.training


# ---- the table ------------------------------------------------------------------------------------------------------


def test_every_request_is_answered_once_and_timed(server):
    for n_threads in (1, 3):
        answers, latencies, seconds = serving.answer_all(server, range(N_REQUESTS), n_threads)
        assert len(answers) == len(latencies) == N_REQUESTS
        assert 0 < min(latencies) <= max(latencies) <= seconds


def test_rows_hold_rates_ratios_and_percentiles(server):
    rows = serving.measure(server, (1, 2), n_requests=20, rounds=3)
    assert [row.name for row in rows] == ["1 thread", "2 threads"]
    assert rows[0].ratio == 1
    for row in rows:
        assert row.per_second > 0
        assert row.ratio > 0
        assert len(row.latencies) == len(serving.PERCENTILES)
        assert list(row.latencies) == sorted(row.latencies)
        assert row.cpu_seconds > 0
        assert row.n_sleeps >= 0


def test_processes_answer_the_same_requests(server):
    rows = serving.measure(server, (1,), n_requests=20, rounds=2, n_processes=2)
    assert [row.name for row in rows] == ["1 thread", "2 processes"]
    assert rows[1].per_second > 0
    assert rows[1].latencies == ()


def test_the_table_has_a_line_for_each_row():
    rows = [
        serving.Row("1 thread", 1034.4, 1.0, (0.00094, 0.001, 0.0151), 0.00101, 0.04),
        serving.Row("2 threads", 1990.6, 1.92, (0.00096, 0.00123, 0.002), 0.00102, 0.125),
        serving.Row("2 processes", 2001.0, 1.93),
    ]
    lines = serving.table(rows).splitlines()
    assert lines[0].split() == ["requests/s", "ratio", "p50,", "ms", "p90,", "ms", "p99,", "ms", "CPU,", "ms", "sleeps"]
    assert lines[1].split() == ["1", "thread", "1034", "1.00", "0.94", "1.00", "15.10", "1.01", "0.04"]
    assert lines[2].split() == ["2", "threads", "1991", "1.92", "0.96", "1.23", "2.00", "1.02", "0.12"]
    assert lines[3].split() == ["2", "processes", "2001", "1.93"]


def test_the_program_checks_first_and_prints_the_table(capsys, monkeypatch):
    monkeypatch.setattr(serving, "train_network", lambda data, p, config: small_network((data.n_pixels, 8, 10)))
    assert main(["serving", "--threads", "2", "--requests", "5", "--rounds", "1", "--samples", "4"]) == 0
    out = capsys.readouterr().out
    assert "5 answers are the same bits from 1, 2 threads, in any order" in out
    assert out.index("same bits") < out.index("requests/s")
    assert "2 threads" in out
