"""How long OpenMP's threads spin before they sleep, set before torch starts them.

Between two operations the threads of libgomp, which torch uses on Linux, spin for about a millisecond by default.
Beside other work they thereby take the very cores they wait for: on two cores with busy neighbours, training is 1.2 to
2.5 times as fast if they sleep early. On an idle machine that costs 3 % with the paper's networks and 9 % with tiny
ones (`python benchmarks/beside_load.py waiting`), little enough not to ask for the load, which changes while a training
runs. Other OpenMP libraries don't know the setting.
"""

import os
import sys
from collections.abc import MutableMapping

SPIN_COUNT = "1000"  # rounds of libgomp's waiting loop; its own default is 300,000
OWN_SETTINGS = ("OMP_", "GOMP_", "KMP_")  # prefixes of variables by which a user decides about threads


def set_spin_count(environment: MutableMapping[str, str]) -> None:
    """Let threads spin briefly, unless the user has decided about OpenMP or torch has started already."""
    if "torch" not in sys.modules and not any(name.startswith(OWN_SETTINGS) for name in environment):
        environment["GOMP_SPINCOUNT"] = SPIN_COUNT


def describe() -> str:
    """The settings of OpenMP in force, for the log: "GOMP_SPINCOUNT=1000"."""
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(OWN_SETTINGS))
    return " ".join(settings) or "OpenMP as torch has it"
