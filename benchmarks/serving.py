"""Measure latency and throughput of Monte Carlo dropout for requests from several threads.

A request is one digit; its answer is the mean and the spread of the class probabilities over 64 sub-networks of a
784-512-512-10 network, trained on the sample of MNIST, with ReLU and dropout after both hidden layers. All threads
answer with the same layers. Each request has its own stream, folded from its number. The answers are compared bit for
bit, over all numbers of threads and orders of requests, before anything is timed. BLAS has one thread.

Two more figures depend less on other programs: the CPU time of a request, which grows if threads spin or work for each
other, and how often a request sleeps, on a lock or the GIL.
"""

import argparse
import functools
import math
import multiprocessing
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import cdropout as cd
from benchmarks.options import parse_positive
from benchmarks.result_check import WrongResultError
from benchmarks.table import Table
from benchmarks.timing import introduce
from cdropout import _kernels
from cdropout.digits.data import Dataset, load_dataset, pixels
from cdropout.digits.training import Config, draw_batches, evaluate
from cdropout.functions.linear import affine
from cdropout.networks import MLP, Adam, fill_he_uniform, softmax, softmax_loss, train_step
from examples.mnist.sample import SAMPLE

THREAD_COUNTS = (1, 2, 8)
PERCENTILES = (50, 90, 99)
Array = npt.NDArray[Any]
Answer = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


# ---- the server -----------------------------------------------------------------------------------------------------

SHARED_OPTIONS = {"threads": THREAD_COUNTS, "rounds": 15, "p": 0.5}


def train_network(data: Dataset, p: float, config: Config) -> MLP:
    """Train a network with ReLU and dropout after both hidden layers; return it in evaluation mode.

    Parameters
    ----------
    data : Dataset
        Its training set is learned.
    p : float
        The probability of dropping, in (0, 1).
    config : Config
        Gives the epochs, batch, step size, width and seed.

    """
    weights, _, masks = config.spawn_seeds()
    widths = [data.n_pixels, config.hidden, config.hidden, data.n_classes]
    network = MLP(widths, p=[p, p], rng=cd.Stream(masks), n_rows=min(config.batch, len(data.train)))
    fill_he_uniform(network.weights, np.random.default_rng(weights))
    optimizer = Adam(network.params, network.grads, lr=config.lr)
    for batch in draw_batches(config, len(data.train)):
        train_step(network, optimizer, softmax_loss, pixels(data.train.images[batch]), data.train.labels[batch])
    return network.eval()


def steps_of(network: MLP, p: float) -> list[Any]:
    """Return a network as functions and dropout layers, and softmax: a sequence for `cdropout.mc_predict`.

    Many threads may pass inputs through them at the same time, each with dropout by a stream of the request. A network
    would have to be switched to dropout as a whole, by one thread at a time.
    """
    steps: list[Any] = []
    for weight, bias in zip(network.weights, network.biases, strict=True):
        steps += [functools.partial(affine, weight=weight, bias=bias), cd.ReLUDropout(p).eval()]
    return [*steps[:-1], softmax]


@dataclass(frozen=True)
class Server:
    """Answer requests; any thread may call `answer` at any time.

    Attributes
    ----------
    steps : list
        The functions and dropout layers through which an input is passed, from `steps_of`.
    digits : ndarray of float32, shape (n_digits, n_pixels)
        The inputs: request i is about digit i modulo n_digits.
    stream : Stream
        The streams of all requests are folded from it.
    n_samples : int
        The number of sub-networks.

    """

    steps: list[Any]
    digits: Array
    stream: cd.Stream
    n_samples: int

    def answer(self, request: int) -> Answer:
        """Return mean and spread of the class probabilities, each (1, n_classes), for the request of a number."""
        x = self.digits[request % len(self.digits)][np.newaxis]
        return cd.mc_predict(
            self.steps, x, self.n_samples, rng=self.stream.fold_in(request), samples_per_pass=self.n_samples
        )


# ---- many threads ---------------------------------------------------------------------------------------------------


