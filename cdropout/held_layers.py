"""Layers that an object holds in its attributes, found without running its code."""

from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from types import MemberDescriptorType, ModuleType, NoneType
from typing import Any

import numpy as np

from cdropout.layers.base import Layer
from cdropout.mask import Mask
from cdropout.stream import Stream

# The items of a longer container are data rather than layers, and a model has fewer objects with layers.
MOST_ITEMS, MOST_OBJECTS = 1000, 10_000


def holds_layers(step: Any, known: set[int], is_meant: Callable[[Any], bool]) -> bool:
    """Return whether an object holds layers other than the known ones, of those that are meant.

    The search follows the object's attributes, and lists, tuples, dicts and objects with a `forward` among them. It
    runs no code of their classes, such as properties. A network with a mode, to which one of its layers refers, holds
    that layer, and is not searched.
    """
    objects, holds, held_by = [step], {}, {id(step): set[int]()}
    for value in objects:
        if len(objects) > MOST_OBJECTS:
            break
        holds[id(value)] = inner = [each for each in _parts_of(value) if _may_hold_layers(each)]
        for each in inner:
            if id(each) not in held_by:
                objects.append(each)
            held_by.setdefault(id(each), set()).add(id(value))
    if len(objects) == 1:
        return False
    holders, left = set[int](), [id(step)]
    while left:
        new = held_by[left.pop()] - holders
        holders |= new
        left += new
    seen, objects = {id(step)}, [step]
    for value in objects:
        for each in holds.get(id(value), ()):
            is_network = id(each) in holders and has_mode(each) and not _is_a(each, Layer)
            if id(each) in seen or is_network:
                continue
            if id(each) not in known and is_meant(each):
                return True
            seen.add(id(each))
            objects.append(each)
    return False


def _parts_of(value: Any) -> list[Any]:
    """Return the items of a list, tuple or dict, or the values of an object's attributes, without those computed."""
    if _is_a(value, (list, tuple, dict)):
        return list(islice(value.values() if _is_a(value, dict) else value, MOST_ITEMS))
    parts = list(_attributes_of(value).values())[:MOST_ITEMS]
    for each in type(value).__mro__:
        members = vars(each)
        for slot in members.values() if "__slots__" in members else ():
            if isinstance(slot, MemberDescriptorType):
                with suppress(AttributeError):  # not set
                    parts.append(slot.__get__(value))
    return parts


def _is_a(value: Any, types: Any) -> bool:
    """Return what isinstance does, without the `__class__` of the object, which a proxy computes."""
    return issubclass(type(value), types)


# Usual types of attributes that hold no layers, so that they are told apart fast.
_PLAIN_TYPES = frozenset((NoneType, bool, int, float, str, np.ndarray, np.dtype, Stream, Mask))


def _may_hold_layers(value: Any) -> bool:
    if type(value) in _PLAIN_TYPES:
        return False
    return _is_a(value, (list, tuple, dict)) or has(value, "forward")


def has(value: Any, name: str) -> bool:
    """Return whether an object has an attribute, without running code of its class; False for classes and modules."""
    if _is_a(value, (type, ModuleType)):
        return False
    return hasattr(type(value), name) or name in _attributes_of(value)


def _attributes_of(value: Any) -> dict[str, Any]:
    """Return the attributes that an object has beside those of its class; not those of a proxy's object."""
    try:
        return object.__getattribute__(value, "__dict__")  # type: ignore[no-any-return]
    except AttributeError:
        return {}


def has_mode(value: Any) -> bool:
    """Return whether an object is a layer with a mode, of this library or another one."""
    return has(value, "forward") and has(value, "training")


def is_dropout(value: Any) -> bool:
    """Return whether an object is a layer of this library, or one of another library that is called a dropout."""
    return _is_a(value, Layer) or (has(value, "training") and "drop" in type(value).__name__.lower())
