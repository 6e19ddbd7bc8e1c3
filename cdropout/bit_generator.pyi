from typing import Any, Self, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

class _Place(TypedDict):
    key: int
    position: int

class _State(TypedDict):
    bit_generator: str
    state: _Place
    has_uint32: int
    uinteger: int

_Seed: TypeAlias = (
    int
    | np.integer[Any]
    | npt.NDArray[np.integer[Any]]
    | list[int]
    | np.random.SeedSequence
    | np.random.BitGenerator
    | np.random.Generator
)

class StreamBitGenerator(np.random.BitGenerator):
    def __init__(self, seed: _Seed | None = None) -> None: ...
    @property  # type: ignore[override]
    def state(self) -> _State: ...
    @state.setter
    def state(self, value: _State) -> None: ...
    def advance(self, delta: int) -> Self: ...
    def jumped(self, jumps: int = 1) -> Self: ...
