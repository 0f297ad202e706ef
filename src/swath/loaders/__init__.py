"""Batches, and windows by number, as frameworks want them: one module for each, which needs it (``pip install 'swath[torch]'``).

`swath.loaders.torch`, `swath.loaders.keras`, `swath.loaders.jax` and `swath.loaders.grain` read by `RowArray.batches` and
`RowArray.gather`, and by nothing else. ``import swath`` loads none of them.
"""
