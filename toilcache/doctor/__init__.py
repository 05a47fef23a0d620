"""The room of `toilcache doctor`: whether this node can run workflows, and what to change if not."""
