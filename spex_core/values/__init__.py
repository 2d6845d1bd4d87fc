"""Value functions that ship: what a mask means for one kind of input."""
