"""fportrait: from portrait captures to a controllable portrait-animation model.

Importing the package is free: it pulls in neither torch nor any orchestrator. Import the subpackage you need.
"""

__version__ = "0.2.0"
