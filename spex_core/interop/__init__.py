"""Bridges to other libraries: `interop.shapiq` and `interop.spectralexplain`, as they are used, and
`interop.games`, value functions as others call them. Nothing optional is imported before that."""
