"""The cluster files of docs/scale.md are what Ray and KubeRay read. No cluster is started with them."""

from __future__ import annotations

import re
import shlex
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from unisep_ray.command import parser

PAGE = Path(__file__).parents[3] / "docs" / "scale.md"
CLUSTER, RAY_JOB = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL))


def read(config: dict[str, Any]) -> dict[str, Any]:
    """Return a file of `ray up` as Ray fills it in, held to its schema."""
    filled: dict[str, Any] = prepare_config(deepcopy(config))
    validate_config(filled)
    return filled


def test_ray_up_takes_the_cluster_file() -> None:
    filled = read(CLUSTER)
    (node,) = filled["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(CLUSTER["provider"]["worker_ips"])
    assert (
        "--autoscaling-config=~/ray_bootstrap_config.yaml" in filled["head_start_ray_commands"][-1]
    )  # starts the others
    assert filled["worker_setup_commands"] == CLUSTER["setup_commands"]


@pytest.mark.parametrize("wrong", [{"max_worker": 2}, {"auth": {"user": "ubuntu"}}, {"max_workers": -1}])
def test_ray_up_refuses_what_it_does_not_know(wrong: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="Failed validating"):
        read({**CLUSTER, **wrong})


def test_kuberay_finds_in_the_manifest_what_the_command_asks_for() -> None:
    assert (RAY_JOB["apiVersion"], RAY_JOB["kind"]) == ("ray.io/v1", "RayJob") and RAY_JOB["metadata"]["name"]
    program, command, *words = shlex.split(RAY_JOB["spec"]["entrypoint"])
    asked = parser().parse_args(words)
    assert (program, command, asked.ray, asked.resume) == ("unisep", "catalogue", "auto", True)
    cluster = RAY_JOB["spec"]["rayClusterSpec"]
    derived = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "stems", "namespace": "default"}, "spec": cluster}
    )  # raises where a group lacks what it must have
    head, workers = (derived["available_node_types"][name] for name in ("headgroup", "gpu"))
    assert cluster["enableInTreeAutoscaling"] and head["resources"]["CPU"] == 0  # nothing is separated there
    assert workers["max_workers"] == asked.max_workers
    assert workers["resources"]["GPU"] == asked.num_gpus_per_worker and workers["resources"]["CPU"] >= 1
