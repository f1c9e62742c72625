"""The operator's configuration file: what may be in it, and what is said of mistakes."""

from pathlib import Path

import pytest

from igw_operator.operator_settings import BadConfiguration, load


def written(folder: Path, text: str) -> Path:
    path = folder / "operator.yaml"
    path.write_text(text)
    return path


def test_an_image_is_all_that_must_be_said(tmp_path: Path) -> None:
    """Everything else has a default that works."""
    settings = load(written(tmp_path, "picker: {image: 'x:1'}"))
    assert settings.options.image == "x:1"
    assert settings.gateway.controller_name == "gateway.envoyproxy.io/gatewayclass-controller"
    assert settings.operator.address == ("0.0.0.0", 8080)
    assert settings.operator.peering is None
    assert settings.gateway.picker_wait_seconds == 30


def test_what_is_kubernetes_own_is_passed_on(tmp_path: Path) -> None:
    """Resources, selectors and tolerations go into the Pods as they are written."""
    text = """
picker:
  image: x
  resources: {limits: {cpu: 2}}
  nodeSelector: {pool: system}
  tolerations: [{key: a, operator: Exists}]
  imagePullSecrets: [{name: registry}]
gateway: {patchPolicies: true}
operator: {listen: "[::1]:9000", peering: igw}
"""
    settings = load(written(tmp_path, text))
    assert settings.options.resources == {"limits": {"cpu": 2}}
    assert settings.options.node_selector == {"pool": "system"}
    assert settings.options.tolerations == ({"key": "a", "operator": "Exists"},)
    assert settings.options.image_pull_secrets == ({"name": "registry"},)
    assert settings.options.patch_policies
    assert settings.operator.address == ("::1", 9000)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "picker: is required"),
        ("picker: {}", "picker.image: is required"),
        ("picker: {image: x, imag: y}", "picker.imag: is not known"),
        ("picker: {image: x, imagePullSecrets: [registry]}", "picker.imagePullSecrets.0: "),
        ("picker: {image: x}\ngateway: {pickerWaitSeconds: -1}", "gateway.pickerWaitSeconds: "),
        ("picker: {image: x}\ngateway: {pickerWaitSeconds: .inf}", "gateway.pickerWaitSeconds: "),
        ("picker: {image: x}\noperators: {}", "operators: is not known"),
        ("picker: {image: x, logLevel: loud}", "picker.logLevel: "),
        ("picker: {image: x}\noperator: {listen: '8080'}", "operator.listen: must look like 0.0.0.0:8080"),
        ("picker: {image: x}\noperator: {listen: 'a:70000'}", "operator.listen: must look like 0.0.0.0:8080"),
        ("[1]", "must be a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_place(tmp_path: Path, text: str, told: str) -> None:
    """The file's name comes first."""
    path = written(tmp_path, text)
    with pytest.raises(BadConfiguration) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(BadConfiguration, match="No such file"):
        load(tmp_path / "none.yaml")
