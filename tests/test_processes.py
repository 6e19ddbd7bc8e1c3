"""Other processes: the same bits at other thread counts and instruction sets; forked workers that never repeat."""

import hashlib
import modulefinder
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ISAS, needs_core_probe, writes_what_is_shared

import cdropout as cd
from cdropout import _kernels

N_LARGE = 3_000_000  # enough for several threads

APPLY_PICKLED = """
import hashlib, pickle, sys
import numpy as np
from cdropout import _kernels
from cdropout.machine import CpuQuota
CpuQuota.n_cpus = lambda self: None  # this machine's quota, if it has one, is not what is tested
mask = pickle.loads(sys.stdin.buffer.read())
x = np.random.default_rng(0).standard_normal(mask.shape, dtype=np.float32)
y = mask.apply(x)
import os
n_threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
print(hashlib.sha256(y.tobytes()).hexdigest(), _kernels.active_isa(), n_threads)
"""


@pytest.mark.promise("bits-processes")
@pytest.mark.parametrize("isa_name", ISAS)
@pytest.mark.parametrize("n_threads", [1, 2, 8])
def test_a_pickled_mask_gives_the_same_bytes_in_another_process(run_python, isa_name, n_threads):
    if isa_name not in _kernels.supported_isas():
        pytest.skip(f"this machine has no {isa_name}")
    mask = cd.draw_mask(N_LARGE, 0.1, rng=cd.Stream(7))
    x = np.random.default_rng(0).standard_normal(mask.shape, dtype=np.float32)
    expected = hashlib.sha256(mask.apply(x).tobytes()).hexdigest()
    env = {"CDROPOUT_ISA": isa_name, "OMP_NUM_THREADS": str(n_threads), "OPENBLAS_NUM_THREADS": "1"}
    result = run_python("-c", APPLY_PICKLED, env=env, stdin=pickle.dumps(mask))
    digest, ran, threads_alive = result.stdout.decode().split()
    assert (digest, ran) == (expected, isa_name)
    if _kernels.has_openmp() and threads_alive != "0":
        # OpenMP's threads stay alive after the loop, so their count shows how many took part.
        assert int(threads_alive) == n_threads


@needs_core_probe
@pytest.mark.parametrize("isa_name", ISAS)
def test_the_environment_forces_an_isa(run_python, isa_name):
    if isa_name not in _kernels.supported_isas():
        pytest.skip(f"this machine has no {isa_name}")
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from core_probe import _kernels, isas_that_ran
print(_kernels.active_isa(), *isas_that_ran())
"""
    result = run_python("-c", code, env={"CDROPOUT_ISA": isa_name})
    assert result.stdout.decode().split() == [isa_name, isa_name]


def test_an_unknown_isa_is_a_value_error_that_lists_the_known(run_python):
    result = run_python("-c", "import cdropout", env={"CDROPOUT_ISA": "mmx"}, check=False)
    assert result.returncode == 1
    last = result.stderr.decode().splitlines()[-1]
    assert last.startswith("ValueError: CDROPOUT_ISA must be one of ")
    assert "portable" in last
    assert last.endswith("got 'mmx'")


def run_on_old_processor(*arguments, processor="Nehalem", env=None):
    """Run Python on an emulated x86-64 processor, by default one of 2008 without AVX."""
    qemu = next((p for p in map(Path, ("/usr/bin/qemu-x86_64", "/usr/bin/qemu-x86_64-static")) if p.exists()), None)
    if qemu is None or not sys.platform.startswith("linux") or "avx2" not in _kernels.supported_isas():
        pytest.skip("needs an x86-64 Linux with AVX2 and qemu-user, to emulate a processor without AVX2")
    environment = {**os.environ, **(env or {}), "OPENBLAS_CORETYPE": "Nehalem"}
    return subprocess.run(
        [str(qemu), "-cpu", processor, sys.executable, *arguments],
        env=environment,
        cwd=Path(sys.executable).parent,
        capture_output=True,
        timeout=240,
        check=False,
    )


@pytest.mark.promise("any-x86-64")
def test_an_unsupported_isa_is_an_import_error_and_the_default_falls_back():
    result = run_on_old_processor("-c", "import cdropout", env={"CDROPOUT_ISA": "avx2"})
    assert result.returncode == 1, result.stderr.decode()
    last = result.stderr.decode().splitlines()[-1]
    assert last == "ImportError: CDROPOUT_ISA must name an instruction set of this machine (sse2, portable), got 'avx2'"
    code = """
