"""`python -m hf_mia`: the command line, in the form that `torchrun -m hf_mia` and `accelerate launch -m` want."""

from hf_mia.cli.main import app

app(prog_name="hf-mia")
