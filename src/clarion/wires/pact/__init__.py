"""The wire of seeds/0: four MCP tools, and a push side channel over server-sent events beside them."""

from clarion.wires.pact.channel import PUSH_PATH, PactFraming, push_endpoint
from clarion.wires.pact.tools import push_tools

__all__ = ["PUSH_PATH", "PactFraming", "push_endpoint", "push_tools"]
