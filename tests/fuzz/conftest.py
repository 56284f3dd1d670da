"""How many examples are tried: the same few ones in every test run, many new ones with ``make fuzz``."""

import os

from hypothesis import HealthCheck, settings

SHARED = {"deadline": None, "database": None, "print_blob": True, "suppress_health_check": list(HealthCheck)}

settings.register_profile("few", derandomize=True, max_examples=40, **SHARED)
settings.register_profile("many", max_examples=int(os.environ.get("FUZZ_EXAMPLES", "2000")), **SHARED)
settings.load_profile("many" if "FUZZ_EXAMPLES" in os.environ else "few")
