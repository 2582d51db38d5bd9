"""A box's network: address blocks, its namespace and veth pair, and the packet filter around all boxes."""
