"""How Shoal is run: configurations of clusters, a local cluster, and the demo."""

from shoal.cli.errors import check_program

check_program()
