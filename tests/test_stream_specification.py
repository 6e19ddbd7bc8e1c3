"""The stream follows its specification in docs/design.md: published answers, committed vectors, exact probabilities."""

import hashlib
import itertools
import json
import runpy
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import reference
from conftest import needs_core_probe
from core_probe import philox, thresholds

import cdropout as cd
from cdropout import _kernels

VECTORS = Path(__file__).parent / "vectors"
KNOWN = json.loads((VECTORS / "known_answers.json").read_text())
TIES = json.loads((VECTORS / "ties.json").read_text())

# The three lines for philox4x32 with 10 rounds in tests/kat_vectors of Random123 (Salmon et al., SC 2011;
# https://github.com/DEShawResearch/random123): zeros, ones, and the digits of pi.
PHILOX_KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.promise("published-generators")
@needs_core_probe
@pytest.mark.parametrize(("counter", "key", "expected"), PHILOX_KNOWN)
def test_philox_gives_the_published_answers(counter, key, expected):
    assert philox(counter, key) == expected
    assert reference.philox4x32_10(counter, key) == expected


def test_every_isas_seeding_gives_the_published_answer(isa):
    # The line of zeros is lane 0 of block 0 of the stream with key 0: its first output follows from those four words.
    w0, w1, w2, w3 = PHILOX_KNOWN[0][2]
    s0, s1 = w0 | w1 << 32, w2 | w3 << 32
    total = (s0 + s1) % 2**64
    first = ((total << 17 | total >> 47) + s0) % 2**64
    assert first == int.from_bytes(_kernels.raw_blocks(0, 0, 1)[:8].tobytes(), "little")


# Outputs of the reference implementation by Blackman & Vigna (https://prng.di.unimi.it/xoroshiro128plusplus.c) from the
# state (1, 2), as quoted by the tests of Rust's rand_xoshiro.
XOROSHIRO_KNOWN = [
    *(393217, 669327710093319, 1732421326133921491, 11394790081659126983, 9555452776773192676, 3586421180005889563),
    *(1691397964866707553, 10735626796753111697, 15216282715349408991, 14247243556711267923),
]


def test_the_model_of_xoroshiro128_plus_plus_gives_the_published_answers(monkeypatch):
    state = np.array([[1] * reference.LANES, [2] * reference.LANES], np.uint64)
    monkeypatch.setattr(reference, "lane_states", lambda key, block: state)
    outputs = reference.block_outputs(0, 0)
    for lane in range(reference.LANES):
        assert outputs[: len(XOROSHIRO_KNOWN), lane].tolist() == XOROSHIRO_KNOWN


@pytest.mark.promise("published-generators")
def test_every_lane_of_every_isa_gives_the_published_answers(isa):
    # Philox backwards from the state (1, 2) gives, for one in 256 64-bit keys, the rest of a stream's key and the block
    # in which one of the lanes starts from this state.
    backwards = runpy.run_path(str(VECTORS / "make_ties.py"))["philox_backwards"]
    low = np.arange(1 << 17, dtype=np.uint64)
    state = tuple(np.full_like(low, word) for word in (1, 0, 2, 0))
    counters = backwards(state, low)
    lanes_seen = set()
    for index in np.flatnonzero(counters[1] >> np.uint64(20) < reference.LANES):
        c0, c1, c2, c3 = (int(words[index]) for words in counters)
        lane, block = c1 >> 20, c0 | (c1 & 0xFFFFF) << 32
        if lane not in lanes_seen:
            lanes_seen.add(lane)
            raw = _kernels.raw_blocks(int(low[index]) | c2 << 64 | c3 << 96, block, 1)
            outputs = raw.view("<u8").reshape(reference.GROUPS_PER_BLOCK, reference.LANES)
            assert outputs[: len(XOROSHIRO_KNOWN), lane].tolist() == XOROSHIRO_KNOWN
    assert lanes_seen == set(range(reference.LANES))


# The first three answers that NumPy's tests of SeedSequence quote from O'Neill's C++ reference
# (https://gist.github.com/imneme/540829265469e673d045): four words of entropy, four of state.
SEED_SEQUENCE_KNOWN = [
    ([3735928559, 195939070, 229505742, 305419896], [3914649087, 576849849, 3593928901, 2229911004]),
    ([3668361503, 4165561550, 1661411377, 3634257570], [2240804226, 3691353228, 1365957195, 2654016646]),
    ([164546577, 4166754639, 1765190214, 1303880213], [3562296087, 3191708229, 1147942216, 3726991905]),
]


