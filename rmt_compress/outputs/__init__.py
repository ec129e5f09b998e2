"""Outputs: refused where they would destroy something, whole or not there, with nothing left beside them."""

from rmt_compress.outputs.placing import afterwards, make_folder, replacing, replacing_folder, together
from rmt_compress.outputs.refusing import check_new_folder, check_output, check_output_folder

__all__ = [
    "afterwards",
    "check_new_folder",
    "check_output",
    "check_output_folder",
    "make_folder",
    "replacing",
    "replacing_folder",
    "together",
]
