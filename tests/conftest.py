"""Before anything else: `pmm` sets how OpenMP's threads wait, which counts only if torch is loaded later."""

import pmm  # noqa: F401
