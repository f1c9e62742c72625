"""What Envoy may take of this machine: what the system allows, and no more than it is given."""

import resource
from pathlib import Path

from igw_operator.machine import memory, open_files


def test_children_may_open_as_many_files_as_the_system_allows() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = open_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (found, most)
    assert most in (found, resource.RLIM_INFINITY)


def test_memory_is_the_machines_or_what_a_control_group_leaves_of_it(tmp_path: Path) -> None:
    everything = memory(())
    unlimited, limited, absent = tmp_path / "max", tmp_path / "limited", tmp_path / "absent"
    unlimited.write_text("max\n")
    limited.write_text(f"{everything // 2}\n")
    assert memory((unlimited, absent)) == everything
    assert memory((unlimited, limited)) == everything // 2
