"""How Shoal is run: configurations of clusters, a local cluster, and the demo."""

from shoal.cli.installation import check_program

check_program()
