"""
tests/fixtures.py: what several tests look at and none changes. A file of tests asks for it by

    pytest_plugins = "tests.fixtures"
"""
import pytest

from data import load_dataset
from systems.runs import load_model
from tests.common import train
from toy.build import build_toy


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A small data set of the toy world."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    build_toy(folder, "nano", n=48)
    return load_dataset(folder)


@pytest.fixture(scope="session")
def trained(toy, tmp_path_factory):
    """A run of 20 steps with AIA in its second half, and a small exam."""
    out = tmp_path_factory.mktemp("run") / "aia"
    assert train(toy, out, "--aia", .5, "--exam", 2) is None
    return out


@pytest.fixture(scope="session")
def network(trained):
    model, _ = load_model(trained)
    return model
