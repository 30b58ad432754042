"""Tests of a file share a worker, so what they share is made once."""

import pytest


def test_a_worker_is_given_whole_files(request):
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("not a worker of --dist=loadgroup")
    # What xdist groups by. With a pytest that it does not know it may say nothing, and
    # give the tests of a file to several workers.
    assert request.node.nodeid.endswith(f"@{request.path}")
