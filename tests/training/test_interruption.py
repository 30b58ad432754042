"""Signals to end wait for the end of a step."""

import signal
import threading

import pytest

from sae_lens_ext.training.interruption import Interruption


@pytest.fixture(autouse=True)
def _python_handles_sigint():
    """Also where these tests run in the background, which a shell makes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_signal_waits_and_the_second_does_not():
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        assert interruption.signal is None
        signal.raise_signal(signal.SIGINT)
        assert interruption.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        interruption.deliver()


def test_nothing_is_delivered_where_nothing_came():
    with Interruption() as interruption:
        pass
    interruption.deliver()


def test_a_handler_that_only_takes_a_note_ends_the_run_too():
    notes = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: notes.append(number))
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
        assert notes == []
        with pytest.raises(KeyboardInterrupt):
            interruption.deliver()
        assert notes == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
            assert interruption.signal is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone():
    handlers = []

    def enter():
        with Interruption():
            handlers.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [before]
