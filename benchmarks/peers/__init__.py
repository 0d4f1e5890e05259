"""Our methods beside those that people use, in one process: the same items, budgets and grids, speeds in turns."""

from benchmarks.peers import mended

mended.torchvision()
