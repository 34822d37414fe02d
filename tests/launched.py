"""What launchers start: `launched.py FAULT RANK audit CONFIG ...` is `hf-mia audit`, in which one rank may fail."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from trials import faulty

from hf_mia.cli.main import app

if __name__ == "__main__":
    torch.set_num_threads(1)
    faulty(sys.argv[1], mine=os.environ.get("RANK", "0") == sys.argv[2])
    app(sys.argv[3:])
