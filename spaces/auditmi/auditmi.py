"""The metric that `evaluate.load` finds in this Space: AuditMI, which users' texts a language model was trained on."""

from hf_mia.metric import AuditMI as AuditMI
