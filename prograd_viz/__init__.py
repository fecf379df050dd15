"""Watch prompt gradients conflict, and see where the tuned model looks."""
import sys

if sys.version_info < (3, 11):
    raise ImportError("prograd_viz needs Python 3.11 or newer, this is %d.%d" % sys.version_info[:2])

__version__ = "0.2.0"
