"""The messages that the command line does without, each with the reason."""

from __future__ import annotations

import logging
import warnings


def quiet() -> None:
    """Silence what Lightning says on every run and what does not matter here."""
    # "GPU available", tips for other products, "Restoring states": all at level INFO.
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        for module in ("utilities.rank_zero", "utilities.seed"):
            logging.getLogger(f"{name}.{module}").setLevel(logging.WARNING)
    # The digits are a tensor in memory: worker processes would only slow the loading down.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning calls jsonargparse by names that are going out of use.
    warnings.filterwarnings("ignore", message=r"\s*By default only one Jsonargparse")
    warnings.filterwarnings("ignore", message=r"\s*.* (was|were) deprecated in v4\.49\.0")
    # On resuming, into a new folder: said in words of our own, above.
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    # Lightning asks torch about its trees in an old way.
    warnings.filterwarnings("ignore", message=r".isinstance.treespec, LeafSpec.. is deprecated")
