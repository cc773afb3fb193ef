"""What `scse doctor` finds: versions, devices, threads, and how to install what is missing."""

import os

import pytest
import torch

import scse
from scse.cli import doctor
from scse.inference.devices import choose_device, describe_device


def rows() -> dict[str, doctor.Row]:
    return {row.what: row for row in doctor.diagnose()}


def test_versions_devices_and_threads_are_told():
    found = rows()
    assert found["scse"].found == scse.__version__
    assert found["torch"].found == torch.__version__.partition("+")[0] or found["torch"].found == torch.__version__
    assert set(doctor.REQUIRED) <= set(found)
    assert f"cpu: {describe_device(torch.device('cpu'))}" in found["devices"].found
    assert found["device taken"].found == f"{choose_device()} (--device auto)"
    assert found["threads"].found == f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    assert found["training precision"].found.partition(" ")[0] in {"bfloat16", "float32"}
    assert all(row.found for row in found.values())


def test_prepared_arrays_lie_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SCSE_CACHE", str(tmp_path))
    assert rows()["prepared arrays"].found == str(tmp_path)


@pytest.mark.parametrize("package", doctor.OPTIONAL)
def test_a_missing_optional_package_shows_how_to_install_it(monkeypatch, package):
    find = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == package else find(name))
    assert rows()[package] == doctor.Row(package, "not installed", f"pip install 'scse[{doctor.OPTIONAL[package]}]'")


def test_an_optional_package_that_is_there_needs_nothing(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "version", lambda name: "1.2.3")
    assert rows()["onnx"] == doctor.Row("onnx", "1.2.3")


def test_a_package_under_another_distribution_is_still_found(monkeypatch):
    version = doctor.version

    def unknown(name: str) -> str:
        if name in doctor.OPTIONAL:
            raise doctor.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "version", unknown)
    assert rows()["onnxruntime"] == doctor.Row("onnxruntime", "installed, version unknown")


def test_the_backends_of_keras_and_the_one_it_takes_are_told(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "installed_backends", lambda: ["torch"])
    found = rows()
    assert found["keras can run on"] == doctor.Row("keras can run on", f"torch {doctor.version('torch')}")
    assert found["keras runs on"] == doctor.Row("keras runs on", "torch ($KERAS_BACKEND)")


@pytest.mark.parametrize(
    ("backend", "installed", "remedy"),
    [
        ("jax", ["tensorflow", "torch"], "not installed; pip install jax, or set KERAS_BACKEND to tensorflow or torch"),
        ("numpy", ["jax"], "set KERAS_BACKEND to jax"),
    ],
)
def test_a_backend_that_keras_cannot_take_has_a_remedy(monkeypatch, backend, installed, remedy):
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "installed_backends", lambda: installed)
    monkeypatch.setattr(doctor, "packages_distributions", lambda: {name: ["torch"] for name in installed})
    assert rows()["keras runs on"] == doctor.Row("keras runs on", f"{backend} ($KERAS_BACKEND)", remedy)


def test_without_keras_no_backend_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert not {"keras can run on", "keras runs on"} & rows().keys()
