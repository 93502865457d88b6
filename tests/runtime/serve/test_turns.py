"""Turns of the loop: short, fair, and who is new comes first."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading

import pytest

from edgekit.serve.turns import _MOST, _NEW, Selector, loop


@pytest.fixture
def crowd():
    """A selector and a function that makes so many pairs of sockets, of which one end is registered and ready."""
    with contextlib.ExitStack() as stack, contextlib.closing(Selector()) as selector:

        def make(count, *, ready=True):
            found = []
            for _ in range(count):
                ends = socket.socketpair()
                for end in ends:
                    stack.enter_context(end)
                    end.setblocking(False)
                selector.register(ends[0].fileno(), selectors.EVENT_READ, ends)
                if ready:
                    ends[1].send(b"x")
                found.append(ends[0].fileno())
            return found

        yield selector, make


def turn(selector):
    return [key.fd for key, _ in selector.select(0)]


def test_a_turn_is_short_and_nobody_is_passed_over(crowd):
    selector, make = crowd
    many = make(200)
    for _ in range(100):  # all are known then
        assert len(turn(selector)) <= _MOST + _NEW
    seen = [turn(selector) for _ in range(-(-200 // (_MOST - 1)) + 1)]
    assert {fd for fds in seen for fd in fds} == set(many)


def test_the_new_come_first_and_only_once(crowd):
    selector, make = crowd
    make(200)
    for _ in range(100):
        turn(selector)
    (new,) = make(1)
    assert new in turn(selector)
    rounds = [turn(selector) for _ in range(30)]
    assert 1 <= sum(new in fds for fds in rounds) <= 4  # in line with all others from now on


def test_listeners_are_always_new(crowd):
    selector, make = crowd
    make(200)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        selector.register(listener.fileno(), selectors.EVENT_READ)
        with socket.create_connection(listener.getsockname()):
            for _ in range(100):
                turn(selector)
            assert all(listener.fileno() in turn(selector) for _ in range(20))
        selector.unregister(listener.fileno())
        assert listener.fileno() not in turn(selector)


@pytest.mark.parametrize("known", [False, True])
def test_what_is_changed_or_gone(crowd, known):
    selector, make = crowd
    one, other, third = make(3)
    if known:
        turn(selector)
    data = selector.get_key(one).data
    selector.modify(one, selectors.EVENT_READ | selectors.EVENT_WRITE, data)
    (events,) = [events for key, events in selector.select(0) if key.fd == one]
    assert events == selectors.EVENT_READ | selectors.EVENT_WRITE
    selector.modify(one, selectors.EVENT_WRITE, data)
    assert [events for key, events in selector.select(0) if key.fd == one] == [selectors.EVENT_WRITE]
    selector.unregister(other)
    selector.get_key(third).data[0].close()  # before it is unregistered: the kernel forgets it by itself
    selector.unregister(third)
    assert turn(selector) == [one]
    with pytest.raises(KeyError):
        selector.modify(other, selectors.EVENT_READ)
    (again,) = make(1)
    assert again in turn(selector)


def test_a_loop_of_it_waits_and_is_woken():
    made = loop()
    try:
        woken = made.create_future()
        timer = threading.Timer(0.01, lambda: made.call_soon_threadsafe(woken.set_result, 7))
        timer.start()
        assert made.run_until_complete(woken) == 7
        timer.join()
    finally:
        made.close()
