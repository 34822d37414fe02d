"""The interactive page: ask a finished audit about texts or an image, and judge scores. Gradio is the extra `app`."""
