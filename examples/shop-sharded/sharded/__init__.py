"""The example shop with its orders in shards: the code of ../shop, and what its owner changes in it."""
