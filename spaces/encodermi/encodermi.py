"""The metric that `evaluate.load` finds in this Space: EncoderMI, which images a vision encoder was trained on."""

from hf_mia.metric import EncoderMI as EncoderMI
