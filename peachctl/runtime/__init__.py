"""All that exists in the workflow's own process. A script imports `literal`, `node`, `output` and `run` from here."""

from peachctl.runtime.records import Call, Graph, Literal, Output, literal, node, output

__all__ = ["Call", "Graph", "Literal", "Output", "literal", "node", "output", "run"]


def run(graph: Graph) -> None:
    """Runs the workflow: `graph` maps node ids to what `node` returned.

    Takes its job from the environment, or, where a person started the script, from the configuration. Returns when
    all nodes succeeded; else raises SystemExit with status 3 (a node failed or was skipped), 1 (the graph itself is
    wrong, said on stderr) or 130 (interrupted).
    """
    from peachctl.runtime.graph import run_graph

    status = run_graph(graph)
    if status:
        raise SystemExit(status)
