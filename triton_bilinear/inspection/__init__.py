"""What a training step launches and what that costs, found out from plain data and the compiler: no GPU is touched."""
