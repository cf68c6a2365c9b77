"""Every trick by which a convolution or a pool is computed, and what of it is kept; imports nothing of `nets/`."""
