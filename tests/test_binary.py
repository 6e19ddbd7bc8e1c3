"""The files of the compiled extensions: instructions by processor, exported symbols, and hardening.

readelf and objdump read the installed package, whether it is from a wheel or was built in place.
"""

import functools
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest
from test_processes import run_on_old_processor

from cdropout import _kernels

KERNELS = Path(_kernels.__file__)
EXTENSIONS = sorted(KERNELS.parent.rglob(f"*{KERNELS.suffix}"))

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF files, which are Linux's")
on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX is x86-64's")
every_extension = pytest.mark.parametrize("extension", EXTENSIONS, ids=lambda path: path.name.partition(".")[0])


def read(program, *arguments):
    """Return the output of a program of GNU's binutils."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    return subprocess.run(
        [program, *map(str, arguments)], check=True, timeout=120, capture_output=True, text=True
    ).stdout


# ---- instructions ---------------------------------------------------------------------------------------------------


class Function(NamedTuple):
    """A function of the symbol table: its C file, its name and its addresses."""

    file: str
    name: str
    begin: int
    end: int

    @property
    def isa(self):
        """The instruction set beyond the baseline that the function may use, None for none."""
        file = self.file.removesuffix(".c")
        return file if file in ("avx2", "avx512") and not self.name.startswith("is_supported") else None


class Instruction(NamedTuple):
    """An instruction and its function, None for linkage between modules."""

    address: int
    text: str
    function: Function | None

    def __str__(self):
        where = f"{self.function.file}: {self.function.name}" if self.function else "no function"
        return f"{self.address:x} {self.text} ({where})"


def functions_of(extension):
    """Return every function, in order of addresses."""
    found, file = [], ""
    for line in read("readelf", "--symbols", "--wide", extension).partition("'.symtab'")[2].splitlines():
        words = line.split()
        if len(words) < 7 or not words[0].endswith(":"):
            continue
        if words[3] == "FILE":
            file = words[7] if len(words) > 7 else ""
        elif words[3] == "FUNC" and words[6] != "UND":
            begin = int(words[1], 16)
            found.append(Function(file, words[7], begin, begin + int(words[2], 0)))
    if not found:
        pytest.skip(f"{extension.name} was stripped of its symbols")
    return sorted(found, key=lambda function: function.begin)


@functools.cache
def instructions_of(extension):
    """Return every instruction, in order of addresses."""
    functions = iter(functions_of(extension))
    function = next(functions, None)
    found = []
    for line in read("objdump", "--disassemble", "--no-show-raw-insn", extension).splitlines():
        address, colon, text = line.partition(":\t")
        if not colon:
            continue
        at = int(address, 16)
        while function is not None and at >= function.end:
            function = next(functions, None)
        is_inside = function is not None and function.begin <= at
        found.append(Instruction(at, " ".join(text.split("#")[0].split()), function if is_inside else None))
    return found


PREFIXES = re.compile(r"(?:(?:lock|rep\w*|bnd|notrack|data16|cs|ds|[er]s|[fg]s|rex\.?\w*) )*")
# Names of AVX, AVX2, FMA, F16C and AVX-512 instructions begin with v, names of those on mask registers with k.
BEYOND_SSE = re.compile(r"v(?!err|erw|m)\w+|k(?:mov|or|and|not|xor|xnor|add|shift|test|unpck)\w*|.*%[yz]mm|.*%k[0-7]\b")
# SSE3 to SSE4.2, and the instructions on general registers that are newer than x86-64. Not tzcnt: its bytes are those
# of bsf after a prefix that older processors ignore, which is how gcc writes __builtin_ctz, undefined for 0.
BEYOND_SSE2 = re.compile(
    r"addsub[ps]|h(add|sub)p[sd]|lddqu|mov(d|sh|sl)dup|fisttp|pshufb|ph(add|sub)s?[wd]|pmaddubsw|pmulhrsw|psign[bwd]"
    r"|pabs[bwd]|palignr|mpsadbw|pmul(dq|ld)|dpp[sd]|p?blend\w+|p(min|max)(sb|sd|uw|ud)\b|round[ps][sd]|insertps"
    r"|pinsr[bdq]|extractps|pextr[bdq]|pmov[sz]x\w+|ptest|pcmpeqq|packusdw|movntdqa|pcmp[ei]str[im]|pcmpgtq|crc32\w*"
    r"|popcnt|lzcnt|movbe|aes\w+|pclmul\w+|sha\d\w+|gf2p8\w+|andn |bextr|bls(i|msk|r)|bzhi|mulx|pdep|pext"
    r"|rorx|s(ar|hl|hr)x|ad[co]x|rdrand|rdseed"
)
AVX512_ONLY = re.compile(r".*%zmm|.*%k[0-7]\b|.*%[xy]mm(1[6-9]|2\d|3[01])\b")


def bare(instruction):
    """Return an instruction without its prefixes."""
    return instruction.text[PREFIXES.match(instruction.text).end() :]


@pytest.mark.promise("any-x86-64")
@on_x86_64
@every_extension
def test_nothing_outside_dispatched_functions_needs_more_than_the_first_x86_64(extension):
    needed = {"avx2": 0, "avx512": 0}
    instructions = instructions_of(extension)
    assert len(instructions) > 1000
    for instruction in instructions:
        text = bare(instruction)
        isa = instruction.function.isa if instruction.function else None
        if isa is not None:
            needed[isa] += BEYOND_SSE.match(text) is not None
        elif BEYOND_SSE.match(text) or BEYOND_SSE2.match(text):
            pytest.fail(f"an older processor stops at {instruction}")
    if extension == KERNELS:
        # Control: the dispatched functions have many such instructions.
        assert min(needed.values()) > 10_000
    else:
        assert needed == {"avx2": 0, "avx512": 0}  # nothing is dispatched here


@on_x86_64
def test_no_function_for_avx2_needs_avx512():
    instructions = instructions_of(KERNELS)

    def count(isa):
        return sum(AVX512_ONLY.match(bare(i)) is not None for i in instructions if i.function and i.function.isa == isa)

    assert count("avx2") == 0
    assert count("avx512") > 10_000


# ---- registers that the operating system saves ----------------------------------------------------------------------

ASK_THE_PROCESSOR = """
import ctypes, mmap
# push rbx; mov eax, edi; xor ecx, ecx; cpuid; mov eax, ebx (or ecx); pop rbx; ret
page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("5389f831c90fa289d85bc3").ljust(16, b"\\0") + bytes.fromhex("5389f831c90fa289c85bc3"))
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
cpuid_ebx, cpuid_ecx = (ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint32)(address + at) for at in (0, 16))
has_avx2, system_saves = cpuid_ebx(7) >> 5 & 1, cpuid_ecx(1) >> 27 & 1
from cdropout import _kernels
print(has_avx2, system_saves, _kernels.active_isa())
"""


@pytest.mark.promise("any-x86-64")
@on_x86_64
@pytest.mark.parametrize(
    ("processor", "expected"), [("Haswell", "1 1 avx2"), ("Haswell,-xsave", "1 0 sse2"), ("Nehalem", "0 0 sse2")]
)
def test_avx_is_chosen_only_where_the_system_saves_its_registers(processor, expected):
    # By bit 27 of CPUID's leaf 1, OSXSAVE, the system announces that XGETBV returns the registers it saves.
    result = run_on_old_processor("-c", ASK_THE_PROCESSOR, processor=processor)
    assert result.stdout.decode().split() == expected.split(), result.stderr.decode()


@on_x86_64
def test_what_the_system_saves_is_read_by_the_compilers_own_check():
    # __builtin_cpu_supports of gcc's and clang's runtime has the instruction; a check of the processor alone would not.
    # A system with XGETBV that saves no AVX or ZMM registers cannot be emulated here, so it is not tested that the
    # runtime respects the result.
    assert [i for i in instructions_of(KERNELS) if i.text.startswith("xgetbv")]


# ---- linkage and hardening ------------------------------------------------------------------------------------------


@every_extension
def test_no_stack_is_executable_and_no_segment_is_writable_and_executable(extension):
    flags = {}
    for line in read("readelf", "--segments", "--wide", extension).splitlines():
        words = line.split()
        if len(words) >= 8 and words[1].startswith("0x"):
            flags.setdefault(words[0], []).append("".join(words[6:-1]))
    assert flags["GNU_STACK"] == ["RW"]
    assert "RE" in flags["LOAD"]
    assert not [kinds for kinds in flags["LOAD"] if "W" in kinds and "E" in kinds]


@every_extension
def test_tables_of_addresses_are_read_only_after_linking(extension):
    assert "GNU_RELRO" in read("readelf", "--segments", "--wide", extension)
    dynamic = read("readelf", "--dynamic", "--wide", extension)
    assert re.search(r"\(FLAGS\).*BIND_NOW|\(BIND_NOW\)|\(FLAGS_1\).*NOW", dynamic)
    assert "TEXTREL" not in dynamic


@every_extension
def test_it_needs_the_c_library_and_openmp_from_beside_itself_or_from_the_system(extension):
    dynamic = read("readelf", "--dynamic", "--wide", extension)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    assert needed
    system = r"lib(gomp|omp|iomp5)(-[0-9a-f]+)?\.so[.\d]*|lib(c|m|pthread|gcc_s)\.so\.\d+|libc\.musl-\w+\.so\.1|ld-.*"
    assert [name for name in needed if not re.fullmatch(system, name)] == []
    # Some builds of Python add their folder to the search path of all extensions that they compile.
    paths = set(re.findall(r"PATH\).*\[(.*)\]", dynamic)) - {sysconfig.get_config_var("LIBDIR")}
    assert [path for path in paths if not path.startswith("$ORIGIN/")] == []


def dynamic_symbols(extension):
    """Return (name, is defined in the extension) for each symbol of the dynamic linker."""
    symbols = []
    for line in read("readelf", "--dyn-syms", "--wide", extension).splitlines():
        words = line.split()
        if len(words) >= 8 and words[0].endswith(":") and words[4] in ("GLOBAL", "WEAK"):
            symbols.append((words[7].partition("@")[0], words[6] != "UND"))
    return symbols


@every_extension
def test_nothing_is_exported_but_the_modules_initialisation(extension):
    defined = {name for name, is_defined in dynamic_symbols(extension) if is_defined}
    assert defined - {"_init", "_fini"} == {f"PyInit_{extension.name.partition('.')[0]}"}


def needed_symbols(extension):
    """Return the symbols that the extension needs from other libraries."""
    return {name for name, is_defined in dynamic_symbols(extension) if not is_defined}


@every_extension
def test_arrays_on_the_stack_have_canaries(extension):
    assert "__stack_chk_fail" in needed_symbols(extension)


def test_lengths_are_checked():
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only GNU's C library has checking functions")
    assert [name for name in needed_symbols(KERNELS) if re.fullmatch(r"__\w+_chk", name)]
