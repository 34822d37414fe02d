"""The metric's test cases: inputs, and some of what must come out, counted by hand."""

test_cases = [
    {
        "predictions": [0.9, 0.8, 0.4, 0.7, 0.3, 0.2, 0.1],
        "references": [1, 1, 1, 0, 0, 0, 0],
        "settings": {"fpr": [0.25], "threshold": 0.4},
        "result": {"auc": 11 / 12, "tpr@0.25": 1.0, "accuracy": 6 / 7, "precision": 3 / 4, "recall": 1.0, "n": 7},
    },
    {
        "predictions": [0.9, 0.8, 0.2, 0.1],
        "references": [1, 1, 0, 0],
        "settings": {},
        "result": {"auc": 1.0, "members": 2, "non_members": 2},
    },
    {
        "predictions": [0.5, 0.5, 0.5, 0.5],
        "references": [True, True, False, False],
        "settings": {"fpr": [0.5]},
        "result": {"auc": 0.5, "tpr@0.5": 0.0},
    },
    {
        "predictions": [0.1, 0.2, 0.8, 0.9],
        "references": [1, 1, 0, 0],
        "settings": {"threshold": 0.5},
        "result": {"auc": 0.0, "advantage": -1.0},
    },
]
