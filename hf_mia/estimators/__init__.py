"""Estimators with scikit-learn's interface that scikit-learn does not have."""
