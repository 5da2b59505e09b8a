"""HTTP routes by noun: decode, call the engine, encode.  Each file has a ROUTES table."""
