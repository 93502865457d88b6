"""In which order LiteRT's planner meets tensors that it has no reason to prefer: as the C++ library of its wheels does.

The planner keeps the tensors of each op in a `std::unordered_set` and sorts them by a rule that leaves equals in any
order. Where two outputs of one op are of one size, that order decides where they lie, and now and then how large the
arena is. Both containers are followed here as libstdc++ has them, which the wheels are built with.

Source: GCC, libstdc++-v3/include/bits/hashtable.h (_M_insert_bucket_begin, rehashing), src/c++11/hashtable_c++0x.cc
(the prime numbers), bits/stl_algo.h (introsort: __introsort_loop, __unguarded_partition, __final_insertion_sort).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

_THRESHOLD = 16
_MOST = 1024
"""An op with more tensors than this is no model's: their order is left as it is."""

_BUCKETS = (13, 29, 59, 127, 257, 541, 1109, 2357, 5087, 10273, 20753, 42043, 85229, 172933)


def set_order(numbers: Iterable[int]) -> list[int]:
    """Numbers as an `unordered_set<int>` lists them after they were inserted in this order."""
    numbers = list(dict.fromkeys(numbers))
    if len(numbers) > _MOST:
        return numbers
    order: list[int] = []
    buckets = 1
    for size, number in enumerate(numbers, 1):
        if size > buckets or buckets == 1:
            buckets = next((n for n in _BUCKETS if n >= max(size, 2 * buckets if buckets > 1 else 1)), 2 * size + 1)
            # Rehashing walks the list and inserts each node again.
            again: list[int] = []
            for known in order:
                _insert(again, known, buckets)
            order = again
        _insert(order, number, buckets)
    return order


def _insert(order: list[int], number: int, buckets: int) -> None:
    """At the head of its bucket; a bucket that was empty becomes the first."""
    mine = number % buckets
    at = next((i for i, other in enumerate(order) if other % buckets == mine), 0)
    order.insert(at, number)


def introsort(items: list[T], less: Callable[[T, T], bool]) -> None:
    """Sort in place as `std::sort` does, equals where it leaves them."""
    if not items:
        return
    _loop(items, 0, len(items), 2 * (len(items).bit_length() - 1), less)
    if len(items) > _THRESHOLD:
        _insertion(items, 0, _THRESHOLD, less)
        for i in range(_THRESHOLD, len(items)):
            _unguarded(items, i, less)
    else:
        _insertion(items, 0, len(items), less)


def _loop(items: list[T], first: int, last: int, depth: int, less: Callable[[T, T], bool]) -> None:
    while last - first > _THRESHOLD:
        if depth == 0:  # the library sorts the rest as a heap; no order of real models leads here
            items[first:last] = _stable(items[first:last], less)
            return
        depth -= 1
        cut = _partition(items, first, last, less)
        _loop(items, cut, last, depth, less)
        last = cut


def _partition(items: list[T], first: int, last: int, less: Callable[[T, T], bool]) -> int:
    a, b, c = first + 1, first + (last - first) // 2, last - 1
    if less(items[a], items[b]):
        middle = b if less(items[b], items[c]) else c if less(items[a], items[c]) else a
    else:
        middle = a if less(items[a], items[c]) else c if less(items[b], items[c]) else b
    items[first], items[middle] = items[middle], items[first]
    low, high, pivot = first + 1, last, items[first]
    while True:
        while less(items[low], pivot):
            low += 1
        high -= 1
        while less(pivot, items[high]):
            high -= 1
        if low >= high:
            return low
        items[low], items[high] = items[high], items[low]
        low += 1


def _insertion(items: list[T], first: int, last: int, less: Callable[[T, T], bool]) -> None:
    for i in range(first + 1, last):
        if less(items[i], items[first]):
            items.insert(first, items.pop(i))
        else:
            _unguarded(items, i, less)


def _unguarded(items: list[T], at: int, less: Callable[[T, T], bool]) -> None:
    value = items[at]
    while less(value, items[at - 1]):
        items[at] = items[at - 1]
        at -= 1
    items[at] = value


def _stable(items: list[T], less: Callable[[T, T], bool]) -> list[T]:
    done: list[T] = []
    for item in items:
        at = len(done)
        while at and less(item, done[at - 1]):
            at -= 1
        done.insert(at, item)
    return done
