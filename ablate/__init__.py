"""Fair ablations of deep networks.

import ablate

result = ablate.sweep(train, axes={"norm": ["layer", "rms"]}, tune={"lr": ablate.log(1e-4, 1e-1)},
                      objective="val_loss", direction="min", baseline="layer")
result.table
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ablate.version import __version__ as __version__

if TYPE_CHECKING:
    from ablate.api import Result as Result
    from ablate.api import between as between
    from ablate.api import load as load
    from ablate.api import log_between as log
    from ablate.api import run_file as run_file
    from ablate.api import sweep as sweep

__all__ = ["Result", "__version__", "between", "load", "log", "run_file", "sweep"]

_NAMES = {name: name for name in __all__ if name != "__version__"} | {"log": "log_between"}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that `import ablate` is quick."""
    if name not in _NAMES:
        raise AttributeError(f"module 'ablate' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module("ablate.api"), _NAMES[name])


def __dir__() -> list[str]:
    return __all__