@pytest.mark.promise("published-generators")
@pytest.mark.parametrize(("entropy", "words"), SEED_SEQUENCE_KNOWN)
def test_the_seed_becomes_the_key_by_the_published_hash(entropy, words):
    key = sum(word << 32 * i for i, word in enumerate(words))
    assert cd.Stream(np.random.SeedSequence(entropy)).key == key
    assert cd.Stream(sum(word << 32 * i for i, word in enumerate(entropy))).key == key


def test_the_seed_becomes_the_key_through_seed_sequence():
    for seed in (0, 1, 2**128 - 1):
        assert cd.Stream(seed).key == reference.key_of_seed(seed)
    # The key for seed 0, so that a change in the hash itself cannot pass.
    assert cd.Stream(0).key == int(KNOWN["raw"][0]["key"], 16)


@pytest.mark.parametrize(
    ("identifier", "named", "low"),
    [
        (0, b"i0", 0xF5ABF73407EF63D4),
        (17, b"i11", 0xFDEFD6D89F1A07A8),
        ("request-17", b"srequest-17", 0x52E95CBB76E0AD1C),
        (b"\0", b"b\0", 0x751BF99E664019E9),
    ],
)
def test_an_identifier_becomes_a_key_through_sha_256(identifier, named, low):
    digest = hashlib.sha256(named).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    seeds = np.random.SeedSequence(42, spawn_key=(2**32 - 1, *words))
    stream = cd.Stream(42).fold_in(identifier)
    assert stream.key == cd.Stream(seeds).key
    assert stream.key & 2**64 - 1 == low  # so that a change in either hash cannot pass


@pytest.mark.parametrize("case", KNOWN["raw"], ids=lambda c: f"seed{c['seed'][:6]}-block{c['first_block']}")
def test_the_raw_stream_is_the_committed_one(isa, case):
    stream = cd.Stream(np.random.SeedSequence(int(case["seed"])))  # one of the seeds has more than 128 bits
    raw = _kernels.raw_blocks(stream.key, case["first_block"], 2).tobytes()
    assert f"{stream.key:032x}" == case["key"]
    assert raw[:32].hex() == case["first_bytes"]
    assert hashlib.sha256(raw).hexdigest() == case["sha256_of_2_blocks"]


def test_every_committed_mask_is_drawn_again(isa):
    assert len(KNOWN["keep"]) == 144
    for case in KNOWN["keep"]:
        key = cd.Stream(np.random.SeedSequence(int(case["seed"]))).key
        kept = cd.Mask(key, case["start"], float.fromhex(case["p"]), case["n_elems"]).keep()
        digest = hashlib.sha256(np.packbits(kept, bitorder="little").tobytes()).hexdigest()
        assert (np.count_nonzero(~kept), digest) == (case["n_dropped"], case["sha256_of_packed_bits"]), case


def test_all_committed_normal_numbers_are_drawn_again(isa):
    assert len(KNOWN["normals"]) == 30
    for case in KNOWN["normals"]:
        key = cd.Stream(np.random.SeedSequence(int(case["seed"]))).key
        noise = cd.Noise(key, case["start"], 1.0, case["n_elems"])
        numbers = noise.add(np.zeros(case["n_elems"], np.float32))
        assert [float(number).hex() for number in numbers[:4]] == case["first"]
        assert hashlib.sha256(numbers.astype("<f4").tobytes()).hexdigest() == case["sha256_of_float32"], case


def test_the_committed_vectors_are_what_their_program_makes():
    made = runpy.run_path(str(VECTORS / "make_vectors.py"))["known_answers"](n_seeds=2)
    assert made["raw"] == KNOWN["raw"][: len(made["raw"])]
    assert made["keep"] == KNOWN["keep"][: len(made["keep"])]
    assert made["normals"] == KNOWN["normals"][: len(made["normals"])]
    assert (len(made["raw"]), len(made["keep"]), len(made["normals"])) == (6, 96, 12)


@pytest.mark.promise("exact-p")
@needs_core_probe
def test_the_probability_of_dropping_is_p_to_within_two_to_the_minus_48():
    # By arithmetic: of the 2^48 pairs of a 16-bit number and 32 further bits, those below the kernels' thresholds
    # drop. 10,000 random p, and p near 0 and 1.
    rng = np.random.default_rng(1)
    probabilities = [
        *rng.random(4000),
        *10.0 ** rng.uniform(-16, 0, 3000),
        *(1 - 10.0 ** rng.uniform(-15, 0, 3000)),
        *(0.0, 5e-324, 1e-12, 2.0**-48, 1 - 2.0**-53),
    ]
    for p in map(float, probabilities):
        threshold, tie_threshold = thresholds(p)
        assert (threshold, tie_threshold) == reference.thresholds(p)
        n_below = threshold + 2**15
        assert 0 <= n_below < 2**16
        assert 0 <= tie_threshold < 2**32
        error = Fraction(p) - Fraction(n_below * 2**32 + tie_threshold, 2**48)
        assert 0 <= error < Fraction(1, 2**48), p


