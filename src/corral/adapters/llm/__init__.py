"""Language models: the port, one file for each way to reach one, the response cache, budgets, and the test double.

The port is ``corral.adapters.llm.port``; ``corral.adapters.llm.choose.open_model`` turns a setting such as
``anthropic:NAME`` into something that answers it. Nothing here is imported by ``import corral``.
"""
