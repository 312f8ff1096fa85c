"""The Switch Transformers model, written to be traced: what the two graphs compute."""
