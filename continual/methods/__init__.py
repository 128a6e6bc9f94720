"""Methods against forgetting, one short file each, as Avalanche plugins."""
