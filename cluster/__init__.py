"""How Shoal is run: configurations of clusters, a local cluster, and the demo."""
