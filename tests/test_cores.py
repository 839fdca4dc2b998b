"""The cores that a process may use: affinity and the quotas of control groups, of both versions."""

import os

import pytest

from benchmark.cores import usable_cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of eight cores; a function that puts files on it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_without_control_groups_affinity_counts(machine):
    assert usable_cores(machine()) == 8


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 8), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("x", 8)]
)
def test_version_two_gives_whole_cores_of_its_quota(machine, text, cores):
    root = machine(proc__self__cgroup="0::/job/step\n", sys__fs__cgroup__job__step__cpu_DOT_max=text + "\n")
    assert usable_cores(root) == cores


def test_the_tightest_of_a_group_and_those_above_it_counts(machine):
    root = machine(
        proc__self__cgroup="0::/job/step\n",
        sys__fs__cgroup__job__cpu_DOT_max="300000 100000\n",
        sys__fs__cgroup__job__step__cpu_DOT_max="max 100000\n",
    )
    assert usable_cores(root) == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("150000", 1), ("400000", 4)])
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_version_one_is_read_where_it_is_mounted(machine, quota, cores, mount):
    files = {
        f"sys__fs__cgroup__{mount}__a__cpu_DOT_cfs_quota_us": quota + "\n",
        f"sys__fs__cgroup__{mount}__a__cpu_DOT_cfs_period_us": "100000\n",
    }
    assert usable_cores(machine(proc__self__cgroup=f"4:memory:/b\n3:{mount}:/a\n", **files)) == cores


def test_a_container_that_sees_its_own_group_as_the_root_has_its_quota(machine):
    root = machine(proc__self__cgroup="0::/../outer/0123\n", sys__fs__cgroup__cpu_DOT_max="400000 100000\n")
    assert usable_cores(root) == 4
