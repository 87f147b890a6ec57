"""Parts of the verification suite for what lives here: data, diagnosis, tuning, early stopping.

`verification` may not import this package, so it finds them by their entry points.
"""