import hashlib, numpy as np, cdropout as cd
y = cd.dropout(np.arange(10_001, dtype=np.float32), 0.1, rng=1)
from cdropout import _kernels
print(_kernels.active_isa(), hashlib.sha256(y.tobytes()).hexdigest())
"""
    result = run_on_old_processor("-c", code)
    expected = cd.dropout(np.arange(10_001, dtype=np.float32), 0.1, rng=1)
    assert result.stdout.decode().split() == ["sse2", hashlib.sha256(expected.tobytes()).hexdigest()]


fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.mark.promise("worker-masks")
@fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_children_draw_masks_of_their_own_by_default(in_forked_child):
    x = np.ones(300, np.float32)
    cd.dropout(x)
    drawn = [in_forked_child(lambda: cd.dropout(x).tobytes()) for _ in range(8)]
    assert all(len(d) == x.nbytes for d in drawn)
    assert len({*drawn, cd.dropout(x).tobytes()}) == 9


@fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_children_of_a_layer_without_a_seed_differ_too(in_forked_child):
    layer, x = cd.Dropout(0.5), np.ones(300, np.float32)
    layer.forward(x)
    assert len({in_forked_child(lambda: layer.forward(x).tobytes()) for _ in range(8)}) == 8


THREADS_AROUND_AN_IMPORT = """
import os, threading
import numpy as np
def n_threads():
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else threading.active_count()
def look(name, until):
    until.wait()
    seen[name] = np.float64(5e-324) * 1.0 == 5e-324 != 0 and np.float32(1e-45) * np.float32(1) != 0
def start(name, until):
    threads.append(threading.Thread(target=look, args=(name, until)))
    threads[-1].start()
seen, threads, imported, done = {}, [], threading.Event(), threading.Event()
start("begun before", imported)
start("begun before, looks last", done)
n_before = n_threads()
import cdropout, cdropout.api, cdropout.bit_generator
assert n_threads() == n_before
imported.set()
start("begun after", imported)
look("main", imported)
cdropout.dropout(np.ones(3_000_000, np.float32))  # by several threads, if there is more than one CPU
start("begun after a call", imported)
look("main, after a call", imported)
done.set()
for thread in threads:
    thread.join()
assert len(seen) == 6 and all(seen.values()), seen
"""


@pytest.mark.promise("import")
def test_importing_leaves_subnormal_numbers_alone_in_every_thread_and_starts_none(run_python):
    run_python("-c", THREADS_AROUND_AN_IMPORT)


def test_importing_imports_numpy_and_the_standard_library_and_nothing_that_can_wait(run_python):
    code = """
import sys
import numpy
before = set(sys.modules)
import cdropout
new = set(sys.modules) - before
names = {name.partition(".")[0] for name in new if "cython" not in name}  # what Cython puts there has no file
print(names - {"cdropout", "numpy"} - sys.stdlib_module_names)
print(sorted({"numpy.random", "pathlib", "dataclasses"} & new), "cdropout._kernels" in new)
parts = {".".join(name.split(".")[:2]) for name in new if name.startswith("cdropout.")}
print(sorted(parts & {f"cdropout.{name}" for name in ("bench", "compat", "display", "environment", "torch")}))
"""
    assert run_python("-c", code).stdout.decode().splitlines() == ["set()", "[] True", "[]"]


def test_python_files_name_all_modules_that_compiled_ones_import(run_python, tmp_path):
    # Tools that make one program of a script and its modules (PyInstaller, cx_Freeze) read imports in Python files.
    program = tmp_path / "program.py"
    program.write_text("""
import sys
import cdropout as cd
cd.draw_mask((3, 4), 0.5, rng=1)._repr_html_()
cd.Stream(1).fold_in("a")._repr_html_()
cd.StreamBitGenerator(1), cd.get_include()
print(*(name for name in sys.modules if name.split(".")[0] == "cdropout"))
""")
    used = set(run_python(str(program)).stdout.decode().split())
    folder = str(Path(cd.__file__).parents[1])
    finder = modulefinder.ModuleFinder([folder, *sys.path], excludes=["numpy", "matplotlib", "tqdm"])
    finder.run_script(str(program))
    aliases = {f"cdropout.{name}" for name in cd._MOVED}  # set in cdropout/__init__.py
    assert {"cdropout._kernels", "cdropout.display", "cdropout.machine"} <= used
    assert used - aliases <= set(finder.modules)


USE_EVERYTHING = """
import pickle
import numpy as np
import cdropout as cd
from cdropout import bit_generator, inference
stream = cd.Stream(1)
mask = cd.draw_mask((3, 4), 0.5, rng=stream)
for value in (stream, mask, cd.draw_noise(3, 1.0, rng=1)):
    repr(value), value._repr_html_(), pickle.loads(pickle.dumps(value))
stream.fold_in("a"), stream.fold_in(b"a"), cd.get_include()
for make in (cd.Dropout, cd.ReLUDropout, cd.GaussianDropout):
    layer = pickle.loads(pickle.dumps(make(0.5, rng=1)))
    layer.backward(layer.forward(np.ones((3, 4), np.float32)))
    layer.state = layer.state
