"""Sets how long OpenMP's threads spin before they sleep. Must run before torch starts them.

By default the threads of libgomp, which torch uses on Linux, spin for about a millisecond between two operations. On a
busy machine they block the very work they wait for: on two cores shared with other processes, training is 1.2 to 2.5
times as fast if they sleep early. On an idle machine this costs 3 % with the paper's networks and 9 % with tiny ones
(`python benchmarks/beside_load.py waiting`). That is little, so it is always set and not made to depend on the load,
which changes during a training. Other OpenMP libraries ignore the setting.
"""

import os
import sys
from collections.abc import MutableMapping

SPIN_COUNT = "1000"  # rounds of libgomp's waiting loop; its default is 300,000
OWN_SETTINGS = ("OMP_", "GOMP_", "KMP_")  # prefixes of variables with which users configure threads


def set_spin_count(environment: MutableMapping[str, str]) -> None:
    """Make threads spin briefly, unless the user has configured OpenMP or torch is already imported."""
    if "torch" not in sys.modules and not any(name.startswith(OWN_SETTINGS) for name in environment):
        environment["GOMP_SPINCOUNT"] = SPIN_COUNT


def describe() -> str:
    """OpenMP's settings for the log, such as "GOMP_SPINCOUNT=1000"."""
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(OWN_SETTINGS))
    return " ".join(settings) or "OpenMP as torch has it"