def answer_all(server: Server, requests: Iterable[int], n_threads: int) -> tuple[dict[int, Answer], list[float], float]:
    """Answer requests; each thread takes the next one as soon as it is free.

    Returns
    -------
    answers : dict of int to Answer
    latencies : list of float
        The time each answer took, in seconds.
    seconds : float
        The time from the start of the first to the end of the last.

    """
    waiting = iter(list(requests))
    answers: dict[int, Answer] = {}
    latencies: list[float] = []
    start_line = threading.Barrier(n_threads + 1)

    def work() -> None:
        start_line.wait()
        for request in waiting:
            start = time.perf_counter()
            answer = server.answer(request)
            latencies.append(time.perf_counter() - start)
            answers[request] = answer

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    start_line.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return answers, latencies, time.perf_counter() - start


def check_answers(server: Server, n_requests: int, thread_counts: Sequence[int]) -> dict[int, Answer]:
    """Return the answers, or raise WrongResultError if their bits depend on the number of threads or the order."""
    expected, _, _ = answer_all(server, range(n_requests), 1)
    for n_threads in thread_counts:
        order = list(range(n_requests))
        random.Random(n_threads).shuffle(order)
        answers, _, _ = answer_all(server, order, n_threads)
        for request in order:
            if request not in answers:
                raise WrongResultError(f"request {request} must have an answer from {n_threads} threads, got none")
            if any(a.tobytes() != b.tobytes() for a, b in zip(answers[request], expected[request], strict=True)):
                raise WrongResultError(
                    f"the answer to request {request} must be the same for every number of threads and order, "
                    f"got another from {n_threads} threads"
                )
    return expected


# ---- processes, for comparison --------------------------------------------------------------------------------------

_server_of_process: list[Server] = []


def _start_process(server: Server) -> None:
    threadpool_limits(1)
    _server_of_process[:] = [server]


def _answer_in_process(requests: Sequence[int]) -> None:
    for request in requests:
        _server_of_process[0].answer(request)