np.random.Generator(cd.StreamBitGenerator(1)).random()
try:
    cd.dropout(np.ones(3), 2.0)
except ValueError:
    print("refused", mask.keep().sum())
"""


@pytest.mark.parametrize("options", ["-O", "-OO", "-bb -W error", "-X dev -W error"])
def test_options_of_the_interpreter_change_nothing(run_python, options):
    expected = cd.draw_mask((3, 4), 0.5, rng=1).keep().sum()
    result = run_python(*options.split(), "-c", USE_EVERYTHING)
    assert result.stdout.decode().splitlines() == [f"refused {expected}"]
    assert result.stderr == b""


def test_the_interpreter_ends_while_other_threads_compute(run_python):
    result = run_python(
        "-c",
        """
import atexit, threading, time
import numpy as np
import cdropout as cd
x = np.ones(3_000_000, np.float32)
mask = cd.draw_mask(x.shape, 0.5, rng=1)
started = threading.Semaphore(0)
def compute():
    while True:
        mask.apply(x)
        started.release()
atexit.register(lambda: print("at exit", cd.dropout(x, rng=1).shape))
for _ in range(3):
    threading.Thread(target=compute, daemon=True).start()
for _ in range(6):
    started.acquire()
""",
    )
    assert result.stdout.decode().splitlines()[0] == "at exit (3000000,)"


# While the interpreter ends, the built-in `open` is removed and imports fail, also of modules that have been imported.
CALLS_AT_THE_END = """
import atexit, os, sys, threading, time, warnings
import ml_dtypes
import numpy as np
import cdropout as cd
from cdropout import _kernels
from cdropout.machine import CpuQuota

class AtTheEnd:
    def __init__(self):
        self.x, self.large = np.ones((4, 6), np.float32), np.ones(3_000_000, np.float32)
        self.columns = np.ones((300, 4)).T
        self.bfloat16 = np.ones(9, ml_dtypes.bfloat16)
        self.stream, self.layer = cd.Stream(1), cd.Dropout(0.5, rng=1)
        self.linear = cd.FeatureDropoutLinear(6, 3, rng=1)
        self.mask, self.noise = cd.draw_mask((4, 6), 0.5, rng=1), cd.draw_noise((4, 6), 0.5, rng=1)
        self.calls = {
            "dropout": lambda: cd.dropout(self.large, 0.5, rng=self.stream),
            "default": lambda: cd.dropout(self.x, 0.5),
            "seed": lambda: cd.dropout(self.x, 0.5, rng=[3, 4]),
            "generator": lambda: cd.dropout(self.x, 0.5, rng=np.random.default_rng(3)),
            "layout": lambda: cd.dropout(self.columns, 0.5, rng=self.stream, shared_axes=0),
            "list": lambda: cd.dropout([1.0, 2.0], 0.5, rng=self.stream),
            "bfloat16": lambda: cd.dropout(self.bfloat16, 0.5, rng=self.stream),
            "masked": lambda: cd.dropout(np.ma.masked_equal([1.0, 2.0], 2.0), 0.5, rng=self.stream),
            "mask": lambda: (self.mask[1:].keep(), self.mask.scaled(), self.mask.apply(self.x)),
            "noise": lambda: (self.noise.add(self.x), cd.gaussian_noise(self.large, 0.5, rng=self.stream)),
            "fused": lambda: cd.bias_relu_dropout(self.x, self.x[0], 0.5, rng=self.stream),
            "layer": lambda: (self.layer.forward(self.large), self.layer.backward(self.large)),
            "linear": lambda: (self.linear.forward(self.x), self.linear.backward(np.ones((4, 3), np.float32))),
            "new layer": lambda: cd.DropConnect(6, 3, rng=self.stream),
            "repr": lambda: repr((self.mask, self.noise, self.stream, self.layer, self.linear)),
            "streams": lambda: (self.stream.spawn(2), self.stream.fold_in("a").spawn(1)),
            "states": lambda: [setattr(each, "state", each.state) for each in (self.stream, self.layer)],
            "raw": lambda: cd.StreamBitGenerator(3).random_raw(5000),
            "threads": lambda: (CpuQuota().n_cpus(), _kernels.thread_limit()),
            "warning": lambda: (_kernels.note_serial_build("run"), cd.dropout(self.large, 0.5, rng=self.stream)),
            "errors": lambda: [self.refused(*each) for each in ((1.5, self.stream), ("a", self.stream), (0.5, 2**200))],
        }
        self.write = os.write

    def refused(self, p, rng):
        try:
            cd.dropout(self.x, p, rng=rng)
        except (TypeError, ValueError) as error:
            return str(error)
        raise AssertionError(p)

    def run(self):
        for name, call in self.calls.items():
            try:
                call()
            except BaseException as error:
                self.write(1, f"{name}: {type(error).__name__}: {error}\\n".encode())
        self.write(1, b"end\\n")

    def __del__(self):
        self.run()

