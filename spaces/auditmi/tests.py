"""The metric's test cases, true of every model: whoever wrote the same gets the same score."""

test_cases = [
    {
        "predictions": ["one text", "one text", "one text", "one text"],
        "users": ["Ann", "Bob", "Cem", "Dia"],
        "references": [1, 1, 0, 0],
        "result": {"auc": 0.5, "names": ["Ann", "Bob", "Cem", "Dia"], "attack": "mean-rank", "n": 4},
    },
    {
        "predictions": ["one text", "another", "another", "one text"],
        "users": ["Bob", "Ann", "Bob", "Ann"],
        "references": None,
        "result": {"names": ["Ann", "Bob"], "attack": "mean-rank"},
    },
]
