"""Tests of the helper `refused_allocation`: the refusal meets the code under test alone."""

import gc
import sys
import threading
import time

import pytest
from conftest import switches_settings
from refused_allocations import needs_testcapi, refused_allocation


def allocate() -> list[list[int]]:
    return [[i] for i in range(300)]


@switches_settings
@needs_testcapi
@pytest.mark.filterwarnings("error")
def test_neither_garbage_collection_nor_another_thread_meets_the_refusal():
    refused, stop = [], threading.Event()

    def on_collection(phase, info):
        try:
            bytearray(1000)
        except MemoryError as error:
            refused.append(error)

    def allocate_always():
        while not stop.is_set():
            on_collection("", {})
            time.sleep(0)  # gives the GIL back

    thread = threading.Thread(target=allocate_always)
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(on_collection)
    gc.set_threshold(1)
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for number in range(1, 301):
            with refused_allocation(number) as error:
                allocate()
            assert error
    finally:
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)
        gc.callbacks.remove(on_collection)
        stop.set()
        thread.join()
    assert gc.isenabled()
    assert not refused


@needs_testcapi
@switches_settings
def test_a_refusal_that_is_not_met_puts_nothing_into_the_list():
    gc.disable()
    try:
        with refused_allocation(100_000) as error:
            allocate()
        assert not error
        assert not gc.isenabled()
    finally:
        gc.enable()