warnings.simplefilter("ignore")
kept = AtTheEnd()
kept.run()
def run_forever(kept=kept):
    while True:
        kept.run()
if sys.argv[1] == "cycle":
    kept.self = kept
elif sys.argv[1] == "thread":
    local = threading.local()
    local.kept = kept
elif sys.argv[1] == "atexit":
    atexit.register(kept.run)
elif sys.argv[1] == "daemon":
    threading.Thread(target=run_forever, daemon=True).start()
    time.sleep(0.1)
if sys.argv[1] != "global":
    del run_forever
"""


@pytest.mark.parametrize("where", ["global", "cycle", "thread", "atexit", "daemon"])
def test_calls_that_have_been_made_can_be_made_while_the_interpreter_ends(run_python, where):
    result = run_python("-c", CALLS_AT_THE_END, where)
    lines = result.stdout.decode().splitlines()
    assert set(lines) == {"end"}
    if where != "daemon":  # that thread ends with the process, wherever it is
        assert len(lines) == (3 if where == "atexit" else 2)
    assert b"Exception ignored" not in result.stderr


def test_threads_that_draw_first_at_the_same_time_share_one_default_stream(run_python):
    code = """
import sys, threading
sys.setswitchinterval(1e-6)
import cdropout as cd
n_threads = 16
barrier, masks = threading.Barrier(n_threads), []
def draw():
    barrier.wait()
    masks.append(cd.draw_mask(5, 0.5))
threads = [threading.Thread(target=draw) for _ in range(n_threads)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(masks), len({mask.key for mask in masks}), len({mask.start for mask in masks}))
"""
    assert run_python("-c", code).stdout.split() == [b"16", b"1", b"16"]


FORKING = """
import ctypes, os, signal, threading
import numpy as np
import cdropout as cd
fork = os.fork
def key():
    return f"{cd.draw_mask(5, 0.5).key:032x}"
def key_of_child():
    read_end, write_end = os.pipe()
    child = fork()
    if child == 0:
        signal.alarm(5)  # the default action also ends a wait for a lock
        os.write(write_end, key().encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        found = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return found
"""


@pytest.mark.promise("worker-masks")
@fork
@pytest.mark.parametrize("whose", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_children_forked_before_the_first_draw_have_keys_of_their_own(run_python, whose):
    code = f"fork = {whose}\nprint(key_of_child(), key_of_child(), key(), key_of_child())"
    keys = run_python("-c", FORKING + code).stdout.split()
    assert [len(key) for key in keys] == [32] * 4
    assert len(set(keys)) == 4


@fork
@writes_what_is_shared
def test_a_fork_waits_for_the_thread_that_makes_the_default_stream(run_python, tmp_path):
    # The thread may be importing numpy.random; a child would wait for ever for the half-imported module.
    (tmp_path / "slow.py").write_text("import time\nis_importing.set()\ntime.sleep(0.5)\n")
    code = """
import builtins
builtins.is_importing = threading.Event()
seed_sequence = np.random.SeedSequence
def after_import(*arguments, **keywords):
    import slow
    return seed_sequence(*arguments, **keywords)
np.random.SeedSequence = after_import
thread = threading.Thread(target=key)
thread.start()
is_importing.wait()
child = key_of_child()
thread.join()
print(child, key())
"""
    keys = run_python("-W", "ignore::DeprecationWarning", "-c", FORKING + code).stdout.split()
    assert [len(key) for key in keys] == [32] * 2
    assert len(set(keys)) == 2


@pytest.mark.promise("fork")
@fork
def test_a_child_that_python_does_not_know_of_waits_for_no_thread_of_its_parents(run_python):
    code = """
is_held, is_over = threading.Event(), threading.Event()
seed_sequence, streams, layer = np.random.SeedSequence, cd.Stream(1), cd.Dropout()
def wait(*arguments, **keywords):
    is_held.set()
    is_over.wait()
    return seed_sequence(*arguments, **keywords)
def hold():
    with cd.dropout_on([layer]):
        key()  # seeds the default stream
np.random.SeedSequence = wait
thread = threading.Thread(target=hold, daemon=True)  # so that a failure does not wait for it
thread.start()
is_held.wait()
np.random.SeedSequence = seed_sequence
def key():
    with cd.dropout_on([layer]):
        return f"{cd.draw_mask(5, 0.5).key:032x} {streams.spawn(1)[0].key:032x}"
fork = ctypes.PyDLL(None).fork
print(key_of_child(), key_of_child())
is_over.set()
thread.join()
print(key())
"""
    found = run_python("-c", FORKING + code).stdout.decode().split()
    assert len(set(found[::2])) == 3
    assert found[1::2] == [f"{cd.Stream(1).spawn(1)[0].key:032x}"] * 3
