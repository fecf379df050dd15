"""Watch prompt gradients conflict, and see where the tuned model looks."""
import sys

if sys.version_info < (3, 11): raise ImportError(f"prograd_viz needs Python 3.11 or newer, this is {sys.version_info[0]}.{sys.version_info[1]}")

__version__ = "0.2.0"