class Processes:
    """Answer with one network in each process: an upper bound for threads, which share a GIL."""

    def __init__(self, server: Server, n: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pools = [ProcessPoolExecutor(1, context, _start_process, (server,)) for _ in range(n)]

    def __enter__(self) -> "Processes":
        self.seconds(range(10 * len(self._pools)))
        return self

    def __exit__(self, *error: object) -> None:
        for pool in self._pools:
            pool.shutdown()

    def seconds(self, requests: Sequence[int]) -> float:
        """Return the time that the processes take, with an equal share of the requests each."""
        start = time.perf_counter()
        parts = [pool.submit(_answer_in_process, requests[i :: len(self._pools)]) for i, pool in enumerate(self._pools)]
        for part in parts:
            part.result()
        return time.perf_counter() - start


# ---- figures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Hold the figures of one way to answer requests: medians over the rounds.

    Attributes
    ----------
    name : str
        The number of threads or processes.
    per_second : float
        Answers in a second.
    ratio : float
        The rate of a round over one thread's in the same round.
    latencies : tuple of float
        The `PERCENTILES` of the time of an answer over all rounds, in seconds; none for processes.
    cpu_seconds, n_sleeps : float
        The CPU time of a request, and the number of times it waited; NaN for processes.

    """

    name: str
    per_second: float
    ratio: float
    latencies: tuple[float, ...] = ()
    cpu_seconds: float = math.nan
    n_sleeps: float = math.nan


def usage() -> tuple[float, int]:
    """Return this process's CPU time in seconds, and the number of times its threads waited; on Windows none."""
    if sys.platform == "win32":
        return time.process_time(), 0
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_nvcsw


def measure(
    server: Server,
    thread_counts: Sequence[int],
    *,
    n_requests: int,
    rounds: int,
    n_processes: int = 0,
    progress: bool = False,
) -> list[Row]:
    """Answer n_requests in each round by each number of threads in turn, the first of which is 1.

    With n_processes above 0, that many processes have a turn too.
    """
    requests = range(n_requests)
    names = [f"{n} thread{'s' * (n > 1)}" for n in thread_counts] + [f"{n_processes} processes"] * (n_processes > 0)
    rates: dict[str, list[float]] = {name: [] for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with ExitStack() as stack:
        processes = stack.enter_context(Processes(server, n_processes)) if n_processes else None
        for _ in tqdm(range(rounds), leave=False, unit="round", disable=not progress, file=sys.stderr):
            for name, n_threads in zip(names, thread_counts, strict=False):
                before = usage()
                _, latencies, seconds = answer_all(server, requests, n_threads)
                costs[name].append(tuple((b - a) / n_requests for a, b in zip(before, usage(), strict=True)))
                rates[name].append(n_requests / seconds)
                times[name] += latencies
            if processes is not None:
                rates[names[-1]].append(n_requests / processes.seconds(requests))
    return [
        Row(
            name,
            per_second=statistics.median(rates[name]),
            ratio=statistics.median(rate / one for rate, one in zip(rates[name], rates[names[0]], strict=True)),
            **_costs(times[name], costs[name]),
        )
        for name in names
    ]


def _costs(latencies: list[float], costs: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the fields of `Row` that threads have and processes do not."""
    if not latencies:
        return {}
    cpu_seconds, n_sleeps = (statistics.median(values) for values in zip(*costs, strict=True))
    percentiles = tuple(np.percentile(latencies, PERCENTILES).tolist())
    return {"latencies": percentiles, "cpu_seconds": cpu_seconds, "n_sleeps": n_sleeps}


def table(rows: Iterable[Row]) -> str:
    """Return rows as a table, times in milliseconds."""
    timed = (*(f"p{n}, ms" for n in PERCENTILES), "CPU, ms", "sleeps")
    columns = Table(("", "<12"), ("requests/s", "10.0f"), ("ratio", "6.2f"), *((title, "8.2f") for title in timed))

    def costs(row: Row) -> tuple[float | None, ...]:
        if not row.latencies:
            return (None,) * len(timed)
        return *(1e3 * seconds for seconds in (*row.latencies, row.cpu_seconds)), row.n_sleeps

    return columns.text((row.name, row.per_second, row.ratio, *costs(row)) for row in rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of requests and processes."""
    add = parser.add_argument
    add("--requests", type=parse_positive, default=400, metavar="N", help="in a round (default: %(default)s)")
    add("--samples", type=parse_positive, default=64, metavar="N", help="of a request (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the network and all requests (default: %(default)s)")
    add("--processes", action="store_true", help="two processes too, which share no GIL")
    add("--without-gil-from", type=int, metavar="N", help="the elements from which a call of cdropout releases the GIL")


def run(args: argparse.Namespace) -> None:
    """Train, check, measure, and print a table."""
    thread_counts = (1, *(n for n in dict.fromkeys(args.threads) if n != 1))
    if args.without_gil_from is not None:
        _kernels.set_limits(min_elems_without_gil=args.without_gil_from)
    with threadpool_limits(1):
        data = load_dataset(SAMPLE)
        network = train_network(data, args.p, Config(epochs=1, seed=args.seed))
        accuracy = evaluate(network, data.test).accuracy
        trained = f"784-512-512-10, accuracy {accuracy:.3f} with dropout off"
        setting = f"{trained}; {args.samples} samples a request, p = {args.p}"
        introduce(setting, args.rounds, f" of {args.requests} requests")
        server = Server(steps_of(network, args.p), pixels(data.test.images), cd.Stream(args.seed), args.samples)
        answers = check_answers(server, min(200, args.requests), thread_counts)
        counts = ", ".join(map(str, thread_counts))
        print(f"{len(answers)} answers are the same bits from {counts} threads, in any order\n")
        rows = measure(
            server,
            thread_counts,
            n_requests=args.requests,
            rounds=args.rounds,
            n_processes=2 if args.processes else 0,
            progress=True,
        )
    print(table(rows))
