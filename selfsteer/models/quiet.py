"""One voice on the terminal."""

from __future__ import annotations


def quiet() -> None:
    """Leave the terminal to the run's own display: transformers' bars and advice off, its errors on."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
