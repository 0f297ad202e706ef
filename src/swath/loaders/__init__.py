"""Windows and batches as other frameworks want them: one module for each, which needs it installed (``pip install 'swath[torch]'``).

``swath.loaders.torch``, ``swath.loaders.keras`` and ``swath.loaders.jax`` say in their own words what `RowArray.batches` and
`RowArray.gather` do, and read by nothing else. `import swath` loads none of them.
"""
