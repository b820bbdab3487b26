"""What scgim keeps in an AnnData: one record for each preparation and fit, read and checked in one place."""

from .cells import cell_hashes, unknown_cells
from .counts import Measured, check_counts
from .entry import Entry, Part, dense
from .foreign import owned, refuse_foreign
from .read import groups_of, read_entry
from .record import checksum, open_record, seal
from .write import clear, detach, drop_fit, write_prepared

__all__ = [
    "Entry",
    "Measured",
    "Part",
    "cell_hashes",
    "check_counts",
    "checksum",
    "clear",
    "dense",
    "detach",
    "drop_fit",
    "groups_of",
    "open_record",
    "owned",
    "read_entry",
    "refuse_foreign",
    "seal",
    "unknown_cells",
    "write_prepared",
]
