"""The provider simulator: OpenAI and Anthropic over HTTP, with faults and an exact bill.

It is the referee of the money tests, so it shares no code with what it judges: of the project it imports
the model registry alone, for names and prices.
"""