@pytest.mark.parametrize("tie", TIES, ids=lambda t: f"{t['number']}-{t['further_bits']}")
def test_the_rarest_ties_fall_as_specified(isa, tie):
    # Single elements, each one in 2^48, at which neighbouring p give different decisions.
    key, position = int(tie["key"], 16), tie["position"]
    block, elem = divmod(position, reference.ELEMS_PER_BLOCK)
    assert reference.block_numbers(key, block)[elem] == tie["number"]
    assert reference.philox_of_tag(key, block, 1024 + elem // 4)[elem % 4] == tie["further_bits"]
    number, further_bits = tie["number"] + 2**15, tie["further_bits"]
    for p in (5e-324, 2.0**-49, 2.0**-48, 1e-12, 1e-6, 0.3, 0.5, 1 - 2.0**-48, 1 - 2.0**-53, 1.0):
        is_dropped = Fraction(number * 2**32 + further_bits, 2**48) < Fraction(int(Fraction(p) * 2**48), 2**48)
        for n_before in (0, 70):  # alone, and inside a group
            start = max(position - n_before, 0)
            kept = cd.Mask(key, start, p, min(position + 70, _kernels.POSITION_LIMIT) - start).keep()
            assert kept[position - start] != is_dropped, p


@needs_core_probe
def test_the_ties_are_the_ones_next_to_what_decides():
    decides = {p: thresholds(p) for p in (2.0**-48, 1e-12, 1e-6, 0.3, 1 - 2.0**-53)}
    places = {(tie["number"], tie["further_bits"]) for tie in TIES}
    for threshold, tie_threshold in decides.values():
        assert {(threshold, tie_threshold - 1), (threshold, tie_threshold)} <= places


def test_ties_with_the_threshold_are_decided_by_the_further_bits(isa):
    # p = 1.5 / 2^16: a number equal to the threshold (1 in 65,536) drops its element half the time, so masks at 1, 1.5
    # and 2 / 2^16 must nest strictly. 2^22 elements have 64 ties, and equal decisions for all have probability 2^-63.
    key, n = cd.Stream(3).key, 1 << 22
    below, between, above = (cd.Mask(key, 0, t / 2**16, n).keep() for t in (1, 1.5, 2))
    ties = below & ~above
    assert 20 < np.count_nonzero(ties) < 130
    assert 0 < np.count_nonzero(ties & ~between) < np.count_nonzero(ties)
    assert not np.any(~below & between)
    assert not np.any(~between & above)
    for elem in np.flatnonzero(ties):
        block = int(elem) // 4096
        expected = reference.block_keep(key, block, 1.5 / 2**16)[int(elem) % 4096]
        assert between[elem] == expected


def test_a_larger_p_drops_all_that_a_smaller_one_drops():
    key = cd.Stream(8).key
    kept = [cd.Mask(key, 0, p, 100_000).keep() for p in np.linspace(0, 1, 21)]
    for smaller, larger in itertools.pairwise(kept):
        assert np.all(smaller | ~larger)


@pytest.mark.parametrize("p", [0.0, 5e-324, 1e-17, 2.0**-49])
def test_a_p_below_two_to_the_minus_48_never_drops(isa, p):
    assert cd.draw_mask(1 << 20, p, rng=1).keep().all()


def test_the_largest_p_below_one_is_its_own(isa):
    # P(keep) = 2^-48: a million elements keep none with probability 1 - 4e-9.
    p = 1 - 2.0**-53
    x = np.ones(1 << 20, np.float32)
    assert not cd.draw_mask(1 << 20, p, rng=1).apply(x).any()
    # A kept element, one in 2^48, is multiplied by 2^53, which float16 cannot represent.
    (kept,) = (tie for tie in TIES if (tie["number"], tie["further_bits"]) == (2**15 - 1, 2**32 - 1))
    mask = cd.Mask(int(kept["key"], 16), kept["position"], p, 1)
    for dtype in (np.float32, np.float64, ml_dtypes.bfloat16):
        assert mask.apply(np.ones(1, dtype)) == 2.0**53
    with np.errstate(over="ignore"):
        assert mask.apply(np.ones(1, np.float16)) == np.inf
