"""`python -m e2e.kube`: bring the test cluster up and down by hand."""

import sys

import click

from e2e.cache import MissingError
from e2e.images import CACHENODE, OPERATOR
from e2e.kube import cluster


@click.group()
def main() -> None:
    """A real Kubernetes on this machine, for the end-to-end tests."""


@main.command()
@click.option("--control-plane", is_flag=True, help="No node: needs neither root nor a container runtime.")
def up(control_plane: bool) -> None:
    """Start the cluster; print the path of its kubeconfig."""
    click.echo(cluster.up(with_node=not control_plane))


@main.command()
def down() -> None:
    """End the cluster and forget it; binaries and images are kept."""
    cluster.down()


@main.command()
def status() -> None:
    """Say what runs."""
    cluster.status()


@main.command()
@click.argument("images", nargs=-1, type=click.Choice([CACHENODE, OPERATOR]))
def load(images: tuple[str, ...]) -> None:
    """Build images of this repository and give them to the node; all of them unless named."""
    cluster.load(*(images or (CACHENODE, OPERATOR)))


try:
    main(prog_name="python -m e2e.kube")
except MissingError as error:
    sys.exit(str(error))
