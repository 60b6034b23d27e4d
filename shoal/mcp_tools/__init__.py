"""The tools that assistants call by MCP, over whatever answers: a server, or an index in this process.

The SDK (`mcp`) comes with the extra of its name and is imported by `server` alone.
"""
