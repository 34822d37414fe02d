"""The metric that `evaluate.load` finds in this Space: membership inference from scores."""

from hf_mia.metric import MembershipInference as MembershipInference
