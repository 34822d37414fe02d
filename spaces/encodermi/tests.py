"""The metric's test cases, true of every encoder: images that show the same get the same score."""

from PIL import Image

test_cases = [
    {
        "predictions": [Image.new("RGB", (8, 8), "red")] * 4,
        "references": [1, 1, 0, 0],
        "result": {"auc": 0.5, "attack": "encodermi-t", "n": 4},
    },
    {
        "predictions": [Image.new("RGB", (8, 8), "red"), Image.new("L", (8, 8), 100)],
        "references": None,
        "result": {"names": ["image 000000", "image 000001"], "attack": "encodermi-t"},
    },
]
